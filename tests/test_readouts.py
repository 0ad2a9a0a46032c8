"""Readouts of one sweep: what is planted is read, halves are of other scenes, random directions are as long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import xarray as xr

from analyses.frozen_probe import fit_probe
from analyses.readouts import HALF, MEANS, PLAUSIBILITY, Readouts, content_of, fit_readouts
from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import MiniPhys

FRAMES, WIDTH, LABEL, PLACE = 2, 6, 3, 5


@pytest.fixture(scope="module")
def train() -> Sequence[Quadruplet]:
    return MiniPhys("train", 24, ("inertia", "gravity"))[:]


def planted(train: Sequence[Quadruplet], seed: int = 0) -> xr.DataArray:
    """Pooled activations of noise, with the label in one feature."""
    values = np.random.default_rng(seed).standard_normal((len(train), 4, FRAMES * WIDTH)).astype(np.float32)
    values[:, :2, LABEL] += 4
    return xr.DataArray(
        values[:, :, None, None],
        dims=("quadruplet", "role", "step", "block", "feature"),
        coords={
            "quadruplet": [q.id for q in train],
            "possible": (("quadruplet", "role"), [[True, True, False, False]] * len(train)),
            "step": [3], "block": [2], "sigma": ("step", [0.5]),
        },
        attrs={"parts": FRAMES},
    )  # fmt: skip


def tokens(train: Sequence[Quadruplet]) -> np.ndarray:
    """Of the second frame's three: noise, and in one place the final x of the object."""
    values = np.random.default_rng(1).standard_normal((4 * len(train), FRAMES * 3, WIDTH)).astype(np.float32)
    values[:, :3] = 0
    values[:, 4, PLACE] = np.nan_to_num([clip.tracks[0].position[-1, 0] for q in train for clip in q.clips])
    return values


def fitted(train: Sequence[Quadruplet], cells: xr.DataArray) -> Readouts:
    return fit_readouts(cells.sel(step=3, block=2), train, tokens(train), directions=2, seed=0)


def test_the_first_is_the_frozen_probe_to_the_weight(train: Sequence[Quadruplet]) -> None:
    cells = planted(train)
    probe, read = fit_probe(cells, 3, 2, "model"), fitted(train, cells)
    activation = torch.randn(5, FRAMES * 3, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read.of_activation(activation)[:, 0], probe.of_activation(activation))
    assert read.lines[0].spread == pytest.approx(probe.spread) and read.point == probe.reads.point
    told = read.metric(None, {read.point: activation})
    assert told.shape == (5, len(read.lines)) and read.metric.points == (read.point,)


def test_what_is_planted_is_read_and_what_is_not_is_not(train: Sequence[Quadruplet]) -> None:
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


def test_the_halves_are_of_other_scenes(train: Sequence[Quadruplet]) -> None:
    """Noise in one scene moves one of the two probes and leaves the other bit for bit."""
    cells, other = planted(train), planted(train)
    other[5] = other[5] + 3
    same = [
        np.array_equal(one.weight, two.weight)
        for one, two in zip(fitted(train, cells).lines, fitted(train, other).lines, strict=True)
        if one.kind == HALF
    ]
    assert sorted(same) == [False, True]


def test_content_is_of_the_last_frame_and_where_there_is_an_object(train: Sequence[Quadruplet]) -> None:
    told = {kind: (names, truth) for kind, names, truth in content_of(train)}
    clips = [clip for quadruplet in train for clip in quadruplet.clips]
    names, colours = told["colour"]
    for clip, row, place in zip(clips, colours, told["position"][1], strict=True):
        if clip.tracks[0].present[-1]:
            assert names[int(row.argmax())] == f"colour {clip.tracks[0].colour[-1]}" and row.sum() == 1
            assert place.tolist() == clip.tracks[0].position[-1].tolist()
        else:
            assert np.isnan(row).all() and np.isnan(place).all()
    assert told["background"][1].shape == (len(clips), 3)
