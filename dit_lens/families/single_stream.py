"""Blocks of one stream that is written to layer by layer: self-attention, cross-attention to text, MLP.

Time shifts, scales and gates self-attention and MLP by a table of the block's own plus what the block is told (PixArt's
adaLN-single). All writes are in the model's own arithmetic: stream + write is the next stream, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dit_lens.families.dual_stream import Spelled, in_order
from dit_lens.families.parts import (
    Attention,
    Part,
    added,
    argument,
    heads_first,
    pattern,
    pattern_law,
    point,
    result_law,
    results,
    rotated,
    split_heads,
)
from dit_lens.hook_points import HookPoint, Site

MODULATIONS = ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp")
TOLD = argument("temb")
ABSENT = {
    "blocks.*.text.*": "text is read by cross-attention: there is no text stream",
    "blocks.*.cross_attn.hook_rot_[qk]": "no rotary: see hook_q and hook_k",
}


@dataclass(frozen=True)
class Block:
    """How a block is spelled.

    Attributes:
        home: "blocks.3".
        path: of the module.
        module: the block, whose `scale_shift_table` (6, d) is added to what it is told of time.
        told: its argument (b, 6 d) of time.
    """

    home: str
    path: str
    module: Any
    told: Part = TOLD

    @property
    def inputs(self) -> Site:
        """What the block is called with."""
        return Site(self.path, "inputs")

    def spelled(self, attention: str, cross_attention: str, mlp: str) -> Spelled:
        """Its sites, points and laws; the arguments name the local variables that hold the stream after each layer."""
        own, end = self.inputs, Site(self.path, "output")
        layers = [
            self._attention("attn", "attn1", "n", attention),
            self._attention("cross_attn", "attn2", "m", cross_attention),
            self._mlp(mlp),
        ]
        sites = (own, *(site for layer in layers for site in layer.sites), end)
        points = [
            point(f"{self.home}.hook_resid_pre", "b n d", own, argument("hidden_states", 0)),
            *(self._modulation(name) for name in MODULATIONS),
            *(point for layer in layers for point in layer.points),
            point(f"{self.home}.hook_resid_post", "b n d", end),
        ]
        return Spelled(sites, in_order(points, sites), [law for layer in layers for law in layer.laws])

    def value(self, inputs: tuple, name: str) -> Float[Tensor, "b d"]:
        """A shift, scale or gate."""
        index = MODULATIONS.index(name)
        return self.module.scale_shift_table[index] + self.told.get(inputs).chunk(6, -1)[index]

    def _modulation(self, name: str) -> HookPoint:
        """The same as a hook point; written into what the block is told of time."""

        def write(new: Tensor, old: Tensor, inputs: tuple) -> tuple:
            told = self.told.get(inputs).clone()
            told.chunk(6, -1)[MODULATIONS.index(name)].add_(new - old)
            return self.told.put(told, inputs)

        def read(inputs: tuple) -> Tensor:
            return self.value(inputs, name)

        return HookPoint(f"{self.home}.mod.hook_{name}", "b d", (self.inputs,), read, write)

    def _gated(self, name: str, out: Site, after: Site) -> HookPoint:
        def read(inputs: tuple, raw: Tensor) -> Tensor:
            return raw * self.value(inputs, f"gate_{name}").unsqueeze(1)

        return added(f"{self.home}.hook_{name}_out", (self.inputs, out), read, after)

    def _attention(self, short: str, path: str, keys: str, label: str) -> Spelled:
        module = getattr(self.module, path)
        attention = Attention(
            f"{self.home}.{short}", f"{self.path}.{path}", module, module.heads, keys=keys, inside=heads_first
        )
        sites = {letter: Site(f"{attention.path}.to_{letter}", "output") for letter in "qkv"}
        z, out = Site(f"{attention.path}.to_out.0", "input"), Site(attention.path, "output")
        after = Site(self.path, "local", label)
        written = f"{self.home}.hook_{short}_out"
        points = [
            *_projected(attention, sites),
            *(rotated(attention) if short == "attn" else ()),
            pattern(attention),
            point(f"{attention.name}.hook_z", "b n k e", z, split_heads(attention.heads)),
            *results(attention.name, z, out, module.to_out[0], attention.heads),
            self._gated(short, out, after) if short == "attn" else point(written, "b n d", out),
            point(f"{self.home}.hook_resid_mid_{short}", "b n d", after),
        ]
        laws = [pattern_law(attention), result_law(attention.name, z, out, module.to_out[0], attention.heads)]
        places = (attention.processor, *sites.values(), attention.call, attention.mixed, z, out, after)
        return Spelled(places, points, laws)

    def _mlp(self, label: str) -> Spelled:
        path = f"{self.path}.ff"
        pre, post, out = Site(f"{path}.net.0.proj", "output"), Site(f"{path}.net.2", "input"), Site(path, "output")
        after = Site(self.path, "local", label)
        points = [
            point(f"{self.home}.mlp.hook_pre", "b n d_mlp", pre),
            point(f"{self.home}.mlp.hook_post", "b n d_mlp", post),
            self._gated("mlp", out, after),
        ]
        return Spelled((pre, post, out, after), points, [])


def _projected(attention: Attention, sites: Mapping[str, Site]) -> list[HookPoint]:
    axis = {"q": attention.queries, "k": attention.keys, "v": attention.keys}
    split = split_heads(attention.heads)
    return [
        point(f"{attention.name}.hook_{letter}", f"b {axis[letter]} k e", site, split) for letter, site in sites.items()
    ]
