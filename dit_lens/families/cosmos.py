"""Cosmos Predict 1, 2 and 2.5: how `CosmosTransformer3DModel` spells the vocabulary.

Latents, sigma and velocity are those of the flow x' = (1 - sigma)·data + sigma·noise of normalised latents. Noise
levels of the EDM kind (x = data + s·noise) are sigma = s / (1 + s) there, and x' = x / (1 + s).

- Predict 2 and 2.5 are fed x' and sigma itself. Predict 2 says data = x' - sigma·output (c_in = c_skip = 1 - sigma and
  c_out = -sigma of x), Predict 2.5 that its output is the velocity: the same thing.
- Predict 1, told by its learned positions, is fed a·data + b·noise of a² + b² = 1, at ln(s) / 4, where s is 0.5 times
  b / a, as `EDMEulerScheduler` of sigma_data 0.5 has it; it puts out F with data = a·x + b·F. So noise - data =
  (b - a) x - (a + b) F, and x' = x / (a + b).

Latents and time are fed as they are given. Models with a channel for it are told which frames are given (the
`condition_mask` of the conditioning, (1 or b, 1, f, h, w)): none, unless one is given. Frames per second are those of
the stock pipelines' defaults. Most models put a padding mask, here of zeros, beside the latent; diffusers resizes it
with torchvision, which has to be installed then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import ModuleType
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
from dit_lens.families.final_layer import final, with_final
from dit_lens.families.levels import unit_variance
from dit_lens.families.parts import argument, item, point, read_only, upcast
from dit_lens.hook_points import HookPoint, Site, Table

NAME = "cosmos"
GUIDED_FROM_COND = True  # guidance is added to the branch "cond": the scale is 1 less than elsewhere
TRANSFORMER = CosmosTransformer3DModel
CONDITIONING = ("encoder_hidden_states",)
OPTIONAL = ("condition_mask",)
CONTEXTS = ("cond", "uncond")  # the calls of a step in all its pipelines, which name them by no context
SIGMA_DATA = 0.5
LEAST, MOST = 0.002, 80.0  # levels s that Predict 1 is sampled at

velocity, encode, decode = conventions.velocity, conventions.encode, conventions.decode
encode_prompt, input_dtype, grid = conventions.encode_prompt, conventions.input_dtype, conventions.grid


def of(transformer: CosmosTransformer3DModel) -> ModuleType:
    """The family as one transformer has it: Predict 1 has other conventions of time and output."""
    own = ModuleType(__name__, __doc__)
    vars(own).update(globals())
    if _learned(transformer):
        vars(own).update(to_timestep=edm_timestep, to_sigma=edm_sigma, velocity=edm_velocity, as_fed=edm_as_fed)
    return own


def _learned(transformer: CosmosTransformer3DModel) -> bool:
    """Whether positions are learned, which only Predict 1 has."""
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
    told = for_clips(conditioning, (*CONDITIONING, *OPTIONAL), len(latent), OPTIONAL)
    text = told.pop("encoder_hidden_states")
    if config["in_channels"] > config["out_channels"]:
        told = {"condition_mask": torch.zeros_like(latent[:, :1]), **told}
    if config["concat_padding_mask"]:
        if not is_torchvision_available():
            raise ImportError(
                "got no torchvision · expected it, for this CosmosTransformer3DModel resizes its padding mask with it"
                " (config concat_padding_mask) · pip install torchvision"
            )
        told["padding_mask"] = latent.new_zeros(1, 1, *latent.shape[-2:])
    return {
        "hidden_states": latent,
        "timestep": timestep if timestep.ndim == 1 else rearrange(timestep, "b f -> b 1 f 1 1"),
        "encoder_hidden_states": (text, None) if config["img_context_dim_in"] else text,
        "fps": _frames_per_second(transformer),
        **told,
        "return_dict": False,
    }


def _frames_per_second(transformer: CosmosTransformer3DModel) -> int | None:
    """What the stock pipelines feed by default: 30 in Predict 1, 16 in Predict 2, nothing in 2.5 and for images."""
    config = transformer.config
    if _learned(transformer):
        return 30
    return None if config["use_crossattn_projection"] or config["in_channels"] == config["out_channels"] else 16


def check_pipeline(pipeline: Any) -> None:
    """Raises TypeError for a control branch, which would be left out, and for other levels than Predict 1's own."""
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
    """What Predict 2 and 2.5 are fed at a noise level."""
    return sigma


def to_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep that Predict 2 or 2.5 is fed."""
    return timestep.float()


def edm_timestep(sigma: float) -> float:
    """What Predict 1 is fed at a noise level, within those that it is sampled at."""
    s = SIGMA_DATA * sigma / (1 - sigma) if sigma < 1 else MOST
    return math.log(min(max(s, LEAST), MOST)) / 4


def edm_sigma(timestep: Tensor) -> Tensor:
    """The noise level of a timestep that Predict 1 is fed."""
    return torch.sigmoid(4 * timestep.float() - math.log(SIGMA_DATA))


def edm_velocity(inputs: Mapping[str, Any], output: tuple) -> Float[Tensor, "b c f h w"]:
    """The output of Predict 1 as noise - data, in float32 or wider, with the latent that it was fed."""
    a, b = _amplitudes(inputs)
    return (b - a) * upcast(inputs["hidden_states"]) - (a + b) * upcast(output[0])


def _amplitudes(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Those of data and noise in what Predict 1 is fed."""
    sigma = edm_sigma(inputs["timestep"])
    sigma = sigma.reshape(len(sigma), 1, -1, 1, 1)  # one, or one for every frame
    root = ((1 - sigma) ** 2 + sigma**2).sqrt()
    return (1 - sigma) / root, sigma / root


def noise_levels(pipeline: Any, steps: int, **arguments: Any) -> tuple[float, ...]:
    """Levels that the pipeline's scheduler calls the model at in so many steps, rising, after 0 (data).

    Args:
        **arguments: for the scheduler's `set_timesteps`.
    """
    own = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    own.set_timesteps(steps, **arguments)
    s = own.sigmas[: len(own.timesteps)].double().flip(0)
    flow = own.config.get("use_flow_sigmas")  # Predict 2.5
    return (0.0, *(s if flow else s / (s + own.config.get("sigma_data", 1.0))).tolist())


def edm_as_fed(latent: Float[Tensor, "b c f h w"], timestep: float) -> Float[Tensor, "b c f h w"]:
    """What Predict 1 is fed of a flow's latent."""
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
        own_sites, own_points, own_laws = spelled_block(f"blocks.{index}", path, block, learned)
        sites, points, laws = sites + own_sites, points + own_points, laws + own_laws
    if learned:
        points += _edm_estimates()
    else:
        points.append(point("hook_velocity", "b c f h w", VELOCITY, item(0)))
        points.append(clean_estimate(partial(grid, transformer), to_sigma=to_sigma))
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


def _last_modulation(told: tuple, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale behind the last block: its own, and a share of all."""
    shift, scale = (raw + argument("temb", 2).get(told)[..., : raw.shape[-1]]).chunk(2, -1)
    return shift, scale


def _time_embedded(time: Site) -> HookPoint:
    """Time as it is told to all modulations: (b, d), or (b, f, d) where it differs by frame."""

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
