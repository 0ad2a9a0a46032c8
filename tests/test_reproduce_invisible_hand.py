"""The published table: as shipped, on a data set and a model in the layouts of real ones, and what cannot run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from films import write_mp4
from safetensors.torch import save_file
from small_pipelines import text, wan

import analyses.command
import figures.output
from analyses import published, readers
from analyses import reproduce_invisible_hand as analysis
from analyses.published import AVERAGE, NUMBERS
from dit_lens import models, results
from dit_lens.clips import Quadruplet
from dit_lens.datasets.export import export_intphys
from dit_lens.datasets.lines import Line
from dit_lens.datasets.miniphys import SPLICE, MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.models.mini_wan import assemble, new_transformer, save
from figures import reproduce_invisible_hand as figure

TINY = ["--levels", "3", "--steps", "2", "--seeds", "0", "--protocols", "released-code", "website"]
INTPHYS = ("permanence", "shape", "continuity")


def darkened(quadruplet: Quadruplet) -> Quadruplet:
    """With the second half of impossible clips black."""

    def dark(frames: np.ndarray) -> np.ndarray:
        return np.concatenate([frames[:SPLICE], np.zeros_like(frames[SPLICE:])])

    c, d = (replace(clip, frames=dark(clip.frames)) for clip in (quadruplet.c, quadruplet.d))
    return replace(quadruplet, c=c, d=d, crossed=False)


@pytest.fixture(scope="module")
def intphys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an IntPhys whose impossible clips go dark: twelve scenes in three blocks."""
    planted = [darkened(quadruplet) for quadruplet in MiniPhys("test", 12, INTPHYS)]
    return export_intphys(planted, tmp_path_factory.mktemp("intphys")).parent


@pytest.fixture(scope="module")
def inflevel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an InfLevel of three groups of gravity, magic ones black at the end."""
    root = tmp_path_factory.mktemp("inflevel")
    rng = np.random.default_rng(0)
    for cover in ("redcup", "bluecup", "bowl"):
        quadruplet = MiniPhys("test", 1, ["gravity"], seed=int(rng.integers(99)))[0]
        for trial, clip in zip(("cv", "ui", "ci", "uv"), quadruplet.clips, strict=True):
            shown = clip.frames if trial in ("cv", "ui") else darkened(quadruplet).c.frames
            frames = np.concatenate([np.repeat(clip.frames[:1], 175, axis=0), shown])
            write_mp4(root / "inflevel_lab" / "gravity" / f"center__gravity__{cover}__crayon__{trial}.mp4", frames)
    return root


@pytest.fixture(scope="module")
def random_wan(tmp_path_factory: pytest.TempPathFactory, codec: AutoencoderPatchPCA) -> Path:
    """A Wan at random as a diffusers folder, with a codec that keeps what is seen."""
    folder = tmp_path_factory.mktemp("models") / "Wan-random"
    save(assemble(new_transformer(0), codec), folder)
    return folder


@pytest.fixture(scope="module")
def small_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock Wan pipeline with a stock autoencoder, both at random, and what it is told in place of a text encoder."""
    folder = tmp_path_factory.mktemp("models") / "Wan-small"
    torch.manual_seed(0)
    wan().save_pretrained(folder, safe_serialization=True)
    save_file({"prompt_embeds": text()}, folder / models.EMPTY_PROMPT)
    return folder


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> xr.Dataset:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["reproduce_invisible_hand", *arguments])
    analyses.command.main(
        analysis.Config, analysis.run, analysis.table, figure.draw, "reproduce_invisible_hand", analysis.__doc__
    )
    assert (folder / "out" / "reproduce_invisible_hand.pdf").stat().st_size > 5000
    return results.open_result(folder / "data" / "reproduce_invisible_hand.nc")


