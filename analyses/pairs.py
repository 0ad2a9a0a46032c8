"""What patching analyses have in common: pairs of a quadruplet, effects told apart by label and content, a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from analyses.frozen_probe import cross_validate, fit_probe, halves, load, route
from dit_lens import stats
from dit_lens.capture import batches, evaluations, latent_splice, of_role
from dit_lens.clips import Half, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, VelocityProjection
from dit_lens.probing import Probe
from dit_lens.running import Evaluation

# Clean role, corrupted role. Sign +1: possible into impossible; -1: back; 0: a control.
PAIRS = {
    "A→C": +1, "B→D": +1, "A→D": +1, "B→C": +1,
    "C→A": -1, "D→B": -1, "D→A": -1, "C→B": -1,
    "A→B": 0, "B→A": 0, "A→A": 0,
}  # fmt: skip
SHARING: Mapping[Half, tuple[str, ...]] = {
    "first": ("A→C", "B→D", "C→A", "D→B"),
    "second": ("A→D", "B→C", "D→A", "C→B"),
}
TOP = 3
DIMS = ("model", "quadruplet", "pair", "step")
Place = tuple[int, ...]
Evaluations = Mapping[int, Evaluation]
Patch = Callable[[DiTLens, Evaluations, Evaluations, Sequence[int], Mapping[str, Metric]], xr.Dataset]


@dataclass(frozen=True)
class Options:
    """Options of every patching analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Models whose maps must be flat; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of crossed quadruplets."""
    path: Literal["continuation", "inversion", "noising"] = "continuation"
    """How clips get to a noise level: first half given clean, the sampler inverted, or straight to random noise."""
    properties: tuple[str, ...] = ("continuity", "inertia", "gravity", "permanence")
    """Which of its laws: by default those that mini-wan's states tell best."""
    steps: tuple[int, ...] = (14,)
    """Steps to patch at, counted from data (0) to noise."""
    levels: int = 20
    """Steps of the sampler between data and noise (Euler)."""
    train: int = 150
    """Training quadruplets the probe is fitted on."""
    test: int = 30
    """Test quadruplets that are patched."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set and of the random initialisation."""


def measure(config: Options, patch: Patch) -> xr.Dataset:
    """The effects of a kind of patch in all models, along a dimension `model`.

    Every model is read at the blocks that the first chose. `given` counts the latent frames before the splice.

    Raises:
        ValueError: too few quadruplets to fit or to split, or no steps.
    """
    if not config.steps:
        raise ValueError("got no steps · expected at least one, counted from data (0) to noise")
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    readouts: dict[int, int] = {}
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        accuracy, cells = cross_validate(lens, config, train)
        readouts = readouts or {step: int(accuracy.values[s].argmax()) for s, step in enumerate(config.steps)}
        probes = {step: fit_probe(cells, step, block, lens.name) for step, block in readouts.items()}
        effects = patch_quadruplets(lens, config, test, probes, patch)
        spread = xr.DataArray([probe.spread for probe in probes.values()], coords={"step": list(probes)})
        effects = effects.assign(train_accuracy=accuracy, probe_spread=spread)
        parts.append(effects.expand_dims(model=[name]))
    result = xr.concat(parts, "model", data_vars="all", join="exact", coords="minimal", compat="override")
    result = result.assign(
        readout=("step", list(readouts.values())), given=latent_splice(lens.encode(test[0].a), test[0])
    )
    result = result.assign_coords(sign=("pair", list(PAIRS.values())))
    result.attrs = {
        "dataset": config.dataset,
        "split": "test",
        "path": config.path,
        "seed": config.seed,
        "lens": lens.facts(),
    }
    return result


def patch_quadruplets(
    lens: DiTLens, config: Options, test: Sequence[Quadruplet], probes: Mapping[int, Probe], patch: Patch
) -> xr.Dataset:
    """Effects (quadruplet, pair, step, ...) of all pairs of the test quadruplets."""
    parts: list[xr.Dataset] = []
    for batch in batches(test, config.batch_size, f"{lens.name}, patching"):
        fed = evaluations(lens, batch, config.steps, route(config))
        pairs: list[xr.Dataset] = []
        for pair in PAIRS:
            clean, corrupted = ({s: of_role(one, role) for s, one in fed.items()} for role in pair.split("→"))
            steps = [
                patch(
                    lens, clean, corrupted, [step], {"logit": probe.logit, "velocity": VelocityProjection()}
                ).drop_vars(["donor", "clip"])
                for step, probe in probes.items()
            ]
            pairs.append(xr.concat(steps, "step"))
        effects = xr.concat(pairs, "pair").assign_coords(pair=list(PAIRS))
        parts.append(effects.rename(clip="quadruplet").assign_coords(quadruplet=[q.id for q in batch]))
    return xr.concat(parts, "quadruplet").assign_coords(property=("quadruplet", [q.property for q in test]))


