"""Attributions are complete, exact where the metric is linear, and zero where the clips agree."""

from __future__ import annotations

from collections.abc import Iterator

import micro_dit
import pytest
import torch
from micro_dit import MicroDiT, set_by_hand

from dit_lens import datasets, edits, families
from dit_lens.attribution import (
    Integral,
    Smoothing,
    conductance,
    gradient_times_difference,
    integrated_gradients,
    smooth_gradients,
)
from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout, VelocityProjection
from dit_lens.probing import Probe, Reads
from dit_lens.running import Evaluation, Request
from dit_lens.trajectory import Trajectory

STEP, READOUT = 3, 3
POINT = f"blocks.{READOUT}.hook_resid_post"
FIRST_HALF = 3  # latent frames
Z = "blocks.1.attn.hook_z"


@pytest.fixture(scope="module")
def paths(lens: DiTLens) -> dict[str, Trajectory]:
    """A, C and D of two quadruplets, noised by one noise: A and C are fed the same first half, A and D the second."""
    quadruplets = list(datasets.load("miniphys", split="test", quadruplets=2, properties=("inertia", "gravity")))
    latents = {role: lens.encode([q[role.upper()] for q in quadruplets]) for role in "acd"}
    noise = torch.randn(latents["a"].shape, generator=torch.Generator().manual_seed(1))
    return {role: lens.noising(latent, noise, steps=4) for role, latent in latents.items()}


@pytest.fixture(scope="module")
def probe() -> Probe:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    return Probe(weight, 0.3, 1.0, Reads(POINT, STEP, 0.8, "random"))


@pytest.fixture(scope="module")
def pair(lens: DiTLens, paths: dict[str, Trajectory]) -> tuple[Evaluation, Evaluation]:
    return lens.evaluation(paths["a"], STEP), lens.evaluation(paths["c"], STEP)


def logits(lens: DiTLens, path: Trajectory, probe: Probe) -> torch.Tensor:
    _, cache = lens.run_with_cache(path, step=STEP, names_filter=POINT)
    return probe.of_activation(cache[POINT])


