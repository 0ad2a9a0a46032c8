"""The engine equals one full forward per change, its nulls are exactly zero, and a planted head is found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from head_patches import head_patches
from small_models import build
from torch import Tensor

from dit_lens import datasets, edits, laws
from dit_lens.capture import encode, latent_splice, spliced_noise
from dit_lens.interventions import Effects, Intervention, Screening, over, screen, sweep
from dit_lens.interventions.effects import run
from dit_lens.lens import DiTLens
from dit_lens.metrics import CleanDistance, Readout, VelocityError, VelocityProjection, VelocityRemainder
from dit_lens.patching import patch_attention, patch_heads, patch_residual, patch_writes
from dit_lens.probing import Probe, Reads
from dit_lens.trajectory import Trajectory

STEP = 3
READOUT = 3


@pytest.fixture(scope="module")
def paths(lens: DiTLens) -> dict[str, Trajectory]:
    quadruplets = list(datasets.load("miniphys", split="test", quadruplets=3))
    return {role: lens.invert([q[role.upper()] for q in quadruplets], steps=4, solver="euler") for role in "abcd"}


@pytest.fixture(scope="module")
def probe() -> Probe:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    return Probe(weight, 0.3, 1.0, Reads(f"blocks.{READOUT}.hook_resid_post", STEP, 0.8, "random"))


def both(lens: DiTLens, clean: Trajectory, corrupted: Trajectory, metrics: dict) -> tuple[Effects, Effects]:
    """All heads' patches by the engine and literally."""
    at, source = lens.evaluation(corrupted, STEP), lens.evaluation(clean, STEP)
    with torch.no_grad():
        clean_run = run(lens, source, metrics.values())
    changes = head_patches(lens, source)
    return sweep(lens, at, changes, metrics, clean_run), sweep(lens, at, changes, metrics, clean_run, method="literal")


