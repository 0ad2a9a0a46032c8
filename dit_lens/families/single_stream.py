"""Hook points of blocks with one residual stream: self-attention, cross-attention to text and MLP write in turn.

Shifts, scales and gates of self-attention and MLP are the block's own table plus the time embedding that the block gets
as an argument (PixArt's adaLN-single). All writes are in the model's own dtype: stream + write equals the next stream,
to the bit.
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
TEMB = argument("temb")
ABSENT = {
    "blocks.*.text.*": "text is read by cross-attention: there is no text stream",
    "blocks.*.cross_attn.hook_rot_[qk]": "no rotary: see hook_q and hook_k",
}


@dataclass(frozen=True)
class Block:
    """The modules and names of one block.

    Attributes:
        home: the prefix of its hook point names, such as "blocks.3".
        path: the module path.
        module: the block, whose `scale_shift_table` (6, d) is added to the time embedding.
        embedding: the block's argument that holds the time embedding (b, 6 d).
    """

    home: str
    path: str
    module: Any
    embedding: Part = TEMB

    @property
    def inputs(self) -> Site:
        """The site of the block's inputs."""
        return Site(self.path, "inputs")

    def spelled(self, attention: str, cross_attention: str, mlp: str) -> Spelled:
        """Sites, points and laws; the arguments name the local variables that hold the stream after each layer."""
        entry, end = self.inputs, Site(self.path, "output")
        layers = [
            self._attention("attn", "attn1", "n", attention),
            self._attention("cross_attn", "attn2", "m", cross_attention),
            self._mlp(mlp),
        ]
        sites = (entry, *(site for layer in layers for site in layer.sites), end)
        points = [
            point(f"{self.home}.hook_resid_pre", "b n d", entry, argument("hidden_states", 0)),
            *(self._modulation(name) for name in MODULATIONS),
            *(point for layer in layers for point in layer.points),
            point(f"{self.home}.hook_resid_post", "b n d", end),
        ]
        return Spelled(sites, in_order(points, sites), [law for layer in layers for law in layer.laws])

    def value(self, inputs: tuple, name: str) -> Float[Tensor, "b d"]:
        """The shift, scale or gate of a name."""
        index = MODULATIONS.index(name)
        return self.module.scale_shift_table[index] + self.embedding.get(inputs).chunk(6, -1)[index]

    def _modulation(self, name: str) -> HookPoint:
        """The hook point of a shift, scale or gate; an edit changes the block's time embedding."""

        def write(new: Tensor, old: Tensor, inputs: tuple) -> tuple:
            embedding = self.embedding.get(inputs).clone()
            embedding.chunk(6, -1)[MODULATIONS.index(name)].add_(new - old)
            return self.embedding.put(embedding, inputs)

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
