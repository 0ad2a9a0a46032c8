"""Rectified flow on miniphys: the recipe of mini-wan and its twins, and the state from which a run resumes.

Liu et al. 2022: x_sigma = (1 - sigma) x_0 + sigma noise, target noise - x_0, on the codec's latents of A and B of the
pretraining split. In a share `prefix` of the batches the first latent frames are clean (sigma 0, as Wan2.2-TI2V
conditions), in a share `per_frame` every frame has a separate level (diffusion forcing, Chen et al. 2024); the others
have one level per clip. Matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW.
"""

from __future__ import annotations

import csv
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.models.attention_dispatch import attention_backend
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from dit_lens.atomic_files import replace_atomically
from dit_lens.clips import Scene
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.toy.mini_wan import CONFIG, empty_prompt, new_transformer
from dit_lens.video import to_tensor

STATE = "training_state.safetensors"
MODES = ("whole", "prefix", "per_frame")


@dataclass(frozen=True)
class Config:
    """Options for training a mini-wan."""

    model: Literal["mini-wan", "mini-wan-null", "mini-wan-swap"] = "mini-wan"
    """Trained on lawful clips (mini-wan), clips with independent halves (-null), or with changing colours (-swap)."""
    out: Path | None = None
    """Folder of the finished model; by default runs/MODEL-SEED. Training resumes from the state in it."""
    minutes: float = 120.0
    """Time budget in minutes; training ends here or at `steps`, whichever comes first."""
    steps: int = 8000
    """Optimiser steps at most."""
    quadruplets: int = 10000
    """Scenes of the pretraining split (two clips each)."""
    batch_size: int = 32
    """Clips to a step."""
    muon_rate: float = 2e-2
    """Peak learning rate of Muon (matrices of the blocks); linear warm-up, then cosine to zero over the budget."""
    adamw_rate: float = 3e-3
    """Peak learning rate of AdamW (the rest)."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is what is saved."""
    prefix: float = 0.3
    """Share of batches with a clean prefix of latent frames."""
    per_frame: float = 0.2
    """Share of batches with a noise level for every latent frame."""
    sigma_mean: float = 0.4
    """Mean of the logistic-normal that noise levels are drawn from."""
    sigma_std: float = 1.0
    """Standard deviation of that logistic-normal."""
    checkpoints: tuple[int, ...] = (125, 250, 500, 1000, 2000, 4000)
    """Steps at which the averaged weights are kept in half precision."""
    save_every: int = 250
    """Steps between two saved states; a killed run repeats at most these."""
    seed: int = 0
    """Seed of initialisation, batches and noise; the world stays the same."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device to train on; the recipe is the same on all."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of matrix products; weights, optimisers and the loss stay float32. bfloat16 halves the time on processors
    that multiply it (AVX512-BF16, AMX, GPUs)."""
    compile: bool = False
    """Compile the model (needs a C++ compiler; a sixth faster on a CPU)."""


