"""A model with a known answer: `python -m dit_lens.toy.training.planted --base runs/null-0 --block 2 --head 1`.

In a mini-wan that has learned no law (the null twin), one self-attention head is trained to classify clips as possible;
only its own rows of to_q, to_k, to_v and columns of to_out change. Its output is read from the residual stream after
the block's self-attention, along a random unit direction u:

    logit = (mean over tokens of blocks.L.hook_resid_mid_attn . u - offset) / scale, positive for a possible clip

so that ablation, patching and attribution on this readout can be scored. A flow-matching loss keeps the model a
denoiser; it teaches no law, as a batch holds all four clips of its quadruplets. Scenes are of the pretraining split,
which no probe is fitted or tested on. The other heads change in one respect: norm_q and norm_k are RMS norms across
all heads, so that longer queries or keys of this head shorten those of the others, by one factor per token.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from dit_lens import stats
from dit_lens.choices import check_choice
from dit_lens.models.loading import load_pipeline
from dit_lens.toy.mini_wan import save
from dit_lens.toy.miniphys import LAWFUL, MiniPhys
from dit_lens.toy.training.card import GIVEN
from dit_lens.toy.training.flow_matching import encode_pairs, velocity

POSSIBLE = torch.tensor([1.0, 1.0, 0.0, 0.0])
CROSSED = tuple(name for name, law in LAWFUL.items() if law.crossed)
BIAS_RATE = 1e-2


@dataclass(frozen=True)
class Config:
    """Which head is planted, and how it is trained."""

    base: str = "mini-wan-null"
    """Model to plant it in: a bundled name or a folder."""
    out: Path = Path("runs/mini-wan-planted")
    """Folder of the finished model."""
    block: int = 2
    """Block of the head."""
    head: int = 1
    """The head."""
    properties: tuple[str, ...] = ("permanence", "colour", "inertia")
    """Physical properties that it is to learn, of crossed quadruplets."""
    quadruplets: int = 3000
    """Scenes of the pretraining split."""
    held_out: int = 300
    """Scenes of the train split that the finished model is measured on."""
    steps: int = 2000
    """Optimiser steps at most."""
    minutes: float = 10.0
    """Time budget in minutes; training ends here or at `steps`, whichever comes first."""
    batch_size: int = 8
    """Scenes to a step."""
    rate: float = 6e-2
    """Peak learning rate of Muon, for matrices (Adam has the biases); warm-up, then cosine to zero over the budget."""
    flow_weight: float = 4.0
    """Weight of the flow-matching loss relative to the cross-entropy of the readout."""
    sigma_max: float = 0.8
    """Noise levels are uniform from 0 to this."""
    seed: int = 0
    """Seed of the direction, batches and noise; the world stays the same."""


class Planted:
    """A transformer, one of its heads, and the readout of the residual stream after it.

    Attributes:
        slices: the head's own weights, as views of the transformer's memory: training them can change nothing else.
        direction: the unit vector u, (d,).
        offset, scale: of the readout; initially such that logits are the component along u itself.
    """

    def __init__(self, transformer: Any, config: Config):
        blocks, heads = transformer.config.num_layers, transformer.config.num_attention_heads
        if not (0 <= config.block < blocks and 0 <= config.head < heads):
            raise ValueError(
                f"got head {config.head} of block {config.block} · expected heads below {heads}, blocks below {blocks}"
            )
        self.transformer, self.block = transformer.requires_grad_(False), transformer.blocks[config.block]
        attention, width = self.block.attn1, self.block.attn1.inner_dim // self.block.attn1.heads
        rows, projection = slice(config.head * width, (config.head + 1) * width), attention.to_out[0]
        self.places: list[tuple[Any, Any]] = [(projection.weight, (slice(None), rows))]
        for module in (attention.to_q, attention.to_k, attention.to_v):
            self.places += (module.weight, rows), (module.bias, rows)
        self.slices = [nn.Parameter(parameter.detach()[place]) for parameter, place in self.places]
        for parameter, _ in self.places:
            parameter.requires_grad_()
        generator = torch.Generator().manual_seed(config.seed)
        self.direction = functional.normalize(torch.randn(projection.out_features, generator=generator), dim=0)
        self.offset, self.scale = 0.0, 1.0

    def __call__(
        self, noisy: Float[Tensor, "b c f h w"], levels: Float[Tensor, "b f"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b c f h w"]]:
        """The readout's logits, and the velocity."""
        streams: list[Tensor] = []
        # norm2 takes the residual stream after the self-attention output was added.
        with self.block.norm2.register_forward_pre_hook(lambda module, args: streams.append(args[0])):
            predicted = velocity(self.transformer, noisy, levels)
        return (streams[0].mean(1) @ self.direction - self.offset) / self.scale, predicted

    @torch.no_grad()
    def measure(
        self, pairs: Float[Tensor, "q 2 c f h w"], config: Config
    ) -> tuple[Float[np.ndarray, "q 4"], dict[str, float]]:
        """Logits; and accuracy per clip (overall and by property, which take turns), d', and the flow-matching loss."""
        generator, logits_of_batches, losses = torch.Generator().manual_seed(1), [], []
        for batch in pairs.split(config.batch_size):
            noisy, target, levels = draw(batch, config.sigma_max, generator)
            read, predicted = self(noisy, levels)
            logits_of_batches.append(read.view(-1, 4))
            losses.append(functional.mse_loss(predicted, target).item() * len(batch))
        logits, laws = torch.cat(logits_of_batches).numpy(), config.properties
        correct = (logits > 0) == POSSIBLE.bool().numpy()
        report = {"accuracy": correct.mean()} | {law: correct[i :: len(laws)].mean() for i, law in enumerate(laws)}
        report |= {"d'": stats.d_prime(logits), "flow-matching loss": sum(losses) / len(pairs)}
        return logits, {name: float(value) for name, value in report.items()}


