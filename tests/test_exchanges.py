"""Exchanges between the clips of a scene: pairs, regions, nulls of the largest, content by hand; heads patched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from spliced import crossed_at, pair_of

from analyses.command import call
from dit_lens import patching, results
from dit_lens.axes import TokenGrid
from dit_lens.capture import NoisePath, evaluations, of_role
from dit_lens.clips import ROLES, Scene
from dit_lens.lens import DiTLens
from dit_lens.measures import patch_residual
from dit_lens.measures.patching import (
    CONTENT,
    HALF,
    PLAUSIBILITY,
    RANDOM,
    SHARING,
    against_flips,
    agreement,
    label_effect_of_pairs,
    moved,
)
from dit_lens.metrics import Readout
from dit_lens.studies.exchanges import PAIRS, about, pairs_of, regions

GIVEN, GRID = 3, TokenGrid(5, 2, 2)
MADE = {"A": "AA", "B": "BB", "C": "AB", "D": "BA"}


def frames_in(pair: str, scene: Scene) -> dict[str, list[bool]]:
    """Which of the five latent frames each region holds."""
    return {name: GRID.mask(*where).reshape(5, 4).all(1).tolist() for name, where in regions(pair, scene, 5).items()}


def test_regions_of_a_pair_are_the_half_that_both_are_made_of_and_the_rest(quadruplets: list[Scene]) -> None:
    for pair in PAIRS:
        source, recipient = (MADE[role] for role in pair.split("→"))
        shared = [source[frame >= GIVEN] == recipient[frame >= GIVEN] for frame in range(GRID.frames)]
        masks = {
            name: GRID.mask(*tokens).reshape(5, 4).all(1).tolist()
            for name, tokens in regions(pair, quadruplets[0], 5).items()
        }
        assert masks["shared"] == shared and masks["differs"] == [not same for same in shared] and all(masks["all"])
    assert {pair for pairs in SHARING.values() for pair in pairs} == {pair for pair, sign in PAIRS.items() if sign}


def test_in_the_readouts_own_attention_regions_add_up(lens: DiTLens, quadruplets: list[Scene]) -> None:
    """What is written after a patch there is read as it is: the effect is linear in z, so halves add up to all.

    The control is a readout that is not linear.
    """
    (fed,) = evaluations(lens, quadruplets[:2], [14], NoisePath("continuation")).values()
    point = "blocks.2.hook_resid_mid_attn"
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    linear = Readout(lambda velocity, cache: (cache[point] @ weight).mean(1), (point,))
    bent = Readout(lambda velocity, cache: (20 * linear(velocity, cache)).exp(), (point,))
    clean, corrupted = ({14: of_role(fed, role)} for role in "AC")
    tables = [
        patching.patch_heads(lens, clean, corrupted, [14], {"linear": linear, "bent": bent}, regions=where).isel(step=0)
        for where in (regions("A→C", quadruplets[0], 5), None)
    ]
    assert tables[0].effect_linear.dims == ("clip", "region", "block", "head")
    for name, adds_up in (("linear", True), ("bent", False)):
        effect = tables[0][f"effect_{name}"].sel(block=2)
        whole = effect.sel(region="all", drop=True)
        gap = np.abs(effect.sel(region=["shared", "differs"]).sum("region") - whole).max()
        assert (float(gap) < 2e-3 * float(np.abs(whole).max())) == adds_up, name
        assert float(np.abs(effect.sel(region="shared")).max()) > 0.01 * float(np.abs(whole).max())  # across the break
        xr.testing.assert_equal(tables[1][f"effect_{name}"].sel(block=2), whole)


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
            "effect_logit": (("model", "scene", "pair", "step", "block", "head", "readout"),
                             2 * np.broadcast_to(odd * sign, shape)),
            "probe_spread": (("model", "step", "readout"), np.full((1, 2, 4), 2.0)),
        },
        coords={
            "model": ["m"], "pair": list(PAIRS), "sign": ("pair", list(PAIRS.values())), "step": [1, 2],
            "readout": readouts, "kind": ("readout", [PLAUSIBILITY, HALF, HALF, "position"]),
        },
    )  # fmt: skip


def test_the_largest_of_all_blocks_heads_and_steps_stands_out_where_it_is_planted_and_not_otherwise() -> None:
    flip_test = against_flips(label_effect_of_pairs(planted(1.5)))
    p = flip_test.p.sel(model="m", readout=PLAUSIBILITY)
    assert float(p.sel(step=2, block=2, head=3)) < 0.01 and int((p < 0.05).sum()) == 1
    beyond = np.abs(flip_test.t) > flip_test.threshold.sel(of=flip_test.kind)
    assert bool((beyond == (flip_test.p < 0.05)).all())
    assert not bool((flip_test.p.sel(readout="position x") < 0.05).any())
    assert not bool((against_flips(label_effect_of_pairs(planted(0.0))).p < 0.05).any())


def test_whole_scenes_are_flipped() -> None:
    """Copies of one cell are no further looks: the threshold of many is that of one; of independent cells it is not."""
    odd = label_effect_of_pairs(planted(0.0)).sel(readout=[PLAUSIBILITY])
    single = odd.isel(block=[0], head=[0], step=[0])
    copies = xr.zeros_like(odd) + single.squeeze(["block", "head", "step"], drop=True)
    limits = [against_flips(effects).threshold.item() for effects in (single, copies, odd)]
    assert limits[0] == pytest.approx(limits[1], rel=1e-6) and limits[2] > limits[0] + 0.5


def test_places_that_were_never_reached_are_left_out() -> None:
    odd = label_effect_of_pairs(planted(1.5))
    masked, less = (against_flips(part) for part in (odd.where(odd.block < 2), odd.sel(block=[0, 1])))
    assert bool(masked.p.sel(block=2).isnull().all())
    np.testing.assert_array_equal(masked.p.sel(block=[0, 1]), less.p)


def test_content_moved_and_agreement_by_hand() -> None:
    result = planted(0.0)
    rms = moved(result).sel(model="m", kind="position", step=1, block=0, head=0)
    odd = label_effect_of_pairs(result).sel(model="m", readout="position x", step=1).isel(block=0, head=0)
    assert float(rms) == pytest.approx(float(np.sqrt((odd**2).mean())))
    at = planted(0.0, scenes=400).sel(model="m", step=1)
    assert agreement(at, f"{HALF} 0", f"{HALF} 1") > 0.9 > agreement(at, PLAUSIBILITY, "position x")


def test_hidden_frames_are_those_of_the_tracks(quadruplets: list[Scene]) -> None:
    hidden = about(quadruplets, 5).hidden.values
    for row, quadruplet in zip(hidden, quadruplets, strict=True):
        frames = np.flatnonzero(np.any([clip.tracks[0].hidden for clip in quadruplet.clips], axis=0))
        assert set(np.flatnonzero(row)) == {int(np.ceil(frame / 4)) for frame in frames}
    assert hidden.any() and not hidden.all()


def test_where_an_object_is_hidden_effects_of_frames_are_told() -> None:
    result = planted(0.0).rename(head="frame").isel(frame=slice(0, 3)).assign(given=2)
    hidden = xr.DataArray(np.eye(3, dtype=bool)[np.arange(24) % 3], dims=("scene", "frame"))
    effects = patch_residual.by_sharing(result.assign(hidden=hidden))
    assert set(effects) == {"frame shared", "frame differs", "object hidden"}
    hidden_effects = effects["object hidden"].isel(model=0, step=0, block=0, readout=0).transpose("scene", "frame")
    assert (hidden_effects.notnull().values == hidden.values).all()
    assert set(patch_residual.by_sharing(result)) == {"frame shared", "frame differs"}


def test_the_frames_between_two_breaks_are_a_region(quadruplets: list[Scene]) -> None:
    twice = crossed_at(quadruplets[0], (5, 12))  # latent frames 2 and 3
    where = {
        name: GRID.mask(*tokens).reshape(5, 4).all(1).tolist() for name, tokens in regions("A→C", twice, 5).items()
    }
    assert where["differs"] == [False, False, True, True, False] and where["shared"] == [True, True, False, False, True]
    across = {
        name: GRID.mask(*tokens).reshape(5, 4).all(1).tolist() for name, tokens in regions("A→D", twice, 5).items()
    }
    assert across["differs"] == where["shared"]


def test_scenes_have_the_pairs_that_their_clips_allow(quadruplets: list[Scene]) -> None:
    assert list(pairs_of(ROLES, crossed=True)) == list(PAIRS)
    assert list(pairs_of(ROLES, crossed=False)) == ["A→C", "B→D", "C→A", "D→B", "A→B", "B→A", "A→A"]
    assert list(pairs_of(pair_of(quadruplets[0], 9).roles, crossed=False)) == ["A→C", "C→A", "A→A"]


def test_what_is_known_of_scenes_is_each_ones_own(quadruplets: list[Scene]) -> None:
    scenes = [crossed_at(quadruplets[0], (5,)), crossed_at(quadruplets[1], (13,)), pair_of(quadruplets[2], 9)]
    known = about(scenes, 5)
    assert known.given.values.tolist() == [2, 4, 3] and known.crossed.values.tolist() == [True, True, False]
    strangers = Scene("s", (quadruplets[0]["A"], quadruplets[1]["C"]), ((0, 1),))
    assert about([strangers], 5).given.values.tolist() == [0]


FEW = [
    "--controls", "--read-at", "2", "3", "--sampler-steps", "4", "--train", "10", "--test", "4", "--properties",
    "inertia",
]  # fmt: skip


def test_table_and_figure_of_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("patch_heads", [*FEW, "--full", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for line in (
        "region 'shared'",
        "beyond the corrected threshold",
        "rank agreement",
        "a clip patched with itself: 0\n",
    ):
        assert printed.count(line) == (1 if "region" in line else 4), line
    (path,) = tmp_path.glob("patch_heads-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    result = results.open_result(path)
    assert set(result.kind.values) >= {PLAUSIBILITY, HALF, RANDOM, *CONTENT} and result.sizes["step"] == 2
    assert float(np.abs(result.effect_logit.sel(pair="A→B", region="shared")).max()) == 0  # they share nothing
    call("patch_heads", [*FEW, "--out", str(tmp_path)])
    up_to_date, said, table, files = capsys.readouterr().out.strip().split("\n\n")
    assert "is up to date" in up_to_date and files.startswith("result ")
    assert "corrected threshold (n = 4 test scenes)" in said and len(table.splitlines()) <= 12 < len(
        printed.splitlines()
    )
    with pytest.raises(SystemExit):
        call("patch_heads", [*FEW, "--regions", "--out", str(tmp_path / "none")])
    assert "got no --regions" in capsys.readouterr().err
