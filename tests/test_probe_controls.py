"""Controls beside a model's states: each sees what it can see and no more, all under one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from released import videos

from analyses import command, probe_controls
from analyses.probe_controls import Config, relabelled, row
from dit_lens import baselines, results
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.probe_controls import PHYSICS, RANDOM, row_scores, scores
from dit_lens.studies import encoders
from dit_lens.studies.encoders import Changed, of_frames, read_all
from dit_lens.toy.content import CONTENTS, content, content_labels
from dit_lens.toy.miniphys import MiniPhys

TINY = [
    "--controls", "mini-wan-null", "--path", "continuation", "--also", "noising", "--sampler-steps", "3",
    "--read-at", "2", "--train", "9", "--test", "9", "--tinted", "5", "--baselines", "pixels", "resnet=nowhere",
]  # fmt: skip
SMALL = Config(path="continuation", sampler_steps=3, read_at=(1,), controls=())
Splits = Mapping[str, Sequence[Scene]]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return {part: MiniPhys(part, 8, ["colour", "shape"])[:] for part in ("train", "test")}


@pytest.fixture(scope="module")
def planted(splits: Splits) -> Splits:
    return {part: [darkened(scene) for scene in split] for part, split in splits.items()}


@pytest.fixture(scope="module")
def trained() -> DiTLens:
    return DiTLens.from_pretrained("mini-wan", verify=False)


def darkened(scene: Scene) -> Scene:
    """With impossible clips half as bright."""
    clips = (clip if clip.possible else replace(clip, frames=clip.frames // 2) for clip in scene.clips)
    return replace(scene, clips=tuple(clips))


def test_a_row_reads_what_is_planted_and_leaves_out_what_is_not_known(planted: Splits) -> None:
    encoder = of_frames(baselines.load("pixels"))
    read = read_all(encoder, planted)
    scored = row_scores(row(encoder, PHYSICS, read).isel(row=0))
    assert scored is not None
    assert scored.accuracy == scored.auroc == scored.pairwise == 1.0 and (scored.clips, scored.groups) == (32, 8)
    labels = read["test"].labels.astype(float)
    labels[:6] = np.nan
    fewer = row(encoder, PHYSICS, {**read, "test": relabelled(read["test"], labels)})
    scored = row_scores(fewer.isel(row=0))
    assert scored is not None and scored.clips == 26 and np.isnan(fewer.logit.values.ravel()[:6]).all()
    random = relabelled(read["test"], np.random.default_rng(0).permutation(read["test"].labels.astype(float)))
    scored = row_scores(row(encoder, PHYSICS, {**read, "test": random}).isel(row=0))
    assert scored is not None and scored.accuracy < 0.8


def test_the_cell_is_chosen_by_training_clips(planted: Splits) -> None:
    """Test clips tell the label at every layer, training clips at the first alone: that is the one."""
    encoder = of_frames(baselines.load("pixels"))
    read, rng = read_all(encoder, planted), np.random.default_rng(0)
    noise = {key: x if key == (0, 0) else rng.normal(size=x.shape) for key, x in read["train"].cells.items()}
    result = row(encoder, PHYSICS, {**read, "train": replace(read["train"], cells=noise)})
    assert result.layer.item() == encoder.layers[0]
    noise[0, 2] = read["train"].cell(0, 2)
    noise[0, 0] = rng.normal(size=noise[0, 0].shape)
    result = row(encoder, PHYSICS, {**read, "train": replace(read["train"], cells=noise)})
    assert result.layer.item() == encoder.layers[2]


def test_changed_clips_are_read_anew_and_keep_labels_and_balance(splits: Splits, tmp_path: Path) -> None:
    """Also where activations are kept: clips whose frames were changed have the ids that they had before."""
    some = splits["test"][:3]
    lens = DiTLens.from_pretrained("mini-wan-random", verify=False)
    plain = encoders.states(replace(SMALL, store=str(tmp_path)), lens)
    rows = [plain, plain.on(baselines.still(), "still"), plain.on(baselines.shuffled(0), "shuffled")]
    assert [plain_states.name for plain_states in rows] == [
        f"mini-wan-random, continuation{more}" for more in ("", ", still", ", shuffled")
    ]
    plain_states, two, three = (encoder(some) for encoder in rows)
    assert list(tmp_path.iterdir()) and plain_states.clips[["id", "possible"]].equals(two.clips[["id", "possible"]])
    cell = (1, 3)
    assert not np.allclose(plain_states.cells[cell], two.cells[cell]) and not np.allclose(
        plain_states.cells[cell], three.cells[cell]
    )
    assert np.array_equal(plain(list(some)).cells[cell], plain_states.cells[cell])
    changed = Changed(some, lambda scene: baselines.in_scene(baselines.shuffled(0), scene))
    frames = np.stack([clip.frames for clip in changed[0].clips]).astype(int)
    assert (frames[0] + frames[1] == frames[2] + frames[3]).all()  # still crossed, frame by frame
    assert [scene.id for scene in changed[1:]] == [scene.id for scene in some[1:]]
    assert not np.array_equal(changed[0]["A"].frames, some[0]["A"].frames)


def test_states_and_input_come_of_one_run(lens: DiTLens, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, capture, some = [], encoders.capture, splits["test"][:2]
    monkeypatch.setattr(encoders, "capture", lambda *a: (calls.append(a), capture(*a))[1])
    read, fed = encoders.states_and_input(replace(SMALL, path="noising", read_at=(1, 2)), lens)
    states, latent = read(some), fed(some)
    assert len(calls) == 1 and len(states.cells) == 2 * 6 and latent.widths == {(i, 0): 16 * 5 * 8 * 8 for i in (1, 2)}
    a, b, c, d = latent.to_array().sel(step=1).astype(np.float64).transpose("role", ...).values
    balance = np.abs(a + b - c - d)  # spliced noise; the autoencoder mixes a little over the break
    assert balance.max() < 0.2 * np.abs(a).max() < np.abs(a - c).max()
    read(list(some))
    assert len(calls) == 2  # other scenes, other run


def test_another_prompt_changes_states_and_not_the_model(trained: DiTLens, splits: Splits) -> None:
    swapped, some = probe_controls.otherwise(trained, SMALL), splits["test"][:1]
    assert swapped.name == "mini-wan, prompt swapped" and swapped.conditioning.hash != trained.conditioning.hash
    first, two, again = (encoders.states(SMALL, x)(some).cell(1, 5) for x in (trained, swapped, trained))
    assert not np.allclose(first, two) and np.array_equal(first, again)


def test_fidelity_is_the_same_alone_and_among_others_and_tells_a_clip_that_is_hard_to_invert(trained: DiTLens) -> None:
    clips = np.stack([clip.frames for clip in MiniPhys("test", 1, ["shape"])[0].clips])
    noise = np.random.default_rng(0).integers(0, 256, clips[:1].shape, dtype=np.uint8)
    baseline = baselines.round_trips(trained, 4, "fidelity")
    read = baseline(np.concatenate([clips, noise]))
    assert read.shape[:2] == (5, 2) and np.isfinite(read).all()
    assert np.allclose(baseline(clips[1:2]), read[1:2], rtol=1e-3, atol=1e-4)
    away = np.abs(read[4, 0, :4] - read[:4, 0, :4].mean(0)) / read[:4, 0, :4].std(0)
    assert away.max() > 5


def test_content_by_hand() -> None:
    clips = [clip for scene in MiniPhys("test", 22) for clip in scene.clips]
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
    by_scene = labels.reshape(-1, 4)
    assert (by_scene == by_scene[:, :1]).mean() > 0.9  # what is static is shared by a scene
    bare = [replace(clip, tracks=(), factors={}) for clip in clips]
    assert all(np.isnan(content_labels(clips, bare, what)).all() for what in CONTENTS)
    with pytest.raises(ValueError, match="did you mean 'colour'"):
        content(clips, "color")


def run(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[xr.Dataset, str]:
    """The result of the command, and what it prints."""
    command.call("probe_controls", [*arguments, "--full", "--out", str(folder)])
    (path,) = folder.glob("probe_controls-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    return results.open_result(path), capsys.readouterr().out


def by_label(result: xr.Dataset) -> dict[str, xr.Dataset]:
    measured = scores(result)
    assert (measured.low <= measured.accuracy).all() and (measured.auroc <= measured.auroc_high).all()
    return {
        str(what): measured.isel(row=measured.asked.values == what) for what in dict.fromkeys(measured.asked.values)
    }


def test_table_and_figure_and_what_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, printed = run(TINY, tmp_path, capsys)
    asked = by_label(result)
    assert list(asked[PHYSICS].source.values) == [
        "mini-wan, continuation",
        "mini-wan, continuation, input x_σ",
        "mini-wan, noising",
        "mini-wan, noising, input x_σ",
        "mini-wan, continuation, frames shuffled",
        "mini-wan, continuation, last frame only",
        "mini-wan, prompt swapped, continuation",
        "mini-wan, fidelity of inversion",
        "mini-wan, latent",
        "prompt embedding",
        "pixels",
        "mini-wan-null, continuation",
        "noise matched to mini-wan, continuation",
    ]
    assert list(asked) == [PHYSICS, "tint", "tint change", "position", "colour", "background", RANDOM]
    for what in set(asked) - {PHYSICS}:
        assert list(asked[what].source.values) == ["mini-wan, continuation", "pixels", "mini-wan-null, continuation"]
    assert float(asked[PHYSICS].accuracy.isel(row=9)) == 0.5  # the prompt is the same for all
    assert (asked["tint"].accuracy > 0.9).all() and (asked["tint"].groups == 5).all()
    assert float(asked["background"].auroc.isel(row=1)) > 0.7
    assert "resnet=nowhere: no weights at nowhere" in printed and "label: random, by scene" in printed


def test_single_pairs_without_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs of a folder of videos: physics, tints and random labels; content is nowhere known."""
    folder = tmp_path / "videos"
    videos.write_folder(folder, groups=11, size=32)
    options = ["--data", f"folder={folder}", "--train", "7", "--test", "5", "--batch-size", "3", "--controls"]
    steps = ["--path", "noising", "--also", "--sampler-steps", "2", "--read-at", "1", "--baselines", "pixels"]
    result, _ = run([*options, *steps, "--tinted", "5"], tmp_path / "out", capsys)
    asked = by_label(result)
    assert list(asked) == [PHYSICS, "tint", "tint change", RANDOM] and result.role.values.tolist() == ["A", "C"]
    assert (asked["tint"].accuracy >= 0.8).all() and float(asked[PHYSICS].accuracy.isel(row=0)) < 0.8
    assert (asked[PHYSICS].clips == 10).all()


def test_too_few_tinted_scenes_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run([*TINY, "--tinted", "4"], tmp_path, capsys)
    assert stopped.value.code == 2 and "--tinted 4 · expected at least 5" in capsys.readouterr().err
