"""Pairs of a quadruplet: regions, nulls of the largest, content by hand; and a table and figure of patched heads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import analyses.command
import figures.output
from analyses import patch_heads, patch_residual
from analyses.pairs import PAIRS, SHARING, hidden_frames, label_odd, moved, regions_of
from analyses.pairs_table import against_flips, agreement
from analyses.readouts import CONTENT, HALF, PLAUSIBILITY, RANDOM
from dit_lens import patching, results
from dit_lens.axes import TokenGrid
from dit_lens.capture import Route, evaluations, of_role
from dit_lens.clips import Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from figures import patch_heads as figure

GIVEN, GRID = 3, TokenGrid(5, 2, 2)
MADE = {"A": "AA", "B": "BB", "C": "AB", "D": "BA"}


def test_regions_of_a_pair_are_the_half_that_both_are_made_of_and_the_rest() -> None:
    for pair in PAIRS:
        one, other = (MADE[role] for role in pair.split("→"))
        shared = [one[frame >= GIVEN] == other[frame >= GIVEN] for frame in range(GRID.frames)]
        told = {name: GRID.mask(*tokens).reshape(5, 4).all(1).tolist() for name, tokens in regions_of(pair, 3).items()}
        assert told["shared"] == shared and told["differs"] == [not own for own in shared] and all(told["all"])
    assert {pair for pairs in SHARING.values() for pair in pairs} == {pair for pair, sign in PAIRS.items() if sign}


def test_in_the_readouts_own_attention_regions_add_up(lens: DiTLens, quadruplets: list[Quadruplet]) -> None:
    """What is written after a patch there is read as it is: the effect is linear in z, so halves add up to all.

    The control is a readout that is not linear.
    """
    (fed,) = evaluations(lens, quadruplets[:2], [14], Route("continuation")).values()
    point = "blocks.2.hook_resid_mid_attn"
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    linear = Readout(lambda velocity, cache: (cache[point] @ weight).mean(1), (point,))
    bent = Readout(lambda velocity, cache: (20 * linear(velocity, cache)).exp(), (point,))
    clean, corrupted = ({14: of_role(fed, role)} for role in "AC")
    told = [
        patching.patch_heads(lens, clean, corrupted, [14], {"linear": linear, "bent": bent}, regions).isel(step=0)
        for regions in (regions_of("A→C", 3), None)
    ]
    assert told[0].effect_linear.dims == ("clip", "region", "block", "head")
    for name, adds_up in (("linear", True), ("bent", False)):
        effect = told[0][f"effect_{name}"].sel(block=2)
        whole = effect.sel(region="all", drop=True)
        gap = np.abs(effect.sel(region=["shared", "differs"]).sum("region") - whole).max()
        assert (float(gap) < 2e-3 * float(np.abs(whole).max())) == adds_up, name
        assert float(np.abs(effect.sel(region="shared")).max()) > 0.01 * float(np.abs(whole).max())  # across the splice
        xr.testing.assert_equal(told[1][f"effect_{name}"].sel(block=2), whole)


def planted(size: float, scenes: int = 24, seed: int = 0) -> xr.Dataset:
    """Effects of noise on a probe, two of halves and one of position, at 2 steps x 3 blocks x 4 heads, and one of size.

    The halves read what the probe does with noise of their own, a tenth as large.
    """
    rng = np.random.default_rng(seed)
    readouts = [PLAUSIBILITY, f"{HALF} 0", f"{HALF} 1", "position x"]
    shape = (1, scenes, len(PAIRS), 2, 3, 4, len(readouts))
    sign = np.array(list(PAIRS.values())).reshape(-1, 1, 1, 1, 1)
    odd = rng.standard_normal((1, scenes, 1, 2, 3, 4, len(readouts)))
    odd[..., 1:3] = odd[..., :1] + 0.1 * odd[..., 1:3]
    odd[:, :, 0, 1, 2, 3, :3] += size
    return xr.Dataset(
        {
            "effect_logit": (("model", "quadruplet", "pair", "step", "block", "head", "readout"),
                             2 * np.broadcast_to(odd * sign, shape)),
            "probe_spread": (("model", "step", "readout"), np.full((1, 2, 4), 2.0)),
        },
        coords={
            "model": ["m"], "pair": list(PAIRS), "sign": ("pair", list(PAIRS.values())), "step": [1, 2],
            "readout": readouts, "kind": ("readout", [PLAUSIBILITY, HALF, HALF, "position"]),
        },
    )  # fmt: skip


def test_the_largest_of_all_blocks_heads_and_steps_stands_out_where_it_is_planted_and_not_otherwise() -> None:
    found = against_flips(label_odd(planted(1.5)))
    p = found.p.sel(model="m", readout=PLAUSIBILITY)
    assert float(p.sel(step=2, block=2, head=3)) < 0.01 and int((p < 0.05).sum()) == 1
    beyond = np.abs(found.t) > found.threshold.sel(of=found.kind)
    assert bool((beyond == (found.p < 0.05)).all())
    assert not bool((found.p.sel(readout="position x") < 0.05).any())
    assert not bool((against_flips(label_odd(planted(0.0))).p < 0.05).any())


def test_whole_quadruplets_are_flipped() -> None:
    """Copies of one cell are no further looks: the threshold of many is that of one; of independent cells it is not."""
    odd = label_odd(planted(0.0)).sel(readout=[PLAUSIBILITY])
    one = odd.isel(block=[0], head=[0], step=[0])
    copies = xr.zeros_like(odd) + one.squeeze(["block", "head", "step"], drop=True)
    limits = [against_flips(own).threshold.item() for own in (one, copies, odd)]
    assert limits[0] == pytest.approx(limits[1], rel=1e-6) and limits[2] > limits[0] + 0.5


def test_places_that_were_never_reached_are_left_out() -> None:
    odd = label_odd(planted(1.5))
    found, less = (against_flips(part) for part in (odd.where(odd.block < 2), odd.sel(block=[0, 1])))
    assert bool(found.p.sel(block=2).isnull().all())
    np.testing.assert_array_equal(found.p.sel(block=[0, 1]), less.p)


def test_content_moved_and_agreement_by_hand() -> None:
    result = planted(0.0)
    rms = moved(result).sel(model="m", kind="position", step=1, block=0, head=0)
    odd = label_odd(result).sel(model="m", readout="position x", step=1).isel(block=0, head=0)
    assert float(rms) == pytest.approx(float(np.sqrt((odd**2).mean())))
    at = planted(0.0, scenes=400).sel(model="m", step=1)
    assert agreement(at, f"{HALF} 0", f"{HALF} 1") > 0.9 > agreement(at, PLAUSIBILITY, "position x")


def test_hidden_frames_are_those_of_the_tracks(quadruplets: list[Quadruplet]) -> None:
    hidden = hidden_frames(quadruplets, 5).hidden.values
    for row, quadruplet in zip(hidden, quadruplets, strict=True):
        frames = np.flatnonzero(np.any([clip.tracks[0].hidden for clip in quadruplet.clips], axis=0))
        assert set(np.flatnonzero(row)) == {int(np.ceil(frame / 4)) for frame in frames}
    assert hidden.any() and not hidden.all()


FEW = ["--controls", "--steps", "2", "3", "--levels", "4", "--train", "10", "--test", "4", "--properties", "inertia"]


def test_table_and_figure_of_heads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(analyses.command, "DATA", tmp_path / "data")
    monkeypatch.setattr(figures.output, "OUT", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["patch_heads", *FEW])
    told = patch_heads.run, patch_heads.table, figure.draw, "patch_heads", patch_heads.__doc__
    analyses.command.main(patch_heads.Config, *told)
    printed = capsys.readouterr().out
    for line in (
        "region 'shared'",
        "beyond the corrected threshold",
        "rank agreement",
        "a clip patched with itself: 0\n",
    ):
        assert printed.count(line) == (1 if "region" in line else 4), line
    assert (tmp_path / "out" / "patch_heads.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "patch_heads.nc")
    assert set(result.kind.values) >= {PLAUSIBILITY, HALF, RANDOM, *CONTENT} and result.sizes["step"] == 2
    assert float(np.abs(result.effect_logit.sel(pair="A→B", region="shared")).max()) == 0  # they share nothing
    with pytest.raises(ValueError, match="got no regions"):
        patch_heads.run(patch_heads.Config(regions=()))


def test_where_an_object_is_hidden_effects_of_frames_are_told() -> None:
    result = planted(0.0).rename(head="frame").isel(frame=slice(0, 3)).assign(given=2)
    hidden = xr.DataArray(np.eye(3, dtype=bool)[np.arange(24) % 3], dims=("quadruplet", "frame"))
    told = patch_residual.by_sharing(result.assign(hidden=hidden))
    assert set(told) == {"frame shared", "frame differs", "object hidden"}
    seen = told["object hidden"].isel(model=0, step=0, block=0, readout=0).transpose("quadruplet", "frame")
    assert (seen.notnull().values == hidden.values).all()
    assert set(patch_residual.by_sharing(result)) == {"frame shared", "frame differs"}