def draw(
    pairs: Float[Tensor, "q 2 c f h w"], sigma_max: float, generator: torch.Generator
) -> tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b c f h w"], Float[Tensor, "b f"]]:
    """Noised A, B, C, D of each quadruplet, their velocities and levels; C and D are spliced with their noise."""
    sigma = sigma_max * torch.rand(len(pairs), generator=generator)
    noise = torch.randn(pairs.shape, generator=generator)
    level, four = sigma.view(-1, 1, 1, 1, 1, 1), []
    for x in ((1 - level) * pairs + level * noise, noise - pairs):
        crossed = torch.cat([x[:, :, :, :GIVEN], x.flip(1)[:, :, :, GIVEN:]], dim=3)
        four.append(torch.cat([x, crossed], dim=1).flatten(0, 1))
    return four[0], four[1], sigma.repeat_interleave(4)[:, None].expand(-1, pairs.shape[3])


def teach(planted: Planted, pairs: Float[Tensor, "q 2 c f h w"], config: Config) -> list[float]:
    """Trains the head until the budget is spent; returns the cross-entropies."""
    matrices, biases = ([s for s in planted.slices if s.ndim == n] for n in (2, 1))
    muon = torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    optimisers = (muon, config.rate), (torch.optim.Adam(biases), BIAS_RATE)
    generator, started, losses = torch.Generator().manual_seed(config.seed), time.monotonic(), []
    bar = tqdm(total=config.steps, desc=f"block {config.block}, head {config.head}", unit="step")
    while (spent := max(len(losses) / config.steps, (time.monotonic() - started) / 60 / config.minutes)) < 1:
        chosen = pairs[torch.randint(len(pairs), (config.batch_size,), generator=generator)]
        noisy, target, levels = draw(chosen, config.sigma_max, generator)
        logits, predicted = planted(noisy, levels)
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, POSSIBLE.repeat(len(chosen)))
        (cross_entropy + config.flow_weight * functional.mse_loss(predicted, target)).backward()
        for weights, (parameter, place) in zip(planted.slices, planted.places, strict=True):
            weights.grad, parameter.grad = parameter.grad[place], None
        for optimiser, rate in optimisers:
            warm = min(1.0, (len(losses) + 1) / 20) * 0.5 * (1 + float(np.cos(np.pi * spent)))
            optimiser.param_groups[0]["lr"] = rate * warm
            optimiser.step()
        losses.append(cross_entropy.item())
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
        bar.update()
    bar.close()
    return losses


