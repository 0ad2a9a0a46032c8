"""Surprise: what adds up over halves cancels, what depends on their match does not; table and figure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import surprise
from analyses.surprise import CONDITIONS, Config, clip_errors, scores
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation
from figures import surprise as figure


@pytest.fixture(scope="module")
def crossed() -> list[Quadruplet]:
    return MiniPhys("test", 4, ["colour", "inertia"])[:]


def contrast(errors: np.ndarray) -> np.ndarray:
    return errors[..., 2] + errors[..., 3] - errors[..., 0] - errors[..., 1]


@pytest.mark.parametrize("match_matters", [False, True])
def test_only_what_depends_on_both_halves_surprises(
    match_matters: bool, lens: DiTLens, crossed: list[Quadruplet], monkeypatch: pytest.MonkeyPatch
) -> None:
    def velocity(evaluation: Evaluation) -> torch.Tensor:
        x = evaluation.inputs["hidden_states"]
        return (
            x.sin() * x.std((1, 2, 3, 4), keepdim=True) if match_matters else x.sin() * x.std((1, 3, 4), keepdim=True)
        )

    monkeypatch.setattr(lens.model, "velocity", velocity)
    errors = clip_errors(lens, crossed, Config(sigmas=(0.3, 0.7), draws=2))
    assert errors.shape == (len(CONDITIONS), 2, len(crossed), 4)
    assert (np.abs(contrast(errors)).max() > 1e-4) == match_matters


def test_a_half_that_is_given_is_fed_clean_and_told_to_be(
    lens: DiTLens, crossed: list[Quadruplet], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Evaluation] = []
    run = lens.model.velocity
    monkeypatch.setattr(lens.model, "velocity", lambda evaluation: (seen.append(evaluation), run(evaluation))[1])
    clip_errors(lens, crossed, Config(sigmas=(0.5,), draws=1))
    noised, given = (evaluation.inputs for evaluation in seen)
    assert (noised["timestep"] == 500).all()
    assert (given["timestep"][:, :48] == 0).all() and (given["timestep"][:, 48:] == 500).all()
    clean = lens.encode([clip for role in range(4) for clip in (q.clips[role] for q in crossed)])
    assert torch.equal(given["hidden_states"][:, :, :3], clean[:, :, :3])
    assert torch.equal(given["hidden_states"][:, :, 3:], noised["hidden_states"][:, :, 3:])


def test_scores_by_hand() -> None:
    errors = np.array([[1.0, 3.0, 2.2, 2.2], [2.0, 2.0, 2.0, 2.4], [1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0]])
    properties = ["colour", "colour", "incline", "incline"]
    coordinates = {
        "property": ("quadruplet", properties),
        "crossed": ("quadruplet", [p == "colour" for p in properties]),
    }
    measured = scores(xr.DataArray(errors[None], dims=("model", "quadruplet", "role"), coords=coordinates))
    assert list(measured.property.values) == ["all", "colour", "incline"]
    assert measured.surprise.squeeze().values == pytest.approx([10.0, 10.0, 800.0])
    assert measured.share.squeeze().values == pytest.approx([1.0, 1.0, 1.0])
    assert (measured.low <= measured.surprise).all() and (measured.surprise <= measured.high).all()


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["surprise", *arguments])
    analyses.command.main(Config, surprise.run, surprise.table, figure.draw, "surprise", surprise.__doc__)


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(
        ["--controls", "mini-wan-random", "--test", "22", "--draws", "1", "--sigmas", "0.5", "0.8"],
        monkeypatch,
        tmp_path,
    )
    told = capsys.readouterr().out
    assert all(condition in told for condition in CONDITIONS) and told.count("mini-wan-random") == 2 * len(CONDITIONS)
    assert (tmp_path / "out" / "surprise.pdf").stat().st_size > 5000


@pytest.mark.parametrize("arguments", [["--sigmas", "0"], ["--sigmas", "1.2"], ["--sigmas"], ["--draws", "0"]])
def test_bad_levels_and_draws_are_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(["--controls", "mini-wan-random", *arguments], monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "expected levels in (0, 1]" in capsys.readouterr().err


def peaked() -> xr.Dataset:
    """Two scenes; impossible clips err no more on average, but the second scene's do at their peak."""
    mean = np.array([[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 3.0, 4.0]])
    peak = np.array([[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 8.0, 9.0]])
    names = ("model", "condition", "sigma", "quadruplet", "role")
    values = {key: (names, np.stack([x, x])[None, None]) for key, x in {"error": mean, "peak": peak}.items()}
    coordinates = {"model": ["m"], "condition": ["c"], "quadruplet": ["a", "b"], "crossed": ("quadruplet", [1, 1])}
    return xr.Dataset(values, coordinates)


def test_benchmark_scores_of_mean_and_peak_by_hand() -> None:
    found = surprise.benchmark_scores(peaked()).squeeze()
    assert found.pairwise.values == pytest.approx([0.5, 0.75])
    assert found.relative_error.values == pytest.approx([0.0, 0.0])  # ties are no error
    # Of 4 x 4 pairs at the peak: 1 against 1, 2, 8, 9; 2 likewise; 3 and 4 lose to 8 and 9 only.
    assert found.auroc.values == pytest.approx([0.5, (3.5 + 2.5 + 2 + 2) / 16])
    assert (found.auroc_low <= found.auroc).all() and (found.auroc <= found.auroc_high).all()


def test_a_brief_surprise_shows_in_the_peak_and_the_mean_is_the_mean_over_time(
    lens: DiTLens, crossed: list[Quadruplet], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(sigmas=(0.5,), draws=1)
    frames = surprise.errors_in_time(lens, crossed, config)
    assert frames.shape == (3, 1, 5, len(crossed), 4)
    assert np.isnan(frames[1:, :, :3]).all() and np.isfinite(frames[1:, :, 3:]).all() and np.isfinite(frames[0]).all()
    assert clip_errors(lens, crossed, config) == pytest.approx(np.nanmean(frames, axis=2))

    def jolted(lens: DiTLens, clean: torch.Tensor, *rest: object) -> torch.Tensor:
        """In impossible clips the error comes all in the last frame."""
        jolt = torch.where(torch.arange(len(clean)) < len(clean) // 2, 0.0, 0.1)[:, None]
        return 1 + jolt * torch.tensor([0.0, 0.0, 0.0, -1.0, 1.0])

    monkeypatch.setattr(surprise, "frame_errors", jolted)
    frames = surprise.errors_in_time(lens, crossed, config)
    assert contrast(np.nanmean(frames, axis=2)) == pytest.approx(0, abs=1e-6)
    assert contrast(np.nanmax(frames, axis=2)) == pytest.approx(0.2, abs=1e-6)
