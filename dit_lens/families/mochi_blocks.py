"""Hook points of a Mochi block: video and text are two streams with joint attention.

The local variables `hidden_states_0` and `encoder_hidden_states_0` of `MochiTransformerBlock.forward` are the streams
after attention; the calls `apply_rotary_emb_{0,1}` of the processor return rotated queries and keys of video.
The outputs of the norms `norm2` and `norm4` are the writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit_lens.families.parts import (
    argument,
    item,
    mixing,
    mixing_law,
    point,
    result_law,
    results,
    section,
    split_heads,
)
from dit_lens.hook_points import HookPoint, Site

MODULATIONS = ("scale_attn", "gate_attn", "scale_mlp", "gate_mlp")
PADDING = argument("encoder_attention_mask", 3)


@dataclass(frozen=True)
class Stream:
    """The modules and names of one stream of a block.

    Attributes:
        prefix: the prefix of its hook point names, "" or "text.".
        letter: the letter of its token axis.
        name: its name as an argument of a block.
        position: its index among the arguments and the outputs.
        suffix: the suffix of its norms and MLP.
        projections: module names of the value projection, the query and key norms, and the output projection.
    """

    prefix: str
    letter: str
    name: str
    position: int
    suffix: str
    projections: tuple[str, str, str, str]

    def sites(self, path: str, last: bool) -> dict[str, Site]:
        """The sites of this stream in a block, by short names; the last block uses only values and keys of text."""
        value, query, key, out = self.projections
        idle = last and self is TEXT
        read = {
            "mod": Site(f"{path}.norm1{self.suffix}.{'linear_1' if idle else 'linear'}", "output"),
            "v": Site(f"{path}.attn1.{value}", "output"),
            "k": Site(f"{path}.attn1.{key}", "output"),
        }
        if idle:
            return read
        return read | {
            "q": Site(f"{path}.attn1.{query}", "output"),
            "z": Site(f"{path}.attn1.{out}", "input"),
            "raw": Site(f"{path}.attn1.{out}", "output"),
            "attn_out": Site(f"{path}.norm2{self.suffix}", "output"),
            "mid": Site(path, "local", f"{self.name}_0"),
            "mlp_pre": Site(f"{path}.ff{self.suffix}.net.0.proj", "output"),
            "mlp_post": Site(f"{path}.ff{self.suffix}.net.2", "input"),
            "mlp_out": Site(f"{path}.norm4{self.suffix}", "output"),
        }


VIDEO = Stream("", "n", "hidden_states", 0, "", ("to_v", "norm_q", "norm_k", "to_out.0"))
TEXT = Stream(
    "text.",
    "m",
    "encoder_hidden_states",
    1,
    "_context",
    ("add_v_proj", "norm_added_q", "norm_added_k", "to_add_out"),
)


def spelled_block(name: str, path: str, block: Any) -> tuple[list[Site], list[HookPoint], list[HookPoint]]:
    """Sites, points and laws of a block in forward order; `name` is such as "blocks.0", `path` its module path."""
    inputs, processor, output = Site(path, "inputs"), Site(f"{path}.attn1", "processor"), Site(path, "output")
    video, text = (stream.sites(path, block.context_pre_only) for stream in (VIDEO, TEXT))
    for index, letter in enumerate("qk"):
        video[f"rot_{letter}"] = Site(f"{path}.attn1", "processor_local", f"apply_rotary_emb_{index}")

    def of_both(*stages: str) -> list[Site]:
        return [sites[stage] for sites in (video, text) for stage in stages if stage in sites]

    attention = [processor, *of_both("v", "q", "k"), *of_both("rot_q", "rot_k"), *of_both("z", "raw")]
    after = of_both("attn_out", "mid", "mlp_pre", "mlp_post", "mlp_out")
    sites = [inputs, *of_both("mod"), *attention, *after, output]
    points, laws = [], []
    for stream, named in ((VIDEO, video), (TEXT, text)):
        points += _reading(name, stream, named, inputs, block)
        if "z" in named:
            spelled, law = _pattern(name, stream, (inputs, processor), video, text, block.attn1.heads)
            projection = block.attn1.get_submodule(stream.projections[-1])
            ends = f"{name}.{stream.prefix}attn", named["z"], named["raw"], projection, block.attn1.heads
            points += [spelled, *results(*ends, stream.letter), *_writing(name, stream, named, output, block)]
            laws += [law, result_law(*ends)]
    return sites, sorted(points, key=lambda point: sites.index(point.sites[-1])), laws


def _reading(name: str, stream: Stream, sites: Mapping[str, Site], inputs: Site, block: Any) -> list[HookPoint]:
    """Hook points of the stream before the block, its modulation, and its values, queries and keys."""
    home, axes = f"{name}.{stream.prefix}", f"b {stream.letter} k e"
    norm = block.get_submodule(f"norm1{stream.suffix}")
    shorts = MODULATIONS if "z" in sites else MODULATIONS[:1]
    width = (norm.linear if "z" in sites else norm.linear_1).out_features // len(shorts)
    return [
        point(f"{home}hook_resid_pre", f"b {stream.letter} d", inputs, argument(stream.name, stream.position)),
        *(
            point(f"{home}mod.hook_{short}", "b d", sites["mod"], section(i * width, (i + 1) * width))
            for i, short in enumerate(shorts)
        ),
        point(f"{home}attn.hook_v", axes, sites["v"], split_heads(block.attn1.heads)),
        *(point(f"{home}attn.hook_{short}", axes, sites[short]) for short in "qk" if short in sites),
        *(
            point(f"{home}attn.hook_{short}", axes, sites[short], before=(Site(sites[short].path, "processor"),))
            for short in ("rot_q", "rot_k")
            if short in sites
        ),
    ]


def _pattern(
    name: str,
    stream: Stream,
    before: tuple[Site, Site],
    video: Mapping[str, Site],
    text: Mapping[str, Site],
    heads: int,
) -> tuple[HookPoint, HookPoint]:
    """`hook_pattern` from a stream's queries to the keys of video and valid text, and its law."""
    query, z = (video["rot_q"], video["z"]) if stream is VIDEO else (text["q"], text["z"])
    split = split_heads(heads)

    def operands(inputs: tuple, inside: Any, v: Tensor, v_text: Tensor, k_text: Tensor, k: Tensor, q: Tensor) -> tuple:
        keys, values = torch.cat([k, k_text], 1), torch.cat([split.get(v), split.get(v_text)], 1)
        valid = PADDING.get(inputs).bool()
        mask = torch.cat([valid.new_ones(valid.shape[0], k.shape[1]), valid], 1)[:, None, None]
        return q, keys, values, mask if stream is VIDEO else mask & valid[:, None, :, None]

    sites = (*before, video["v"], text["v"], text["k"], video["rot_k"], query, z)
    axes = f"b k {stream.letter} n+m"
    spelled = mixing(f"{name}.{stream.prefix}attn.hook_pattern", axes, sites, operands, split)
    return spelled, mixing_law(spelled, operands, split)


def _writing(name: str, stream: Stream, sites: Mapping[str, Site], output: Site, block: Any) -> list[HookPoint]:
    """Hook points of z, of the MLP (a SwiGLU: post = silu(pre) · pre_linear), and of what both add to the stream."""
    home, axes, hidden = f"{name}.{stream.prefix}", f"b {stream.letter} d", f"b {stream.letter} d_mlp"
    width = block.get_submodule(f"ff{stream.suffix}").net[2].in_features
    return [
        point(f"{home}attn.hook_z", f"b {stream.letter} k e", sites["z"], split_heads(block.attn1.heads)),
        point(f"{home}hook_attn_out", axes, sites["attn_out"]),
        point(f"{home}hook_resid_mid_attn", axes, sites["mid"]),
        point(f"{home}mlp.hook_pre_linear", hidden, sites["mlp_pre"], section(0, width)),
        point(f"{home}mlp.hook_pre", hidden, sites["mlp_pre"], section(width, 2 * width)),
        point(f"{home}mlp.hook_post", hidden, sites["mlp_post"]),
        point(f"{home}hook_mlp_out", axes, sites["mlp_out"]),
        point(f"{home}hook_resid_post", axes, output, item(stream.position)),
    ]
