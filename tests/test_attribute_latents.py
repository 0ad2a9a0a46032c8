"""Integrated gradients over the noised latent: what they add up to, where they vanish, baselines; table and figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import dit_lens as dl
from analyses.attribute_latents import BASELINES, Config, attribute
from analyses.command import call
from dit_lens import results
from dit_lens.capture import by_scene, clean_frames, encode, spliced_noise, trajectory_of
from dit_lens.clips import Scene
from dit_lens.inversion import model_input
from dit_lens.lens import DiTLens
from dit_lens.measures.labels import content, label_effect
from dit_lens.studies.integrated_gradients import latents_by_role, with_noise_alone
from dit_lens.studies.paths import path_of
from dit_lens.studies.shown import Shown, frames_of
from tests.readers import random_probe, reader_with
from tests.spliced import crossed_at, pair_of

pytest_plugins = ("released.fixtures",)
TINY = Config(sampler_steps=4, read_at=(3,), nodes=10, limit=0.2, batch_size=3)
ROLES = "ABCD"


@pytest.fixture(scope="module")
def scenes(quadruplets: list[Scene]) -> list[Scene]:
    """Two crossed scenes that break at different frames, and one that breaks twice."""
    return [quadruplets[0], crossed_at(quadruplets[2], (13,)), crossed_at(quadruplets[4], (5, 13))]


@pytest.fixture(scope="module", params=["continuation", "inversion"])
def config(request: pytest.FixtureRequest) -> Config:
    return replace(TINY, path=request.param)


@pytest.fixture(scope="module")
def shown() -> Shown:
    return Shown()


@pytest.fixture(scope="module")
def table(lens: DiTLens, scenes: list[Scene], config: Config, shown: Shown) -> xr.Dataset:
    reader = reader_with(lens, random_probe(lens, 1, 3, 4), path_of(config))
    shown.best.clear()
    return attribute(reader, config, scenes, 1, shown)


def test_what_follows_the_label_adds_up_to_the_label_effect_of_the_logit(table: xr.Dataset) -> None:
    """Up to the quadrature; what the content makes of the logit is many times as large as that."""
    summed = table.label_effect.sum(["frame", "row", "column"])
    logit, noise = label_effect(table.logit), label_effect(table.noise_logit)
    for baseline, expected in zip(BASELINES, (logit, logit, logit - noise), strict=True):
        total = summed.sel(baseline=baseline).transpose(*expected.dims)
        np.testing.assert_allclose(total, expected, rtol=0, atol=6e-3)
    assert float(content(table.logit).min()) > 0.02 and float(table.delta.max()) < 0.03
    probe, random = (table.label_effect.sel(direction=name) for name in ("probe", "random 0"))
    assert float(np.abs(probe - random).max()) > 1e-4
    np.testing.assert_allclose(table.by_frame, table.label_effect.sum(["row", "column"]))


def test_where_the_latents_agree_nothing_is_attributed_to_the_pair(
    shown: Shown, table: xr.Dataset, config: Config
) -> None:
    assert table.splice.values.tolist() == [3, 4, 2] and len(shown.best) == 3
    for place, (_, maps) in enumerate(shown.best.values()):
        heat, agree = maps.heat.isel(shown=0), maps.shown_agree.isel(shown=0).values
        if config.path == "inversion":  # which mixes frames: no two latents agree
            assert not agree.any() and float(np.abs(heat.sel(baseline="paired clip")).max(["row", "column"]).min()) > 0
            continue
        alike = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]][place]
        np.testing.assert_array_equal(agree, np.array(alike, bool))
        paired, others = heat.sel(baseline="paired clip").values, heat.sel(baseline=list(BASELINES[1:])).values
        assert not paired[agree].any() and paired[~agree].any() and others[:, agree].any()


def test_the_pair_shown_adds_up_to_its_difference_of_logits(shown: Shown, table: xr.Dataset) -> None:
    of_probe = table.sel(direction="probe")
    change, noise = (
        (of_probe[name].sel(role="A") - of_probe[name].sel(role="C")).values for name in ("logit", "noise_logit")
    )
    for place, (margin, maps) in enumerate(shown.best.values()):
        summed = maps.heat.isel(shown=0).sum(["frame", "row", "column"]).values
        assert margin == pytest.approx(change[place])
        np.testing.assert_allclose(summed, [margin, margin, margin - noise[place]], rtol=0, atol=1.5e-2)
    assert np.abs(change).max() > 0.05


def test_a_single_pair_goes_from_the_impossible_clip_to_the_possible_one(lens: DiTLens, scenes: list[Scene]) -> None:
    """Batched with pairs that break elsewhere it is as alone; its label effect is the difference of its two logits."""
    config = replace(TINY, path="continuation")
    reader = reader_with(lens, random_probe(lens, 1, 3, 4), path_of(config))
    pairs = [pair_of(scene, frame) for scene, frame in zip(scenes, (9, 13, 5), strict=True)]
    both, alone = attribute(reader, config, pairs), attribute(reader, config, pairs[2:])
    np.testing.assert_allclose(both.label_effect.isel(scene=[2]), alone.label_effect, rtol=1e-3, atol=1e-5)
    assert float(np.abs(both.label_effect.isel(scene=[1]) - alone.label_effect.values).max()) > 1e-3
    change = (both.logit.sel(role="A") - both.logit.sel(role="C")).transpose("direction", "scene")
    summed = both.by_frame.sum("frame").sel(baseline="paired clip").transpose("direction", "scene")
    np.testing.assert_allclose(summed, change, rtol=0, atol=1.5e-2)
    before = both.by_frame.sel(baseline="paired clip", direction="probe").where(
        xr.DataArray(range(5), dims="frame") < both.splice
    )
    assert not before.fillna(0).any() and both.splice.values.tolist() == [3, 4, 2]


@pytest.mark.parametrize("path", ["continuation", "noising", "inversion"])
def test_the_last_baseline_is_the_same_noise_without_a_clean_part(
    path: Any, lens: DiTLens, scenes: list[Scene]
) -> None:
    config = replace(TINY, path=path)
    clips, alone = (
        torch.cat([*latents_by_role(lens, run, ROLES).values()]) for run in with_noise_alone(config, lens, scenes, 3)
    )
    sigma, latents = lens.schedule(4).sigmas[3], encode(lens.encode, scenes)
    if path == "inversion":
        noise = trajectory_of(lens, scenes, path_of(config)).latents[-1]
        torch.testing.assert_close(alone, sigma * noise, rtol=1e-4, atol=1e-4)
        return
    noise, level = spliced_noise(latents, scenes, config.seed), torch.full((12, 1, 5, 1, 1), sigma)
    if path == "continuation":
        counts = clean_frames(scenes, 5)
        assert sorted({*counts}) == [2, 3, 4] and [counts[i] for i in by_scene(scenes)] == [3] * 4 + [4] * 4 + [2] * 4
        for row, count in zip(level, counts, strict=True):
            row[:, :count] = 0
    torch.testing.assert_close(alone, level * noise)
    torch.testing.assert_close(clips - alone, (1 - level) * latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["noising", "inversion"])
def test_noise_alone_is_scaled_where_a_model_keeps_variance(
    path: Any, released_folder: Callable[[str], Path], quadruplets: list[Scene]
) -> None:
    lens = dl.DiTLens.from_pretrained(released_folder("cogvideox_2b"))
    config, pair = replace(TINY, path=path, sampler_steps=2, read_at=(1,)), [pair_of(quadruplets[0], 9)]
    clips, alone = with_noise_alone(config, lens, pair, 1)
    fed, zero = (torch.cat([*latents_by_role(lens, run, "AC").values()]) for run in (clips, alone))
    trajectory = trajectory_of(lens, pair, path_of(config))
    time, sigma = float(clips.inputs["timestep"][0]), trajectory.schedule.sigmas[1]
    noise = trajectory.latents[-1] / trajectory.schedule.sigmas[-1] if path == "inversion" else None
    noise = spliced_noise(trajectory.latents[0], pair, config.seed) if noise is None else noise
    torch.testing.assert_close(zero, model_input(lens, sigma * noise, time), rtol=1e-4, atol=1e-4)
    assert float((zero - sigma * noise).abs().max()) > 0.1  # it is scaled
    assert torch.equal(clips.inputs["timestep"], alone.inputs["timestep"]) and float((fed - zero).abs().max()) > 0.1


def test_latent_frames_are_drawn_over_the_last_frame_they_stand_for(quadruplets: list[Scene]) -> None:
    scene = quadruplets[0]
    assert frames_of(scene, 5) == [0, 4, 8, 12, 16] and frames_of(scene, 3) == [0, 8, 16]
    assert frames_of(scene, 17) == list(range(17))


def test_of_each_property_the_pair_is_drawn_that_is_separated_best(quadruplets: list[Scene]) -> None:
    scenes = [replace(scene) for scene in quadruplets[:4]]
    laws, margins, best, size = [s.property for s in scenes], np.array([1.0, 3.0, 2.0, -1.0]), Shown(), 5
    assert len({*laws}) == 2 or laws[0] != laws[1]
    logit = xr.DataArray(np.stack([margins, 0 * margins], 1), {"role": ["A", "C"]}, ("scene", "role"))
    table = xr.Dataset(
        {
            "logit": logit, "agree": (("scene", "frame"), np.zeros((4, size), bool)),
            "heat": (("baseline", "scene", "frame", "row", "column"), np.arange(4.0)[None, :, None, None, None]
                     * np.ones((1, 4, size, 2, 2))),
        },
        {"splice": ("scene", [3.0, 3.0, np.nan, 3.0]), "baseline": ["paired clip"]},
    )  # fmt: skip
    for start in (0, 2):  # in two batches
        best.add(table.isel(scene=slice(start, start + 2)), scenes[start : start + 2])
    winners = [max((i for i in range(4) if laws[i] == law), key=lambda i: margins[i]) for law in dict.fromkeys(laws)]
    order = sorted(winners, key=lambda i: -margins[i])
    drawn = best.table(9)
    assert [name.split(":")[0] for name in drawn.shown.values] == [laws[i] for i in order]
    assert drawn.heat.isel(row=0, column=0, frame=0, baseline=0).values.tolist() == order
    np.testing.assert_array_equal(drawn.pixels[0, 1], scenes[order[0]]["C"].frames[[0, 4, 8, 12, 16]])
    assert best.table(1).sizes["shown"] == best.table(0).sizes["shown"] == 1


FEW = ["--controls", "--properties", "inertia", "--train", "10", "--test", "2", "--nodes", "2", "--block", "1"]


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("attribute_latents", [*FEW, "--limit", "99", "--full", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert all(text.count(f"  {baseline} ") == 2 for baseline in BASELINES)  # two directions
    assert "random 0: label effect of the logit" in text and "the path to noise is held fixed" in text
    (path,) = tmp_path.glob("attribute_latents-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    result = results.open_result(path)
    assert list(result.direction.values) == ["probe", "random 0"] and result.sizes["shown"] == 1
    assert bool(result.shown_agree[0, 0]) and not bool(result.shown_agree[0, -1])


def test_a_line_that_does_not_converge_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        call("attribute_latents", [*FEW, "--limit", "1e-9", "--out", str(tmp_path)])
    assert stopped.value.code == 2 and "convergence delta" in capsys.readouterr().err
