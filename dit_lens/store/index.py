"""The index of a store: a line for every batch that came to an end, appended whole and flushed to disk.

A line is the sha256 of an entry, a space, and the entry as JSON. A line that a kill cut short has no end and counts for
nothing; a line that was changed is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dit_lens.store.plan import canonical, sha256_file, sha256_text

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Failure:
    """An item of the data set that could not be captured: its number, its id where that is known, and why."""

    item: int
    id: str
    error: str


@dataclass(frozen=True)
class Entry:
    """How a batch ended.

    Attributes:
        batch: its number, which is that of its shard.
        plan: digest of the plan it was made by.
        shard: file name; None where no item of the batch could be captured, or the run stopped at one.
        bytes, sha256, modified: of the shard's file (modified in nanoseconds since 1970).
        clips: columns of its clips: id, group, role, property, possible.
        failures: items that are not in it.
        done: False where the run stopped; the batch is then to be made again.
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
    """Adds a line; what an earlier writer left cut short is taken off first."""
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
            raise ValueError(f"got {path}, whose line {number} was changed after it was written · restore it")
        told = json.loads(text)
        entry = Entry(**{**told, "failures": tuple(Failure(**one) for one in told["failures"])})
        if entry.plan != plan:
            raise ValueError(f"got {path}, whose line {number} (batch {entry.batch}) belongs to another store")
        entries[entry.batch] = entry
    return dict(sorted(entries.items()))


def check_shard(folder: Path, entry: Entry, content: bool | None) -> None:
    """Checks that a shard is there with the size, and on request the bytes, that it was written with.

    Args:
        content: compare the sha256; None does where the file was modified since.

    Raises:
        ValueError: it is missing, truncated or damaged; names it.
    """
    path = folder / str(entry.shard)
    remedy = "restore it, or delete it and run the capture again"
    if not path.is_file():
        raise ValueError(f"got no shard {path} · expected {entry.bytes} bytes · restore it, or run the capture again")
    told = path.stat()
    if told.st_size != entry.bytes:
        raise ValueError(f"got shard {path} of {told.st_size} bytes · expected {entry.bytes} · {remedy}")
    suspicious = told.st_mtime_ns != entry.modified if content is None else content
    if suspicious and sha256_file(path) != entry.sha256:
        raise ValueError(f"got shard {path}, whose sha256 is not the one in the index · {remedy}")
