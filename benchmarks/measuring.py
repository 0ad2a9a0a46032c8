"""Seconds of several ways to do one thing, in turns, and the peak memory of each in a process of its own (Linux)."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed tensors go back to the system: memory is what is in use
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OPTION = "memory_of"  # of a benchmark's Config: instead of the table, print the peak memory of this way


def times(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each way in each round; the ways take turns in a random order."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    order = list(ways.items())
    turns = random.Random(0)
    for _ in range(rounds):
        turns.shuffle(order)
        for name, way in order:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return spent


def peak_memory(way: Callable[[], object]) -> tuple[float, float]:
    """MiB: the peak of memory while a way runs, and how far it is above what was held before.

    Of a GPU where torch has used one in this process, else resident memory.

    Raises:
        FileNotFoundError: this is no Linux.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        way()
        peak = torch.cuda.max_memory_allocated() / 2**20
        return peak, peak - before
    RESET.write_text("5")  # the peak counts from here; getrusage's would hold the parent's memory too
    before = _resident("VmHWM")
    kept = way()
    peak = _resident("VmHWM")
    del kept
    return peak, peak - before


def _resident(what: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def in_own_process(module: str, config: Any, name: str) -> tuple[float, float]:
    """What `peak_memory` of one way is in a process of its own.

    Args:
        module: the benchmark, which is called with `config` and the way as `OPTION` and prints the two numbers last.
    """
    command = [sys.executable, "-m", module]
    for option, value in (asdict(config) | {OPTION: name}).items():
        values = value if isinstance(value, tuple) else (value,)
        command += [f"--{option.replace('_', '-')}", *map(str, values)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **RETURNED})
    peak, above = (float(number) for number in done.stdout.split()[-2:])
    return peak, above
