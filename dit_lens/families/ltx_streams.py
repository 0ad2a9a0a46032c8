"""Hook points of the layers of LTX-Video and LTX-2 blocks, which read and write one or two residual streams.

A layer (attention or MLP) reads a norm of the stream, shifted and scaled, and adds its output times a gate. The local
variables `hidden_states_{i}` of a block's forward are the stream after layer i; writing one reaches every later reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens.families.parts import (
    Attention,
    added,
    argument,
    pattern,
    pattern_law,
    point,
    read_only,
    result_law,
    results,
    rotated,
    split_heads,
    upcast,
)
from dit_lens.hook_points import HookPoint, Site


@dataclass(frozen=True)
class Modulation:
    """A shift, scale or gate: a row of the block's table plus a chunk of the block's time embedding argument.

    Attributes:
        block: the module that has the table.
        table: the name of the table.
        row: the row of the table.
        embedding: the name of the block's argument that holds the time embedding, (b, 1 or n, parts * d).
        part, parts: index of the chunk, and the number of chunks.
    """

    block: nn.Module
    table: str
    row: int
    embedding: str
    part: int
    parts: int

    def value(self, inputs: tuple) -> Float[Tensor, "b t d"]:
        """The modulation in the model's own dtype; t is 1, or n with one timestep per token."""
        chunks = argument(self.embedding).get(inputs).unflatten(-1, (self.parts, -1))
        return getattr(self.block, self.table)[self.row] + chunks[..., self.part, :]

    def point(self, name: str, inputs: Site) -> HookPoint:
        """The modulation's hook point, (b, d), or (b, n, d) by token; an edit changes the block's time embedding."""

        def read(values: tuple) -> Tensor:
            value = self.value(values)
            return value.squeeze(1) if value.shape[1] == 1 else value

        def write(new: Tensor, old: Tensor, values: tuple) -> tuple:
            embedding = argument(self.embedding).get(values).clone()
            chunks = embedding.unflatten(-1, (self.parts, -1))
            chunks[..., self.part, :] += (new - old).view_as(chunks[..., self.part, :])
            return argument(self.embedding).put(embedding, values)

        return HookPoint(name, "b d", (inputs,), read, write)


def modulations(
    block: nn.Module, table: str, embedding: str, names: tuple[str, ...], first: int = 0
) -> dict[str, Modulation]:
    """Modulations by name, in consecutive rows of the table from row `first`."""
    return {name: Modulation(block, table, first + i, embedding, i, len(names)) for i, name in enumerate(names)}


@dataclass(frozen=True)
class Layer:
    """Sites and hook points of a layer in forward order, and the laws of its attention."""

    sites: tuple[Site, ...]
    points: list[HookPoint]
    laws: list[HookPoint] = field(default_factory=list)


@dataclass(frozen=True)
class Stream:
    """One residual stream in a block.

    Attributes:
        home: the prefix of its hook point names, such as "blocks.3".
        path: the module path of the block.
        block: the module.
        modulation: shifts, scales and gates by name, such as "gate_attn".
        prefix: the prefix of the block's modules, arguments and local variables of this stream.
        token: the letter of its token axis.
    """

    home: str
    path: str
    block: Any
    modulation: Mapping[str, Modulation]
    prefix: str = ""
    token: str = "n"

    @property
    def inputs(self) -> Site:
        """The site of the block's inputs."""
        return Site(self.path, "inputs")

    def after(self, index: int) -> Site:
        """The site of the stream after layer `index`."""
        return Site(self.path, "local", f"{self.prefix}hidden_states_{index}")

    def entry(self) -> list[HookPoint]:
        """Hook points of the stream before the first layer, and of the modulation of all layers."""
        stream = point(
            f"{self.home}.hook_resid_pre", f"b {self.token} d", self.inputs, argument(f"{self.prefix}hidden_states")
        )
        return [
            stream,
            *(m.point(f"{self.home}.mod.hook_{name}", self.inputs) for name, m in self.modulation.items()),
        ]

    def attention(self, name: str, module: str, index: int, keys: str | None = None, rotary: bool = True) -> Layer:
        """The attention layer `name` ("attn", "cross_attn", ...): its hook points, write, and the stream after it."""
        attended = getattr(self.block, module)
        attention = Attention(
            f"{self.home}.{name}", f"{self.path}.{module}", attended, attended.heads, self.token, keys or self.token
        )
        sites = _attention_sites(attention)
        points = _attention_points(attention, sites, rotary)
        written = self._written(name, sites["out"], index)
        middle = point(f"{self.home}.hook_resid_mid_{name}", f"b {self.token} d", self.after(index))
        laws = [
            pattern_law(attention),
            result_law(attention.name, sites["z"], sites["out"], attended.to_out[0], attention.heads),
            *([_head_gate_law(attention, sites)] if "head_gate" in sites else []),
        ]
        return Layer((*sites.values(), self.after(index)), [*points, written, middle], laws)

    def mlp(self, index: int) -> Layer:
        """The MLP layer; the stream after it is the block's output."""
        path = f"{self.path}.{self.prefix}ff"
        pre, post, out = Site(f"{path}.net.0.proj", "output"), Site(f"{path}.net.2", "input"), Site(path, "output")
        points = [
            point(f"{self.home}.mlp.hook_pre", f"b {self.token} d_mlp", pre),
            point(f"{self.home}.mlp.hook_post", f"b {self.token} d_mlp", post),
            self._written("mlp", out, index),
        ]
        return Layer((pre, post, out, self.after(index)), points)

    def _written(self, name: str, out: Site, index: int) -> HookPoint:
        """The hook point of a layer's write to the stream: its output, times a gate if it has one."""
        gate = self.modulation.get(f"gate_{name}")

        def read(inputs: tuple, raw: Tensor) -> Tensor:
            return raw if gate is None else raw * gate.value(inputs)

        name = f"{self.home}.hook_{name}_out"
        return added(name, (self.inputs, out), read, self.after(index), axes=f"b {self.token} d")


