"""The recipe of mini-vae: `python -m dit_lens.toy.training.autoencoder --minutes 40`.

A stock causal `AutoencoderKLWan`, trained from scratch on clips A and B of miniphys' pretraining split. Moving pixels
weigh more than still ones, and Muon (Jordan et al. 2024) trains the convolution kernels, flattened to matrices.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from dit_lens.atomic_files import replace_atomically
from dit_lens.clips import Scene
from dit_lens.toy.mini_vae import new_autoencoder, whiten, whole_clips
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.training.quality import draw_rebuilt, moving_pixels, reconstruction_quality
from dit_lens.video import to_frames, to_tensor

STATE = "training_state.pt"
HELD_OUT = 110  # quadruplets


@dataclass(frozen=True)
class Config:
    """Options for training mini-vae."""

    out: Path = Path("runs/mini-vae")
    """Folder of the finished model. Training resumes from what it holds."""
    minutes: float = 40.0
    """Time budget in minutes; training ends here or at `steps`, whichever comes first."""
    steps: int = 30000
    """Optimiser steps at most."""
    quadruplets: int = 4400
    """Scenes of the pretraining split (two clips each)."""
    batch_size: int = 4
    """Clips to a step."""
    frames: int = 9
    """Frames of the cut that is trained on, 4k + 1; being causal, the autoencoder takes longer clips as well."""
    moving_weight: float = 15.0
    """What a moving pixel's squared error weighs beyond a still one's 1."""
    kl_weight: float = 1e-6
    """Weight of the Kullback-Leibler divergence from a standard normal, summed over a position's channels."""
    muon_rate: float = 0.02
    """Peak learning rate of Muon (convolution kernels); linear warm-up, then cosine to zero over the budget."""
    adamw_rate: float = 3e-3
    """Peak learning rate of AdamW (biases and gains)."""
    ema: float = 0.995
    """Decay of the moving average of the weights, which is what is saved."""
    save_every: int = 500
    """Steps between two saved states; a killed run repeats at most these."""
    seed: int = 0
    """Seed of initialisation, batches and noise; the world stays the same."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device to train on; the recipe is the same on all."""


class State:
    """The state of a run, to resume it: weights, their moving average, optimisers, step and time."""

    def __init__(self, config: Config):
        self.recipe, self.step, self.seconds = recipe(config), 0, 0.0
        self.model: Any = new_autoencoder(config.seed)
        nn.Module.to(self.model, config.device).train()
        self.average: Any = deepcopy(self.model).eval()
        named = dict(self.model.named_parameters())
        # Muon takes matrices alone: views (out, in * kernel) of the kernels' memory, which it updates in place.
        self.kernels = {n: nn.Parameter(p.detach().flatten(1)) for n, p in named.items() if n.endswith(".weight")}
        muon = torch.optim.Muon(self.kernels.values(), weight_decay=0.0)
        others = [p for n, p in named.items() if n not in self.kernels]
        adamw = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)
        self.rates = {muon: config.muon_rate, adamw: config.adamw_rate}
        self.parts = {"model": self.model, "average": self.average, "muon": muon, "adamw": adamw}

    def update(self, loss: Float[Tensor, ""], warm: float, ema: float) -> None:
        """One optimiser step at `warm` times the peak learning rates."""
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for name, kernel in self.kernels.items():
            kernel.grad = self.model.get_parameter(name).grad.flatten(1)
        for optimiser, rate in self.rates.items():
            for group in optimiser.param_groups:
                group["lr"] = rate * warm
            optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(ema, (1 + self.step) / (10 + self.step)))

    def save(self, path: Path) -> None:
        """Writes the state atomically, so that a kill leaves the previous state intact."""
        facts = {"recipe": self.recipe, "step": self.step, "seconds": self.seconds}
        with replace_atomically(path) as aside:
            torch.save(facts | {name: part.state_dict() for name, part in self.parts.items()}, aside)

    def load(self, path: Path) -> None:
        """Restores the state that `save` wrote.

        Raises:
            ValueError: the state belongs to another recipe.
        """
        saved = torch.load(path, weights_only=True)
        if saved["recipe"] != self.recipe:
            hint = "choose another --out, or delete it to begin again"
            raise ValueError(f"got {path} of another run ({saved['recipe']}) · expected {self.recipe} · {hint}")
        self.step, self.seconds = saved["step"], saved["seconds"]
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])


def recipe(config: Config) -> str:
    """The options that must agree for a run to resume: all but budget, device and folder."""
    free = {"out", "minutes", "steps", "save_every", "device"}
    return json.dumps({name: value for name, value in asdict(config).items() if name not in free})


