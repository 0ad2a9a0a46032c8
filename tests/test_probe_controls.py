"""Controls beside a model's states: each sees what it can see and no more, all under one protocol."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyses.command
import figures.output
from analyses import probe_controls, sources
from analyses.probe_controls import PHYSICS, RANDOM, Config, physics, row, row_scores, scores
from analyses.sources import capture_all, of_frames
from dit_lens import baselines, results
from dit_lens.baselines import content, content_labels
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from figures import probe_controls as figure

TINY = [
    "--controls", "mini-wan-null", "--routes", "continuation", "noising", "--levels", "3", "--steps", "2",
    "--train", "9", "--test", "9", "--tinted", "5", "--baselines", "pixels", "resnet=nowhere",
]  # fmt: skip


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Quadruplet]]:
    return {part: MiniPhys(part, 8, ["colour", "shape"])[:] for part in ("train", "test")}


def darkened(quadruplet: Quadruplet) -> Quadruplet:
    """With impossible clips half as bright."""
    c, d = (replace(clip, frames=clip.frames // 2) for clip in (quadruplet.c, quadruplet.d))
    return replace(quadruplet, c=c, d=d)


def test_a_row_finds_what_is_planted_and_leaves_out_what_is_not_known(splits: dict[str, list[Quadruplet]]) -> None:
    planted = {part: [darkened(q) for q in split] for part, split in splits.items()}
    source = of_frames(baselines.load("pixels"))
    features = capture_all(source, planted)
    labels = physics(planted)
    told = row_scores(row(source, PHYSICS, features, labels, planted).isel(row=0))
    assert told.accuracy == told.auroc == told.pairwise == 1.0 and (told.clips, told.groups) == (32, 8)
    labels["test"][:6] = np.nan
    fewer = row(source, PHYSICS, features, labels, planted)
    assert np.isnan(fewer.logit.values.ravel()[:6]).all() and row_scores(fewer.isel(row=0)).clips == 26
    labels["test"][:] = np.nan
    assert not row(source, PHYSICS, features, labels, planted).data_vars


def test_the_cell_is_chosen_by_training_clips(splits: dict[str, list[Quadruplet]]) -> None:
    """The last frame alone is dark in training clips and bright in test ones: layers agree, whatever the test says."""
    source = of_frames(baselines.load("pixels"))
    planted = {part: [darkened(q) for q in split] for part, split in splits.items()}
    features = capture_all(source, planted)
    crippled = features["train"].copy()
    crippled[:, :, :, 1:] = np.random.default_rng(0).normal(size=crippled[:, :, :, 1:].shape)
    made = row(source, PHYSICS, {**features, "train": crippled}, physics(planted), planted)
    assert made.layer.item() == source.layers[0]


def test_changed_clips_are_read_anew_and_keep_labels_and_balance(splits: dict[str, list[Quadruplet]]) -> None:
    split = splits["test"]
    lens = DiTLens.from_pretrained("mini-wan-random", verify=False)
    config = Config(levels=3, steps=(1,))
    plain = sources.states(lens, "continuation", config)
    still, shuffled = plain.on(baselines.still(), "still"), plain.on(baselines.shuffled(0), "shuffled")
    seen = {source.name: source.features(split) for source in (plain, still, shuffled)}
    assert list(seen) == [f"mini-wan-random, continuation{more}" for more in ("", ", still", ", shuffled")]
    one, two, three = seen.values()
    assert one.possible.equals(two.possible) and not np.allclose(one, two) and not np.allclose(one, three)
    assert np.array_equal(plain.features(split), one)
    changed = baselines.in_quadruplet(baselines.shuffled(0), split[0])
    frames = np.stack([clip.frames for clip in changed.clips]).astype(int)
    assert (frames[0] + frames[1] == frames[2] + frames[3]).all()  # still crossed, frame by frame
    assert changed.id == split[0].id and not np.array_equal(changed.a.frames, split[0].a.frames)


def test_states_and_input_come_of_one_run(splits: dict[str, list[Quadruplet]], monkeypatch: pytest.MonkeyPatch) -> None:
    lens, calls = DiTLens.from_pretrained("mini-wan-random", verify=False), []
    capture = sources.capture
    monkeypatch.setattr(sources, "capture", lambda *a: (calls.append(a), capture(*a))[1])
    read, fed = sources.states_and_input(lens, "noising", Config(levels=3, steps=(1, 2)))
    states, latent = read.features(splits["test"]), fed.features(splits["test"])
    assert len(calls) == 1 and states.shape[:4] == (8, 4, 2, 6) and latent.shape == (8, 4, 2, 1, 16 * 5 * 8 * 8)
    values = latent.values.astype(np.float64)
    balance = values[:, 0] + values[:, 1] - values[:, 2] - values[:, 3]
    assert np.abs(balance).max() < 0.2 * np.abs(values).max()  # spliced noise; the codec mixes a little over the cut


def test_another_prompt_changes_states_and_not_the_model(splits: dict[str, list[Quadruplet]]) -> None:
    config = Config(levels=3, steps=(1,))
    lens = DiTLens.from_pretrained("mini-wan", verify=False)
    other = probe_controls.told_otherwise(lens, config)
    assert other.name == "mini-wan, prompt swapped" and other.conditioning.hash != lens.conditioning.hash
    one, two = (sources.states(x, "noising", config).features(splits["test"][:2]) for x in (lens, other))
    assert not np.allclose(one, two)
    again = sources.states(lens, "noising", config).features(splits["test"][:2])
    assert np.array_equal(one, again)


def test_fidelity_is_the_same_alone_and_among_others_and_tells_a_clip_that_is_hard_to_invert() -> None:
    lens = DiTLens.from_pretrained("mini-wan", verify=False)
    clips = np.stack([clip.frames for clip in MiniPhys("test", 1, ["shape"])[0].clips])
    noise = np.random.default_rng(0).integers(0, 256, clips[:1].shape, dtype=np.uint8)
    baseline = baselines.round_trips(lens, 4, "fidelity")
    told = baseline(np.concatenate([clips, noise]))
    assert told.shape[:2] == (5, 2) and np.isfinite(told).all()
    assert np.allclose(baseline(clips[1:2]), told[1:2], rtol=1e-3, atol=1e-4)
    away = np.abs(told[4, 0, :4] - told[:4, 0, :4].mean(0)) / told[:4, 0, :4].std(0)
    assert away.max() > 5


def test_content_by_hand() -> None:
    clips = [clip for quadruplet in MiniPhys("test", 22) for clip in quadruplet.clips]
    where = content(clips, "position")
    known = [clip.tracks[0].present[-1] for clip in clips]
    assert np.array_equal(np.isfinite(where), known) and not all(known)
    shown = next(clip for clip in clips if clip.tracks[0].present[-1])
    assert content([shown], "position")[0] == shown.tracks[0].position[-1, 0]
    for colour, red in (("red", 1.0), ("yellow", 1.0), ("green", 0.0), ("blue", 0.0)):
        of = [clip for clip in clips if clip.tracks[0].colour[-1] == colour]
        assert of and (content_labels(of, clips, "colour") == red).all()
    labels = content_labels(clips, clips, "background")
    assert 0.3 < labels.mean() < 0.7
    scenes = labels.reshape(-1, 4)
    assert (scenes == scenes[:, :1]).mean() > 0.9  # what is static is shared by a scene
    bare = [replace(clip, tracks=(), factors={}) for clip in clips]
    assert all(np.isnan(content_labels(clips, bare, what)).all() for what in baselines.CONTENTS)
    with pytest.raises(ValueError, match="did you mean 'colour'"):
        content(clips, "color")


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["probe_controls", *arguments])
    module = probe_controls
    analyses.command.main(Config, module.run, module.table, figure.draw, "probe_controls", module.__doc__)


def test_table_and_figure_and_what_was_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(TINY, monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert (tmp_path / "out" / "probe_controls.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "probe_controls.nc")
    measured = scores(result)
    asked = {
        str(what): measured.isel(row=measured.asked.values == what) for what in dict.fromkeys(measured.asked.values)
    }
    assert list(asked[PHYSICS].source.values) == [
        "mini-wan, continuation",
        "mini-wan, continuation, input x_σ",
        "mini-wan, noising",
        "mini-wan, noising, input x_σ",
        "mini-wan, continuation, frames shuffled",
        "mini-wan, continuation, last frame only",
        "mini-wan, prompt swapped, continuation",
        "mini-wan-null, continuation",
        "mini-wan, fidelity of inversion",
        "mini-wan, latent",
        "prompt embedding",
        "pixels",
        "noise matched to mini-wan, continuation",
    ]
    assert list(asked) == [PHYSICS, "tint", "tint change", "position", "colour", "background", RANDOM]
    for what in set(asked) - {PHYSICS}:
        assert list(asked[what].source.values) == ["mini-wan, continuation", "mini-wan-null, continuation", "pixels"]
    assert float(asked[PHYSICS].accuracy.isel(row=10)) == 0.5  # the prompt is the same for all
    assert (asked["tint"].accuracy > 0.9).all() and (asked["tint"].groups == 5).all()
    assert float(asked["background"].auroc.isel(row=2)) > 0.7
    assert "resnet=nowhere: no weights at nowhere" in told and "label: random, by scene" in told
    assert (measured.low <= measured.accuracy).all() and (measured.auroc <= measured.auroc_high).all()
    assert isinstance(result, xr.Dataset)
