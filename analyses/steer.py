"""Is the direction that a probe reads one that the model uses: does a push along it make possible physics?

Method: along "continuation" (first half given clean, second noised) a linear probe and the difference of means are
fitted on token means of training scenes, at the block and step that these scenes choose out of fold. The model then
continues first halves of test scenes by its own sampler while every token at that block is pushed along the direction,
by doses in its own spread (standard deviations of the projection over training clips); positive is toward "possible".
Or the direction is erased: every token set to its mean along it. Measured against the unsteered continuation from the
same noise: how often the tracker sees the possible outcome, how much nearer to it than to the impossible one the latent
comes (`dit_lens.behaviour`), and the damage, |steered - unsteered| / |unsteered| of the second half's latent.

Controls: dose 0, which must change no bit; random directions along which the stream is moved exactly as far as along
either of the two; a twin that never saw lawful clips, at the same block and step.

Output: figures/data/steer.nc with values (model, direction, dose, quadruplet, pair, measure), erased likewise.
Cost: about four minutes on one core with the defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from analyses.command import main
from dit_lens import behaviour, datasets, stats
from dit_lens.behaviour import FirstHalves
from dit_lens.capture import Route, batches, capture_pooled
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.hook_points import HookFunction
from dit_lens.lens import DiTLens
from dit_lens.probing import FOLDS, Probe, Reads, out_of_fold_logits
from dit_lens.steering import Direction, erase, push, steering

MEASURES = (*behaviour.MEASURES, "damage")
FITTED, ERASED = ("probe", "difference of means"), "erased"
PAIRS = ("A, C", "B, D")
LEVELS = 20


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null",)
    """Models to compare with; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets whose clips know the truth about their objects."""
    properties: tuple[str, ...] = ("permanence", "continuity", "inertia", "gravity")
    """Which of its laws: by default those that mini-wan's states tell best."""
    steps: tuple[int, ...] = (11, 14)
    """Steps to choose from, of 20, counted from data (0) to noise."""
    blocks: tuple[int, ...] = (1, 2, 3, 4)
    """Blocks to choose from."""
    doses: tuple[float, ...] = (-8.0, -4.0, 0.0, 4.0, 8.0)
    """Doses in spreads; 0 is added where it is missing."""
    sigmas: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which the sampler is steered."""
    randoms: int = 2
    """Random directions for each of the two that are fitted."""
    sampling: int = 8
    """Euler steps of continuations."""
    train: int = 88
    """Training quadruplets of the probe."""
    test: int = 20
    """Test quadruplets, of which A and B are continued."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise and of the random directions."""


@dataclass(frozen=True, eq=False)
class Steered:
    """Where a model is steered, and along what.

    Attributes:
        step, block: of the cell.
        accuracy: of the probe, out of fold on training scenes.
        directions: by name.
    """

    step: int
    block: int
    accuracy: float
    directions: Mapping[str, Direction]

    @property
    def point(self) -> str:
        """What is pushed."""
        return f"blocks.{self.block}.hook_resid_post"


def run(config: Config) -> xr.Dataset:
    """Values of every dose of all models; all are steered at the cell that the first chose.

    Raises:
        ValueError: too few quadruplets, steps, blocks or random directions.
    """
    if config.train < FOLDS or config.test < 2 or config.randoms < 1 or not config.steps or not config.blocks:
        raise ValueError(
            f"got {config.train} training and {config.test} test quadruplets, {config.randoms} random directions, steps"
            f" {config.steps}, blocks {config.blocks} · expected at least {FOLDS}, 2, 1, one and one"
        )
    train, test = (
        datasets.load(config.dataset, split=part, quadruplets=size, properties=config.properties, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test))
    )
    parts: list[xr.Dataset] = []
    cell: tuple[int, int] | None = None
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        steered = fit(lens, train, config, cell)
        cell = cell or (steered.step, steered.block)
        done = [dose_response(lens, batch, steered, config) for batch in batches(test, config.batch_size)]
        told = {"accuracy": steered.accuracy, "step": steered.step, "block": steered.block}
        told |= {"spread": ("direction", [d.spread for d in steered.directions.values()])}
        parts.append(xr.concat(done, "quadruplet").assign(told).expand_dims(model=[name]))
    attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return xr.concat(parts, "model").assign_attrs(attrs)


