"""What a store holds, agreed before anything is written: variables, steps, batches, and what decides the values."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dit_lens.results import replace_atomically

KIND = "dit_lens.store"
VERSION = 1
PLAN = "store.json"
STORED = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4", "float64": "<f8"}  # see dit_lens.tensor_file
COMPRESSIONS = ("auto", "none")

Place = tuple[str, int | None]  # a variable's name and the position of the block, None where it has none


@dataclass(frozen=True)
class Variable:
    """An array of the store: clip, step and then its own dimensions.

    Attributes:
        name: such as "resid_post.mean".
        dims: its own dimensions in words; the first may be "block".
        shape: their sizes.
        dtype: see STORED.
        labels: of dimensions that are not simply counted from 0.
        points: hook points it was read at, by block where there are several.
        reduction: made in the hook.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    labels: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    points: tuple[str, ...] = ()
    reduction: str = "none"

    def __str__(self) -> str:
        own = [f"{dim} {size}" for dim, size in zip(self.dims, self.shape, strict=True)]
        return f"{self.name} ({', '.join(['clip', 'step', *own])}) {self.dtype}"

    @property
    def blocked(self) -> bool:
        """Whether it has a block dimension."""
        return self.dims[:1] == ("block",)

    @property
    def cell(self) -> tuple[int, ...]:
        """Shape of what one evaluation gives of a clip, at one hook point."""
        return self.shape[int(self.blocked) :]

    @property
    def cell_bytes(self) -> int:
        """Of such a cell."""
        return math.prod(self.cell) * np.dtype(STORED[self.dtype]).itemsize

    @property
    def bytes(self) -> int:
        """Of one clip at one step."""
        return math.prod(self.shape) * np.dtype(STORED[self.dtype]).itemsize


@dataclass(frozen=True)
class Plan:
    """All that a store will hold.

    Attributes:
        steps: counted from data; `sigmas` and `timesteps` are theirs.
        batches: how many shards there will be.
        clips: how many clips there are if no item fails.
        asked: options, weights and code: what decides the values.
        compression: "auto" (deflate, where it saves a tenth or more) or "none".
    """

    variables: tuple[Variable, ...]
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    batches: int
    clips: int
    asked: Mapping[str, Any]
    compression: str = "auto"

    @property
    def digest(self) -> str:
        """Tells one plan from another; every shard carries it."""
        return sha256_text(canonical(asdict(self)))

    @property
    def bytes(self) -> int:
        """Uncompressed, of all clips and steps."""
        return sum(variable.bytes for variable in self.variables) * self.clips * len(self.steps)

    def variable(self, name: str) -> Variable:
        """The variable of that name."""
        return next(variable for variable in self.variables if variable.name == name)

    def check(self, values: Mapping[Place, Tensor], clips: int) -> None:
        """Checks that values of so many clips have the shapes and dtypes that are planned.

        Raises:
            ValueError: names the variable.
        """
        for (name, _), tensor in values.items():
            variable = self.variable(name)
            shape = (clips, *variable.cell)
            if tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{variable.dtype}":
                raise ValueError(
                    f"got {name} of shape {tuple(tensor.shape)}, {tensor.dtype} · expected {shape},"
                    f" torch.{variable.dtype} · all clips of a store have one shape"
                )


def canonical(value: Any) -> str:
    """The one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def sha256_text(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_plan(folder: Path, plan: Plan, provenance: str) -> None:
    """Writes store.json, with a digest of itself."""
    told = {"kind": KIND, "version": VERSION, "plan": asdict(plan), "provenance": json.loads(provenance)}
    with replace_atomically(folder / PLAN) as aside:
        aside.write_text(json.dumps({**told, "sha256": sha256_text(canonical(told))}, indent=1, ensure_ascii=False))


def open_plan(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan of a store, and its provenance.

    Raises:
        FileNotFoundError: there is no store in the folder.
        ValueError: store.json is damaged, foreign, or of a newer version; names it.
    """
    path = folder / PLAN
    if not path.is_file():
        raise FileNotFoundError(
            f"got {folder} without {PLAN} · expected a store · python -m analyses.store_activations"
        )
    try:
        told = json.loads(path.read_text())
        kind, version, digest = told["kind"], told["version"], told.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"got {path}, which is no plan of a store ({error}) · restore it from a copy") from error
    check_version(path, kind, version)
    if sha256_text(canonical(told)) != digest:
        raise ValueError(f"got {path}, which was changed after it was written · restore it from a copy")
    plan = told["plan"]
    variables = tuple(Variable(**{key: _frozen(value) for key, value in one.items()}) for one in plan["variables"])
    rest = {key: _frozen(value) for key, value in plan.items() if key not in ("variables", "asked")}
    return Plan(variables=variables, asked=plan["asked"], **rest), told["provenance"]


def check_version(path: Path, kind: Any, version: Any) -> None:
    """Refuses what is not ours, or was written by a later version.

    Raises:
        ValueError: names the file.
    """
    if kind != KIND:
        raise ValueError(f"got {path} of kind {kind!r} · expected {KIND!r} · it is not a file of this store")
    if not 1 <= int(version) <= VERSION:
        raise ValueError(f"got {path} of version {version} · expected at most {VERSION} · update dit_lens")


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return {key: _frozen(own) for key, own in value.items()} if isinstance(value, dict) else value
