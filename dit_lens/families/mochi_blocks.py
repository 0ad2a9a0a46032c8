"""The blocks of Mochi: video and text are two streams that meet in one attention.

The local variables `hidden_states_0` and `encoder_hidden_states_0` of `MochiTransformerBlock.forward` are the streams
after attention; the calls `apply_rotary_emb_{0,1}` of the processor put out queries and keys of video. The norms
`norm2` and `norm4` put out the writes.
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
    """How one stream is spelled.

    Attributes:
        prefix: of its names, "" or "text.".
        letter: of its tokens.
        name: as an argument of a block.
        position: there, and among the outputs.
        suffix: of its norms and MLP.
        projections: of value, query and key (the latter two as they leave their norms), and of the mix.
    """

    prefix: str
    letter: str
    name: str
    position: int
    suffix: str
    projections: tuple[str, str, str, str]

    def sites(self, path: str, last: bool) -> dict[str, Site]:
        """Its sites in a block, by short names; the last block takes only values and keys of text."""
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
    """Sites, points and laws of a block, each in forward order; `name` is "blocks.0", `path` that of the module."""
    inputs, processor, output = Site(path, "inputs"), Site(f"{path}.attn1", "processor"), Site(path, "output")
    video, text = (stream.sites(path, block.context_pre_only) for stream in (VIDEO, TEXT))
    for index, letter in enumerate("qk"):
        video[f"rot_{letter}"] = Site(f"{path}.attn1", "processor_local", f"apply_rotary_emb_{index}")

    def met(*stages: str) -> list[Site]:
        return [own[stage] for own in (video, text) for stage in stages if stage in own]

    attention = [processor, *met("v", "q", "k"), *met("rot_q", "rot_k"), *met("z", "raw")]
    after = met("attn_out", "mid", "mlp_pre", "mlp_post", "mlp_out")
    sites = [inputs, *met("mod"), *attention, *after, output]
    points, laws = [], []
    for stream, own in ((VIDEO, video), (TEXT, text)):
        points += _reading(name, stream, own, inputs, block)
        if "z" in own:
            spelled, law = _pattern(name, stream, (inputs, processor), video, text, block.attn1.heads)
            projection = block.attn1.get_submodule(stream.projections[-1])
            ends = f"{name}.{stream.prefix}attn", own["z"], own["raw"], projection, block.attn1.heads
            points += [spelled, *results(*ends, stream.letter), *_writing(name, stream, own, output, block)]
            laws += [law, result_law(*ends)]
    return sites, sorted(points, key=lambda point: sites.index(point.sites[-1])), laws


def _reading(name: str, stream: Stream, own: Mapping[str, Site], inputs: Site, block: Any) -> list[HookPoint]:
    """The stream as it enters, its modulation, and what attention takes of it."""
    home, axes = f"{name}.{stream.prefix}", f"b {stream.letter} k e"
    norm = block.get_submodule(f"norm1{stream.suffix}")
    shorts = MODULATIONS if "z" in own else MODULATIONS[:1]
    width = (norm.linear if "z" in own else norm.linear_1).out_features // len(shorts)
    return [
        point(f"{home}hook_resid_pre", f"b {stream.letter} d", inputs, argument(stream.name, stream.position)),
        *(
            point(f"{home}mod.hook_{short}", "b d", own["mod"], section(i * width, (i + 1) * width))
            for i, short in enumerate(shorts)
        ),
        point(f"{home}attn.hook_v", axes, own["v"], split_heads(block.attn1.heads)),
        *(point(f"{home}attn.hook_{short}", axes, own[short]) for short in "qk" if short in own),
        *(
            point(f"{home}attn.hook_{short}", axes, own[short], before=(Site(own[short].path, "processor"),))
            for short in ("rot_q", "rot_k")
            if short in own
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


def _writing(name: str, stream: Stream, own: Mapping[str, Site], output: Site, block: Any) -> list[HookPoint]:
    """What attention and MLP make of the stream and add to it. The MLP is a SwiGLU: post = silu(pre) · pre_linear."""
    home, axes, hidden = f"{name}.{stream.prefix}", f"b {stream.letter} d", f"b {stream.letter} d_mlp"
    width = block.get_submodule(f"ff{stream.suffix}").net[2].in_features
    return [
        point(f"{home}attn.hook_z", f"b {stream.letter} k e", own["z"], split_heads(block.attn1.heads)),
        point(f"{home}hook_attn_out", axes, own["attn_out"]),
        point(f"{home}hook_resid_mid_attn", axes, own["mid"]),
        point(f"{home}mlp.hook_pre_linear", hidden, own["mlp_pre"], section(0, width)),
        point(f"{home}mlp.hook_pre", hidden, own["mlp_pre"], section(width, 2 * width)),
        point(f"{home}mlp.hook_post", hidden, own["mlp_post"]),
        point(f"{home}hook_mlp_out", axes, own["mlp_out"]),
        point(f"{home}hook_resid_post", axes, output, item(stream.position)),
    ]
