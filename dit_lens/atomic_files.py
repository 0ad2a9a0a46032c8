"""Files and folders that are written whole or not at all, and what killed runs left of theirs.

What is being written lies in a hidden folder beside its place, `.NAME.RANDOM.partial/NAME`, which its writer holds a
lock on: the system lets go of a lock when a process dies, on whatever machine or in whatever container it ran. A folder
of this form that nobody holds is what a killed run left.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

PARTIAL = ".partial"
LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.partial")  # eight characters of mkdtemp


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well and vanishes when it does not.

    The file is flushed to disk before it is renamed, so a kill or Ctrl-C leaves the old file or the new one. Where
    `path` is a symbolic link, the file that it names is replaced. What killed runs left in the folder is removed.
    """
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path
    with _beside(path) as aside:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A folder to write to; it becomes `path`, which is not there yet, when the block ends well, or vanishes."""
    with _beside(Path(path)) as aside:
        aside.mkdir()
        yield aside
        aside.rename(path)


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes what killed runs left half written in a folder, warns of each, and returns their paths.

    What a living run is writing stays, and so does everything on file systems without locks.
    """
    removed = []
    for room in Path(folder).glob(f".*{PARTIAL}"):
        form = LEFTOVER.fullmatch(room.name)
        if form is None or room.is_symlink() or not room.is_dir():
            continue
        try:
            lock = _lock(room)
        except OSError:
            continue
        if lock is None:
            continue
        if {entry.name for entry in room.iterdir()} <= {form["name"]}:
            shutil.rmtree(room, ignore_errors=True)
            removed.append(room)
        os.close(lock)
    for room in removed:
        warnings.warn(f"got {room}, which a run that was killed left half written · removed it", stacklevel=2)
    return removed


def remedy(error: BaseException, otherwise: str) -> str:
    """What to do about a file that cannot be read: wait where another program holds it, or something else."""
    held = isinstance(error, BlockingIOError)
    return "another program has it open: let it finish, or close it there" if held else otherwise


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    room, lock = _locked_folder(path)
    try:
        yield room / path.name
    finally:
        shutil.rmtree(room, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(path: Path) -> tuple[Path, int | None]:
    """A new folder beside a path, and the descriptor that holds it; None on a file system without locks."""
    while True:
        room = Path(mkdtemp(PARTIAL, f".{path.name}.", path.parent))
        try:
            lock = _lock(room)
        except OSError:
            return room, None
        if lock is not None:  # else another run took it for a leftover before it was held
            return room, lock


def _lock(room: Path) -> int | None:
    """A descriptor that holds a folder until it is closed; None where another holds it, or it is gone.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        descriptor = os.open(room, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), room.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
