"""Cosmos Predict 1, 2 and 2.5: the hook points of `CosmosTransformer3DModel`.

Latents, sigma and velocity are those of the flow x' = (1 - sigma)·data + sigma·noise of normalised latents. Noise
levels of the EDM kind (x = data + s·noise) are sigma = s / (1 + s) there, and x' = x / (1 + s).

- Predict 2 and 2.5 take x' and sigma itself. Predict 2 defines data = x' - sigma·output (c_in = c_skip = 1 - sigma and
  c_out = -sigma of x), Predict 2.5 that its output is the velocity: the two are equivalent.
- Predict 1, recognised by its learned positions, takes a·data + b·noise with a² + b² = 1, at timestep ln(s) / 4, where
  s is 0.5 times b / a, as in `EDMEulerScheduler` with sigma_data 0.5; it predicts F with data = a·x + b·F. So
  noise - data = (b - a) x - (a + b) F, and x' = x / (a + b).

Latents and timesteps go to the model unchanged. Models with an extra mask channel take a mask of the clean
conditioning frames (`condition_mask` in the conditioning, (1 or b, 1, f, h, w)); it is zero unless one is given. Frames
per second are the defaults of the stock pipelines. Most models concatenate a padding mask, zeros here, to the latent;
diffusers resizes it with torchvision, which must be installed for these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import CosmosTransformer3DModel
from diffusers.utils import is_torchvision_available
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

import dit_lens.families.conventions as conventions
from dit_lens.families.conventions import (
    LATENT,
    ROOT,
    VELOCITY,
    clean_estimate,
    for_clips,
)
from dit_lens.families.cosmos_blocks import spelled_block
from dit_lens.families.family import Family
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.levels import unit_variance
from dit_lens.families.parts import argument, item, point, read_only, upcast
from dit_lens.hook_points import HookPoint, Site, Table

CONDITIONING = ("encoder_hidden_states",)
OPTIONAL = ("condition_mask",)
SIGMA_DATA = 0.5
LEAST, MOST = 0.002, 80.0  # the range of levels s at which Predict 1 is sampled


def as_in(family: Family, transformer: CosmosTransformer3DModel) -> Family:
    """The family with the conventions of one transformer: Predict 1 differs in timestep and output."""
    if not _learned(transformer):
        return family
    return replace(family, to_timestep=edm_timestep, to_sigma=edm_sigma, velocity=edm_velocity, as_fed=edm_as_fed)


def _learned(transformer: CosmosTransformer3DModel) -> bool:
    """Whether positions are learned, as in Predict 1 only."""
    return transformer.config["extra_pos_embed_type"] == "learnable"


def example(transformer: CosmosTransformer3DModel, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A small random latent (1, c, 2, 4, 4 patches) and conditioning, to verify a model with."""
    config, (p, q, r) = transformer.config, transformer.config["patch_size"]
    width = config["crossattn_proj_in_channels" if config["use_crossattn_projection"] else "text_embed_dim"]
    text = torch.randn(1, 3, width, generator=generator)
    latent = torch.randn(1, config["out_channels"], 2 * p, 4 * q, 4 * r, generator=generator)
    return latent, {"encoder_hidden_states": text}


