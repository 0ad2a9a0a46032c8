"""Surprise: scores of errors by hand, scenes that a condition does not score, verdicts, the command and its figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyses.command
from analyses.surprise import Config, run
from dit_lens import results
from dit_lens.measures.surprise import CONDITION, CONDITIONS, benchmark_scores, pooled_in, scores, table, verdict
from figures.surprise import draw

FEW = ["--controls", "mini-wan-random", "--test", "4", "--properties", "colour", "inertia", "--draws", "1"]


def test_scores_by_hand() -> None:
    errors = np.array([[1.0, 3.0, 2.2, 2.2], [2.0, 2.0, 2.0, 2.4], [1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0]])
    properties = ["colour", "colour", "incline", "incline"]
    coordinates = {
        "property": ("scene", properties),
        "crossed": ("scene", [p == "colour" for p in properties]),
        "role": list("ABCD"),
    }
    measured = scores(xr.DataArray(errors[None], dims=("model", "scene", "role"), coords=coordinates))
    assert list(measured.property.values) == ["all", "colour", "incline"]
    assert measured.surprise.squeeze().values == pytest.approx([10.0, 10.0, 800.0])
    assert measured.share.squeeze().values == pytest.approx([1.0, 1.0, 1.0])
    assert (measured.low <= measured.surprise).all() and (measured.surprise <= measured.high).all()


def pairs(models: dict[str, list[list[float]]], groups: list[str]) -> xr.Dataset:
    """Errors (scene, role) of single pairs A, C by model, in one condition at one level."""
    values = np.array(list(models.values()))[:, None, None]
    coordinates = {"model": list(models), "condition": ["whole clip"], "sigma": [0.5], "role": ["A", "C"]}
    return xr.Dataset(
        {"error": (("model", "condition", "sigma", "scene", "role"), values)},
        coordinates | {"group": ("scene", groups), "scene": [str(i) for i in range(len(groups))]},
    )


def test_violations_of_one_valid_clip_are_one_observation() -> None:
    """Pairs of three valid clips, the first with three violations of surprise 1, 2 and 3: one observation of 2."""
    result = pairs({"m": [[2, 3], [2, 4], [2, 5], [1, 5], [1, 4]]}, ["x", "x", "x", "y", "z"])
    measured = scores(result.error).squeeze()
    assert float(measured.surprise) == pytest.approx(100 * (2 + 4 + 3) / (2 + 1 + 1))
    assert float(measured.d_prime) == pytest.approx(3 / 1)  # of 2, 4, 3
    assert list(measured.property.values.ravel()) == ["all"]  # without properties all there is


def test_without_controls_or_with_a_control_that_does_as_well_the_verdict_says_so() -> None:
    rising = [[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]]
    alone = verdict(pairs({"m": rising}, list("xyz")))
    assert "133.3% [60.8, 384.7] larger on impossible" in alone and "(n = 3 scenes" in alone
    assert alone.endswith("This is above 0, but no control was run.")
    both = verdict(pairs({"m": rising, "r": rising}, list("xyz")))
    assert "no more than in the controls: r (+133.3 [+60.8, +384.7])" in both
    flat = pairs({"m": rising, "r": [[1.0, 1.0]] * 3}, list("xyz"))
    assert verdict(flat).endswith("above 0 and above the control, r (+0.0 [+0.0, +0.0]).")
    lost = verdict(pairs({"m": [[3.0, 1.0], [3.0, 4.0], [1.0, 1.0]]}, list("xyz")))
    assert "smaller on impossible" in lost and "This is not above 0; no control was run." in lost
    for full in (False, True):
        assert "r  " in table(flat, full) and "nan" not in table(flat, full)
    assert "AUROC" in table(flat, full=True)


def test_of_a_single_scene_there_is_no_interval() -> None:
    result = pairs({"m": [[1.0, 2.0]]}, ["x"])
    assert "+100.00 [one scene]" in table(result) and "there is no conclusion" in verdict(result)
    assert np.isnan(benchmark_scores(result).auroc).all()


def test_a_condition_is_about_the_scenes_that_it_scores() -> None:
    """Of three pairs one does not begin alike: it counts in the whole clip alone."""
    result = pairs({"m": [[1.0, 2.0], [1.0, 4.0], [1.0, 9.0]]}, list("xyz"))
    conditioned = result.assign_coords(condition=[CONDITION]).copy(deep=True)
    conditioned.error[..., 2, :] = np.nan
    both = xr.concat([result, conditioned], "condition")
    both["peak"] = both.error
    assert [pooled_in(both, str(c)) for c in both.condition.values] == ["3 scenes", "2 scenes"]
    measured = scores(both.error.mean("sigma", skipna=False)).sel(property="all").squeeze()
    assert measured.surprise.values == pytest.approx([400.0, 200.0])
    assert "200.0%" in verdict(both) and "(n = 2 scenes" in verdict(both)
    assert (benchmark_scores(both).pairwise == 1).all() and "nan" not in table(both, full=True)
    none = scores(both.error.where(both.condition != CONDITION)).sel(condition=CONDITION)
    assert np.isnan(none.surprise).all()


def call(arguments: list[str], folder: Path) -> Path:
    config = analyses.command.parse(Config, "surprise", [*arguments, "--out", str(folder)], None)
    return analyses.command.answered("surprise", config, run, arguments)[0]


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = call([*FEW, "--read-at", "0.5", "0.8", "--full"], tmp_path)
    printed = capsys.readouterr().out
    assert all(condition in printed for condition in CONDITIONS)
    assert printed.count("\nmini-wan-random") == 2 * len(CONDITIONS)
    assert path.with_suffix(".pdf").stat().st_size > 5000
    result = results.open_result(path)
    assert result.sigma.values.tolist() == [0.5, 0.8] and result.crossed.all()
    measured = scores(result.error.mean("sigma")).surprise.sel(condition=CONDITION, property="all")
    assert float(measured.sel(model="mini-wan")) > 3 > 1 > abs(float(measured.sel(model="mini-wan-random")))
    assert (result.peak >= result.error).all() and (result.peak > result.error).any()


def test_pairs_of_one_condition_are_drawn(tmp_path: Path) -> None:
    """As of data whose clips do not begin alike."""
    result = pairs({"m": [[1.0, 2.0], [1.0, 3.0]]}, list("xy")).assign_coords(property=("scene", ["p", "p"]))
    facts = {"dataset": "d", "split": "s", "seed": 0, "lens": {}, "config": {}}
    result.attrs = {"provenance": results.provenance(**facts)}
    assert draw(result, tmp_path / "surprise.pdf").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--read-at", "0"], "expected steps and noise levels above 0"),
        (["--read-at", "1.2"], "noise level in [0, 1]"),
        (["--read-at"], "expected one or more places"),
        (["--draws", "0"], "at least 1 draw"),
        (["--path", "inversion"], "expected noising"),
    ],
)
def test_bad_levels_draws_and_paths_are_refused(arguments: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got") as refused:
        call([*FEW, *arguments], tmp_path)
    assert says in str(refused.value) and not list(tmp_path.iterdir())


def peaked() -> xr.Dataset:
    """Two scenes; impossible clips err no more on average, but the second scene's do at their peak."""
    mean = np.array([[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 3.0, 4.0]])
    peak = np.array([[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 8.0, 9.0]])
    names = ("model", "condition", "sigma", "scene", "role")
    values = {key: (names, np.stack([x, x])[None, None]) for key, x in {"error": mean, "peak": peak}.items()}
    coordinates = {"model": ["m"], "condition": ["c"], "scene": ["a", "b"], "crossed": ("scene", [1, 1])}
    coordinates["role"] = list("ABCD")
    return xr.Dataset(values, coordinates)


def test_benchmark_scores_of_mean_and_peak_by_hand() -> None:
    result = benchmark_scores(peaked()).squeeze()
    assert result.pairwise.values == pytest.approx([0.5, 0.75])
    assert result.relative_error.values == pytest.approx([0.0, 0.0])  # ties are no error
    # Of 4 x 4 pairs at the peak: 1 against 1, 2, 8, 9; 2 likewise; 3 and 4 lose to 8 and 9 only.
    assert result.auroc.values == pytest.approx([0.5, (3.5 + 2.5 + 2 + 2) / 16])
    assert (result.auroc_low <= result.auroc).all() and (result.auroc <= result.auroc_high).all()
