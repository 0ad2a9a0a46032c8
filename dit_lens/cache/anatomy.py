"""The structure of a model's streams: names of writes in order, output projections, gates, the final layer.

A write of attention is gate · (Σ_k W_k z_k + bias), so what a head writes follows from its z, its slice of the output
projection and the gate. For the write `blocks.3.hook_attn_out`, z is `blocks.3.attn.hook_z` and the gate is
`blocks.3.mod.hook_gate_attn`, or `hook_gate` where layers share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dit_lens.choices import nearest
from dit_lens.hook_points import Table

STREAM, WRITE, ENTRY = "hook_resid_", "_out", "hook_resid_pre"


@dataclass(frozen=True, eq=False)
class HeadWrite:
    """The write of an attention layer, which is a sum over heads.

    Attributes:
        z: names of the heads' z by the keys they attend to: usually "", and "img" where image keys have their own
            softmax. The input of the projection is their sum.
        gate: the name of the gate; None without a gate.
        raw: the name of the ungated output, if an RMS norm comes between it and the gate.
        epsilon: the epsilon of that norm.
        weight, bias: of the output projection; where it is wider than z, z comes first and the bias counts as the MLP's
            (parallel blocks).
    """

    z: Mapping[str, str]
    gate: str | None
    raw: str | None
    epsilon: float
    weight: Float[Tensor, "d w"]
    bias: Float[Tensor, " d"] | None

    @property
    def needs(self) -> list[str]:
        """Names of the points it is computed from."""
        return [name for name in (*self.z.values(), self.gate, self.raw) if name is not None]


@dataclass(frozen=True, eq=False)
class Norm:
    """The weights of a LayerNorm."""

    weight: Float[Tensor, " d"] | None
    bias: Float[Tensor, " d"] | None
    epsilon: float


@dataclass(frozen=True, eq=False)
class FinalLayer:
    """The weights of the layer that maps the last stream to velocity; see `hook_points.Final`."""

    norms: tuple[Norm, ...]
    weight: Float[Tensor, "p d"]
    bias: Float[Tensor, " p"] | None
    token: str
    patch: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The structure of a model's streams, with the weights that decompositions need.

    Attributes:
        points: the streams and the writes to them, in forward order.
        heads: writes of attention layers, by name.
        final: the layer after the last block; None if the family does not define it.
        axes: letters of the axes of every point.
    """

    points: tuple[str, ...]
    heads: Mapping[str, HeadWrite]
    final: FinalLayer | None
    axes: Mapping[str, str]

    @classmethod
    def of(cls, transformer: nn.Module, table: Table) -> Anatomy:
        """The anatomy of a transformer, which refers to its weights without copying them."""
        points = _streams(list(table.points))
        heads = {
            name: _head_write(name, transformer, table)
            for name in points
            if f"{_attention(name)}.hook_z" in table.points
        }
        axes = {name: point.axes for name, point in table.points.items()}
        return cls(points, heads, _final_layer(transformer, table), axes)

    def terms(self, point: str) -> list[str]:
        """Names of the terms whose sum is a point: the input of block 0 and all writes; for a write, the write itself.

        The terms of blocks.0.hook_resid_mid_attn are blocks.0.hook_resid_pre and blocks.0.hook_attn_out.

        Raises:
            KeyError: the point is neither a stream nor a write.
        """
        if point not in self.points:
            raise KeyError(
                f"got {point!r}, which is no sum{nearest(point, self.points)} · expected a stream"
                " (blocks.*.hook_resid_*) or a write (blocks.*.hook_*_out)"
            )
        if not is_stream(point):
            return [point]
        same_stream = [name for name in self.points if stream_of(name) == stream_of(point)]
        before = same_stream[: same_stream.index(point) + 1]
        return [same_stream[0], *(name for name in before if not is_stream(name))]

    def needs(self, point: str) -> list[str]:
        """Names of the points to cache for `attribute_to`.

        Raises:
            KeyError: see `terms`.
        """
        read = [point]
        for name in self.terms(point):
            read += self.heads[name].needs if name in self.heads else [name]
        return list(dict.fromkeys(read))

    def needs_of_velocity(self) -> list[str]:
        """Names of the points to cache for `velocity_attrs`."""
        last = [name for name in self.points if stream_of(name) == "" and is_stream(name)][-1]
        return [*self.needs(last), *(name for name in self.axes if name.startswith("final.")), "hook_velocity"]


def is_stream(name: str) -> bool:
    """Whether a point is a stream and not a write."""
    return name.rpartition(".")[2].startswith(STREAM)


def block_of(name: str) -> int:
    """The block of a point, such as 3 for blocks.3.hook_attn_out."""
    return int(name.split(".")[1])


def stream_of(name: str) -> str:
    """The stream of a point in a block: "" for video, else "text" or "audio"."""
    return ".".join(name.split(".")[2:-1])


def layer_of(name: str) -> str:
    """The layer of a write, such as "attn" for blocks.3.hook_attn_out."""
    return name.rpartition(".")[2].removeprefix("hook_").removesuffix(WRITE)


def _streams(names: list[str]) -> tuple[str, ...]:
    """Streams and writes among all names, in their order."""
    homes = {name.removesuffix(f".{ENTRY}") for name in names if name.endswith(f".{ENTRY}")}

    def of_streams() -> Iterator[str]:
        for name in names:
            home, _, short = name.rpartition(".")
            if home in homes and (short.startswith(STREAM) or short.endswith(WRITE)):
                yield name

    return tuple(of_streams())


def _attention(write: str) -> str:
    """The name that the attention of a write would have: "blocks.3.attn" for blocks.3.hook_attn_out."""
    return f"{write.rpartition('.')[0]}.{layer_of(write)}"


def _head_write(name: str, transformer: nn.Module, table: Table) -> HeadWrite:
    home, attention, layer = name.rpartition(".")[0], _attention(name), layer_of(name)
    gates = f"{home}.mod.hook_gate_{layer}", f"{home}.mod.hook_gate", f"blocks.{block_of(name)}.mod.hook_gate"
    gate = next((gate for gate in gates if gate in table.points), None)
    mixes = {"": f"{attention}.hook_z", "img": f"{attention}.img.hook_z"}
    mixes = {source: z for source, z in mixes.items() if z in table.points}
    normed = table.normed_writes
    raw = None if normed is None else f"{attention}.hook_raw_out"
    *_, projected, _ = table.points[f"{attention}.hook_result"].sites  # the projection's input and output
    return HeadWrite(mixes, gate, raw, normed or 0.0, *_frozen(transformer.get_submodule(projected.path)))


def _final_layer(transformer: nn.Module, table: Table) -> FinalLayer | None:
    if (final := table.final) is None:
        return None
    modules: list[Any] = [transformer.get_submodule(path) for path in final.norms]
    norms = tuple(Norm(*_frozen(module), module.eps) for module in modules)
    return FinalLayer(norms, *_frozen(transformer.get_submodule(final.projection)), final.token, final.patch)


def _frozen(module: Any) -> tuple[Any, Any]:
    """Weight and bias, detached from the graph."""
    weight, bias = (None if x is None else x.detach() for x in (module.weight, module.bias))
    return weight, bias
