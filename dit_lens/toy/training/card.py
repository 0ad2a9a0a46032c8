"""Evaluation of a trained mini-wan: losses by mode and world, codec quality, pictures, and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dit_lens.clips import Scene
from dit_lens.continuation import Context, continue_frames
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.toy.miniphys import LAWS, SPLICE, MiniPhys
from dit_lens.toy.training.flow_matching import MODES, Config, draw_levels, encode_pairs, flow_loss, velocity
from dit_lens.toy.training.quality import reconstruction_quality
from dit_lens.video import to_frames, to_tensor

SEES = {
    "mini-wan": "possible clips only",
    "mini-wan-null": "clips whose halves know nothing of each other (the null twin)",
    "mini-wan-swap": "clips in which everything turns into its complementary colour behind the occluder",
}
SAMPLER = tuple(np.linspace(1, 0, 41).tolist())
GIVEN = 1 + (SPLICE - 1) // 4  # latent frames of the first half


@torch.no_grad()
def evaluate(
    model: Any, codec: AutoencoderPatchPCA, config: Config, quadruplets: int = 330
) -> dict[str, dict[str, float]]:
    """Held-out loss by world and mode, with the same noise for all, and the codec's PSNR in dB."""
    report = {}
    for law in LAWS:
        clips = MiniPhys("train", quadruplets, law=law)
        latents = encode_pairs(codec, clips)
        report[f"loss on {law}"] = {mode: _loss(model, latents, mode, config) for mode in MODES}
    video = torch.cat([to_tensor(_pair(q)) for q in MiniPhys("train", quadruplets)])
    rebuilt = codec.decode(codec.encode(video, return_dict=False)[0].mode(), return_dict=False)[0].clamp(-1, 1)
    return report | {"codec": reconstruction_quality(rebuilt, video)}


def _loss(model: Any, latents: Tensor, mode: str, config: Config) -> float:
    losses = []
    for number, clean in enumerate(latents.split(config.batch_size)):
        generator = torch.Generator().manual_seed(number)
        levels = draw_levels(mode, len(clean), clean.shape[2], config, generator)
        losses.append(flow_loss(model, clean.to(config.device), levels, generator).item() * len(clean))
    return sum(losses) / len(latents)


def _pair(quadruplet: Scene) -> UInt8[np.ndarray, "2 F H W 3"]:
    return np.stack([quadruplet["A"].frames, quadruplet["B"].frames])


@torch.no_grad()
def continue_from(
    model: Any, latents: Float[Tensor, "b c f h w"], clean_frames: int, generator: torch.Generator
) -> Float[Tensor, "b c f h w"]:
    """Clips whose first `clean_frames` latent frames stay at sigma 0 and whose others are sampled (40 Euler steps)."""
    context = Context(latents, torch.arange(latents.shape[2]) < clean_frames)
    noise = torch.randn(latents.shape, generator=generator)

    def predict(x: Tensor, levels: Tensor) -> Tensor:
        return velocity(model, x, levels.expand(len(x), -1))

    return continue_frames(predict, context, noise, SAMPLER)


def draw_pictures(model: Any, codec: AutoencoderPatchPCA, config: Config, folder: Path) -> None:
    """Draws samples.png (clips from noise) and continuations.png (true clips above those continued from a half)."""
    generator = torch.Generator().manual_seed(0)
    quadruplets = MiniPhys("test", 11)[:8]
    clean = encode_pairs(codec, quadruplets)[::2].to(config.device)
    sampled = _decode(codec, continue_from(model, clean, 0, generator))
    continued = _decode(codec, continue_from(model, clean, GIVEN, generator))
    truth = [q["A"].frames for q in quadruplets]
    _sheet(list(sampled), folder / "samples.png")
    _sheet([clip for rows in zip(truth, continued, strict=True) for clip in rows], folder / "continuations.png")


def _decode(codec: AutoencoderPatchPCA, latents: Tensor) -> UInt8[np.ndarray, "b F H W 3"]:
    mean, std = (torch.tensor(s).view(-1, 1, 1, 1) for s in (codec.config["latents_mean"], codec.config["latents_std"]))
    return to_frames(codec.decode(latents.cpu() * std + mean, return_dict=False)[0])


def _sheet(clips: Sequence[UInt8[np.ndarray, "F H W 3"]], path: Path, scale: int = 2) -> None:
    """Saves a contact sheet: one row per clip, every other frame, with a line between."""
    rows = [np.concatenate([np.pad(frame, ((0, 1), (0, 1), (0, 0))) for frame in clip[::2]], axis=1) for clip in clips]
    sheet = np.concatenate(rows)
    Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST).save(path)


def card(config: Config, report: dict[str, dict[str, float]], parameters: int, steps: int, seconds: float) -> str:
    """The model card, with the measurements of this run."""
    budget = f"--minutes {config.minutes:g} --steps {config.steps} --seed {config.seed}"
    worlds = {law: report[f"loss on {law}"] for law in LAWS}
    losses = "\n".join(
        f"| {mode.replace('_', ' ')} | " + " | ".join(f"{world[mode]:.4f}" for world in worlds.values()) + " |"
        for mode in MODES
    )
    threads = f" ({torch.get_num_threads()} threads)" if config.device == "cpu" else ""
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---
# {config.model}

A `WanTransformer3DModel` of {parameters / 1e6:.2f} M parameters trained by rectified flow on miniphys, on
{SEES[config.model]}. 17 frames of 32x32, latents 16 x 5 x 8 x 8 by a fixed patch-PCA codec, one fixed
empty-prompt embedding.

| | |
|---|---|
| command | `python -m dit_lens.toy.training --model {config.model} {budget}` |
| optimiser steps | {steps} of batch {config.batch_size} |
| time | {seconds / 60:.1f} min on {config.device}{threads} |
| codec PSNR, all pixels / moving pixels | {report["codec"]["psnr"]:.1f} dB / {report["codec"]["psnr_moving"]:.1f} dB |

Held-out loss by mode and world (the same scenes and noise; in other worlds, clips break this one's laws):

| noise levels | {" | ".join(worlds)} |
|---|{"---|" * len(worlds)}
{losses}

"whole": one level per clip. "prefix": the first frames clean (loss on the others). "per frame": a level for every
latent frame. Samples: `samples.png`; true clips and what it makes of their first half: `continuations.png`; loss
curve: `loss.csv`.

Every setting is in `training.json`. Load it with `dit_lens.DiTLens.from_pretrained`, or in plain diffusers, after
`import dit_lens.models.codec`, by `DiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)`. There
is no text encoder: call it with the embedding in `empty_prompt.safetensors` and `guidance_scale=1.0`. Made for
testing interpretability methods; it makes 32x32 toy videos.
"""
