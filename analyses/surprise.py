"""Is the model's own velocity error larger on impossible clips than on possible ones?

Method: the squared error of the velocity, noise - data, is averaged over draws of noise (spliced by half, the same for
all models). A quadruplet's surprise is (C + D - A - B) / 2 in per cent of the mean error on the possible clips A and B.
What adds up over halves cancels, exactly so in crossed quadruplets, which "all" pools; 0 says that errors know no law.
Conditions: whole clip noised and scored; second half scored; first half given clean (sigma 0), second half scored.
Beside the mean over time stands the maximum over latent frames, as benchmarks score a model whose surprise is brief:
by pairs in order, IntPhys' relative error (within scenes) and AUROC (over all scenes, 1 - absolute error).

Controls: a random initialisation (0 on crossed properties), a twin that never saw lawful clips (near 0), and a twin in
whose world colours change behind the occluder (below 0 on colour: there, the possible clip is the surprising one).

Output: figures/data/surprise.nc with errors, and their peaks in time (model, condition, sigma, quadruplet, role).
Cost: about ten minutes on two cores with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from analyses.command import main
from dit_lens import datasets, stats
from dit_lens.capture import batches, encode, latent_splice, partly_noised, spliced_noise
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import score

CONDITIONS = ("whole clip", "second half", "second half, first given clean")
MEASURES = ("surprise", "low", "high", "share", "d_prime")
ALL = "all"
IN_TIME = {"error": "mean over time", "peak": "maximum over time"}
BENCHMARK = ("pairwise", "relative_error", "auroc", "auroc_low", "auroc_high")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-swap", "mini-wan-random")
    """Models to compare with; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of crossed quadruplets."""
    sigmas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.95)
    """Noise levels, above 0 and up to 1."""
    draws: int = 4
    """Draws of noise that errors are averaged over."""
    test: int = 220
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """Velocity errors of every clip and their peaks, by model, condition and noise level."""
    if not config.sigmas or not all(0 < sigma <= 1 for sigma in config.sigmas) or config.draws < 1:
        raise ValueError(
            f"got sigmas {config.sigmas}, {config.draws} draws · expected levels in (0, 1], draws 1 or more"
        )
    split = datasets.load(config.dataset, split="test", quadruplets=config.test, seed=config.seed)
    measured: dict[str, xr.Dataset] = {}
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        parts = [errors_in_time(lens, batch, config) for batch in batches(split, config.batch_size, name)]
        errors = np.concatenate(parts, axis=3)
        by_clip = {"error": np.nanmean(errors, axis=2), "peak": np.nanmax(errors, axis=2)}
        measured[name] = xr.Dataset({key: labelled(values, split, config) for key, values in by_clip.items()})
    attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": lens.facts()}
    return xr.concat(measured.values(), xr.Variable("model", list(measured))).assign_attrs(attrs)


def labelled(errors: Float[np.ndarray, "3 s q 4"], split: Sequence[Quadruplet], config: Config) -> xr.DataArray:
    """Errors (condition, sigma, quadruplet, role) with what is known of the quadruplets."""
    return xr.DataArray(
        errors,
        {
            "condition": list(CONDITIONS),
            "sigma": list(config.sigmas),
            "quadruplet": [q.id for q in split],
            "role": list(ROLES),
            "property": ("quadruplet", [q.property for q in split]),
            "crossed": ("quadruplet", [q.crossed for q in split]),
        },
        ("condition", "sigma", "quadruplet", "role"),
    )


def clip_errors(lens: DiTLens, quadruplets: Sequence[Quadruplet], config: Config) -> Float[np.ndarray, "3 s q 4"]:
    """Mean squared velocity errors by condition, noise level, quadruplet and role."""
    return np.nanmean(errors_in_time(lens, quadruplets, config), axis=2)


@torch.no_grad()
def errors_in_time(lens: DiTLens, quadruplets: Sequence[Quadruplet], config: Config) -> Float[np.ndarray, "3 s f q 4"]:
    """The same by latent frame, mean over draws; NaN in frames that a condition does not score."""
    clean = encode(lens.encode, quadruplets)
    cut, shape = latent_splice(clean, quadruplets[0]), (len(clean), clean.shape[2])
    total = torch.zeros(len(CONDITIONS), len(config.sigmas), *shape, device=clean.device)
    total[1:, ..., :cut] = torch.nan
    for draw in range(config.draws):
        noise = spliced_noise(clean, quadruplets, 1000 * config.seed + draw)
        for i, sigma in enumerate(config.sigmas):
            noised, given = (frame_errors(lens, clean, noise, sigma, given) for given in (0, cut))
            total[:, i] += torch.stack([noised, noised, given])
    by_role = (total / config.draws).unflatten(2, (len(ROLES), len(quadruplets)))
    return rearrange(by_role, "condition s role q f -> condition s f q role").cpu().numpy()


def frame_errors(
    lens: DiTLens, clean: Float[Tensor, "b c f h w"], noise: Float[Tensor, "b c f h w"], sigma: float, given: int
) -> Float[Tensor, "b f"]:
    """Squared error of the velocity by latent frame, the first `given` frames being fed (and told to be) clean."""
    fed = partly_noised(lens, clean, noise, sigma, given)
    velocity = lens.model.velocity(lens.model.evaluation(**fed, conditioning=lens.conditioning))
    return reduce((velocity.float() - (noise - clean)).square(), "b c f h w -> b f", "mean")


def scores(error: xr.DataArray) -> xr.Dataset:
    """Surprise in % with its 95% interval, share of quadruplets above 0, and d'; by property and of all crossed."""
    names, cells = [ALL, *dict.fromkeys(error.property.values)], error.isel(quadruplet=0, role=0, drop=True)
    rows: list[xr.Dataset] = []
    for name in names:
        chosen = error.crossed if name == ALL else error.property == name
        values = error.isel(quadruplet=np.flatnonzero(chosen)).transpose("quadruplet", "role", ...).values
        contrast = -stats.interaction(values)
        surprise, low, high = stats.bootstrap_ratio(100 * contrast, values[:, :2].mean(1))
        d_prime = contrast.mean(0) / np.maximum(contrast.std(0, ddof=1), np.finfo(np.float32).tiny)
        measured = zip(MEASURES, (surprise, low, high, (contrast > 0).mean(0), d_prime), strict=True)
        rows.append(xr.Dataset({key: cells.copy(data=value) for key, value in measured}))
    return xr.concat(rows, xr.Variable("property", names))


