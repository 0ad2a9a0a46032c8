"""Results on disk are whole or absent, and say where they came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from dit_lens.results import facts, open_result, provenance, replace_atomically, save, versions


def table(**told: object) -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(30, 4))
    coords = {"block": np.arange(30), "clip": ["a", "b", "c", "d"]}
    return xr.Dataset({"effect": (("block", "clip"), values)}, coords, {"provenance": provenance(**told)})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(table(seed=3), tmp_path / "effects.nc")


def test_a_block_that_ends_well_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "file.txt"
    for text in ("old", "new"):
        with replace_atomically(path) as aside:
            aside.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), replace_atomically(path) as aside:
        aside.write_text("half of the n")
        assert aside.exists()
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


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
    told = facts(open_result(saved))
    assert told["seed"] == 3
    assert told["versions"] == versions()
    assert told["threads"] == torch.get_num_threads()
    assert told["deterministic"] is False
    assert told["command"]


def test_provenance_is_one_json_string_whatever_it_is_told() -> None:
    told = json.loads(provenance(path=Path("a/b"), nested={"steps": [1, 2]}, nothing=None, flag=True))
    assert told["path"] == "a/b" and told["nested"] == {"steps": [1, 2]}
    assert told["nothing"] is None and told["flag"] is True


def test_versions_name_what_results_depend_on() -> None:
    known = versions()
    assert known["torch"] == torch.__version__.split("+")[0] or known["torch"] == torch.__version__
    assert {"diffusers", "nnsight", "dit-lens", "python"} <= known.keys()
