"""Fidelity: measures by hand, statistics on noise that is and is not Gaussian, paths that are and are not the same."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lens import fidelity
from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning, Guidance
from dit_lens.fidelity import Watch, known_noise, noise_statistics, psnr_of, ssim_of, white_noise
from dit_lens.fidelity.paths import _distance
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.trajectory import Trajectory

STEPS = 4


@pytest.fixture(scope="module")
def clips(quadruplets: list[Scene]) -> list:
    return list(quadruplets[0].clips[:2])


@pytest.fixture(scope="module")
def trajectory(lens: DiTLens, clips: list) -> Trajectory:
    return lens.invert(clips, STEPS, "heun")


# Images.


def test_psnr_of_each_clip_by_hand() -> None:
    reference = torch.zeros(3, 3, 2, 4, 4)
    video = reference + torch.tensor([0.2, 0.02, 5.0]).view(3, 1, 1, 1, 1)
    # Peak to peak 2: -10 log10(e^2 / 4); what is beyond 1 is shown as 1.
    assert psnr_of(video, reference).tolist() == pytest.approx([20.0, 40.0, 10 * np.log10(4)], abs=1e-4)


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Window by window, for one image with values of range 2."""
    distance = np.arange(11) - 5
    row = np.exp(-(distance**2) / (2 * 1.5**2))
    weights = np.outer(row, row) / row.sum() ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_ssim_equals_the_formula_window_by_window(generator: torch.Generator) -> None:
    x, y = torch.rand(2, 2, 3, 2, 14, 13, generator=generator) * 2 - 1
    expected = [
        np.mean([slow_ssim(x[b, c, f].numpy(), y[b, c, f].numpy()) for c in range(3) for f in range(2)])
        for b in range(2)
    ]
    assert ssim_of(x, y).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_is_one_where_videos_are_equal_and_falls_with_noise(videos: Tensor, generator: torch.Generator) -> None:
    some = videos[:2]
    noise = torch.randn(some.shape, generator=generator)
    values = [float(ssim_of(some + level * noise, some).mean()) for level in (0.0, 0.01, 0.1, 0.5)]
    assert values[0] == pytest.approx(1.0) and all(a > b + 0.01 for a, b in itertools.pairwise(values))
    flat = [float(ssim_of(torch.full((1, 3, 1, 11, 11), 0.5), torch.full((1, 3, 1, 11, 11), -0.5)))]
    assert flat == pytest.approx([(-2 * 0.25 + 0.0004) / (2 * 0.25 + 0.0004)])


def test_ssim_of_frames_smaller_than_its_window_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 11 pixels"):
        ssim_of(torch.zeros(1, 3, 1, 10, 20), torch.zeros(1, 3, 1, 10, 20))


# Noise.


def away(noise: Tensor) -> dict[str, float]:
    """Mean deviation of each statistic over clips and channels, in its own standard deviations."""
    statistics = noise_statistics(noise)
    z = (statistics.value - statistics.expected) / statistics.spread
    return {str(name): float(z.sel(statistic=name).mean()) for name in z.statistic.values}


def test_gaussian_noise_is_as_expected_with_the_spread_that_is_told(generator: torch.Generator) -> None:
    statistics = noise_statistics(torch.randn(40, 16, 5, 8, 8, generator=generator))
    z = (statistics.value - statistics.expected) / statistics.spread
    assert (np.abs(z.mean(("clip", "channel"))) < 0.15).all()
    assert (np.abs(z.std(("clip", "channel")) - 1) < 0.1).all()


SPOILED = {
    "mean": lambda x: x + 0.5,
    "std": lambda x: 0.7 * x,
    "kurtosis": lambda x: torch.sign(x) * x.abs() ** 1.5 / 1.26,
    "lag-1, frame": lambda x: (x + x.roll(1, 2)) / 2**0.5,
    "lag-1, row": lambda x: (x + x.roll(1, 3)) / 2**0.5,
    "lag-1, column": lambda x: (x + x.roll(1, 4)) / 2**0.5,
}


@pytest.mark.parametrize("statistic", SPOILED)
def test_each_statistic_finds_what_it_is_for(statistic: str, generator: torch.Generator) -> None:
    deviations = away(SPOILED[statistic](torch.randn(20, 16, 6, 8, 8, generator=generator)))
    assert abs(deviations.pop(statistic)) > 4
    correlated = {name for name in deviations if name.startswith("lag")} if statistic == "kurtosis" else set(deviations)
    assert all(abs(deviations[name]) < 1 for name in correlated - {"std"})


def test_the_lag_of_an_alternating_pattern_by_hand() -> None:
    x = torch.tensor([1.0, -1.0]).repeat(4).view(1, 1, 8, 1, 1).expand(1, 1, 8, 2, 2)
    values = noise_statistics(x).value.squeeze().to_series()
    assert values["lag-1, frame"] == pytest.approx(-1) and values["lag-1, row"] == pytest.approx(1)
    assert values["kurtosis"] == pytest.approx(-2) and values["mean"] == 0
    assert "lag-1, column" not in noise_statistics(x[..., :1]).statistic


