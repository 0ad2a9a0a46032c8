"""Results on disk are whole or absent, and say where they came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from dit_lens.results import facts, open_result, provenance, save, versions


def table(**recorded: object) -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(30, 4))
    coords = {"block": np.arange(30), "clip": ["a", "b", "c", "d"]}
    return xr.Dataset({"effect": (("block", "clip"), values)}, coords, {"provenance": provenance(**recorded)})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(table(seed=3), tmp_path / "effects.nc")


def test_a_failed_save_leaves_the_old_result(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def write_half(self: xr.Dataset, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", write_half)
    with pytest.raises(KeyboardInterrupt):
        save(table(seed=4), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_result_comes_back_bit_for_bit(saved: Path) -> None:
    opened = open_result(saved)
    assert opened.identical(table(seed=3).assign_attrs(opened.attrs))
    assert not opened.identical((table(seed=3) + 1e-15).assign_attrs(opened.attrs))
    assert opened["effect"].dtype == np.float64


def test_an_opened_result_no_longer_needs_its_file(saved: Path) -> None:
    opened = open_result(saved)
    saved.unlink()
    assert np.isfinite(opened["effect"].values).all()


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(saved: Path, fraction: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(ValueError, match=r"effects\.nc, which cannot be read"):
        open_result(saved)
    saved.write_bytes(whole)
    open_result(saved)


def test_a_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.nc").write_text("not a table")
    with pytest.raises(ValueError, match=r"notes\.nc, which cannot be read"):
        open_result(tmp_path / "notes.nc")


def test_a_table_without_provenance_is_refused_by_name(tmp_path: Path) -> None:
    save(table().drop_attrs(), tmp_path / "bare.nc")
    with pytest.raises(ValueError, match=r"bare\.nc without provenance"):
        open_result(tmp_path / "bare.nc")


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.nc"):
        open_result(tmp_path / "none.nc")


def test_facts_are_what_was_told_and_the_circumstances(saved: Path) -> None:
    recorded = facts(open_result(saved))
    assert recorded["seed"] == 3
    assert recorded["versions"] == versions()
    assert recorded["threads"] == torch.get_num_threads()
    assert recorded["deterministic"] is False
    assert recorded["command"]


def test_provenance_is_one_json_string_whatever_it_is_told() -> None:
    recorded = json.loads(provenance(path=Path("a/b"), nested={"steps": [1, 2]}, nothing=None, flag=True))
    assert recorded["path"] == "a/b" and recorded["nested"] == {"steps": [1, 2]}
    assert recorded["nothing"] is None and recorded["flag"] is True


def test_versions_name_what_results_depend_on() -> None:
    known = versions()
    assert known["torch"] == torch.__version__.split("+")[0] or known["torch"] == torch.__version__
    assert {"diffusers", "nnsight", "dit-lens", "python"} <= known.keys()
