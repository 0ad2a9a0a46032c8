"""Small random stock pipelines around the small transformers, without text encoders: what is called in tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from small_models import build
from small_models import skyreels as small_skyreels
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from dit_lens import Conditioning, DiTLens

FRAMES, SIZE, LATENT = 5, 32, (1, 4, 2, 4, 4)
CALL = {"height": SIZE, "width": SIZE, "num_frames": FRAMES, "output_type": "latent"}


def autoencoder() -> AutoencoderKLWan:
    """Of 4 channels, compressing 4 times in time and 8 times in space; its latents are normalised."""
    torch.manual_seed(5)
    vae: Any = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.8, 1.1, 1.0, 0.9],
    )  # fmt: skip
    return vae.eval().requires_grad_(False)


def text(seed: int = 0, tokens: int = 3) -> Tensor:
    """What stands for an encoded prompt, (1, tokens, 16)."""
    return torch.randn(1, tokens, 16, generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 0) -> Tensor:
    """Latents to start from."""
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))


def image(seed: int = 0) -> Tensor:
    """A first frame, (1, 3, H, W) in [0, 1]."""
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def parts(**others: Any) -> dict[str, Any]:
    """What a pipeline is made of, beside its transformers."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return {"tokenizer": None, "text_encoder": None, "vae": autoencoder(), "scheduler": scheduler, **others}


def quiet(pipeline: Any) -> Any:
    """The pipeline without a progress bar."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def wan(**others: Any) -> WanPipeline:
    """A text-to-video Wan."""
    return quiet(WanPipeline(**parts(**{"transformer": build("wan"), **others})))


def experts(boundary: float = 0.7) -> WanPipeline:
    """A Wan 2.2 of two experts."""
    return wan(transformer_2=build("wan", seed=1), boundary_ratio=boundary)


def image_to_video(name: str, **others: Any) -> WanImageToVideoPipeline:
    """An image-to-video Wan, without image encoder."""
    return quiet(WanImageToVideoPipeline(**parts(**{"transformer": build(name), **others})))


def skyreels(kind: Any, steps: int, others: dict[str, Any] | None = None, **config: Any) -> Any:
    """A SkyReels-V2 pipeline of that class; `others` are its other parts.

    Its scheduler is that of the published models, but of first order, without correction: Euler's rule.
    """
    torch.manual_seed(0)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0, solver_order=1,
        disable_corrector=list(range(steps)),
    )  # fmt: skip
    transformer: Any = small_skyreels(**{"num_frame_per_block": 1} | config).eval()
    return quiet(kind(**parts(transformer=transformer, scheduler=scheduler, **others or {})))


def lens_on(pipeline: Any, **conditioning: Tensor) -> DiTLens:
    """A lens that tells the pipeline's transformer of a prompt, and of what else is given."""
    return DiTLens(pipeline, "small", Conditioning({"encoder_hidden_states": text(), **conditioning}), verify=False)


def image_encoder() -> dict[str, Any]:
    """A CLIP of 5 image tokens of width 10, and what makes its input."""
    torch.manual_seed(6)
    config = CLIPVisionConfig(
        hidden_size=10, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size=size, crop_size=size, do_rescale=False)
    return {"image_encoder": CLIPVisionModel(config).eval(), "image_processor": processor}
