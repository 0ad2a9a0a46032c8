"""The description of one diffusers architecture: a frozen dataclass whose optional fields have defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

import dit_lens.families.conventions as conventions
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Table


def _no_boundary(pipeline: Any) -> float | None:
    return None


def _one_time(pipeline: Any) -> bool:
    return False


def _no_frames(conditioning: Mapping[str, Tensor]) -> Tensor | None:
    return None


def _no_arguments(pipeline: Any, latent: Tensor | None, steps: int) -> dict[str, Any]:
    return {}


def _all_run(transformer: Any, inputs: Mapping[str, Any], name: str) -> bool:
    return False


@dataclass(frozen=True)
class Family:
    """One diffusers architecture: its hook points, and how its pipeline calls the transformer.

    Defaults are what most families share; a family sets only the fields in which it differs.

    Attributes:
        name: the family's name in results and messages.
        transformer: the diffusers class.
        conditioning: names of the transformer's inputs other than latent and timestep.
        example: (transformer, generator) -> a small random latent and conditioning, to verify a model with.
        inputs: (transformer, latent, timestep, conditioning) -> keyword arguments of one evaluation.
        hook_table: transformer -> every hook point.
        encode_prompt: (pipeline, prompt) -> `Conditioning`, as the pipeline's `__call__` makes it by default.
        encode_image: (pipeline, image, size, ...) -> conditioning of a first frame by name; None where there is none.
        encode: (vae, video (b, 3, F, H, W) in [-1, 1]) -> normalised latent (b, c, f, h, w).
        decode: (vae, latent) -> video.
        check_pipeline: raises TypeError if a pipeline has parts that would be ignored silently.
        optional: those of `conditioning` that have a default.
        to_timestep: noise level in [0, 1] -> the transformer's timestep.
        to_sigma: timesteps -> noise levels.
        velocity: (inputs, output) -> noise - data.
        input_dtype: transformer -> the dtype of its input latents.
        grid: (transformer, inputs) -> `TokenGrid`.
        for_transformer: (family, transformer) -> the family, where conventions differ from model to model.
        for_pipeline: (family, pipeline) -> the family, where they differ from pipeline to pipeline.
        call_names: names of conditioning as arguments of the pipeline's `__call__`, where they differ.
        contexts: the guidance branch of each call of a step, in order and named as in `cache_context`, for pipelines
            that do not set that context.
        guided_from_cond: whether guidance is cond + scale (cond - uncond), not uncond + scale (cond - uncond).
        output: the class of the transformer's output.
        passed_over: (transformer, inputs, hook point) -> whether this evaluation skips the point.
        boundary: pipeline -> the noise level at which the two experts change over; None without experts.
        by_frame: pipeline -> whether there is a timestep for every latent frame or token.
        given_frames: conditioning by name -> the clean latent of the first frames (b, c, g, h, w); None without any.
        schedule_arguments: (pipeline, latent or None, steps) -> the pipeline's arguments to its scheduler.
        time_by_token: whether `inputs` takes a timestep for each frame or token.
        noise_levels: (pipeline, steps, **arguments) -> 0 and the ascending noise levels, for schedulers that do not use
            a flow's noise levels.
        as_fed: (latent, timestep) -> the transformer's input latent, from a flow's latent, where the two differ.
        frames_first: whether the pipeline's latents are (b, f, c, h, w), so that a scheduler draws noise in this order.
    """

    name: str
    transformer: type[nn.Module]
    conditioning: tuple[str, ...]
    example: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    inputs: Callable[..., dict[str, Any]]
    hook_table: Callable[[Any], Table]
    encode_prompt: Callable[[Any, str], Conditioning] = conventions.encode_prompt
    encode_image: Callable[..., Any] | None = None
    encode: Callable[[Any, Tensor], Tensor] = conventions.encode
    decode: Callable[[Any, Tensor], Tensor] = conventions.decode
    check_pipeline: Callable[[Any], None] = conventions.check_channels
    optional: tuple[str, ...] = ()
    to_timestep: Callable[[float], float] = conventions.to_timestep
    to_sigma: Callable[[Tensor], Tensor] = conventions.to_sigma
    velocity: Callable[[Mapping[str, Any], tuple], Tensor] = conventions.velocity
    input_dtype: Callable[[Any], torch.dtype] = conventions.input_dtype
    grid: Callable[[Any, Mapping[str, Any]], TokenGrid] = conventions.grid
    for_transformer: Callable[[Family, Any], Family] | None = None
    for_pipeline: Callable[[Family, Any], Family] | None = None
    call_names: Mapping[str, str] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    guided_from_cond: bool = False
    output: Callable[..., Any] = Transformer2DModelOutput
    passed_over: Callable[[Any, Mapping[str, Any], str], bool] = _all_run
    boundary: Callable[[Any], float | None] = _no_boundary
    by_frame: Callable[[Any], bool] = _one_time
    given_frames: Callable[[Mapping[str, Tensor]], Tensor | None] = _no_frames
    schedule_arguments: Callable[[Any, Tensor | None, int], dict[str, Any]] = _no_arguments
    time_by_token: bool = False
    noise_levels: Callable[..., tuple[float, ...]] | None = None
    as_fed: Callable[[Tensor, float], Tensor] | None = None
    frames_first: bool = False

    def of_transformer(self, transformer: Any) -> Family:
        """The family with the conventions of one transformer."""
        return self if self.for_transformer is None else self.for_transformer(self, transformer)

    def of_pipeline(self, pipeline: Any) -> Family:
        """The family with the conventions of one pipeline."""
        return self if self.for_pipeline is None else self.for_pipeline(self, pipeline)
