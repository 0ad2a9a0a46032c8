"""What capturing costs beside the plain forward: `python -m benchmarks.capture` prints times and peak memory.

A Wan of random weights, one forward of a few seconds on a core. Two things are captured of every block, means over the
tokens of `resid_post` and of `z`, each in several ways:

- dit_lens: `run_with_cache(..., reduce=lambda x: x.mean(1))`;
- plain hooks, pooled: a torch forward hook that keeps the mean, the least that there is to do;
- plain hooks, kept: one that keeps the whole output, pooled after the forward;
- TraceDict: baukit's, with its defaults, which works like that; where it is installed (it is on no package index);
- all to CPU float32: what the released code of the Invisible Hand paper does, a forward hook on the blocks that brings
  whole outputs to the CPU in float32, pooled later.

Times: the ways take turns in a random order, every round; a ratio is the median over rounds of (this way / the plain
forward of the same round). Wall time answers to whatever else runs on the machine, CPU time less so. Memory: a process
of its own for each way; the peak of resident memory in one capture, and how far that is above the loaded model (Linux).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from benchmarks.measuring import in_own_process, peak_memory, times
from benchmarks.peers import library, missing
from dit_lens import DiTLens
from dit_lens.conditioning import Conditioning
from dit_lens.running import Evaluation

TOLERANCE = 1e-5
PLAIN = "plain forward"


@dataclass(frozen=True)
class Config:
    """What is run.

    Attributes:
        rounds: how often each way is timed.
        threads: of torch.
        layers: blocks of 9.4 M parameters each.
        frames, size: of the latent, which has frames * (size / 2)^2 tokens.
        memory_of: instead of the table, the peak memory of one way, "thing/way" (used for the table).
    """

    rounds: int = 7
    threads: int = 1
    layers: int = 12
    frames: int = 5
    size: int = 24
    memory_of: str = ""


@dataclass(frozen=True)
class Subject:
    """A lens and one evaluation, as the lens is told it (`inputs`) and as the transformer is."""

    lens: DiTLens
    inputs: Mapping[str, Any]
    evaluation: Evaluation

    @property
    def blocks(self) -> Mapping[str, nn.Module]:
        """The blocks by path."""
        return {path: self.lens.transformer.get_submodule(path) for path in self.lens.table.blocks}


Way = Callable[[Subject], list[Tensor]]


def subject(config: Config) -> Subject:
    """A random Wan and a random latent."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=12, attention_head_dim=64, ffn_dim=3072, num_layers=config.layers, text_dim=512
    )
    lens = DiTLens(transformer=transformer)
    latent = torch.randn(1, 16, config.frames, config.size, config.size)
    text = torch.randn(1, 32, 512)
    evaluation = lens.model.evaluation(latent, 500.0, Conditioning({"encoder_hidden_states": text}))
    inputs = {"latent": latent, "timestep": 500.0, "encoder_hidden_states": text}
    return Subject(lens, inputs, evaluation)


def plain(of: Subject) -> list[Tensor]:
    """Nothing but the forward."""
    of.lens.transformer(**of.evaluation.inputs)
    return []


def by_lens(name: str) -> Way:
    """Pooled by `run_with_cache`."""

    def capture(of: Subject) -> list[Tensor]:
        _, cache = of.lens.run_with_cache(**of.inputs, names_filter=f"blocks.*.{name}", reduce=lambda x: x.mean(1))
        return [value.flatten(1) for value in cache.values()]

    return capture


def by_hooks(inside: str, keep: Callable[[Tensor], Tensor], later: Callable[[Tensor], Tensor]) -> Way:
    """Pooled by torch hooks on a module inside every block ("": the block), on its output or, of z, its input."""

    def capture(of: Subject) -> list[Tensor]:
        kept: list[Tensor] = []
        modules = [block.get_submodule(inside) for block in of.blocks.values()]
        with _hooked(modules, lambda module, args, out: kept.append(keep(args[0] if inside else out))):
            plain(of)
        return [later(value) for value in kept]

    return capture


