"""The index of a store: a line for every finished batch, appended atomically and flushed to disk.

A line is the sha256 of an entry, a space, and the entry as JSON. A line that a kill truncated has no line end and is
ignored; a line that was changed later is an error.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dit_lens.results import canonical
from dit_lens.store.plan import sha256_file, sha256_text

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Failure:
    """An item of the data set that could not be captured: its number, its id where known, and the error."""

    item: int
    id: str
    error: str


@dataclass(frozen=True)
class Entry:
    """The outcome of a batch.

    Attributes:
        batch: its number, which is also that of its shard.
        plan: digest of the plan that it belongs to.
        shard: file name; None where no item of the batch could be captured, or the run stopped at one.
        bytes, sha256, modified: of the shard's file (modified in nanoseconds since 1970).
        clips: columns of its clips: id, scene, group, role, property, possible.
        failures: items that could not be captured.
        done: False where the run stopped in this batch, which is then computed again.
    """

    batch: int
    plan: str
    shard: str | None = None
    bytes: int = 0
    sha256: str = ""
    modified: int = 0
    clips: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    done: bool = True


def append(folder: Path, entry: Entry) -> None:
    """Appends a line, after removing a truncated line that a killed writer left."""
    text = canonical(asdict(entry))
    line = f"{sha256_text(text)} {text}\n".encode()
    with (folder / INDEX).open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(_whole(file.read()))
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _whole(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def read(folder: Path, plan: str) -> dict[int, Entry]:
    """The last entry of each batch, by number.

    Raises:
        ValueError: a line was changed, or belongs to another plan; names it.
    """
    path = folder / INDEX
    content = path.read_bytes() if path.is_file() else b""
    entries: dict[int, Entry] = {}
    for number, line in enumerate(content[: _whole(content)].splitlines(), start=1):
        digest, _, text = line.decode(errors="replace").partition(" ")
        if sha256_text(text) != digest:
            raise ValueError(
                f"got {path}, whose line {number} was changed after it was written · expected an unchanged index ·"
                " restore it from a copy"
            )
        fields = json.loads(text)
        entry = Entry(**{**fields, "failures": tuple(Failure(**failure) for failure in fields["failures"])})
        if entry.plan != plan:
            raise ValueError(
                f"got {path}, whose line {number} (batch {entry.batch}) belongs to another store · expected lines of"
                " this store only · restore the file from a copy"
            )
        entries[entry.batch] = entry
    return dict(sorted(entries.items()))


def check_shard(folder: Path, entry: Entry, content: bool | None) -> None:
    """Checks that a shard exists with the size, and on request the content, that it was written with.

    Args:
        content: whether to compare the sha256; None compares it only where the file was modified since.

    Raises:
        ValueError: the shard is missing, truncated or damaged; names it.
    """
    path = folder / str(entry.shard)
    remedy = "restore it, or delete it and run the capture again"
    if not path.is_file():
        raise ValueError(f"got no shard {path} · expected {entry.bytes} bytes · restore it, or run the capture again")
    status = path.stat()
    if status.st_size != entry.bytes:
        raise ValueError(f"got shard {path} of {status.st_size} bytes · expected {entry.bytes} · {remedy}")
    suspicious = status.st_mtime_ns != entry.modified if content is None else content
    if suspicious and sha256_file(path) != entry.sha256:
        raise ValueError(f"got shard {path}, whose sha256 is not the one in the index · {remedy}")
