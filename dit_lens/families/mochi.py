"""Mochi 1 text-to-video: the hook points of `MochiTransformer3DModel`.

Video and text are two streams with joint attention. A sub-layer's write is its output after an RMS norm, times a tanh
gate: the output of `norm2` (attention) and `norm4` (MLP) is the write, to the bit. A head's share of the write thus
depends on the other heads, through that norm. Attention is called once per clip, on its valid text only; patterns are
computed from queries and keys before that loop. Masks must be of right-padded text (the stock processor puts the
outputs of valid tokens first). The last block does not update text.

Mochi takes the timestep 1000 (1 - sigma) and predicts data - noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import MochiTransformer3DModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
from dit_lens.conditioning import Conditioning
from dit_lens.families.conventions import (
    LATENT,
    ROOT,
    VELOCITY,
    check_text_encoders,
    clean_estimate,
    for_clips,
)
from dit_lens.families.family import Family
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.mochi_blocks import spelled_block
from dit_lens.families.parts import Part, item, point
from dit_lens.hook_points import HookPoint, Site, Table

CONDITIONING = ("encoder_hidden_states", "encoder_attention_mask")
LINEAR_TO = 0.025  # how much of the noise the linear half of the pipeline's steps removes
NEGATED = Part(lambda raw: -raw[0], lambda new, raw: (-new, *raw[1:]))


def example(transformer: MochiTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Two small random latents (2, c, 2, 4, 4 patches), one with padded text, to verify a model with."""
    patch, config = transformer.config["patch_size"], transformer.config
    conditioning = {
        "encoder_hidden_states": torch.randn(2, 5, config["text_embed_dim"], generator=generator),
        "encoder_attention_mask": torch.tensor([[True] * 3 + [False] * 2, [True] * 5]),
    }
    return torch.randn(2, config["in_channels"], 2, 4 * patch, 4 * patch, generator=generator), conditioning


def inputs(
    transformer: MochiTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *n"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Raises:
        ValueError: one timestep per token, which Mochi does not take.
    """
    if timestep.ndim > 1:
        raise ValueError(f"got timesteps of shape {tuple(timestep.shape)} · expected one per clip, as Mochi takes it")
    tensors = for_clips(conditioning, CONDITIONING, len(latent))
    return {"hidden_states": latent, "timestep": timestep, **tensors, "return_dict": False}


@torch.no_grad()
def encode_prompt(pipeline: Any, prompt: str) -> Conditioning:
    """The conditioning of `MochiPipeline.__call__`: prompt embedding (1, 256, text_embed_dim) and mask (1, 256).

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    check_text_encoders(pipeline, CONDITIONING)
    embedding, mask, *_ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    return Conditioning({"encoder_hidden_states": embedding, "encoder_attention_mask": mask}, prompt)


def to_timestep(sigma: float) -> float:
    """The timestep of Mochi at a noise level: 1000 for data, 0 for noise."""
    return 1000 * (1 - sigma)


def to_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep."""
    return 1 - timestep.float() / 1000


def schedule_arguments(pipeline: Any, latent: Tensor | None, steps: int) -> dict[str, Any]:
    """The scheduler arguments of the pipeline: sigmas that fall linearly from noise, then quadratically.

    Raises:
        ValueError: fewer than two steps, for which this schedule is not defined.
    """
    from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule  # imports the text encoder's

    if steps < 2:
        raise ValueError(f"got {steps} steps · expected at least 2, half of them even and half by a square")
    return {"sigmas": np.array(linear_quadratic_schedule(steps, LINEAR_TO))}


def velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The velocity, noise - data: the negated output."""
    return NEGATED.get(output)


def hook_table(transformer: MochiTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    embed, time = Site("patch_embed", "output"), Site("time_embed", "output")
    embedded = HookPoint(
        "hook_embed",
        "b n d",
        (ROOT, embed),
        lambda root, raw: rearrange(raw, "(b f) n d -> b (f n) d", b=len(LATENT.get(root))),
        lambda new, old, root, raw: rearrange(new, "b (f n) d -> (b f) n d", n=raw.shape[1]),
    )
    points = [point("hook_latent", "b c f h w", ROOT, LATENT), point("hook_time_embed", "b d", time, item(0)), embedded]
    sites, laws = [ROOT, time, embed], []
    paths = conventions.block_paths(transformer)
    for index, (path, block) in enumerate(zip(paths, transformer.transformer_blocks, strict=True)):
        block_sites, block_points, block_laws = spelled_block(f"blocks.{index}", path, block)
        sites, points, laws = sites + block_sites, points + block_points, laws + block_laws
    points += [point("hook_velocity", "b c f h w", VELOCITY, NEGATED)]
    points.append(clean_estimate(partial(conventions.grid, transformer), to_sigma=to_sigma, velocity=velocity))
    absent = {
        "blocks.*cross_attn*": "text is read by joint attention: see attn and text.*",
        "blocks.*.text.attn.hook_rot_*": "rotary turns video tokens only: see text.attn.hook_q and hook_k",
        "blocks.*.mod.hook_shift_*": "norms are modulated by a scale alone",
    } | _absent_in_last(f"blocks.{len(paths) - 1}.text")
    first: Any = transformer.transformer_blocks[0]
    table = Table(
        (*sites, VELOCITY),
        {point.name: point for point in points},
        paths,
        absent,
        streams=("hook_resid_pre", "text.hook_resid_pre"),
        laws=tuple(laws),
        normed_writes=first.norm2.eps,
    )
    last = final("p q r c", conventions.patch(transformer))
    return with_final(table, last, (Site("norm_out.linear", "output"),), lambda raw: raw.chunk(2, -1)[::-1])


def _absent_in_last(text: str) -> dict[str, str]:
    writes = "attn.hook_[qz]", "attn.hook_pattern", "attn.hook_r*", "hook_*_out", "hook_resid_mid_attn", "mlp.*"
    names = (*writes, "hook_resid_post", "mod.hook_gate_*", "mod.hook_scale_mlp")
    reason = "the last block does not update text (context_pre_only); it lends keys and values"
    return {f"{text}.{name}": reason for name in names}


FAMILY = Family(
    name="mochi",
    transformer=MochiTransformer3DModel,
    conditioning=CONDITIONING,
    example=example,
    inputs=inputs,
    hook_table=hook_table,
    to_timestep=to_timestep,
    to_sigma=to_sigma,
    velocity=velocity,
    schedule_arguments=schedule_arguments,
    encode_prompt=encode_prompt,
)
