"""Reading a store: checked when it is opened, then one lazy array over all shards, read where it is indexed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor
from xarray.backends import BackendArray
from xarray.core import indexing

import dit_lens.store.index as index
from dit_lens.atomic_files import remedy
from dit_lens.choices import check_choice
from dit_lens.store.index import Entry
from dit_lens.store.plan import STORED, Plan, Variable, check_version, open_plan
from dit_lens.tensor_file import to_floats, to_tensor

Key = int | slice | Sequence[int] | np.ndarray


def open_store(folder: Path | str, partial: bool = False, verify: bool | None = None) -> Store:
    """A store opened for reading, after a check that every shard exists and has its size.

    Args:
        partial: whether to open an unfinished store too.
        verify: whether to compare every shard's sha256; None does so where a file was modified after it was written.

    Raises:
        FileNotFoundError: there is no store in the folder.
        ValueError: it is unfinished, damaged, foreign or of a newer version; names the file.
    """
    folder = Path(folder)
    plan, provenance = open_plan(folder)
    entries = index.read(folder, plan.digest)
    store = Store(folder, plan, provenance, entries)
    if store.missing and not partial:
        raise ValueError(
            f"got {folder} without {len(store.missing)} of {plan.batches} batches (the first: {store.missing[0]}) ·"
            " expected all batches · run the capture again to complete it, or open with partial=True"
        )
    for entry in store.shards:
        index.check_shard(folder, entry, verify)
        if verify:
            with _opened(folder, entry):
                pass
    return store


class Store(Mapping[str, xr.DataArray]):
    """Activations on disk by variable, such as `store["resid_post.mean"]`: (clip, step, block, feature).

    An array is read when its values are needed, and only the selected part.

    Attributes:
        plan: the planned content of the store.
        provenance: the code, weights and options that it was computed with.
        shards: index entries of its shards, in the order of the clips.
        missing: batches that are not (yet) in the store.
        clips: id, scene, group, role, property, possible (True, False or None) and, where it was recorded, whether the
            scene is crossed, of every clip.
        errors: items that could not be captured, and why; where a run stopped, the item that it stopped at.
    """

    def __init__(self, folder: Path, plan: Plan, provenance: Mapping[str, Any], entries: Mapping[int, Entry]):
        self.folder, self.plan, self.provenance = folder, plan, provenance
        finished = [entry for entry in entries.values() if entry.done]
        self.shards = [entry for entry in finished if entry.shard is not None]
        self.missing = sorted(set(range(plan.batches)) - {entry.batch for entry in finished})
        columns = ["id", "scene", "group", "role", "property", "possible"]
        columns += ["crossed"] * all("crossed" in entry.clips for entry in self.shards)  # not in a store of before
        self.clips = pd.DataFrame(
            {name: [value for entry in self.shards for value in entry.clips[name]] for name in columns}
        )
        self.errors = pd.DataFrame(
            [(e.batch, f.item, f.id, f.error) for e in entries.values() for f in e.failures],
            columns=["batch", "item", "id", "error"],
        )

    def __iter__(self):
        return (variable.name for variable in self.plan.variables)

    def __len__(self) -> int:
        return len(self.plan.variables)

    def __repr__(self) -> str:
        state = f"{len(self.missing)} of {self.plan.batches} batches missing" if self.missing else "complete"
        head = f"store of {len(self.clips)} clips at {len(self.plan.steps)} steps in {len(self.shards)} shards, {state}"
        return "\n".join([head, *(f"  {variable}" for variable in self.plan.variables)])

    def __getitem__(self, name: str) -> xr.DataArray:
        """The variable, lazily; bfloat16 comes as float32, which holds it exactly.

        Raises:
            KeyError: there is no such variable; names the nearest.
        """
        variable = self._variable(name)
        lazy = indexing.LazilyIndexedArray(_Lazy(self, variable))
        return xr.DataArray(
            xr.Variable(("clip", "step", *variable.dims), lazy),
            coords=self._coords(variable),
            name=name,
            attrs={"dtype": variable.dtype, "reduction": variable.reduction, "points": list(variable.points)},
        )

    @property
    def bytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(entry.bytes for entry in self.shards)

    def dataset(self, *names: str) -> xr.Dataset:
        """Several variables as one dataset, by default all.

        Raises:
            ValueError: a dimension has different sizes among them, such as the feature of "resid_post" and "attn.z".
        """
        try:
            data = xr.Dataset({name: self[name] for name in names or self})
        except ValueError as error:
            raise ValueError(
                f"{error} · expected variables with the same dimensions · name variables that go together"
            ) from error
        return data.assign_attrs(provenance=json.dumps(self.provenance), missing=self.missing)

    def tensor(self, name: str, clip: Key = slice(None), step: Key = slice(None), block: Key = slice(None)) -> Tensor:
        """Values in the dtype that they were captured in; every index but an integer keeps its axis.

        Args:
            clip, step, block: positions (not labels), as integers, slices or lists.
        """
        variable = self._variable(name)
        feature_dims = variable.dims[1:] if variable.blocked else variable.dims
        keys = (clip, step, *((block,) if variable.blocked else ()), *(slice(None) for _ in feature_dims))
        return to_tensor(self.read(variable, keys), variable.dtype)

    def read(self, variable: Variable, keys: tuple[Key, ...]) -> np.ndarray:
        """Values as stored (bfloat16 as its bits), with each axis indexed separately.

        Raises:
            ValueError: a shard cannot be read, or is not what the index says; names it.
        """
        numbers = [np.atleast_1d(np.arange(n)[_plain(key)]) for n, key in zip(self._shape(variable), keys, strict=True)]
        values = np.empty([len(number) for number in numbers], STORED[variable.dtype])
        first = 0
        for entry in self.shards:
            inside = (numbers[0] >= first) & (numbers[0] < first + len(entry.clips["id"]))
            if values[inside].size:
                with _opened(self.folder, entry) as file:
                    dataset: Any = file[f"activations/{variable.name}"]
                    values[inside] = _read(dataset, [numbers[0][inside] - first, *numbers[1:]], 1 + variable.blocked)
            first += len(entry.clips["id"])
        return values[tuple(0 if isinstance(key, (int, np.integer)) else slice(None) for key in keys)]

    def _variable(self, name: str) -> Variable:
        try:
            return self.plan.variable(check_choice(name, self, "variable"))
        except ValueError as error:
            raise KeyError(str(error)) from error

    def _shape(self, variable: Variable) -> tuple[int, ...]:
        return (len(self.clips), len(self.plan.steps), *variable.shape)

    def _coords(self, variable: Variable) -> dict[str, Any]:
        columns = {name: ("clip", self.clips[name].to_numpy()) for name in ("scene", "group", "role", "property")}
        # bool where all labels are known, else objects: None must not turn into a label
        columns["possible"] = ("clip", np.array(self.clips["possible"].tolist()))
        levels = {name: ("step", list(getattr(self.plan, f"{name}s"))) for name in ("sigma", "timestep")}
        labels = {dim: list(values) for dim, values in variable.labels.items()}
        return {"clip": self.clips["id"].to_numpy(), **columns, "step": list(self.plan.steps), **levels, **labels}


class _Lazy(BackendArray):
    """The interface that xarray requires of an array that is read lazily."""

    def __init__(self, store: Store, variable: Variable):
        self.store, self.variable = store, variable
        self.shape = store._shape(variable)
        self.dtype = np.dtype("<f4" if variable.dtype == "bfloat16" else STORED[variable.dtype])

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._values)

    def _values(self, keys: tuple[Key, ...]) -> np.ndarray:
        return to_floats(self.store.read(self.variable, keys), self.variable.dtype)


@contextmanager
def _opened(folder: Path, entry: Entry) -> Iterator[h5py.File]:
    """A shard's open file, after a check that it matches the index; an error names a file that cannot be read."""
    path = folder / str(entry.shard)
    try:
        with h5py.File(path, "r") as file:
            attributes: Any = dict(file.attrs)
            check_version(path, attributes.get("kind"), attributes.get("version", 0))
            ids: Any = file["id"]
            recorded = (int(attributes["batch"]), str(attributes["plan"]), [text.decode() for text in ids[()]])
            if recorded != (entry.batch, entry.plan, list(entry.clips["id"])):
                raise ValueError(
                    f"got shard {path} of another batch or store (batch {recorded[0]}) · expected the shard of this"
                    " batch · restore it"
                )
            yield file
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        index.check_shard(folder, entry, content=True)  # says so where the file is not as it was written
        raise ValueError(f"got shard {path}, which cannot be read ({error}) · {remedy(error, 'restore it')}") from error


def _plain(key: Key) -> Any:
    return np.asarray(key) if isinstance(key, Sequence) else key


def _read(dataset: Any, numbers: list[np.ndarray], cells: int) -> np.ndarray:
    """Values at the product of positions along each axis.

    Args:
        cells: number of axes after the clip axis that have chunks of length 1, and are read one index at a time.
    """
    values = np.empty([len(number) for number in numbers], dataset.dtype)
    box = [slice(number.min(), number.max() + 1) for number in (numbers[0], *numbers[1 + cells :])]
    inside = np.ix_(*(n - b.start for n, b in zip((numbers[0], *numbers[1 + cells :]), box, strict=True)))
    for at in itertools.product(*(range(len(number)) for number in numbers[1 : 1 + cells])):
        place = [number[i] for number, i in zip(numbers[1:], at, strict=False)]
        values[(slice(None), *at)] = dataset[(box[0], *place, *box[1:])][inside]
    return values
