"""Writing a store: each batch is claimed by one writer, and its shard is indexed only when it is complete."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import dit_lens.store.index as index
from dit_lens.atomic_files import remove_leftovers, replace_atomically
from dit_lens.results import canonical
from dit_lens.store.index import Entry, Failure
from dit_lens.store.plan import PLAN, Plan, open_plan, save_plan
from dit_lens.store.shards import Columns, ShardWriter, flush, sync_folder

LOCK = ".store.lock"


class StoreWriter:
    """A store open for writing, by one process or several.

    Args:
        folder: of the store; it need not exist yet.
        plan: the planned content.
        provenance: one JSON string; the first writer's is kept.

    Raises:
        ValueError: the folder holds a store of another plan.
    """

    def __init__(self, folder: Path, plan: Plan, provenance: str):
        self.folder, self.plan, self.provenance = Path(folder), plan, provenance
        if (self.folder / PLAN).is_file():
            self._check_same()

    def begin(self) -> None:
        """Creates the folder and writes the plan, unless they exist.

        Raises:
            ValueError: the folder holds a store of another plan, or other files.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCK, wait=True):
            remove_leftovers(self.folder)
            if not (self.folder / PLAN).is_file():
                self._check_empty()
                save_plan(self.folder, self.plan, self.provenance)
                sync_folder(self.folder)
        self._check_same()
        for lock in self.folder.glob(".shard-*.lock"):  # of writers that were killed after their shard was complete
            with suppress(BlockingIOError), locked(lock):
                pass

    def _check_same(self) -> None:
        existing, _ = open_plan(self.folder)
        if existing.digest != self.plan.digest:
            raise ValueError(
                f"got {self.folder}, which was started with other {', '.join(difference(existing, self.plan))} ·"
                " expected the same · repeat the options that started it, or use another folder"
            )

    def _check_empty(self) -> None:
        foreign = [path.name for path in self.folder.iterdir() if path.name != LOCK]
        if foreign:
            raise ValueError(
                f"got {self.folder}, which contains {foreign[0]} · expected an empty folder, or a store · choose"
                " another folder"
            )

    def todo(self) -> list[int]:
        """Batches that are not complete on disk, in order, including those whose shard was deleted."""
        entries = index.read(self.folder, self.plan.digest)
        return [batch for batch in range(self.plan.batches) if not self._whole(entries.get(batch))]

    def _whole(self, entry: Entry | None) -> bool:
        return entry is not None and entry.done and (entry.shard is None or (self.folder / entry.shard).is_file())

    @contextmanager
    def claim(self, batch: int) -> Iterator[None]:
        """A context in which no other writer can write the batch.

        Raises:
            BlockingIOError: another writer holds the batch, or has finished it; names the shard.
        """
        name = shard_name(batch)
        with locked(self.folder / f".{name}.lock"):
            if (self.folder / name).is_file() and batch not in self.todo():
                raise BlockingIOError(f"got {self.folder / name}, which another writer has completed")
            yield

    @contextmanager
    def shard(self, batch: int, clips: Columns, failures: Sequence[Failure] = ()) -> Iterator[ShardWriter]:
        """A context for a writer with `put(step, values)`; after the block the shard is on disk and indexed, or absent.

        Args:
            batch: a claimed batch.
            clips: columns id, scene, group, role, property and possible (True, False or None).
            failures: items of the batch that are not among the clips.

        Raises:
            ValueError, OSError: see `ShardWriter.put`; or some planned values were not put.
        """
        path = self.folder / shard_name(batch)
        with ShardWriter(path, self.plan, batch, clips) as writer:
            yield writer
        self._enter(Entry(batch, self.plan.digest, clips=clips, failures=tuple(failures), sha256=writer.sha256), path)

    def _enter(self, entry: Entry, path: Path) -> None:
        """Adds the entry of a shard's file to the index."""
        status = path.stat()
        index.append(self.folder, replace(entry, shard=path.name, bytes=status.st_size, modified=status.st_mtime_ns))

    def adopt(self, entry: Entry, folder: Path) -> None:
        """Copies a finished batch from another folder of the same plan.

        Args:
            entry: of a claimed batch.

        Raises:
            ValueError: the copy differs from what was written. OSError: the disk is full.
        """
        if entry.shard is None:
            index.append(self.folder, entry)
            return
        path = self.folder / shard_name(entry.batch)
        with replace_atomically(path) as aside:
            shutil.copyfile(folder / entry.shard, aside)
            if flush(aside) != entry.sha256:
                raise ValueError(
                    f"got a copy of {folder / entry.shard} that differs from what was written · expected an unchanged"
                    " file · run the same command again"
                )
        sync_folder(self.folder)
        self._enter(entry, path)

    def note(self, batch: int, failures: Sequence[Failure], done: bool) -> None:
        """Records a batch without a shard: `done` if all its items failed, not `done` if the run stops at a failure."""
        index.append(self.folder, Entry(batch, self.plan.digest, failures=tuple(failures), done=done))


def shard_name(batch: int) -> str:
    """File name of a batch's shard."""
    return f"shard-{batch:06d}.h5"


def difference(a: Plan, b: Plan) -> list[str]:
    """The names of the options and other fields in which two plans differ."""
    first, second = asdict(a), asdict(b)
    first_options, second_options = (dict(plan.pop("asked")) for plan in (first, second))
    pairs = [*((key, first_options.get(key), second_options.get(key)) for key in {**first_options, **second_options})]
    pairs += [(key, first[key], second[key]) for key in first]
    return [key for key, left, right in pairs if canonical(left) != canonical(right)]


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """A context that holds a lock file, which the system releases if the process dies; removes it at the end.

    Raises:
        BlockingIOError: another writer holds it.
    """
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"got {path}, which is locked by another writer · expected no other writer · wait until it"
                    " finishes, or stop it"
                ) from error
            # The previous holder may have removed this file, and a third process may hold a new file of the same name.
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
