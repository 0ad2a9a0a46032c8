"""Hook points of a CogVideoX block: two streams that share attention and MLP over the sequence [text, video]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dit_lens.families.parts import (
    Attention,
    Part,
    added,
    among,
    argument,
    heads_first,
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
from dit_lens.hook_points import QKV, HookPoint, Site

ABSENT = {
    "blocks.*cross_attn*": "text is read by joint attention: see attn and text.*",
    "blocks.*.text.attn.hook_rot_*": "rotary turns video tokens only: see text.attn.hook_q and hook_k",
}
MODULATIONS = ("shift", "scale", "gate")
# The stock processor applies rotary to queries and keys in place; a copy keeps what was read from changing later.
COPIED = Part(lambda raw: raw.clone(), lambda new, raw: new)


@dataclass(frozen=True)
class Stream:
    """One of the two streams of a block.

    Attributes:
        prefix: the prefix of its hook point names, "" or "text.".
        letter: the letter of its token axis.
        position: its index among the arguments and outputs of a block, and among the halves of the modulation.
        name: its name as an argument and a local variable.
        tokens: inputs of a block -> the slice of its tokens in the joint sequence.
    """

    prefix: str
    letter: str
    position: int
    name: str
    tokens: Callable[[tuple], slice]

    @property
    def axes(self) -> str:
        """The axes of the stream, such as "b n d"."""
        return f"b {self.letter} d"


def text_tokens(inputs: tuple) -> int:
    """The number of text tokens in the inputs of a block."""
    return argument("encoder_hidden_states", 1).get(inputs).shape[1]


VIDEO = Stream("", "n", 0, "hidden_states", lambda inputs: slice(text_tokens(inputs), None))
TEXT = Stream("text.", "m", 1, "encoder_hidden_states", lambda inputs: slice(text_tokens(inputs)))
STREAMS = (VIDEO, TEXT)


@dataclass(frozen=True)
class Spelled:
    """Sites, hook points and laws of a block, each in forward order."""

    sites: tuple[Site, ...]
    points: tuple[HookPoint, ...]
    laws: tuple[HookPoint, ...]


def spelled(name: str, path: str, block: Any, rotary: bool) -> Spelled:
    """The hook points of a block `name`, such as "blocks.0"; `path`: its module path, `rotary`: if video has rotary."""
    attention = Attention(f"{name}.attn", f"{path}.attn1", block.attn1, block.attn1.heads, "n+m", "n+m", heads_first)
    sites = _sites(path, attention)
    projection, order = block.attn1.to_out[0], list(sites.values())
    points = [
        point
        for stream in STREAMS
        for point in (
            *_stream_points(f"{name}.{stream.prefix}", stream, sites),
            *_attention_points(f"{name}.{stream.prefix}attn", stream, sites, attention, rotary),
        )
    ]
    points.sort(key=lambda point: order.index(point.sites[-1]))
    laws = pattern_law(attention), result_law(attention.name, sites["z"], sites["raw"], projection, attention.heads)
    return Spelled(tuple(order), tuple(points), laws)


def _sites(path: str, attention: Attention) -> dict[str, Site]:
    """Sites of a block in forward order, by short names."""
    inner = attention.path
    return {
        "inputs": Site(path, "inputs"),
        "attn_mod": Site(f"{path}.norm1.linear", "output"),
        "processor": attention.processor,
        "v": Site(f"{inner}.to_v", "output"),
        "q": Site(f"{inner}.norm_q", "output"),
        "k": Site(f"{inner}.norm_k", "output"),
        "call": attention.call,
        "mixed": attention.mixed,
        "z": Site(f"{inner}.to_out.0", "input"),
        "raw": Site(f"{inner}.to_out.0", "output"),
        **{f"{stream.prefix}mid": Site(path, "local", f"{stream.name}_0") for stream in STREAMS},
        "mlp_mod": Site(f"{path}.norm2.linear", "output"),
        "mlp_pre": Site(f"{path}.ff.net.0.proj", "output"),
        "mlp_post": Site(f"{path}.ff.net.2", "input"),
        "mlp_raw": Site(f"{path}.ff", "output"),
        **{f"{stream.prefix}after": Site(path, "local", f"{stream.name}_1") for stream in STREAMS},
        "output": Site(path, "output"),
    }


def _stream_points(home: str, stream: Stream, sites: Mapping[str, Site]) -> list[HookPoint]:
    """Hook points of the stream, its modulation, the writes to it, and the hidden layer of the MLP."""

    def gated(short: str, mod: str, raw: str, after: str) -> HookPoint:
        gate = _modulation(stream, "gate")

        def read(inputs: tuple, mod: Tensor, raw: Tensor) -> Tensor:
            return gate.get(mod).unsqueeze(1) * raw[:, stream.tokens(inputs)]

        stream_after = sites[f"{stream.prefix}{after}"]
        read_sites = sites["inputs"], sites[mod], sites[raw]
        return added(f"{home}{short}", read_sites, read, stream_after, axes=stream.axes)

    def mlp_hidden(short: str) -> HookPoint:
        whole = point(f"{home}mlp.hook_{short}", "b n+m d_mlp", sites[f"mlp_{short}"])
        return among(whole, sites["inputs"], stream.tokens, stream.letter)

    return [
        point(f"{home}hook_resid_pre", stream.axes, sites["inputs"], argument(stream.name, stream.position)),
        *(
            point(f"{home}mod.hook_{short}_{layer}", "b d", sites[f"{layer}_mod"], _modulation(stream, short))
            for layer in ("attn", "mlp")
            for short in MODULATIONS
        ),
        gated("hook_attn_out", "attn_mod", "raw", "mid"),
        point(f"{home}hook_resid_mid_attn", stream.axes, sites[f"{stream.prefix}mid"]),
        mlp_hidden("pre"),
        mlp_hidden("post"),
        gated("hook_mlp_out", "mlp_mod", "mlp_raw", "after"),
        point(f"{home}hook_resid_post", stream.axes, sites["output"], item(stream.position)),
    ]


def _modulation(stream: Stream, name: str) -> Part:
    """Shift, scale or gate of a stream: one sixth of the output of the modulation's linear layer."""
    index = 3 * stream.position + MODULATIONS.index(name)

    def stretch(raw: Tensor) -> Part:
        width = raw.shape[-1] // 6
        return section(index * width, (index + 1) * width)

    return Part(lambda raw: stretch(raw).get(raw), lambda new, raw: stretch(raw).put(new, raw))


