"""Small random stock pipelines of all families, without text encoders, and what their calls feed the transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import test_cosmos
import test_ltx
import torch
from diffusers import (
    AllegroPipeline,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLMochi,
    ClassifierFreeGuidance,
    CogVideoXPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideoPipeline,
    LTXPipeline,
    MochiPipeline,
    SkyReelsV2Pipeline,
)
from diffusers.schedulers import (
    CogVideoXDDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from jaxtyping import Float
from small_models import build, skyreels
from small_pipelines import parts, quiet, wan
from torch import Tensor

from dit_lens import Conditioning, DiTLens
from dit_lens.families import find
from dit_lens.hook_points import Hook

STEPS = 5
TEXT, MASK = "encoder_hidden_states", "encoder_attention_mask"
BY_SIZE = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
COGVIDEOX: dict[str, Any] = {
    "clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}  # fmt: skip
WIDTHS: Any = (32,) * 5
Case = tuple[Any, dict[str, Tensor], dict[str, Any]]


def conditioning_of(family: str) -> dict[str, Tensor]:
    """Conditioning of one clip for a family's small model."""
    return told_to(build(family))


def told_to(transformer: Any) -> dict[str, Tensor]:
    """Conditioning of one clip."""
    conditioning = find(transformer).example(transformer, torch.Generator().manual_seed(0))[1]
    return {name: tensor[:1] for name, tensor in conditioning.items()}