def _attention_sites(attention: Attention) -> dict[str, Site]:
    """Sites of an attention in forward order, by short names."""
    path = attention.path
    gated = getattr(attention.module, "to_gate_logits", None) is not None
    return {
        "processor": attention.processor,
        **({"head_gate": Site(f"{path}.to_gate_logits", "output")} if gated else {}),
        "v": Site(f"{path}.to_v", "output"),
        "q": Site(f"{path}.norm_q", "output"),
        "k": Site(f"{path}.norm_k", "output"),
        "call": attention.call,
        "mixed": attention.mixed,
        "z": Site(f"{path}.to_out.0", "input"),
        "out": Site(path, "output"),
    }


def _attention_points(attention: Attention, sites: Mapping[str, Site], rotary: bool) -> list[HookPoint]:
    axis = {"q": attention.queries, "k": attention.keys, "v": attention.keys, "z": attention.queries}

    def spelled(letter: str) -> HookPoint:
        name = f"{attention.name}.hook_{letter}"
        return point(name, f"b {axis[letter]} k e", sites[letter], split_heads(attention.heads))

    module: Any = attention.module
    return [
        *(spelled(letter) for letter in "vqk"),
        *(rotated(attention) if rotary else ()),
        pattern(attention),
        *([_head_gate(attention, sites)] if "head_gate" in sites else ()),
        spelled("z"),
        *results(attention.name, sites["z"], sites["out"], module.to_out[0], attention.heads, token=attention.queries),
    ]


def _head_gate(attention: Attention, sites: Mapping[str, Site]) -> HookPoint:
    """`hook_head_gate`: z = gate * softmax(q k) v of the head, gate in (0, 2); an edit is written as a change of z.

    Example: a logit of 0 gives gate 2·sigmoid(0) = 1. Where softmax(q k) v is 3, an edit to gate 0.5 adds
    (0.5 - 1)·3 = -1.5, so z = 3 becomes 1.5.
    """
    split = split_heads(attention.heads)

    def write(new: Tensor, old: Tensor, logits: Tensor, inside: Any, mixed: Tensor, raw: Tensor) -> Tensor:
        z = split.get(raw)
        change = (upcast(new) - upcast(old)).unsqueeze(-1) * upcast(mixed)
        return split.put((upcast(z) + change).type_as(z), raw)

    return HookPoint(
        f"{attention.name}.hook_head_gate",
        f"b {attention.queries} k",
        (sites["head_gate"], attention.processor, attention.mixed, sites["z"]),
        lambda logits, *_: 2 * logits.sigmoid(),
        write,
    )


def _head_gate_law(attention: Attention, sites: Mapping[str, Site]) -> HookPoint:
    """The law that gate times softmax(q k) v equals z."""
    gate, split = _head_gate(attention, sites), split_heads(attention.heads)

    def both(logits: Tensor, inside: Any, mixed: Tensor, raw: Tensor) -> Tensor:
        return torch.stack([gate.read(logits).unsqueeze(-1) * mixed, split.get(raw)])

    return read_only(f"{attention.name}: gate softmax(q k) v = z", "", gate.sites, both)
