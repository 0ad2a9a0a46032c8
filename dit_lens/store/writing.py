"""Filling a store: batches claimed by one writer each, shards written whole, and only then indexed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import dit_lens.store.index as index
from dit_lens.store.index import Entry, Failure
from dit_lens.store.plan import PLAN, Plan, canonical, open_plan, save_plan
from dit_lens.store.shards import Columns, ShardWriter, sync_folder

LOCK = ".store.lock"


class Filling:
    """A store that is being filled, by one process or several.

    Args:
        folder: of the store; there may be none yet.
        plan: what it will hold.
        provenance: one JSON string; that of the first beginning is kept.

    Raises:
        ValueError: the folder holds a store of another plan.
    """

    def __init__(self, folder: Path, plan: Plan, provenance: str):
        self.folder, self.plan, self.provenance = Path(folder), plan, provenance
        if (self.folder / PLAN).is_file():
            self._check_same()

    def begin(self) -> None:
        """Makes the folder and writes the plan, unless that was done.

        Raises:
            ValueError: the folder holds a store of another plan, or other files.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCK, wait=True):
            if not (self.folder / PLAN).is_file():
                self._check_empty()
                save_plan(self.folder, self.plan, self.provenance)
                sync_folder(self.folder)
        self._check_same()
        for lock in self.folder.glob(".shard-*.lock"):  # of writers that were killed with their shard already whole
            with suppress(BlockingIOError), locked(lock):
                pass

    def _check_same(self) -> None:
        begun, _ = open_plan(self.folder)
        if begun.digest != self.plan.digest:
            raise ValueError(
                f"got {self.folder}, which was begun by other {', '.join(difference(begun, self.plan))}"
                " · expected the same · go on as it was begun, or fill another folder"
            )

    def _check_empty(self) -> None:
        for partial in self.folder.glob(f".{PLAN}.*.partial"):
            partial.unlink()  # of a writer that was killed as it began
        foreign = [path.name for path in self.folder.iterdir() if path.name != LOCK]
        if foreign:
            raise ValueError(f"got {self.folder}, which holds {foreign[0]} · expected an empty folder, or a store")

    def todo(self) -> list[int]:
        """Batches that are not whole on disk, in order; those whose shard was deleted are among them."""
        entries = index.read(self.folder, self.plan.digest)
        return [batch for batch in range(self.plan.batches) if not self._whole(entries.get(batch))]

    def _whole(self, entry: Entry | None) -> bool:
        return entry is not None and entry.done and (entry.shard is None or (self.folder / entry.shard).is_file())

    @contextmanager
    def claim(self, batch: int) -> Iterator[None]:
        """No other writer has the batch inside this block; what a killed one left of it is removed.

        Raises:
            BlockingIOError: another writer has it, or has finished it by now; names the shard.
        """
        name = shard_name(batch)
        with locked(self.folder / f".{name}.lock"):
            if (self.folder / name).is_file() and batch not in self.todo():
                raise BlockingIOError(f"got {self.folder / name}, which another writer has finished")
            for partial in self.folder.glob(f".{name}.*.partial"):
                partial.unlink()
            yield

    @contextmanager
    def shard(self, batch: int, clips: Columns, failures: Sequence[Failure] = ()) -> Iterator[ShardWriter]:
        """A writer with `put(step, values)`; at the end of the block the shard is on disk and indexed, or not there.

        Args:
            batch: one that is claimed.
            clips: columns id, group, role, property and possible (True, False or None).
            failures: items of the batch that are not among the clips.

        Raises:
            ValueError, OSError: see `ShardWriter.put`; or not all that is planned was put.
        """
        path = self.folder / shard_name(batch)
        with ShardWriter(path, self.plan, batch, clips) as writer:
            yield writer
        told = path.stat()
        file = {"shard": path.name, "bytes": told.st_size, "modified": told.st_mtime_ns, "sha256": writer.sha256}
        index.append(self.folder, Entry(batch, self.plan.digest, clips=clips, failures=tuple(failures), **file))

    def note(self, batch: int, failures: Sequence[Failure], done: bool) -> None:
        """Notes a batch without a shard: done where all of its items failed, not done where the run stops at one."""
        index.append(self.folder, Entry(batch, self.plan.digest, failures=tuple(failures), done=done))


def shard_name(batch: int) -> str:
    """File name of a batch's shard."""
    return f"shard-{batch:06d}.h5"


def difference(one: Plan, other: Plan) -> list[str]:
    """In what two plans differ: options by name, and parts of the plan."""
    parts, others = asdict(one), asdict(other)
    asked, wanted = (dict(plan.pop("asked")) for plan in (parts, others))
    pairs = [*((key, asked.get(key), wanted.get(key)) for key in {**asked, **wanted})]
    pairs += [(key, parts[key], others[key]) for key in parts]
    return [key for key, here, there in pairs if canonical(here) != canonical(there)]


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock file, which the system lets go of when the process dies; removes it at the end.

    Raises:
        BlockingIOError: another writer holds it.
    """
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f"got {path}, which another writer holds · let it finish, or end it") from error
            # The one before may have removed the file it held, and a third may hold another of this name.
            if not _names(path, file.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _names(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
