"""What writes plausibility: parts add up, what sees frames alone cancels in crossed scenes; table and figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from analyses.attribute_writes import Config, written
from analyses.command import call
from dit_lens import results
from dit_lens.capture import NoisePath
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.attribute_writes import effects, top
from dit_lens.measures.labels import content, label_effect
from dit_lens.measures.nulls import sign_flips
from dit_lens.studies.readers import Reader
from tests.readers import random_probe, reader_with
from tests.spliced import crossed_at, pair_of

CONFIG = Config(directions=2, batch_size=3)


@pytest.fixture(scope="module")
def reader(lens: DiTLens) -> Reader:
    return reader_with(lens, random_probe(lens, 3, 14, 20, frames=5), NoisePath("continuation"))


@pytest.fixture(scope="module")
def scenes(quadruplets: list[Scene]) -> list[Scene]:
    """Crossed scenes that break at two different frames."""
    return [*quadruplets[:2], crossed_at(quadruplets[2], (13,))]


@pytest.fixture(scope="module")
def writes(reader: Reader, scenes: list[Scene]) -> xr.Dataset:
    return written(reader, CONFIG, scenes)


def test_parts_add_up_to_the_logit_of_every_clip_and_direction(writes: xr.Dataset) -> None:
    parts = writes.attribution.astype(float)
    total = writes.constant + writes.embedding + parts.sum(["block", "component"])
    scale = float(np.abs(writes.readout).max())
    assert float(np.abs(total - writes.readout).max()) < 1e-5 * scale
    assert list(writes.direction.values) == ["probe", "random 0", "random 1"] and set(writes.block.values) == {
        *range(4)
    }
    np.testing.assert_allclose(
        label_effect(parts).sum(["block", "component"]), label_effect(writes.readout), atol=1e-5 * scale
    )
    without = (total - parts.sel(component="attn.0").sum("block") - writes.readout).sel(direction="probe")
    assert float(np.abs(without).max()) > 1e-3 * scale  # the sum is none where a head is left out


def test_the_embedding_has_no_label_effect_in_crossed_scenes_wherever_they_break(
    writes: xr.Dataset, reader: Reader, scenes: list[Scene]
) -> None:
    """It sees each frame alone, and biases nothing of the clip; the control is pairs that are not crossed."""
    scale = float(np.abs(writes.embedding).max())
    assert float(np.abs(label_effect(writes.embedding)).max()) < 1e-5 * scale
    biases = writes.attribution.sel(component=["attn.bias", "cross_attn.bias"])
    assert float(np.abs(label_effect(biases)).max()) < 1e-5 * scale
    assert float(content(writes.embedding).sel(direction="probe")) > 1e-3 * scale  # it has content
    single = written(reader, CONFIG, [pair_of(scene, 9) for scene in scenes])
    assert list(single.role.values) == ["A", "C"] and not single.crossed.any() and writes.crossed.all()
    assert float(np.abs(label_effect(single.embedding)).sel(direction="probe").min()) > 1e-4 * scale


def test_a_scene_is_read_as_it_would_be_alone(writes: xr.Dataset, reader: Reader, scenes: list[Scene]) -> None:
    for scene in scenes[1:]:
        alone = written(reader, CONFIG, [scene])
        both = xr.broadcast(alone.attribution, writes.attribution.sel(scene=[scene.id]))
        np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)
    first, second = (writes.attribution.sel(scene=scene.id) for scene in scenes[:2])
    assert float(np.abs(first - second).max()) > 1e-3  # scenes differ


def test_label_and_content_by_hand() -> None:
    """A, B, C, D = mean + label + first half + second half, with 3, 2 and 1 for the last three."""
    values = xr.DataArray(
        [[10 + 3 + 2 + 1, 10 + 3 - 2 - 1, 10 - 3 + 2 - 1, 10 - 3 - 2 + 1]] * 2, dims=("scene", "role")
    )
    values = values.assign_coords(role=list("ABCD"))
    assert label_effect(values).values == pytest.approx([6.0, 6.0])
    assert float(content(values)) == pytest.approx(np.sqrt((4**2 + 2**2) / 2))


def planted(rng: np.random.Generator, size: float) -> xr.Dataset:
    """Noise for 40 quadruplets and 6 components, and one that writes the label."""
    values = rng.standard_normal((40, 4, 2, 3))
    values[:, :2, 1, 2] += size
    attribution = xr.DataArray(values, dims=("scene", "role", "block", "component"))
    coordinates = {
        "scene": np.arange(40), "role": list("ABCD"), "block": [0, 1], "component": ["attn.0", "attn.bias", "mlp"],
        "property": ("scene", ["inertia", "gravity"] * 20),
    }  # fmt: skip
    table = attribution.assign_coords(coordinates).expand_dims(model=["planted"], direction=["probe"])
    return xr.Dataset({"attribution": table, "probe_spread": ("model", [1.0])})


def test_a_component_that_writes_the_label_is_ranked_first_and_noise_is_not_significant() -> None:
    result = planted(np.random.default_rng(0), 2.0)
    assert top(result, "planted")[0] == (1, "mlp") and not any(
        name == "attn.bias" for _, name in top(result, "planted")
    )
    p = sign_flips(effects(result.sel(model="planted", direction="probe"))).p
    assert float(p.sel(block=1, component="mlp")) < 0.01 and int((p > 0.05).sum()) == p.size - 1 == 3


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--controls", "--train", "10", "--test", "4", "--directions", "1", "--properties", "inertia", "gravity"]
    call("attribute_writes", [*few, "--full", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert text.count("embedding (0 by construction)") == text.count("components sum to every logit") == 1
    (path,) = tmp_path.glob("attribute_writes-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000
    result = results.open_result(path)
    assert float(np.abs(result.unexplained / result.probe_spread).max()) < 1e-4 and int(result.step) == 14
    assert result.property.values.tolist() == ["inertia", "gravity"] * 2
