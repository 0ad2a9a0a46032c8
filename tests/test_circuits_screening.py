"""A screen of paths: exact on a linear model and to first order on any, a planted path first, how well it ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import micro_dit
import numpy as np
import pytest
import torch
import xarray as xr
from micro_dit import MicroDiT, set_by_hand
from path_pairs import END, STEP, along, micro_pair, pair, planted
from small_models import build
from torch import Tensor

from dit_lens import edits, families, laws
from dit_lens.circuits import agreement, circuit, parts_before, patch_edges, patch_paths, screen_paths, screened_paths
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout, VelocityProjection
from dit_lens.running import Evaluation, Request

LINEAR = Readout(lambda velocity, cache: velocity[:, 0].flatten(1) @ torch.arange(12.0).double())


@pytest.fixture(scope="module")
def metric() -> Readout:
    return along(torch.randn(128, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> DiTLens:
    monkeypatch.setattr(families, "FAMILIES", (micro_dit.FAMILY, *families.FAMILIES))
    return DiTLens(transformer=set_by_hand(MicroDiT()))


def both(lens: DiTLens, shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and effects of every path of the micro model."""
    clean, corrupted = micro_pair(lens)
    ends = ["0.0", "0.1", "mlp 0", "1.0", "1.1"], ["mlp 0", "1.0", "1.1", "mlp 1", "readout"]
    estimate = screen_paths(lens, clean, corrupted, [0], LINEAR, *ends, shares=shares)
    return estimate.values, patch_paths(lens, clean, corrupted, [0], LINEAR, *ends).effect.values


@pytest.mark.parametrize("shares", [(0.0,), (0.3,), (0.1, 0.5, 0.9)])
def test_on_a_linear_model_the_screen_is_the_exact_effect_of_every_path(
    micro: DiTLens, shares: tuple[float, ...]
) -> None:
    with torch.no_grad():
        for block in micro.transformer.blocks:
            block.mlp[0].bias += 100  # hidden units are always on
    estimate, effect = both(micro, shares)
    np.testing.assert_allclose(estimate, effect, rtol=1e-10, atol=1e-10)
    assert np.isnan(effect).sum() and (np.abs(effect[~np.isnan(effect)]) > 1e-3).sum() > 3 * 12


def test_where_hidden_units_switch_it_is_an_estimate(micro: DiTLens) -> None:
    estimate, effect = both(micro, (0.0,))
    assert np.nanmax(np.abs(estimate - effect)) > 0.01
    np.testing.assert_array_equal(np.isnan(estimate), np.isnan(effect))


def near(at: Evaluation, share: float) -> Evaluation:
    """The evaluation of latents a little off."""

    def moved(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim != 5:
            return x
        return x + share * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))

    return replace(at, inputs={name: moved(x) for name, x in at.inputs.items()})


@pytest.mark.parametrize("of", ["point", "velocity"])
def test_close_to_the_corrupted_run_it_is_the_exact_effect(lens: DiTLens, metric: Readout, of: str) -> None:
    measured = metric if of == "point" else VelocityProjection()
    _, corrupted = pair(lens)
    clean = {STEP: near(corrupted[STEP], 0.1)}
    senders = ["0.1", "mlp 1", "2.3", "attn 0", "cross_attn 2"]
    receivers = ["readout", "1.2.q", "2.0.k", "3.1.v", "2.2", "mlp 2", "cross_attn 1"]
    effect = patch_paths(lens, clean, corrupted, [STEP], measured, senders, receivers).effect
    estimate = screen_paths(lens, clean, corrupted, [STEP], measured, senders, receivers, shares=(0.0,))
    off = estimate - effect
    for receiver in receivers:  # each by itself: no receiver's gradient is another's
        size = float(np.sqrt((effect.sel(receiver=receiver) ** 2).sum()))
        assert float(np.sqrt((off.sel(receiver=receiver) ** 2).sum())) < 0.05 * size, receiver


@pytest.mark.parametrize("name", ["cogvideox", "hunyuan", "skyreels"])
def test_in_other_families_too(name: str) -> None:
    lens: Any = DiTLens(transformer=build(name), verify=False)
    at, last = laws.example(lens.model.members[0]), lens.blocks - 1
    end = f"blocks.{last}.hook_resid_post"
    metric = Readout(lambda v, cache: cache[end].flatten(1)[:, ::5].sum(1), (end,))
    senders, receivers = ["0.0", "0.1", "mlp 0"], ["readout", f"{last}.1.v", f"{last}.0.q", f"mlp {last}"]
    clean, corrupted = {0: near(at, 0.01)}, {0: at}
    effect = patch_paths(lens, clean, corrupted, [0], metric, senders, receivers).effect
    estimate = screen_paths(lens, clean, corrupted, [0], metric, senders, receivers, shares=(0.0,))
    size = float(np.sqrt(np.nansum(effect**2)))
    assert float(np.sqrt(np.nansum((estimate - effect) ** 2))) < 0.1 * size and size > 1e-4
    np.testing.assert_array_equal(np.isnan(estimate), np.isnan(effect))


# A planted circuit.


def everywhere(lens: DiTLens) -> list[str]:
    heads = [f"{block}.{head}.{taken}" for block in range(1, 4) for head in range(lens.heads) for taken in "qkv"]
    return ["readout", *heads, *(f"mlp {block}" for block in range(4))]


