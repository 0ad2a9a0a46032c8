"""Which activations of a data set should be captured once, and kept on disk for all later questions?

What: the folder --out, which `dit_lens.store.open_store` reads as lazy arrays (clip, step, block, ...), and other
questions by --store.
Why: probes, poolings and looks at single clips read the same activations; capturing them is the expensive part.
How: all clips, labelled or not, go to noise batch by batch along any path, and are reduced in the hook; a batch is a
shard, renamed when complete. After an interruption the same command continues; two commands share the work, `--engine`
starts workers, and `--shard` divides the work between the jobs of an array (docs/several_machines.md).
Controls: `--verify` compares every shard with the sha256 it was written with. Clips that cannot be captured are listed
in the store's errors; a full disk always stops the run.
Cost: printed before the work begins; above one hour or 20 GB it needs --yes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from analyses.command import answer_in_words, asked
from dit_lens.studies import Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the capture; --test is the number of scenes, --out the folder of the store. Nothing is fitted."""

    NEEDS: ClassVar[tuple[str, ...]] = ()
    DEMO: ClassVar[Mapping[str, Any]] = {"path": "inversion", "read_at": (4, 8, 11, 14, 17, 19), "test": 220}

    takes: tuple[str, ...] = ("blocks.*.hook_resid_post=mean",)
    """What to store: POINTS=REDUCTION[,REDUCTION]; most probes read space_mean (see dit_lens.reductions)."""
    keep: Literal["as_made", "float16", "bfloat16", "float32", "float64"] = "as_made"
    """Data type of stored values; a value outside its range stops the run."""
    compression: Literal["auto", "none"] = "auto"
    """auto: deflate where it saves a tenth or more; none: never."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do at a clip that cannot be read, or whose values are not finite."""
    shard: str = "1/1"
    """Which part of the batches to capture: I/N is the I-th of N jobs, counted from 1."""
    verify: bool = False
    """Capture nothing; check that the store is complete and every byte unchanged."""

    def resolved(self) -> Config:
        """With every unset option filled in: one model, and all scenes alike."""
        return super(Config, replace(self, controls=self.controls or (), train=self.train or 0)).resolved()

    def check(self) -> None:
        """Checks options as for every study; also that one folder is given, for one model's states."""
        super().check()
        if not self.out or self.store:
            raise ValueError(
                f"got --out {self.out!r}, --store {self.store!r} · expected --out, the folder of the new store, and no"
                " --store · other analyses read it by --store, the folder that contains it"
            )
        if self.controls or self.train or self.fit_on:
            raise ValueError(
                "got --controls, --train or --fit-on · expected one model and one data set per store · make another"
                " store for each, in the same folder"
            )
        if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", self.shard):
            raise ValueError(f"got --shard {self.shard} · expected I/N, such as 2/8 for the second of eight jobs")

    @property
    def shared_folder(self) -> str:
        """The folder that workers capture into."""
        return self.out


CONFIG = asked(Config, __name__)

import shutil
from collections.abc import Sequence
from pathlib import Path

from dit_lens import results
from dit_lens.capture import CaptureCost, Recipe, Share, Take, fill, survey
from dit_lens.capture.storing import load
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.store import StoreWriter, open_store
from dit_lens.studies.options import options_of
from dit_lens.studies.paths import path_of, steps_of
from dit_lens.studies.price import check_agreed
from dit_lens.studies.readers import decides
from dit_lens.studies.scenes import everything


def run(config: Config) -> str:
    """Writes the store, or continues a partial one, and describes its content.

    Raises:
        ValueError: a large cost without --yes, or more than the disk has room for; or see `dit_lens.capture.fill`.
    """
    out = Path(config.out)
    if config.verify:
        return summary(out, verify=True)
    share, scenes, lens = Share.parse(config.shard), everything(config), config.lens()
    capture_recipe = recipe(config, lens, scenes)
    with config.runs_on.shared_threads():
        plan, estimate = survey(lens, scenes, capture_recipe, decides(config, config.spec, lens))
    facts = {"dataset": config.spec.name, "split": config.spec.split, "lens": lens.facts()}
    writer = StoreWriter(out, plan, results.provenance(config=options_of(config), **facts))
    left = estimate.share(len(share.of(writer.todo())) / plan.batches)
    print(
        "\n".join([f"store     {out}", *(f"holds     {variable}" for variable in plan.variables), f"estimate  {left}"])
    )
    check_room(out, left)
    check_agreed(config, left.seconds / 60, left.bytes)
    fill(lens, scenes, capture_recipe, writer, config.on_error, lens.name, engine=config.runs_on, share=share)
    return summary(out, partial=True)


def recipe(config: Config, lens: DiTLens, scenes: Sequence[Scene]) -> Recipe:
    """The capture recipe that the options ask for."""
    readable = next((item for i in range(len(scenes)) for item in load(scenes, [i])[0].values()), scenes[0])
    takes, steps = tuple(Take.parse(text) for text in config.takes), tuple(steps_of(config, lens, [readable]))
    return Recipe(takes, steps, path_of(config), config.batch_size, config.keep, config.compression)


def check_room(out: Path, left: CaptureCost) -> None:
    """Checks that the disk has room.

    Raises:
        ValueError: the disk has less free space than the store needs.
    """
    home = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(home).free
    if left.bytes > free:
        raise ValueError(
            f"got {left.bytes / 1e9:.3g} GB to write · expected at most {free / 1e9:.3g} GB, the free space on disk ·"
            " free some space, or keep less (--takes, --keep)"
        )


def summary(out: Path, partial: bool = False, verify: bool = False) -> str:
    """Text about a store: variables, shards, size, and failures."""
    store = open_store(out, partial=partial, verify=verify or None)
    checked = ", every byte unchanged" if verify else ""
    lines = [repr(store), f"{store.bytes / 1e9:.4g} GB on disk in {out}{checked}"]
    if len(store.errors):
        lines += [f"{len(store.errors)} items failed:", store.errors.to_string(index=False)]
    return "\n".join(lines)


if CONFIG is not None:
    answer_in_words(CONFIG, run)
