"""When in training does a model come to know the laws, and when can a probe tell?

Method: the same measures at checkpoints of one run. Loss: velocity error on possible clips, whole clips noised.
Surprise: how much larger the error on the second half is in impossible clips, the first half given clean
(`analyses.surprise`). Probe: accuracy per clip at the cell chosen on training scenes, on inverted clips and on
continuations (`analyses.probe_blocks`).

Control: step 0 is the random initialisation that the training began with.

Output: figures/data/follow_training.nc with the measures by checkpoint (a training step), with intervals.
Cost: about fifteen minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analyses import probe_blocks, surprise
from analyses.command import main
from dit_lens import datasets, stats
from dit_lens.capture import batches
from dit_lens.clips import Quadruplet
from dit_lens.lens import DiTLens

MEASURES = {
    "loss": "velocity error, possible clips",
    "surprise": "surprise, first half given (%)",
    "inversion": "probe on inverted clips (accuracy)",
    "continuation": "probe on continuations (accuracy)",
}
PATHS: tuple[probe_blocks.Way, ...] = ("inversion", "continuation")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model whose checkpoints are followed: a bundled name, or a folder that was trained here."""
    controls: tuple[str, ...] = ("mini-wan-random",)
    """What training began with, shown as step 0; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets."""
    checkpoints: tuple[int, ...] = (125, 250, 500, 1000, 2000, 4000)
    """Training steps to look at; the finished model comes last."""
    last: int = 8000
    """The step at which the finished model stands."""
    steps: tuple[int, ...] = (8, 11, 14)
    """Steps of the trajectory to probe at, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the sampler between data and noise (Euler)."""
    sigmas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.95)
    """Noise levels of the errors."""
    train: int = 220
    """Training quadruplets of the probes."""
    test: int = 110
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """The measures at every checkpoint, with their 95% intervals over quadruplets."""
    splits = {
        part: datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test))
    }
    names = dict.fromkeys(config.controls, 0) | {f"{config.model}@step{step}": step for step in config.checkpoints}
    names[config.model] = config.last
    rows = [measure(DiTLens.from_pretrained(name, seed=config.seed), splits, config) for name in names]
    result = xr.concat(rows, xr.Variable("checkpoint", list(names.values())))
    lens = DiTLens.from_pretrained(config.model, verify=False)
    return result.assign_attrs(dataset=config.dataset, split="test", seed=config.seed, lens=lens.facts())


def measure(lens: DiTLens, splits: probe_blocks.Splits, config: Config) -> xr.Dataset:
    """One model's estimates (measure, bound), the bounds being estimate, low and high."""
    rows = velocity_errors(lens, splits["test"], config)
    probing = probe_blocks.Config(config.model, levels=config.levels, steps=config.steps, seed=config.seed)
    for path in PATHS:
        seen = {part: probe_blocks.capture(lens, probing, path, split).activation for part, split in splits.items()}
        scored = probe_blocks.chosen(probe_blocks.score_grid(seen, path))
        rows[path] = [float(scored[key][0]) for key in ("accuracy", "low", "high")]
    values = np.array([rows[name] for name in MEASURES])
    return xr.Dataset(
        {"value": (("measure", "bound"), values)}, {"measure": list(MEASURES), "bound": ["estimate", "low", "high"]}
    )


def velocity_errors(lens: DiTLens, test: Sequence[Quadruplet], config: Config) -> dict[str, list[float]]:
    """Loss on possible clips, and surprise with the first half given, of all crossed quadruplets."""
    asked = surprise.Config(config.model, sigmas=config.sigmas, draws=1, seed=config.seed)
    parts = [
        surprise.clip_errors(lens, batch, asked) for batch in batches(test, config.batch_size, f"{lens.name}, errors")
    ]
    error = surprise.labelled(np.concatenate(parts, axis=2), test, asked).mean("sigma")
    loss = error.sel(condition=surprise.CONDITIONS[0], role=["A", "B"]).mean("role").values
    ahead = surprise.scores(error).sel(condition=surprise.CONDITIONS[-1], property=surprise.ALL)
    return {
        "loss": [float(part) for part in stats.bootstrap_ratio(loss, np.ones_like(loss))],
        "surprise": [float(ahead[key]) for key in ("surprise", "low", "high")],
    }


def table(result: xr.Dataset) -> str:
    """A line per checkpoint: every measure with its interval."""
    lines = ["step   " + "".join(f"   {title:36s}" for title in MEASURES.values())]
    for step in result.checkpoint.values:
        cells = (tuple(result.value.sel(checkpoint=step, measure=name).values) for name in MEASURES)
        lines.append(f"{step:<7d}" + "".join(f"   {'{:.3f} [{:.3f}, {:.3f}]'.format(*cell):36s}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    from figures.follow_training import draw

    main(Config, run, table, draw, "follow_training", __doc__)
