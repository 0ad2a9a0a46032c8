"""What capture to disk costs: `python -m benchmarks.store [capture|memory|disk|packing|files]` prints what follows.

capture   seconds of a capture (pooled resid_post and z of every block) beside the same forwards without one, in turns
memory    peak resident memory of captures of more and more clips, each in a process of its own
disk      the writer's throughput beside a raw sequential write of as many bytes; fsync on both sides, in turns
packing   what compression leaves of activations, and how fast it is
files     the usual way: full outputs to the CPU in float32, one file for each clip and step; beside it the capture's
"""

from __future__ import annotations

import hashlib
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
from dit_lens.capture import NoisePath, Recipe, Take, batches, fill, survey, trajectory_of
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.store import Plan, StoreWriter, Variable, open_store
from dit_lens.store.shards import Packing
from dit_lens.tensor_file import to_bits

POINTS = ("blocks.*.hook_resid_post", "blocks.*.attn.hook_z")
STEPS = (1, 3, 5, 7, 9, 11, 13, 15, 17, 19)
PATH = NoisePath("noising", 20)  # so that only forwards that are captured are timed


@dataclass(frozen=True)
class Config:
    """Options."""

    what: tyro.conf.Positional[Literal["capture", "memory", "disk", "packing", "files"]]
    """Which of the five."""
    clips: tuple[int, ...] = (1000,)
    """How many; of memory, several."""
    steps: int = 10
    """How many."""
    batch_size: int = 8
    """Scenes to a batch."""
    gigabytes: float = 1.0
    """To write, of disk."""
    rounds: int = 5
    """Turns, of disk."""
    folder: Path = Path(mkdtemp())
    """Where to write; removed at the end."""


def recipe(config: Config) -> Recipe:
    """Token means of every block's output and of every head's z."""
    takes = tuple(Take.parse(f"{point}=mean") for point in POINTS)
    return Recipe(takes, STEPS[-config.steps :], PATH, config.batch_size)


def clock() -> np.ndarray:
    """Wall and processor seconds (of all threads); where others work too, the second is the one to compare."""
    return np.array([time.perf_counter(), time.process_time()])


def peak() -> float:
    """Megabytes that were resident at most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def forget_peak() -> None:
    """Counts again."""
    Path("/proc/self/clear_refs").write_text("5")


def load(config: Config, clips: int) -> tuple[DiTLens, Sequence[Scene]]:
    """Mini-wan and so many clips."""
    return DiTLens.from_pretrained("mini-wan"), datasets.load("miniphys", split="test", quadruplets=clips // 4)


@torch.no_grad()
def plain(lens: DiTLens, split: Sequence[Scene], config: Config) -> None:
    """The same forwards, nothing captured."""
    for batch in batches(split, config.batch_size):
        path = trajectory_of(lens, batch, PATH)
        for step in STEPS[-config.steps :]:
            lens.run_with_cache(path, step, names_filter=())


@torch.no_grad()
def as_files(lens: DiTLens, split: Sequence[Scene], config: Config, folder: Path) -> None:
    """Full outputs to the CPU in float32, one file for each clip and step."""
    for batch in batches(split, config.batch_size):
        path = trajectory_of(lens, batch, PATH)
        for step in STEPS[-config.steps :]:
            _, cache = lens.run_with_cache(path, step, names_filter=POINTS)
            full = {name: value.float().cpu() for name, value in cache.items()}
            for i, clip in enumerate(path.clip_ids):
                tensors = {name: value[i].clone() for name, value in full.items()}
                torch.save(tensors, folder / f"{clip.replace('/', '-')}-{step}.pt")


def capture(lens: DiTLens, split: Sequence[Scene], config: Config, folder: Path) -> None:
    """To a store; the survey before it included."""
    plan, _ = survey(lens, split, recipe(config))
    fill(lens, split, recipe(config), StoreWriter(folder, plan, "{}"))


def time_capture(config: Config) -> None:
    """Plain and captured in turns, 128 clips at a time, so that what else the machine does falls on both."""
    lens, split = load(config, config.clips[0])
    plan, _ = survey(lens, split, recipe(config))
    part = 4 * config.batch_size
    spent = np.zeros((2, 2))
    for i, start in enumerate(range(0, len(split), part)):
        some = [split[number] for number in range(start, min(start + part, len(split)))]
        part_plan = Plan(**{**vars(plan), "batches": -(-len(some) // config.batch_size), "clips": 4 * len(some)})
        turns: list[Callable[[], None]] = [
            lambda some=some: plain(lens, some, config),
            lambda some=some, i=i, part_plan=part_plan: fill(
                lens, some, recipe(config), StoreWriter(config.folder / f"{i}", part_plan, "{}")
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

        def report(name: str, work: Callable[[], None], clips: int = clips) -> None:
            forget_peak()
            before, begun = peak(), clock()
            work()
            wall, processor = clock() - begun
            print(f"{name:>8} {clips:6d} clips: peak {peak():.0f} MB ({before:.0f} before)", end=", ", flush=True)
            print(f"{wall:.0f} s ({processor:.0f} s of processor)", flush=True)

        folder = config.folder / f"{clips}"
        if clips == config.clips[0]:
            in_own_process(
                lambda lens=lens, split=split, report=report: report("plain", lambda: plain(lens, split, config))
            )
        in_own_process(
            lambda lens=lens, split=split, folder=folder, report=report: report(
                "captured", lambda: capture(lens, split, config, folder)
            )
        )


def time_disk(config: Config) -> None:
    """One shard against one file, in turns; the first turn, in which the system finds the memory, is not counted."""
    cell = torch.randn(1, 2**22)  # 16 MiB
    steps = int(config.gigabytes * 1e9 / cell.nbytes)
    variable = Variable("x.none", ("feature",), tuple(cell.shape[1:]), "float32")
    levels = tuple(float(step) for step in range(steps))
    plan = Plan((variable,), tuple(range(steps)), levels, levels, config.rounds, config.rounds, {}, "none")
    writer, raw = StoreWriter(config.folder / "store", plan, "{}"), config.folder / "raw"
    writer.begin()
    spent = np.zeros((1 + config.rounds, 3, 2))
    for i in range(1 + config.rounds):
        turns = [lambda: as_shard(writer, cell), lambda: as_file(raw, cell, steps), lambda: digest(cell, steps)]
        for which in (0, 1, 2) if i % 2 else (2, 1, 0):
            begun = clock()
            turns[which]()
            spent[i, which] = clock() - begun
            for path in (raw, *writer.folder.glob("*.h5")):
                path.unlink(missing_ok=True)
    size, (writer, plain, hashed) = steps * cell.nbytes / 1e6, np.median(spent[1:], axis=0)
    for name, (wall, processor) in {"writer, sha256 included": writer, "raw": plain, "sha256 alone": hashed}.items():
        print(f"{name}: {size / wall:.0f} MB/s ({processor:.2f} s of processor in {wall:.2f} s)")
    print(f"writer / raw: {plain[0] / writer[0]:.2f}; writer / (raw, then sha256):", end=" ")
    print(f"{(plain + hashed)[0] / writer[0]:.2f}; medians of {config.rounds} turns of {size:.0f} MB")
    print("MB/s by turn (writer, raw): " + "  ".join(f"{a:.0f}, {b:.0f}" for a, b in size / spent[1:, :2, 0]))


def as_shard(writer: StoreWriter, cell: torch.Tensor) -> None:
    """The store's first batch, with the same cell at every step."""
    columns = {"id": ["x"], "group": ["x"], "role": ["x"], "property": ["x"], "possible": [None]}
    with writer.claim(0), writer.shard(0, columns) as shard:
        for step in range(len(writer.plan.steps)):
            shard.put(step, {("x.none", None): cell})


