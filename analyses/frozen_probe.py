"""What patching, ablation and attribution have in common: the way to noise, and a frozen probe at a chosen block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import xarray as xr

from dit_lens import datasets, stats
from dit_lens.cache.anatomy import block_of
from dit_lens.capture import Route, capture_pooled
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads, out_of_fold_logits

LEAST = 10, 4  # quadruplets to fit on, and to rank on one half of each property and report on the other


class Asked(Protocol):
    """The options that a probe's fit takes."""

    @property
    def path(self) -> Literal["continuation", "inversion", "noising"]: ...  # noqa: D102
    @property
    def steps(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def levels(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Options:
    """Options of an analysis that reads one step by a frozen probe."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Models in which nothing must be found; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of crossed quadruplets."""
    path: Literal["continuation", "inversion", "noising"] = "continuation"
    """How clips get to a noise level: first half given clean, the sampler inverted, or straight to random noise."""
    properties: tuple[str, ...] = ("continuity", "inertia", "gravity", "permanence")
    """Which of its laws: by default those that mini-wan's states tell best."""
    step: int = 14
    """Step to read at, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the sampler between data and noise (Euler)."""
    train: int = 150
    """Training quadruplets the probe is fitted on."""
    test: int = 30
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of all that is drawn at random, and of the random initialisation."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The step, as probes are fitted at several."""
        return (self.step,)


def load(
    dataset: str, properties: Sequence[str], sizes: tuple[int, int], seed: int
) -> tuple[Sequence[Quadruplet], Sequence[Quadruplet]]:
    """Training and test quadruplets.

    Raises:
        ValueError: too few to fit a probe on, or to rank on one half and report on the other.
    """
    least = LEAST[0], max(LEAST[1], 2 * len(properties))
    if sizes[0] < least[0] or sizes[1] < least[1]:
        raise ValueError(
            f"got {sizes[0]} training and {sizes[1]} test quadruplets · expected at least {least[0]} and {least[1]}"
        )
    train, test = (
        datasets.load(dataset, split=split, quadruplets=size, properties=properties, seed=seed)
        for split, size in zip(("train", "test"), sizes, strict=True)
    )
    return train, test


def route(config: Asked) -> Route:
    """The way to noise that was asked for."""
    return Route(config.path, config.levels, "euler", config.seed)


def cross_validate(lens: DiTLens, config: Asked, train: Sequence[Quadruplet]) -> tuple[xr.DataArray, xr.DataArray]:
    """Out-of-fold accuracy (step, block) on training scenes, and the pooled activations it was fitted on."""
    seen = capture_pooled(
        lens, train, config.steps, route(config), pooling="frames", batch_size=config.batch_size,
        progress=f"{lens.name}, probe",
    )  # fmt: skip
    possible, groups = seen.possible.values.ravel(), np.repeat(seen.quadruplet.values, len(ROLES))
    accuracy = xr.zeros_like(seen.activation[0, 0, :, :, 0], dtype=float).drop_vars(["quadruplet", "role", "property"])
    for cell in np.ndindex(accuracy.shape):
        logits = out_of_fold_logits(_rows(seen.activation[:, :, *cell]), possible, groups)
        accuracy[cell] = ((logits > 0) == possible).mean()
    return accuracy.drop_vars("possible"), seen.activation


def fit_probe(cells: xr.DataArray, step: int, block: int, model: str) -> Probe:
    """The probe of one cell, fitted on all training scenes."""
    cell = cells.sel(step=step, block=block)
    groups = np.repeat(cells.quadruplet.values, len(ROLES))
    reads = Reads(f"blocks.{block}.hook_resid_post", step, float(cell.sigma), model)
    return Probe.fit(_rows(cell), cells.possible.values.ravel(), groups, reads, cells.attrs["parts"])


def _rows(cell: xr.DataArray) -> np.ndarray:
    return cell.values.reshape(-1, cell.sizes["feature"])


def halves(result: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The test scenes in two halves with the same properties: one to rank heads on, one to report."""
    turn = np.zeros(result.sizes["quadruplet"], dtype=bool)
    for prop in np.unique(result.property):
        turn[np.flatnonzero(result.property.values == prop)[::2]] = True
    return result.isel(quadruplet=turn), result.isel(quadruplet=~turn)


def fit(
    lens: DiTLens, config: Asked, train: Sequence[Quadruplet], block: int | None = None
) -> tuple[Probe, xr.DataArray]:
    """A probe of a block's output, the best out of fold unless one is given, and the accuracy at every depth."""
    accuracy, cells = cross_validate(lens, config, train)
    (step,) = config.steps
    own = accuracy.sel(step=step, drop=True).rename(block="depth")
    return fit_probe(cells, step, int(own.values.argmax()) if block is None else block, lens.name), own


def probed(config: Options, train: Sequence[Quadruplet]) -> Iterator[tuple[str, DiTLens, Probe, xr.DataArray]]:
    """Each model in turn by name, with its probe and the probe's accuracy at every depth (see `fit`).

    Every model is read at the block that the first chose.
    """
    block: int | None = None
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        probe, accuracy = fit(lens, config, train, block)
        block = block_of(probe.reads.point)
        yield name, lens, probe, accuracy


def by_model(
    parts: Sequence[xr.Dataset],
    config: Options,
    lens: DiTLens,
    probe: Probe,
    join: Literal["exact", "outer"] = "exact",
) -> xr.Dataset:
    """One table of what models gave, along `model`, with where they were read and what provenance says of it.

    Args:
        join: "outer" where some have what others have not (a random direction), which is NaN in these then.
    """
    result: xr.Dataset = xr.concat(
        parts, "model", data_vars="all", join=join, coords="minimal", compat="override"
    ).assign_coords(readout_block=block_of(probe.reads.point), sigma=probe.reads.sigma)
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return result


def interval(numerator: np.ndarray, denominator: np.ndarray) -> str:
    """A ratio of means with its 95% interval over quadruplets."""
    estimate, low, high = (float(x) for x in stats.bootstrap_ratio(numerator, denominator))
    return f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]"
