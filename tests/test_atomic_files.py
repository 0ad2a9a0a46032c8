"""What is written is whole or absent under any name, beside any other writer; what killed runs left is removed."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import h5py
import pytest
import torch
import xarray as xr
from stores import fork, in_child, kill, names, plan, write_store

from dit_lens import results, tensor_file
from dit_lens.atomic_files import folder_atomically, remove_leftovers, replace_atomically
from dit_lens.models.source import fingerprint
from dit_lens.store import open_store


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


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_atomically(tmp_path / "scene") as aside:
        (aside / "frame").write_text("1")
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    with folder_atomically(tmp_path / "scene") as aside:
        (aside / "frame").write_text("1")
        assert not (tmp_path / "scene").exists()
    assert names(tmp_path) == ["scene"] and names(tmp_path / "scene") == ["frame"]


def test_two_writers_of_one_name_and_process_id_never_share_a_file(tmp_path: Path) -> None:
    """As two containers on one disk have it, where both are process 1."""
    path = tmp_path / "file.txt"
    with replace_atomically(path) as first, replace_atomically(path) as second:
        assert first != second
        first.write_text("one")
        second.write_text("the other")
        assert first.read_text() == "one"
    assert path.read_text() == "one" and names(tmp_path) == ["file.txt"]


def test_a_new_file_has_the_rights_that_any_new_file_has(tmp_path: Path) -> None:
    """The hidden folder is private; what comes out of it is not."""
    with replace_atomically(tmp_path / "one") as aside:
        assert stat.S_IMODE(aside.parent.stat().st_mode) == 0o700
        aside.write_text("1")
    (tmp_path / "plain").write_text("1")
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "plain").stat().st_mode


def killed(path: Path) -> None:
    """Writes half a file and is killed."""
    with replace_atomically(path) as aside:
        aside.write_text("half")
        kill()


def test_what_a_killed_run_left_is_named_and_removed_by_the_next_in_that_folder(tmp_path: Path) -> None:
    assert in_child(lambda: killed(tmp_path / "path.h5")) == signal.SIGKILL
    (leftover,) = names(tmp_path)
    with pytest.warns(UserWarning, match=rf"got .*{leftover}, which a run that was killed left half written · removed"):
        tensor_file.write(tmp_path / "another.h5", "kind", {"x": torch.ones(2)}, {})
    assert names(tmp_path) == ["another.h5"]


def test_what_a_living_run_is_writing_stays(tmp_path: Path) -> None:
    ready, go = os.pipe()

    def work() -> None:
        with replace_atomically(tmp_path / "path.h5") as aside:
            aside.write_text("half")
            os.write(go, b"x")
            signal.pause()

    child = fork(work)
    os.read(ready, 1)
    assert remove_leftovers(tmp_path) == [] and len(names(tmp_path)) == 1
    with replace_atomically(tmp_path / "path.h5") as aside:
        assert remove_leftovers(tmp_path) == []  # nor what this process is writing
        aside.write_text("whole")
    assert (tmp_path / "path.h5").read_text() == "whole" and len(names(tmp_path)) == 2
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.warns(UserWarning, match="left half written"):
        assert len(remove_leftovers(tmp_path)) == 1
    assert names(tmp_path) == ["path.h5"]
    os.close(ready)
    os.close(go)


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    (tmp_path / ".notes.abcdefgh.partial").write_text("a file")
    (tmp_path / ".mine.partial").mkdir()
    (tmp_path / ".album.abcdefgh.partial").mkdir()
    (tmp_path / ".album.abcdefgh.partial" / "photo").write_text("of another name")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".link.abcdefgh.partial").symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    assert remove_leftovers(tmp_path) == [] and names(tmp_path) == before
    (tmp_path / ".album.abcdefgh.partial" / "photo").rename(tmp_path / ".album.abcdefgh.partial" / "album")
    with pytest.warns(UserWarning, match="album"):
        assert len(remove_leftovers(tmp_path)) == 1


def test_a_folder_taken_for_a_leftover_before_it_was_held_is_made_anew(tmp_path: Path) -> None:
    original, rooms = fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if not rooms:
            rooms.extend(tmp_path.iterdir())
            rooms[0].rmdir()
        original(file, how)

    with patch.object(fcntl, "flock", flock), replace_atomically(tmp_path / "file") as aside:
        assert aside.parent != rooms[0]
        aside.write_text("1")
    assert names(tmp_path) == ["file"]


def test_without_locks_files_are_written_and_nothing_is_removed(tmp_path: Path) -> None:
    """As on some network file systems: who cannot know whether a run lives removes nothing of it."""
    assert in_child(lambda: killed(tmp_path / "left")) == signal.SIGKILL
    no_locks = patch.object(fcntl, "flock", side_effect=OSError(95, "not supported"))
    with no_locks, replace_atomically(tmp_path / "file") as aside:
        aside.write_text("1")
    assert (tmp_path / "file").read_text() == "1" and len(names(tmp_path)) == 2


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "file", tmp_path / "disk" / "target"
    link.symlink_to(target)
    for text in ("first", "second"):  # a link to nothing yet, and to a file
        with replace_atomically(link) as aside:
            assert aside.parent.parent == target.parent  # on the disk of the target, where a rename is one step
            aside.write_text(text)
        assert link.is_symlink() and target.read_text() == text
    assert names(tmp_path) == ["disk", "file"] and names(tmp_path / "disk") == ["target"]


def held(path: Path, call: Callable[[], object]) -> str:
    """What a call says while another program has a file open to write."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does
        with pytest.raises(ValueError, match=path.name) as refused:
            call()
    return str(refused.value)


def test_a_file_that_another_program_writes_is_not_called_damaged(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", plan()).folder
    tensors = tensor_file.write(tmp_path / "tensors.h5", "kind", {"x": torch.ones(2)}, {})
    variable = next(iter(open_store(store)))
    provenance = {"provenance": results.provenance()}
    table = results.save(xr.Dataset({"x": ("y", [1.0])}, attrs=provenance), tmp_path / "table.nc")
    for path, call in (
        (sorted(store.glob("*.h5"))[0], lambda: open_store(store).tensor(variable)),
        (tensors, lambda: tensor_file.read(tensors, "kind")),
        (table, lambda: results.open_result(table)),
    ):
        call()
        said = held(path, call)
        assert "another program has it open" in said and "restore" not in said and "again" not in said
    with h5py.File(tensors, "r+") as file:  # the control: what is damaged is called so
        del file["x"]
        file.attrs["facts"] = "no json"
    with pytest.raises(ValueError, match="make it again"):
        tensor_file.read(tensors, "kind")


def test_notes_of_digests_leave_nothing_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIT_LENS_CACHE", str(tmp_path))
    fingerprint("mini-wan")
    assert all(path.suffix == ".json" for path in (tmp_path / "digests").iterdir())
