"""Which attention heads carry plausibility from one clip to another?

Method: clips are inverted through the sampler. At each step, every head's z of one clip of a quadruplet is put into the
forward of another (possible into impossible, and back), one head at a time. Measured on the logit of a linear
probe for "possible" (fitted on training scenes at the readout block they choose, then frozen), and on the velocity's
projection on v_clean - v_corrupted. Over the four pairs of a quadruplet, what follows the label (odd) is told from
what follows the content of either half.

Controls: a clip patched with itself; A with B, where all changes but the label; the same map on a twin that never saw
lawful clips and on a random initialisation. Heads are ranked on half the test scenes and reported on the other.

Output: figures/data/patch_heads.nc with effects (model, quadruplet, pair, step, block, head).
Cost: under two minutes on two cores with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from analyses.command import main
from dit_lens import datasets, stats
from dit_lens.capture import Route, batches, capture_pooled, travel
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.patching import VelocityProjection, patch_heads
from dit_lens.probing import Probe, Reads, out_of_fold_logits

# Clean role, corrupted role. Sign +1: possible into impossible; -1: back; 0: a control.
PAIRS = {
    "A→C": +1, "B→D": +1, "A→D": +1, "B→C": +1,
    "C→A": -1, "D→B": -1, "D→A": -1, "C→B": -1,
    "A→B": 0, "B→A": 0, "A→A": 0,
}  # fmt: skip
TOP = 3


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Models whose maps must be flat; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of crossed quadruplets."""
    steps: tuple[int, ...] = (17,)
    """Steps to patch at, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the sampler between data and noise (Euler)."""
    train: int = 100
    """Training quadruplets the probe is fitted on."""
    test: int = 32
    """Test quadruplets that are patched."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set and of the random initialisation."""


@dataclass(frozen=True)
class Study:
    """One model under the analysis, with its probes by step."""

    lens: DiTLens
    config: Config
    probes: dict[int, Probe] = field(default_factory=dict)

    @property
    def route(self) -> Route:
        """By inversion, as the paper does."""
        return Route("inversion", self.config.levels, "euler", self.config.seed)


def run(config: Config) -> xr.Dataset:
    """The effects of all models, along a dimension `model`."""
    train, test = (
        datasets.load(config.dataset, split=split, quadruplets=size, seed=config.seed)
        for split, size in (("train", config.train), ("test", config.test))
    )
    parts: list[xr.Dataset] = []
    for name in (config.model, *config.controls):
        study = Study(DiTLens.from_pretrained(name, seed=config.seed), config)
        accuracy = fit_probes(study, train)
        effects = patch_quadruplets(study, test)
        parts.append(xr.merge([effects, accuracy]).expand_dims(model=[name]))
    result = xr.concat(parts, "model", data_vars="all", join="exact", coords="minimal", compat="override")
    result["sign"] = ("pair", list(PAIRS.values()))
    result.attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "prompt": "empty"}
    return result


def fit_probes(study: Study, train: Sequence[Quadruplet]) -> xr.Dataset:
    """Fits one probe per step at the block that is best out of fold; the table of those accuracies."""
    seen = capture_pooled(
        study.lens, train, study.config.steps, study.route, batch_size=study.config.batch_size, progress="probe"
    )
    possible, groups = seen.possible.values.ravel(), np.repeat(seen.quadruplet.values, len(ROLES))
    accuracy = np.zeros((seen.sizes["step"], seen.sizes["block"]))
    for s, step in enumerate(seen.step.values):
        cells = [seen.activation.isel(step=s, block=b).values.reshape(len(possible), -1) for b in seen.block.values]
        logits = [out_of_fold_logits(cell, possible, groups) for cell in cells]
        accuracy[s] = [((logit > 0) == possible).mean() for logit in logits]
        best = int(accuracy[s].argmax())
        reads = Reads(f"blocks.{best}.hook_resid_post", int(step), float(seen.sigma[s]), study.lens.name)
        study.probes[int(step)] = Probe.fit(cells[best], possible, groups, reads)
    return xr.Dataset(
        {
            "train_accuracy": (("step", "block"), accuracy),
            "readout": ("step", accuracy.argmax(1)),
            "probe_spread": ("step", [study.probes[s].spread for s in study.config.steps]),
        },
        coords={"step": seen.step, "block": seen.block},
    )


def patch_quadruplets(study: Study, test: Sequence[Quadruplet]) -> xr.Dataset:
    """Effects (quadruplet, pair, step, block, head) of all pairs of the test quadruplets."""
    parts = []
    for batch in batches(test, study.config.batch_size, f"patching {study.lens.name}"):
        path = travel(study.lens, batch, study.route, until=max(study.config.steps))
        roles = {role: path[i * len(batch) : (i + 1) * len(batch)] for i, role in enumerate(ROLES)}
        pairs = [
            xr.concat([_patch_pair(study, roles, pair, step) for step in study.config.steps], "step") for pair in PAIRS
        ]
        effects = xr.concat(pairs, "pair").assign_coords(pair=list(PAIRS))
        parts.append(effects.rename(clip="quadruplet").assign_coords(quadruplet=[q.id for q in batch]))
    return xr.concat(parts, "quadruplet").assign_coords(property=("quadruplet", [q.property for q in test]))


