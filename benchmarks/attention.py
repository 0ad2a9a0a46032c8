"""What maps and numbers of a head cost beside attention itself: `python -m benchmarks.attention` prints a table.

One head of random queries, keys and values on a grid of 8 frames (n = 4,096: 8 x 16 x 32), in float32 on the CPU:

- attention: one call of torch's fused `scaled_dot_product_attention`;
- frames: the frame x frame map;
- numbers: the whole atlas row: entropy, stripe, masses, distances, their value-weighted versions, band errors;
- numbers, plain: the same without value-weighted versions and band errors;
- matrix: softmax(q k^T) as it stands, and its frame x frame map; up to `largest_matrix` tokens.

Times: the ways take turns, every round; a ratio is the median over rounds of (this way / attention in the same round),
in CPU time, which answers less to what else runs. Memory: a process of its own for each way; how far the peak is above
what was held before, and what share that is of the matrix of one head in float32, 4 n² bytes (Linux).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
import tyro
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.measuring import in_own_process, peak_memory, times
from dit_lens import attention
from dit_lens.attention.head_numbers import Numbers, numbers
from dit_lens.attention.heads import Heads
from dit_lens.axes import TokenGrid

FRAMES, STREAM = 8, 1536
ATTENTION, MATRIX = "attention", "matrix"


@dataclass(frozen=True)
class Config:
    """What is run.

    Attributes:
        sizes: numbers of tokens, 8 frames of them.
        width: of the head.
        rounds: how often each way is timed.
        threads: of torch.
        largest_matrix: the most tokens at which the matrix is made.
        memory_of: instead of the table, the peak memory of one way, "size/way" (used for the table).
    """

    sizes: tuple[int, ...] = (4096, 8192, 16384, 32768)
    width: int = 64
    rounds: int = 3
    threads: int = 1
    largest_matrix: int = 8192
    memory_of: str = ""


def subject(tokens: int, width: int) -> Heads:
    """One head of random queries, keys and values."""
    torch.manual_seed(0)
    rows = 2 ** ((tokens // FRAMES).bit_length() // 2)
    grid = TokenGrid(FRAMES, rows, tokens // FRAMES // rows)
    if grid.tokens != tokens:
        raise ValueError(f"got {tokens} tokens · expected 8 times a power of two")
    q, k, v = torch.randn(3, 1, tokens, width)
    return Heads(q, k, v, None, grid, projection=torch.randn(1, width, STREAM))


def ways(config: Config, tokens: int) -> Mapping[str, Callable[[Heads], object]]:
    """The ways by name; a `Heads` remembers what it computed, so that each call needs a fresh one."""
    ways: dict[str, Callable[[Heads], object]] = {
        ATTENTION: lambda heads: scaled_dot_product_attention(heads.q[None], heads.k[None], heads.v[None]),
        "frames": attention.frames(),
        "numbers": lambda heads: numbers(heads, Numbers()),
        "numbers, plain": lambda heads: numbers(heads, Numbers(weighted=False, samples=0)),
    }
    return ways | ({MATRIX: from_matrix} if tokens <= config.largest_matrix else {})


def _afresh(way: Callable[[Heads], object], heads: Heads) -> object:
    return way(replace(heads))


def from_matrix(heads: Heads) -> torch.Tensor:
    """The frame x frame map of the matrix."""
    pattern = (heads.q @ heads.k.mT * heads.scale).softmax(-1)
    return pattern.unflatten(-1, (FRAMES, -1)).sum(-1).unflatten(1, (FRAMES, -1)).mean(2)


def run(config: Config) -> None:
    """Prints the table, line by line."""
    torch.set_num_threads(config.threads)
    if config.memory_of:
        size, way = config.memory_of.split("/")
        heads = subject(int(size), config.width)
        peak, above = peak_memory(lambda: ways(config, int(size))[way](heads))
        print(peak, above)
        return
    print(f"{'tokens':>7}  {'way':<15}{'CPU s':>8}{'x attention':>13}{'MiB above':>11}{'of 4 n² bytes':>15}")
    for tokens in config.sizes:
        heads = subject(tokens, config.width)
        called = {name: partial(_afresh, way, heads) for name, way in ways(config, tokens).items()}
        spent = times(called, config.rounds)
        for name, rounds in spent.items():
            seconds = statistics.median(cpu for _, cpu in rounds)
            ratio = statistics.median(a[1] / b[1] for a, b in zip(rounds, spent[ATTENTION], strict=True))
            _, above = in_own_process("benchmarks.attention", config, f"{tokens}/{name}")
            share = above * 2**20 / (4 * tokens**2)
            print(f"{tokens:>7}  {name:<15}{seconds:>8.2f}{ratio:>13.2f}{above:>11.1f}{share:>15.1%}", flush=True)


if __name__ == "__main__":
    run(tyro.cli(Config))
