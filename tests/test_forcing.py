"""Forcing: truth scores best, each scene breaks where it breaks, drift is seen; table and figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from spliced import crossed_at

from analyses import command, forcing
from analyses.forcing import Config, continued, drifted
from dit_lens import results
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.forcing import by_hiding, drift_scores, scores
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.truth import COUNTS, against_truth, ceiling
from dit_lens.video import to_tensor

TINY = [
    "--controls", "mini-wan-random", "--test", "2", "--rolled", "2", "--rounds", "1", "--sampler-steps", "2",
    "--context-noise", "0", "0.4",
]  # fmt: skip
SMALL = Config(path="continuation", sampler_steps=2, read_at=(0.5,), rounds=1, context_noise=(0.1,))


@pytest.fixture(scope="module")
def batch() -> list[Scene]:
    return MiniPhys("test", 4, ["colour", "inertia"])[:]


def video(batch: Sequence[Scene], roles: str = "AB") -> torch.Tensor:
    return to_tensor(np.stack([scene[role].frames for role in roles for scene in batch]))


def test_the_truth_scores_in_full_and_an_impossible_second_half_does_not(batch: list[Scene]) -> None:
    true = scores(against_truth(video(batch), batch))
    assert (true.found, true.place, true.colour) == (1, 1, 1) and true.error < 0.1 and np.isinf(true.psnr)
    crossed = against_truth(video(batch, "CD"), batch)
    properties = np.array([scene.property for scene in batch])
    colour, inertia = (scores(crossed.isel(scene=properties == p)) for p in ("colour", "inertia"))
    assert colour.place == 1 and colour.colour == 0
    assert inertia.found < 0.5 and np.isfinite(inertia.psnr)


def test_only_frames_from_the_break_on_are_scored_of_each_scene_its_own(batch: list[Scene]) -> None:
    half = video(batch)
    half[:, :, : batch[0].splice] = 0
    assert scores(against_truth(half, batch)).equals(scores(against_truth(video(batch), batch)))
    half[:, :, batch[0].splice :] = 0
    gone = scores(against_truth(half, batch))
    assert gone.found == 0 and gone.objects == 0 and np.isnan(gone.colour)
    later = crossed_at(batch[0], (13,))
    clips = tuple(replace(clip, tracks=whole.tracks) for clip, whole in zip(later.clips, batch[0].clips, strict=True))
    frames = against_truth(video(batch[:2]), [replace(later, clips=clips), batch[1]]).sel(count="frames")
    assert frames.values.tolist() == [[4, 4], [8, 8]]


def test_the_autoencoder_is_the_ceiling_by_hand(lens: DiTLens, batch: list[Scene]) -> None:
    sums = ceiling(lens, batch)
    again = lens.family.decode(lens.vae, lens.encode([scene["A"] for scene in batch]))
    wanted = (again - video(batch, "A")).square()[:, :, batch[0].splice :].sum((1, 2, 3, 4))
    assert sums.sel(role="A", count="squared").values == pytest.approx(wanted.numpy())
    assert sums.sel(count="pixels").values == pytest.approx(8 * 32 * 32 * 3)


def test_hiding_keeps_clips_apart() -> None:
    values = np.ones((4, 2, len(COUNTS)))
    values[:, 1, COUNTS.index("place")] = 0  # clips B are misplaced, and hidden longer
    coordinates = {"hidden": (("scene", "role"), np.tile([5, 7], (4, 1))), "count": list(COUNTS)}
    measured = by_hiding(xr.DataArray(values, coordinates, ("scene", "role", "count")))
    assert {span: int(row.clips) for span, row in measured.items()} == {5: 4, 7: 4}
    assert {span: float(row.place) for span, row in measured.items()} == {5: 1, 7: 0}


def test_drift_is_none_where_the_video_goes_on_and_some_where_it_does_not(
    lens: DiTLens, batch: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def still(
        lens: DiTLens, video: torch.Tensor, rounds: int, *_: object
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        end = video[:, :, 9:]
        yield torch.zeros(4, 16, 2, 8, 8), end
        yield torch.zeros(4, 16, 2, 8, 8), end + 0.2

    monkeypatch.setattr(forcing, "roll_on", still)
    drift = drift_scores(drifted(lens, batch, replace(SMALL, context_noise=(0.0,), rounds=2))).isel(level=0)
    same, shifted = (drift.sel(end="middle", statistic="scenery", round=r) for r in (1, 2))
    assert same < 4 and shifted - same > 15  # grey levels; 0.2 of 2 are 25.5
    sharpness = drift.sel(end="middle", statistic="sharpness")
    assert float(sharpness[1]) == pytest.approx(float(sharpness[2]), rel=1e-3)
    assert (drift.sel(statistic="latents", round=[1, 2]) == 0).all() and drift.sel(statistic="latents", round=0).all()


def test_no_clip_depends_on_its_batch(lens: DiTLens, batch: list[Scene]) -> None:
    rolled, alone = drifted(lens, batch[:2], SMALL), drifted(lens, batch[1:2], SMALL)
    np.testing.assert_allclose(rolled.isel(rolled=[1]), alone, rtol=1e-3, atol=1e-3)
    assert not np.allclose(rolled.isel(rolled=[0], round=1), alone.isel(round=1), rtol=1e-2)
    sums = continued(lens, batch[:2], SMALL).sel(count="squared")
    np.testing.assert_allclose(sums.isel(scene=[1]), continued(lens, batch[1:2], SMALL).sel(count="squared"), rtol=1e-3)
    assert sums.context.values.tolist() == [0, 1, 2, 3]


def run(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[xr.Dataset, str]:
    """The result of the command, and what it prints."""
    command.call("forcing", [*arguments, "--full", "--out", str(folder)])
    (path,) = folder.glob("forcing-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    return results.open_result(path), capsys.readouterr().out


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, printed = run(TINY, tmp_path, capsys)
    assert all(name in printed for name in ("autoencoder", "mini-wan-random, frames given", "σ_c=0.4", "scenery"))
    place = scores(result.sums.isel(context=-1)).place
    assert float(place.sel(model="autoencoder")) > 0.9 > float(place.sel(model="mini-wan-random"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rounds", "0"], "at least 2 scenes, 1 round"),
        (["--context-noise", "1.0"], "1 noise level in [0, 1)"),
        (["--path", "noising"], "expected continuation"),
        (["--data", "folder=."], "true positions"),
        (["--test", "1"], "at least 2"),
    ],
)
def test_what_cannot_be_answered_ends_in_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run([*TINY, *arguments], tmp_path, capsys)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("error: got") and says in last
