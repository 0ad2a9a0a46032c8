"""What capture to disk costs: `python -m benchmarks.store [capture|memory|disk|files]` prints what follows.

capture   seconds of a capture (pooled resid_post and z of every block) beside the same forwards without one, in turns
memory    peak resident memory of captures of more and more clips, each in a process of its own
disk      the writer's throughput beside a raw sequential write of as many bytes; fsync on both sides, in turns
files     the usual way: full outputs to the CPU in float32, one file for each clip and step; beside it the capture's
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

import numpy as np
import torch
import tyro

from dit_lens import datasets
from dit_lens.capture import Route, batches, travel
from dit_lens.clips import Quadruplet
from dit_lens.filling import Recipe, Take, fill, survey
from dit_lens.lens import DiTLens
from dit_lens.store import Filling, Plan, Variable, open_store

POINTS = ("blocks.*.hook_resid_post", "blocks.*.attn.hook_z")
STEPS = (1, 3, 5, 7, 9, 11, 13, 15, 17, 19)
ROUTE = Route("noising", 20)  # so that only forwards that are captured are timed


@dataclass(frozen=True)
class Config:
    """Options."""

    what: tyro.conf.Positional[Literal["capture", "memory", "disk", "files"]]
    """Which of the four."""
    clips: tuple[int, ...] = (1000,)
    """How many; of memory, several."""
    steps: int = 10
    """How many."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    gigabytes: float = 1.0
    """To write, of disk."""
    rounds: int = 5
    """Turns, of disk."""
    folder: Path = Path(mkdtemp())
    """Where to write; removed at the end."""


def recipe(config: Config) -> Recipe:
    """Token means of every block's output and of every head's z."""
    takes = tuple(Take.parse(f"{point}=mean") for point in POINTS)
    return Recipe(takes, STEPS[-config.steps :], ROUTE, config.batch_size)


def clock() -> np.ndarray:
    """Wall and processor seconds (of all threads); where others work too, the second is the one to compare."""
    return np.array([time.perf_counter(), time.process_time()])


