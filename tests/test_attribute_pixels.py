"""Integrated gradients over pixels: through any autoencoder to the logit, none on what is shared; table, figure."""

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
from analyses.attribute_pixels import BASELINES, Config, attribute, logits_of
from analyses.command import call
from dit_lens import results
from dit_lens.attribution import Integral, integrate
from dit_lens.capture import NoisePath, clips_of, evaluations
from dit_lens.clips import Scene, stack_frames
from dit_lens.lens import DiTLens
from dit_lens.measures.labels import label_effect
from dit_lens.running import Request
from dit_lens.studies.readers import Reader
from dit_lens.studies.shown import Shown
from dit_lens.video import to_tensor
from tests.readers import random_probe, reader_with
from tests.spliced import crossed_at, pair_of

pytest_plugins = ("released.fixtures",)
TINY = Config(path="continuation", sampler_steps=20, read_at=(14,), nodes=10, limit=0.2, batch_size=3)


@pytest.fixture(scope="module")
def scenes(quadruplets: list[Scene]) -> list[Scene]:
    """Crossed scenes of which one breaks in the middle and one twice."""
    return [quadruplets[0], crossed_at(quadruplets[2], (5, 13))]


def reader_on(lens: DiTLens, path: Any) -> Reader:
    return reader_with(lens, random_probe(lens, 1, 14, 20), NoisePath(path))


@pytest.mark.parametrize("path", ["continuation", "noising"])
def test_from_pixels_to_the_logit_is_the_path_that_the_probe_was_fitted_on(
    path: Any, lens: DiTLens, scenes: list[Scene]
) -> None:
    """For the first role, whose noise is taken for all; another clip of a single pair has that noise anyway."""
    pairs = [pair_of(scene, frame) for scene, frame in zip(scenes, (9, 13), strict=True)]
    reader = reader_on(lens, path)
    (fed,) = evaluations(lens, pairs, [14], reader.path).values()
    point = reader.probe.reads.point
    with torch.no_grad():
        expected = reader.probe.of_activation(lens.model.run_with(fed, {}, Request(point))[1][point]).chunk(2)
        videos = to_tensor(stack_frames(clips_of(pairs))).chunk(2)
        logits = logits_of(reader, pairs)
        values = [logits[role](video) for role, video in zip("AC", videos, strict=True)]
        swapped = logits["A"](videos[0].flip(0))
        twice = logits["A"](torch.cat([videos[0], videos[1]]))
    torch.testing.assert_close(torch.stack(values), torch.stack(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(twice, torch.cat(values), rtol=1e-4, atol=1e-4)  # copies lie batch behind batch
    assert float((swapped - values[0].flip(0)).abs().max()) > 1e-2  # noise and given frames are those of each scene


@pytest.fixture(scope="module")
def shown() -> Shown:
    return Shown()


@pytest.fixture(scope="module")
def table(lens: DiTLens, scenes: list[Scene], shown: Shown) -> xr.Dataset:
    return attribute(reader_on(lens, "continuation"), TINY, scenes, shown)


def test_both_baselines_add_up_to_the_label_effect_and_to_the_difference_of_the_pair(
    table: xr.Dataset, shown: Shown
) -> None:
    effect = label_effect(table.logit)
    for baseline in BASELINES:
        np.testing.assert_allclose(table.by_frame.sel(baseline=baseline).sum("frame"), effect, rtol=0, atol=1e-4)
    assert float(np.abs(effect).min()) > 4e-4 and float(table.delta.max()) < 0.01
    assert table.splice.values.tolist() == [9, 5]
    for margin, maps in shown.best.values():
        summed = maps.heat.isel(shown=0).sum(["frame", "row", "column"])
        np.testing.assert_allclose(summed, [margin, margin], rtol=1e-2, atol=1e-4)


def test_nothing_is_attributed_to_a_pair_where_its_clips_agree(shown: Shown, scenes: list[Scene]) -> None:
    for (_, maps), scene in zip(shown.best.values(), scenes, strict=True):
        same = (scene["A"].frames == scene["C"].frames).all((1, 2, 3))
        np.testing.assert_array_equal(maps.shown_agree[0], same)
        paired, mean = (maps.heat.isel(shown=0).sel(baseline=name).values for name in BASELINES)
        assert not paired[same].any() and paired[~same].any() and mean[same].any()
        np.testing.assert_array_equal(maps.pixels[0, 1], scene["C"].frames)


@pytest.mark.parametrize("name", ["wan21", "cogvideox_2b", "ltx"])
def test_gradients_pass_the_autoencoders_as_released(
    name: str, released_folder: Callable[[str], Path], quadruplets: list[Scene]
) -> None:
    """The attribution adds up to the change of the logit, to 2% of the sizes of what is added up.

    The control is a logit of which a part lets no gradient pass.
    """
    lens = dl.DiTLens.from_pretrained(released_folder(name))
    reader = reader_with(lens, random_probe(lens, 1, 1, 2), NoisePath("noising", 2))
    pair = [pair_of(quadruplets[0], 9)]
    videos = to_tensor(stack_frames(clips_of(pair))).chunk(2)
    logit = logits_of(reader, pair)["A"]
    values, change, _ = integrate(logit, videos[1], videos[0], Integral(steps=24, unit=1e-6, limit=9e9, batch_size=4))
    assert values.shape == videos[0].shape and float(change.abs()) > 0
    assert float((values.sum() - change).abs()) < 0.02 * float(values.abs().sum())
    assert not values[videos[0] == videos[1]].any() and values.any()
    with pytest.raises(ValueError, match="convergence delta"):
        integrate(lambda video: logit(video) + 100 * logit(video).detach(), videos[1], videos[0], Integral(steps=2))


def test_whole_clips_are_noised_where_continuation_is_no_default_and_inversion_is_refused(
    released_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "dev" / "O1").mkdir(parents=True)
    assert Config().resolved().path == "continuation"
    general = Config(model=str(released_folder("wan21")), data=f"intphys:dev={tmp_path}")
    assert general.resolved().path == "noising" and Config(path="noising").resolved().path == "noising"
    for study in (Config(), general):
        with pytest.raises(ValueError, match="got path inversion · expected noising or continuation"):
            replace(study, path="inversion").resolved()


FEW = ["--controls", "--properties", "inertia", "--train", "10", "--test", "2", "--nodes", "2", "--block", "1"]


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("attribute_pixels", [*FEW, "--limit", "99", "--full", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert all(baseline in text for baseline in BASELINES) and "largest delta" in text
    (path,) = tmp_path.glob("attribute_pixels-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    result = results.open_result(path)
    paired = result.by_frame.sel(baseline="paired clip")
    assert paired.sizes["frame"] == 17 and bool((np.abs(paired).sum("frame") > 0).all())
    assert result.splice.values.tolist() == [9, 9] and result.shown.size == 1


def test_a_line_that_does_not_converge_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        call("attribute_pixels", [*FEW, "--limit", "1e-9", "--out", str(tmp_path)])
    assert stopped.value.code == 2 and "convergence delta" in capsys.readouterr().err
