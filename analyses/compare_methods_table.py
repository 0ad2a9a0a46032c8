"""How far methods agree on which heads matter, and where they part; as a table."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.stats import rankdata

from analyses.frozen_probe import halves, interval
from analyses.readouts import PLAUSIBILITY
from dit_lens import stats

METHODS = (
    "patching",
    "resample ablation",
    "mean ablation",
    "direct attribution",
    "first order",
    "integrated gradients",
)
PATCHING, DIRECT = METHODS[0], METHODS[3]
SPLITS = 200
TOP = 5


def maps(result: xr.Dataset, model: str, readout: str) -> Float[np.ndarray, "method q head"]:
    """All heads in a row."""
    told = result.contrast.sel(model=model, readout=readout).transpose("way", "quadruplet", "block", "head").values
    return told.reshape(*told.shape[:2], -1).astype(float)


def rank_agreement(
    effects: Float[np.ndarray, "method q head"], seed: int = 0
) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, "m m"], Float[np.ndarray, "m m"]]:
    """Spearman's correlation over heads of the methods' mean maps, with its 95% interval over quadruplets.

    On the diagonal stands a method's agreement with itself on two halves of the quadruplets, a mean over random splits.
    """
    methods, size, _ = effects.shape
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size, np.full(size, 1 / size), size=stats.RESAMPLES)
    low, high = np.percentile(_spearman(np.einsum("rq,mqh->rmh", counts, effects)), [2.5, 97.5], axis=0)
    own = np.empty((SPLITS, methods))
    for split in range(SPLITS):
        order = rng.permutation(size)
        one, other = (effects[:, part].mean(1) for part in (order[: size // 2], order[size // 2 :]))
        own[split] = [_spearman(np.stack(pair)[None])[0, 0, 1] for pair in zip(one, other, strict=True)]
    estimate = _spearman(effects.mean(1)[None])[0]
    diagonal = np.arange(methods)
    for into, values in zip(
        (estimate, low, high), (own.mean(0), *np.percentile(own, [2.5, 97.5], axis=0)), strict=True
    ):
        into[diagonal, diagonal] = values
    return estimate, low, high


def _spearman(means: Float[np.ndarray, "r m head"]) -> Float[np.ndarray, "r m m"]:
    ranks = rankdata(means, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    norm = np.linalg.norm(ranks, axis=-1)
    with np.errstate(invalid="ignore"):
        return np.einsum("rmh,rnh->rmn", ranks, ranks) / (norm[:, :, None] * norm[:, None])


def parted(result: xr.Dataset, model: str) -> list[tuple[int, int]]:
    """The (block, head) by which patching and the head's own write differ most, on the ranking half."""
    told = halves(result)[0].contrast.sel(model=model, readout=PLAUSIBILITY).mean("quadruplet")
    gap = np.abs(told.sel(way=PATCHING) - told.sel(way=DIRECT))
    gap = gap.transpose("block", "head").values
    order = np.argsort(-gap, axis=None)[:TOP]
    return [(int(o) // gap.shape[1], int(o) % gap.shape[1]) for o in order]


def series(result: xr.Dataset) -> list[tuple[str, str, str]]:
    """Label, model and readout: the probe in every model, and the random direction in the first."""
    models = [str(model) for model in result.model.values]
    found = [(model, model, PLAUSIBILITY) for model in models]
    return [*found, (f"{models[0]}, random direction", models[0], str(result.readout.values[1]))]


def table(result: xr.Dataset) -> str:
    """Agreement with patching by method, in the model and its controls; then where patching and writing part."""
    heads, size = result.sizes["block"] * result.sizes["head"], result.sizes["quadruplet"]
    lines = [
        f"sigma {float(result.sigma):.2f}, probe behind block {int(result.readout_block)}; Spearman's rank correlation"
        f" over {heads} heads [95% interval over {size} test quadruplets]"
    ]
    for label, model, readout in series(result):
        effects = maps(result, model, readout)
        estimate, low, high = rank_agreement(effects)
        lines += ["", f"{label}: probe's score out of fold {float(result.score.sel(model=model, readout=readout)):.3f}"]
        lines += ["  method                 with patching           with itself (halves)    largest head [probe SD]"]
        for m, method in enumerate(METHODS):
            cells = [f"{estimate[m, n]:+.2f} [{low[m, n]:+.2f}, {high[m, n]:+.2f}]" for n in (0, m)]
            cells[0] = cells[0] if m else "-"
            lines.append(f"  {method:21s}  {cells[0]:22s}  {cells[1]:22s}  {np.abs(effects[m].mean(0)).max():.3f}")
        others = [estimate[m, n] for m, n in combinations(range(1, len(METHODS)), 2)]
        lines.append(f"  the other five among themselves: {min(others):+.2f} to {max(others):+.2f}")
    return "\n".join([*lines, "", *_parting(result)])


def _parting(result: xr.Dataset) -> list[str]:
    """Heads with the largest indirect effects on held-out scenes, and sizes by block."""
    model, (_, report) = str(result.model.values[0]), halves(result)
    told = report.contrast.sel(model=model, readout=PLAUSIBILITY)
    size = told.sizes["quadruplet"]
    lines = [
        f"where they part in {model}: largest patching - direct, chosen on {result.sizes['quadruplet'] - size}"
        f" quadruplets, on the other {size} in probe SDs [95% interval]",
        "  block head   patching                   direct                     indirect                   by gradients",
    ]
    for block, head in parted(result, model):
        here = {name: told.sel(way=name, block=block, head=head).values for name in METHODS}
        cells = [here[PATCHING], here[DIRECT], here[PATCHING] - here[DIRECT], here[METHODS[-1]]]
        lines.append(f"  {block:5d} {head:4d}   " + "   ".join(interval(cell, np.ones_like(cell)) for cell in cells))
    mean = np.abs(result.contrast.sel(model=model, readout=PLAUSIBILITY).mean("quadruplet"))
    for name in (PATCHING, DIRECT):
        sizes = " ".join(f"{float(x):.3f}" for x in mean.sel(way=name).mean("head"))
        lines.append(f"  mean size over heads, block 0 to {result.sizes['block'] - 1}, {name}: {sizes}")
    return lines
