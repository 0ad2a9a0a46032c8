"""Damage is found and named: flipped bytes in data and metadata, cut, missing, swapped, foreign and newer files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from stores import MEAN, is_whole, plan, write_store

from dit_lens.store import index, open_store
from dit_lens.store.index import Entry
from dit_lens.store.plan import canonical, sha256_file, sha256_text

SHARD = "shard-000001.h5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished store of three batches, uncompressed so that every byte of the data is there to be flipped."""
    write_store(tmp_path / "store", plan(compression="none"))
    return tmp_path / "store"


def flip(path: Path, at: int, mask: int = 0xFF, quiet: bool = False) -> bytes:
    """Flips bits of one byte; quietly leaves the time of modification. Returns the content as it was."""
    whole, stat = path.read_bytes(), path.stat()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
    if quiet:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return whole


def restore(path: Path, whole: bytes, modified: int) -> None:
    path.write_bytes(whole)
    os.utime(path, ns=(modified, modified))


def data_at(path: Path) -> int:
    """Where the first chunk of the data lies."""
    with h5py.File(path) as file:
        return file["activations/resid_post.mean"].id.get_chunk_info(0).byte_offset


def test_any_flipped_byte_of_a_shard_is_found_and_named(folder: Path) -> None:
    path, modified = folder / SHARD, (folder / SHARD).stat().st_mtime_ns
    places = np.random.default_rng(0).choice(path.stat().st_size, 40, replace=False).tolist()
    for at in [0, data_at(path), path.stat().st_size - 1, *places]:
        whole = flip(path, at)
        with pytest.raises(ValueError, match=SHARD):
            open_store(folder)
        os.utime(path, ns=(modified, modified))
        with pytest.raises(ValueError, match=f"{SHARD}, whose sha256"):
            open_store(folder, verify=True)
        restore(path, whole, modified)
    assert is_whole(open_store(folder, verify=True))


def test_the_flip_that_fletcher32_misses_is_found(folder: Path) -> None:
    path, at = folder / SHARD, data_at(folder / SHARD)
    whole = path.read_bytes()
    for word in (b"\x00\x00", b"\xff\xff"):
        path.write_bytes(whole[:at] + word + whole[at + 2 :])
        with pytest.raises(ValueError, match=SHARD):
            open_store(folder, verify=True)


def test_a_quiet_flip_is_found_on_request_only(folder: Path) -> None:
    flip(folder / SHARD, data_at(folder / SHARD), quiet=True)
    assert not is_whole(open_store(folder))
    with pytest.raises(ValueError, match=SHARD):
        open_store(folder, verify=True)


@pytest.mark.parametrize("name", ["index.jsonl", "store.json"])
def test_any_flipped_byte_of_the_index_or_the_plan_is_found(folder: Path, name: str) -> None:
    path = folder / name
    rng = np.random.default_rng(1)
    for at in rng.choice(path.stat().st_size, 150, replace=False).tolist():
        whole = flip(path, at, int(rng.integers(1, 256)))
        try:
            open_store(folder)
        except ValueError as error:
            assert name in str(error) or f"{folder} without" in str(error)  # the index's last line end
        else:
            assert json.loads(path.read_text()) == json.loads(whole)  # a blank between two words
        path.write_bytes(whole)
    assert is_whole(open_store(folder))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_shard_is_named(folder: Path, share: float) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{SHARD} of \d+ bytes · expected \d+"):
        open_store(folder, partial=True)


def test_a_missing_shard_is_named_and_made_again(folder: Path) -> None:
    (folder / SHARD).unlink()
    with pytest.raises(ValueError, match=f"no shard .*{SHARD}"):
        open_store(folder, partial=True)
    writer = write_store(folder, plan(compression="none"))
    assert writer.todo() == [] and is_whole(open_store(folder, verify=True))