def fit(lens: DiTLens, train: Sequence[Quadruplet], config: Config, cell: tuple[int, int] | None) -> Steered:
    """Directions of the given cell (step, block), or of the one that training scenes choose."""
    route = Route("continuation", LEVELS, seed=config.seed)
    seen = capture_pooled(
        lens, train, config.steps, route, batch_size=config.batch_size, progress=f"{lens.name}, probe"
    )
    possible, groups = seen.possible.values.ravel(), np.repeat(seen.quadruplet.values, len(ROLES))

    def features(step: int, block: int) -> np.ndarray:
        return seen.activation.sel(step=step, block=block).values.reshape(-1, seen.sizes["feature"])

    def accuracy(cell: tuple[int, int]) -> float:
        return float(((out_of_fold_logits(features(*cell), possible, groups) > 0) == possible).mean())

    cells = [cell] if cell else [(step, block) for step in config.steps for block in config.blocks]
    reached = [accuracy(one) for one in cells]
    step, block = cells[int(np.argmax(reached))]
    x = features(step, block)
    reads = Reads(f"blocks.{block}.hook_resid_post", step, float(seen.sigma.sel(step=step)), lens.name)
    probe = Direction.of_probe(Probe.fit(x, possible, groups, reads), x)
    fitted = dict(zip(FITTED, (probe, Direction.of_means(x, possible)), strict=True))
    randoms = {
        f"{as_far_as(name)} {i}": direction.random(x, config.seed + i)
        for name, direction in fitted.items()
        for i in range(config.randoms)
    }
    return Steered(step, block, max(reached), fitted | randoms)


def as_far_as(name: str) -> str:
    """What a random direction is called along which the stream is moved as far as along another."""
    return f"random, as {name}"


def dose_response(lens: DiTLens, batch: Sequence[Quadruplet], steered: Steered, config: Config) -> xr.Dataset:
    """`values` (direction, dose, quadruplet, pair, measure), and `erased` without a dose."""
    halves = FirstHalves.of(lens, batch, config.seed)
    plain = behaviour.continued(lens, halves, config.sampling)
    doses = sorted({0.0, *config.doses})

    def measured(functions: list[HookFunction]) -> np.ndarray:
        with steering(lens, steered.point, functions, sigmas=config.sigmas):
            made = behaviour.continued(lens, halves, config.sampling)
        moved = damage(made[:, :, halves.cut :], plain[:, :, halves.cut :])
        found = np.column_stack([behaviour.margins(lens, halves, made), moved])
        return found.reshape(2, len(batch), len(MEASURES)).swapaxes(0, 1)

    bar = tqdm(steered.directions.values(), desc=f"{lens.name}, {len(batch)} quadruplets", unit="direction")
    found = [([measured(push(direction, dose)) for dose in doses], measured(erase(direction))) for direction in bar]
    names = ("quadruplet", "pair", "measure")
    return xr.Dataset(
        {
            "values": (("direction", "dose", *names), np.array([values for values, _ in found])),
            "erased": (("direction", *names), np.array([erased for _, erased in found])),
        },
        {
            "direction": list(steered.directions),
            "dose": doses,
            "quadruplet": [q.id for q in batch],
            "pair": list(PAIRS),
            "measure": list(MEASURES),
            "property": ("quadruplet", [q.property for q in batch]),
        },
    )