def _attention_points(
    home: str, stream: Stream, sites: Mapping[str, Site], attention: Attention, rotary: bool
) -> list[HookPoint]:
    """Hook points of the stream's tokens in the joint attention."""
    renamed, split = replace(attention, name=home), split_heads(attention.heads)
    projection: Any = attention.module.get_submodule("to_out.0")
    axes = "b n+m k e"
    whole = [
        point(f"{home}.hook_v", axes, sites["v"], split),
        point(f"{home}.hook_q", axes, sites["q"], heads_first(COPIED)),
        point(f"{home}.hook_k", axes, sites["k"], heads_first(COPIED)),
        *(rotated(renamed) if rotary and stream is VIDEO else ()),
        point(f"{home}.hook_z", axes, sites["z"], split),
        *results(home, sites["z"], sites["raw"], projection, attention.heads, "n+m"),
    ]
    mixed = among(pattern(renamed), sites["inputs"], stream.tokens, stream.letter, axis=2)
    return [
        *(among(point, sites["inputs"], stream.tokens, stream.letter) for point in whole),
        _video_keys_first(mixed, f"b k {stream.letter} n+m"),
    ]


def _video_keys_first(pattern: HookPoint, axes: str) -> HookPoint:
    """A pattern with video keys before text keys, as in all families."""

    def write(new: Tensor, old: Tensor, inputs: tuple, *values: Any) -> Any:
        text = text_tokens(inputs)
        assert pattern.write is not None
        return pattern.write(new.roll(text, -1), old.roll(text, -1), inputs, *values)

    def qkv(inputs: tuple, *values: Any) -> QKV:
        assert pattern.qkv is not None
        return pattern.qkv(inputs, *values).with_keys_rolled(-text_tokens(inputs))

    return replace(
        pattern,
        axes=axes,
        read=lambda inputs, *values: pattern.read(inputs, *values).roll(-text_tokens(inputs), -1),
        write=write,
        qkv=qkv,
    )
