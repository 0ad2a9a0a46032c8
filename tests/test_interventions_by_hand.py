"""Interventions on the micro DiT against numbers worked out by hand, and their parts by themselves.

The recipient, its stream behind each block and what a change makes of it are those of `test_micro_dit`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro_dit
import pytest
import torch
from micro_dit import MicroDiT, set_by_hand
from small_models import build
from test_micro_dit import RECIPIENT, SIGMA, SOURCE
from torch import Tensor

from dit_lens import DiTLens, edits, families, laws
from dit_lens.conditioning import Conditioning
from dit_lens.flow import Solver
from dit_lens.hook_points import Hook
from dit_lens.interventions import (
    Effects,
    Intervention,
    PathEffects,
    PathSegment,
    Screening,
    clip_ids_of,
    evaluations,
    exact,
    named,
    screen,
    sweep,
    sweep_along,
    sweep_to_clip,
    tabulate,
)
from dit_lens.interventions.batching import Join, first_block, plan
from dit_lens.interventions.effects import bound, can_move, check_pair, checked, is_after, last, run
from dit_lens.interventions.intervention import resolved
from dit_lens.interventions.screening import _mixed
from dit_lens.interventions.segments import copies_at
from dit_lens.interventions.spill import SpillStore, limit_for
from dit_lens.metrics import CleanDistance, Readout, Run, VelocityProjection
from dit_lens.running import Evaluation, repeat, some
from dit_lens.trajectory import Schedule, Trajectory

POST_0, MLP_1, ATTN_1 = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"
FRAME_1 = (1, slice(None), slice(None))
single = Intervention.single


@pytest.fixture(scope="module")
def lens() -> Iterator[DiTLens]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(families, "FAMILIES", (micro_dit.FAMILY, *families.FAMILIES))
        yield DiTLens(transformer=set_by_hand(MicroDiT()), verify=False)


@pytest.fixture
def at(lens: DiTLens) -> Evaluation:
    return lens.model.evaluation(RECIPIENT, SIGMA, Conditioning({}))


@pytest.fixture
def ran(lens: DiTLens) -> Iterator[list[tuple[int, int]]]:
    """(block, clips) of every MLP that was run."""
    calls: list[tuple[int, int]] = []
    handles = [
        block.mlp.register_forward_hook(lambda module, args, out, index=index: calls.append((index, len(out))))
        for index, block in enumerate(lens.transformer.blocks)
    ]
    yield calls
    for handle in handles:
        handle.remove()


def difference(velocity: Tensor, cache: object) -> Tensor:
    """The velocity's first channel in frame 1, a - b of what leaves the last block."""
    return velocity[:, 0, 1, 0, 0]


def first_features(velocity: Tensor | None, cache: Any) -> Tensor:
    """(b, 2): a and b of frame 0 after block 0."""
    return cache[POST_0][:, 0, :2]


END, INSIDE = Readout(difference), Readout(first_features, (POST_0,))

