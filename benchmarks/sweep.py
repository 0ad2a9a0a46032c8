"""What a sweep over heads costs, way by way: `python -m benchmarks.sweep --shapes mini-wan 12x6 30x12` prints tables.

Every head of every block up to a readout: its z from a clean run into a corrupted run, one at a time, and what that
does to a probe logit. `benchmarks.head_patching` tells the ways; all give the same numbers, which is checked before
anything is timed. Random weights but for mini-wan, random latents, random probe.

seconds     the median over rounds; the ways take turns in a random order, every round
ratio       seconds over those of the floor in the same round, the median
peak, above memory in one sweep and how far it is above the loaded model, in a process of its own
deviation   the largest difference from the plain hooks' effects, over their largest effect

Peers that are not installed have a row that says how to install them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro
from diffusers import WanTransformer3DModel
from torch import Tensor

from benchmarks.head_patching import NEEDS, TOP, WAYS, Runner, Task
from benchmarks.measuring import in_own_process, peak_memory, times
from benchmarks.peers import missing
from dit_lens.models.loading import load_pipeline
from dit_lens.probing import Probe, Reads

TEXT, TEXT_WIDTH = 8, 64
FLOOR, REFERENCE, SCREENED = "floor", "plain hooks", "dit_lens, screened"
TOLERANCE = 1e-3  # of the largest effect; an effect is a small difference of two logits


@dataclass(frozen=True)
class Shape:
    """A Wan of random weights.

    Attributes:
        width: of a head.
        latent: frames, rows, columns; a token is 1 x 2 x 2 of them.
        readout: the block whose output is read.
    """

    layers: int
    heads: int
    width: int
    latent: tuple[int, int, int]
    readout: int


SHAPES = {
    "tiny": Shape(2, 2, 12, (2, 4, 4), 1),
    "12x6": Shape(12, 6, 64, (4, 16, 16), 8),
    "30x12": Shape(30, 12, 16, (2, 16, 16), 20),
    "1.3b": Shape(30, 12, 128, (9, 60, 104), 20),
}
MINI_WAN, MINI_READOUT = (5, 8, 8), 3


@dataclass(frozen=True)
class Config:
    """What is run.

    Attributes:
        shapes: models; 1.3b is Wan 2.1's at 480p and 33 frames, for a GPU.
        rounds: how often each way is timed.
        ways: only these beside the floor and the plain hooks; all unless given.
        threads: of torch.
        device: where the models run.
        memory_of: instead of the tables, the peak memory of one way (used for the tables).
    """

    shapes: tuple[Literal["mini-wan", "tiny", "12x6", "30x12", "1.3b"], ...] = ("mini-wan", "12x6", "30x12")
    rounds: int = 3
    ways: tuple[str, ...] = ()
    threads: int = 1
    device: str = "cpu"
    memory_of: str = ""


def task(name: str, device: str = "cpu") -> Task:
    """Two random latents and a random probe of a model, by the name of its shape."""
    torch.manual_seed(0)
    model: Any
    if name == "mini-wan":
        pipeline, conditioning = load_pipeline(name)
        model, latent, readout = pipeline.transformer, MINI_WAN, MINI_READOUT
        text = conditioning.tensors["encoder_hidden_states"] if conditioning else torch.zeros(1, 1, 1)
    else:
        shape = SHAPES[name]
        model, latent, readout = _random(shape), shape.latent, shape.readout
        text = torch.randn(1, TEXT, TEXT_WIDTH)
    model.requires_grad_(False).eval().to(device)
    config = model.config
    time = torch.tensor([500.0], device=device)

    def call() -> dict[str, object]:
        x = torch.randn(1, config.in_channels, *latent).to(device)
        arguments = {"timestep": time, "encoder_hidden_states": text.to(device), "return_dict": False}
        return {"hidden_states": x, **arguments}

    width = config.num_attention_heads * config.attention_head_dim
    probe = Probe(torch.randn(width), 0.0, 1.0, Reads(f"blocks.{readout}.hook_resid_post", 0, 0.5, name))
    return Task(model, call(), call(), readout, probe)


@torch.no_grad()
def _random(shape: Shape) -> WanTransformer3DModel:
    model: Any = WanTransformer3DModel(
        num_attention_heads=shape.heads, attention_head_dim=shape.width, ffn_dim=4 * shape.heads * shape.width,
        num_layers=shape.layers, text_dim=TEXT_WIDTH,
    )  # fmt: skip
    for block in model.blocks:
        block.scale_shift_table.mul_(shape.heads * shape.width**0.5)  # gates of order one: heads have effects
    return model


def runners(of: Task, chosen: tuple[str, ...] = ()) -> dict[str, Runner]:
    """The ways that can be run here, by name.

    Raises:
        KeyError: there is no such way.
    """
    if unknown := set(chosen) - set(WAYS):
        raise KeyError(f"got {', '.join(sorted(unknown))} · expected of {', '.join(WAYS)}")
    names = [name for name in WAYS if not chosen or name in {*chosen, FLOOR, REFERENCE}]
    return {name: WAYS[name](of) for name in names if not missing(NEEDS.get(name, "torch"))}


def deviations(effects_by_way: Mapping[str, Tensor | None]) -> dict[str, float]:
    """Per way the largest difference from the plain hooks' effects, over the largest of these; of heads it did run.

    Raises:
        ValueError: a way leaves heads out that it should not, or is further off than rounding.
    """
    expected = effects_by_way[REFERENCE]
    assert expected is not None
    largest, result = float(expected.abs().max()), {}
    for name, effects in effects_by_way.items():
        if effects is None:
            continue
        absent = effects.isnan()
        result[name] = float((effects - expected)[~absent].abs().max()) / largest
        if (absent.any() and name != SCREENED) or result[name] > TOLERANCE:
            raise ValueError(
                f"got effects by {name!r} that differ by {result[name]:.1e} of the largest, {int(absent.sum())} absent"
                f" · expected all of them to {TOLERANCE}"
            )
    return result


def top_found(effects_by_way: Mapping[str, Tensor | None]) -> str:
    """How many of the heads with the largest effects are among those that the screened sweep verified."""
    expected, screened = effects_by_way[REFERENCE], effects_by_way.get(SCREENED)
    if expected is None or screened is None:
        return ""
    largest = expected.flatten().abs().topk(min(TOP, expected.numel())).indices
    hits = int(screened.flatten()[largest].isfinite().sum())
    return f"{hits} of the {len(largest)} heads with the largest effects are among the {TOP} verified"


def table(config: Config, name: str) -> list[str]:
    """A row for each way."""
    of = task(name, config.device)
    ready = runners(of, config.ways)
    effects = {way: run() for way, run in ready.items()}  # and every way is warm
    off = deviations(effects)
    spent = times(ready, config.rounds)
    alone = replace(config, shapes=(name,))
    rows = [f"{'':<20}{'seconds':>10}{'ratio':>8}{'(lowest, highest)':>19}{'peak':>11}{'above':>11}{'deviation':>11}"]
    for way in WAYS:
        if way not in ready:
            rows += [f"{way:<20}  {missing(NEEDS.get(way, 'torch')) or 'not asked for'}"]
            continue
        ratios = [turn[0] / floor[0] for turn, floor in zip(spent[way], spent[FLOOR], strict=True)]
        seconds = statistics.median(turn[0] for turn in spent[way])
        peak, above = in_own_process("benchmarks.sweep", alone, way)
        spread = f"({min(ratios):.2f}, {max(ratios):.2f})"
        rows.append(
            f"{way:<20}{seconds:>8.2f} s{statistics.median(ratios):>8.2f}{spread:>19}"
            f"{peak:>7.0f} MiB{above:>7.0f} MiB{off.get(way, float('nan')):>11.0e}"
        )
    return [*rows, top_found(effects)]


@torch.no_grad()
def main() -> None:
    """Prints a table for each shape."""
    config = tyro.cli(Config)
    torch.set_num_threads(config.threads)
    if config.memory_of:
        run = WAYS[config.memory_of](task(config.shapes[0], config.device))
        print(*peak_memory(run))
        return
    print(f"torch {torch.__version__} on {config.device}, {config.threads} thread(s), {config.rounds} rounds")
    for name in config.shapes:
        of = task(name, config.device)
        heads = of.heads * len(of.blocks)
        size = f"{len(of.transformer.blocks)} blocks x {of.heads} heads of {of.width}"
        print(f"\n{name}: {size}, readout behind block {of.readout}, {heads} heads swept")
        print(*table(config, name), sep="\n", flush=True)


if __name__ == "__main__":
    main()
