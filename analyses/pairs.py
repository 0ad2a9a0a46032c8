"""What patching analyses have in common: pairs of a quadruplet, and effects told apart by label and content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from analyses.frozen_probe import cross_validate, halves, load, route
from analyses.readouts import PLAUSIBILITY, Readouts, fit_readouts, last_tokens
from dit_lens import stats
from dit_lens.capture import batches, evaluations, latent_splice, of_role
from dit_lens.clips import Half, Quadruplet
from dit_lens.edits import Tokens
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, VelocityProjection
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
DIMS = ("model", "quadruplet", "pair", "step", "readout")
Place = tuple[int, ...]
Evaluations = Mapping[int, Evaluation]
Metrics = Mapping[str, Metric]


@dataclass(frozen=True, eq=False)
class Exchange:
    """Two runs of as many clips, one to be patched into the other.

    Attributes:
        clean, corrupted: evaluations by step.
        regions: latent frames by name: "all", those of the half that the two "share", and those in which they "differ".
    """

    clean: Evaluations
    corrupted: Evaluations
    regions: Mapping[str, Tokens]


Patch = Callable[[DiTLens, Exchange, Sequence[int], Metrics], xr.Dataset]


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
    """Training quadruplets the probes are fitted on."""
    test: int = 30
    """Test quadruplets that are patched."""
    directions: int = 4
    """Random directions of the probe's length that are read beside it."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of what is drawn at random, and of the random initialisation."""


def measure(config: Options, patch: Patch) -> xr.Dataset:
    """The effects of a kind of patch in all models, along a dimension `model`, on all readouts (see `readouts`).

    Every model is read at the blocks that the first chose (`readout_block`). `given` counts the latent frames before
    the splice.

    Raises:
        ValueError: too few quadruplets to fit or to split, or no steps.
    """
    if not config.steps:
        raise ValueError("got no steps · expected at least one, counted from data (0) to noise")
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    blocks: dict[int, int] = {}
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        accuracy, cells = cross_validate(lens, config, train)
        blocks = blocks or {step: int(accuracy.values[s].argmax()) for s, step in enumerate(config.steps)}
        read = {
            step: fit_readouts(
                cells.sel(step=step, block=block),
                train,
                last_tokens(lens, route(config), train, step, block),
                config.directions,
                config.seed,
            )
            for step, block in blocks.items()
        }
        facts = xr.concat([one.facts() for one in read.values()], "step").assign_coords(step=list(read))
        effects = patch_quadruplets(lens, config, test, read, patch).assign(facts).assign(train_accuracy=accuracy)
        parts.append(effects.expand_dims(model=[name]))
    result = xr.concat(parts, "model", data_vars="all", join="exact", coords="minimal", compat="override")
    latent = lens.encode(test[0].a)
    result = result.assign(readout_block=("step", list(blocks.values())), given=latent_splice(latent, test[0]))
    result = result.assign(hidden_frames(test, latent.shape[-3])).assign_coords(sign=("pair", list(PAIRS.values())))
    result.attrs = {
        "dataset": config.dataset,
        "split": "test",
        "path": config.path,
        "seed": config.seed,
        "lens": lens.facts(),
    }
    return result


def patch_quadruplets(
    lens: DiTLens, config: Options, test: Sequence[Quadruplet], read: Mapping[int, Readouts], patch: Patch
) -> xr.Dataset:
    """Effects (quadruplet, pair, step, ..., readout) of all pairs of the test quadruplets."""
    parts: list[xr.Dataset] = []
    given = latent_splice(lens.encode(test[0].a), test[0])
    for batch in batches(test, config.batch_size, f"{lens.name}, patching"):
        fed = evaluations(lens, batch, config.steps, route(config))
        pairs: list[xr.Dataset] = []
        for pair in PAIRS:
            clean, corrupted = ({s: of_role(one, role) for s, one in fed.items()} for role in pair.split("→"))
            exchange = Exchange(clean, corrupted, regions_of(pair, given))
            steps = [
                patch(lens, exchange, [step], {"logit": one.metric, "velocity": VelocityProjection()}).drop_vars(
                    ["donor", "clip"]
                )
                for step, one in read.items()
            ]
            pairs.append(xr.concat(steps, "step"))
        effects = xr.concat(pairs, "pair").assign_coords(pair=list(PAIRS)).rename(clip="quadruplet", feature="readout")
        parts.append(effects.assign_coords(quadruplet=[q.id for q in batch]))
    return xr.concat(parts, "quadruplet").assign_coords(property=("quadruplet", [q.property for q in test]))


def regions_of(pair: str, given: int) -> dict[str, Tokens]:
    """Latent frames of a pair by name: "all", "shared" and "differs"; A and B share none, a clip all with itself.

    Where noise is spliced by half, the shared frames are fed alike in both: what a patch of them does arrived by
    attention across the splice. To patch the differing frames early is merely to restore the input.
    """
    early, late = slice(0, given), slice(given, None)
    match pair in SHARING["first"], pair in SHARING["second"], pair[0] == pair[-1]:
        case (True, _, _):
            shared, differs = early, late
        case (_, True, _):
            shared, differs = late, early
        case (_, _, same):
            shared, differs = (slice(None), slice(0, 0)) if same else (slice(0, 0), slice(None))
    frames = {"all": slice(None), "shared": shared, "differs": differs}
    return {name: (own, slice(None), slice(None)) for name, own in frames.items()}


def hidden_frames(test: Sequence[Quadruplet], frames: int) -> xr.Dataset:
    """`hidden` (quadruplet, frame): in which of so many latent frames the first object is hidden in some clip.

    Empty where the clips' truth is not known.
    """
    if not all(clip.tracks for quadruplet in test for clip in quadruplet.clips):
        return xr.Dataset()
    seen = np.array([np.any([clip.tracks[0].hidden for clip in quadruplet.clips], axis=0) for quadruplet in test])
    rest = seen[:, 1:].reshape(len(seen), frames - 1, -1).any(-1)  # the first latent frame holds a single one
    return xr.Dataset({"hidden": (("quadruplet", "frame"), np.column_stack([seen[:, 0], rest]))})


# What follows from it.


def of_probe(result: xr.Dataset) -> xr.Dataset:
    """What the probe for plausibility reads, without a dimension of readouts."""
    return result.sel(readout=PLAUSIBILITY, drop=True)


def label_odd(result: xr.Dataset, sharing: Half | None = None) -> xr.DataArray:
    """Logit effect averaged over the eight possible/impossible pairs with the label's sign, in probe SDs.

    Of a pair's effect, what follows the content of a half changes sign between the pairs and cancels; what follows
    the label stays. Where there are several readouts, so of each.

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


def moved(result: xr.Dataset) -> xr.DataArray:
    """How far patches move what a kind of readout tells, whatever the label: (kind, model, step, ...), in its SDs.

    Root mean square over quadruplets, the eight pairs, and the readouts of the kind.
    """
    pairs = result.sel(pair=result.sign != 0)
    squares = ((pairs.effect_logit / result.probe_spread) ** 2).mean(["quadruplet", "pair"], skipna=False)
    kinds = list(dict.fromkeys(map(str, result.kind.values)))
    parts = [squares.isel(readout=result.kind.values == kind).mean("readout", skipna=False) for kind in kinds]
    return np.sqrt(xr.concat(parts, "kind").assign_coords(kind=kinds))


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