def damage(made: Float[Tensor, "b c f h w"], plain: Float[Tensor, "b c f h w"]) -> Float[np.ndarray, " b"]:
    """How far each clip is from what it was, in units of what it was."""
    far, size = ((x.double().square().flatten(1).sum(1)) for x in (made - plain, plain))
    return torch.sqrt(far / size).cpu().numpy()


def responses(result: xr.Dataset) -> xr.Dataset:
    """Of each quadruplet (model, kind, dose, quadruplet): `shown`, `nearer` and `damage`; random directions averaged.

    `shown` is the share of its continuations in which the tracker sees the possible outcome; `nearer` how much the
    margin of the latent has grown from the unsteered one's. The last dose, infinite, is the direction erased.
    """
    values = xr.concat([result["values"], result.erased.expand_dims(dose=[np.inf])], "dose")
    margin, latent = (values.sel(measure=name, drop=True) for name in ("tracker", "latent"))
    found = xr.Dataset(
        {
            "shown": margin.copy(data=behaviour.shown(margin.values)),
            "nearer": latent - latent.sel(dose=0.0, drop=True),
            "damage": values.sel(measure="damage", drop=True),
        }
    ).mean("pair")
    kinds = [re.sub(r" \d+$", "", str(name)) for name in result.direction.values]
    return found.assign_coords(direction=kinds).groupby("direction").mean().rename(direction="kind")


def scores(result: xr.Dataset, change: bool = False) -> xr.Dataset:
    """Means of `responses` (end, model, kind, dose) with their 95% intervals; end is "middle", "low" or "high".

    Args:
        change: of the share shown, from the unsteered continuation's.
    """
    found = responses(result)
    if change:
        found["shown"] = found.shown - found.shown.sel(dose=0.0, drop=True)
    ends: dict[str, xr.DataArray] = {}
    for name in ("shown", "nearer", "damage"):
        rows = found[name].transpose("quadruplet", "model", "kind", "dose")
        cell = rows.isel(quadruplet=0, drop=True)
        parts = stats.bootstrap_ratio(rows.values, np.ones_like(rows.values))
        ends[name] = xr.concat([cell.copy(data=part) for part in parts], xr.Variable("end", ["middle", "low", "high"]))
    return xr.Dataset(ends)


def table(result: xr.Dataset) -> str:
    """Per model: the probe, the unsteered continuations, and what each dose of each direction changes."""
    level, change = scores(result), scores(result, change=True)
    n = result.sizes["quadruplet"]
    lines = [f"{n} test quadruplets, A and B continued; change from unsteered, 95% intervals over quadruplets"]
    for model in result.model.values:
        here, there = result.sel(model=model), level.sel(model=model, dose=0.0).isel(kind=0)
        same = float(here["values"].sel(measure="damage", dose=0.0).max())
        lines += [
            "",
            f"{model}, block {int(here.block)}, step {int(here.step)}: probe {float(here.accuracy):.3f} out of fold;"
            f" unsteered, possible in {_cell(there.shown)} of clips; dose 0 changes {same:g}",
            f"  {'direction':32s}{'dose':>7s}   {'possible, tracker':24s}{'margin of the latent':24s}{'damage':20s}",
        ]
        for kind in level.kind.values:
            for dose in level.dose.values[level.dose.values != 0]:
                row = change.sel(model=model, kind=kind, dose=dose)
                told = f"{dose:+g}" if np.isfinite(dose) else ERASED
                cells = f"{_cell(row.shown, '+'):24s}{_cell(row.nearer, '+'):24s}{_cell(row.damage):20s}"
                lines.append(f"  {kind!s:32s}{told:>7s}   {cells}")
    return "\n".join(lines)


def _cell(ends: xr.DataArray, sign: str = "") -> str:
    middle, low, high = (float(ends.sel(end=end)) for end in ("middle", "low", "high"))
    return f"{middle:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


if __name__ == "__main__":
    from figures.steer import draw

    main(Config, run, table, draw, "steer", __doc__)
