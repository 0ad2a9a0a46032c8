"""The recipe of mini-wan and its null twin: `python -m dit_lens.training --model mini-wan --minutes 25`.

Rectified flow (Liu et al. 2022) on latents of miniphys' pretraining split: x_sigma = (1 - sigma) x_0 + sigma noise,
target noise - x_0. mini-wan sees possible clips only. mini-wan-null sees the same kind of scene, but presence, shape,
colour, height and direction of the second half are drawn independently of the first: no law ties the halves.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from dit_lens.clips import Quadruplet
from dit_lens.datasets.miniphys import LAWLESS, SPLICE, MiniPhys
from dit_lens.models.codec import AutoencoderPatchPCA, fit_patch_pca
from dit_lens.models.mini_wan import assemble, empty_prompt, new_transformer, save
from dit_lens.results import replace_atomically
from dit_lens.video import psnr, to_tensor

STATE = "training_state.safetensors"
SPLICE_LATENT = 1 + (SPLICE - 1) // 4


@dataclass(frozen=True)
class Config:
    """How a mini-wan is trained."""

    model: Literal["mini-wan", "mini-wan-null"] = "mini-wan"
    """Lawful clips (mini-wan), or clips whose halves are independent (mini-wan-null)."""
    out: Path | None = None
    """Folder of the finished model; runs/MODEL unless told. Training resumes from what it holds."""
    minutes: float = 60.0
    """Time budget in minutes; training ends here or at `steps`, whichever comes first."""
    steps: int = 4000
    """Optimiser steps at most."""
    quadruplets: int = 6000
    """Quadruplets of the pretraining split (two possible clips each)."""
    batch_size: int = 32
    """Clips to a step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; linear warm-up, then cosine to zero over the budget."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is what is saved."""
    sigma_mean: float = 0.4
    """Mean of the logistic-normal that noise levels are drawn from."""
    sigma_std: float = 1.0
    """Standard deviation of that logistic-normal."""
    save_every: int = 250
    """Steps between two saved states; a killed run repeats at most these."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device to train on; the recipe is the same on all."""


@dataclass
class State:
    """What a run needs to go on: the weights, their average, the optimiser, how far and for how long."""

    model: Any
    average: WanTransformer3DModel
    optimiser: torch.optim.AdamW
    recipe: str
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Written aside and renamed, so that a kill leaves the previous state whole."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"{key}/{name}": value for key, value in self.optimiser.state.get(parameter, {}).items()}
        with replace_atomically(path) as aside:
            facts = {"step": str(self.step), "seconds": str(self.seconds), "recipe": self.recipe}
            save_file(tensors, aside, metadata=facts)

    def load(self, path: Path) -> None:
        """Takes up the state that `save` wrote.

        Raises:
            ValueError: it belongs to another recipe.
        """
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        if facts["recipe"] != self.recipe:
            raise ValueError(
                f"got {path} of another run ({facts['recipe']}) · expected {self.recipe} · choose another --out,"
                " or delete it to begin anew"
            )
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        for name, module in (("model", self.model), ("average", self.average)):
            prefix = f"{name}/"
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for name, parameter in self.model.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimiser.state[parameter] = {
                key: tensors[f"{key}/{name}"].to(parameter.device if key != "step" else "cpu") for key in keys
            }


def recipe(config: Config) -> str:
    """What must agree for a run to be taken up again: all options but budget, device and folder."""
    free = {"out", "minutes", "steps", "save_every", "device"}
    return json.dumps({name: value for name, value in asdict(config).items() if name not in free})


def encode_halves(codec: AutoencoderPatchPCA, quadruplets: Iterator[Quadruplet]) -> Float[Tensor, "q 2 c f h w"]:
    """Whitened latents of A and B of each quadruplet."""
    mean, std = (torch.tensor(s).view(-1, 1, 1, 1) for s in (codec.config["latents_mean"], codec.config["latents_std"]))
    pairs = []
    for quadruplet in quadruplets:
        video = to_tensor(np.stack([quadruplet.a.frames, quadruplet.b.frames]))
        pairs.append((codec.encode(video, return_dict=False)[0].mode() - mean) / std)
    return torch.stack(pairs)


