"""Reads and writes at sites of a stock model by nnsight, skips a prefix, stops early. No other file imports nnsight.

Example of a skipped prefix: a model of four blocks, one point in block 2, `stop=True`, and

    Prefix(paths=("blocks.0", "blocks.1"), stream=x)    x is a cached input of block 2

    embedding           runs, since it lies outside of the blocks; the skipped blocks ignore its output
    blocks.0, blocks.1  do not run; each returns x
    blocks.2            runs on x up to the point, where `visit` reads or edits its value
    blocks.3, ...       do not run
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

with suppress(
    ImportError
):  # nnsight adds `save` to every object, which makes later imports of these anyio classes fail
    for _classes in ("anyio.abc._sockets", "anyio.streams.tls", "anyio.streams.file"):
        import_module(_classes)

from nnsight import NNsight
from nnsight.intervention.source import STATE
from torch import Tensor, nn

from dit_lens.hook_points import HookPoint, Site, Table

Visit = Callable[[HookPoint, Any], Any]
MIXING = ("dispatch_attention_fn", "F_scaled_dot_product_attention")


@dataclass(frozen=True)
class Partly:
    """A module that runs for the first rows of a batch only.

    Attributes:
        path: the module path; nothing may be read or written inside the module.
        rows: the number of rows; with 0 the module does not run.
        of: the number of rows in the batch.
        complete: the module's output for these rows (None for 0 rows) -> its output for the whole batch.
    """

    path: str
    rows: int
    of: int
    complete: Callable[[Tensor | None], Tensor]

    def narrowed(self, inputs: Any) -> Any:
        """The module's inputs for the first rows only; tensors without a batch axis stay as they are."""
        if isinstance(inputs, Tensor):
            # Tensors of two axes (rotary, a causal mask) may have the same length by chance, but it is one of tokens.
            return inputs[: self.rows] if inputs.ndim > 2 and len(inputs) == self.of else inputs
        if isinstance(inputs, Mapping):
            return {name: self.narrowed(value) for name, value in inputs.items()}
        return type(inputs)(map(self.narrowed, inputs)) if isinstance(inputs, tuple | list) else inputs


@dataclass(frozen=True)
class Prefix:
    """The start of a run: blocks to skip, and optionally a module of the first block that runs for some rows only.

    Attributes:
        paths: module paths of the skipped blocks, each of which returns `stream`, the cached input of the block after.
        stream: a tensor, or a tuple of them where blocks return several.
        partly: the module that runs for some rows only.
    """

    paths: tuple[str, ...] = ()
    stream: Any = None
    partly: Partly | None = None


@dataclass(frozen=True)
class Skip:
    """A module that does not run and returns `stream`."""

    path: str
    stream: Any