def test_planted_paths_are_ranked_first(codec: Any) -> None:
    lens, metric = planted(codec)
    estimates = screen_paths(lens, *pair(lens), [STEP], metric, parts_before(lens, metric), everywhere(lens))
    sizes_of_paths = abs(estimates.mean(["clip", "step"], skipna=False))
    assert set(circuit(sizes_of_paths, top=2)) == {("1.2", "3.0.v"), ("3.0", "readout")}
    sizes = np.sort(sizes_of_paths.values[sizes_of_paths.notnull().values])
    assert sizes[-3] < 1e-4 * sizes[-2]


def test_a_screened_sweep_patches_the_first_paths_and_a_sample(codec: Any) -> None:
    lens, metric = planted(codec)
    runs, ends = pair(lens), (parts_before(lens, metric), everywhere(lens))
    table = screened_paths(lens, *runs, [STEP], metric, *ends, top=2, sample=6)
    assert int(table.verified.sum()) == 2 and int(table.sampled.sum()) == 6
    patched = table.effect.notnull().all(["clip", "step"])
    np.testing.assert_array_equal(patched, table.verified | table.sampled)
    assert bool(
        table.verified.sel(sender="1.2", receiver="3.0.v") & table.verified.sel(sender="3.0", receiver="readout")
    )
    exact = patch_paths(lens, *runs, [STEP], metric, ["1.2", "3.0"], ["3.0.v", "readout"]).effect
    for edge in (("1.2", "3.0.v"), ("3.0", "readout")):
        effects = (effect.sel(sender=edge[0], receiver=edge[1]) for effect in (table.effect, exact))
        np.testing.assert_allclose(*effects, atol=1e-6)
    assert float(np.abs(exact.sel(sender="1.2", receiver="3.0.v")).min()) > 1e-4


def test_a_metric_that_is_flat_at_the_corrupted_run_is_seen_along_the_line(codec: Any) -> None:
    """Only above the corrupted run's value does it count: a gradient there is 0, those on the way are not."""
    lens, linear = planted(codec)
    clean, corrupted = pair(lens)
    ends = [linear.function(*lens.model.run(run[STEP], Request(END))).detach() for run in (clean, corrupted)]
    sign = (ends[0] - ends[1]).sign()
    level = 0.9 * ends[1] + 0.1 * ends[0]
    metric = Readout(lambda v, cache: ((linear.function(v, cache) - level) * sign).relu(), (END,))
    blind, seeing = (
        screen_paths(lens, clean, corrupted, [STEP], metric, ["1.2", "3.0"], ["3.0.v", "readout"], shares=shares)
        for shares in ((0.0,), (0.1, 0.3, 0.5, 0.7, 0.9))
    )
    assert not blind.fillna(0).any()
    assert (np.abs(seeing.sel(sender="3.0", receiver="readout")) > 1e-4).all()


# How well it ranks.


def test_rank_agreement_is_of_the_sample_and_of_all_patched(lens: DiTLens, metric: Readout) -> None:
    table = screened_paths(
        lens, *pair(lens), [STEP], metric, parts_before(lens, metric)[:10], everywhere(lens), top=5, sample=20
    )
    assert list(table.agreement["among"].values) == ["sample", "all patched"]
    assert (table.agreement > 0.5).all() and (table.agreement <= 1).all()
    estimate, effect = (table[name].mean(["clip", "step"], skipna=False) for name in ("estimate", "effect"))
    assert agreement(-estimate, effect, table.sampled).values == pytest.approx(-table.agreement.values)
    single = xr.zeros_like(table.sampled)
    single[dict(zip(("sender", "receiver"), np.argwhere(table.sampled.values)[0], strict=True))] = True
    assert np.isnan(agreement(estimate, effect, single).sel(among="sample"))


def test_chosen_paths_are_what_all_paths_tell(lens: DiTLens, metric: Readout) -> None:
    runs, edges = pair(lens), [("0.1", "2.0.k"), ("mlp 1", "readout"), ("2.3", "1.0.v")]
    effects = patch_edges(lens, *runs, [STEP], metric, edges).effect
    whole = patch_paths(lens, *runs, [STEP], metric, effects.sender.values, effects.receiver.values).effect
    for sender, receiver in edges[:2]:
        at = {"sender": sender, "receiver": receiver}
        np.testing.assert_allclose(effects.sel(at), whole.sel(at), atol=1e-5)
    assert int(effects.notnull().all(["clip", "step"]).sum()) == 2 < int(whole.notnull().all(["clip", "step"]).sum())


# What is refused.


def test_what_cannot_be_screened(lens: DiTLens, metric: Readout) -> None:
    runs = pair(lens)
    with pytest.raises(ValueError, match="no shares"):
        screen_paths(lens, *runs, [STEP], metric, ["0.1"], ["readout"], shares=())
    with pytest.raises(ValueError, match="no path forward"):
        screen_paths(lens, *runs, [STEP], metric, ["3.1"], ["2.1.v"])
    with pytest.raises(ValueError, match="writes nothing"):
        screen_paths(lens, *runs, [STEP], metric, ["0.1.v"], ["readout"])
    with pytest.raises(KeyError, match="mlpp"):
        screen_paths(lens, *runs, [STEP], metric, ["mlpp 1"], ["readout"])
    with pytest.raises(ValueError, match="got no paths"):
        patch_edges(lens, *runs, [STEP], metric, [])
    with pytest.raises(ValueError, match="got top 0"):
        screened_paths(lens, *runs, [STEP], metric, ["0.1"], ["readout"], top=0)
    with lens.hooks([("hook_embed", edits.scale(1.0))]):
        lens.model.velocity(runs[0][STEP])
        with pytest.raises(RuntimeError, match="active hooks"):
            screen_paths(lens, *runs, [STEP], metric, ["0.1"], ["readout"])
