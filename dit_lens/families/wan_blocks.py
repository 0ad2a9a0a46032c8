"""Hook points of a block of Wan, and of SkyReels-V2, which is built like it.

The local variables `hidden_states_{0,1,2}` of the block's forward are the stream after self-attention, cross-attention
and MLP; an edit of one reaches all later layers. Self-attention and MLP add their output times a gate from the block's
modulation (adaLN) to the stream, in float32.

With image tokens, cross-attention has one softmax over text and another over the image; the two z are summed before the
output projection. `cross_attn.hook_z` is of text, `cross_attn.img.hook_z` of the image, and
`cross_attn.hook_result` what each head writes from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dit_lens.families.parts import (
    Attention,
    added,
    argument,
    mixing,
    mixing_law,
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
MODULATION = argument("temb", 2)
ABSENT = {
    "blocks.*.cross_attn.hook_rot_q": "no rotary: see hook_q",
    "blocks.*.cross_attn.hook_rot_k": "no rotary: see hook_k",
    "blocks.*.mod.hook_*_cross_attn": "cross-attention is neither modulated nor gated",
    "blocks.*.text.*": "text is read by cross-attention; there is no text stream",
}
NO_IMAGE = {"blocks.*.cross_attn.img.*": "conditioned on text alone, no image"}


def absent(transformer: Any) -> dict[str, str]:
    """The reasons why some hook point names are absent in a transformer, by glob."""
    return ABSENT if transformer.config["added_kv_proj_dim"] else ABSENT | NO_IMAGE


@dataclass(frozen=True)
class Block:
    """The modules and names of one block.

    Attributes:
        path: the module path.
        module: the module.
        rows: the axis of the block's time embedding along which the six modulations lie.
    """

    path: str
    module: Any
    rows: int

    @property
    def inputs(self) -> Site:
        """The site of the block's inputs."""
        return Site(self.path, "inputs")

    @property
    def attentions(self) -> dict[str, Attention]:
        """Self-attention and cross-attention."""
        self_attention, cross = self.module.attn1, self.module.attn2
        return {
            "attn": Attention(f"{self.path}.attn", f"{self.path}.attn1", self_attention, self_attention.heads),
            "cross": Attention(f"{self.path}.cross_attn", f"{self.path}.attn2", cross, cross.heads, keys="m"),
        }

    @property
    def sees_images(self) -> bool:
        """Whether cross-attention has keys of image tokens."""
        return self.module.attn2.add_k_proj is not None

    def sites(self) -> dict[str, Site]:
        """Sites in forward order, by short names."""
        path, sites = self.path, {"inputs": self.inputs}
        for name, after in (("attn", "hidden_states_0"), ("cross", "hidden_states_1")):
            sites |= self._attention_sites(name) | {f"{name}_after": Site(path, "local", after)}
        return sites | {
            "mlp_pre": Site(f"{path}.ffn.net.0.proj", "output"),
            "mlp_post": Site(f"{path}.ffn.net.2", "input"),
            "mlp_out": Site(f"{path}.ffn", "output"),
            "mlp_after": Site(path, "local", "hidden_states_2"),
            "output": Site(path, "output"),
        }

    def _attention_sites(self, name: str) -> dict[str, Site]:
        attention = self.attentions[name]
        path, image = attention.path, name == "cross" and self.sees_images
        sites = {
            "processor": attention.processor,
            "v": Site(f"{path}.to_v", "output"),
            "q": Site(f"{path}.norm_q", "output"),
            "k": Site(f"{path}.norm_k", "output"),
        }
        if image:
            sites |= {
                "img_v": Site(f"{path}.add_v_proj", "output"),
                "img_k": Site(f"{path}.norm_added_k", "output"),
                "img_z": Site(path, "processor_local", "dispatch_attention_fn_0"),
            }
        sites |= {
            "call": attention.call,
            "mixed": attention.mixed,
            "z": Site(f"{path}.to_out.0", "input"),
            "out": Site(path, "output"),
        }
        return {f"{name}_{short}": site for short, site in sites.items()}

    def points(self, sites: Mapping[str, Site]) -> list[HookPoint]:
        """Hook points in forward order."""
        path = self.path
        return [
            point(f"{path}.hook_resid_pre", "b n d", sites["inputs"], argument("hidden_states", 0)),
            *(self._modulation_point(name) for name in MODULATIONS),
            *self._attention_points(sites, "attn"),
            self._gated("attn", sites),
            point(f"{path}.hook_resid_mid_attn", "b n d", sites["attn_after"]),
            *self._attention_points(sites, "cross"),
            point(f"{path}.hook_cross_attn_out", "b n d", sites["cross_out"]),
            point(f"{path}.hook_resid_mid_cross_attn", "b n d", sites["cross_after"]),
            point(f"{path}.mlp.hook_pre", "b n d_mlp", sites["mlp_pre"]),
            point(f"{path}.mlp.hook_post", "b n d_mlp", sites["mlp_post"]),
            self._gated("mlp", sites),
            point(f"{path}.hook_resid_post", "b n d", sites["output"]),
        ]

    def laws(self, sites: Mapping[str, Site]) -> list[HookPoint]:
        """The laws of the block's attentions."""
        stated: list[HookPoint] = []
        for short, attention in self.attentions.items():
            ends = sites[f"{short}_z"], sites[f"{short}_out"]
            stated.append(pattern_law(attention))
            stated.append(result_law(attention.name, *ends, self._projection(short), attention.heads))
        if self.sees_images:
            stated.append(mixing_law(self._image_pattern(sites), self._image_operands))
        return stated

    def _projection(self, short: str) -> nn.Linear:
        return (self.module.attn1 if short == "attn" else self.module.attn2).to_out[0]

    def _gated(self, short: str, sites: Mapping[str, Site]) -> HookPoint:
        def read(inputs: tuple, raw: Tensor) -> Tensor:
            gate = self._modulation(MODULATION.get(inputs), f"gate_{short}")
            return raw.float() * (gate.unsqueeze(1) if gate.ndim == 2 else gate)

        before = sites["inputs"], sites[f"{short}_out"]
        return added(f"{self.path}.hook_{short}_out", before, read, sites[f"{short}_after"])

    def _attention_points(self, sites: Mapping[str, Site], short: str) -> list[HookPoint]:
        attention = self.attentions[short]
        split = split_heads(attention.heads)
        keys, queries = f"b {attention.keys} k e", f"b {attention.queries} k e"

        def spelled(letter: str, axes: str) -> HookPoint:
            return point(f"{attention.name}.hook_{letter}", axes, sites[f"{short}_{letter}"], split)

        image, z = [], [spelled("z", queries)]
        if short == "cross" and self.sees_images:
            image = self._image_points(sites)
            z = [point(f"{attention.name}.hook_z", queries, attention.mixed, before=(attention.processor,))]
        ends = sites[f"{short}_z"], sites[f"{short}_out"]
        return [
            *(spelled("v", keys), spelled("q", queries), spelled("k", keys)),
            *image,
            *(rotated(attention) if short == "attn" else ()),
            pattern(attention),
            *z,
            *results(attention.name, *ends, self._projection(short), attention.heads),
        ]

    def _image_points(self, sites: Mapping[str, Site]) -> list[HookPoint]:
        name, split = f"{self.path}.cross_attn.img", split_heads(self.module.attn2.heads)
        return [
            point(f"{name}.hook_v", "b m k e", sites["cross_img_v"], split),
            point(f"{name}.hook_k", "b m k e", sites["cross_img_k"], split),
            self._image_pattern(sites),
            point(f"{name}.hook_z", "b n k e", sites["cross_img_z"], before=(sites["cross_processor"],)),
        ]

    def _image_pattern(self, sites: Mapping[str, Site]) -> HookPoint:
        named = tuple(sites[f"cross_{short}"] for short in ("processor", "q", "img_v", "img_k", "img_z"))
        return mixing(f"{self.path}.cross_attn.img.hook_pattern", "b k n m", named, self._image_operands)

    def _image_operands(self, processor: Any, q: Tensor, v: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        split = split_heads(self.module.attn2.heads)
        return split.get(q), split.get(k), split.get(v), None

    def _modulation_point(self, name: str) -> HookPoint:
        """The hook point of a shift, scale or gate, (b, d) or (b, n, d); an edit changes the block's time embedding."""

        def write(new: Tensor, old: Tensor, values: tuple) -> tuple:
            embedding = MODULATION.get(values).clone()
            embedding.select(self.rows, MODULATIONS.index(name)).add_(new - old)
            return MODULATION.put(embedding, values)

        def read(values: tuple) -> Tensor:
            return self._modulation(MODULATION.get(values), name)

        return HookPoint(f"{self.path}.mod.hook_{name}", "b d", (self.inputs,), read, write)

    def _modulation(self, embedding: Tensor, name: str) -> Float[Tensor, "b *n d"]:
        """A modulation in float32: a row of the block's table plus its part of the time embedding."""
        index = MODULATIONS.index(name)
        return self.module.scale_shift_table[:, index] + embedding.select(self.rows, index).float()
