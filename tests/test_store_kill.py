"""Killed at any moment and started again, a store is the same to the byte, and at most one batch was made twice."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from stores import fork, in_child, is_whole, kill, names, plan, shards, write_batch, write_store

from dit_lens.store import StoreWriter, index, open_store
from dit_lens.store.writing import locked

pytestmark = pytest.mark.filterwarnings("ignore:got .* left half written:UserWarning")

BATCHES = 3
KILLS = 25
TRACED = ("dit_lens/store", "dit_lens/atomic_files")


def call_at_line(number: int, call: Callable[[], None]) -> list[int]:
    """Calls before the number-th line of the store's code is run, on whatever thread; counts lines in the list."""
    lines = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in TRACED):
            return None
        if event == "line":
            lines[0] += 1
            if lines[0] == number:
                call()
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    return lines


def fill(folder: Path, diary: Path) -> None:
    """Goes on writing the store; notes each batch as it begins."""
    writer = StoreWriter(folder, plan(batches=BATCHES), "{}")
    writer.begin()
    for batch in writer.todo():
        with diary.open("a") as file:
            file.write(f"{batch}\n")
        write_batch(writer, batch)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The shards of a store that was never killed, and how many lines of code it took."""
    folder = tmp_path_factory.mktemp("unkilled")
    before = sys.gettrace(), threading.gettrace()
    lines = call_at_line(-1, kill)
    try:
        fill(folder / "store", folder / "diary")
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])  # pyright: ignore[reportArgumentType]
    return shards(folder / "store"), lines[0]


def test_killed_at_any_line_and_started_again_it_is_the_same_to_the_byte(
    tmp_path: Path, unkilled: tuple[dict[str, bytes], int]
) -> None:
    whole, lines = unkilled
    assert lines > 300 and len(whole) == BATCHES
    for number in np.random.default_rng(2).choice(np.arange(1, lines), KILLS, replace=False).tolist():
        folder, diary = tmp_path / f"{number}", tmp_path / f"{number}.txt"

        def work(folder: Path = folder, diary: Path = diary, number: int = number) -> None:
            call_at_line(number, kill)
            fill(folder, diary)

        assert in_child(work) == signal.SIGKILL
        if (folder / "store.json").is_file():
            store = open_store(folder, partial=True, verify=True)
            assert is_whole(store)
        fill(folder, diary)
        assert shards(folder) == whole, f"killed at line {number}"
        assert is_whole(open_store(folder, verify=True))
        assert names(folder) == ["index.jsonl", *whole, "store.json"], f"killed at line {number}"
        begun = diary.read_text().split()
        assert len(begun) <= BATCHES + 1, f"killed at line {number}: {begun}"


def test_killed_again_and_again_it_still_gets_there(tmp_path: Path, unkilled: tuple[dict[str, bytes], int]) -> None:
    whole, lines = unkilled
    kills = 0
    for number in np.random.default_rng(3).integers(1, lines, 20).tolist():

        def work(number: int = number) -> None:
            call_at_line(number, kill)
            fill(tmp_path / "store", tmp_path / "diary")

        if in_child(work) == 0:
            break
        kills += 1
    fill(tmp_path / "store", tmp_path / "diary")
    assert kills > 3 and shards(tmp_path / "store") == whole
    assert len((tmp_path / "diary").read_text().split()) <= BATCHES + kills


def test_the_comparison_sees_another_byte(tmp_path: Path, unkilled: tuple[dict[str, bytes], int]) -> None:
    write_store(tmp_path / "other", plan(batches=BATCHES, asked={"model": "another"}))
    assert shards(tmp_path / "other").keys() == unkilled[0].keys() and shards(tmp_path / "other") != unkilled[0]


def test_what_a_living_writer_holds_is_refused_and_what_a_killed_one_held_is_not(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, plan(), "{}")
    writer.begin()
    ready, go = os.pipe()

    def work() -> None:
        with writer.claim(0):
            os.write(go, b"x")
            signal.pause()

    child = fork(work)
    os.read(ready, 1)
    with pytest.raises(BlockingIOError, match="shard-000000"), writer.claim(0):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    write_batch(writer, 0)
    assert 0 not in writer.todo()
    os.close(ready)
    os.close(go)


def test_writers_at_once_make_every_batch_once(tmp_path: Path) -> None:
    """Four processes on one store: each takes what the others have not, and the index holds every batch once."""
    store_plan = plan(batches=12)
    StoreWriter(tmp_path, store_plan, "{}").begin()

    def work() -> None:
        writer = StoreWriter(tmp_path, store_plan, "{}")
        for batch in writer.todo():
            try:
                write_batch(writer, batch)
            except BlockingIOError:
                continue

    children = [fork(work) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert is_whole(open_store(tmp_path, verify=True))
    assert len((tmp_path / index.INDEX).read_text().splitlines()) == 12


def test_a_lock_file_removed_and_made_anew_while_one_waits_is_not_held_twice(tmp_path: Path) -> None:
    """Who got hold of a file that is gone by then must begin again, or two would hold one name."""
    path, original, others = tmp_path / "lock", fcntl.flock, []

    def flock(file: Any, how: int) -> None:
        if not others:  # just before we get it, its holder removes it, and a third makes and holds another
            path.unlink()
            others.append(path.open("a"))
            original(others[0], fcntl.LOCK_EX)
        original(file, how)

    with patch.object(fcntl, "flock", flock), pytest.raises(BlockingIOError, match="lock"), locked(path):
        pass
    others[0].close()
    with locked(path):
        pass
    assert not path.exists()