# Paths.


def test_relative_errors_by_hand() -> None:
    true = torch.full((2, 1, 1, 1, 1, 4), 2.0)
    assert fidelity.relative_error(true + torch.tensor([1.0, 0.5]).view(2, 1, 1, 1, 1, 1), true).tolist() == [
        [0.5],
        [0.25],
    ]


def test_distances_of_patterns_and_logits_by_hand() -> None:
    first, second = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    assert _distance("pattern 0.1", first, second).tolist() == [0.5]
    assert _distance("logit", torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])).tolist() == [0.5, 4.0]


def test_the_round_trip_of_implicit_euler_is_exact_and_eulers_is_not(lens: DiTLens, clips: list) -> None:
    exact, _ = fidelity.round_trip(lens, lens.invert(clips, STEPS, "implicit_euler"))
    plain, back = fidelity.round_trip(lens, lens.invert(clips, STEPS, "euler"))
    assert exact.max() < 1e-5 < 1e-3 < plain.max()
    assert plain.dims == ("step", "clip") and (plain[-1] == 0).all() and back.direction == "sample"


def test_halving_the_steps_of_euler_halves_what_halving_changes(
    lens: DiTLens, trajectory: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens.model, "velocity", lambda evaluation: 1.5 * evaluation.inputs["hidden_states"])

    def moved(steps: int, solver: str) -> float:
        path = lens.invert(trajectory.latents[0], [step / steps for step in range(steps + 1)], solver)
        return float(fidelity.convergence(lens, path)[-1].mean())

    for solver, ratio in (("euler", 2), ("heun", 4)):
        assert moved(64, solver) / moved(128, solver) == pytest.approx(ratio, rel=0.05)


@pytest.fixture(scope="module")
def probe(lens: DiTLens) -> Probe:
    return Probe(torch.linspace(-1, 1, 128), 0.3, 1.0, Reads("blocks.2.hook_resid_post", 2, 0.5, lens.name))


def test_noise_that_is_known_is_found_again(lens: DiTLens, trajectory: Trajectory, probe: Probe) -> None:
    noise = white_noise(3, trajectory.latents[0], 0)
    watch = Watch(steps=(0, STEPS), heads=((1, 2), (5, 0)), probe=probe)
    table = known_noise(lens, noise, STEPS, "implicit_euler", watch)
    streams = [f"resid_post {block}" for block in range(6)]
    assert list(table.measure.values) == ["latent", *streams, "pattern 1.2", "pattern 5.0", "logit"]
    latent, from_video = table.error.sel(start="sampled latent"), table.error.sel(start="encoded video")
    assert latent.sel(step=STEPS).max() < 1e-4
    assert (from_video.sel(step=0) > 10 * latent.sel(step=0)).all(("clip",)).sel(measure="latent")
    assert (from_video < table.between).sel(step=STEPS, measure=["latent", *streams]).all()
    # Independent noises of one length are a right angle apart.
    assert table.between.sel(measure="latent", step=STEPS).values == pytest.approx(2**0.5, rel=0.05)
    assert table.error.sel(step=1).isnull().all("clip").sum() == 2 * (table.sizes["measure"] - 1)
    assert float(table.between.sel(measure="pattern 1.2").max()) <= 1


def test_a_coarse_inversion_misses_the_noise_that_a_fine_one_finds(lens: DiTLens, trajectory: Trajectory) -> None:
    noise = white_noise(2, trajectory.latents[0], 0)
    errors = [known_noise(lens, noise, n, "euler").error.isel(step=-1, start=0, measure=0).mean() for n in (4, 16)]
    assert errors[0] > 2 * errors[1] > 0
    with pytest.raises(ValueError, match="got noise for 1 clip"):
        known_noise(lens, noise[:1], 4)


# Labels.


def test_predictors_by_hand(lens: DiTLens, trajectory: Trajectory) -> None:
    straight = lens.noising(trajectory.latents[0], trajectory.latents[-1], STEPS)
    error = fidelity.round_trip(lens, trajectory)[0]
    predictors = fidelity.predictors(straight, error)
    distance = (trajectory.latents[-1] - trajectory.latents[0]).flatten(1).norm(dim=1).numpy()
    assert predictors["|v|"] == pytest.approx(distance, rel=1e-4)
    assert predictors["|x_σ - x_0|"] == pytest.approx(distance * np.mean(straight.schedule.sigmas[1:]), rel=1e-4)
    assert predictors["round-trip error"] == pytest.approx(error.mean("step").values)


# The report.


def test_a_report_tells_well_from_badly(lens: DiTLens, clips: list) -> None:
    good, bad = lens.invert(clips, STEPS, "implicit_euler"), lens.invert(clips, STEPS, "euler")
    well, badly = (fidelity.verdict(lens.fidelity(path, clips)) for path in (good, bad))
    assert len(well) == len(badly) == 6
    assert "within 3%" in well[0] and "within 0.5 dB" in well[1] and "no step was left unsolved" in well[5]
    assert "the sampled latent and" in well[2]
    spoiled = lens.fidelity(good, clips)
    spoiled["round_trip"] += 0.05
    spoiled["psnr"].loc[{"comparison": fidelity.TO_SOURCE}] -= 1
    spoiled["converged"][0] = False
    lines = fidelity.verdict(spoiled)
    assert (
        "MORE THAN 3%" in lines[0] and "MORE THAN 0.5 dB" in lines[1] and "50% of the clips have UNSOLVED" in lines[5]
    )