def peak() -> float:
    """Megabytes that were resident at most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def forget_peak() -> None:
    """Counts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def load(config: Config, clips: int) -> tuple[DiTLens, Sequence[Quadruplet]]:
    """Mini-wan and so many clips."""
    return DiTLens.from_pretrained("mini-wan"), datasets.load("miniphys", split="test", quadruplets=clips // 4)


@torch.no_grad()
def plain(lens: DiTLens, split: Sequence[Quadruplet], config: Config) -> None:
    """The same forwards, nothing captured."""
    for batch in batches(split, config.batch_size):
        path = travel(lens, batch, ROUTE)
        for step in STEPS[-config.steps :]:
            lens.run_with_cache(path, step, names_filter=())


@torch.no_grad()
def as_files(lens: DiTLens, split: Sequence[Quadruplet], config: Config, folder: Path) -> None:
    """Full outputs to the CPU in float32, one file for each clip and step."""
    for batch in batches(split, config.batch_size):
        path = travel(lens, batch, ROUTE)
        for step in STEPS[-config.steps :]:
            _, cache = lens.run_with_cache(path, step, names_filter=POINTS)
            full = {name: value.float().cpu() for name, value in cache.items()}
            for i, clip in enumerate(path.clip_ids):
                one = {name: value[i].clone() for name, value in full.items()}
                torch.save(one, folder / f"{clip.replace('/', '-')}-{step}.pt")


def capture(lens: DiTLens, split: Sequence[Quadruplet], config: Config, folder: Path) -> None:
    """To a store; the survey before it included."""
    plan, _ = survey(lens, split, recipe(config))
    fill(lens, split, recipe(config), Filling(folder, plan, "{}"))


def time_capture(config: Config) -> None:
    """Plain and captured in turns, 128 clips at a time, so that what else the machine does falls on both."""
    lens, split = load(config, config.clips[0])
    plan, _ = survey(lens, split, recipe(config))
    part = 4 * config.batch_size
    spent = np.zeros((2, 2))
    for i, start in enumerate(range(0, len(split), part)):
        some = [split[number] for number in range(start, min(start + part, len(split)))]
        made = Plan(**{**vars(plan), "batches": -(-len(some) // config.batch_size), "clips": 4 * len(some)})
        turns: list[Callable[[], None]] = [
            lambda some=some: plain(lens, some, config),
            lambda some=some, i=i, made=made: fill(
                lens, some, recipe(config), Filling(config.folder / f"{i}", made, "{}")
            ),
        ]
        for which in (0, 1) if i % 2 else (1, 0):
            begun = clock()
            turns[which]()
            spent[which] += clock() - begun
    (wall, processor), (wall_captured, processor_captured) = spent
    print(f"{config.clips[0]} clips x {config.steps} steps: plain {wall:.1f} s ({processor:.1f} s of processor),")
    print(f"captured {wall_captured:.1f} s ({processor_captured:.1f} s): {wall_captured / wall:.3f} x wall,", end=" ")
    print(f"{processor_captured / processor:.3f} x processor")


def in_own_process(work: Callable[[], None]) -> None:
    """Works in a child, so that what it leaves in memory is not counted again."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    os.waitpid(child, 0)


def measure_memory(config: Config) -> None:
    """Plain forwards over the first number of clips, then captures of each."""
    for clips in config.clips:
        lens, split = load(config, clips)

        def told(name: str, work: Callable[[], None], clips: int = clips) -> None:
            forget_peak()
            before, begun = peak(), clock()
            work()
            wall, processor = clock() - begun
            print(f"{name:>8} {clips:6d} clips: peak {peak():.0f} MB ({before:.0f} before)", end=", ", flush=True)
            print(f"{wall:.0f} s ({processor:.0f} s of processor)", flush=True)

        folder = config.folder / f"{clips}"
        if clips == config.clips[0]:
            in_own_process(lambda lens=lens, split=split, told=told: told("plain", lambda: plain(lens, split, config)))
        in_own_process(
            lambda lens=lens, split=split, folder=folder, told=told: told(
                "captured", lambda: capture(lens, split, config, folder)
            )
        )


def time_disk(config: Config) -> None:
    """One shard against one file, in turns."""
    cell = torch.randn(1, 2**22)  # 16 MiB
    steps = int(config.gigabytes * 1e9 / cell.nbytes)
    variable = Variable("x.none", ("feature",), tuple(cell.shape[1:]), "float32")
    levels = tuple(float(step) for step in range(steps))
    plan = Plan((variable,), tuple(range(steps)), levels, levels, config.rounds, config.rounds, {}, "none")
    filling = Filling(config.folder / "store", plan, "{}")
    filling.begin()
    columns = {"id": ["x"], "group": ["x"], "role": ["x"], "property": ["x"], "possible": [None]}
    rates = np.zeros((config.rounds, 2))
    for i in range(config.rounds):
        begun = time.perf_counter()
        with filling.claim(i), filling.shard(i, columns) as shard:
            for step in range(steps):
                shard.put(step, {("x.none", None): cell})
        middle = time.perf_counter()
        with (config.folder / "raw").open("wb", buffering=0) as file:
            for _ in range(steps):
                file.write(cell.numpy().data)
            os.fsync(file.fileno())
        rates[i] = steps * cell.nbytes / 1e6 / np.array([middle - begun, time.perf_counter() - middle])
        (config.folder / "raw").unlink()
        next(path for path in filling.folder.glob("*.h5")).unlink()
    writer, raw = np.median(rates, axis=0)
    print(f"writer, sha256 included {writer:.0f} MB/s, raw {raw:.0f} MB/s: {writer / raw:.2f}")
    print("each turn (writer, raw): " + "  ".join(f"{one:.0f}, {other:.0f}" for one, other in rates))


def time_files(config: Config) -> None:
    """Both ways over the same clips."""
    lens, split = load(config, config.clips[0])
    (config.folder / "files").mkdir()

    def told(name: str, work: Callable[[], None], size: Callable[[], int]) -> None:
        forget_peak()
        before, begun = peak(), clock()
        work()
        wall, processor = clock() - begun
        print(f"{name}: {wall:.1f} s ({processor:.1f} s of processor), {size() / 1e6:.1f} MB on disk,", end=" ")
        print(f"peak {peak():.0f} MB ({before:.0f} before)", flush=True)

    store, files = config.folder / "store", config.folder / "files"
    captured = lambda: told("store", lambda: capture(lens, split, config, store), lambda: open_store(store).bytes)  # noqa: E731
    usual = lambda: told(  # noqa: E731
        "files", lambda: as_files(lens, split, config, files), lambda: sum(f.stat().st_size for f in files.iterdir())
    )
    in_own_process(captured)
    in_own_process(usual)


def main() -> None:
    """Prints what was asked for."""
    config = tyro.cli(Config, description=__doc__)
    torch.set_num_threads(1)
    config.folder.mkdir(parents=True, exist_ok=True)
    work = {"capture": time_capture, "memory": measure_memory, "disk": time_disk, "files": time_files}
    try:
        work[config.what](config)
    finally:
        shutil.rmtree(config.folder)


if __name__ == "__main__":
    main()
