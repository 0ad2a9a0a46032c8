"""What writes plausibility: parts add up, halves alone cancel, statistics by hand; table and figure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyses.command
import figures.output
from analyses import attribute_writes
from analyses.attribute_writes import Config, top, written
from analyses.frozen_probe import fit
from analyses.roles import content, contrast
from dit_lens import results
from dit_lens.datasets.miniphys import MiniPhys
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe
from dit_lens.stats import sign_flip_p
from figures import attribute_writes as figure

TINY = Config(properties=("inertia", "gravity"), train=10, test=10, directions=2)


@pytest.fixture(scope="module")
def probe(lens: DiTLens) -> Probe:
    train = MiniPhys("train", TINY.train, TINY.properties)[:]
    found, accuracy = fit(lens, TINY, train, 3)
    assert found.reads.point == "blocks.3.hook_resid_post" and accuracy.sizes == {"depth": 6}
    return found


@pytest.fixture(scope="module")
def told(lens: DiTLens, probe: Probe) -> xr.Dataset:
    return written(lens, TINY, MiniPhys("test", TINY.test, TINY.properties)[:], probe)


def test_parts_add_up_to_the_logit_of_every_clip_and_direction(told: xr.Dataset) -> None:
    total = told.constant + told.embedding + told.attribution.astype(float).sum(["block", "component"])
    scale = float(np.abs(told.readout).max())
    assert float(np.abs(total - told.readout).max()) < 1e-5 * scale
    assert list(told.direction.values) == ["probe", "random 0", "random 1"] and set(told.block.values) == {0, 1, 2, 3}
    parts = contrast(told.attribution, xr.DataArray(1.0)).sum(["block", "component"])
    np.testing.assert_allclose(parts, contrast(told.readout, xr.DataArray(1.0)), atol=1e-5 * scale)
    assert np.abs(parts).max() > 1e-4 * scale


def test_the_embedding_has_no_contrast_and_biases_neither(told: xr.Dataset) -> None:
    """They see each half alone, or nothing of the clip: the four clips of a quadruplet balance."""
    scale = float(np.abs(told.embedding).max())
    assert float(np.abs(contrast(told.embedding, xr.DataArray(1.0))).max()) < 1e-5 * scale
    biases = told.attribution.sel(component=["attn.bias", "cross_attn.bias"])
    assert float(np.abs(contrast(biases, xr.DataArray(1.0))).max()) < 1e-5 * scale
    assert float(content(told.embedding, xr.DataArray(1.0)).sel(direction="probe")) > 1e-3 * scale  # it has content


def test_label_and_content_by_hand() -> None:
    """A, B, C, D = mean + label + first half + second half, with 3, 2 and 1 for the last three."""
    values = xr.DataArray(
        [[10 + 3 + 2 + 1, 10 + 3 - 2 - 1, 10 - 3 + 2 - 1, 10 - 3 - 2 + 1]] * 2, dims=("quadruplet", "role")
    )
    values = values.assign_coords(role=list("ABCD"))
    assert contrast(values, xr.DataArray(2.0)).values == pytest.approx([3.0, 3.0])
    assert float(content(values, xr.DataArray(2.0))) == pytest.approx(np.sqrt((4**2 + 2**2) / 2) / 2)


def planted(rng: np.random.Generator, size: float) -> xr.Dataset:
    """Noise for 40 quadruplets and 6 components, and one that writes the label."""
    values = rng.standard_normal((40, 4, 2, 3))
    values[:, :2, 1, 2] += size
    attribution = xr.DataArray(values, dims=("quadruplet", "role", "block", "component"))
    coordinates = {
        "quadruplet": np.arange(40), "role": list("ABCD"), "block": [0, 1], "component": ["attn.0", "attn.bias", "mlp"],
        "property": ("quadruplet", ["inertia", "gravity"] * 20),
    }  # fmt: skip
    told = attribution.assign_coords(coordinates).expand_dims(model=["planted"], direction=["probe"])
    return xr.Dataset({"attribution": told, "probe_spread": ("model", [1.0])})


def test_a_component_that_writes_the_label_is_ranked_first_and_noise_is_not_significant() -> None:
    rng = np.random.default_rng(0)
    result = planted(rng, 2.0)
    assert top(result, "planted")[0] == (1, "mlp") and not any(
        name == "attn.bias" for _, name in top(result, "planted")
    )
    effects = contrast(result.attribution, result.probe_spread).squeeze().transpose("quadruplet", ...).values
    p = sign_flip_p(effects.reshape(40, 6))
    assert p[5] < 0.01 and (p[:5] > 0.05).all()


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", ["attribute_writes", *arguments])
    run, table = attribute_writes.run, attribute_writes.table
    analyses.command.main(Config, run, table, figure.draw, "attribute_writes", attribute_writes.__doc__)


@pytest.mark.parametrize("path", ["continuation", "noising"])
def test_table_and_figure(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--train", "10", "--test", "4", "--directions", "1", "--properties", "inertia", "--path", path]
    call(["--controls", "mini-wan-random", *few], monkeypatch, tmp_path)
    told = capsys.readouterr().out
    assert told.count("embedding (0 by construction)") == 2 and told.count("parts add up to every logit") == 2
    assert (tmp_path / "out" / "attribute_writes.pdf").stat().st_size > 5000
    result = results.open_result(tmp_path / "data" / "attribute_writes.nc")
    assert float(np.abs(result.unexplained / result.probe_spread).max()) < 1e-4


def test_too_few_quadruplets_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(["--test", "3"], monkeypatch, tmp_path)
    assert stopped.value.code == 2 and "expected at least 10 and 8" in capsys.readouterr().err
