"""Knowing against showing: margins by hand, a model that knows or shows, or neither; table and figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from analyses import command
from analyses.know_and_show import MEASURES, Config, by_pair, showing, true_clips
from dit_lens import results
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.know_and_show import LEAD, gap, preferred, scores, table, verdict
from dit_lens.measures.selection import ALL
from dit_lens.toy import behaviour
from dit_lens.toy.behaviour import FirstHalves
from dit_lens.toy.miniphys import MiniPhys

TINY = [
    "--properties", "inertia", "colour", "--train", "8", "--test", "6", "--draws", "1", "--sigmas", "0.6",
    "--read-at", "11", "--sampling", "2", "--controls", "mini-wan-random",
]  # fmt: skip


@pytest.fixture(scope="module")
def batch() -> list[Scene]:
    return MiniPhys("test", 6, ["colour", "inertia", "incline"])[:]


def planted(margin: np.ndarray) -> xr.Dataset:
    """A result of one model from margins (measure, scene, pair); the last two scenes are not crossed."""
    n = margin.shape[1]
    coordinates = {
        "model": ["planted"],
        "measure": list(MEASURES),
        "scene": [str(i) for i in range(n)],
        "role": list("ABCD"),
        "property": ("scene", ["colour"] * (n - 2) + ["incline"] * 2),
        "crossed": ("scene", [True] * (n - 2) + [False] * 2),
    }
    ceiling = np.tile([0.9, 0.8, -0.9, 0.1], (n, 1))
    return xr.Dataset(
        {
            "margin": (("model", "measure", "scene", "pair"), margin[None]),
            "ceiling": (("scene", "role"), ceiling),
        },
        coordinates,
    )


def test_scores_by_hand() -> None:
    margin = np.zeros((len(MEASURES), 6, 2))
    margin[0] = [[3, -1], [3, -1], [2, 1], [-1, 3], [-5, 1], [-5, 1]]  # content moves both pairs apart; the sum tells
    margin[1, :, 0] = [1, 1, -1, -1, 1, 1]
    result = planted(margin)
    votes = preferred(result).isel(model=0)
    assert votes.sel(measure="knowing").values.tolist() == [1, 1, 1, 1, 0, 0]
    assert (votes.sel(measure=LEAD[-1]) == 0.5).all()  # a tie
    measured = scores(result).isel(model=0)
    assert measured.share.sel(property=ALL).values[:3] == pytest.approx([1, 0.5, 0.5])
    assert measured.share.sel(property="incline").values[:3] == pytest.approx([0, 1, 0.5])
    assert measured.n.values.tolist() == [4, 4, 2]
    assert measured.ceiling.values == pytest.approx(1)
    result["ceiling"] = result.ceiling + xr.DataArray([0, 0, 2, 0], dims="role")  # C and D are taken for possible
    assert scores(result).ceiling.values == pytest.approx(0.5)
    same = 0.025**0.25  # the least part of all scenes that is like these four, where four of it are drawn by chance
    assert gap(result, "planted") == pytest.approx((0.5, 2 * 0.75 * same - 1, 1 - 2 * 0.25 * same))


def test_pairs_of_several_violations_without_ground_truth_by_hand() -> None:
    """Single pairs of three clips, the first with two violations, judged 1 and 0: half a vote."""
    margin = np.array([[1.0], [-1.0], [2.0], [3.0]])
    result = xr.Dataset(
        {"margin": (("model", "measure", "scene", "pair"), margin[None, None])},
        {"model": ["m"], "measure": ["knowing"], "pair": ["A, C"], "group": ("scene", ["x", "x", "y", "z"])},
    )
    measured = scores(result)
    assert float(measured.share.squeeze()) == pytest.approx((0.5 + 1 + 1) / 3) and int(measured.n[0]) == 3
    assert gap(result, "m") is None and "ceiling" not in measured
    assert (
        "by its states (by a probe) in 0.83 [0.03, 1.00] of the scenes (n = 4 scenes in 3 groups, chance 0.5)"
        in verdict(result)
    )
    assert verdict(result).endswith("Knowing is not above chance (0.5); no control was run.")
    for full in (False, True):
        assert "knowing - showing" not in table(result, full) and "nan" not in table(result, full)


def test_the_verdict_tells_knowing_from_showing() -> None:
    margin = np.ones((len(MEASURES), 18, 2))
    margin[2, :16] *= np.tile([[1], [-1], [-1], [-1]], (4, 1))
    said = verdict(planted(margin))
    # Differences of 0 and 1, by log odds of (1 + .75) / 2.
    odds, reach = np.log(7), 2.1314 * (3 / 16 / 15) ** 0.5 / 2 / (7 / 64)
    low, high = (2 / (1 + np.exp(-odds - side * reach)) - 1 for side in (-1, 1))
    assert f"knows more than it shows (difference +0.75 [{low:+.2f}, {high:+.2f}])" in said
    assert "16 crossed scenes" in said and "true clips: 1.00" in said and "Showing is not above chance" in said
    few = verdict(planted(margin[:, 12:]))
    assert "do not clearly differ (difference +0.75 [-0.69, +0.99])" in few and "4 crossed scenes" in few


def test_pairs_are_possible_minus_impossible() -> None:
    values = xr.DataArray([[5.0, 3.0, 1.0, 2.0]], {"scene": ["x"], "role": list("ABCD")}, ("scene", "role"))
    assert by_pair(values).values.tolist() == [[4.0, 1.0]]
    assert by_pair(values.sel(role=list("DCBA"))).values.tolist() == [[4.0, 1.0]]


@pytest.mark.parametrize(("ends", "wins"), [("possible", 1.0), ("impossible", 0.0)])
def test_who_goes_on_as_the_world_does_shows_it(
    ends: str, wins: float, lens: DiTLens, batch: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def oracle(lens: DiTLens, halves: FirstHalves, steps: int) -> torch.Tensor:
        return getattr(halves, ends)

    monkeypatch.setattr(behaviour, "continued", oracle)
    ordered = showing(lens, batch, Config(batch_size=4)).sel(scene=[scene.id for scene in batch])
    result = ordered.transpose("measure", "scene", "pair").values
    assert result.shape == (4, 6, 2)
    assert (behaviour.shown(result[1:]) == wins).all()  # pixels, latents, encoder
    assert abs(behaviour.shown(result[0, :2].sum(-1)).mean() - wins) < 0.01  # a colour and an inertia, by the tracker


def test_the_ceiling_is_of_all_four_clips(lens: DiTLens, batch: list[Scene]) -> None:
    clips = true_clips(lens, batch[:2])
    assert clips.ceiling.dims == ("scene", "role") and clips.found.sizes["half"] == 2
    assert (clips.ceiling.sel(role=["A", "B"]) > 0).all() and (clips.ceiling.sel(role=["C", "D"]) < 0).all()


def run(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[xr.Dataset, str]:
    """The result of the command, and what it prints."""
    command.call("know_and_show", [*arguments, "--full", "--out", str(folder)])
    (path,) = folder.glob("know_and_show-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    return results.open_result(path), capsys.readouterr().out


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, printed = run(TINY, tmp_path, capsys)
    assert printed.index("true clips through the autoencoder") < printed.index("mini-wan-random  ")
    assert all(printed.count(f"{measure}  ") == 2 for measure in MEASURES) and printed.count("knowing - showing") == 2
    assert np.isfinite(result.margin).all() and result.crossed.all()
    assert result.ceiling.sel(role=["A", "B"]).min() > 0 > result.ceiling.sel(role=["C", "D"]).max()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--test", "1"], "1 test scenes"),
        (
            ["--properties", *["permanence", "shape", "colour", "gravity", "inertia", "gate"], "--train", "5"],
            "without gate",
        ),
        (["--path", "inversion"], "expected continuation"),
        (["--draws", "0"], "1 draw"),
    ],
)
def test_what_cannot_be_answered_ends_in_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run([*TINY, *arguments], tmp_path, capsys)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("error: got") and says in last