class TracedModel:
    """A transformer under nnsight.

    Outside a trace the model is unchanged; a trace, an exception or Ctrl-C leave nothing on it.
    """

    def __init__(self, module: nn.Module, table: Table):
        self.envoy, self.table = NNsight(module), table
        self._place = {site: i for i, site in enumerate(table.sites)}
        for path in {site.path for site in table.sites if site.port in ("local", "processor")}:
            # nnsight can reach inside a forward only if it was instrumented before the call.
            _ = self.module(path).source
        self._instrumented = module.forward

    def run(
        self,
        inputs: Mapping[str, Any],
        points: Sequence[HookPoint],
        visit: Visit,
        prefix: Prefix | None = None,
        stop: bool = False,
    ) -> Any:
        """One forward; `visit` sees each point's value in forward order and returns it, or another in its place.

        Args:
            inputs: keyword arguments of the transformer.
            points: hook points to visit.
            visit: (point, value) -> value; returning the same tensor changes nothing in the model.
            prefix: what to skip.
            stop: end after the last point, without running anything later.

        Returns:
            The model's output, or None where it was stopped.
        """
        due = self._due(points)
        order = self._order(due, prefix or Prefix())
        needed = {site for point in points for site in point.sites[:-1]}  # later sites need these; others are freed
        result: list[Any] = []
        tracer: Any
        with self._in_place(), self.envoy.trace(**inputs) as tracer:
            values: dict[Site, Any] = {}
            for place in order:
                if isinstance(place, Skip):
                    self.module(place.path).skip(place.stream)
                elif isinstance(place, Partly):
                    module = self.module(place.path)
                    module.inputs = place.narrowed(module.inputs)
                    module.output = place.complete(module.output)
                else:
                    raw = self._serve(place, due[place], values, visit)
                    if place in needed or place.port == "processor":
                        values[place] = raw
                    del raw
            if stop:
                tracer.stop()
            else:
                result.append(self.envoy.output)
        return result[0] if result else None

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Restores the forward that nnsight instrumented, which runs accelerate's hook too, for the time of a trace.

        An offloading pipeline removes accelerate's hook and adds it again at the end of every call, and so replaces
        the instrumented forward.
        """
        module: Any = self.envoy._module
        if not self._displaced:
            yield
            return
        displacing, module.forward = module.forward, self._instrumented
        try:
            yield
        finally:
            module.forward = displacing

    @property
    def running(self) -> bool:
        """Whether a trace of this model is running."""
        return self.envoy.interleaver.interleaving

    @property
    def _displaced(self) -> bool:
        """Whether the forward that nnsight instrumented was replaced by an offloading pipeline."""
        module: Any = self.envoy._module
        return "_hf_hook" in vars(module) and module.forward is not self._instrumented

    @property
    def replaced(self) -> bool:
        """Whether other code than ours replaced the forward that nnsight instrumented."""
        module: Any = self.envoy._module
        ours = getattr(module.forward, "__module__", "").partition(".")[0] == __package__  # of active hooks
        return module.forward != self._instrumented and "_hf_hook" not in vars(module) and not ours

    def trace(self, inputs: Mapping[str, Any]):
        """The nnsight tracer over the transformer, for a user's `with` block.

        Raises:
            RuntimeError: an offloading pipeline has replaced the forward, which nnsight cannot handle.
        """
        if self._displaced:
            raise RuntimeError(
                "got a transformer whose forward its pipeline replaced (enable_model_cpu_offload) · expected it as the"
                " lens found it · make a new lens on the pipeline before `trace`; run_with_cache and hooks go on"
            )
        return self.envoy.trace(**inputs)

    def _due(self, points: Sequence[HookPoint]) -> dict[Site, list[HookPoint]]:
        """Sites to visit, in forward order, each with the points whose last site it is."""
        needed = {site for point in points for site in point.sites}
        due: dict[Site, list[HookPoint]] = {site: [] for site in self.table.sites if site in needed}
        for point in points:
            due[point.sites[-1]].append(point)
        return due

    def _order(self, due: Mapping[Site, list[HookPoint]], prefix: Prefix) -> list[Site | Skip | Partly]:
        """Sites and skipped modules in forward order."""
        places: list[tuple[int, Site | Skip | Partly]] = []
        if prefix.paths:
            first = self._first(prefix.paths[0])
            places += [(first, Skip(path, prefix.stream)) for path in prefix.paths]
        if (partly := prefix.partly) is not None:
            whole = partly if partly.rows else Skip(partly.path, partly.complete(None))
            places.append((self._first(partly.path), whole))
        places += [(self._place[site], site) for site in due]
        return [place for _, place in sorted(places, key=lambda place: place[0])]

    def _first(self, path: str) -> int:
        """The index of the first site in a module."""
        return next(i for site, i in self._place.items() if site.path == path or site.path.startswith(f"{path}."))

    def _serve(self, site: Site, points: list[HookPoint], values: dict[Site, Any], visit: Visit) -> Any:
        """Visits the points that end at a site, writes back what they changed, and returns the site's value."""
        raw = original = self._get(site, values)
        changed = False
        for point in points:
            earlier = [values[s] for s in point.sites[:-1]]
            old = point.read(*earlier, raw)
            new = visit(point, old)
            if new is not old and point.write is not None:
                raw, changed = point.write(new, old, *earlier, raw), True
        if changed:
            raw = in_layout(raw, original)
            self._set(site, raw, values)
        return raw

    def module(self, path: str) -> Any:
        """The nnsight envoy of the module at a dotted path."""
        node = self.envoy
        for part in path.split(".") if path else ():
            node = node[int(part)] if part.isdigit() else getattr(node, part)
        return node

    def _get(self, site: Site, values: Mapping[Site, Any]) -> Any:
        return getattr(*self._slot(site, values))

    def _set(self, site: Site, value: Any, values: Mapping[Site, Any]) -> None:
        setattr(*self._slot(site, values), value)

    def _slot(self, site: Site, values: Mapping[Site, Any]) -> tuple[Any, str]:
        """The nnsight object and attribute of a site."""
        module = self.module(site.path)
        match site.port:
            case "local":
                return getattr(module.source, site.label), "output"
            case "processor":
                return module.source.self_processor_0, "source"
            case "processor_local":
                return getattr(values[Site(site.path, "processor")], site.label), "output"
            case "attention_inputs" | "attention_output":
                inside = values[Site(site.path, "processor")]
                return getattr(inside, mixing_call(inside.names)), site.port.removeprefix("attention_")
        return module, site.port


def untraced_copy(module: Any) -> Any:
    """A copy of a module over the same submodules, without the state of nnsight."""
    untraced = copy.copy(module)
    for name in ("forward", STATE):
        vars(untraced).pop(name, None)
    vars(untraced)["_modules"] = dict(module._modules)
    return untraced


def in_layout(new: Any, old: Any) -> Any:
    """A value in the memory layout of the one that it replaces, because kernels for other layouts round differently.

    A replacement of strides (6, 1) for a value of shape (2, 6) and strides (1, 2) is copied into strides (1, 2).
    """
    if isinstance(old, Mapping):
        return {name: in_layout(value, old.get(name)) for name, value in new.items()}
    if isinstance(old, tuple):
        return tuple(in_layout(value, original) for value, original in zip(new, old, strict=True))
    if not isinstance(old, Tensor) or new is old or (new.shape, new.stride()) == (old.shape, old.stride()):
        return new
    if new.shape != old.shape or 0 in old.stride():
        return new  # another shape, or expanded: memory that elements share cannot hold different values
    return new.new_empty_strided(old.shape, old.stride()).copy_(new)


def mixing_call(names: Iterable[str]) -> str:
    """The name of the operation that mixes values in an attention processor: the last call of an attention function.

    Labels are numbered by occurrence in the source; an image branch (Wan, Cosmos) comes before the main call.

    Raises:
        ValueError: the processor calls no attention function.
    """
    calls = [name for name in names if name.startswith(MIXING)]
    if not calls:
        raise ValueError(
            f"got an attention processor without a call of {' or '.join(MIXING)} · expected a stock diffusers processor"
            " · undo fused or custom processors (`transformer.set_attn_processor`)"
        )
    return calls[-1]
