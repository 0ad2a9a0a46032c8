"""The plan of a store, fixed before anything is written: variables, steps, batches, and all that decides the values."""

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

from dit_lens.atomic_files import replace_atomically
from dit_lens.results import canonical

KIND = "dit_lens.store"
VERSION = 1
PLAN = "store.json"
STORED = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4", "float64": "<f8"}  # see dit_lens.tensor_file
COMPRESSIONS = ("auto", "none")

Place = tuple[str, int | None]  # a variable's name and the position of the block, None where it has none


@dataclass(frozen=True)
class Variable:
    """An array of the store, with the dimensions clip, step, and then those of the variable.

    Attributes:
        name: such as "resid_post.mean".
        dims: names of the dimensions after clip and step; the first may be "block".
        shape: sizes of these dimensions.
        dtype: see STORED.
        labels: coordinates of dimensions that are not simply counted from 0.
        points: the hook points that it was read at, one per block where it has blocks.
        reduction: the reduction that was computed in the hook.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    labels: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    points: tuple[str, ...] = ()
    reduction: str = "none"

    def __str__(self) -> str:
        sizes = [f"{dim} {size}" for dim, size in zip(self.dims, self.shape, strict=True)]
        return f"{self.name} ({', '.join(['clip', 'step', *sizes])}) {self.dtype}"

    @property
    def blocked(self) -> bool:
        """Whether it has a block dimension."""
        return self.dims[:1] == ("block",)

    @property
    def cell(self) -> tuple[int, ...]:
        """Shape of the values of one clip from one evaluation, at one hook point."""
        return self.shape[int(self.blocked) :]

    @property
    def cell_bytes(self) -> int:
        """Bytes of such a cell."""
        return math.prod(self.cell) * np.dtype(STORED[self.dtype]).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of one clip at one step."""
        return math.prod(self.shape) * np.dtype(STORED[self.dtype]).itemsize


@dataclass(frozen=True)
class Plan:
    """The full content of a store, and what decides its values.

    Attributes:
        steps: counted from data, with their `sigmas` and `timesteps`.
        batches: number of shards.
        clips: number of clips if no item fails.
        asked: options, weights and code, which decide the values.
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
        """An identifier of the plan, which every shard contains."""
        return sha256_text(canonical(asdict(self)))

    @property
    def bytes(self) -> int:
        """Uncompressed bytes of all clips and steps."""
        return sum(variable.bytes for variable in self.variables) * self.clips * len(self.steps)

    def variable(self, name: str) -> Variable:
        """The variable of that name."""
        return next(variable for variable in self.variables if variable.name == name)

    def check(self, values: Mapping[Place, Tensor], clips: int) -> None:
        """Checks that the values of `clips` clips have the planned shapes and dtypes.

        Raises:
            ValueError: names the variable.
        """
        for (name, _), tensor in values.items():
            variable = self.variable(name)
            shape = (clips, *variable.cell)
            if tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{variable.dtype}":
                raise ValueError(
                    f"got {name} of shape {tuple(tensor.shape)}, {tensor.dtype} · expected {shape},"
                    f" torch.{variable.dtype} · all clips of a store need one shape"
                )


def sha256_text(text: str) -> str:
    """The sha256 of a text, as hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_plan(folder: Path, plan: Plan, provenance: str) -> None:
    """Writes store.json, with a digest of itself."""
    content = {"kind": KIND, "version": VERSION, "plan": asdict(plan), "provenance": json.loads(provenance)}
    with replace_atomically(folder / PLAN) as aside:
        aside.write_text(
            json.dumps({**content, "sha256": sha256_text(canonical(content))}, indent=1, ensure_ascii=False)
        )


def open_plan(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan of a store, and its provenance.

    Raises:
        FileNotFoundError: there is no store in the folder.
        ValueError: store.json is damaged, foreign, or of a newer version; names it.
    """
    path = folder / PLAN
    if not path.is_file():
        raise FileNotFoundError(
            f"got {folder} without {PLAN} · expected a store · make one with python -m analyses.store_activations"
        )
    try:
        content = json.loads(path.read_text())
        kind, version, digest = content["kind"], content["version"], content.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"got {path}, which is not the plan of a store ({error}) · expected one · restore it from a copy"
        ) from error
    check_version(path, kind, version)
    if sha256_text(canonical(content)) != digest:
        raise ValueError(
            f"got {path}, which was changed after it was written · expected it unchanged · restore it from a copy"
        )
    plan = content["plan"]
    variables = tuple(
        Variable(**{key: _frozen(value) for key, value in fields.items()}) for fields in plan["variables"]
    )
    options = {key: _frozen(value) for key, value in plan.items() if key not in ("variables", "asked")}
    return Plan(variables=variables, asked=plan["asked"], **options), content["provenance"]


def check_version(path: Path, kind: Any, version: Any) -> None:
    """Checks that a file belongs to a store, and to one of this version or an earlier one.

    Raises:
        ValueError: names the file.
    """
    if kind != KIND:
        raise ValueError(
            f"got {path} of kind {kind!r} · expected {KIND!r} · the file does not belong to a store of activations"
        )
    if not 1 <= int(version) <= VERSION:
        raise ValueError(f"got {path} of version {version} · expected at most {VERSION} · update dit_lens")


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return {key: _frozen(entry) for key, entry in value.items()} if isinstance(value, dict) else value
