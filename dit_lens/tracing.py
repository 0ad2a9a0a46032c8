"""The only file that imports nnsight: reads and writes at sites of a stock model, skips a prefix, stops early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nnsight import NNsight
from torch import Tensor, nn

from dit_lens.hook_points import HookPoint, Site, Table

Visit = Callable[[HookPoint, Tensor], Tensor]
MIXING = ("dispatch_attention_fn", "F_scaled_dot_product_attention")


@dataclass(frozen=True)
class Partly:
    """A module that is run for the first rows of a batch alone.

    Attributes:
        path: of the module, inside which nothing may be read or written then.
        rows: how many; it is not run at all for none.
        of: how many rows there are.
        complete: what it puts out for these rows (None for none) -> what it puts out for all.
    """

    path: str
    rows: int
    of: int
    complete: Callable[[Tensor | None], Tensor]

    def narrowed(self, told: Any) -> Any:
        """What the module is called with, less the rows it is not run for; what serves all rows stays as it is."""
        if isinstance(told, Tensor):
            # Tables of two axes (rotary, a causal mask) may have as many rows by chance: they are of tokens.
            return told[: self.rows] if told.ndim > 2 and len(told) == self.of else told
        if isinstance(told, Mapping):
            return {name: self.narrowed(value) for name, value in told.items()}
        return type(told)(map(self.narrowed, told)) if isinstance(told, tuple | list) else told


@dataclass(frozen=True)
class Prefix:
    """Where a run begins: blocks that are not run, and perhaps a module of the first one that is run partly.

    Attributes:
        paths: of the blocks; the last puts out `stream`, the cached input of the block after it.
        stream: a tensor, or a tuple of them where blocks put out several.
        partly: the module.
    """

    paths: tuple[str, ...] = ()
    stream: Any = None
    partly: Partly | None = None


@dataclass(frozen=True)
class Skip:
    """A module that is not run and puts out `stream`."""

    path: str
    stream: Any


class TracedModel:
    """A transformer under nnsight.

    Outside a trace the model runs as it did; after a trace, an exception or Ctrl-C nothing is left on it.
    """

    def __init__(self, module: nn.Module, table: Table):
        self.envoy, self.table = NNsight(module), table
        self._place = {site: i for i, site in enumerate(table.sites)}
        for path in {site.path for site in table.sites if site.port in ("local", "processor")}:
            # nnsight can serve what is inside a forward only where it was instrumented before it began.
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
            visit: (point, value) -> value; returning the same tensor leaves the model untouched there.
            prefix: what to skip.
            stop: end after the last point; nothing behind it is run.

        Returns:
            The model's output, or None where it was stopped.
        """
        due = self._due(points)
        order = self._order(due, prefix or Prefix())
        told = {site for point in points for site in point.sites[:-1]}  # what later sites need; all else is let go
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
                    if place in told or place.port == "processor":
                        values[place] = raw
                    del raw
            if stop:
                tracer.stop()
            else:
                result.append(self.envoy.output)
        return result[0] if result else None

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The module's forward as nnsight has it, under which accelerate's hook acts too.

        A pipeline that moves its parts about takes that hook off and puts it on anew at the end of every call, and with
        it goes the forward that it found.
        """
        module: Any = self.envoy._module
        if not self._displaced:
            yield
            return
        found, module.forward = module.forward, self._instrumented
        try:
            yield
        finally:
            module.forward = found

    @property
    def running(self) -> bool:
        """Whether a trace of this model is under way."""
        return self.envoy.interleaver.interleaving

    @property
    def _displaced(self) -> bool:
        """Whether the forward that nnsight instrumented was replaced by an offloading pipeline."""
        module: Any = self.envoy._module
        return "_hf_hook" in vars(module) and module.forward is not self._instrumented

    def trace(self, inputs: Mapping[str, Any]):
        """The nnsight tracer over the transformer, for a `with` block of the user's.

        Raises:
            RuntimeError: a pipeline that moves its parts about has put forward on anew, which nnsight cannot follow.
        """
        if self._displaced:
            raise RuntimeError(
                "got a transformer whose forward its pipeline made anew (enable_model_cpu_offload) · expected it as the"
                " lens found it · make a new lens on the pipeline before `trace`; run_with_cache and hooks go on"
            )
        return self.envoy.trace(**inputs)

    def _due(self, points: Sequence[HookPoint]) -> dict[Site, list[HookPoint]]:
        """Sites to touch, in forward order, each with the points whose value is complete there."""
        needed = {site for point in points for site in point.sites}
        due: dict[Site, list[HookPoint]] = {site: [] for site in self.table.sites if site in needed}
        for point in points:
            due[point.sites[-1]].append(point)
        return due

    def _order(self, due: Mapping[Site, list[HookPoint]], prefix: Prefix) -> list[Site | Skip | Partly]:
        """Sites, and what is skipped, in the order in which the forward meets them."""
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
        """The place of the first site in a module."""
        return next(i for site, i in self._place.items() if site.path == path or site.path.startswith(f"{path}."))

    def _serve(self, site: Site, points: list[HookPoint], values: dict[Site, Any], visit: Visit) -> Any:
        raw = found = self._get(site, values)
        changed = False
        for point in points:
            known = [values[s] for s in point.sites[:-1]]
            old = point.read(*known, raw)
            new = visit(point, old)
            if new is not old and point.write is not None:
                raw, changed = point.write(new, old, *known, raw), True
        if changed:
            raw = in_layout(raw, found)
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
        """The nnsight object and attribute that stand for a site."""
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


def in_layout(new: Any, old: Any) -> Any:
    """A value laid out in memory as the one whose place it takes: layout chooses kernels, which differ by rounding."""
    if isinstance(old, Mapping):
        return {name: in_layout(value, old.get(name)) for name, value in new.items()}
    if isinstance(old, tuple):
        return tuple(in_layout(one, other) for one, other in zip(new, old, strict=True))
    if not isinstance(old, Tensor) or new is old or (new.shape, new.stride()) == (old.shape, old.stride()):
        return new
    if new.shape != old.shape or 0 in old.stride():
        return new  # of another shape, or expanded: memory that several places share cannot hold what differs
    return new.new_empty_strided(old.shape, old.stride()).copy_(new)


def mixing_call(names: Iterable[str]) -> str:
    """Which operation of an attention processor mixes values: the last call of an attention function in its source.

    Labels are numbered by occurrence in the source; an image branch (Wan, Cosmos) comes before the main call.

    Raises:
        ValueError: there is none.
    """
    calls = [name for name in names if name.startswith(MIXING)]
    if not calls:
        raise ValueError(
            f"got an attention processor without a call of {' or '.join(MIXING)} · expected a stock diffusers processor"
            " · undo fused or custom processors (`transformer.set_attn_processor`)"
        )
    return calls[-1]
