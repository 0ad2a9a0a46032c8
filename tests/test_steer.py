"""Dose-response: dose 0 is the unsteered model, a planted response is measured as it is; table and figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from analyses import command, steer
from analyses.steer import MEASURES, Config, damage, directions_of, dose_response, of_inner_blocks
from dit_lens import results
from dit_lens.capture import takes_levels_by_frame
from dit_lens.lens import DiTLens
from dit_lens.measures.steer import FITTED, as_far_as, responses, scores, table, verdict
from dit_lens.studies.readers import features
from dit_lens.toy.miniphys import MiniPhys

RANDOM = as_far_as("probe")
TINY = [
    "--train", "6", "--test", "2", "--read-at", "11", "--doses", "4", "--randoms", "1", "--sampling", "1",
    "--properties", "inertia", "gravity", "--controls", "mini-wan-random",
]  # fmt: skip


def config(*arguments: str) -> Config:
    """Options, checked."""
    return command.parse(Config, "steer", [*TINY, *arguments], "")


def test_dose_0_is_unsteered_and_others_are_not(lens: DiTLens) -> None:
    small = config("--doses", "-4", "4")
    read = of_inner_blocks(features(small, lens, small.scenes("train"), "train", pooling="tokens"), lens.blocks, None)
    assert read.coordinates == {"step": [11], "block": [1, 2, 3, 4]} and read.parts == 1
    steered = directions_of(read, small, None)
    assert steered.block in (1, 2, 3, 4) and 0 <= steered.accuracy <= 1
    assert directions_of(read, small, (11, 2)).block == 2  # a control is steered at the block that is asked for
    result = dose_response(lens, MiniPhys("test", 2, ["inertia", "gravity"])[:], steered, small)
    moved = result["values"].sel(measure="damage")
    assert (moved.sel(dose=0.0) == 0).all() and (moved.sel(dose=[-4.0, 4.0]) > 0).all()
    assert (result.erased.sel(measure="damage") > 0).all()
    still = result["values"].sel(dose=0.0)
    assert (still == still.isel(direction=0)).all()
    for name in FITTED:
        fitted, random = (steered.directions[n] for n in (name, f"{as_far_as(name)} 0"))
        assert fitted.spread * float(fitted.unit.norm()) == pytest.approx(random.spread * float(random.unit.norm()))


def test_damage_by_hand() -> None:
    plain = torch.ones(2, 1, 1, 2, 2)
    videos = torch.stack([plain[0], 4 * plain[0]])
    assert damage(videos, plain).tolist() == pytest.approx([0, 3])


def planted(slope: float, n: int = 3) -> xr.Dataset:
    """Margins that grow with the dose along the probe, and nowhere else, from -0.1."""
    names = ["probe", "difference of means", f"{RANDOM} 0", f"{RANDOM} 1"]
    dose = np.array([-2.0, 0.0, 2.0])
    values = np.zeros((1, len(names), len(dose), n, 2, len(MEASURES)))
    values[..., :-1] = -0.1
    values[:, 0, :, :, :, :-1] += slope * dose[:, None, None, None]
    values[:, 2, 2, :, :, -1], values[:, 3, 2, :, :, -1] = 1, 3
    coordinates = {"model": ["planted"], "direction": names, "dose": dose, "measure": list(MEASURES)}
    axes = ("model", "direction", "dose", "scene", "pair", "measure")
    return xr.Dataset(
        {"values": (axes, values), "erased": (axes[:2] + axes[3:], values[:, :, 1])},
        coordinates | {"scene": [*map(str, range(n))]},
    )


def test_a_planted_response_is_found() -> None:
    result = responses(planted(0.2)).isel(model=0, scene=0)
    assert result.dose.values.tolist() == [-2, 0, 2, np.inf]
    assert result.shown.sel(kind="probe").values.tolist() == [0, 0, 1, 0]
    assert result.nearer.sel(kind="probe").values == pytest.approx([-0.4, 0, 0.4, 0])
    assert (result.nearer.sel(kind=RANDOM) == 0).all() and (result.shown.sel(kind="difference of means") == 0).all()
    assert float(result.damage.sel(kind=RANDOM, dose=2.0)) == 2  # the mean of 1 and 3
    change = scores(planted(0.2), change=True).sel(model="planted", kind="probe", end="middle")
    assert change.shown.values.tolist() == [0, 0, 1, 0]


def test_the_verdict_of_a_planted_response_and_of_none() -> None:
    said = verdict(planted(0.2, 12))
    # All of 12 scenes are alike: of all scenes, more than .025^(1/12) = .735 are so.
    assert "possible outcome by +1.00 [+0.47, +1.00] in planted (n = 12 test scenes)" in said
    assert said.endswith("above the control, random directions of equal size (+0.00 [-0.26, +0.26]).")
    assert "by +1.00 [-0.42, +1.00] in planted (n = 3 test scenes)" in verdict(planted(0.2))  # too few to say
    assert "This is not above 0; the control is random" in verdict(planted(0.2))
    assert "This is not above 0; the control is random" in verdict(planted(0.0))
    bare = planted(0.2).sel(measure=["latent", "damage"], direction=["probe"]).drop_vars("erased")
    assert "margin of the latent toward the possible outcome by +0.40" in verdict(bare)
    chosen = {name: ("model", [value]) for name, value in (("block", 3), ("step", 1), ("accuracy", 0.5))}
    assert "tracker" not in table(bare.assign(chosen), full=True) and "erased" not in table(bare.assign(chosen), True)


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.call("steer", [*TINY, "--block", "2", "--full", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.count("dose 0 changes the latent by 0\n") == 2 and all(
        word in said for word in ("+4", "erased", RANDOM, "probe")
    )
    (path,) = tmp_path.glob("steer-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    result = results.open_result(path)
    assert list(result.property.values) == ["inertia", "gravity"] and set(result.block.values) == {2}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--randoms", "0"], "at least 1 random direction"),
        (["--path", "inversion"], "expected continuation"),
        (["--sigmas", "0.9", "0.1"], "two ascending noise levels"),
        (["--test", "1"], "at least 2"),
        (["--block", "6"], "expected 0 to 5"),
        (["--data", "likephys=."], "no true positions"),
    ],
)
def test_too_little_is_told(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.call("steer", [*TINY, "--controls", *arguments])
    assert stopped.value.code == 2 and says in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_model_with_one_level_for_a_clip_is_refused_before_anything_is_read(
    lens: DiTLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert takes_levels_by_frame(lens)
    monkeypatch.setattr(lens, "family", replace(lens.family, time_by_token=False))
    monkeypatch.setattr(Config, "lenses", lambda _: iter([(lens.name, lens)]))
    monkeypatch.setattr(steer, "features", lambda *_, **__: pytest.fail("read before it was refused"))
    with pytest.raises(ValueError, match="takes one for the whole clip"):
        steer.run(config())
