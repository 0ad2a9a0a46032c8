"""Paths: equal to full forwards with all else frozen, their sum on a linear model, planted circuits, exact nulls."""

from __future__ import annotations

from typing import Any

import micro_dit
import numpy as np
import pytest
import torch
from micro_dit import MicroDiT, set_by_hand
from path_pairs import END, STEP, along, micro_pair, pair, planted
from small_models import build
from torch import Tensor

from dit_lens import edits, families, laws
from dit_lens.circuits import (
    CircuitPart,
    ablate_circuit,
    circuit,
    faithfulness,
    parts_before,
    parts_of,
    patch_paths,
    stream_read,
)
from dit_lens.interventions import Intervention
from dit_lens.interventions.effects import run
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, VelocityProjection
from dit_lens.patching import patch_heads, patch_writes
from dit_lens.running import Evaluation, Request


@pytest.fixture(scope="module")
def metric() -> Readout:
    return along(torch.randn(128, generator=torch.Generator().manual_seed(0)))


def literally(
    lens: DiTLens, clean: Evaluation, corrupted: Evaluation, metric: Metric, sender: str, receiver: str
) -> Tensor:
    """One path by full forwards: the sender clean, all writes but its own frozen; then the receiver alone as it was."""
    part = CircuitPart.of(sender)
    frozen = [name for name in lens.table.points if name.endswith("_out") and name.startswith("blocks.")]
    frozen = [name for name in frozen if name.count(".") == 2 and name != part.write]
    end = CircuitPart.of(receiver).point if receiver != "readout" else "hook_velocity"
    with torch.no_grad():
        _, source = lens.model.run(clean, Request([part.point]))
        velocity, cache = lens.model.run(corrupted, Request([*frozen, *metric.points]))
        before = metric.bind(*[run(lens, e, [metric]) for e in (clean, corrupted)])
        hooks: list[Any] = [(name, edits.patch(cache[name])) for name in frozen if name != end]
        with lens.hooks([(part.point, edits.patch(source[part.point], part.heads)), *hooks]):
            after, after_cache = lens.model.run(corrupted, Request([end, *metric.points]))
        if receiver != "readout":
            with lens.hooks([(end, edits.patch(after_cache[end], CircuitPart.of(receiver).heads))]):
                after, after_cache = lens.model.run(corrupted, Request(list(metric.points)))
        return before(after, after_cache) - before(velocity, cache)


@pytest.mark.parametrize("of", ["point", "velocity"])
def test_a_path_is_what_full_forwards_with_all_else_frozen_tell(lens: DiTLens, metric: Readout, of: str) -> None:
    clean, corrupted = pair(lens)
    measured = metric if of == "point" else VelocityProjection()
    senders = ["0.1", "mlp 1", "2.3", "attn 0", "cross_attn 2"]
    receivers = ["readout", "1.2.q", "2.0.k", "3.1.v", "2.2", "mlp 0", "mlp 2", "cross_attn 1"]
    table = patch_paths(lens, clean, corrupted, [STEP], measured, senders, receivers)
    assert dict(table.effect.sizes) == {"clip": 2, "step": 1, "sender": 5, "receiver": 8}
    forward = table.effect.notnull().all(["clip", "step"])
    slow = {
        (s, r): literally(lens, clean[STEP], corrupted[STEP], measured, s, r)
        for s, r in (("0.1", "readout"), ("0.1", "1.2.q"), ("mlp 1", "2.0.k"), ("2.3", "3.1.v"), ("attn 0", "2.2"),
                     ("attn 0", "mlp 0"), ("cross_attn 2", "mlp 2"), ("0.1", "cross_attn 1"))
    }  # fmt: skip
    for (sender, receiver), effect in slow.items():
        assert forward.sel(sender=sender, receiver=receiver)
        fast = torch.from_numpy(table.effect.sel(step=STEP, sender=sender, receiver=receiver).values)
        torch.testing.assert_close(fast, effect, rtol=1e-4, atol=1e-5)
        assert effect.abs().max() > 1e-5
    backward = {("mlp 1", "1.2.q"), ("2.3", "2.2"), ("2.3", "mlp 0"), ("cross_attn 2", "cross_attn 1")}
    assert not any(forward.sel(sender=sender, receiver=receiver) for sender, receiver in backward)