def test_a_shard_that_goes_missing_or_changes_after_opening_is_named(folder: Path) -> None:
    store, path = open_store(folder), folder / SHARD
    whole = path.read_bytes()
    path.write_bytes(b"\x00" * len(whole))
    with pytest.raises(ValueError, match=SHARD):
        _ = store["resid_post.mean"].values
    path.unlink()
    with pytest.raises(ValueError, match=SHARD):
        _ = store["resid_post.mean"].values
    _ = store["resid_post.mean"][:3].values  # of another shard


def test_shards_that_were_swapped_are_named(folder: Path) -> None:
    a, b = folder / SHARD, folder / "shard-000002.h5"
    first, second = a.read_bytes(), b.read_bytes()
    assert len(first) == len(second)
    a.write_bytes(second)
    b.write_bytes(first)
    with pytest.raises(ValueError, match=SHARD):
        open_store(folder)
    with pytest.raises(ValueError, match=rf"{SHARD} of another batch or store \(batch 2\)"):
        _ = open_store(folder, verify=False)["resid_post.mean"].values


def listed(folder: Path, path: Path) -> None:
    """Puts a shard as it now is into the index: what is left to find is what it says of itself."""
    entry = index.read(folder, plan(compression="none").digest)[1]
    stat = path.stat()
    index.append(folder, replace(entry, bytes=stat.st_size, modified=stat.st_mtime_ns, sha256=sha256_file(path)))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("version", 2, "of version 2 · expected at most 1"),
        ("kind", "other", "of kind 'other'"),
        ("plan", "x", "another"),
    ],
)
def test_a_shard_of_a_newer_version_or_another_store_is_refused(
    folder: Path, attribute: str, value: object, message: str
) -> None:
    path = folder / SHARD
    with h5py.File(path, "a") as file:
        file.attrs[attribute] = value
    listed(folder, path)
    store = open_store(folder)
    with pytest.raises(ValueError, match=f"{SHARD} .*{message}"):
        _ = store["resid_post.mean"].values
    with pytest.raises(ValueError, match=f"{SHARD} .*{message}"):
        open_store(folder, verify=True)


def test_a_foreign_file_in_a_shards_place_is_refused(folder: Path) -> None:
    path = folder / SHARD
    path.write_text("no shard at all")
    listed(folder, path)
    with pytest.raises(ValueError, match=f"{SHARD}, which cannot be read"):
        _ = open_store(folder)["resid_post.mean"].values


def test_a_store_of_a_newer_version_is_refused(folder: Path) -> None:
    path = folder / "store.json"
    content = json.loads(path.read_text())
    content["version"] = 2
    del content["sha256"]
    path.write_text(json.dumps({**content, "sha256": sha256_text(canonical(content))}))
    with pytest.raises(ValueError, match=r"store\.json of version 2"):
        open_store(folder)


def test_the_index_of_another_store_is_refused(folder: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "other", plan([MEAN]))
    (folder / "index.jsonl").write_bytes((tmp_path / "other" / "index.jsonl").read_bytes())
    with pytest.raises(ValueError, match="belongs to another store"):
        open_store(folder)


def test_a_folder_without_a_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"store\.json"):
        open_store(tmp_path)


def test_an_index_line_cut_short_by_a_kill_is_taken_off_and_the_batch_made_again(folder: Path) -> None:
    path = folder / "index.jsonl"
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in (last + 1, last + 70, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert open_store(folder, partial=True).missing == [2]
        write_store(folder, plan(compression="none"))
        assert is_whole(open_store(folder, verify=True)) and len(path.read_bytes().splitlines()) == 3


def test_entries_come_back_as_they_were_appended(tmp_path: Path) -> None:
    entries = [Entry(batch, "p", clips={"id": ["a", "ü"]}, done=batch != 2) for batch in (3, 1, 2)]
    for entry in entries:
        index.append(tmp_path, entry)
    index.append(tmp_path, replace(entries[2], done=True))
    entries_read = index.read(tmp_path, "p")
    assert list(entries_read) == [1, 2, 3] and entries_read[2].done
    assert asdict(entries_read[3]) == asdict(entries[0])
