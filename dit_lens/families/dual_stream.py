"""Hook points of dual-stream blocks (video and text, joint attention) of HunyuanVideo and HunyuanVideo 1.5.

Video tokens come first in the joint sequence. The local variables `hidden_states_{0,1}` and
`encoder_hidden_states_{0,1}` of the block's forward are the streams after attention and after the MLP. All writes are
in the model's own dtype: stream + write equals the next stream, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dit_lens.families.parts import (
    Attention,
    added,
    among,
    argument,
    item,
    pattern,
    pattern_law,
    point,
    result_law,
    results,
    rotated,
    section,
    split_heads,
)
from dit_lens.hook_points import HookPoint, Site

MODULATIONS = ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp")
ABSENT = {
    "blocks.*cross_attn*": "text is read by joint attention: see attn and text.*",
    "blocks.*.text.attn.hook_rot_*": "rotary turns video tokens only: see text.attn.hook_q and hook_k",
}


@dataclass(frozen=True)
class Stream:
    """The modules and names of one stream of a block.

    Attributes:
        prefix: the prefix of its hook point names, "" or "text.".
        letter: the letter of its token axis.
        position: its index among the arguments and the outputs of a block.
        name: its name as an argument.
        norm, projections, out, mlp: module names in a dual-stream block; the projections are of value, query and key.
    """

    prefix: str
    letter: str
    position: int
    name: str
    norm: str
    projections: tuple[str, str, str]
    out: str
    mlp: str

    def tokens(self, inputs: tuple) -> slice:
        """The slice of its tokens in the joint sequence, from the inputs of a block."""
        text = argument(TEXT.name, TEXT.position).get(inputs).shape[1]
        return slice(-text, None) if self is TEXT else slice(None, -text)

    def resid_pre(self, block: str, inputs: Site) -> HookPoint:
        """The stream before the block."""
        part = argument(self.name, self.position)
        return point(f"{block}.{self.prefix}hook_resid_pre", f"b {self.letter} d", inputs, part)

    def resid_post(self, block: str, output: Site) -> HookPoint:
        """The stream after the block."""
        return point(f"{block}.{self.prefix}hook_resid_post", f"b {self.letter} d", output, item(self.position))

    def sites(self, path: str) -> dict[str, Site]:
        """The sites of this stream in a dual-stream block, by short names."""
        value, query, key = self.projections
        return {
            "mod": Site(f"{path}.{self.norm}.linear", "output"),
            "v": Site(f"{path}.attn.{value}", "output"),
            "q": Site(f"{path}.attn.{query}", "output"),
            "k": Site(f"{path}.attn.{key}", "output"),
            "z": Site(f"{path}.attn.{self.out}", "input"),
            "out": Site(f"{path}.attn.{self.out}", "output"),
            "mid": Site(path, "local", f"{self.name}_0"),
            "mlp_pre": Site(f"{path}.{self.mlp}.net.0.proj", "output"),
            "mlp_post": Site(f"{path}.{self.mlp}.net.2", "input"),
            "mlp_out": Site(f"{path}.{self.mlp}", "output"),
            "after": Site(path, "local", f"{self.name}_1"),
        }


VIDEO = Stream("", "n", 0, "hidden_states", "norm1", ("to_v", "norm_q", "norm_k"), "to_out.0", "ff")
TEXT = Stream(
    "text.",
    "m",
    1,
    "encoder_hidden_states",
    "norm1_context",
    ("add_v_proj", "norm_added_q", "norm_added_k"),
    "to_add_out",
    "ff_context",
)
STREAMS = (VIDEO, TEXT)


@dataclass(frozen=True)
class Spelled:
    """Sites, hook points and laws of a block, each in forward order."""

    sites: Sequence[Site]
    points: Sequence[HookPoint]
    laws: Sequence[HookPoint]


def dual_block(name: str, path: str, block: Any) -> Spelled:
    """The hook points of a dual-stream block; `name` is such as "blocks.0", `path` its module path."""
    attention = Attention(f"{name}.attn", f"{path}.attn", block.attn, block.attn.heads, "n+m", "n+m")
    inputs, output = Site(path, "inputs"), Site(path, "output")
    by_stream = [stream.sites(path) for stream in STREAMS]

    def of_both(*stages: str) -> list[Site]:
        return [sites[stage] for sites in by_stream for stage in stages]

    sites = (
        inputs,
        *of_both("mod"),
        attention.processor,
        *of_both("v", "q", "k"),
        attention.call,
        attention.mixed,
        *of_both("z", "out"),
        *of_both("mid"),
        *of_both("mlp_pre", "mlp_post", "mlp_out"),
        *of_both("after"),
        output,
    )
    points, laws = [], [pattern_law(attention)]
    for stream, named in zip(STREAMS, by_stream, strict=True):
        projection = block.attn.get_submodule(stream.out)
        laws.append(result_law(f"{name}.{stream.prefix}attn", named["z"], named["out"], projection, attention.heads))
        points += [
            stream.resid_pre(name, inputs),
            *modulation(f"{name}.{stream.prefix}mod", named["mod"], MODULATIONS, block),
            *_attention_points(name, stream, named, attention),
            *joint_points(stream, attention, inputs),
            *_write_points(name, stream, named, block),
            stream.resid_post(name, output),
        ]
    return Spelled(sites, in_order(points, sites), laws)


def in_order(points: Iterable[HookPoint], sites: Sequence[Site]) -> list[HookPoint]:
    """The points in the order in which the forward completes them."""
    return sorted(points, key=lambda point: sites.index(point.sites[-1]))


def modulation(name: str, site: Site, names: Sequence[str], block: Any) -> list[HookPoint]:
    """Shifts, scales and gates (b, d): equal slices of the output of the modulation's linear layer."""
    width = block.attn.query_dim
    return [
        point(f"{name}.hook_{short}", "b d", site, section(i * width, (i + 1) * width)) for i, short in enumerate(names)
    ]