def test_fast_equals_literal(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    truth = torch.randn(paths["a"].latent(0).shape, generator=torch.Generator().manual_seed(1))
    half = (slice(3, None), slice(None), slice(None))
    metrics = {
        "logit": probe.logit,
        "velocity": VelocityProjection(),
        "half": VelocityProjection(half),
        "remainder": VelocityRemainder(),
        "error": VelocityError(truth),
        "x0": CleanDistance(),
    }
    fast, slow = both(lens, paths["a"], paths["c"], metrics)
    for name in metrics:
        torch.testing.assert_close(fast.effect[name], slow.effect[name], rtol=0, atol=2e-5, equal_nan=True)
        assert slow.effect[name].nan_to_num().abs().max() > 1e-4


def test_blocks_behind_the_readout_are_nan_and_no_others(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    effect = patch_heads(lens, paths["a"], paths["c"], [STEP], probe.logit).effect
    assert effect[:, :, READOUT + 1 :].isnull().all() and not effect[:, :, : READOUT + 1].isnull().any()


def test_a_clip_patched_with_itself_gives_exactly_zero(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    metrics = {"logit": probe.logit, "velocity": Readout(lambda velocity, cache: velocity.flatten(1).sum(1), ())}
    itself = paths["b"], paths["b"], [STEP], metrics
    tables = [patch_heads(lens, *itself), patch_attention(lens, *itself), patch_writes(lens, *itself)]
    for null in [*tables, patch_residual(lens, *itself)]:
        assert not null.to_array().sel(variable=["effect_logit", "effect_velocity", "total_logit"]).fillna(0).any()


def test_every_kind_of_place_is_swept_as_by_full_forwards(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    """One batch holds changes at points of all sorts, in blocks and outside, before, at and behind the readout."""
    metrics = {"logit": probe.logit, "velocity": Readout(lambda velocity, cache: velocity.flatten(1)[:, ::7].sum(1))}
    frame = (1, slice(None), slice(None))
    late = (slice(3, None), slice(None), slice(None))
    early = lens.model.grid(lens.evaluation(paths["a"], STEP)).mask(frame=slice(0, 3))
    changes = [
        Intervention.single("hook_embed", edits.scale(0.5, tokens=frame)),
        Intervention.single("hook_latent", edits.noise(0.3, 0)),
        *(Intervention.single(f"blocks.{b}.hook_resid_pre", edits.zero(tokens=frame)) for b in (0, 2, 5)),
        *(Intervention.single(f"blocks.{b}.hook_mlp_out", edits.zero()) for b in (1, READOUT, 4)),
        *(
            Intervention.single(f"blocks.1.attn.hook_{part}", edits.scale(2.0, [1]))
            for part in ("q", "k", "v", "rot_q")
        ),
        Intervention.single("blocks.2.attn.hook_pattern", edits.cut(early, [0, 2], late)),
        Intervention.single("blocks.2.attn.hook_pattern", edits.evenly([1])),
        Intervention.single(f"blocks.{READOUT}.hook_resid_post", edits.scale(0.9)),
        Intervention.single("blocks.0.cross_attn.hook_z", edits.zero(heads=[3])),
        Intervention.single("blocks.0.attn.hook_z", lambda x, hook: None),
    ]
    at = lens.evaluation(paths["d"], STEP)
    fast, slow = (sweep(lens, at, changes, metrics, method=method) for method in ("exact", "literal"))
    for name in metrics:
        scale = slow.effect[name].nan_to_num().abs().max()
        torch.testing.assert_close(fast.effect[name], slow.effect[name], rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
        moved = slow.effect[name].nan_to_num().abs().amin(0)
        assert (moved[:-1] > 0).sum() >= len(changes) - (4 if name == "logit" else 1) and not fast.effect[name][
            :, -1
        ].any()


@pytest.mark.parametrize("batch_size", [1, 7, 12])
def test_the_batch_size_changes_nothing(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe, batch_size: int
) -> None:
    at, changes = lens.evaluation(paths["c"], STEP), head_patches(lens, lens.evaluation(paths["a"], STEP))[:6]
    small = sweep(lens, at, changes, {"": probe.logit}, batch_size=batch_size).effect[""]
    torch.testing.assert_close(small, sweep(lens, at, changes, {"": probe.logit}).effect[""], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_heads_of_other_families_are_swept_as_by_full_forwards(name: str) -> None:
    lens = DiTLens(transformer=build(name), verify=False)
    end = f"blocks.{lens.blocks - 1}.hook_resid_post"
    metric, at = (
        Readout(lambda v, cache: cache[end].flatten(1)[:, ::5].sum(1), (end,)),
        laws.example(lens.model.members[0]),
    )
    changes = [
        Intervention.single(f"blocks.{block}.attn.hook_z", edits.zero([head]))
        for block, head in product(range(lens.blocks), range(lens.heads))
    ]
    fast, slow = (sweep(lens, at, changes, {"": metric}, method=m).effect[""] for m in ("exact", "literal"))
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert slow.abs().min() > 0


def test_all_velocity_of_the_clean_run_is_the_length_of_the_difference(
    lens: DiTLens, paths: dict[str, Trajectory]
) -> None:
    effects = patch_heads(lens, paths["a"], paths["d"], [STEP], {"velocity": VelocityProjection()})
    clean, corrupted = (lens.run_with_cache(paths[r], step=STEP, names_filter="hook_velocity")[0] for r in "ad")
    total = torch.from_numpy(effects.total_velocity.values[:, 0])
    torch.testing.assert_close(total, (clean - corrupted).flatten(1).norm(dim=1))
    assert not effects.before_velocity.any()


def test_the_whole_stream_brings_back_the_clean_run(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    metrics = {"velocity": VelocityProjection(), "rest": VelocityRemainder(), "x0": CleanDistance()}
    table = patch_residual(lens, paths["a"], paths["c"], [STEP], metrics)
    for name in ("velocity", "rest"):
        total = table[f"total_{name}"].broadcast_like(table[f"effect_{name}"])
        np.testing.assert_allclose(table[f"effect_{name}"], total, rtol=1e-3, atol=1e-3)
    assert table.total_velocity.min() > 0.01 and abs(table.total_rest).max() < 1e-3


def test_a_screen_is_exact_for_a_linear_metric_of_the_point_itself(lens: DiTLens, paths: dict[str, Trajectory]) -> None:
    weight = torch.randn(lens.heads, 1, generator=torch.Generator().manual_seed(0))
    metric = Readout(
        lambda v, cache: (cache["blocks.2.attn.hook_z"] * weight).flatten(1).sum(1), ("blocks.2.attn.hook_z",)
    )
    changes, at = head_patches(lens, lens.evaluation(paths["a"], STEP))[:12], lens.evaluation(paths["c"], STEP)
    estimate, exact = screen(lens, at, changes, metric), sweep(lens, at, changes, {"": metric}).effect[""]
    torch.testing.assert_close(estimate[:, 8:], exact[:, 8:], rtol=1e-4, atol=1e-4)
    assert exact[:, 8:].abs().min() > 0


@pytest.mark.parametrize("part", ["q", "k"])
def test_the_correction_sees_through_a_saturated_softmax(
    lens: DiTLens, paths: dict[str, Trajectory], part: str
) -> None:
    """Queries or keys a hundred times as long: a gradient through the softmax is blind, the corrected one is not."""
    home = "blocks.2.attn.hook"
    metric = Readout(lambda v, cache: cache[f"{home}_z"].flatten(1)[:, ::3].sum(1), (f"{home}_z",))
    changes = [Intervention.single(f"{home}_{part}", edits.scale(-30.0, [head])) for head in range(lens.heads)]
    at = lens.evaluation(paths["c"], STEP)
    exact = sweep(lens, at, changes, {"": metric}).effect[""]
    corrected, plain = (screen(lens, at, changes, metric, corrected=on) for on in (True, False))
    torch.testing.assert_close(corrected, exact, rtol=1e-3, atol=1e-4)
    assert (plain - exact).abs().max() > 0.1 * exact.abs().max()


def test_a_screened_sweep_verifies_the_top_and_checks_a_sample(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    changes, at = head_patches(lens, lens.evaluation(paths["a"], STEP)), lens.evaluation(paths["c"], STEP)
    effects = sweep(lens, at, changes, {"": probe.logit}, method=Screening(top=3, sample=4))
    screened = effects.screened[""]
    exact = sweep(lens, at, changes, {"": probe.logit}).effect[""]
    known = [*screened.verified, *screened.checked]
    assert len(set(known)) == 7 and len(screened.verified) == 3 and max(known) < 4 * (READOUT + 1)
    torch.testing.assert_close(effects.effect[""][:, known], exact[:, known], rtol=0, atol=1e-5)
    assert effects.effect[""].isnan().all(0).sum() == len(changes) - 7 and 0.5 < screened.agreement <= 1
    with pytest.raises(ValueError, match="got top 0"):
        Screening(top=0)


def test_a_point_that_is_only_read_and_an_empty_sweep_are_refused(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    at = lens.evaluation(paths["c"], STEP)
    read_only = next(name for name, point in lens.table.points.items() if point.write is None)
    with pytest.raises(TypeError, match="can only be read"):
        sweep(lens, at, [Intervention.single(read_only, edits.zero())], {"": probe.logit})
    with pytest.raises(ValueError, match="no interventions"):
        sweep(lens, at, [], {"": probe.logit})


def test_attention_cut_between_halves_leaves_no_interaction(lens: DiTLens, quadruplets: list) -> None:
    """Noise and latents spliced, no attention across the splice: A + B - C - D = 0 everywhere."""
    batch = [q for q in quadruplets if q.crossed][:3]
    clean = encode(lens.encode, batch, "latent")
    cut, noise = latent_splice(clean, batch[0]), spliced_noise(clean, batch, 0)
    at = lens.model.evaluation(0.4 * clean + 0.6 * noise, lens.family.to_timestep(0.6), lens.conditioning)
    grid, whole = lens.model.grid(at), (slice(None), slice(None))
    halves = slice(0, cut), slice(cut, None)
    knock = [("blocks.*.attn.hook_pattern", edits.cut(grid.mask(frame=halves[1 - i]), tokens=(halves[i], *whole)))
             for i in (0, 1)]  # fmt: skip
    points = ["blocks.5.hook_resid_post", "blocks.2.attn.hook_z", "blocks.4.hook_mlp_out", "hook_velocity"]

    def interaction(hooks: list) -> dict[str, Tensor]:
        with lens.hooks(hooks), torch.no_grad():
            cache = run(lens, at, [Readout(lambda v, c: v, tuple(points))]).cache
        four = {name: cache[name].unflatten(0, (4, len(batch))) for name in points}
        return {name: (x[0] + x[1] - x[2] - x[3]).abs().max() / x.abs().max() for name, x in four.items()}

    severed, intact = interaction(knock), interaction([])
    for name in points:
        assert severed[name] < 2e-6 < 1e-3 < intact[name]


def test_the_table_names_its_dimensions(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    result = patch_heads(lens, paths["a"], paths["c"], [2, STEP], {"logit": probe.logit})
    assert dict(result.effect_logit.sizes) == {"clip": 3, "step": 2, "block": 6, "head": 4}
    assert {"effect_logit", "total_logit", "before_logit"} == set(result.data_vars)
    assert list(result.donor.values) == list(paths["a"].clip_ids)
    assert result.sigma.values == pytest.approx([paths["a"].schedule.sigmas[s] for s in (2, STEP)])


@pytest.mark.parametrize(
    "points",
    [
        ("blocks.1.hook_resid_post", "blocks.4.hook_resid_post"),
        ("blocks.3.hook_resid_pre",),
        ("blocks.3.attn.hook_q",),
        ("blocks.2.attn.hook_z", "hook_embed"),
    ],
    ids="-".join,
)
def test_any_readout_is_swept_as_by_full_forwards(
    lens: DiTLens, paths: dict[str, Trajectory], points: tuple[str, ...]
) -> None:
    metrics = {"means": Readout(lambda v, cache: sum(cache[p].flatten(1)[:, ::7].mean(1) for p in points), points)}
    fast, slow = both(lens, paths["b"], paths["d"], metrics)
    torch.testing.assert_close(fast.effect["means"], slow.effect["means"], rtol=0, atol=1e-6, equal_nan=True)
    assert slow.effect["means"].nan_to_num().abs().max() > 1e-5


def test_a_single_metric_needs_no_name(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    result = patch_heads(lens, paths["a"], paths["c"], steps=[STEP], metric=probe.logit)
    assert set(result.data_vars) == {"effect", "total", "before"}


def test_a_sweep_inside_hooks_is_refused(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    with lens.hooks([("hook_velocity", lambda x, hook: None)]):
        with pytest.raises(RuntimeError, match="active hooks"):
            patch_heads(lens, paths["a"], paths["c"], steps=[STEP], metric=probe.logit)
        lens.run_with_cache(paths["a"], step=STEP)


def test_trajectories_that_do_not_pair_up_are_refused(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    with pytest.raises(ValueError, match="clean"):
        patch_heads(lens, paths["a"][:2], paths["c"], [STEP], probe.logit)


def test_a_later_edit_is_applied_to_what_the_earlier_one_led_to(lens: DiTLens, paths: dict[str, Trajectory]) -> None:
    """Silence a head, then double the next MLP's write: its own, not that of the unchanged run; alone it is another."""
    at, point = lens.evaluation(paths["c"], STEP), "blocks.2.hook_mlp_out"
    summed = Readout(lambda v, cache: cache[point].flatten(1)[:, ::7].sum(1), (point,))
    head, double = ("blocks.1.attn.hook_z", edits.zero([0])), (point, edits.scale(2.0))
    changes = [Intervention([head, double]), Intervention([head]), Intervention([double])]
    together, alone, doubled = sweep(lens, at, changes, {"": summed}).effect[""].unbind(1)
    before = sweep(lens, at, changes[:1], {"": summed}).before[""]
    torch.testing.assert_close(together, 2 * (before + alone) - before, rtol=1e-4, atol=1e-4)
    assert (together - doubled).abs().min() > 1e-3


def test_edits_at_one_point_are_made_in_turn(lens: DiTLens, paths: dict[str, Trajectory]) -> None:
    at, point = lens.evaluation(paths["c"], STEP), "blocks.2.attn.hook_z"
    summed = Readout(lambda v, cache: cache[point].flatten(1).sum(1), (point,))
    add, double, back = edits.add(torch.ones(1)), edits.scale(2.0), edits.scale(0.5)
    orders = [[add, double], [double, add], [double, back]]
    changes = [Intervention([(point, edit) for edit in order]) for order in orders]
    effects = sweep(lens, at, changes, {"": summed})
    count = lens.run_with_cache(paths["c"], step=STEP, names_filter=point)[1][point][0].numel()
    torch.testing.assert_close(effects.effect[""][:, 0] - effects.effect[""][:, 1], torch.full((3,), 1.0 * count))
    assert not effects.effect[""][:, 2].any()  # what a second edit takes back is a change of nothing


def test_a_pattern_edits_every_point_that_it_matches(lens: DiTLens, paths: dict[str, Trajectory]) -> None:
    metric, at = {"": Readout(lambda v, cache: v.flatten(1)[:, ::7].sum(1))}, lens.evaluation(paths["c"], STEP)
    named = [(f"blocks.{b}.attn.hook_z", edits.zero([1])) for b in range(lens.blocks)]
    changes = [Intervention.single("blocks.*.attn.hook_z", edits.zero([1])), Intervention(named)]
    effect = sweep(lens, at, changes, metric).effect[""]
    torch.testing.assert_close(effect[:, 0], effect[:, 1])
    assert effect.abs().min() > 1e-3


def test_a_table_has_the_coordinates_of_its_interventions(lens: DiTLens, paths: dict[str, Trajectory]) -> None:
    """Two of four cells: the others are NaN; without coordinates they are numbered."""
    metric = Readout(lambda v, cache: v.flatten(1)[:, ::7].sum(1))
    cells = [(1, "attn"), (2, "mlp")]
    changes = [
        Intervention.single(f"blocks.{block}.hook_{write}_out", edits.zero(), block=block, write=write)
        for block, write in cells
    ]
    table = over(lens, paths["c"], changes, metric, steps=[1, STEP])
    assert table.effect.dims == ("clip", "step", "block", "write") and dict(table.effect.sizes)["write"] == 2
    bare = over(lens, paths["c"], [Intervention(each.edits) for each in changes], metric, steps=[1, STEP])
    for i, (block, write) in enumerate(cells):
        np.testing.assert_array_equal(table.effect.sel(block=block, write=write), bare.effect.sel(intervention=i))
    assert table.effect.isnull().sum() == table.effect.size / 2
    with pytest.raises(ValueError, match="two interventions at block 1, write attn"):
        over(lens, paths["c"], [changes[0], changes[0]], metric, steps=[1])
    with pytest.raises(ValueError, match="same coordinates"):
        over(lens, paths["c"], [changes[0], Intervention(changes[1].edits, {"block": 2})], metric, steps=[1])


def test_a_screened_table_has_estimates(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    heads = [
        Intervention.single(f"blocks.{block}.attn.hook_z", edits.zero([head]), block=block, head=head)
        for block, head in product(range(READOUT), range(lens.heads))
    ]
    table = over(lens, paths["c"], heads, probe.logit, steps=[STEP], method=Screening(top=2, sample=1))
    exact = over(lens, paths["c"], heads, probe.logit, steps=[STEP])
    assert table.effect.notnull().sum() == 3 * 3 and table.estimate.notnull().all() and abs(table.agreement) <= 1
    np.testing.assert_allclose(table.effect.fillna(exact.effect), exact.effect, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Intervention.single("blocks.1.hook_mlp_out", 3), "pairs of a hook point and a function"),  # type: ignore[arg-type]
        (lambda: Intervention("blocks.1.hook_mlp_out"), "pairs of a hook point and a function"),
        (lambda: Intervention(["blocks.1.hook_mlp_out"]), "pairs of a hook point and a function"),  # type: ignore[list-item]
    ],
)
def test_edits_that_are_no_pairs_are_refused(make: Callable[[], Intervention], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make()


def test_what_is_no_intervention_or_method_is_refused(lens: DiTLens, paths: dict[str, Trajectory]) -> None:
    at, metric = lens.evaluation(paths["c"], STEP), {"": Readout(lambda v, cache: v.flatten(1).sum(1))}
    with pytest.raises(TypeError, match="got a tuple as an intervention"):
        sweep(lens, at, [("blocks.1.hook_mlp_out", edits.zero())], metric)  # type: ignore[list-item]
    change = Intervention.single("blocks.1.hook_mlp_out", edits.zero())
    with pytest.raises(ValueError, match="did you mean"):
        sweep(lens, at, [change], metric, method="exakt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no metrics"):
        sweep(lens, at, [change], {})