def as_file(path: Path, cell: torch.Tensor, times: int) -> None:
    """The same bytes one after the other, flushed to disk."""
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(cell.numpy().data)
        os.fsync(file.fileno())


def digest(cell: torch.Tensor, times: int) -> None:
    """The sha256 of the same bytes, in memory: what no writer that tells it can do without."""
    hashed = hashlib.sha256()
    for _ in range(times):
        hashed.update(cell.numpy().data)


@torch.no_grad()
def time_packing(config: Config) -> None:
    """What shuffling and deflating leaves of the last block's output, whole and averaged, and its pace."""
    lens, split = load(config, 16)
    path = travel(lens, list(split), PATH)
    point = f"blocks.{lens.blocks - 1}.hook_resid_post"
    for dtype in (torch.float32, torch.bfloat16):
        _, cache = lens.run_with_cache(path, STEPS[5], names_filter=point, dtype=dtype)
        for name, values in (("tokens", cache[point]), ("means", cache[point].mean(1))):
            array = to_bits(values)
            times = max(1, int(1e8 / array.nbytes))
            begun = clock()
            for _ in range(times):
                packed = Packing("auto")(array)[0]
            wall, processor = clock() - begun
            left = (len(packed) if isinstance(packed, bytes) else packed.nbytes) / array.nbytes
            print(f"{name} as {str(dtype)[6:]}: {left:.2f} of its size is left", end=", ")
            print(f"{times * array.nbytes / 1e6 / processor:.0f} MB a second of processor ({wall:.1f} s)")


def time_files(config: Config) -> None:
    """Both ways over the same clips."""
    lens, split = load(config, config.clips[0])
    (config.folder / "files").mkdir()

    def report(name: str, work: Callable[[], None], size: Callable[[], int]) -> None:
        forget_peak()
        before, begun = peak(), clock()
        work()
        wall, processor = clock() - begun
        print(f"{name}: {wall:.1f} s ({processor:.1f} s of processor), {size() / 1e6:.1f} MB on disk,", end=" ")
        print(f"peak {peak():.0f} MB ({before:.0f} before)", flush=True)

    store, files = config.folder / "store", config.folder / "files"
    captured = lambda: report("store", lambda: capture(lens, split, config, store), lambda: open_store(store).bytes)  # noqa: E731
    usual = lambda: report(  # noqa: E731
        "files", lambda: as_files(lens, split, config, files), lambda: sum(f.stat().st_size for f in files.iterdir())
    )
    in_own_process(captured)
    in_own_process(usual)


def main() -> None:
    """Prints what was asked for."""
    config = tyro.cli(Config, description=__doc__)
    torch.set_num_threads(1)
    config.folder.mkdir(parents=True, exist_ok=True)
    work = {"capture": time_capture, "memory": measure_memory, "disk": time_disk, "packing": time_packing}
    work["files"] = time_files
    try:
        work[config.what](config)
    finally:
        shutil.rmtree(config.folder)


if __name__ == "__main__":
    main()