# Behind block 0: (2.17, 2.4), (2.97, 1.185). In block 1 attention adds (.794375, 1.285) to both; mid (2.964375, 3.685),
# (3.764375, 2.47); the MLP adds (3.685, 0), (2.47, 1.294375) by .4, which is (1.474, 0), (.988, .51775).
BEFORE = 4.752375 - 2.98775
CHANGES = [
    # test_micro_dit: a head is ablated; after block 0 (2.22, 2.4), (3.02, 1.21)
    single("blocks.0.attn.hook_z", edits.zero(heads=[1])),
    # half of (.988, .51775) is missing in frame 1
    single(MLP_1, edits.scale(0.5)),
    single(POST_0, lambda x, hook: None),
    # after block 0: (1.085, 1.2), (1.485, .5925); block 1: z = 1.285, .3 + .444375 = .744375
    #   writes (.844375, 1.285) * .5; mid (1.5071875, 1.8425), (1.9071875, 1.235); MLP (1.235, .6721875) by .4
    #   frame 1: (1.9071875 + .494, 1.235 + .268875)
    single(POST_0, lambda x, hook: x * torch.tensor([0.5, 0.5, 1.0])),
]
BY_HAND = {
    "end": [(4.83175 - 3.0415) - BEFORE, -0.494 + 0.258875, 0.0, (2.4011875 - 1.503875) - BEFORE],
    "inside": [[0.05, 0.0], [float("nan")] * 2, [0.0, 0.0], [-1.085, -1.2]],
}


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 3}, {"kept_bytes": 0}])
def test_a_sweep_by_hand(lens: DiTLens, at: Evaluation, options: dict[str, int]) -> None:
    effects = sweep(lens, at, CHANGES, {"end": END, "inside": INSIDE}, **options)
    for name, by_hand in BY_HAND.items():
        expected = torch.tensor([by_hand], dtype=torch.float64)
        torch.testing.assert_close(effects.effect[name], expected, atol=1e-10, rtol=0, equal_nan=True)
    torch.testing.assert_close(effects.before["end"], torch.tensor([BEFORE], dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        effects.before["inside"], torch.tensor([[2.17, 2.4]], dtype=torch.float64), atol=1e-10, rtol=0
    )
    assert effects.clean == {} and not effects.effect["end"][:, 2].any()


def test_the_literal_sweep_by_hand(lens: DiTLens, at: Evaluation) -> None:
    effects = sweep(lens, at, CHANGES, {"end": END, "inside": INSIDE}, method="literal")
    for name, by_hand in BY_HAND.items():
        expected = torch.tensor([by_hand], dtype=torch.float64)
        torch.testing.assert_close(effects.effect[name], expected, atol=1e-10, rtol=0, equal_nan=True)


def test_clips_of_a_batch_have_the_effects_they_have_alone(lens: DiTLens) -> None:
    both = lens.model.evaluation(torch.cat([SOURCE, RECIPIENT]), SIGMA, Conditioning({}))
    together = sweep(lens, both, CHANGES, {"end": END})
    for clip in (0, 1):
        alone = sweep(lens, some(both, slice(clip, clip + 1)), CHANGES, {"end": END})
        torch.testing.assert_close(together.effect["end"][clip], alone.effect["end"][0], atol=1e-12, rtol=0)
    torch.testing.assert_close(together.effect["end"][1].tolist(), BY_HAND["end"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["exact", "literal"])
def test_metrics_are_bound_to_the_clean_run_where_there_is_one(lens: DiTLens, at: Evaluation, method: Any) -> None:
    clean = run(lens, lens.model.evaluation(SOURCE, SIGMA, Conditioning({})), [END])
    effects = sweep(lens, at, CHANGES[:2], {"v": VelocityProjection(), "end": END}, clean, method=method)
    unchanged = run(lens, at, [END])
    assert clean.velocity is not None and unchanged.velocity is not None
    length = (clean.velocity - unchanged.velocity).norm()
    torch.testing.assert_close(effects.clean["v"], length[None])
    torch.testing.assert_close(effects.clean["end"], difference(clean.velocity, {}))
    assert not effects.before["v"].any() and effects.effect["v"].abs().min() > 1e-3
    assert (
        not sweep(lens, at, CHANGES[:2], {"v": VelocityProjection()}, method=method).effect["v"].any()
    )  # own run: no difference


def test_what_is_run_and_how_often(lens: DiTLens, at: Evaluation, ran: list[tuple[int, int]]) -> None:
    """Nothing behind what metrics read, nothing in front of a change, all copies of a wave in one batch."""
    sweep(lens, at, CHANGES, {"inside": INSIDE})
    assert ran == [(0, 1), (0, 1 + 3)]
    ran.clear()
    sweep(lens, at, CHANGES, {"end": END})
    assert ran == [(0, 1), (1, 1), (0, 1 + 3), (1, 1 + 4)]
    ran.clear()
    sweep(lens, at, CHANGES, {"end": END}, batch_size=3)
    assert ran == [(0, 1), (1, 1), (0, 1 + 2), (1, 1 + 2), (0, 1 + 1), (1, 1 + 2)]
    ran.clear()
    sweep(lens, at, [CHANGES[1]], {"end": END})
    assert ran == [(0, 1), (1, 1), (1, 2)]


def test_a_bar_counts_the_changes_that_tell(lens: DiTLens, at: Evaluation, capsys: pytest.CaptureFixture) -> None:
    sweep(lens, at, CHANGES, {"inside": INSIDE})
    assert capsys.readouterr().err == ""
    sweep(lens, at, CHANGES, {"inside": INSIDE}, progress=True)
    printed = capsys.readouterr().err
    assert "interventions" in printed and "3/3" in printed


# Changes.


def test_what_cannot_be_swept_over_is_refused(lens: DiTLens) -> None:
    resolved(lens, [*CHANGES, single("blocks.[1].hook_mlp_out", edits.zero())])
    with pytest.raises(ValueError, match=r"^got no interventions · expected at least one, such as"):
        resolved(lens, [])
    with pytest.raises(TypeError, match=r"^got an edit of blocks.0.mod.hook_gate_attn, which can only be read"):
        resolved(lens, [*CHANGES, single("blocks.0.mod.hook_gate_attn", edits.zero())])
    with pytest.raises(KeyError, match=r"did you mean 'blocks.1.hook_mlp_out'"):
        resolved(lens, [single("blocks.1.hook_mlp_outt", edits.zero())])
    with lens.hooks([("hook_embed", edits.zero())]):
        with pytest.raises(RuntimeError, match=r"^got active hooks around"):
            resolved(lens, CHANGES)
        lens.run_with_cache(latent=RECIPIENT, timestep=SIGMA)


def test_before_a_sweep_effects_are_unknown_and_metrics_are_read() -> None:
    unchanged = Run(None, {"hook_x0": torch.ones(2, 1, 1, 1, 2)})
    clean = Run(None, {"hook_x0": torch.zeros(2, 1, 1, 1, 2)})
    rows = Readout(lambda velocity, cache: cache["hook_x0"][:, 0, 0, 0], ("hook_x0",))
    state = bound(unchanged, len(CHANGES), {"far": CleanDistance(), "rows": rows}, clean)
    # |(1, 1) - (0, 0)| = sqrt(2) from the clean run, 0 from one's own
    torch.testing.assert_close(state.effects.before["far"], torch.full((2,), 2**0.5))
    assert state.effects.clean["far"].tolist() == [0.0, 0.0] and state.effects.clean["rows"].shape == (2, 2)
    assert state.effects.effect["far"].shape == (2, 4) and state.effects.effect["rows"].shape == (2, 4, 2)
    assert all(effect.isnan().all() for effect in state.effects.effect.values())
    assert state.cache is unchanged.cache and state.metrics["far"].points == ("hook_x0",)
    alone = bound(unchanged, len(CHANGES), {"far": CleanDistance()}, None)
    assert alone.effects.clean == {} and not alone.effects.before["far"].any()


@pytest.mark.parametrize(
    ("sigmas", "clips", "fit"),
    [((0.5, 0.5), (1, 1), True), ((0.5, 0.5 + 5e-7), (2, 2), True), ((0.5, 0.5), (1, 2), False),
     ((0.5, 0.51), (1, 1), False), ((0.51, 0.5), (2, 2), False)],
)  # fmt: skip
def test_pairs_are_of_as_many_clips_on_one_level(
    lens: DiTLens, sigmas: tuple[float, float], clips: tuple[int, int], fit: bool
) -> None:
    clean, corrupted = (
        repeat(Evaluation({"hidden_states": RECIPIENT}, 1, sigma), copies)
        for sigma, copies in zip(sigmas, clips, strict=True)
    )
    if fit:
        return check_pair(clean, corrupted)
    message = f"^got {clips[0]} clean and {clips[1]} corrupted clips at noise levels {sigmas[0]:g} and {sigmas[1]:g} · "
    with pytest.raises(ValueError, match=message):
        check_pair(clean, corrupted)


def test_a_run_goes_as_far_as_it_is_read(lens: DiTLens, at: Evaluation, ran: list[tuple[int, int]]) -> None:
    def kept(metrics: Sequence[Readout], names: Sequence[str] = (), keep: Any = None) -> tuple[Run, list[int]]:
        ran.clear()
        return run(lens, at, metrics, names, keep), [block for block, _ in ran]

    inside, blocks = kept([INSIDE])
    assert inside.velocity is None and list(inside.cache) == [POST_0] and blocks == [0]
    both, blocks = kept([INSIDE, END])
    assert both.velocity is not None and list(both.cache) == [POST_0] and blocks == [0, 1]
    further, blocks = kept([INSIDE], [MLP_1, "hook_embed"], lambda x: x + 100)
    assert (
        further.velocity is None and blocks == [0, 1] and sorted(further.cache) == sorted(["hook_embed", POST_0, MLP_1])
    )
    torch.testing.assert_close(further.cache[POST_0], inside.cache[POST_0])  # as the metric reads it
    assert further.cache[MLP_1].min() >= 100  # as it is kept
    nothing, blocks = kept([])
    assert nothing.velocity is not None and nothing.cache == {} and blocks == [0, 1]
    names, blocks = kept([], ["hook_embed"])
    assert names.velocity is None and list(names.cache) == ["hook_embed"] and blocks == []


def test_what_is_no_metric_is_refused_by_its_type() -> None:
    assert checked(END) is END
    with pytest.raises(TypeError, match=r"^got a int as metric · expected"):
        checked(3)


def test_order_in_the_forward(lens: DiTLens) -> None:
    assert last(lens, ["hook_embed", MLP_1, POST_0]) == MLP_1 == last(lens, [MLP_1])
    assert is_after(lens, MLP_1, POST_0) and not is_after(lens, POST_0, MLP_1) and not is_after(lens, POST_0, POST_0)
    with pytest.raises(KeyError, match="did you mean"):
        last(lens, ["hook_embd"])


@pytest.mark.parametrize(
    ("point", "reads", "moves"),
    [
        (MLP_1, (), True),
        (MLP_1, (POST_0,), False),
        (POST_0, (POST_0,), True),
        ("hook_embed", (POST_0,), True),
        (MLP_1, (POST_0, "hook_velocity"), True),
    ],
)
def test_a_change_moves_what_is_read_behind_it_or_there(
    lens: DiTLens, point: str, reads: tuple[str, ...], moves: bool
) -> None:
    assert can_move(lens, single(point, edits.zero()), Readout(difference, reads)) is moves


# Batches.


def test_a_batch_holds_so_many_interventions_in_the_order_of_their_blocks(lens: DiTLens) -> None:
    points = [MLP_1, "blocks.0.attn.hook_z", "hook_embed", ATTN_1, POST_0, "hook_latent"]
    changes = {i: single(point, edits.zero()) for i, point in enumerate(points)}
    assert [first_block(lens, change) for change in changes.values()] == [1, 0, None, 1, 0, None]
    several = Intervention([(MLP_1, edits.zero()), (POST_0, edits.zero())])
    assert first_block(lens, several) == 0 and first_block(lens, Intervention([])) is None
    outside = Join(None, (2, 5))
    assert [*plan(lens, changes, 9)] == [(outside,), (Join(0, (1, 4)), Join(1, (0, 3)))]
    assert [*plan(lens, changes, 3)] == [(outside,), (Join(0, (1, 4)), Join(1, (0,))), (Join(1, (3,)),)]
    some_of_them = {i: changes[i] for i in (4, 0, 2)}
    assert [*plan(lens, some_of_them, 1)] == [(Join(None, (2,)),), (Join(0, (4,)),), (Join(1, (0,)),)]
    assert [*plan(lens, {}, 3)] == []


# Memory.


def test_a_spill_store_holds_its_limit_in_memory_and_the_rest_in_numbered_files() -> None:
    tensors = [torch.full((4,), float(i)) for i in range(4)]  # of 16 bytes
    with SpillStore(32) as spill:
        kept = [spill.keep(x) for x in tensors]
        assert [stored is x for stored, x in zip(kept, tensors, strict=True)] == [True, True, False, False]
        assert [stored.tolist() for stored in kept] == [x.tolist() for x in tensors]
        small = torch.zeros(0)
        assert spill.keep(small) is small  # nothing left is room enough for nothing


def test_a_spill_stores_files_lie_in_a_folder_that_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with SpillStore(0) as spill:
        spill.keep(torch.ones(1))
        spill.keep(torch.ones(1))
        assert [folder.name.startswith("dit_lens-") for folder in tmp_path.iterdir()] == [True]


def test_how_many_clips_are_affordable(lens: DiTLens, monkeypatch: pytest.MonkeyPatch) -> None:
    def clips(free: float, stream: float) -> int:
        monkeypatch.setattr(exact, "free_memory", lambda device: free)
        return exact.affordable(lens, stream)

    # half of the free memory over 40 streams; on a CPU at most 8 MiB of streams, or 16 clips
    assert clips(40 * 2 * 10 * 1000.0, 1000.0) == 10
    assert clips(40 * 2 * 9.5 * 1000.0, 1000.0) == 9
    assert clips(1.0, 1000.0) == 1
    assert clips(1e15, 2.0**20) == 16 and clips(1e15, 2.0**18) == 32 and clips(1e15, 2.0**23) == 16


def test_a_quarter_of_the_free_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dit_lens.interventions.spill.free_memory", lambda device: 4001)
    assert limit_for(torch.device("cpu")) == 1000


# Screening. To first order, at mid of block 1: in frame 1 the MLP's unit max(a - b, 0) is active and writes to b by .4,
# max(b, 0) to a by .4. So (a - b) moves by 1 - .4 with a, and by .4 - (1 - .4) with b.


def test_a_screen_by_hand(lens: DiTLens, at: Evaluation) -> None:
    changes = [
        single(ATTN_1, edits.add(torch.tensor([1.0, 0.0, 0.0]).double())),
        single(ATTN_1, edits.add(torch.tensor([0.0, 1.0, 0.0]).double(), tokens=FRAME_1)),
        single(ATTN_1, edits.add(torch.tensor([1.0, 1.0, 0.0]).double(), tokens=(0, slice(None), slice(None)))),
        single(MLP_1, edits.scale(0.5)),
        single(ATTN_1, lambda x, hook: None),
    ]
    by_hand = torch.tensor([[0.6, -0.2, 0.0, -0.494 + 0.258875, 0.0]])
    torch.testing.assert_close(screen(lens, at, changes, END), by_hand, atol=1e-6, rtol=0)


def test_a_screen_is_bound_to_the_clean_run(lens: DiTLens, at: Evaluation) -> None:
    clean = run(lens, lens.model.evaluation(SOURCE, SIGMA, Conditioning({})), [END])
    changes, metric = (
        [single(MLP_1, edits.scale(0.5)), single(MLP_1, edits.zero())],
        VelocityProjection(),
    )
    exact = sweep(lens, at, changes, {"": metric}, clean).effect[""]
    torch.testing.assert_close(screen(lens, at, changes, metric, clean).double(), exact, atol=1e-6, rtol=0)
    effects = sweep(lens, at, changes, {"": metric}, clean, method="screened")
    torch.testing.assert_close(effects.effect[""].double(), exact, atol=1e-6, rtol=0)
    assert exact.abs().min() > 0.01


def test_behind_what_a_metric_reads_a_screen_knows_nothing(lens: DiTLens, at: Evaluation) -> None:
    estimates = screen(lens, at, [single(MLP_1, edits.zero()), single(POST_0, edits.scale(0.5))],
                   Readout(lambda v, cache: cache[POST_0][:, 0, 0], (POST_0,)))  # fmt: skip
    assert estimates[:, 0].isnan().all()
    torch.testing.assert_close(estimates[:, 1], torch.tensor([-1.085]))  # half of 2.17


def test_a_screened_sweep_by_hand(lens: DiTLens, at: Evaluation) -> None:
    """Writes of the last MLP, to which the metric is linear: estimate and effect are the same, by hand."""
    sizes = [0.5, -2.0, 0.25, 1.0, -0.125, 3.0]
    changes = [single(MLP_1, edits.add(torch.tensor([size, 0.0, 0.0]).double())) for size in sizes]
    effects = sweep(lens, at, changes, {"": END}, method=Screening(2, 3, 4))
    screened = effects.screened[""]
    torch.testing.assert_close(screened.estimate, torch.tensor([sizes]))
    assert screened.verified == (5, 1) and len({*screened.checked} & {0, 2, 3, 4}) == 3 == len(screened.checked)
    known = [*screened.verified, *screened.checked]
    torch.testing.assert_close(effects.effect[""][0, known], torch.tensor(sizes)[known])
    left = {*range(6)} - {*known}
    assert len(left) == 1 and effects.effect[""][:, [*left]].isnan().all()
    assert screened.agreement == pytest.approx(1.0)
    torch.testing.assert_close(effects.before[""], torch.tensor([BEFORE]).double())

    def checked_by(screening: Screening) -> tuple[int, ...]:
        return sweep(lens, at, changes, {"": END}, method=screening).screened[""].checked

    assert checked_by(Screening(2, 3, 4)) == screened.checked
    assert {checked_by(Screening(2, 1, seed)) for seed in range(20)} == {
        (0,),
        (2,),
        (3,),
        (4,),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_screen_in_half_precision_is_that_in_single_but_for_rounding(dtype: torch.dtype) -> None:
    """Of patches of z, and of queries by the correction; estimates are worked out in float32."""
    points = ("blocks.1.attn.hook_z", "blocks.1.attn.hook_q")

    def estimated(lens: DiTLens) -> Tensor:
        changes = [single(point, edits.zero([head])) for point in points for head in range(lens.heads)]
        metric = Readout(lambda velocity, cache: velocity.flatten(1)[:, ::3].sum(1))
        return screen(lens, laws.example(lens.model.members[0]), changes, metric)

    half, full = (DiTLens(transformer=build("wan").to(kind), verify=False) for kind in (dtype, torch.float32))
    expected = estimated(full)
    estimate = estimated(half)
    assert estimate.dtype == torch.float32
    torch.testing.assert_close(estimate, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


def test_of_a_screened_sweep_at_least_one_is_verified(lens: DiTLens, at: Evaluation) -> None:
    effects = sweep(lens, at, CHANGES[1:2], {"": END}, method=Screening(top=1))
    assert effects.screened[""].verified == (0,)
    with pytest.raises(ValueError, match=r"^got top 0 · expected a whole number from 1"):
        Screening(top=0)


@pytest.mark.parametrize(
    ("point", "mix"),
    [
        ("blocks.2.attn.hook_q", "blocks.2.attn.hook_z"),
        ("blocks.2.attn.hook_rot_k", "blocks.2.attn.hook_z"),
        ("blocks.10.cross_attn.hook_k", "blocks.10.cross_attn.hook_z"),
        ("blocks.2.attn.hook_rot_q", "blocks.2.attn.hook_z"),
        ("blocks.2.attn.hook_v", None),
        ("hook_embed", None),
    ],
)
def test_queries_and_keys_go_into_the_mix_of_their_attention(point: str, mix: str | None) -> None:
    assert _mixed(point) == mix


# Tables.

SCHEDULE = Schedule((0.0, 0.25, 0.5, 1.0), (0.0, 0.25, 0.5, 1.0))


def path(*latents: Tensor, solver: str | Solver = "euler", direction: str = "invert") -> Trajectory:
    names = tuple(f"clip {i}" for i in range(len(latents[0])))
    return Trajectory(torch.stack(latents), SCHEDULE, Conditioning({}), Solver.of(solver), direction, names)


def test_a_table_by_hand() -> None:
    def of(start: float) -> Effects:
        """Effects counted up from a number."""
        effect = {"": start + torch.arange(12.0).reshape(2, 6), "two": torch.arange(24.0).reshape(2, 6, 2)}
        before = {"": torch.tensor([start, start + 1.0]), "two": torch.zeros(2, 2)}
        return Effects(effect, before, {"": torch.tensor([10.0, 20.0]), "two": torch.ones(2, 2)}, {})

    fed = {
        step: Evaluation({"timestep": torch.tensor([[1, 7], [2, 3]]), "hidden_states": torch.zeros(2)}, step, sigma)
        for step, sigma in ((3, 0.5), (1, 0.25))
    }
    table = tabulate(
        {3: of(100.0), 1: of(200.0)}, [{"block": block, "head": head} for block in range(2) for head in "xyz"], fed
    )
    assert table.effect.dims == ("clip", "step", "block", "head") and table.effect.shape == (2, 2, 2, 3)
    # clip 1, step 1 (the second): 200 + 6 + 3 block + head
    assert table.effect.sel(clip="1", step=1, block=1, head="z").item() == 211
    assert table.before.dims == ("clip", "step") and table.before.values.tolist() == [[100, 200], [101, 201]]
    assert table.total.values.tolist() == [[-90, -190], [-81, -181]]  # clean - before
    assert table.effect_two.dims == ("clip", "step", "block", "head", "feature")
    assert table.effect_two.sel(clip="1", step=3, block=0, head="y").values.tolist() == [14, 15]
    assert table.before_two.dims == table.total_two.dims == ("clip", "step", "feature")
    assert table.sigma.values.tolist() == [0.5, 0.25] and table.timestep.values.tolist() == [7.0, 7.0]
    assert table.step.values.tolist() == [3, 1] and table["clip"].values.tolist() == ["0", "1"]
    alone = tabulate({1: Effects(of(0.0).effect, of(0.0).before, {}, {})}, [{"block": i} for i in range(6)], fed)
    assert set(alone.data_vars) == {"effect", "before", "effect_two", "before_two"}


def test_metrics_and_clips_have_names(lens: DiTLens, at: Evaluation) -> None:
    assert named(END) == {"": END} and named({"a": END, "b": INSIDE}) == {"a": END, "b": INSIDE}
    with pytest.raises(TypeError, match="got a str as metric"):
        named({"a": "logit"})
    assert clip_ids_of({1: repeat(at, 3)}) == ["0", "1", "2"]
    assert clip_ids_of(path(torch.cat([SOURCE, RECIPIENT]))) == ["clip 0", "clip 1"]


def test_evaluations_at_steps(lens: DiTLens, at: Evaluation) -> None:
    by_step = evaluations(lens, path(SOURCE, RECIPIENT), [1, 0])
    assert list(by_step) == [1, 0] and [evaluation.sigma for evaluation in by_step.values()] == [0.25, 0.0]
    assert torch.equal(by_step[1].inputs["hidden_states"], RECIPIENT) and by_step[1].step == 1
    assert evaluations(lens, {4: at, 5: at}, [5]) == {5: at}
    with pytest.raises(ValueError, match=r"^got no steps · expected at least one"):
        evaluations(lens, {4: at}, [])
    with pytest.raises(IndexError, match=r"^got step 6 · expected of 4, 5, which were given"):
        evaluations(lens, {4: at, 5: at}, [4, 6, 7])


# Segments: the levels 0, .25, .5 and 1 are steps 0 to 3. Going up, Euler evaluates step s on the way from it, Heun
# also where it arrives; told the target's time, only there.

WHOLE = path(*[RECIPIENT] * 4)


@pytest.mark.parametrize(
    ("solver", "steps", "readout", "order"),
    [
        ("euler", (1,), 3, [1, 2, 3]),
        ("euler", (2, 1), 3, [1, 2, 3]),
        ("heun", (1,), 3, [0, 1, 2, 3]),
        (Solver("euler", "target"), (2,), 3, [1, 2, 3]),
        ("implicit_euler", (2,), 2, [1, 2]),
        ("euler", (2,), 0, [2, 1, 0]),
        ("euler", (3, 1), 0, [3, 2, 1, 0]),
        (Solver("euler", "target"), (2,), 1, [2, 1]),  # sampled by plain Euler
        ("heun", (2,), 1, [3, 2, 1]),
    ],
)
def test_a_walk_begins_where_nothing_has_been_changed_yet(
    solver: str | Solver, steps: tuple[int, ...], readout: int, order: list[int]
) -> None:
    segment = PathSegment(path(*[RECIPIENT] * 4, solver=solver), steps, readout)
    solver_run = segment.solver_run()
    assert list(solver_run.order) == order and segment.upward is (readout >= max(steps))
    assert solver_run.solver == (Solver.of(solver) if segment.upward else Solver.of(solver).sampler)


def test_at_a_single_step_a_walk_goes_the_way_of_its_path() -> None:
    assert PathSegment(path(*[RECIPIENT] * 4, solver="implicit_euler"), (2,), 2).upward
    assert not PathSegment(path(*[RECIPIENT] * 4, direction="sample"), (2,), 2).upward


@pytest.mark.parametrize(
    ("trajectory", "steps", "readout", "error", "message"),
    [
        (WHOLE, (1, 3), 2, ValueError, r"^got steps \[1, 3\] and readout 2 · expected one step or more"),
        (WHOLE, (), 2, ValueError, r"^got steps \[\] and readout 2 · "),
        (WHOLE, (3,), 3, IndexError, r"^got step 3 · expected of \[0, 1, 2\], which euler .* from step 0 to 3$"),
        (WHOLE, (0,), 0, IndexError, r"^got step 0"),
        (path(*[RECIPIENT] * 4, solver="midpoint"), (1,), 2, ValueError,
         r"^got midpoint, which evaluates between steps \(at sigma 0.1250\)"),
        (path(*[RECIPIENT] * 4, direction="sample"), (1,), 2, ValueError,
         r"^got a trajectory by sample to integrate up"),
        (replace(WHOLE, solver=None), (2,), 1, ValueError, r"^got a trajectory by invert to integrate down from its"),
    ],
)  # fmt: skip
def test_what_cannot_be_walked_is_refused(
    trajectory: Trajectory, steps: tuple[int, ...], readout: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PathSegment(trajectory, steps, readout).solver_run()


# Along. A vector added to the velocity at one step arrives times the length of the step: from .25 to .5, and, on the
# way down, from .25 to 0; at the readout itself it acts in `both` alone.


def nudged(value: float) -> Intervention:
    return single("hook_velocity", edits.add(torch.tensor([value, 0.0, 0.0]).double()[:, None, None, None]))


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_along_a_segment_by_hand(lens: DiTLens, batch_size: int | None) -> None:
    latent = Readout(lambda velocity, cache: cache["hook_latent"][:, 0, :, 0, 0], ("hook_latent",))
    changes = [
        nudged(2.0),
        Intervention([*nudged(2.0).edits, *nudged(-6.0).edits]),
        single("hook_velocity", lambda x, hook: None),
        nudged(0.5),
    ]
    segment = PathSegment(path(*[torch.cat([RECIPIENT, SOURCE]).float()] * 4), [1], 2)
    path_effects = sweep_along(lens, segment, changes, {"x": latent}, batch_size=batch_size)
    assert isinstance(path_effects, PathEffects)
    # .25 * 2, .25 * (2 - 6), nothing, .25 * .5; the same in both frames of both clips
    by_hand = torch.tensor([0.5, -1.0, 0.0, 0.125])[None, :, None].expand(2, 4, 2)
    for effects in (path_effects.end, path_effects.both):
        torch.testing.assert_close(effects.effect["x"].float(), by_hand, atol=1e-5, rtol=0)
        assert effects.before["x"].tolist() == [[1, 3], [5, 1]] and effects.clean == {}
    down = sweep_to_clip(
        lens, PathSegment(segment.trajectory, [1], 0), changes, {"": lambda x: x[:, 0, 1, 0, 0]}, batch_size=batch_size
    )
    torch.testing.assert_close(down.effect[""].float(), -by_hand[..., 0], atol=1e-5, rtol=0)
    assert down.clean == {} and down.before[""].shape == (2,)


def test_at_the_readout_a_change_acts_in_both_alone(lens: DiTLens) -> None:
    segment = PathSegment(path(*[RECIPIENT.float()] * 4), [1], 2)
    path_effects = sweep_along(lens, segment, [nudged(8.0)], {"": END})
    plain = path_effects.both.effect[""] - path_effects.end.effect[""]
    torch.testing.assert_close(plain.float(), torch.tensor([[8.0]]), atol=1e-4, rtol=0)
    assert path_effects.end.effect[""].abs().min() > 0.1


def test_a_change_acts_at_the_steps_it_is_for(lens: DiTLens, capsys: pytest.CaptureFixture) -> None:
    """Going from step 1 to step 3 it acts at step 1 and not at step 2; then, for `both`, at the readout."""
    met: list[int | None] = []

    def watched(x: Tensor, hook: Hook) -> Tensor:
        met.append(hook.step)
        return x + 1

    segment = PathSegment(path(*[RECIPIENT.float()] * 4), [1], 3)
    sweep_along(lens, segment, [single("hook_velocity", watched)], {"": END})
    assert met == [1, 3] and capsys.readouterr().err == ""
    sweep_along(lens, segment, [nudged(1.0)] * 3, {"": END}, batch_size=2, progress=True)
    assert "interventions: 100%" in (printed := capsys.readouterr().err) and "3/3" in printed and "batch" in printed


def test_copies_of_clips_at_a_step() -> None:
    conditioning = Conditioning({"text": torch.tensor([[1.0], [2.0]]), "mask": torch.ones(1, 1)})
    trajectory = replace(path(*[torch.cat([RECIPIENT, SOURCE])] * 4), conditioning=conditioning)
    latent = torch.cat([RECIPIENT, SOURCE] * 2)
    copies = copies_at(trajectory, 2, latent, 2)
    assert copies.clip_ids == ("clip 0", "clip 1") * 2 and copies.record is None and copies.latents.shape[0] == 3
    assert torch.equal(copies.latent(2), latent)
    assert copies.conditioning.tensors["text"].flatten().tolist() == [1, 2, 1, 2]
    assert copies.conditioning.tensors["mask"].shape == (1, 1)


def test_to_the_clip_something_is_read(lens: DiTLens) -> None:
    with pytest.raises(ValueError, match=r"^got no metrics · expected at least one"):
        sweep_to_clip(lens, PathSegment(WHOLE, [1], 0), [nudged(1.0)], {})