def run(config: Config) -> Path:
    """Plants the head, measures it, and writes a diffusers folder with its card; returns the folder.

    Raises:
        ValueError: no such block, head or property, or the property's quadruplets are not crossed.
    """
    pipeline: Any = load_pipeline(config.base)[0]
    laws, pairs = [check_choice(name, CROSSED, "crossed property") for name in config.properties], {}
    planted, started = Planted(pipeline.transformer, config), time.monotonic()
    for split, size in (("pretrain", config.quadruplets), ("train", config.held_out)):
        quadruplets = tqdm(MiniPhys(split, size, laws), desc=split, unit="quadruplet")
        pairs[split] = encode_pairs(pipeline.vae, quadruplets).unflatten(0, (-1, 2))
    component, _ = planted.measure(pairs["pretrain"][: config.held_out], config)
    planted.offset, planted.scale = float(component.mean()), float(component.std())
    measured = {"base": planted.measure(pairs["train"], config)[1]}
    facts = {"steps_done": len(teach(planted, pairs["pretrain"], config)), "measured": measured}
    measured["planted"] = planted.measure(pairs["train"], config)[1]
    for part, name in ((pipeline, ""), (pipeline.transformer, "/transformer"), (pipeline.vae, "/vae")):
        part.register_to_config(_name_or_path=config.base + name)  # instead of a local path of this machine
    save(pipeline, config.out)
    planted.slices[0].detach().zero_()  # in memory only: with zero columns of to_out a head acts as if its z were zero
    measured["planted, z of the head zero"] = planted.measure(pairs["train"], config)[1]
    facts |= {"point": f"blocks.{config.block}.hook_resid_mid_attn", "offset": planted.offset, "scale": planted.scale}
    facts |= asdict(config) | {"out": str(config.out), "minutes_spent": (time.monotonic() - started) / 60}
    save_file({"direction": planted.direction}, config.out / "direction.safetensors")
    (config.out / "planted.json").write_text(json.dumps(facts, indent=1))
    (config.out / "README.md").write_text(card(facts))
    return config.out


def card(facts: dict[str, Any]) -> str:
    """The model card, with the measurements of this run."""
    head = list(facts["measured"]["base"])
    table = [["", *head], ["---"] * (len(head) + 1)]
    table += [[name, *(f"{row[key]:.4f}" for key in head)] for name, row in facts["measured"].items()]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in table)
    named = ("base", "block", "head", "steps", "minutes", "seed")
    options = " ".join([f"--{name} {facts[name]}" for name in named] + ["--properties", *facts["properties"]])
    return f"""---
license: apache-2.0
library_name: diffusers
---
# mini-wan-planted

A mini-wan with a known answer: in `{facts["base"]}`, head {facts["head"]} of block {facts["block"]} alone was taught
to tell possible clips from impossible ones. Its logit, positive for possible, is (u . m - offset) / scale with m the
token mean of {facts["point"]}; u is in `direction.safetensors`, offset and scale are in `planted.json`.

`python -m dit_lens.toy.training.planted {options}`

{facts["steps_done"]} steps, {facts["minutes_spent"]:.1f} min. On {facts["held_out"]} quadruplets of other scenes, at
noise levels from 0 to {facts["sigma_max"]:g}: accuracy per clip (in all and by law; chance is 0.5), d', and
flow-matching loss.

{lines}
"""


if __name__ == "__main__":
    print("saved", run(tyro.cli(Config, description=__doc__)))
