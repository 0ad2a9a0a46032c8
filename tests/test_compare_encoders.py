"""Encoders side by side: planted signals are found, controls stay at chance, what cannot run says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from released import videos
from spliced import pair_of

from analyses import command
from analyses.compare_encoders import PHYSICS, Config, row, surprise_scorers, velocity_surprise
from dit_lens import baselines, results
from dit_lens.clips import Scene
from dit_lens.datasets.recordings import Outline
from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.measures.compare_encoders import recolour_scores, surprise_scores
from dit_lens.measures.probe_blocks import chosen
from dit_lens.probing import Features
from dit_lens.studies.encoders import RECOLOURED, Changed, noise_like, of_frames, read_all
from dit_lens.toy.miniphys import MiniPhys

FEW = [
    "--controls", "--path", "continuation", "--also", "--sampler-steps", "3", "--read-at", "2", "--sigmas", "0.6",
    "--batch-size", "6", "--train", "8", "--test", "8", "--tinted", "5",
]  # fmt: skip
ENCODERS = ["--encoders", "pixels+moments", "pixels+still", "vjepa2=nowhere", "videomae=random"]
Splits = Mapping[str, Sequence[Scene]]


@pytest.fixture(scope="module")
def planted() -> Splits:
    """Scenes whose impossible clips are half as bright."""
    return {part: [darkened(scene) for scene in MiniPhys(part, 6, ["colour", "shape"])] for part in ("train", "test")}


def darkened(scene: Scene) -> Scene:
    clips = (clip if clip.possible else replace(clip, frames=clip.frames // 2) for clip in scene.clips)
    return replace(scene, clips=tuple(clips))


def accuracies(line: str, splits: Splits) -> dict[str, float]:
    """Of a baseline, on physics and on tints."""
    baseline = baselines.constant("prompt embedding", np.ones(3)) if line == "prompt" else baselines.load(line)
    encoder = of_frames(baseline)
    sets = {what: {part: Changed(some, video) for part, some in splits.items()} for what, video in RECOLOURED.items()}
    table = row(encoder, {what: read_all(encoder, here) for what, here in {PHYSICS: splits, **sets}.items()})
    tints = recolour_scores(table).sel(measure="accuracy").squeeze()
    return {PHYSICS: chosen(table).accuracy.item()} | {what: tints[what].item() for what in RECOLOURED}


@pytest.mark.parametrize("line", ["pixels+still", "vjepa2=random+still", "pixels+moments"])
def test_a_planted_signal_is_found_and_a_change_of_light_by_who_compares_halves_alone(
    line: str, planted: Splits
) -> None:
    accuracy = accuracies(line, planted)
    assert accuracy[PHYSICS] == accuracy["tint"] == 1.0
    assert accuracy["tint change"] == 0.5 if line.endswith("still") else accuracy["tint change"] > 0.8


def test_what_is_the_same_for_all_clips_is_at_chance_on_every_label(planted: Splits) -> None:
    assert set(accuracies("prompt", planted).values()) == {0.5}


def test_noise_has_the_spread_of_the_states_and_tells_no_clip(planted: Splits) -> None:
    read = read_all(of_frames(baselines.load("resnet=random", "tokens")), planted)
    before = read["train"].cell(0, 1).copy()
    noise = noise_like(read, seed=0)
    assert np.array_equal(read["train"].cell(0, 1), before) and noise["test"].clips.equals(read["test"].clips)
    for key, x in read["train"].cells.items():
        assert noise["train"].cells[key].std(0).sum() / x.std(0).sum() == pytest.approx(1, abs=0.35)
    assert not np.allclose(noise["train"].cell(0, 1), noise["test"].cell(0, 1))
    assert np.array_equal(noise["test"].cell(0, 1), noise_like(read, 0)["test"].cell(0, 1))
    many = Features.of_arrays(
        {key: np.tile(x, (30, 1)) for key, x in read["test"].cells.items()},
        np.tile(read["test"].labels, 30),
        np.arange(30 * len(read["test"])),
    )

    def gap(features: Features) -> float:
        """The largest difference of means between possible and impossible clips, in standard deviations."""
        x, labels = features.cell(0, 1), features.labels
        return float((np.abs(x[labels].mean(0) - x[~labels].mean(0)) / np.maximum(x.std(0), 1e-9)).max())

    assert gap(noise_like({"train": read["train"], "test": many}, 0)["test"]) < 0.3 < gap(many)


def test_surprise_scores_by_hand() -> None:
    values = np.array([[[1, 2, 3, 4], [1, 4, 2, 3], [9, 9, 0, 0]], [[4, 3, 2, 1], [1, 4, 2, 3], [0, 0, 9, 9]]], float)
    result = xr.Dataset(
        {
            "surprise": (("scorer", "scene", "role"), values),
        },
        {
            "scorer": ["knows", "thinks the contrary"],
            "role": list("ABCD"),
            "crossed": ("scene", [True, True, False]),
        },
    )
    scores = surprise_scores(result)
    assert scores.pairwise.values == pytest.approx([0.75, 0.25])
    assert float(scores.d_prime[0]) > 0 > float(scores.d_prime[1])
    assert (scores.low <= scores.pairwise).all() and (scores.pairwise <= scores.high).all()


def pairs(scenes: Sequence[Scene]) -> Scenes:
    """Scenes as an analysis gets them, from a list."""

    class Listed(list):
        def outline(self, index: int) -> Outline:
            return Outline(self[index].id, self[index].property, (True, False), ((0, 1),))

    return Scenes(Listed(scenes), [(i, None) for i in range(len(scenes))], None)


def test_velocity_surprise_is_of_the_last_condition_that_all_scenes_have(
    lens: DiTLens, quadruplets: list[Scene]
) -> None:
    config = Config(sigmas=(0.6,), path="noising", sampler_steps=3, read_at=(1,), batch_size=2)
    alike = [pair_of(quadruplets[0], 9), pair_of(quadruplets[1], 13)]
    apart = replace(alike[1], breaks=((),))
    surprises = {
        name: velocity_surprise(lens, pairs(some), config)
        for name, some in {"all": alike, "one": [alike[0], apart]}.items()
    }
    assert surprises["all"].scored.item() == "from the break on, earlier given clean"
    assert surprises["one"].scored.item() == "whole clip"
    assert all(np.isfinite(surprise).all() and surprise.shape == (1, 2, 2) for surprise in surprises.values())
    alone = velocity_surprise(lens, pairs(alike[1:]), config)
    np.testing.assert_allclose(alone[0, 0], surprises["all"][0, 1], rtol=1e-4)  # by its own break, whatever its batch
    assert not np.allclose(surprises["one"], surprises["all"])


def test_clips_too_short_for_a_window_of_surprise_are_told_of_before_anything_is_read(quadruplets: list[Scene]) -> None:
    short = [replace(s, clips=tuple(replace(c, frames=c.frames[:9]) for c in s.clips)) for s in quadruplets[:2]]
    config, missing = Config(encoders=("pixels", "videomae=random", "vjepa2=random+still")), dict[str, str]()
    assert not list(surprise_scorers(config, pairs(short), missing))
    assert list(missing) == ["videomae=random"] and "got clips of 9 frames" in missing["videomae=random"]
    assert [scorer.name for scorer in surprise_scorers(config, pairs(quadruplets[:2]), {})] == ["VideoMAE, random"]


def run(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[xr.Dataset, str]:
    """The result of the command, and what it prints."""
    command.call("compare_encoders", [*arguments, "--full", "--out", str(folder)])
    (path,) = folder.glob("compare_encoders-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    return results.open_result(path), capsys.readouterr().out


def test_table_and_figure_and_what_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, printed = run([*FEW, *ENCODERS, "--properties", "inertia", "incline"], tmp_path, capsys)
    names = [str(name) for name in result.source.values]
    assert names == [
        "mini-wan, continuation",
        "mini-wan, latent",
        "prompt embedding",
        "pixels, moments over time",
        "pixels, last frame only",
        "VideoMAE, random",
        "noise matched to mini-wan, continuation",
    ]
    assert all(name in printed for name in names) and "n = 8 test scenes" in printed
    assert "vjepa2=nowhere: no weights at nowhere" in printed and "V-JEPA 2.1: transformers has" in printed
    scores, tints = chosen(result), recolour_scores(result).sel(measure="accuracy")
    assert float(scores.accuracy.sel(source="prompt embedding")) == 0.5
    assert float(tints["tint change"].sel(source="pixels, last frame only")) == 0.5
    assert float(tints["tint"].sel(source="mini-wan, continuation")) > 0.9
    assert list(result.scorer.values) == ["mini-wan, velocity", "VideoMAE, random"]
    assert result.crossed.sum() == 4  # all but the inclines


def test_single_pairs_of_films(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By --path noising the whole table is there; each pair keeps its own break for surprise."""
    folder = tmp_path / "videos"
    videos.write_folder(folder, groups=11, size=32)
    options = ["--data", f"folder={folder}", "--train", "7", "--test", "5", "--path", "noising", "--encoders", "pixels"]
    result, printed = run([*FEW, *options], tmp_path / "out", capsys)
    assert result.role.values.tolist() == ["A", "C"] and result.sizes["scene"] == 5
    assert "impossible clip has the larger error, n = 5 scenes" in printed
    assert float(recolour_scores(result)["tint"].sel(measure="accuracy", source="pixels")) >= 0.8


def test_a_misspelt_encoder_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run([*FEW, "--encoders", "vidomae=random"], tmp_path, capsys)
    assert stopped.value.code == 2 and "did you mean 'videomae'" in capsys.readouterr().err
