"""A data set as one line of a command: "miniphys", "miniphys:unseen", "intphys=ROOT", "intphys:test=ROOT"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from dit_lens import datasets
from dit_lens.choices import check_choice
from dit_lens.clips import Group, Quadruplet
from dit_lens.datasets.framing import Framing
from dit_lens.reading import even_indices

Item = Quadruplet | Group


class Some(Sequence[Item]):
    """Items at some places of a data set, each read when it is asked for."""

    def __init__(self, items: Sequence[Item], places: Sequence[int]):
        self.items, self.places = items, list(places)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self.items[place] for place in self.places[index]]
        return self.items[self.places[index]]

    def __iter__(self) -> Iterator[Item]:
        return (self.items[place] for place in self.places)


@dataclass(frozen=True)
class Line:
    """What data set is meant.

    Attributes:
        name: one of `datasets.NAMES`.
        split: of that data set; its own choice where it is empty.
        root: folder that it was unpacked into; empty for miniphys, which is made on the spot.
    """

    name: str
    split: str = ""
    root: str = ""

    @classmethod
    def parse(cls, text: str) -> Line:
        """Of "NAME", "NAME=ROOT" or "NAME:SPLIT=ROOT".

        Raises:
            ValueError: an unknown data set.
        """
        told, _, root = text.partition("=")
        name, _, split = told.partition(":")
        return cls(check_choice(name, datasets.NAMES, "data set"), split, root)

    def __str__(self) -> str:
        return f"{self.name}:{self.split}" if self.split else self.name

    def load(self, groups: int, framing: Framing | None = None, seed: int = 0) -> Some:
        """At most so many of its quadruplets or groups, at even distances: all its properties have part.

        Args:
            framing: which frames, at what size; miniphys has its own.
            seed: of miniphys.

        Raises:
            ValueError, FileNotFoundError: as of `datasets.load`; or fewer than one group asked for.
        """
        if groups < 1:
            raise ValueError(f"got {groups} groups · expected at least 1")
        options: dict[str, Any] = {"split": self.split} if self.split else {}
        if self.name == "miniphys":
            options |= {"quadruplets": groups, "seed": seed}
        elif framing is not None:
            options["framing"] = framing
        items = datasets.load(self.name, **options, **({"root": self.root} if self.root else {}))
        return Some(items, even_indices(len(items), min(groups, len(items))))