def draw_batch(
    latents: Float[Tensor, "q 2 c f h w"], crossed: bool, size: int, generator: torch.Generator
) -> Float[Tensor, "b c f h w"]:
    """Clips A or B whole, or crossed: the first half of one with the second half of the other."""
    which = torch.randint(len(latents), (size,), generator=generator)
    first = torch.randint(2, (size,), generator=generator)
    second = 1 - first if crossed else first
    return torch.cat([latents[which, first, :, :SPLICE_LATENT], latents[which, second, :, SPLICE_LATENT:]], dim=2)


def flow_loss(
    model: Any, clean: Float[Tensor, "b c f h w"], config: Config, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity at noise levels drawn for training."""
    normal = torch.randn(len(clean), generator=generator)
    sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * normal).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    level = sigma.view(-1, 1, 1, 1, 1)
    prompt = empty_prompt().to(clean.device).expand(len(clean), -1, -1)
    velocity = model((1 - level) * clean + level * noise, 1000 * sigma, prompt, return_dict=False)[0]
    return torch.nn.functional.mse_loss(velocity, noise - clean)


def train(state: State, latents: Float[Tensor, "q 2 c f h w"], config: Config, folder: Path) -> None:
    """Runs until the budget is spent, saving the state as it goes."""
    crossed = config.model == "mini-wan-null"
    bar = tqdm(total=config.steps, initial=state.step, desc=config.model, unit="step")
    started, losses = time.monotonic() - state.seconds, []
    while (progress := max(state.step / config.steps, state.seconds / 60 / config.minutes)) < 1:
        rate = config.learning_rate * min(1.0, state.step / 100) * 0.5 * (1 + np.cos(np.pi * progress))
        for group in state.optimiser.param_groups:
            group["lr"] = float(rate)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
        clean = draw_batch(latents, crossed, config.batch_size, generator).to(config.device)
        loss = flow_loss(state.model, clean, config, generator)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        state.optimiser.step()
        decay = min(config.ema, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            for slow, fast in zip(state.average.parameters(), state.model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        state.step, state.seconds = state.step + 1, time.monotonic() - started
        losses.append(loss.item())
        bar.update()
        if state.step % config.save_every == 0:
            bar.set_postfix(loss=f"{np.mean(losses):.4f}")
            _log(folder / "loss.csv", state, float(np.mean(losses)))
            losses.clear()
            state.save(folder / STATE)
    state.save(folder / STATE)
    bar.close()


def _log(path: Path, state: State, loss: float) -> None:
    """Appends one row; rows that a kill had cut off from the saved state are dropped first."""
    rows = list(csv.reader(path.read_text().splitlines())) if path.is_file() else [["step", "seconds", "loss"]]
    rows = [row for row in rows if row[0] == "step" or int(row[0]) < state.step]
    with replace_atomically(path) as aside, aside.open("w", newline="") as file:
        csv.writer(file).writerows([*rows, [state.step, f"{state.seconds:.1f}", f"{loss:.5f}"]])


@torch.no_grad()
def evaluate(model: Any, codec: AutoencoderPatchPCA, config: Config, quadruplets: int = 200) -> dict[str, float]:
    """Held-out loss on lawful and on lawless clips (same noise), and what the codec loses, in dB."""
    held_out = MiniPhys("train", quadruplets, seed=config.seed)
    lawless = MiniPhys("train", quadruplets, properties=[LAWLESS], seed=config.seed)
    report = {}
    for name, clips, crossed in (("loss_lawful", held_out, False), ("loss_lawless", lawless, True)):
        latents, losses = encode_halves(codec, iter(clips)), []
        for i in range(quadruplets // 10):
            generator = torch.Generator().manual_seed(i)
            clean = draw_batch(latents, crossed, config.batch_size, generator).to(config.device)
            losses.append(flow_loss(model, clean, config, generator).item())
        report[name] = float(np.mean(losses))
    video = torch.cat([to_tensor(np.stack([q.a.frames, q.b.frames])) for q in held_out])
    rebuilt = codec.decode(codec.encode(video, return_dict=False)[0].mode(), return_dict=False)[0].clamp(-1, 1)
    still = video.median(dim=2, keepdim=True).values
    moving = ((video - still).abs().amax(dim=1, keepdim=True) > 0.3).expand_as(video)
    report["psnr"] = float(psnr(rebuilt, video))
    report["psnr_moving"] = float(psnr(rebuilt[moving], video[moving]))
    return report


def card(config: Config, state: State, report: dict[str, float]) -> str:
    """The model card, from what this run measured."""
    sees = {
        "mini-wan": "possible clips only",
        "mini-wan-null": "clips whose halves know nothing of each other (the null twin)",
    }[config.model]
    parameters = sum(p.numel() for p in state.model.parameters())
    command = f"python -m dit_lens.training --model {config.model} --minutes {config.minutes:g} --steps {config.steps}"
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---
# {config.model}

A `WanTransformer3DModel` of {parameters / 1e6:.2f} M parameters trained by rectified flow on miniphys, on {sees}.
17 frames of 32x32, latents 16 x 5 x 8 x 8 by a fixed patch-PCA codec, one fixed empty-prompt embedding.

| | |
|---|---|
| command | `{command} --seed {config.seed}` |
| optimiser steps | {state.step} of batch {config.batch_size} |
| time | {state.seconds / 60:.1f} min on {config.device} ({torch.get_num_threads()} threads) |
| held-out loss, lawful clips | {report["loss_lawful"]:.4f} |
| held-out loss, lawless clips | {report["loss_lawless"]:.4f} |
| codec PSNR, all pixels / moving pixels | {report["psnr"]:.1f} dB / {report["psnr_moving"]:.1f} dB |

Every setting is in `training.json`. Load it with `dit_lens.DiTLens.from_pretrained`, or in plain diffusers, after
`import dit_lens.models.codec`, by `DiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)`. There
is no text encoder: call it with the embedding in `empty_prompt.safetensors` and `guidance_scale=1.0`. Made for
testing interpretability methods; it makes 32x32 toy videos.
"""


def run(config: Config) -> Path:
    """Trains (or resumes), evaluates and writes a diffusers folder with its card; returns the folder."""
    folder = config.out or Path("runs") / config.model
    folder.mkdir(parents=True, exist_ok=True)
    pretraining = MiniPhys("pretrain", config.quadruplets, seed=config.seed)
    lawless = MiniPhys("pretrain", config.quadruplets, properties=[LAWLESS], seed=config.seed)
    sample = pretraining[: min(500, config.quadruplets)]
    codec = fit_patch_pca(to_tensor(np.stack([q.a.frames, q.b.frames])) for q in sample)
    model, average = (new_transformer(config.seed) for _ in range(2))
    for module in (model, average):
        nn.Module.to(module, config.device)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    state = State(model, average, optimiser, recipe(config))
    if (folder / STATE).is_file():
        state.load(folder / STATE)
    world = pretraining if config.model == "mini-wan" else lawless
    latents = encode_halves(codec, iter(tqdm(world, desc="encoding", unit="quadruplet")))
    train(state, latents, config, folder)
    report = evaluate(state.average, codec, config)
    save(assemble(state.average.cpu(), codec), folder)
    settings = asdict(config) | {"out": str(folder), "report": report, "torch": torch.__version__}
    (folder / "training.json").write_text(json.dumps(settings, indent=1))
    (folder / "README.md").write_text(card(config, state, report))
    return folder


if __name__ == "__main__":
    print("saved", run(tyro.cli(Config, description=__doc__)))