@pytest.mark.parametrize(
    "point", ["hook_latent", "hook_embed", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_post", POINT]
)
def test_at_a_stream_the_sum_is_the_whole_change_between_the_runs(
    point: str, lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    attribution = integrated_gradients(
        lens, (paths["a"], STEP), (paths["c"], STEP), point, probe.logit, Integral(steps=12)
    )[point]
    total = logits(lens, paths["a"], probe) - logits(lens, paths["c"], probe)
    torch.testing.assert_close(attribution.values.flatten(1).sum(1), total, rtol=1e-4, atol=1e-6)
    assert total.abs().min() > 1e-3 and attribution.delta.max() < 1e-3


@pytest.mark.parametrize("point", ["blocks.2.attn.hook_z", "blocks.3.attn.hook_q", "blocks.1.hook_mlp_out"])
def test_inside_a_block_the_sum_is_the_effect_of_patching_the_point(
    point: str, lens: DiTLens, paths: dict[str, Trajectory], pair: tuple[Evaluation, Evaluation], probe: Probe
) -> None:
    attribution = integrated_gradients(lens, *pair, point, probe.logit, Integral(steps=8))[point]
    source = lens.run_with_cache(paths["a"], step=STEP, names_filter=point)[1][point]
    with lens.hooks([(point, edits.patch(source))]):
        effect = logits(lens, paths["c"], probe)
    effect = effect - logits(lens, paths["c"], probe)
    torch.testing.assert_close(attribution.values.flatten(1).sum(1), effect, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attribution.change, effect, rtol=1e-4, atol=1e-6)
    assert effect.abs().min() > 1e-5


def test_a_velocity_is_a_metric_too(lens: DiTLens, pair: tuple[Evaluation, Evaluation]) -> None:
    integral = Integral(steps=8, batch_size=6)  # several forwards
    point = "blocks.1.hook_resid_pre"
    attribution = integrated_gradients(lens, *pair, point, VelocityProjection(), integral)[point]
    clean, corrupted = (lens.model.velocity(evaluation).detach() for evaluation in pair)
    length = (clean - corrupted).flatten(1).norm(dim=1)
    torch.testing.assert_close(attribution.values.flatten(1).sum(1), length, rtol=1e-4, atol=1e-6)


def test_at_the_readout_each_value_is_its_own_term(
    lens: DiTLens, paths: dict[str, Trajectory], pair: tuple[Evaluation, Evaluation], probe: Probe
) -> None:
    clean, corrupted = (lens.run_with_cache(paths[r], step=STEP, names_filter=POINT)[1][POINT] for r in "ac")
    terms = (clean - corrupted) * probe.weight / clean.shape[1]
    for attributions in (
        integrated_gradients(lens, *pair, POINT, probe.logit, Integral(steps=3)),
        gradient_times_difference(lens, *pair, POINT, probe.logit),
        smooth_gradients(lens, *pair, POINT, probe.logit, Smoothing(samples=2)),
        conductance(lens, *pair, POINT, probe.logit, steps=1),
    ):
        torch.testing.assert_close(attributions[POINT].values, terms, rtol=1e-4, atol=1e-7)


def test_where_the_clips_agree_nothing_is_attributed(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    integral = Integral(steps=8)
    for role, shared, differing in (("c", slice(None, FIRST_HALF), slice(FIRST_HALF, None)),
                                ("d", slice(FIRST_HALF, None), slice(None, FIRST_HALF))):  # fmt: skip
        points = ["hook_latent", "hook_embed"]
        attributions = integrated_gradients(
            lens, (paths["a"], STEP), (paths[role], STEP), points, probe.logit, integral
        )
        for point in points:
            by_frame = attributions[point].over("b f")
            assert (by_frame[:, shared] == 0).all() and (by_frame[:, differing].abs() > 0).any(1).all()


def test_the_same_clip_twice_has_no_attribution(
    lens: DiTLens, pair: tuple[Evaluation, Evaluation], probe: Probe
) -> None:
    (attribution,) = integrated_gradients(lens, pair[0], pair[0], Z, probe.logit, Integral(steps=2)).values()
    assert not attribution.values.any() and not attribution.change.any() and not attribution.delta.any()


def test_sums_over_axes_and_other_baselines(lens: DiTLens, pair: tuple[Evaluation, Evaluation], probe: Probe) -> None:
    integral = Integral(steps=8, around="clean", baseline=0.0)
    (attribution,) = integrated_gradients(lens, *pair, Z, probe.logit, integral).values()
    assert attribution.over("b k").shape == (2, 4) and attribution.over("b k n").shape == (2, 4, 80)
    torch.testing.assert_close(attribution.over("b f h w").sum((1, 2, 3)), attribution.over("b k").sum(1))
    torch.testing.assert_close(attribution.over("b f h w k")[:, 1, 2, 3], attribution.values[:, 16 + 2 * 4 + 3].sum(-1))
    with lens.hooks([(Z, edits.zero())]):
        _, silent = lens.model.run(pair[0], Request(POINT))
    _, whole = lens.model.run(pair[0], Request(POINT))
    effect = (probe.of_activation(whole[POINT]) - probe.of_activation(silent[POINT])).detach()
    torch.testing.assert_close(attribution.over("b"), effect, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="axis c"):
        attribution.over("b c")


# First order, noise, conductance.


def test_the_first_order_estimate_is_the_slope_at_the_corrupted_run(
    lens: DiTLens, pair: tuple[Evaluation, Evaluation], probe: Probe
) -> None:
    point = "blocks.1.hook_resid_post"
    attribution = gradient_times_difference(lens, *pair, point, probe.logit)[point]
    small = 1e-2  # central differences: a short way toward the clean run and as far away from it
    values = [lens.model.run(evaluation, Request(point))[1][point].detach() for evaluation in pair]

    def at(share: float) -> torch.Tensor:
        with lens.hooks([(point, lambda x, hook: values[1] + share * (values[0] - values[1]))]):
            return probe.of_activation(lens.model.run(pair[1], Request(POINT))[1][POINT]).detach()

    slope = (at(small) - at(-small)) / (2 * small)
    torch.testing.assert_close(attribution.over("b"), slope, rtol=5e-3, atol=1e-4)
    assert attribution.delta.max() > 1e-3  # it is no integral


def test_smooth_gradients_without_noise_are_the_slope_at_the_clean_run(
    lens: DiTLens, pair: tuple[Evaluation, Evaluation], probe: Probe
) -> None:
    point = Z
    still, noisy, again = (
        smooth_gradients(lens, *pair, point, probe.logit, Smoothing(samples=2, share=share))[point]
        for share in (0.0, 0.2, 0.2)
    )
    clean = gradient_times_difference(lens, *pair, point, probe.logit, at="clean")[point]
    torch.testing.assert_close(still.values, clean.values)
    assert not torch.allclose(still.values, gradient_times_difference(lens, *pair, point, probe.logit)[point].values)
    assert torch.equal(noisy.values, again.values) and not torch.allclose(noisy.values, still.values, rtol=1e-3)


def test_conductance_through_a_stream_is_whole_and_of_the_latent_is_its_gradients(
    lens: DiTLens, pair: tuple[Evaluation, Evaluation], probe: Probe
) -> None:
    streams = ["hook_embed", "blocks.1.hook_resid_post", POINT]
    attributions = conductance(lens, *pair, [*streams, "blocks.2.attn.hook_z"], probe.logit, steps=8)
    for name in streams:
        torch.testing.assert_close(attributions[name].over("b"), attributions[name].change, rtol=5e-3, atol=1e-4)
    (embedded,) = integrated_gradients(lens, *pair, "hook_embed", probe.logit, Integral(steps=8)).values()
    torch.testing.assert_close(attributions["hook_embed"].over("b f"), embedded.over("b f"), rtol=1e-2, atol=1e-4)
    assert attributions["blocks.2.attn.hook_z"].delta.min() > 0.01  # most goes round it


# The micro DiT: numbers worked out by hand.

SIGMA = 0.5  # gates of block 0: 0.2 and 0.5, of block 1: 0.5 and 0.4
RECIPIENT, SOURCE = (  # (a, b, marker) of the tokens of frame 0 and frame 1
    torch.tensor([[a0, a1], [b0, b1], [0, 1]], dtype=torch.float64).reshape(1, 3, 2, 1, 1)
    for (a0, b0), (a1, b1) in ([(1, 2), (3, -1)], [(5, 0), (1, 4)])
)
# Behind block 1 the recipient's stream is (4.438375, 3.685), (4.752375, 2.98775), and its heads mix 2.57 and 1.48875;
# the source's mix 4.92 and 4.2275. With one of them in the recipient:
#   head 0: writes (1.58875, 4.92) * 0.5; mid (2.964375, 4.86), (3.764375, 3.645)
#     MLP (4.86, 0), (3.645, 0.119375) by 0.4: frame 1 becomes (5.222375, 3.69275)
#   head 1: writes (4.3275, 2.57) * 0.5; mid (4.33375, 3.685), (5.13375, 2.47)
#     MLP (3.685, 0.64875), (2.47, 2.66375) by 0.4: frame 1 becomes (6.12175, 3.5355)
# The velocity's first channel is a - b; no unit of the MLP switches in frame 1.
EFFECTS = [(5.222375 - 3.69275) - (4.752375 - 2.98775), (6.12175 - 3.5355) - (4.752375 - 2.98775)]


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> DiTLens:
    monkeypatch.setattr(families, "FAMILIES", (micro_dit.FAMILY, *families.FAMILIES))
    return DiTLens(transformer=set_by_hand(MicroDiT()))


@pytest.fixture
def hand_made(micro: DiTLens) -> tuple[Evaluation, Evaluation]:
    clean, corrupted = (micro.model.evaluation(x, SIGMA, Conditioning({})) for x in (SOURCE, RECIPIENT))
    return clean, corrupted


def test_on_a_linear_stretch_heads_are_told_their_exact_effects(
    micro: DiTLens, hand_made: tuple[Evaluation, Evaluation]
) -> None:
    metric = Readout(lambda velocity, cache: velocity[:, 0, 1, 0, 0])
    by_hand = torch.tensor(EFFECTS, dtype=torch.float64)
    for attributions in (
        integrated_gradients(micro, *hand_made, Z, metric),
        gradient_times_difference(micro, *hand_made, Z, metric),
    ):
        torch.testing.assert_close(attributions[Z].over("b k")[0], by_hand, rtol=0, atol=1e-10)


def test_completeness_in_float64(micro: DiTLens, hand_made: tuple[Evaluation, Evaluation]) -> None:
    metric = Readout(lambda velocity, cache: (velocity**3).flatten(1).sum(1) / 100)
    integral = Integral(steps=8)
    attribution = integrated_gradients(micro, *hand_made, Z, metric, integral)[Z]
    change = attribution.change.abs()
    assert change.min() > 0.1 and ((attribution.over("b") - attribution.change).abs() / change).max() < 1e-8
    first_order = gradient_times_difference(micro, *hand_made, Z, metric)[Z]
    assert first_order.delta.min() > 0.01


@pytest.fixture
def ran(micro: DiTLens) -> Iterator[list[int]]:
    """Which blocks ran their MLP."""
    numbers: list[int] = []
    handles = [
        block.mlp.register_forward_hook(lambda *_, index=index: numbers.append(index))
        for index, block in enumerate(micro.transformer.blocks)
    ]
    yield numbers
    for handle in handles:
        handle.remove()


def test_blocks_before_the_point_are_run_once_per_clip_and_no_more(
    micro: DiTLens, hand_made: tuple[Evaluation, Evaluation], ran: list[int]
) -> None:
    metric = Readout(lambda velocity, cache: velocity[:, 0, 1, 0, 0])
    integrated_gradients(micro, *hand_made, Z, metric, Integral(steps=4, batch_size=1))
    assert ran.count(0) == 2  # the clean run and the corrupted one
    assert ran.count(1) == 2 + 4 + 2  # and every step, and both ends


# What is refused.


def test_a_delta_above_the_limit_is_refused(lens: DiTLens, pair: tuple[Evaluation, Evaluation], probe: Probe) -> None:
    integral = Integral(steps=2, rule="riemann_left", limit=1e-6)
    with pytest.raises(ValueError, match="convergence delta"):
        integrated_gradients(lens, *pair, "blocks.0.hook_resid_pre", probe.logit, integral)
    wide = Integral(steps=2, rule="riemann_left", limit=1e-6, unit=1e9)
    (attribution,) = integrated_gradients(lens, *pair, "blocks.0.hook_resid_pre", probe.logit, wide).values()
    assert attribution.delta.max() < 1e-6


@pytest.mark.parametrize(
    ("point", "error", "says"),
    [
        ("blocks.4.attn.hook_z", ValueError, "lies behind blocks.3.hook_resid_post"),
        ("blocks.1.atn.hook_z", KeyError, "did you mean"),
        ("hook_x0", TypeError, "can only be read"),
    ],
)
def test_points_that_cannot_be_attributed_to(
    point: str, error: type, says: str, lens: DiTLens, pair: tuple[Evaluation, Evaluation], probe: Probe
) -> None:
    with pytest.raises(error, match=says):
        integrated_gradients(lens, *pair, point, VelocityProjection() if point == "hook_x0" else probe.logit)


def test_runs_that_do_not_pair_up_and_hooks_are_refused(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    clean = paths["a"], STEP
    for mismatched in ((paths["c"][:1], STEP), (paths["c"], STEP - 1)):
        with pytest.raises(ValueError, match="expected as many of one size"):
            integrated_gradients(lens, clean, mismatched, POINT, probe.logit)
    with lens.hooks([("hook_embed", edits.scale(1.0))]):
        lens.model.velocity(lens.evaluation(*clean))
        with pytest.raises(RuntimeError, match="active hooks"):
            integrated_gradients(lens, clean, clean, POINT, probe.logit)