def prompts(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What most pipelines call text and its mask."""
    known = {"prompt_embeds": tensors[TEXT], "prompt_attention_mask": tensors.get(MASK)}
    return {name: tensor for name, tensor in known.items() if tensor is not None}


def texts(*kinds: str) -> dict[str, Any]:
    """No text encoders."""
    return {f"{part}{kind}": None for kind in kinds for part in ("text_encoder", "tokenizer")}


def by_wan() -> Case:
    tensors = conditioning_of("wan")
    return wan(), {TEXT: tensors[TEXT]}, {"prompt_embeds": tensors[TEXT], "num_frames": 5}


def by_skyreels() -> Case:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0, solver_order=1,
        disable_corrector=list(range(STEPS)),
    )  # fmt: skip
    torch.manual_seed(0)
    transformer = skyreels(inject_sample_info=False, num_frame_per_block=1).eval()
    text = {TEXT: conditioning_of("wan")[TEXT]}
    pipe = SkyReelsV2Pipeline(**parts(transformer=transformer, scheduler=scheduler))
    return pipe, text, {"prompt_embeds": text[TEXT], "num_frames": 5}


def by_hunyuan() -> Case:
    tensors, widths = conditioning_of("hunyuan"), (8, 8, 8, 8)
    vae: Any = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=widths, layers_per_block=1, norm_num_groups=4,  # type: ignore[arg-type]
        mid_block_add_attention=False,
    )  # fmt: skip
    shifted = FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe = HunyuanVideoPipeline(transformer=build("hunyuan"), vae=vae, scheduler=shifted, **texts("", "_2"))
    call = prompts(tensors) | {"pooled_prompt_embeds": tensors["pooled_projections"], "num_frames": 5}
    return pipe, tensors, call | {"guidance_scale": 6.0}


def by_hunyuan15() -> Case:
    tensors = conditioning_of("hunyuan15")  # fewer image tokens than the pipeline feeds; all are masked
    vae: Any = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=WIDTHS, layers_per_block=1)
    pipe = HunyuanVideo15Pipeline(
        transformer=build("hunyuan15"), vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=ClassifierFreeGuidance(guidance_scale=1.0), **texts("", "_2"),
    )  # fmt: skip
    text = {
        "prompt_embeds": tensors[TEXT],
        "prompt_embeds_mask": tensors[MASK],
        "prompt_embeds_2": tensors[f"{TEXT}_2"],
        "prompt_embeds_mask_2": tensors[f"{MASK}_2"],
    }
    return pipe, tensors, text | {"num_frames": 5, "height": 64, "width": 64, "guidance_scale": None}


def by_ltx() -> Case:
    tensors = conditioning_of("ltx")
    vae = test_ltx.autoencoder(timestep_conditioning=False)
    pipe = LTXPipeline(vae=vae, transformer=build("ltx"), scheduler=BY_SIZE, **texts(""))
    return pipe, tensors, prompts(tensors) | {"num_frames": 9, "height": 64, "width": 96}


def by_mochi() -> Case:
    tensors = conditioning_of("mochi")
    vae: Any = AutoencoderKLMochi(
        latent_channels=4, encoder_block_out_channels=WIDTHS[1:], decoder_block_out_channels=WIDTHS[1:],
        layers_per_block=(1, 1, 1, 1, 1), latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    pipe = MochiPipeline(transformer=build("mochi"), vae=vae, scheduler=scheduler, **texts(""))
    guided = {"negative_prompt_embeds": tensors[TEXT], "negative_prompt_attention_mask": tensors[MASK]}
    return pipe, tensors, prompts(tensors) | guided | {"num_frames": 7}


def by_cogvideox(scheduler: Any = None, model: str = "cogvideox") -> Case:
    scheduler = scheduler or CogVideoXDDIMScheduler(**COGVIDEOX, snr_shift_scale=1.0)
    tensors = conditioning_of(model)
    pipe = CogVideoXPipeline(vae=None, transformer=build(model), scheduler=scheduler, **texts(""))  # type: ignore[arg-type]
    return pipe, tensors, {"prompt_embeds": tensors[TEXT], "num_frames": 5}


def by_cogvideox_2b() -> Case:
    return by_cogvideox(CogVideoXDDIMScheduler(**COGVIDEOX, snr_shift_scale=3.0), "cogvideox_2b")


def by_allegro(scheduler: Any = None) -> Case:
    tensors, scheduler = conditioning_of("allegro"), scheduler or EulerDiscreteScheduler()
    pipe = AllegroPipeline(vae=None, transformer=build("allegro"), scheduler=scheduler, **texts(""))  # type: ignore[arg-type]
    return pipe, tensors, prompts(tensors) | {"num_frames": 8}


def by_cosmos(name: str) -> Case:
    pipe, call = test_cosmos.pipeline(name)
    text = told_to(pipe.transformer)
    return pipe, text, call | {"prompt_embeds": text[TEXT], "negative_prompt_embeds": text[TEXT]}


CASES: dict[str, Callable[[], Case]] = {
    "wan": by_wan,
    "skyreels": by_skyreels,
    "hunyuan": by_hunyuan,
    "hunyuan15": by_hunyuan15,
    "ltx": by_ltx,
    "mochi": by_mochi,
    "cogvideox": by_cogvideox,
    "cogvideox_2b": by_cogvideox_2b,
    "allegro": by_allegro,
    "cosmos_1": lambda: by_cosmos("cosmos_1"),
    "cosmos": lambda: by_cosmos("cosmos"),
    "cosmos_25": lambda: by_cosmos("cosmos_25"),
}


class Calls:
    """A lens on a stock pipeline, and what its call fed the transformer, from noise to data.

    Attributes:
        fed: latents (b, c, f, h, w).
        timesteps: as they were told.
    """

    def __init__(self, case: Case, steps: int = STEPS):
        pipe, tensors, call = case
        self.lens = DiTLens(quiet(pipe), "small", Conditioning(tensors), verify=False)
        self.fed, self.timesteps = [], []
        with self.lens.hooks([("hook_latent", self.look)]):
            handle = pipe.transformer.register_forward_pre_hook(self.hear, with_kwargs=True)
            arguments = {"height": 32, "width": 32, "guidance_scale": 1.0, "output_type": "latent"} | call
            kept = {name: value for name, value in arguments.items() if value is not None}
            pipe(**kept, num_inference_steps=steps, generator=torch.Generator().manual_seed(3))
            handle.remove()

    def look(self, x: Float[Tensor, "b c f h w"], hook: Hook) -> None:
        self.fed.append(x.clone())

    def hear(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.timesteps.append(float(kwargs["timestep"].max()))
