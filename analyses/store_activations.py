"""Activations of a data set on disk, to be probed, pooled or looked at as often as one likes.

Method: clips are inverted (or noised) batch by batch; at each step one fresh evaluation is read at the hook points and
reduced in the hook, several ways at once if asked. Every batch is a shard, written aside while the next evaluation
runs, and renamed when whole. Stop it or kill it at any time: the same command goes on, and the store is the same to
the byte. Start it a second time on the same folder and the two share the work.

Controls: `--verify` compares every shard with the sha256 it was written with. What cannot be captured is named in the
store's errors; a full disk always stops the run.

Output: a folder, which `dit_lens.store.open_store` reads as lazy arrays (clip, step, block, ...).
Cost: told first; above a limit only with `--yes`.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from analyses.command import endings
from dit_lens import datasets, results
from dit_lens.capture import Route
from dit_lens.filling import Estimate, Recipe, Take, fill, survey
from dit_lens.lens import DiTLens
from dit_lens.models.loading import fingerprint
from dit_lens.store import Filling, open_store

NOT_VALUES = ("out", "on_error", "yes", "ask_above_gb", "ask_above_minutes", "verify")


@dataclass(frozen=True)
class Config:
    """Options of the capture."""

    out: Path
    """Folder of the store."""
    model: str = "mini-wan"
    """A bundled name, a diffusers folder, or a hub id."""
    dataset: str = "miniphys"
    """Data set of quadruplets."""
    split: str = "test"
    """Which part of it."""
    quadruplets: int = 220
    """How many."""
    takes: tuple[str, ...] = ("blocks.*.hook_resid_post=mean",)
    """What is kept: POINTS=REDUCTION[,REDUCTION]; reductions are listed in dit_lens.reductions."""
    steps: tuple[int, ...] = (4, 8, 11, 14, 17, 19)
    """Steps to read at, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the sampler between data and noise."""
    path: Literal["inversion", "noising"] = "inversion"
    """From data to noise by the inverted sampler, or by plain noising."""
    solver: str = "euler"
    """Of the inversion."""
    batch_size: int = 8
    """Quadruplets to a batch, and so to a shard."""
    dtype: Literal["as_made", "float16", "bfloat16", "float32", "float64"] = "as_made"
    """What values are kept in; one that is too large for it stops the run."""
    compression: Literal["auto", "none"] = "auto"
    """Deflate where it saves a tenth or more, or nowhere."""
    seed: int = 0
    """Of the data set, of the noise of the noising path, and of the random initialisation."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a clip that cannot be read, or whose values are not finite."""
    ask_above_gb: float = 1.0
    """Larger stores are only filled with --yes."""
    ask_above_minutes: float = 30.0
    """Longer runs too."""
    yes: bool = False
    """Go ahead, whatever the estimate."""
    verify: bool = False
    """Capture nothing; check that the store is complete and every byte as it was written."""


def run(config: Config) -> str:
    """Fills the store, or goes on filling it, and says what it then holds.

    Raises:
        ValueError: more than the limits without --yes, or than the disk has room for; or see `dit_lens.filling.fill`.
    """
    lens = DiTLens.from_pretrained(config.model, seed=config.seed)
    split = datasets.load(config.dataset, split=config.split, quadruplets=config.quadruplets, seed=config.seed)
    plan, estimate = survey(lens, split, recipe(config), asked(config))
    told = results.provenance(config=asdict(config), dataset=config.dataset, split=config.split, lens=lens.facts())
    filling = Filling(config.out, plan, told)
    left = estimate.share(len(filling.todo()) / plan.batches)
    print("\n".join([f"store     {config.out}", *(f"holds     {one}" for one in plan.variables), f"estimate  {left}"]))
    check_limits(config, left)
    fill(lens, split, recipe(config), filling, config.on_error, progress=lens.name)
    return summary(config.out, partial=True)


def recipe(config: Config) -> Recipe:
    """What the options say of the capture."""
    takes = tuple(Take.parse(text) for text in config.takes)
    route = Route(config.path, config.levels, config.solver, config.seed)
    return Recipe(takes, config.steps, route, config.batch_size, config.dtype, config.compression)


def asked(config: Config) -> dict[str, object]:
    """What decides the values: the options, the weights they stand for, and the code."""
    options = {key: value for key, value in asdict(config).items() if key not in NOT_VALUES}
    return {**options, "weights": fingerprint(config.model), "code": results.source_digest(Path(__file__))}


def check_limits(config: Config, left: Estimate) -> None:
    """Refuses what is larger than the disk, and what nobody has said yes to.

    Raises:
        ValueError: with the remedy.
    """
    home = next(folder for folder in (config.out, *config.out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(home).free
    if left.bytes > free:
        raise ValueError(f"got {left.bytes / 1e9:.3g} GB to write · expected at most {free / 1e9:.3g}, which are free")
    large = left.bytes > config.ask_above_gb * 1e9 or left.seconds > config.ask_above_minutes * 60
    if large and not config.yes:
        raise ValueError(
            f"got an estimate above {config.ask_above_gb:g} GB or {config.ask_above_minutes:g} minutes"
            " · expected less, or --yes · reduce further (dit_lens.reductions), or say --yes"
        )


def summary(out: Path, partial: bool = False, verify: bool = False) -> str:
    """What a store holds: variables, shards, size, and what failed."""
    store = open_store(out, partial=partial, verify=verify or None)
    checked = ", every byte as it was written" if verify else ""
    lines = [repr(store), f"{store.bytes / 1e9:.4g} GB on disk in {out}{checked}"]
    if len(store.errors):
        lines += [f"{len(store.errors)} items failed:", store.errors.to_string(index=False)]
    return "\n".join(lines)


def main() -> None:
    """From the command line: bad input ends with status 2 and one line, Ctrl-C with status 130."""
    config = tyro.cli(Config, prog="python -m analyses.store_activations", description=__doc__)
    with endings("every shard on disk is whole, and the same command goes on"):
        print(summary(config.out, verify=True) if config.verify else run(config))


if __name__ == "__main__":
    main()