@pytest.mark.parametrize("name", ["cogvideox", "hunyuan"])
def test_the_last_write_has_no_way_but_to_the_readout(name: str) -> None:
    """In other families too: what the last block's write tells the readout is all that it does."""
    lens: Any = DiTLens(transformer=build(name), verify=False)
    at, last = laws.example(lens.model.members[0]), lens.blocks - 1
    inputs = {k: x.flip(-1) if isinstance(x, Tensor) and x.ndim == 5 else x for k, x in at.inputs.items()}
    clean = {0: Evaluation(inputs, at.step, at.sigma, at.expert)}
    end = f"blocks.{last}.hook_resid_post"
    metric = Readout(lambda v, cache: cache[end].flatten(1)[:, ::5].sum(1), (end,))
    paths = patch_paths(lens, clean, {0: at}, [0], metric, [f"mlp {last}", "0.0"], ["readout", f"{last}.1.v"])
    whole = (
        patch_writes(lens, clean, {0: at}, [0], metric, writes=["mlp_out"])
        .effect.sel(block=last, region="all")
        .squeeze()
    )
    np.testing.assert_allclose(paths.effect.sel(sender=f"mlp {last}", receiver="readout").squeeze(), whole, rtol=1e-3)
    assert abs(whole) > 1e-3 and paths.effect.sel(sender="0.0").notnull().all()


# The micro DiT, in float64.


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> DiTLens:
    monkeypatch.setattr(families, "FAMILIES", (micro_dit.FAMILY, *families.FAMILIES))
    return DiTLens(transformer=set_by_hand(MicroDiT()))


def sums_and_totals(lens: DiTLens) -> tuple[np.ndarray, np.ndarray]:
    """Of the parts of block 0: paths to all that reads the stream behind them, added up; and whole effects."""
    metric = Readout(lambda velocity, cache: velocity[:, 0].flatten(1) @ torch.arange(12.0).double())
    clean, corrupted = micro_pair(lens)
    receivers = ["mlp 0", "1.0", "1.1", "mlp 1", "readout"]
    paths = patch_paths(lens, clean, corrupted, [0], metric, ["0.0", "0.1", "mlp 0"], receivers).effect
    heads = patch_heads(lens, clean, corrupted, [0], metric).effect.sel(block=0)
    mlp = patch_writes(lens, clean, corrupted, [0], metric, writes=["mlp_out"]).effect.sel(block=0, region="all")
    whole = np.concatenate([heads.values[:, 0], mlp.values[:, 0]], axis=1)
    return paths.sum("receiver").values[:, 0], whole


def test_on_a_linear_model_paths_add_up_to_the_whole_effect(micro: DiTLens) -> None:
    """Its attention weights depend on the marker alone; with its hidden units always on, nothing else is nonlinear."""
    with torch.no_grad():
        for block in micro.transformer.blocks:
            block.mlp[0].bias += 100
    sums, whole = sums_and_totals(micro)
    np.testing.assert_allclose(sums, whole, rtol=1e-10, atol=1e-10)
    assert np.abs(whole).min() > 1e-3


def test_where_hidden_units_switch_paths_do_not_add_up(micro: DiTLens) -> None:
    sums, whole = sums_and_totals(micro)
    assert np.abs(sums - whole).max() > 0.1


# A planted circuit.


def test_a_planted_circuit_is_found_first_and_nothing_else(codec: Any) -> None:
    lens, metric = planted(codec)
    clean, corrupted = pair(lens)
    receivers = ["readout", *(f"{b}.{h}.{x}" for b in (1, 2, 3) for h in (0, 2) for x in "qkv"), "mlp 2"]
    effects = patch_paths(lens, clean, corrupted, [STEP], metric, parts_before(lens, metric), receivers).effect
    sizes_of_paths = np.abs(effects.mean(["clip", "step"]))
    assert set(circuit(sizes_of_paths, top=2)) == {("1.2", "3.0.v"), ("3.0", "readout")}
    sizes = np.sort(sizes_of_paths.values[sizes_of_paths.notnull().values])
    assert sizes[-3] < 1e-4 * sizes[-2]
    assert set(parts_of(circuit(sizes_of_paths, threshold=2 * float(sizes[-3])))) == {"1.2", "3.0"}


