"""Readouts of one sweep: what is planted is read, halves are of other scenes, random directions are as long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dit_lens.capture import NoisePath
from dit_lens.capture.storing import columns
from dit_lens.clips import Scene
from dit_lens.measures.patching import HALF, MEANS, PLAUSIBILITY
from dit_lens.probing import Features, fit
from dit_lens.studies import readouts as module
from dit_lens.studies.readers import Reader
from dit_lens.studies.readouts import Readouts, contents, readouts
from dit_lens.toy.miniphys import MiniPhys

FRAMES, WIDTH, LABEL, PLACE = 2, 6, 3, 5


@pytest.fixture(scope="module")
def train() -> Sequence[Scene]:
    return MiniPhys("train", 24, ("inertia", "gravity"))[:]


def planted(train: Sequence[Scene], seed: int = 0) -> Features:
    """Pooled activations of noise, with the label in one feature."""
    values = np.random.default_rng(seed).standard_normal((len(train), 4, FRAMES * WIDTH)).astype(np.float32)
    values[:, :2, LABEL] += 4
    cells = {(3, 2): values.reshape(-1, FRAMES * WIDTH)}
    clips = pd.DataFrame(columns(train))
    return Features(cells, clips, parts=FRAMES, point="blocks.{block}.hook_resid_post", sigmas={3: 0.5}, name="model")


def tokens(train: Sequence[Scene]) -> np.ndarray:
    """Of the second frame's three: noise, and in one place the final x of the object."""
    values = np.random.default_rng(1).standard_normal((4 * len(train), FRAMES * 3, WIDTH)).astype(np.float32)
    values[:, :3] = 0
    values[:, 4, PLACE] = np.nan_to_num([clip.tracks[0].position[-1, 0] for q in train for clip in q.clips])
    return values


@pytest.fixture(autouse=True)
def known_tokens(train: Sequence[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "last_tokens", lambda *_: tokens(train))


def fitted(train: Sequence[Scene], features: Features) -> Readouts:
    reader = Reader(None, NoisePath(), features, fit(features).accuracy, {3: 2})  # pyright: ignore[reportArgumentType]
    return readouts(reader, train, 3, directions=2, seed=0)


def test_the_first_is_the_frozen_probe_to_the_weight(train: Sequence[Scene]) -> None:
    cells = planted(train)
    probe, read = fit(cells).probe, fitted(train, cells)
    assert probe is not None
    activation = torch.randn(5, FRAMES * 3, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read.of_activation(activation)[:, 0], probe.of_activation(activation))
    assert read.lines[0].spread == pytest.approx(probe.spread, rel=1e-3) and read.point == probe.reads.point
    values = read.metric(None, {read.point: activation})
    assert values.shape == (5, len(read.lines)) and read.metric.points == (read.point,)


def test_what_is_planted_is_read_and_what_is_not_is_not(train: Sequence[Scene]) -> None:
    lines = {line.name: line for line in fitted(train, planted(train)).lines}
    for name in (PLAUSIBILITY, f"{HALF} 0", f"{HALF} 1", MEANS):
        assert lines[name].score > 0.8 and np.abs(lines[name].weight).argmax() == LABEL
    place = lines["position x"]
    assert place.score > 0.95 and np.unravel_index(np.abs(place.weight).argmax(), (6, 6)) == (4, PLACE)
    assert not place.weight[:3].any() and place.weight[3:].all()
    assert all(line.score < 0.3 for name, line in lines.items() if line.kind in ("background", "colour"))
    for i in range(2):
        assert np.linalg.norm(lines[f"random {i}"].weight) == pytest.approx(np.linalg.norm(lines[PLAUSIBILITY].weight))
        assert lines[f"random {i}"].spread == lines[PLAUSIBILITY].spread and np.isnan(lines[f"random {i}"].score)


def test_the_halves_are_of_other_scenes(train: Sequence[Scene]) -> None:
    """Noise in one scene moves one of the two probes and leaves the other bit for bit."""
    cells = planted(train)
    moved = cells.cell(3, 2).copy()
    moved[20:24] += 3  # the clips of the sixth scene
    changed = replace(cells, cells={(3, 2): moved})
    same = [
        np.array_equal(line.weight, changed_line.weight)
        for line, changed_line in zip(fitted(train, cells).lines, fitted(train, changed).lines, strict=True)
        if line.kind == HALF
    ]
    assert sorted(same) == [False, True]


def test_content_is_of_the_last_frame_and_where_there_is_an_object(train: Sequence[Scene]) -> None:
    content = {kind: (names, truth) for kind, names, truth in contents(train)}
    clips = [clip for quadruplet in train for clip in quadruplet.clips]
    names, colours = content["colour"]
    for clip, row, place in zip(clips, colours, content["position"][1], strict=True):
        if clip.tracks[0].present[-1]:
            assert names[int(row.argmax())] == f"colour {clip.tracks[0].colour[-1]}" and row.sum() == 1
            assert place.tolist() == clip.tracks[0].position[-1].tolist()
        else:
            assert np.isnan(row).all() and np.isnan(place).all()
    assert content["background"][1].shape == (len(clips), 3)


def test_content_is_not_read_where_the_truth_is_not_known(train: Sequence[Scene]) -> None:
    bare = [replace(scene, clips=tuple(replace(clip, tracks=()) for clip in scene.clips)) for scene in train]
    assert list(contents(bare)) == [] and list(contents(train))
    assert {line.kind for line in fitted(bare, planted(bare)).lines} == {PLAUSIBILITY, HALF, MEANS, "random"}