def by_trace_dict(inside: str) -> Way:
    """Pooled after baukit's TraceDict has kept whole outputs or, of z, inputs."""

    def capture(of: Subject) -> list[Tensor]:
        paths = [f"{path}.{inside}".rstrip(".") for path in of.blocks]
        tracer = library("baukit").TraceDict
        with tracer(of.lens.transformer, paths, retain_input=bool(inside), retain_output=not inside) as traced:
            plain(of)
        return [_mean(traced[path].input if inside else traced[path].output) for path in paths]

    return capture


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mean(x: Tensor) -> Tensor:
    return x.mean(1)


def _same(x: Tensor) -> Tensor:
    return x


def _to_cpu(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float32, copy=True)


def ways() -> dict[str, Way]:
    """Every way by "thing/way"; TraceDict only where baukit is installed."""
    by_name: dict[str, Way] = {PLAIN: plain}
    for thing, point, inside in (("resid_post", "hook_resid_post", ""), ("z", "attn.hook_z", "attn1.to_out.0")):
        by_name[f"{thing}/dit_lens"] = by_lens(point)
        by_name[f"{thing}/plain hooks, pooled"] = by_hooks(inside, _mean, _same)
        by_name[f"{thing}/plain hooks, kept"] = by_hooks(inside, _same, _mean)
        if not missing("baukit"):
            by_name[f"{thing}/TraceDict"] = by_trace_dict(inside)
    by_name["resid_post/all to CPU float32"] = by_hooks("", _to_cpu, _mean)
    return by_name


def check(of: Subject) -> float:
    """The largest relative difference between what ways capture of the same thing.

    Raises:
        ValueError: it is more than rounding, or not every block was captured: then they do not do the same.
    """
    worst, first = 0.0, {}
    for name, way in ways().items():
        thing, captured = name.split("/")[0], way(of)
        if name == PLAIN:
            continue
        expected = first.setdefault(thing, captured)
        if len(captured) != of.lens.blocks:
            raise ValueError(f"got {len(captured)} activations from {name} · expected one of each block")
        for a, b in zip(captured, expected, strict=True):
            worst = max(worst, float((a - b).abs().max() / b.abs().max()))
    if worst > TOLERANCE:
        raise ValueError(f"got captures that differ by {worst:.1e} · expected at most {TOLERANCE}")
    return worst


def table(spent: Mapping[str, list[tuple[float, float]]], held: Mapping[str, tuple[float, float]]) -> list[str]:
    """A row for each way."""
    rows = [f"{'':<32}{'wall':>8}{'ratio':>8}{'(lowest, highest)':>19}{'CPU ratio':>11}{'peak':>10}{'above':>10}"]
    for name, taken in spent.items():
        ratios, cpu = (
            [times[i] / base[i] for times, base in zip(taken, spent[PLAIN], strict=True)] for i in (0, 1)
        )  # of the same round
        median, (peak, above) = statistics.median, held[name]
        spread = f"({min(ratios):.3f}, {max(ratios):.3f})"
        rows.append(
            f"{name:<32}{median(times[0] for times in taken):>6.2f} s{median(ratios):>8.3f}{spread:>19}"
            f"{median(cpu):>11.3f}{peak:>6.0f} MiB{above:>6.0f} MiB"
        )
    if absent := missing("baukit"):
        rows += [f"{thing + '/TraceDict':<32}  {absent}" for thing in ("resid_post", "z")]
    return rows


@torch.no_grad()
def main() -> None:
    """Prints the table."""
    config = tyro.cli(Config)
    torch.set_num_threads(config.threads)
    if config.memory_of:
        of = subject(config)
        plain(of)  # what is set up once is none of the capture's
        print(*peak_memory(partial(ways()[config.memory_of], of)))
        return
    held = {name: in_own_process("benchmarks.capture", config, name) for name in ways()}
    of = subject(config)
    worst = check(of)  # and every way is warm
    grid = of.lens.model.grid(of.evaluation)
    parameters = sum(p.numel() for p in of.lens.transformer.parameters()) / 1e6
    size = f"{parameters:.0f} M parameters, {of.lens.blocks} blocks, {grid.tokens} tokens"
    print(f"Wan of {size}; torch {torch.__version__} on the CPU, {config.threads} thread(s)")
    print(f"{config.rounds} rounds; captures agree to {worst:.0e}")
    spent = times({name: partial(way, of) for name, way in ways().items()}, config.rounds)
    print(*table(spent, held), sep="\n")


if __name__ == "__main__":
    main()