def test_a_planted_circuit_keeps_all_of_the_metric_and_takes_all_of_it_away(codec: Any) -> None:
    lens, metric = planted(codec)
    clean, _ = pair(lens, clips=4)
    donors = torch.tensor([1, 2, 3, 0])
    table = ablate_circuit(lens, clean, [STEP], metric, ["1.2", "3.0"], donors, draws=6)
    whole, value = table.whole.values, table.value.sel(circuit="found")
    np.testing.assert_allclose(value.sel(resampled="the rest"), whole, atol=1e-5)
    assert np.abs(value.sel(resampled="the circuit") - whole).max() > 0.01
    random = table.value.sel(resampled="the rest").drop_sel(circuit="found")
    assert (
        dict(random.sizes) == {"clip": 4, "step": 1, "circuit": 6} and float(np.abs(random - table.whole).max()) > 0.01
    )


def test_resampling_from_oneself_changes_nothing(lens: DiTLens, metric: Readout) -> None:
    clean, _ = pair(lens, clips=3)
    for donors, changed in ((torch.arange(3), False), (torch.tensor([1, 2, 0]), True)):
        table = ablate_circuit(lens, clean, [STEP], metric, ["1.2", "mlp 2"], donors, draws=2)
        far = float(np.abs(table.value - table.whole).max())
        assert far > 1e-3 if changed else far == 0


def test_a_random_circuit_has_as_many_of_each_kind(lens: DiTLens, metric: Readout, monkeypatch: Any) -> None:
    interventions: list[Intervention] = []
    monkeypatch.setattr(
        faithfulness, "Intervention", lambda *args: (interventions.append(Intervention(*args)), interventions[-1])[1]
    )
    ablate_circuit(lens, pair(lens)[0], [STEP], metric, ["1.2", "0.0", "mlp 2"], torch.tensor([1, 0]), draws=3)
    assert [len(each.edits) for each in interventions] == [4 * 4 + 4 - 3, 3] * 4
    random = [sorted(point for point, _ in each.edits) for each in interventions[3::2]]
    assert all(sum(name.endswith("mlp_out") for name in names) == 1 for names in random)
    assert len({str(names) for names in random}) > 1


# Nulls and errors.


def test_a_clip_patched_with_itself_gives_exactly_zero(lens: DiTLens, metric: Readout) -> None:
    _, corrupted = pair(lens)
    table = patch_paths(lens, corrupted, corrupted, [STEP], metric, ["0.1", "mlp 1"], ["readout", "2.0.q", "3.1.v"])
    assert not table.effect.any() and table.effect.notnull().all() and not table.total.any()


def test_the_stream_read_is_the_last_before_the_receiver(lens: DiTLens, metric: Readout) -> None:
    assert stream_read(lens, "3.1.v", metric) == "blocks.3.hook_resid_pre"
    assert stream_read(lens, "mlp 3", metric) == "blocks.3.hook_resid_mid_cross_attn"
    assert stream_read(lens, "readout", metric) == END
    assert stream_read(lens, "readout", VelocityProjection()) == "blocks.5.hook_resid_post"
    assert parts_before(lens, metric)[:6] == ["0.0", "0.1", "0.2", "0.3", "mlp 0", "1.0"]
    assert len(parts_before(lens, metric)) == 20 and len(parts_before(lens, VelocityProjection())) == 30


@pytest.mark.parametrize(
    ("senders", "receivers", "says"),
    [
        (["0.1.v"], ["readout"], "writes nothing"),
        (["readout"], ["readout"], "writes nothing"),
        (["0-1"], ["readout"], "got part '0-1'"),
        (["3.1"], ["2.1.v"], "no path forward"),
    ],
)
def test_bad_parts_are_refused(
    lens: DiTLens, metric: Readout, senders: list[str], receivers: list[str], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        patch_paths(lens, *pair(lens), [STEP], metric, senders, receivers)


def test_runs_and_metrics_that_do_not_fit_are_refused(lens: DiTLens, metric: Readout) -> None:
    clean, corrupted = pair(lens)
    with pytest.raises(KeyError, match="mlpp"):
        patch_paths(lens, clean, corrupted, [STEP], metric, ["mlpp 1"], ["readout"])
    two = Readout(lambda v, cache: cache[END].sum((1, 2)), (END, "blocks.2.hook_resid_post"))
    with pytest.raises(ValueError, match="expected one point"):
        patch_paths(lens, clean, corrupted, [STEP], two, ["0.1"], ["readout"])
    with pytest.raises(ValueError, match="3 clean and 2 corrupted"):
        patch_paths(lens, pair(lens, 3)[0], corrupted, [STEP], metric, ["0.1"], ["readout"])
    with pytest.raises(ValueError, match=r"'5\.0' in a circuit"):
        ablate_circuit(lens, clean, [STEP], metric, ["5.0"], torch.tensor([1, 0]))