def joint_points(stream: Stream, attention: Attention, inputs: Site) -> list[HookPoint]:
    """`hook_rot_q` and `hook_rot_k` of video tokens; `hook_pattern` from the stream's queries to all keys."""
    renamed = replace(attention, name=attention.name.replace(".attn", f".{stream.prefix}attn"), queries=stream.letter)
    pattern_rows = among(pattern(renamed), inputs, stream.tokens, stream.letter, axis=2)
    rotary = rotated(renamed) if stream is VIDEO else []
    return [*(among(point, inputs, stream.tokens, stream.letter) for point in rotary), pattern_rows]


def _attention_points(name: str, stream: Stream, sites: Mapping[str, Site], attention: Attention) -> list[HookPoint]:
    """Hook points of the stream's own projections: value, query, key, z and output."""
    home, split = f"{name}.{stream.prefix}attn", split_heads(attention.heads)
    projection: Any = attention.module.get_submodule(stream.out)
    axes = f"b {stream.letter} k e"
    return [
        point(f"{home}.hook_v", axes, sites["v"], split),
        point(f"{home}.hook_q", axes, sites["q"]),
        point(f"{home}.hook_k", axes, sites["k"]),
        point(f"{home}.hook_z", axes, sites["z"], split),
        *results(home, sites["z"], sites["out"], projection, attention.heads, stream.letter),
    ]


def _write_points(name: str, stream: Stream, sites: Mapping[str, Site], block: Any) -> list[HookPoint]:
    """Hook points of what attention and MLP add to the stream, the stream between them, and the MLP's hidden layer."""
    home, axes, width = f"{name}.{stream.prefix}", f"b {stream.letter} d", block.attn.query_dim

    def gated(short: str, out: str, after: str, gate: str) -> HookPoint:
        first = MODULATIONS.index(gate) * width
        part = section(first, first + width)

        def read(mod: Tensor, raw: Tensor) -> Tensor:
            return raw * part.get(mod).unsqueeze(1)

        return added(f"{home}{short}", (sites["mod"], sites[out]), read, sites[after], axes=axes)

    hidden = f"b {stream.letter} d_mlp"
    return [
        gated("hook_attn_out", "out", "mid", "gate_attn"),
        point(f"{home}hook_resid_mid_attn", axes, sites["mid"]),
        point(f"{home}mlp.hook_pre", hidden, sites["mlp_pre"]),
        point(f"{home}mlp.hook_post", hidden, sites["mlp_post"]),
        gated("hook_mlp_out", "mlp_out", "after", "gate_mlp"),
    ]
