"""How a model's streams are put together: names in order, output projections, gates, the last layer. No model.

A write of attention is gate · (Σ_k W_k z_k + bias), so what a head writes follows from its mix z, its slice of the
output projection and the gate. Names follow the vocabulary: of the write `blocks.3.hook_attn_out`, z is
`blocks.3.attn.hook_z` and the gate `blocks.3.mod.hook_gate_attn`, or `hook_gate` where layers share one.
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
    """A write that heads make together.

    Attributes:
        z: names of the heads' mixes, by what they attend to: "" mostly, and "img" where image keys have a softmax of
            their own. The projection takes their sum.
        gate: name of the gate; None where there is none.
        raw: name of the ungated output, where it passes an RMS norm before the gate.
        epsilon: of that norm.
        weight, bias: of the output projection; where its width is more than that of z, z comes first and the bias
            belongs to the MLP (parallel blocks).
    """

    z: Mapping[str, str]
    gate: str | None
    raw: str | None
    epsilon: float
    weight: Float[Tensor, "d w"]
    bias: Float[Tensor, " d"] | None

    @property
    def needs(self) -> list[str]:
        """Names of the points it is worked out from."""
        return [name for name in (*self.z.values(), self.gate, self.raw) if name is not None]


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm."""

    weight: Float[Tensor, " d"] | None
    bias: Float[Tensor, " d"] | None
    epsilon: float


@dataclass(frozen=True, eq=False)
class FinalLayer:
    """What makes the velocity of the last stream; see `hook_points.Final`."""

    norms: tuple[Norm, ...]
    weight: Float[Tensor, "p d"]
    bias: Float[Tensor, " p"] | None
    token: str
    patch: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """How the streams of a model are put together.

    Attributes:
        points: the streams and what is written to them, in forward order.
        heads: writes that heads make, by name.
        final: what follows the last block; None where its family does not state it.
        axes: letters of the axes of every point.
    """

    points: tuple[str, ...]
    heads: Mapping[str, HeadWrite]
    final: FinalLayer | None
    axes: Mapping[str, str]

    @classmethod
    def of(cls, transformer: nn.Module, table: Table) -> Anatomy:
        """That of a transformer; it refers to its weights and copies none."""
        points = _streams(list(table.points))
        heads = {
            name: _head_write(name, transformer, table)
            for name in points
            if f"{_attention(name)}.hook_z" in table.points
        }
        axes = {name: point.axes for name, point in table.points.items()}
        return cls(points, heads, _final_layer(transformer, table), axes)

    def terms(self, point: str) -> list[str]:
        """Names of what adds up to a point: of a stream what enters block 0 and all writes; a write is its own.

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
        own = [name for name in self.points if stream_of(name) == stream_of(point)]
        before = own[: own.index(point) + 1]
        return [own[0], *(name for name in before if not is_stream(name))]

    def needs(self, point: str) -> list[str]:
        """Names of the points that `attribute_to` reads: what to cache for it.

        Raises:
            KeyError: see `terms`.
        """
        read = [point]
        for name in self.terms(point):
            read += self.heads[name].needs if name in self.heads else [name]
        return list(dict.fromkeys(read))

    def needs_of_velocity(self) -> list[str]:
        """Names of the points that `velocity_attrs` reads."""
        last = [name for name in self.points if stream_of(name) == "" and is_stream(name)][-1]
        return [*self.needs(last), *(name for name in self.axes if name.startswith("final.")), "hook_velocity"]


def is_stream(name: str) -> bool:
    """Whether a name is that of a stream, not of a write."""
    return name.rpartition(".")[2].startswith(STREAM)


def block_of(name: str) -> int:
    """The block of a point, such as 3 of blocks.3.hook_attn_out."""
    return int(name.split(".")[1])


def stream_of(name: str) -> str:
    """Which stream a point of a block belongs to: "" is video, "text" or "audio" beside it."""
    return ".".join(name.split(".")[2:-1])


def layer_of(name: str) -> str:
    """Which layer writes: "attn" of blocks.3.hook_attn_out."""
    return name.rpartition(".")[2].removeprefix("hook_").removesuffix(WRITE)


def _streams(names: list[str]) -> tuple[str, ...]:
    """Streams and writes among all names, in their order."""
    homes = {name.removesuffix(f".{ENTRY}") for name in names if name.endswith(f".{ENTRY}")}

    def kept() -> Iterator[str]:
        for name in names:
            home, _, short = name.rpartition(".")
            if home in homes and (short.startswith(STREAM) or short.endswith(WRITE)):
                yield name

    return tuple(kept())


def _attention(write: str) -> str:
    """The attention that would make a write: "blocks.3.attn" of blocks.3.hook_attn_out."""
    return f"{write.rpartition('.')[0]}.{layer_of(write)}"


def _head_write(name: str, transformer: nn.Module, table: Table) -> HeadWrite:
    home, attention, layer = name.rpartition(".")[0], _attention(name), layer_of(name)
    gates = f"{home}.mod.hook_gate_{layer}", f"{home}.mod.hook_gate", f"blocks.{block_of(name)}.mod.hook_gate"
    gate = next((gate for gate in gates if gate in table.points), None)
    mixes = {"": f"{attention}.hook_z", "img": f"{attention}.img.hook_z"}
    mixes = {source: z for source, z in mixes.items() if z in table.points}
    normed = table.normed_writes
    raw = None if normed is None else f"{attention}.hook_raw_out"
    *_, projected, _ = table.points[f"{attention}.hook_result"].sites  # what the projection takes, and puts out
    return HeadWrite(mixes, gate, raw, normed or 0.0, *_frozen(transformer.get_submodule(projected.path)))


def _final_layer(transformer: nn.Module, table: Table) -> FinalLayer | None:
    if (final := table.final) is None:
        return None
    modules: list[Any] = [transformer.get_submodule(path) for path in final.norms]
    norms = tuple(Norm(*_frozen(module), module.eps) for module in modules)
    return FinalLayer(norms, *_frozen(transformer.get_submodule(final.projection)), final.token, final.patch)


def _frozen(module: Any) -> tuple[Any, Any]:
    """Weight and bias without their gradients."""
    weight, bias = (None if x is None else x.detach() for x in (module.weight, module.bias))
    return weight, bias
