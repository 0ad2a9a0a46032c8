"""The published table: as shipped, on a data set and a model in the layouts of real ones, and what cannot run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from video_files import write_mp4

from analyses import command
from analyses import reproduce_invisible_hand as analysis
from dit_lens import results
from dit_lens.clips import Scene, quadruplet
from dit_lens.datasets.export import export_intphys
from dit_lens.measures import reference_numbers
from dit_lens.measures.reference_numbers import AVERAGE, NUMBERS
from dit_lens.measures.reproduce_invisible_hand import NESTED, averages, table, verdict
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.studies import data_sets
from dit_lens.toy.mini_wan import assemble, new_transformer, save
from dit_lens.toy.miniphys import SPLICE, MiniPhys

TINY = ["--sampler-steps", "2", "--read-at", "1", "--seeds", "0", "--protocols", "released-code", "website"]
INTPHYS = ("permanence", "shape", "continuity")


def darkened(scene: Scene) -> Scene:
    """With the second half of impossible clips black."""

    def dark(frames: np.ndarray) -> np.ndarray:
        return np.concatenate([frames[:SPLICE], np.zeros_like(frames[SPLICE:])])

    clips = [clip if clip.possible else replace(clip, frames=dark(clip.frames)) for clip in scene.clips]
    return quadruplet(clips, scene.breaks, scene.event, crossed=False)


@pytest.fixture(scope="module")
def intphys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an IntPhys whose impossible clips go dark: nine scenes in three blocks."""
    planted = [darkened(scene) for scene in MiniPhys("test", 9, INTPHYS)]
    return export_intphys(planted, tmp_path_factory.mktemp("intphys")).parent


