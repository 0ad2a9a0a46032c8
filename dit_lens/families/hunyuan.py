"""HunyuanVideo text-to-video: the hook points of `HunyuanVideoTransformer3DModel`.

Dual-stream blocks come first, then single-stream blocks, which are parallel: one projection takes the concatenation of
attention's z and the MLP's hidden layer, and one gate scales the sum. Block indices run on through both lists.
Classifier-free guidance is distilled: its scale is an input of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import HunyuanVideoTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

import dit_lens.families.conventions as conventions
import dit_lens.families.hunyuan_parts as hunyuan_parts
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import check_text_encoders, for_clips
from dit_lens.families.dual_stream import (
    ABSENT,
    STREAMS,
    Spelled,
    Stream,
    dual_block,
    in_order,
    joint_points,
    modulation,
)
from dit_lens.families.family import Family
from dit_lens.families.parts import (
    Attention,
    added,
    among,
    by_head,
    item,
    pattern_law,
    point,
    read_only,
    section,
    split_heads,
    upcast,
)
from dit_lens.hook_points import HookPoint, Site, Table

CONDITIONING = ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections", "guidance")
OPTIONAL = ("guidance",)
GUIDANCE = 1000 * 6.0  # the pipeline's default scale, in the units of the model's input
PARALLEL = ("shift", "scale", "gate")


def example(
    transformer: HunyuanVideoTransformer3DModel, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and conditioning with padded text, to verify a model with."""
    config, (p, q, r) = transformer.config, conventions.patch(transformer)
    text = torch.randn(1, 5, config["text_embed_dim"], generator=generator)
    conditioning = {
        "encoder_hidden_states": text,
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
        "pooled_projections": torch.randn(1, config["pooled_projection_dim"], generator=generator),
    }
    return torch.randn(1, config["in_channels"], 2 * p, 4 * q, 4 * r, generator=generator), conditioning