def _patch_pair(study: Study, roles: dict, pair: str, step: int) -> xr.Dataset:
    clean, corrupted = (roles[role] for role in pair.split("→"))
    metrics = {"logit": study.probes[step], "velocity": VelocityProjection()}
    return patch_heads(study.lens, clean, corrupted, [step], metrics).drop_vars(["donor", "clip"])


def label_odd(result: xr.Dataset, metric: str = "logit") -> xr.DataArray:
    """Mean over the eight possible/impossible pairs of sign x effect, in probe SDs: content cancels, label stays."""
    return (result[f"effect_{metric}"] * result.sign).sum("pair", skipna=False) / 8 / _unit(result, metric)


def content(result: xr.Dataset, metric: str = "logit") -> xr.DataArray:
    """Root mean square over the eight pairs of what is left of an effect without its label-odd part, in probe SDs."""
    pairs = result.sel(pair=result.sign != 0)
    rest = pairs[f"effect_{metric}"] / _unit(result, metric) - pairs.sign * label_odd(result, metric)
    return np.sqrt((rest**2).mean("pair", skipna=False))


def _unit(result: xr.Dataset, metric: str) -> xr.DataArray | float:
    return result.probe_spread if metric == "logit" else 1.0


def recovery(result: xr.Dataset, metric: str = "logit") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of effects over sum of clean - corrupted, all eight pairs signed by the label, with its interval."""
    effect = (result[f"effect_{metric}"] * result.sign).sum("pair", skipna=False)
    total = (result[f"total_{metric}"] * result.sign).sum("pair")
    effect, total = xr.broadcast(effect, total)
    return stats.bootstrap_ratio(effect.transpose("quadruplet", ...).values, total.transpose("quadruplet", ...).values)


def halves(result: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The test scenes in two halves with the same properties: one to rank heads on, one to report."""
    turn = np.zeros(result.sizes["quadruplet"], dtype=bool)
    for prop in np.unique(result.property):
        turn[np.flatnonzero(result.property.values == prop)[::2]] = True
    return result.isel(quadruplet=turn), result.isel(quadruplet=~turn)


def top_heads(result: xr.Dataset, model: str, step: int) -> list[tuple[int, int]]:
    """The (block, head) with the largest label-odd logit effect on the ranking half."""
    ranking, _ = halves(result)
    odd = label_odd(ranking).sel(model=model, step=step).mean("quadruplet").transpose("block", "head").values
    order = np.argsort(-np.nan_to_num(odd, nan=-np.inf), axis=None)[:TOP]
    return [(int(o) // odd.shape[1], int(o) % odd.shape[1]) for o in order]


def table(result: xr.Dataset) -> str:
    """Probe accuracy, top heads on held-out scenes with intervals, and the controls."""
    _, report = halves(result)
    lines = []
    for model in result.model.values:
        for step in result.step.values:
            lines += _model_lines(result.sel(model=[model]), report.sel(model=[model]), str(model), int(step))
    return "\n".join(lines)


def _model_lines(result: xr.Dataset, report: xr.Dataset, model: str, step: int) -> list[str]:
    here, held = result.sel(model=model, step=step), report.sel(model=[model], step=[step])
    best = int(here.readout)
    lines = [
        f"{model}, step {step} (sigma {float(here.sigma):.2f}): readout block {best},"
        f" probe accuracy {float(here.train_accuracy.isel(block=best)):.3f} out of fold on training scenes",
        f"  heads ranked on {result.sizes['quadruplet'] - report.sizes['quadruplet']} test quadruplets,"
        f" reported on {report.sizes['quadruplet']} (95% intervals over quadruplets)",
        "  block head   label-odd effect [probe SD]   recovery of the logit         content [probe SD]",
    ]
    odd = label_odd(held).transpose("quadruplet", "model", "step", "block", "head").values
    centre, low, high = stats.bootstrap_ratio(odd, np.ones_like(odd))
    ratio, ratio_low, ratio_high = recovery(held)
    rest = content(held).mean("quadruplet").transpose("model", "step", "block", "head").values
    for block, head in top_heads(result, model, step):
        at = (0, 0, block, head)
        lines.append(
            f"  {block:5d} {head:4d}   {centre[at]:+.3f} [{low[at]:+.3f}, {high[at]:+.3f}]"
            f"       {ratio[at]:+.3f} [{ratio_low[at]:+.3f}, {ratio_high[at]:+.3f}]       {rest[at]:.3f}"
        )
    effect = here.effect_logit / here.probe_spread
    swapped = float(np.sqrt((effect.sel(pair=["A→B", "B→A"]) ** 2).mean()))
    itself = float(np.abs(here[["effect_logit", "effect_velocity"]].sel(pair="A→A")).max().to_array().max())
    lines.append(
        f"  largest |label-odd| of all heads {float(np.abs(label_odd(result).mean('quadruplet')).max()):.3f};"
        f" A with B: rms effect {swapped:.3f}; a clip with itself: largest effect {itself:g}\n"
    )
    return lines


if __name__ == "__main__":
    from figures.patch_heads import draw

    main(Config, run, table, draw, "patch_heads", __doc__)