@pytest.fixture(scope="module")
def inflevel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an InfLevel of three groups of gravity, magic ones black at the end."""
    root = tmp_path_factory.mktemp("inflevel")
    for seed, cover in enumerate(("redcup", "bluecup", "bowl")):
        scene = MiniPhys("test", 1, ["gravity"], seed=seed)[0]
        for trial, clip in zip(("cv", "ui", "ci", "uv"), scene.clips, strict=True):
            shown = clip.frames if trial in ("cv", "ui") else darkened(scene)["C"].frames
            frames = np.concatenate([np.repeat(clip.frames[:1], 175, axis=0), shown])
            write_mp4(root / "inflevel_lab" / "gravity" / f"center__gravity__{cover}__crayon__{trial}.mp4", frames)
    return root


@pytest.fixture(scope="module")
def random_wan(tmp_path_factory: pytest.TempPathFactory, codec: AutoencoderPatchPCA) -> Path:
    """A Wan at random as a diffusers folder, with a codec that keeps what is seen."""
    folder = tmp_path_factory.mktemp("models") / "Wan-random"
    save(assemble(new_transformer(0), codec), folder)
    return folder


def call(arguments: list[str], folder: Path) -> xr.Dataset:
    """What the command writes."""
    command.call("reproduce_invisible_hand", [*TINY, *arguments, "--controls", "--full", "--out", str(folder)])
    (path,) = folder.glob("*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    return results.open_result(path)


def config(*arguments: str) -> analysis.Config:
    """Options, checked."""
    return command.parse(analysis.Config, "reproduce_invisible_hand", arguments, "")


def pick(result: xr.Dataset, data: str, kind: str) -> xr.Dataset:
    (at,) = np.flatnonzero((result.data.values == data) & (result.kind.values == kind))
    return result.isel(row=at)


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_rows_of_real_layouts_run_and_stand_beside_what_was_published(
    intphys: Path, inflevel: Path, random_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call(
        ["--data", f"intphys={intphys}", "--also", f"inflevel={inflevel}", "--model", str(random_wan),
         "--published", "wan", "--encoders", "pixels", "vjepa2=nowhere"],
        tmp_path,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert list(result.kind.values) == ["wan", "noise", "latent", "pixels"] and set(result.data.values) == {"intphys"}
    row = pick(result, "intphys", "wan")
    assert row.published.item() == "0.9 (website)" and row.weights.item() == random_wan.name
    assert (int(row.clips), int(row.groups)) == (36, 9)
    assert pick(result, "intphys", "pixels").published.item() == "—"
    # What is planted is found by all that see it, and not in noise of the same covariance.
    for kind in ("wan", "latent", "pixels"):
        assert float(pick(result, "intphys", kind).auroc) > 0.9
    assert 0.2 < float(pick(result, "intphys", "noise").auroc) < 0.8
    # InfLevel trains no probe, and is told by that of IntPhys.
    ways = set(zip(result.train.values, result.test.values, strict=True))
    assert ways == {("intphys", "inflevel")} and result.transfer_reader.values[0] == "wan"
    pixels = result.isel(transfer=list(result.transfer_reader.values).index("pixels"))
    assert float(pixels.transfer_pairwise) > 0.9 and int(pixels.transfer_clips) == 12
    for line in (
        "inflevel × wan: for evaluation only",
        "all × vjepa2: no weights at nowhere",
        "intphys × cogvideox: no weights (--model CogVideoX-2b --published cogvideox); published 0.77 (website)",
        "inflevel × ltx: no weights (--model LTX-Video --published ltx); published 0.66–0.72 (website)",
        "phyworld × all: not given; R² of x0 1.00",
    ):
        assert line in said


def test_as_shipped_it_runs_on_miniphys_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(["--test", "10", "--encoders", "pixels"], tmp_path)
    said = capsys.readouterr().out
    assert set(result.data.values) == {"miniphys", "miniphys:unseen"}
    assert list(dict.fromkeys(result.kind.values)) == ["mini-wan", "noise", "latent", "pixels"]
    assert result.reported.shape == (8, 2, 1) and np.isfinite(result.reported).all()
    assert list(result.reported_clips.isel(row=0).values) == [8, 16]
    assert {("miniphys", "miniphys:unseen"), ("miniphys:unseen", "miniphys")} == set(
        zip(result.train.values, result.test.values, strict=True)
    )
    model = pick(result, "miniphys", "mini-wan")
    assert np.isfinite([float(model.relative), float(model.label_share)]).all()  # scenes are crossed
    # Noise of two data sets is not the same noise, whose scenes lie in the same order.
    assert pick(result, "miniphys", "noise").auroc != pick(result, "miniphys:unseen", "noise").auroc
    for data in ("intphys", "inflevel"):
        for reader in NUMBERS[data]:
            assert f"{data} × {reader}: no data (--also {data}=ROOT)" in said


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_probes_on_evaluation_data_are_for_those_who_ask(intphys: Path, inflevel: Path) -> None:
    data = ("--data", f"intphys={intphys}", "--also", f"inflevel={inflevel}", "--protocols", "released-code")
    asked = config(*data, "--fit-on", f"inflevel={inflevel}")
    assert [str(spec) for spec in asked.specs] == ["intphys", "inflevel"] and all(map(asked.may_fit, asked.specs))
    assert list(map(config(*data).may_fit, asked.specs)) == [True, False]
    with pytest.raises(ValueError, match=r"3 .* data set inflevel"):  # three groups are too few for five folds
        analysis.load(asked, {})
    with pytest.raises(ValueError, match="expected a data set on which a probe may be fitted"):
        analysis.load(config("--data", f"inflevel={inflevel}", "--also"), {})


def test_scenes_are_taken_at_even_distances_from_all_blocks(intphys: Path) -> None:
    (some,) = analysis.load(config("--data", f"intphys={intphys}", "--test", "6", "--protocols", "released-code"), {})
    assert some.scenes.properties == ["permanence"] * 2 + ["shape"] * 2 + ["continuity"] * 2
    both = analysis.load(config("--also", f"intphys={intphys}", "--test", "99", "--protocols", "released-code"), {})
    assert [len(data.scenes) for data in both] == [99, 9]


def test_hidden_labels_and_missing_folders_are_told(intphys: Path, tmp_path: Path) -> None:
    absent: data_sets.Absent = {}
    asked = config("--data", f"intphys={intphys}", "--also", f"intphys:test={intphys}", "--protocols", "released-code")
    assert [data.name for data in analysis.load(asked, absent)] == ["intphys"]
    assert absent == {("intphys:test", "all"): "its labels are hidden"}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        config("--also", "intphys=nowhere")
    with pytest.raises(ValueError, match="without a root"):
        config("--also", "intphys")
    with pytest.raises(ValueError, match="got --train 5"):
        config("--train", "5")
    assert data_sets.names(config("--also", f"intphys={intphys}", f"intphys={tmp_path}").specs) == [
        "miniphys", f"intphys ({intphys.name})", f"intphys ({tmp_path.name})",
    ]  # fmt: skip


def row_of(data: str, kind: str, accuracy: float) -> xr.Dataset:
    """A row of a table."""
    return xr.Dataset({"accuracy": ("row", [accuracy])}, {"data": ("row", [data]), "kind": ("row", [kind])})


def test_averages_are_over_both_data_sets_and_stand_beside_what_was_published() -> None:
    rows = [row_of("intphys:dev", "wan", 0.9), row_of("inflevel", "wan", 0.6), row_of("intphys:dev", "pixels", 0.5)]
    mean, published = averages(xr.concat(rows, "row"))["wan"]
    assert mean == pytest.approx(0.75) and published == "0.8127 (paper v1)"
    assert averages(xr.concat(rows[:1], "row")) == {} == averages(xr.concat(rows[2:], "row"))


def test_published_numbers_say_where_they_stand() -> None:
    assert str(reference_numbers.number("intphys", "latent")) == "0.48–0.53 (website)"
    assert str(reference_numbers.number("intphys", "flow")) == "< 0.55 (website)"
    assert str(reference_numbers.number(AVERAGE, "vjepa2")) == "0.7136 (paper v1)"
    assert reference_numbers.number("miniphys", "wan") is None


def test_a_verdict_names_what_was_published_and_the_readers_that_do_as_well() -> None:
    values = {name: [0.5, 0.5] for name in NESTED}
    values |= {"accuracy": [0.8, 0.78], "low": [0.7, 0.7], "high": [0.9, 0.86], "clips": [40, 40], "groups": [10, 10]}
    result = xr.Dataset(
        {name: ("row", numbers) for name, numbers in values.items()} | {"published": ("row", ["0.9 (website)", "—"])},
        {
            "kind": ("row", ["wan", "pixels"]),
            "reader": ("row", ["wan", "pixels"]),
            "data": ("row", ["intphys"] * 2),
            "protocol": [],
            "split_seed": [0],
        },
    )
    said = verdict(result)
    assert "0.800 [0.700, 0.900] per clip" in said and "40 clips in 10 groups; published: 0.9 (website)" in said
    assert "no more than in the other readers: pixels (0.780 [0.700, 0.860])" in said
    assert "intphys × pixels" in table(result) and "the 0 rows not run" in table(result)