def pick(result: xr.Dataset, data: str, kind: str) -> xr.Dataset:
    (at,) = np.flatnonzero((result.data.values == data) & (result.kind.values == kind))
    return result.isel(row=at)


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_rows_of_real_layouts_run_and_stand_beside_what_was_published(
    intphys: Path,
    inflevel: Path,
    random_wan: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = call(
        [*TINY, "--data", f"intphys={intphys}", f"inflevel={inflevel}", "--models", f"wan={random_wan}",
         "--encoders", "pixels", "vjepa2=nowhere"],
        monkeypatch, tmp_path,
    )  # fmt: skip
    told = capsys.readouterr().out
    assert list(result.kind.values) == ["wan", "noise", "latent", "pixels"] and set(result.data.values) == {"intphys"}
    row = pick(result, "intphys", "wan")
    assert row.published.item() == "0.9 (website)" and row.weights.item() == str(random_wan)
    assert (int(row.clips), int(row.groups)) == (48, 12)
    assert pick(result, "intphys", "pixels").published.item() == "—"
    # What is planted is found by all that see it, and not in noise of the same covariance.
    for kind in ("wan", "latent", "pixels"):
        assert float(pick(result, "intphys", kind).auroc) > 0.9
    assert 0.25 < float(pick(result, "intphys", "noise").auroc) < 0.75
    # InfLevel trains no probe, and is told by that of IntPhys.
    ways = set(zip(result.train.values, result.test.values, strict=True))
    assert ways == {("intphys", "inflevel")} and result.transfer_reader.values[0] == "wan"
    pixels = result.isel(transfer=list(result.transfer_reader.values).index("pixels"))
    assert float(pixels.transfer_pairwise) > 0.9 and int(pixels.transfer_clips) == 12
    for line in (
        "inflevel × wan: for evaluation only",
        "all × vjepa2: no weights at nowhere",
        "intphys × cogvideox: no weights (--models cogvideox=CogVideoX-2b); published 0.77 (website)",
        "inflevel × ltx: no weights (--models ltx=LTX-Video); published 0.66–0.72 (website)",
        "phyworld × all: not given; R² of x0 1.00",
    ):
        assert line in told


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_probes_on_evaluation_data_are_for_those_who_ask_and_averages_follow(
    intphys: Path, inflevel: Path, small_wan: Path
) -> None:
    made = analysis.run(
        analysis.Config(
            models=(f"wan={small_wan}",), encoders=(), data=(f"intphys={intphys}", f"inflevel={inflevel}"), levels=2,
            steps=(1,), frames=5, seeds=(0,), protocols=("released-code",), train_on_evaluation=False,
        )
    )  # fmt: skip
    assert analysis.averages(made) == {}
    both = xr.concat([made.drop_dims("transfer")] * 2, "row", data_vars="minimal", coords="minimal", compat="override")
    renamed = both.assign_coords(data=("row", ["intphys", "intphys", "intphys"] + 3 * ["inflevel"]))
    mean, told = analysis.averages(renamed)["wan"]
    assert mean == pytest.approx(float(pick(made, "intphys", "wan").accuracy)) and told == "0.8127 (paper v1)"


def test_as_shipped_it_runs_on_miniphys_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call(
        [*TINY, "--groups", "10", "--models", "mini-wan", "--encoders", "pixels"],
        monkeypatch,
        tmp_path,
    )
    told = capsys.readouterr().out
    assert set(result.data.values) == {"miniphys", "miniphys:unseen"}
    assert list(dict.fromkeys(result.kind.values)) == ["mini-wan", "noise", "latent", "pixels"]
    assert result.reported.shape == (8, 2, 1) and np.isfinite(result.reported).all()
    assert list(result.reported_clips.isel(row=0).values) == [8, 16]
    assert {("miniphys", "miniphys:unseen"), ("miniphys:unseen", "miniphys")} == set(
        zip(result.train.values, result.test.values, strict=True)
    )
    for data in ("intphys", "inflevel"):
        for reader in NUMBERS[data]:
            assert f"{data} × {reader}: no data (--data {data}=ROOT)" in told


def test_states_of_a_clip_are_the_same_alone_and_among_others(small_wan: Path) -> None:
    lens = DiTLens.from_pretrained(small_wan, verify=False)
    clips = [replace(clip, frames=clip.frames[::4]) for clip in MiniPhys("test", 1, ["gravity"])[0].clips]
    read = readers.states(lens, "wan", (1, 2), 3).read
    together, alone = read(clips), read(clips[1:2])
    assert set(together) == {(step, block) for step in (1, 2) for block in range(3)}
    for cell, values in together.items():
        assert np.allclose(values[1:2], alone[cell], atol=1e-5) and values.std(0).max() > 0


def test_hidden_labels_and_missing_folders_are_told(intphys: Path, tmp_path: Path) -> None:
    absent: dict[tuple[str, str], str] = {}
    hidden = [replace(q, **{r: replace(getattr(q, r), possible=None) for r in "abcd"}) for q in MiniPhys("test", 2)]
    export_intphys(hidden, tmp_path, "test")
    config = analysis.Config(data=(f"intphys={intphys}", f"intphys:test={tmp_path}"))
    assert [str(line) for line in analysis.load(config, absent)] == ["intphys"]
    assert absent == {("intphys:test", "all"): "its labels are hidden"}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        analysis.load(analysis.Config(data=("intphys=nowhere",)), {})
    with pytest.raises(ValueError, match="got no root for intphys"):
        analysis.load(analysis.Config(data=("intphys",)), {})


def test_published_numbers_say_where_they_stand() -> None:
    assert str(published.number("intphys", "latent")) == "0.48–0.53 (website)"
    assert str(published.number("intphys", "flow")) == "< 0.55 (website)"
    assert str(published.number(AVERAGE, "vjepa2")) == "0.7136 (paper v1)"
    assert published.number("miniphys", "wan") is None


def test_lines_name_data_set_split_and_root() -> None:
    assert Line.parse("intphys:test=/a/b=c") == Line("intphys", "test", "/a/b=c")
    assert Line.parse("miniphys") == Line("miniphys") and str(Line.parse("miniphys:unseen")) == "miniphys:unseen"
    with pytest.raises(ValueError, match="did you mean 'intphys'"):
        Line.parse("intphis=/a")


def test_a_line_takes_items_at_even_distances_from_all_blocks(intphys: Path) -> None:
    some = Line.parse(f"intphys={intphys}").load(6)
    assert [item.property for item in some] == ["permanence"] * 2 + ["shape"] * 2 + ["continuity"] * 2
    assert len(some) == 6 and some[1].id == some[0:2][1].id and len(Line.parse(f"intphys={intphys}").load(99)) == 12
    assert [item.id for item in Line.parse("miniphys").load(3)] == [q.id for q in MiniPhys("test", 3)]
    with pytest.raises(ValueError, match="got 0 groups"):
        Line.parse("miniphys").load(0)