def test_a_report_holds_what_its_parts_measure(lens: DiTLens, trajectory: Trajectory, clips: list) -> None:
    whole = lens.fidelity(trajectory, clips, watch=Watch(steps=(1,)))
    error, _ = fidelity.round_trip(lens, trajectory)
    assert np.array_equal(whole.round_trip, error)
    ceiling = psnr_of(lens.decode(trajectory), torch.stack([to_video(clip) for clip in clips]))
    assert whole.psnr.sel(comparison=fidelity.CEILING).values == pytest.approx(ceiling.numpy())
    assert np.array_equal(whole.noise, noise_statistics(trajectory.latents[-1]).value)
    assert (whole.evaluations == 2 * STEPS).all() and whole.converged.all()
    assert whole.known_error.sel(step=1).notnull().all() and whole.attrs["solver"] == "heun"
    without = lens.fidelity(trajectory)
    assert list(without.comparison.values) == [fidelity.TO_CEILING]
    assert "the source was not given" in fidelity.verdict(without)[1]


def to_video(clip) -> Tensor:
    return torch.from_numpy(clip.frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def test_a_report_needs_a_whole_inversion_and_its_own_clips(
    lens: DiTLens, trajectory: Trajectory, clips: list, quadruplets: list[Scene]
) -> None:
    with pytest.raises(ValueError, match="got a path by sample · expected an inversion"):
        lens.fidelity(lens.sample(trajectory))
    with pytest.raises(IndexError, match="stopped"):
        lens.fidelity(lens.invert(clips, STEPS, until=2))
    with pytest.raises(ValueError, match=r"expected \(2, 3, 17, 32, 32\), those that were inverted"):
        lens.fidelity(trajectory, quadruplets[0].clips)


def test_a_report_of_an_opened_trajectory_is_the_same(
    lens: DiTLens, trajectory: Trajectory, clips: list, tmp_path: Path
) -> None:
    again = Trajectory.open(trajectory.save(tmp_path / "path.h5"))
    assert fidelity.verdict(lens.fidelity(again, clips)) == fidelity.verdict(lens.fidelity(trajectory, clips))


# Its cost.


def counted(lens: DiTLens, run: Callable[[], object]) -> int:
    """Clips that the transformer itself is called for, call by call."""
    clip_counts: list[int] = []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: clip_counts.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    run()
    handle.remove()
    return sum(clip_counts)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "fireflow"])
@pytest.mark.parametrize(("scale", "watch"), [(None, Watch(steps=())), (3.0, Watch(steps=(0, 2)))])
def test_a_report_costs_what_is_said_before(
    solver: str, scale: float | None, watch: Watch, lens: DiTLens, clips: list
) -> None:
    negative = Conditioning({"encoder_hidden_states": 1 - lens.conditioning.tensors["encoder_hidden_states"]})
    guidance = None if scale is None else Guidance(scale, negative)
    for some in (clips, clips[:1]):  # of one clip two known noises are needed
        path = lens.invert(some, 2, solver, guidance=guidance)
        said = fidelity.cost(lens, path, watch).evaluations
        assert counted(lens, lambda path=path: lens.fidelity(path, watch=watch)) == said
        assert counted(lens, lambda path=path: fidelity.cost(lens, path, watch)) == 1
        assert said != fidelity.cost(lens, path, Watch(steps=(1, 2, 0))).evaluations


def test_implicit_steps_cost_about_what_is_said(lens: DiTLens, clips: list) -> None:
    path = lens.invert(clips, STEPS, "implicit_euler")
    took = counted(lens, lambda: lens.fidelity(path))
    assert took / 2 < fidelity.cost(lens, path).evaluations < 2 * took


def test_cost_and_progress_are_shown_where_they_are_asked_for_and_nothing_else_is(
    lens: DiTLens, trajectory: Trajectory, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = lens.fidelity(trajectory)
    assert capsys.readouterr() == ("", "")
    shown = lens.fidelity(trajectory, progress=True)
    said, bars = capsys.readouterr().err.split("\n", 1)
    assert re.match(r"fidelity: about 96 evaluations of one clip, \S+ s each: at most \d+ s, less in batches", said)
    assert all(f"{name}: 100%" in bars for name in ("and back", "half the step", "known noise"))
    assert "| 5/5 [" in bars and "| 9/9 [" in bars  # levels, and twice as many steps
    assert shown.identical(plain)


def test_a_cost_is_said_in_seconds_minutes_and_hours() -> None:
    for seconds, said in ((0.02, "1 s"), (80, "80 s"), (600, "10 min"), (9000, "2.5 h")):
        assert f"at most {said}, less" in str(fidelity.Cost(100, seconds / 100))
