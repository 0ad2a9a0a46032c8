"""Which attention is needed: cuts by hand, at each scene's own break; the worst comes first; table and figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from fixed_readers import random_probe, reader_with
from spliced import pair_of
from torch import Tensor

from analyses.command import call
from analyses.cut_attention import AFTER_BEFORE, BEFORE_AFTER, STEPWISE, TEXT, cut, knockouts
from dit_lens.capture import NoisePath
from dit_lens.clips import Scene
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.measures.cut_attention import change, significance, top

BLOCK, STEP = 1, 2


@pytest.fixture(scope="module")
def effects(lens: DiTLens, quadruplets: list[Scene]) -> xr.Dataset:
    """Cuts of an untrained model, read by a fixed direction after block 1."""
    scenes = [scene for scene in quadruplets if scene.crossed][:4]
    table = cut(reader_with(lens, random_probe(BLOCK, STEP)), scenes, 4)
    table = table.assign(probe_spread=1.0).assign_coords(readout_block=BLOCK)
    return table.assign_coords(property=("scene", ["any"] * 4))


def test_what_lies_after_the_readout_is_nan_and_does_not_count(effects: xr.Dataset) -> None:
    assert np.isnan(effects.whole.sel(block=2)).all() and np.isfinite(effects.whole.sel(block=[0, 1])).all()
    assert set(change(effects, "whole").block.values) == {0, 1}
    assert np.abs(change(effects, "whole").sel(cut=AFTER_BEFORE)).max() > 0
    p = significance(effects, "effect")
    assert set(p.dims) == {"cut", "block", "head"} and ((p > 0) & (p <= 1)).all()


def test_the_cut_of_a_block_is_nearly_that_of_all_its_heads(effects: xr.Dataset) -> None:
    """In the block of the readout heads meet in a sum before the gate, and MLPs bend it: near, not equal."""
    whole, heads = effects.whole.sel(block=BLOCK), effects.effect.sel(block=BLOCK).sum("head")
    for name, cut_of_heads, alike in ((AFTER_BEFORE, AFTER_BEFORE, True), (AFTER_BEFORE, TEXT, False)):
        values = whole.sel(cut=name).values.ravel(), heads.sel(cut=cut_of_heads).values.ravel()
        assert (float(np.corrcoef(*values)[0, 1]) > 0.9) == alike


def test_a_frame_loses_the_one_before_and_nothing_else(lens: DiTLens, quadruplets: list[Scene]) -> None:
    point, without = knockouts(lens, 3, 5)[STEPWISE](0, [0])
    patterns: dict[str, np.ndarray] = {}

    def look(x: Tensor, hook: Hook) -> None:
        patterns["before"], new = x.clone().numpy(), without(x, hook)
        assert new is not None
        patterns["after"] = new.clone().numpy()

    latent = torch.randn(1, *lens.encode(quadruplets[0].clips[0]).shape[1:])
    lens.run_with_hooks(latent=latent, timestep=500.0, fwd_hooks=[(point, look)])
    before, after = (patterns[name][0, 0].reshape(5, 16, 5, 16).sum((1, 3)) / 16 for name in ("before", "after"))
    gone = np.eye(5, k=-1, dtype=bool)
    assert np.allclose(after[gone], 0) and (before[gone] > 0).all() and np.allclose(after.sum(1), 1, atol=1e-5)
    left = np.where(gone, 0, before)
    np.testing.assert_allclose(after, left / left.sum(1, keepdims=True), rtol=0.2)


def test_pairs_are_cut_at_their_own_breaks_and_where_there_is_none_not_at_all(
    lens: DiTLens, quadruplets: list[Scene]
) -> None:
    """Scenes of one batch break apart: each has what it has alone. A scene that is cut elsewhere has another effect."""
    reader = reader_with(lens, random_probe(BLOCK, STEP), NoisePath("noising", 4))
    early, late = (pair_of(scene, frame) for scene, frame in zip(quadruplets, (5, 13), strict=False))
    apart = replace(early, id="apart", breaks=())
    together = cut(reader, [early, late, apart], 3).sel(block=BLOCK).whole
    for scene in (early, late, apart):
        alone = cut(reader, [scene], 1).sel(block=BLOCK, scene=scene.id).whole
        np.testing.assert_allclose(together.sel(scene=scene.id, cut=alone.cut), alone, atol=1e-5)
    assert list(together.role.values) == ["A", "C"]
    lacking = together.isnull().all("role")
    assert lacking.sel(scene="apart").values.tolist() == [name in (AFTER_BEFORE, BEFORE_AFTER) for name in together.cut]
    assert not lacking.sel(scene=[early.id, late.id]).any()
    elsewhere = cut(reader, [replace(early, breaks=late.breaks)], 1).whole.sel(block=BLOCK, cut=AFTER_BEFORE)
    assert float(np.abs(elsewhere - together.sel(scene=[early.id], cut=AFTER_BEFORE)).max()) > 1e-3


def test_the_worst_cut_comes_first() -> None:
    values = np.zeros((8, 4, 2, 2))
    values[:, :2, 1, 0] = -1.0  # of A and B alone, by the second cut in block 0
    coords = {
        "scene": range(8), "role": list("ABCD"), "cut": ["one", "two"], "block": [0, 1],
        "property": ("scene", ["inertia"] * 8),
    }  # fmt: skip
    result = xr.Dataset({"whole": (("scene", "role", "cut", "block"), values)}, coords)
    result = result.assign(probe_spread=0.5).assign_coords(readout_block=1)
    assert top(result)[0] == ("two", 0)
    np.testing.assert_allclose(change(result, "whole").sel(cut="two", block=0), -2.0)


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--controls --properties inertia --train 5 --test 2 --sampler-steps 2 --read-at 1 --full --block 1"
    call("cut_attention", [*options.split(), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "of the 8 cuts of attention" in printed and "without text at most" in printed and "No control" in printed
    (figure,) = tmp_path.glob("cut_attention-*.pdf")
    assert figure.stat().st_size > 5000