def draw_batch(
    clips: UInt8[np.ndarray, "n F H W 3"], config: Config, generator: torch.Generator
) -> tuple[Float[Tensor, "b 3 f H W"], Float[Tensor, "b 1 f H W"]]:
    """Cuts of `config.frames` frames out of clips drawn at random, and the weights of their pixels."""
    video = to_tensor(clips[torch.randint(len(clips), (config.batch_size,), generator=generator).numpy()])
    weight = 1 + config.moving_weight * moving_pixels(video)
    start = 4 * int(torch.randint((video.shape[2] - config.frames) // 4 + 1, (), generator=generator))
    cut = (slice(None), slice(None), slice(start, start + config.frames))
    return video[cut].to(config.device, memory_format=torch.channels_last_3d), weight[cut].to(config.device)


def reconstruction_loss(
    vae: Any, video: Float[Tensor, "b 3 f H W"], weight: Float[Tensor, "b 1 f H W"], kl: float, rng: torch.Generator
) -> Float[Tensor, ""]:
    """Weighted mean squared error from latents drawn from the posterior, and `kl` times the divergence.

    Under `whole_clips` only. The error is the decoder's own, before stock `decode` clips it to [-1, 1].
    """
    posterior = DiagonalGaussianDistribution(vae.quant_conv(vae.encoder(video)))
    noise = torch.randn(posterior.mean.shape, generator=rng).to(video.device)
    rebuilt = vae.decoder(vae.post_quant_conv(posterior.mean + posterior.std * noise), first_chunk=True)
    error = ((rebuilt - video).square().mean(dim=1, keepdim=True) * weight).sum() / weight.sum()
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).sum(dim=1).mean()
    return error + kl * divergence


def train(state: State, clips: UInt8[np.ndarray, "n F H W 3"], config: Config) -> None:
    """Runs until the budget is spent, saving the state as it goes."""
    bar = tqdm(total=config.steps, initial=state.step, desc="mini-vae", unit="step")
    started, losses = time.monotonic() - state.seconds, []
    while (progress := max(state.step / config.steps, state.seconds / 60 / config.minutes)) < 1:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
        batch = draw_batch(clips, config, generator)
        loss = reconstruction_loss(state.model, *batch, config.kl_weight, generator)
        state.update(loss, min(1.0, (state.step + 1) / 50) * 0.5 * (1 + float(np.cos(np.pi * progress))), config.ema)
        state.step, state.seconds = state.step + 1, time.monotonic() - started
        losses.append(loss.item())
        bar.update()
        if state.step % config.save_every == 0:
            bar.set_postfix(loss=f"{np.mean(losses):.4f}")
            _log(config.out / "loss.csv", state, float(np.mean(losses)))
            state.save(config.out / STATE)
            losses.clear()
    state.save(config.out / STATE)
    bar.close()


def _log(path: Path, state: State, loss: float) -> None:
    """Appends one row, after dropping rows that are later than the saved state (the run was killed after them)."""
    rows = list(csv.reader(path.read_text().splitlines())) if path.is_file() else [["step", "seconds", "loss"]]
    rows = [row for row in rows if row[0] == "step" or int(row[0]) < state.step]
    with replace_atomically(path) as aside, aside.open("w", newline="") as file:
        csv.writer(file).writerows([*rows, [state.step, f"{state.seconds:.1f}", f"{loss:.5f}"]])


def frames_of(quadruplets: Iterable[Scene]) -> UInt8[np.ndarray, "n F H W 3"]:
    """The clips A and B of each quadruplet."""
    return np.stack([clip.frames for quadruplet in quadruplets for clip in (quadruplet["A"], quadruplet["B"])])


@torch.no_grad()
def evaluate(vae: Any, config: Config, folder: Path) -> dict[str, float]:
    """Held-out loss and PSNR in dB; draws samples.png."""
    clips = frames_of(MiniPhys("train", min(HELD_OUT, config.quadruplets)))
    with whole_clips(vae):
        generator = torch.Generator().manual_seed(0)
        batches = [draw_batch(clips, config, generator) for _ in range(len(clips) // config.batch_size)]
        losses = [reconstruction_loss(vae, *batch, config.kl_weight, generator).item() for batch in batches]
    video = to_tensor(clips)
    rebuilt = torch.cat([vae(batch, return_dict=False)[0] for batch in video.split(50)])
    draw_rebuilt(clips[:8:2], to_frames(rebuilt[:8:2]), folder / "samples.png")
    return {"loss": float(np.mean(losses))} | reconstruction_quality(rebuilt, video)


def card(config: Config, state: State, report: dict[str, float]) -> str:
    """The model card, with the measurements of this run."""
    return f"""---
license: apache-2.0
library_name: diffusers
---
# mini-vae

A causal `AutoencoderKLWan`, trained from scratch on miniphys: 17 frames of 32x32 become latents of 16 x 5 x 8 x 8.
Settings: `training.json`. Loss curve: `loss.csv`. Held-out clips above their reconstructions: `samples.png`.

| | |
|---|---|
| command | `python -m dit_lens.toy.training.autoencoder --minutes {config.minutes:g} --seed {config.seed}` |
| parameters | {state.model.num_parameters() / 1e6:.2f} M |
| optimiser steps | {state.step} of batch {config.batch_size} x {config.frames} frames |
| time | {state.seconds / 60:.1f} min on {config.device} ({torch.get_num_threads()} threads) |
| held-out loss | {report["loss"]:.5f} |
| held-out PSNR, all pixels / moving pixels | {report["psnr"]:.1f} dB / {report["psnr_moving"]:.1f} dB |

Load it in plain diffusers by `AutoencoderKLWan.from_pretrained(folder)`; (z - latents_mean) / latents_std of its config
whitens the latents. Made for testing interpretability methods on 32x32 toy videos.
"""


def run(config: Config) -> Path:
    """Trains (or resumes), measures and writes a diffusers folder with its card; returns the folder."""
    config.out.mkdir(parents=True, exist_ok=True)
    clips = frames_of(tqdm(MiniPhys("pretrain", config.quadruplets), desc="drawing", unit="quadruplet"))
    state = State(config)
    if (config.out / STATE).is_file():
        state.load(config.out / STATE)
    with whole_clips(state.model):
        train(state, clips, config)
    vae = state.average.cpu()
    whiten(vae, to_tensor(clips[:1000]).split(50))
    vae.save_pretrained(config.out, safe_serialization=True)
    report = evaluate(vae, replace(config, device="cpu"), config.out)
    facts = {"out": str(config.out), "report": report, "torch": torch.__version__}
    (config.out / "training.json").write_text(json.dumps(asdict(config) | facts, indent=1))
    (config.out / "README.md").write_text(card(config, state, report))
    return config.out


if __name__ == "__main__":
    print("saved", run(tyro.cli(Config, description=__doc__)))
