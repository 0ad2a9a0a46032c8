"""A data set as one word of a command: "miniphys", "miniphys:clean:unseen", "intphys=ROOT", "intphys:test=ROOT".

Light: nothing is read, and no heavy package imported, before `load`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lens import datasets
from dit_lens.choices import check_choice

if TYPE_CHECKING:
    from dit_lens.clips import Scene
    from dit_lens.datasets.framing import Framing

MINIPHYS = "miniphys"
DIFFICULTIES = ("clean", "hard")  # of miniphys; without a name, the world that mini-wan was trained on
# What the scenes of each data set provide, known without reading any of them.
LABELS, PAIRS, CROSSED, SPLICES, TRACKS = "labels", "pairs", "crossed", "splices", "tracks"
GIVES: Mapping[str, tuple[str, ...]] = {
    MINIPHYS: (LABELS, PAIRS, SPLICES, CROSSED, TRACKS),
    "intphys": (LABELS, PAIRS, SPLICES, CROSSED),
    "inflevel": (LABELS, PAIRS),
    "intphys2": (LABELS, PAIRS),
    "grasp": (LABELS, PAIRS, SPLICES),
    "likephys": (LABELS, PAIRS, SPLICES),
    "phyworld": (),
    "folder": (LABELS, PAIRS, SPLICES),
}
EVALUATION_ONLY = ("inflevel", "intphys2")
RESERVED = {
    "root": "--data NAME=ROOT",
    "split": "--data NAME:SPLIT",
    "framing": "frames and size have options of their own",
}


@dataclass(frozen=True)
class DataSpec:
    """A data set, its split and its options, as named on the command line.

    Attributes:
        name: one of `datasets.NAMES`.
        split: a split of that data set; empty for its default.
        root: folder that it was unpacked into; empty for miniphys, which is generated.
        options: further options of its reader, as text, such as {"tolerance": "4"}.
    """

    name: str
    split: str = ""
    root: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, options: Sequence[str] = ()) -> DataSpec:
        """The data set that "NAME[:SPLIT][=ROOT]" names; of miniphys, "miniphys[:DIFFICULTY][:SPLIT]".

        Args:
            options: further ones as KEY=VALUE.

        Raises:
            ValueError: an unknown data set; no root, or a root for miniphys; an option without a value, given twice, or
                given elsewhere (root, split and framing).
        """
        head, _, root = text.partition("=")
        name, _, split = head.partition(":")
        check_choice(name, datasets.NAMES, "data set")
        if name == MINIPHYS and root:
            raise ValueError(f"got --data {text} · expected no root, because miniphys is generated · leave out ={root}")
        if name != MINIPHYS and not root:
            raise ValueError(
                f"got --data {text} without a root · expected the folder into which it was unpacked · --data"
                f" {text}=/path/to/{name}"
            )
        pairs: dict[str, str] = {}
        if name == MINIPHYS and split.partition(":")[0] in DIFFICULTIES:
            pairs["difficulty"], _, split = split.partition(":")
        for key, sign, value in (option.partition("=") for option in options):
            if not key or not sign:
                raise ValueError(f"got data option {key + sign + value!r} · expected KEY=VALUE, such as tolerance=4")
            if key in RESERVED:
                raise ValueError(
                    f"got data option {key}={value} · expected {key} as an option of its own · use {RESERVED[key]}"
                )
            if key in pairs:
                raise ValueError(f"got data option {key} twice, {pairs[key]} and {value} · expected it once")
            pairs[key] = value
        return cls(name, split, root, pairs)

    def __str__(self) -> str:
        difficulty = self.options.get("difficulty", "") if self.name == MINIPHYS else ""
        return ":".join(part for part in (self.name, difficulty, self.split) if part)

    @property
    def gives(self) -> tuple[str, ...]:
        """What its scenes provide: some of "labels", "pairs", "splices", "crossed", "tracks"."""
        if self.name == "intphys" and self.split == "test":
            return (SPLICES, CROSSED)
        if (self.name, self.split) == ("intphys2", "HeldOut"):
            return ()
        if (self.name, self.split) == ("intphys", "train"):
            return (LABELS,)
        if self.name == "intphys" and self.options.get("tolerance", "0").strip("0."):  # compressed: not to the bit
            return tuple(name for name in GIVES[self.name] if name != CROSSED)
        return GIVES[self.name]

    def check_root(self) -> None:
        """Checks that the root is a folder.

        Raises:
            FileNotFoundError: the root is not a folder.
        """
        if self.root and not Path(self.root).is_dir():
            raise FileNotFoundError(
                f"got root {self.root} of {self.name} · expected the folder into which it was unpacked · check the path"
            )

    def load(self, framing: Framing | None = None, **options: Any) -> Sequence[Scene]:
        """All scenes of the data set.

        Args:
            framing: which frames, at what size; miniphys has its own.
            **options: of its reader, such as `quadruplets` of miniphys.

        Raises:
            ValueError, FileNotFoundError: as of `datasets.load`.
        """
        self.check_root()
        if self.split:
            options["split"] = self.split
        if self.name != MINIPHYS:
            options["root"] = self.root
            if framing is not None:
                options["framing"] = framing
        return datasets.load(self.name, **options, **self._typed())

    def _typed(self) -> dict[str, Any]:
        """The further options, converted to the types of the reader's parameters."""
        parameters = inspect.signature(datasets.reader(self.name)).parameters
        return {key: _typed(self, key, value, parameters) for key, value in self.options.items()}


def _typed(spec: DataSpec, key: str, text: str, parameters: Mapping[str, inspect.Parameter]) -> Any:
    check_choice(key, parameters, f"option of {spec.name}")
    kind = str(parameters[key].annotation)
    try:
        if kind.startswith("bool"):
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind.startswith(("int", "float")):
            return int(text) if kind.startswith("int") else float(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"got data option {key}={text} · expected a value of type {kind}") from error
    if kind.startswith("Mapping"):
        return _mapping(key, text)
    return tuple(part.strip() for part in text.split(",")) if "tuple" in kind or "Sequence" in kind else text


def _mapping(key: str, text: str) -> dict[str, int]:
    """Numbers by name, as "continuity:330,gravity:175"; nothing where the text is empty."""
    cells = [cell.partition(":") for cell in text.split(",") if cell]
    try:
        return {name.strip(): int(number) for name, _, number in cells}
    except ValueError as error:
        raise ValueError(
            f"got data option {key}={text} · expected numbers by name, such as continuity:330,gravity:175"
        ) from error
