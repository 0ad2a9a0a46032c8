"""What the engine runs and what it does not: attention, unchanged copies, memory; and that none of it tells."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from small_models import build
from torch import Tensor

from dit_lens import DiTLens, edits, laws
from dit_lens.hook_points import Hook
from dit_lens.interventions import Intervention, Screening, sweep
from dit_lens.interventions.spill import SpillStore
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, Request, repeat

# Families whose self-attention puts out what its projection makes of z, and others.
AROUND = ("wan", "wan_i2v", "skyreels", "allegro", "ltx", "ltx2", "ltx2_gated")
THROUGH = ("cogvideox", "hunyuan", "hunyuan15", "mochi", "cosmos")


@pytest.fixture(scope="module")
def small() -> DiTLens:
    return DiTLens(transformer=build("wan"), name="small wan", verify=False)


@pytest.fixture(scope="module")
def at(small: DiTLens) -> Evaluation:
    """Of two different clips."""
    return of_clips(small, 2)


def of_clips(lens: DiTLens, clips: int) -> Evaluation:
    evaluation = repeat(laws.example(lens.model.members[0]), clips)
    latent = evaluation.inputs["hidden_states"]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    return Evaluation({**evaluation.inputs, "hidden_states": latent + noise}, evaluation.step, evaluation.sigma)


@pytest.fixture
def attended(small: DiTLens) -> Iterator[list[tuple[int, int]]]:
    """(block, rows) of every call of self-attention, by what its queries are made of."""
    calls: list[tuple[int, int]] = []

    def watch(block: int) -> Callable[..., None]:
        return lambda module, args, out: calls.append((block, len(out)))

    handles = [b.attn1.to_q.register_forward_hook(watch(i)) for i, b in enumerate(small.transformer.blocks)]
    yield calls
    for handle in handles:
        handle.remove()


def velocity_sum(velocity: Tensor, cache: object) -> Tensor:
    return velocity.flatten(1)[:, ::3].sum(1)


END = Readout(velocity_sum)


def silenced(lens: DiTLens, blocks: list[int]) -> list[Intervention]:
    """Each head of some blocks."""
    return [
        Intervention.single(f"blocks.{block}.attn.hook_z", edits.zero([head]))
        for block, head in product(blocks, range(lens.heads))
    ]


def test_attention_of_the_edited_block_is_not_run(
    small: DiTLens, at: Evaluation, attended: list[tuple[int, int]]
) -> None:
    """Two clips in every block, unchanged; then those of two heads of block 1 and one unchanged copy beside them."""
    sweep(small, at, silenced(small, [1]), {"": END})
    assert attended == [(0, 2), (1, 2), (2, 2), (2, 2 * (1 + 2))]
    attended.clear()
    sweep(small, at, [Intervention.single("blocks.1.attn.hook_q", edits.zero([head])) for head in range(2)], {"": END})
    assert attended == [(0, 2), (1, 2), (2, 2), (1, 2 * (1 + 2)), (2, 2 * (1 + 2))]


def test_copies_join_block_by_block_and_share_one_unchanged_copy(
    small: DiTLens, at: Evaluation, attended: list[tuple[int, int]]
) -> None:
    """In a later block attention is run for those that joined before, and not for those that join there."""
    sweep(small, at, silenced(small, [0, 1, 2]), {"": END})
    assert attended == [(0, 2), (1, 2), (2, 2), (1, 2 * (1 + 2)), (2, 2 * (1 + 4))]
    attended.clear()
    sweep(small, at, silenced(small, [0, 1, 2]), {"": END}, batch_size=2 * (1 + 3))
    assert attended == [(0, 2), (1, 2), (2, 2), (1, 2 * (1 + 2)), (2, 2 * (1 + 3)), (2, 2 * (1 + 1))]


def test_the_unchanged_run_goes_no_further_than_changes_that_tell(
    small: DiTLens, at: Evaluation, attended: list[tuple[int, int]]
) -> None:
    point = "blocks.1.hook_resid_post"
    metric = Readout(lambda velocity, cache: cache[point].flatten(1).norm(dim=1), (point,))
    effects = sweep(small, at, silenced(small, [1, 2]), {"": metric}).effect[""]
    assert attended == [(0, 2), (1, 2)] and effects[:, 2:].isnan().all() and (effects[:, :2] != 0).all()


@pytest.mark.parametrize("name", [*AROUND, *THROUGH])
def test_every_family_is_swept_as_by_full_forwards_and_its_nulls_are_zero(name: str) -> None:
    lens = DiTLens(transformer=build(name), verify=False)
    at = of_clips(lens, 1 if name.startswith("hunyuan") else 2)
    blocks = [*range(lens.blocks)]
    nulls = [Intervention.single(f"blocks.{block}.attn.hook_z", edits.scale(1.0)) for block in blocks]
    behind = [Intervention.single(f"blocks.{block}.hook_mlp_out", edits.scale(0.5)) for block in blocks[:2]]
    smaller = edits.scale(0.9)
    entry = [Intervention.single(point, smaller) for point in ("blocks.1.hook_resid_pre", "hook_latent")]
    several = [
        Intervention([(f"blocks.{b}.attn.hook_z", edits.scale(0.5, [1])) for b in blocks]),
        Intervention([("blocks.0.hook_mlp_out", edits.scale(0.5)), ("blocks.1.attn.hook_q", edits.scale(2.0))]),
    ]
    nulls += [
        Intervention([(f"blocks.{b}.hook_{x}", edits.scale(1.0)) for x in ("mlp_out", "resid_pre") for b in blocks])
    ]
    changes = [*silenced(lens, blocks), *behind, *entry, *several, *nulls]
    changes = [change for change in changes if {*change.points} <= {*lens.table.points}]
    fast, slow = (sweep(lens, at, changes, {"": END}, method=m).effect[""] for m in ("exact", "literal"))
    scale = slow.abs().max()
    torch.testing.assert_close(fast / scale, slow / scale, rtol=0, atol=1e-5)
    assert not fast[:, -len(nulls) :].any() and (slow[:, : -len(nulls)].abs().amin(0) > 1e-3 * scale).sum() > len(
        blocks
    )


@settings(max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(st.data())
def test_any_changes_in_any_batches_have_the_effects_of_full_forwards(
    small: DiTLens, at: Evaluation, data: st.DataObject
) -> None:
    points = [name for name, point in small.table.points.items() if point.write and name.startswith("blocks.")]
    edit = st.tuples(st.sampled_from(points), st.sampled_from([0.0, 0.5, 1.0]))
    chosen = data.draw(st.lists(st.lists(edit, max_size=4), min_size=1, max_size=6))
    changes = [Intervention([(name, edits.scale(factor)) for name, factor in pairs]) for pairs in chosen]
    read = data.draw(st.sampled_from([name for name in points if small.table.points[name].axes.startswith("b n d")]))
    metrics = {"end": END, "read": Readout(lambda v, cache: cache[read].flatten(1)[:, ::5].sum(1), (read,))}
    size = data.draw(st.integers(1, 12))
    fast, slow = (
        sweep(small, at, changes, metrics, batch_size=size),
        sweep(small, at, changes, metrics, method="literal"),
    )
    for name in metrics:
        scale = slow.before[name].abs().max().clamp_min(1)
        torch.testing.assert_close(
            fast.effect[name] / scale, slow.effect[name] / scale, rtol=1e-4, atol=1e-5, equal_nan=True
        )
        nulls = [i for i, pairs in enumerate(chosen) if all(factor == 1.0 for _, factor in pairs)]
        assert not fast.effect[name][:, nulls].nan_to_num().any()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_does_not_fit_lies_in_files_until_the_end_and_changes_no_bit(
    small: DiTLens, at: Evaluation, folder: Path
) -> None:
    met: list[int] = []

    def halved(x: Tensor, hook: Hook) -> Tensor:
        met.append(len(files(folder)))
        return 0.5 * x

    points = [f"blocks.{b}.{name}" for b in range(3) for name in ("attn.hook_z", "attn.hook_rot_q", "hook_mlp_out")]
    changes = [Intervention.single(point, halved) for point in points]
    plain = sweep(small, at, changes, {"": END}).effect[""]
    assert set(met) == {0}
    met.clear()
    spilled = sweep(small, at, changes, {"": END}, kept_bytes=0).effect[""]
    assert torch.equal(plain, spilled) and set(met) == {12} and not [*folder.iterdir()]
    met.clear()
    limit = small.model.run(at, Request("blocks.0.hook_resid_pre"))[1]["blocks.0.hook_resid_pre"].nbytes * 5
    assert torch.equal(plain, sweep(small, at, changes, {"": END}, kept_bytes=limit).effect[""])
    assert 0 < met[0] < 12 and not [*folder.iterdir()]


def test_the_files_are_gone_after_an_exception(small: DiTLens, at: Evaluation, folder: Path) -> None:
    def fails(x: Tensor, hook: Hook) -> Tensor:
        assert files(folder)
        raise ArithmeticError("of the edit")

    with pytest.raises(ArithmeticError, match="of the edit"):
        sweep(small, at, [Intervention.single("blocks.1.hook_mlp_out", fails)], {"": END}, kept_bytes=0)
    assert not [*folder.iterdir()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_spill_store_keeps_bits_and_layout(dtype: torch.dtype, folder: Path) -> None:
    x = torch.randn(2, 3, 4, 5).to(dtype).transpose(1, 2)
    with SpillStore(x.nbytes) as spill:
        assert spill.keep(x) is x and not files(folder)
        kept = spill.keep(x)
        assert torch.equal(kept, x) and kept.stride() == x.stride() and len(files(folder)) == 1
        assert files(folder)[0].stat().st_size == x.nbytes
    assert not [*folder.iterdir()]


def test_a_screened_sweep_runs_the_unchanged_copy_once_before_the_exact_ones(
    small: DiTLens, at: Evaluation, attended: list[tuple[int, int]]
) -> None:
    changes = silenced(small, [0, 1, 2])
    effects = sweep(small, at, changes, {"": END}, method=Screening(top=1, sample=0))
    (chosen,) = effects.screened[""].verified
    block = chosen // 2
    assert attended == [(0, 2), (1, 2), (2, 2), *((b, 2 * 2) for b in range(block + 1, 3))]
    exact = sweep(small, at, changes, {"": END}).effect[""]
    torch.testing.assert_close(effects.effect[""][:, [chosen]], exact[:, [chosen]])
