"""Parts of one plan, captured in several folders, put together in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dit_lens.store.index as index
from dit_lens.results import canonical
from dit_lens.store.index import Entry
from dit_lens.store.plan import PLAN, Plan, open_plan
from dit_lens.store.reading import Store, open_store
from dit_lens.store.writing import StoreWriter, difference


@dataclass(frozen=True)
class Part:
    """A folder with some batches of a plan."""

    folder: Path
    plan: Plan
    provenance: str
    entries: Mapping[int, Entry]


def merge(out: Path, parts: Sequence[Path]) -> Store:
    """The store in `out` with the finished batches of all parts; opened, and maybe without some batches still.

    Shards are copied, and their digests checked. What `out` has already stays. Killed and started again it continues.

    Raises:
        ValueError: no parts; parts of different plans; a batch that differs between parts; a missing or damaged shard.
            Nothing is copied unless all parts pass.
        FileNotFoundError: no store in one of the folders.
    """
    if not parts:
        raise ValueError("got no parts · expected one or more · python -m dit_lens.store merge OUT PART...")
    there = [out] if (out / PLAN).is_file() else []
    opened = [_opened(folder) for folder in (*there, *parts)]
    for part in opened[1:]:
        _check_same_plan(opened[0], part)
    for part in opened:
        for entry in part.entries.values():
            if entry.shard is not None:
                index.check_shard(part.folder, entry, content=True)
    sources = _sources(opened)
    writer = StoreWriter(out, opened[0].plan, opened[0].provenance)
    writer.begin()
    for batch in writer.todo():
        if batch in sources:
            part = sources[batch]
            with writer.claim(batch):
                writer.adopt(part.entries[batch], part.folder)
    return open_store(out, partial=True)


def _opened(folder: Path) -> Part:
    plan, provenance = open_plan(folder)
    entries = index.read(folder, plan.digest)
    done = {batch: entry for batch, entry in entries.items() if entry.done}
    return Part(folder, plan, canonical(provenance), done)


def _check_same_plan(first: Part, part: Part) -> None:
    if first.plan.digest != part.plan.digest:
        raise ValueError(
            f"got {part.folder}, which was started with other {', '.join(difference(first.plan, part.plan))} than"
            f" {first.folder} · expected parts of one plan · merge those that were captured with the same options"
        )


def _sources(parts: Iterable[Part]) -> dict[int, Part]:
    """The first part that has each batch.

    Raises:
        ValueError: a batch that is not the same in all parts that have it.
    """
    sources: dict[int, Part] = {}
    for part in parts:
        for batch, entry in part.entries.items():
            first = sources.setdefault(batch, part)
            if _content(first.entries[batch]) != _content(entry):
                raise ValueError(
                    f"got batch {batch} with one content in {first.folder} and another in {part.folder} · expected"
                    " equal ones, as the plan is the same · find out which is right, and leave the other part out"
                )
    return sources


def _content(entry: Entry) -> str:
    return canonical([entry.sha256, entry.bytes, entry.clips, [vars(failure) for failure in entry.failures]])