def inputs(
    transformer: HunyuanVideoTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, " b"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Without `guidance` in the conditioning, it is the pipeline's default: 1000 times a scale of 6.
    """
    with_guidance = {"guidance": latent.new_full((1,), GUIDANCE), **conditioning}
    tensors = for_clips(with_guidance, CONDITIONING, len(latent))
    return {"hidden_states": latent, "timestep": timestep, **tensors, "return_dict": False}


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """Conditioning of `HunyuanVideoPipeline.__call__` for a prompt: (1, 256, d), (1, 256), (1, d), guidance (1,).

    Raises:
        ValueError: the pipeline lacks a text encoder.
    """
    check_text_encoders(pipeline, CONDITIONING, hunyuan_parts.TEXT_ENCODERS)
    text, pooled, mask = pipeline.encode_prompt(prompt)
    return Conditioning(dict(zip(CONDITIONING, (text, mask, pooled, torch.tensor([GUIDANCE])), strict=True)), prompt)


def hook_table(transformer: HunyuanVideoTransformer3DModel) -> Table:
    """Every hook point of this transformer.

    Raises:
        TypeError: the transformer is conditioned on an image.
    """
    config = transformer.config
    if config["image_condition_type"] or config["in_channels"] != config["out_channels"]:
        raise TypeError(
            f"got image_condition_type {config['image_condition_type']!r} and {config['in_channels']} input channels"
            f" over latents of {config['out_channels']} · expected text-to-video · it is not handled yet"
        )
    dual = conventions.block_paths(transformer)
    single = conventions.block_paths(transformer, "single_transformer_blocks")
    blocks, absent = {}, dict(ABSENT)
    for index, path in enumerate([*dual, *single]):
        spell = dual_block if path in dual else _single_block
        blocks[path] = spell(f"blocks.{index}", path, transformer.get_submodule(path))
        if path in single:
            absent |= _absent_in_single(index)
    time = point("hook_time_embed", "b d", Site("time_text_embed", "output"), item(0))
    return hunyuan_parts.table(transformer, blocks, time, absent)


def _absent_in_single(index: int) -> dict[str, str]:
    shared = "video and text share one modulation: see mod.hook_shift, hook_scale and hook_gate"
    return {
        f"blocks.{index}.*hook_resid_mid_attn": "parallel: attention and MLP are added to the stream at once",
        f"blocks.{index}.mod.hook_*_*": "attention and MLP share one modulation: see mod.hook_shift, _scale and _gate",
        f"blocks.{index}.text.mod.*": shared,
    }


def _single_block(name: str, path: str, block: Any) -> Spelled:
    """A single-stream block: video and text as one sequence, attention and MLP in parallel."""
    attention = Attention(f"{name}.attn", f"{path}.attn", block.attn, block.attn.heads, "n+m", "n+m")
    named = {
        "inputs": Site(path, "inputs"),
        "mod": Site(f"{path}.norm.linear", "output"),
        "mlp_pre": Site(f"{path}.proj_mlp", "output"),
        "mlp_post": Site(f"{path}.act_mlp", "output"),
        "processor": attention.processor,
        "v": Site(f"{path}.attn.to_v", "output"),
        "q": Site(f"{path}.attn.norm_q", "output"),
        "k": Site(f"{path}.attn.norm_k", "output"),
        "call": attention.call,
        "mixed": attention.mixed,
        "joined": Site(f"{path}.proj_out", "input"),
        "out": Site(f"{path}.proj_out", "output"),
        "output": Site(path, "output"),
    }
    sites, points = tuple(named.values()), modulation(f"{name}.mod", named["mod"], PARALLEL, block)
    for stream in STREAMS:
        points += [
            stream.resid_pre(name, named["inputs"]),
            *_sequence_points(name, stream, attention, named, block),
            *joint_points(stream, attention, named["inputs"]),
            *_parallel_writes(name, stream, named, block),
            stream.resid_post(name, named["output"]),
        ]
    return Spelled(sites, in_order(points, sites), [pattern_law(attention), _parallel_law(name, named, block)])


def _sequence_points(
    name: str, stream: Stream, attention: Attention, sites: Mapping[str, Site], block: Any
) -> list[HookPoint]:
    """Hook points of attention and MLP over the joint sequence, at the stream's tokens."""
    home, heads, width = f"{name}.{stream.prefix}attn", attention.heads, block.attn.query_dim
    split, mix = split_heads(heads), split_heads(heads, section(0, width))

    def results(joined: Tensor, out: Tensor) -> Tensor:
        return by_head(joined[..., :width], block.proj_out.weight[:, :width], heads)

    def raw_out(joined: Tensor, out: Tensor) -> Tensor:
        return _attention_share(block, joined, out)

    def written(new: Tensor, old: Tensor, joined: Tensor, out: Tensor) -> Tensor:
        change = upcast(new) - upcast(old)
        return (upcast(out) + (change.sum(2) if change.ndim == 4 else change)).type_as(out)

    ends = sites["joined"], sites["out"]
    whole = [
        point(f"{name}.{stream.prefix}mlp.hook_pre", "b n d_mlp", sites["mlp_pre"]),
        point(f"{name}.{stream.prefix}mlp.hook_post", "b n d_mlp", sites["mlp_post"]),
        point(f"{home}.hook_v", "b n k e", sites["v"], split),
        point(f"{home}.hook_q", "b n k e", sites["q"]),
        point(f"{home}.hook_k", "b n k e", sites["k"]),
        point(f"{home}.hook_z", "b n k e", sites["joined"], mix),
        HookPoint(f"{home}.hook_result", "b n k d", ends, results, written, on_demand=True),
        HookPoint(f"{home}.hook_raw_out", "b n d", ends, raw_out, written),
    ]
    return [among(point, sites["inputs"], stream.tokens, stream.letter) for point in whole]


def _parallel_writes(name: str, stream: Stream, sites: Mapping[str, Site], block: Any) -> list[HookPoint]:
    """Hook points of what attention and MLP add to the stream: their shares of the projection, times the gate."""
    width = block.attn.query_dim
    gate = section(2 * width, 3 * width)

    def attn_out(inputs: tuple, mod: Tensor, joined: Tensor, out: Tensor) -> Tensor:
        return (gate.get(mod).unsqueeze(1) * _attention_share(block, joined, out))[:, stream.tokens(inputs)]

    def mlp_out(inputs: tuple, mod: Tensor, joined: Tensor, out: Tensor) -> Tensor:
        return (gate.get(mod).unsqueeze(1) * _mlp_share(block, joined))[:, stream.tokens(inputs)]

    read_sites = [sites[short] for short in ("inputs", "mod", "joined", "out")]
    part, axes = item(stream.position), f"b {stream.letter} d"
    return [
        added(f"{name}.{stream.prefix}hook_attn_out", read_sites, attn_out, sites["output"], part, axes),
        added(f"{name}.{stream.prefix}hook_mlp_out", read_sites, mlp_out, sites["output"], part, axes),
    ]


def _attention_share(block: Any, joined: Tensor, out: Tensor) -> Float[Tensor, "b n d"]:
    """W_a z, plus the change that an edit of z or the results has made to the projection's output (else exactly 0)."""
    (weight, bias), width = _projection(block, joined), block.attn.query_dim
    return linear(joined[..., :width], weight[:, :width]) + (out - linear(joined, weight, bias))


def _mlp_share(block: Any, joined: Tensor) -> Float[Tensor, "b n d"]:
    """W_m post + bias, the MLP's share of the projection's output."""
    (weight, bias), width = _projection(block, joined), block.attn.query_dim
    return linear(joined[..., width:], weight[:, width:], bias)


def _projection(block: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the projection in the dtype of the computation, which may differ from that of storage."""
    return block.proj_out.weight.to(like), block.proj_out.bias.to(like)


def _parallel_law(name: str, sites: Mapping[str, Site], block: Any) -> HookPoint:
    width = block.attn.query_dim

    def both(joined: Tensor, out: Tensor) -> Tensor:
        heads = by_head(joined[..., :width], block.proj_out.weight[:, :width], block.attn.heads)
        return torch.stack([upcast(heads).sum(2) + upcast(_mlp_share(block, joined)), upcast(out)])

    law = f"{name}.attn: sum of results + MLP + bias = output"
    return read_only(law, "", (sites["joined"], sites["out"]), both)


FAMILY = Family(
    name="hunyuan",
    transformer=HunyuanVideoTransformer3DModel,
    conditioning=CONDITIONING,
    optional=OPTIONAL,
    example=example,
    inputs=inputs,
    input_dtype=hunyuan_parts.input_dtype,
    hook_table=hook_table,
    schedule_arguments=hunyuan_parts.schedule_arguments,
    encode_prompt=encode_prompt,
)