def inputs(
    transformer: CosmosTransformer3DModel,
    latent: Float[Tensor, "b c f h w"],
    timestep: Float[Tensor, "b *f"],
    conditioning: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The transformer's keyword arguments for one evaluation; conditioning of batch 1 serves every clip.

    Args:
        timestep: one for a clip, or one for each of its latent frames.

    Raises:
        ImportError: the transformer resizes a padding mask, and torchvision is not installed.
    """
    config = transformer.config
    tensors = for_clips(conditioning, (*CONDITIONING, *OPTIONAL), len(latent), OPTIONAL)
    text = tensors.pop("encoder_hidden_states")
    if config["in_channels"] > config["out_channels"]:
        tensors = {"condition_mask": torch.zeros_like(latent[:, :1]), **tensors}
    if config["concat_padding_mask"]:
        if not is_torchvision_available():
            raise ImportError(
                "got no torchvision · expected it, for this CosmosTransformer3DModel resizes its padding mask with it"
                " (config concat_padding_mask) · pip install torchvision"
            )
        tensors["padding_mask"] = latent.new_zeros(1, 1, *latent.shape[-2:])
    return {
        "hidden_states": latent,
        "timestep": timestep if timestep.ndim == 1 else rearrange(timestep, "b f -> b 1 f 1 1"),
        "encoder_hidden_states": (text, None) if config["img_context_dim_in"] else text,
        "fps": _frames_per_second(transformer),
        **tensors,
        "return_dict": False,
    }


def _frames_per_second(transformer: CosmosTransformer3DModel) -> int | None:
    """The default of the stock pipelines: 30 in Predict 1, 16 in Predict 2, none in 2.5 and for images."""
    config = transformer.config
    if _learned(transformer):
        return 30
    return None if config["use_crossattn_projection"] or config["in_channels"] == config["out_channels"] else 16


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a control branch, which would be ignored, and if Predict 1 has another scheduler."""
    if getattr(pipeline, "controlnet", None) is not None:
        raise TypeError("got a Cosmos Transfer pipeline · expected Predict, without control · it is not handled yet")
    if not _learned(pipeline.transformer):
        return
    config = pipeline.scheduler.config
    got = config.get("sigma_data"), config.get("prediction_type")
    if got != (SIGMA_DATA, "epsilon"):
        raise TypeError(
            f"got a {type(pipeline.scheduler).__name__} of sigma_data, prediction {got} · expected EDMEulerScheduler"
            f" of {SIGMA_DATA}, 'epsilon', as Cosmos Predict 1 was trained · load the model's own scheduler"
        )


def to_timestep(sigma: float) -> float:
    """The timestep of Predict 2 and 2.5 at a noise level, which is the level itself."""
    return sigma


def to_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep of Predict 2 or 2.5."""
    return timestep.float()


def edm_timestep(sigma: float) -> float:
    """The timestep of Predict 1 at a noise level, clamped to the range at which it is sampled."""
    s = SIGMA_DATA * sigma / (1 - sigma) if sigma < 1 else MOST
    return math.log(min(max(s, LEAST), MOST)) / 4


def edm_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep of Predict 1."""
    return torch.sigmoid(4 * timestep.float() - math.log(SIGMA_DATA))


def edm_velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The velocity, noise - data, of Predict 1 from its output and its input latent, in float32 or wider."""
    a, b = _amplitudes(inputs)
    return (b - a) * upcast(inputs["hidden_states"]) - (a + b) * upcast(output[0])


def _amplitudes(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Amplitudes a and b of data and noise in the input latent of Predict 1."""
    sigma = edm_sigma(inputs["timestep"])
    sigma = sigma.reshape(len(sigma), 1, -1, 1, 1)  # one, or one for every frame
    root = ((1 - sigma) ** 2 + sigma**2).sqrt()
    return (1 - sigma) / root, sigma / root


def noise_levels(pipeline: Any, steps: int, **arguments: Any) -> tuple[float, ...]:
    """Noise levels of a schedule of so many steps: 0 (data), then those of the pipeline's scheduler, ascending.

    Args:
        **arguments: for the scheduler's `set_timesteps`.
    """
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)  # a copy: set_timesteps changes it
    scheduler.set_timesteps(steps, **arguments)
    s = scheduler.sigmas[: len(scheduler.timesteps)].double().flip(0)
    flow = scheduler.config.get("use_flow_sigmas")  # Predict 2.5
    return (0.0, *(s if flow else s / (s + scheduler.config.get("sigma_data", 1.0))).tolist())


def edm_as_fed(latent: Float[Tensor, "b c f h w"], timestep: float) -> Float[Tensor, "b c f h w"]:
    """The input latent of Predict 1, from a flow's latent."""
    return unit_variance(latent, float(edm_sigma(torch.tensor(timestep))))