def label_odd(result: xr.Dataset, sharing: Half | None = None) -> xr.DataArray:
    """Logit effect averaged over the eight possible/impossible pairs with the label's sign, in probe SDs.

    Of a pair's effect, what follows the content of a half changes sign between the pairs and cancels; what follows
    the label stays.

    Args:
        sharing: only the four pairs that have this half in common.
    """
    pairs = result if sharing is None else result.sel(pair=list(SHARING[sharing]))
    count = int((pairs.sign != 0).sum())
    return (pairs.effect_logit * pairs.sign).sum("pair", skipna=False) / count / pairs.probe_spread


def content(result: xr.Dataset) -> xr.DataArray:
    """Root mean square over the eight pairs of what is left of a logit effect without its label-odd part, in SDs."""
    pairs = result.sel(pair=result.sign != 0)
    rest = pairs.effect_logit / result.probe_spread - pairs.sign * label_odd(result)
    return np.sqrt((rest**2).mean("pair", skipna=False))


def velocity_recovery(result: xr.Dataset) -> xr.DataArray:
    """How much of v_clean - v_corrupted a patch brings back: ratio of sums over quadruplets and the eight pairs."""
    pairs = result.sel(pair=result.sign != 0)
    return pairs.effect_velocity.sum(["pair", "quadruplet"]) / pairs.total_velocity.sum(["pair", "quadruplet"])


def recovery(result: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the logit: sum of effects over sum of clean - corrupted, all eight pairs signed, with its interval.

    Shapes (model, step, ...) as far as `result` has them.
    """
    effect = (result.effect_logit * result.sign).sum("pair", skipna=False)
    total = (result.total_logit * result.sign).sum("pair").broadcast_like(effect)
    order = ("quadruplet", ...)
    return stats.bootstrap_ratio(
        effect.transpose(*order).values, total.transpose(*effect.transpose(*order).dims).values
    )


def top_places(result: xr.Dataset, model: str, step: int) -> list[Place]:
    """The places with the largest label-odd effect on the ranking half, by size; indices along `place_dims`."""
    ranking, _ = halves(result)
    odd = label_odd(ranking).sel(model=model, step=step).mean("quadruplet").transpose(*place_dims(result)).values
    order = np.argsort(-np.nan_to_num(np.abs(odd), nan=-1.0), axis=None)[:TOP]
    return [tuple(int(i) for i in np.unravel_index(o, odd.shape)) for o in order]


def place_dims(result: xr.Dataset) -> list[str]:
    """The dimensions that say where a patch is put."""
    return [str(dim) for dim in result.effect_logit.dims if dim not in DIMS]


def table(result: xr.Dataset) -> str:
    """Per model and step: the probe's accuracy, the top places on held-out scenes with intervals, and the nulls."""
    _, report = halves(result)
    lines = [
        f"places ranked on {result.sizes['quadruplet'] - report.sizes['quadruplet']} test quadruplets, reported on"
        f" {report.sizes['quadruplet']}; effects in probe SDs, [95% interval over quadruplets]"
    ]
    for step in result.step.values:
        for model in result.model.values:
            lines += ["", *_lines(result, report.sel(model=model, step=step), str(model), int(step))]
    return "\n".join(lines)


def _lines(result: xr.Dataset, report: xr.Dataset, model: str, step: int) -> list[str]:
    block = int(report.readout)
    whole = result.sel(model=model, step=step)
    logit = np.stack([whole.before_logit.sel(pair=p).values for p in ("A→B", "B→A", "A→C", "A→D")], axis=1)
    right = ((logit > 0) == np.array([True, True, False, False])).mean(1)
    accuracy, low, high = (float(x) for x in stats.bootstrap_ratio(right, np.ones_like(right)))
    dims = place_dims(result)
    lines = [
        f"{model}, step {step} (sigma {float(whole.sigma):.2f}), probe behind block {block}: accuracy per clip",
        f"  {float(whole.train_accuracy.sel(block=block)):.3f} out of fold on training scenes,"
        f" {_interval(accuracy, low, high)} on {len(right)} test quadruplets",
        f"  {' '.join(f'{dim:>8}' for dim in dims)}   label-odd effect           recovery of the logit      content"
        "   A with B (label kept)",
    ]
    in_order = ("quadruplet", *dims)
    odd, swap = label_odd(report), report.effect_logit.sel(pair=["A→B", "B→A"]).mean("pair") / report.probe_spread
    effect, kept = (
        stats.bootstrap_ratio(x.transpose(*in_order).values, np.ones(x.transpose(*in_order).shape)) for x in (odd, swap)
    )
    ratio, rest = recovery(report), content(report).mean("quadruplet").transpose(*dims).values
    for at in top_places(result, model, step):
        cells = [_interval(*(float(part[at]) for part in parts), signed=True) for parts in (effect, ratio, kept)]
        named = " ".join(f"{result[dim].values[i]!s:>8}" for dim, i in zip(dims, at, strict=True))
        lines.append(f"  {named}   {cells[0]}    {cells[1]}    {rest[at]:.3f}     {cells[2]}")
    itself = max(float(np.abs(whole[f"effect_{m}"].sel(pair="A→A")).max()) for m in ("logit", "velocity"))
    largest = float(np.abs(odd.mean("quadruplet")).max())
    lines.append(f"  all places: largest label-odd effect {largest:.3f}; a clip patched with itself: {itself:g}")
    return lines


def _interval(estimate: float, low: float, high: float, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