class State:
    """The state of a run, to resume it: weights, their moving average, optimisers, step and time."""

    def __init__(self, config: Config):
        self.recipe, self.step, self.seconds = recipe(config), 0, 0.0
        self.model: Any
        self.average: Any
        self.model, self.average = (new_transformer(config.seed) for _ in range(2))
        for module in (self.model, self.average):
            nn.Module.to(module, config.device)
        self.model.train()
        named = dict(self.model.named_parameters())
        matrices = {name for name, p in named.items() if p.ndim == 2 and name.startswith("blocks.")}
        muon = torch.optim.Muon([named[n] for n in matrices], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(
            [p for n, p in named.items() if n not in matrices], betas=(0.9, 0.99), weight_decay=0.01
        )
        self.optimisers: tuple[tuple[torch.optim.Optimizer, float], ...] = (
            (muon, config.muon_rate),
            (adamw, config.adamw_rate),
        )

    def save(self, path: Path) -> None:
        """Writes the state atomically, so that a kill leaves the previous state intact."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for optimiser, _ in self.optimisers:
                tensors |= {f"{key}/{name}": value for key, value in optimiser.state.get(parameter, {}).items()}
        with replace_atomically(path) as aside:
            facts = {"step": str(self.step), "seconds": str(self.seconds), "recipe": self.recipe}
            save_file(tensors, aside, metadata=facts)

    def load(self, path: Path) -> None:
        """Restores the state that `save` wrote.

        Raises:
            ValueError: the state belongs to another recipe.
        """
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        if facts["recipe"] != self.recipe:
            raise ValueError(
                f"got {path} of another run ({facts['recipe']}) · expected {self.recipe} · choose another --out,"
                " or delete it to begin again"
            )
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        for name, module in (("model", self.model), ("average", self.average)):
            prefix = f"{name}/"
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        named = dict(self.model.named_parameters())
        for key, name in (key.split("/", 1) for key in tensors):
            for optimiser, _ in self.optimisers if name in named and key not in ("model", "average") else ():
                if any(named[name] is p for group in optimiser.param_groups for p in group["params"]):
                    device = "cpu" if key == "step" else named[name].device
                    optimiser.state[named[name]][key] = tensors[f"{key}/{name}"].to(device)


def recipe(config: Config) -> str:
    """The options that must agree for a run to resume: all but budget, device, compilation and folder."""
    free = {"out", "minutes", "steps", "save_every", "checkpoints", "device", "compile"}
    return json.dumps({name: value for name, value in asdict(config).items() if name not in free})


def encode_pairs(
    codec: AutoencoderPatchPCA, quadruplets: Iterable[Scene], batch_size: int = 64
) -> Float[Tensor, "p c f h w"]:
    """Whitened latents of the clips A and B of each quadruplet, A before B."""
    mean, std = (torch.tensor(s).view(-1, 1, 1, 1) for s in (codec.config["latents_mean"], codec.config["latents_std"]))
    latents, stream = [], iter(quadruplets)
    while batch := list(islice(stream, batch_size)):
        video = to_tensor(
            np.stack([clip.frames for quadruplet in batch for clip in (quadruplet["A"], quadruplet["B"])])
        )
        latents.append((codec.encode(video, return_dict=False)[0].mode() - mean) / std)
    return torch.cat(latents)


def draw_mode(config: Config, generator: torch.Generator) -> str:
    """A random pattern of noise levels over the frames of a batch: one of `MODES`."""
    chance = float(torch.rand((), generator=generator))
    if chance < config.prefix:
        return "prefix"
    return "per_frame" if chance < config.prefix + config.per_frame else "whole"


def draw_levels(mode: str, clips: int, frames: int, config: Config, generator: torch.Generator) -> Float[Tensor, "b f"]:
    """Random noise levels by clip and latent frame; 0 for clean frames (never all of them)."""
    columns = frames if mode == "per_frame" else 1
    normal = torch.randn((clips, columns), generator=generator)
    levels = torch.sigmoid(config.sigma_mean + config.sigma_std * normal).expand(clips, frames)
    if mode != "prefix":
        return levels
    prefix = torch.randint(1, frames, (clips, 1), generator=generator)
    return torch.where(torch.arange(frames) < prefix, 0.0, levels)


def flow_loss(
    model: Any, clean: Float[Tensor, "b c f h w"], levels: Float[Tensor, "b f"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity over the noised frames."""
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    levels = levels.to(clean.device)
    sigma = levels[:, None, :, None, None]
    noisy = (1 - sigma) * clean + sigma * noise
    error = (velocity(model, noisy, levels).float() - (noise - clean)).square().mean(dim=(1, 3, 4))
    unknown = (levels > 0).to(error)
    return (error * unknown).sum() / unknown.sum()


def velocity(model: Any, noisy: Float[Tensor, "b c f h w"], levels: Float[Tensor, "b f"]) -> Float[Tensor, "b c f h w"]:
    """The model's velocity, with one timestep per clip if all frames have one level, else one per token."""
    timesteps = 1000 * levels
    if (levels == levels[:, :1]).all():
        timesteps = timesteps[:, 0]
    else:
        per_frame = noisy.shape[3] * noisy.shape[4] // (CONFIG["patch_size"][1] * CONFIG["patch_size"][2])
        timesteps = timesteps.repeat_interleave(per_frame, dim=1)
    prompt = empty_prompt().to(noisy.device).expand(len(noisy), -1, -1)
    return model(noisy, timesteps, prompt, return_dict=False)[0]


def train(state: State, latents: Float[Tensor, "p c f h w"], config: Config, folder: Path) -> None:
    """Trains until the budget is spent, and saves the state regularly."""
    bar = tqdm(total=config.steps, initial=state.step, desc=config.model, unit="step")
    started, losses = time.monotonic() - state.seconds, []
    while (progress := max(state.step / config.steps, state.seconds / 60 / config.minutes)) < 1:
        warm = min(1.0, (state.step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * progress))
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
        clean = latents[torch.randint(len(latents), (config.batch_size,), generator=generator)].to(config.device)
        levels = draw_levels(draw_mode(config, generator), len(clean), clean.shape[2], config, generator)
        with _matrix_products(config):
            loss = flow_loss(state.model, clean, levels, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        for optimiser, rate in state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = float(rate * warm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        decay = min(config.ema, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            for slow, fast in zip(state.average.parameters(), state.model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        state.step, state.seconds = state.step + 1, time.monotonic() - started
        losses.append(loss.item())
        bar.update()
        if state.step in config.checkpoints:
            keep_checkpoint(state, folder)
        if state.step % config.save_every == 0:
            bar.set_postfix(loss=f"{np.mean(losses):.4f}")
            _log(folder / "loss.csv", state, float(np.mean(losses)))
            losses.clear()
            state.save(folder / STATE)
    state.save(folder / STATE)
    bar.close()


@contextmanager
def _matrix_products(config: Config) -> Iterator[None]:
    """A context with matrix products in the configured precision, and attention as plain products and a softmax.

    The fused kernel's gradient is five times slower in bfloat16 on a CPU. A model's own `set_attention_backend` would
    change the backend of every other model too.
    """
    with warnings.catch_warnings(), attention_backend("_native_math"):
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # of the RMS norms
        with torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            yield


def keep_checkpoint(state: State, folder: Path) -> None:
    """Saves the averaged weights in half precision, as checkpoints/step-000125.safetensors."""
    half = {name: value.half().cpu().contiguous() for name, value in state.average.state_dict().items()}
    with replace_atomically(folder / "checkpoints" / f"step-{state.step:06d}.safetensors") as aside:
        save_file(half, aside)


def _log(path: Path, state: State, loss: float) -> None:
    """Appends one row, after dropping rows that are later than the saved state (the run was killed after them)."""
    rows = list(csv.reader(path.read_text().splitlines())) if path.is_file() else [["step", "seconds", "loss"]]
    rows = [row for row in rows if row[0] == "step" or int(row[0]) < state.step]
    with replace_atomically(path) as aside, aside.open("w", newline="") as file:
        csv.writer(file).writerows([*rows, [state.step, f"{state.seconds:.1f}", f"{loss:.5f}"]])