def hook_table(transformer: CosmosTransformer3DModel) -> Table:
    """Every hook point of this transformer."""
    embed, time = Site("patch_embed", "output"), Site("time_embed", "output")
    embedded = HookPoint(
        "hook_embed",
        "b n d",
        (embed,),
        lambda raw: rearrange(raw, "b f h w d -> b (f h w) d"),
        lambda new, old, raw: new.view(raw.shape),
    )
    points = [point("hook_latent", "b c f h w", ROOT, LATENT), embedded, _time_embedded(time)]
    sites, laws, learned = [ROOT, embed, time], [], _learned(transformer)
    paths = conventions.block_paths(transformer)
    for index, (path, block) in enumerate(zip(paths, transformer.transformer_blocks, strict=True)):
        block_sites, block_points, block_laws = spelled_block(f"blocks.{index}", path, block, learned)
        sites, points, laws = sites + block_sites, points + block_points, laws + block_laws
    if learned:
        points += _edm_estimates()
    else:
        points.append(point("hook_velocity", "b c f h w", VELOCITY, item(0)))
        points.append(clean_estimate(partial(conventions.grid, transformer), to_sigma=to_sigma))
    absent = {f"blocks.*.cross_attn.hook_rot_{x}": f"no rotary: see hook_{x}" for x in "qk"}
    absent |= {
        "blocks.*.text.*": "Cosmos reads text by cross-attention; there is no text stream",
        "blocks.*.cross_attn.img.*": "no image context is fed: text alone",
    }
    if not learned:
        absent |= {f"blocks.*.hook_{x}": "positions are rotary alone" for x in ("pos_out", "resid_mid_pos")}
    table = Table((*sites, VELOCITY), {p.name: p for p in points}, paths, absent, laws=tuple(laws))
    last = final("q r p c", transformer.config["patch_size"])
    return with_final(table, last, (Site("norm_out", "inputs"), Site("norm_out.linear_2", "output")), _last_modulation)


def _last_modulation(inputs: tuple, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale after the last block: the output norm's own projection plus the modulation that all share."""
    shift, scale = (raw + argument("temb", 2).get(inputs)[..., : raw.shape[-1]]).chunk(2, -1)
    return shift, scale


def _time_embedded(time: Site) -> HookPoint:
    """The time embedding that all modulations read: (b, d), or (b, f, d) where time differs by frame."""

    def read(root: tuple, raw: tuple) -> Tensor:
        by_frame = root[1]["timestep"].ndim > 1
        return rearrange(raw[1], "(b f) d -> b f d", b=len(root[1]["timestep"])) if by_frame else raw[1]

    def write(new: Tensor, old: Tensor, root: tuple, raw: tuple) -> tuple:
        return raw[0], new.reshape(raw[1].shape)

    return HookPoint("hook_time_embed", "b d", (ROOT, time), read, write)


def _edm_estimates() -> list[HookPoint]:
    """`hook_velocity` and `hook_x0` of Predict 1."""

    def read(root: tuple, out: tuple) -> Tensor:
        return edm_velocity(root[1], out)

    def write(new: Tensor, old: Tensor, root: tuple, out: tuple) -> tuple:
        a, b = _amplitudes(root[1])  # a + b is at least 1
        return item(0).put((upcast(out[0]) - (new - old) / (a + b)).type_as(out[0]), out)

    def clean(root: tuple, out: tuple) -> Tensor:
        a, b = _amplitudes(root[1])
        return a * upcast(root[1]["hidden_states"]) + b * upcast(out[0])

    axes, sites = "b c f h w", (ROOT, VELOCITY)
    return [HookPoint("hook_velocity", axes, sites, read, write), read_only("hook_x0", axes, sites, clean)]


FAMILY = Family(
    name="cosmos",
    transformer=CosmosTransformer3DModel,
    conditioning=CONDITIONING,
    optional=OPTIONAL,
    guided_from_cond=True,  # the scale is 1 less than elsewhere
    contexts=("cond", "uncond"),  # the calls of a step in all its pipelines, which name them by no context
    for_transformer=as_in,
    example=example,
    inputs=inputs,
    hook_table=hook_table,
    check_pipeline=check_pipeline,
    to_timestep=to_timestep,
    to_sigma=to_sigma,
    noise_levels=noise_levels,
)