def benchmark_scores(result: xr.Dataset) -> xr.Dataset:
    """How errors (mean over noise levels) order and tell apart the clips of all crossed quadruplets.

    Returns:
        `pairwise`, `relative_error`, and `auroc` with its 95% interval (in_time, condition, model); see
        `probing.Scores`.
    """
    crossed = result.isel(quadruplet=np.flatnonzero(result.crossed)).mean("sigma")
    possible = np.tile([True, True, False, False], crossed.sizes["quadruplet"])
    groups = np.repeat(crossed.quadruplet.values, len(ROLES))
    names = ("condition", "model")
    cells = {"in_time": list(IN_TIME), **{name: crossed[name].values for name in names}}
    shape = tuple(len(values) for values in cells.values())
    found = {key: (("in_time", *names), np.zeros(shape)) for key in BENCHMARK}
    for at in np.ndindex(shape):
        values = crossed[cells["in_time"][at[0]]].transpose(*names, "quadruplet", "role").values[at[1:]]
        told = score(-values.ravel(), possible, groups)
        for key in BENCHMARK:
            found[key][1][at] = getattr(told, key)
    return xr.Dataset(found, cells)


def table(result: xr.Dataset) -> str:
    """One line per condition and model: over all noise levels with interval, share and d', by property; by level.

    Below, the same errors and their peaks as benchmarks score them.
    """
    pooled, levels = scores(result.error.mean("sigma")), scores(result.error).surprise.sel(property=ALL)
    properties = [p for p in pooled.property.values if p != ALL]
    lines = [f"surprise, % of the error on possible clips; {result.sizes['quadruplet']} test quadruplets; mean over σ"]
    for condition in result.condition.values:
        heads = [f"{p:>11s}" for p in properties] + [f"{f'σ={s:g}':>8s}" for s in result.sigma.values]
        lines.append(f"\n{condition!s:45s}   share  d'     " + "".join(heads))
        for model in result.model.values:
            row = pooled.sel(condition=condition, model=model)
            mean, low, high, share, d_prime = (float(row[key].sel(property=ALL)) for key in MEASURES)
            cells = [f"{float(row.surprise.sel(property=p)):+11.2f}" for p in properties]
            cells += [f"{float(v):+8.2f}" for v in levels.sel(condition=condition, model=model)]
            summary = f"{mean:+6.2f} [{low:+6.2f}, {high:+6.2f}]   {share:.2f}   {d_prime:+.2f}  "
            lines.append(f"{str(model)[-22:]:22s} {summary}" + "".join(cells))
    return "\n".join([*lines, *_benchmark_lines(result)])


def _benchmark_lines(result: xr.Dataset) -> list[str]:
    found = benchmark_scores(result)
    lines = [
        f"\nas benchmarks score it, {int(result.crossed.sum())} crossed quadruplets, mean over σ; within scenes: pairs"
        " in order, relative error; over all scenes: AUROC [95% interval]",
        f"{'':22s}" + "".join(f"  {told:38s}" for told in IN_TIME.values()),
    ]
    for condition in result.condition.values:
        lines.append(f"\n{condition}")
        for model in result.model.values:
            here = found.sel(condition=condition, model=model)
            cells = [[float(here[key].sel(in_time=kind)) for key in BENCHMARK] for kind in IN_TIME]
            told = ("  {:.3f}  {:.3f}  {:.3f} [{:.3f}, {:.3f}]   ".format(*cell) for cell in cells)
            lines.append(f"{str(model)[-22:]:22s}" + "".join(told))
    return lines


if __name__ == "__main__":
    from figures.surprise import draw

    main(Config, run, table, draw, "surprise", __doc__)
