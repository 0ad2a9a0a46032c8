"""Does a model show what its states know?

Method: three questions about the same pairs, whose clips share their first half, given clean: the second half is
possible or not.
- knowing: is the logit of a probe higher on the possible clip? (Block outputs along "continuation", second half noised;
  fitted on training scenes, cell chosen there out of fold: `analyses.probe_blocks`.)
- likelihood: is the error of the velocity on the second half lower there? (Mean over noise levels and draws of noise:
  `analyses.surprise`.)
- showing: what the model makes of the first half by its own sampler, does it come nearer to the possible outcome? (By
  the tracker on decoded frames, in pixels, in latents, and by an encoder of its own, mini-vae: `dit_lens.behaviour`.
  Never by the model's own probe.)
The margins of a quadruplet's two pairs are added and its sign is the answer; a tie counts one half. What the content of
either half says cancels in the sum, in crossed quadruplets exactly, so that chance is one half; these "all" pools.

Controls: the tracker on true clips through the autoencoder, told first (the ceiling: A and B are to be possible, C and
D impossible); a twin that never saw lawful clips and a random initialisation (the floor). The same noise for all.

Output: figures/data/know_and_show.nc with margins (model, measure, quadruplet, pair), ceiling (quadruplet, role).
Cost: about four minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from analyses import forcing, forcing_scores, probe_blocks, surprise
from analyses.command import main
from dit_lens import behaviour, datasets, stats
from dit_lens.behaviour import FirstHalves
from dit_lens.capture import batches
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.probing import FOLDS

ALL = "all"
SHOWING = tuple(f"showing, {measure}" for measure in behaviour.MEASURES)
MEASURES = ("knowing", "likelihood", *SHOWING)
LEAD = ("knowing", "likelihood", SHOWING[0])
PAIRS = ("A, C", "B, D")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    model: str = "mini-wan"
    """Model in question: a bundled name, a diffusers folder, or a hub id."""
    controls: tuple[str, ...] = ("mini-wan-null", "mini-wan-random")
    """Models to compare with; none with an empty list."""
    dataset: str = "miniphys"
    """Data set of quadruplets whose clips know the truth about their objects."""
    steps: tuple[int, ...] = (8, 11, 14)
    """Steps that states are read at, of 20, counted from data (0) to noise."""
    sigmas: tuple[float, ...] = (0.4, 0.8)
    """Noise levels of the likelihood."""
    draws: int = 2
    """Draws of noise of the likelihood."""
    sampling: int = 12
    """Euler steps of continuations."""
    train: int = 165
    """Training quadruplets of the probe."""
    test: int = 110
    """Test quadruplets."""
    batch_size: int = 8
    """Quadruplets to a batch."""
    seed: int = 0
    """Seed of the data set, of the noise, and of the random initialisation."""


def run(config: Config) -> xr.Dataset:
    """Margins of all models by all measures, and what the tracker makes of true clips.

    Raises:
        ValueError: fewer than two test quadruplets, fewer training ones than the probe has folds, or none of a
            property.
    """
    train, test = (
        datasets.load(config.dataset, split=part, quadruplets=size, seed=config.seed)
        for part, size in (("train", config.train), ("test", config.test))
    )
    untold = sorted({q.property for q in test} - {q.property for q in train})
    if config.test < 2 or config.train < FOLDS or untold:
        raise ValueError(
            f"got {config.train} training and {config.test} test quadruplets{', to train on none of ' * bool(untold)}"
            f"{', '.join(untold)} · expected at least {FOLDS} and 2, and training ones of every property"
        )
    margins: dict[str, xr.DataArray] = {}
    for name in (config.model, *config.controls):
        lens = DiTLens.from_pretrained(name, seed=config.seed)
        margins[name] = labelled(lens, train, test, config)
        if name == config.model:
            parts = [true_clips(lens, batch) for batch in batches(test, config.batch_size, "true clips")]
            facts = lens.facts()
    result = xr.Dataset({"margin": xr.concat(margins.values(), xr.Variable("model", list(margins)))})
    attrs = {"dataset": config.dataset, "split": "test", "seed": config.seed, "lens": facts}
    return result.merge(xr.concat(parts, "quadruplet"), compat="override", join="exact").assign_attrs(attrs)


def labelled(lens: DiTLens, train: Sequence[Quadruplet], test: Sequence[Quadruplet], config: Config) -> xr.DataArray:
    """Margins (measure, quadruplet, pair) of one model."""
    values = [knowing(lens, train, test, config), likelihood(lens, test, config), *showing(lens, test, config)]
    return xr.DataArray(
        np.stack(values),
        {
            "measure": list(MEASURES),
            "quadruplet": [q.id for q in test],
            "pair": list(PAIRS),
            "property": ("quadruplet", [q.property for q in test]),
            "crossed": ("quadruplet", [q.crossed for q in test]),
        },
        ("measure", "quadruplet", "pair"),
    )


def knowing(
    lens: DiTLens, train: Sequence[Quadruplet], test: Sequence[Quadruplet], config: Config
) -> Float[np.ndarray, "q 2"]:
    """Logit of the possible clip minus that of the impossible one, at the cell that training scenes choose."""
    asked = probe_blocks.Config(steps=config.steps, batch_size=config.batch_size, seed=config.seed)
    seen = {
        part: probe_blocks.capture(lens, asked, "continuation", split).activation
        for part, split in (("train", train), ("test", test))
    }
    logit = probe_blocks.score_grid(seen, lens.name).logit.isel(source=0).transpose("quadruplet", "role").values
    return logit[:, :2] - logit[:, 2:]


def likelihood(lens: DiTLens, test: Sequence[Quadruplet], config: Config) -> Float[np.ndarray, "q 2"]:
    """Error of the velocity on the impossible second half minus that on the possible one, the first half given."""
    asked = surprise.Config(sigmas=config.sigmas, draws=config.draws, seed=config.seed)
    parts = [
        surprise.clip_errors(lens, batch, asked) for batch in batches(test, config.batch_size, f"{lens.name}, errors")
    ]
    given = surprise.CONDITIONS.index("second half, first given clean")
    error = np.concatenate(parts, axis=2)[given].mean(0)
    return error[:, 2:] - error[:, :2]


def showing(lens: DiTLens, test: Sequence[Quadruplet], config: Config) -> Float[np.ndarray, "measure q 2"]:
    """Margins of the model's own continuations of A and of B."""
    parts: list[np.ndarray] = []
    for batch in batches(test, config.batch_size, f"{lens.name}, continuations"):
        halves = FirstHalves.of(lens, batch, config.seed)
        found = behaviour.margins(lens, halves, behaviour.continued(lens, halves, config.sampling))
        parts.append(found.T.reshape(-1, 2, len(batch)).swapaxes(1, 2))
    return np.concatenate(parts, axis=1)


def true_clips(lens: DiTLens, batch: Sequence[Quadruplet]) -> xr.Dataset:
    """What the tracker makes of true clips through the autoencoder.

    Returns:
        `ceiling` (quadruplet, role), the margins of all four clips, and `found` (quadruplet, half, count), what it
        finds of the object in A and B: see `forcing.ceiling`.
    """
    halves = FirstHalves.of(lens, batch)
    margin = [behaviour.margins(lens, halves, made)[:, 0] for made in (halves.possible, halves.impossible)]
    values = np.concatenate(margin).reshape(len(ROLES), len(batch)).T
    ceiling = xr.DataArray(values, {"quadruplet": [q.id for q in batch], "role": list(ROLES)}, ("quadruplet", "role"))
    found = forcing.ceiling(lens, batch).drop_vars("hidden").rename(role="half")
    return xr.Dataset({"ceiling": ceiling, "found": found})


def by_property(result: xr.Dataset) -> dict[str, np.ndarray]:
    """Which quadruplets each row is about: all crossed ones, then every property of which there are two or more."""
    rows = {ALL: np.flatnonzero(result.crossed.values)}
    rows |= {str(p): np.flatnonzero(result.property.values == p) for p in dict.fromkeys(result.property.values)}
    return {name: chosen for name, chosen in rows.items() if len(chosen) > 1}


def preferred(result: xr.Dataset) -> xr.DataArray:
    """(model, measure, quadruplet): 1 where its possible clips win, 0 where they lose, or one half."""
    totals = result.margin.sum("pair")
    return totals.copy(data=behaviour.shown(totals.values))


def scores(result: xr.Dataset) -> xr.Dataset:
    """Share of quadruplets whose possible clips win (property, measure, model), with its 95% interval.

    `ceiling` (property) is the same share by the tracker for what shows the truth: A and B through the autoencoder
    count where they win, C and D where they lose.
    """
    votes, rows = preferred(result).transpose("quadruplet", "measure", "model"), []
    truth = result.ceiling.transpose("quadruplet", "role").values
    right = behaviour.shown(np.stack([truth[:, :2].sum(1), -truth[:, 2:].sum(1)])).mean(0)
    for chosen in by_property(result).values():
        here = votes.values[chosen]
        ends = zip(("share", "low", "high"), stats.bootstrap_ratio(here, np.ones_like(here)), strict=True)
        row = {name: (("measure", "model"), values) for name, values in ends}
        rows.append(xr.Dataset(row | {"ceiling": right[chosen].mean(), "n": len(chosen)}))
    named = {"measure": votes.measure.values, "model": votes.model.values}
    return xr.concat(rows, xr.Variable("property", list(by_property(result)))).assign_coords(named)


def gap(result: xr.Dataset, model: str) -> tuple[float, float, float]:
    """How much larger the share of knowing is than that of showing, in crossed quadruplets, with its 95% interval."""
    votes = preferred(result).sel(model=model).isel(quadruplet=by_property(result)[ALL])
    values = (votes.sel(measure=LEAD[0]) - votes.sel(measure=LEAD[-1])).values
    estimate, low, high = stats.bootstrap_ratio(values, np.ones_like(values))
    return float(estimate), float(low), float(high)


def table(result: xr.Dataset) -> str:
    """The tracker on true clips first; then by model and measure: share with interval, and by property; and the gap."""
    measured = scores(result)
    properties = [str(p) for p in measured.property.values if p != ALL]
    lines = [*_ceiling(result, measured), ""]
    lines.append(
        f"share of {int(measured.n.sel(property=ALL))} crossed test quadruplets whose possible clips win (95%"
        " interval), and by property; chance is .5"
    )
    lines.append(f"{'':42s}{ALL:20s}" + "".join(f"{p:>12s}" for p in properties))
    for model in measured.model.values:
        for measure in MEASURES:
            row = measured.sel(model=model, measure=measure)
            whole = "{:.2f} [{:.2f}, {:.2f}]".format(
                *(float(row[k].sel(property=ALL)) for k in ("share", "low", "high"))
            )
            cells = "".join(f"{float(row.share.sel(property=p)):12.2f}" for p in properties)
            lines.append(f"{str(model)[-20:]:22s}{measure:20s}{whole:20s}{cells}")
        more, low, high = gap(result, str(model))
        lines.append(f"{'':22s}{'knowing - showing':20s}{more:+.2f} [{low:+.2f}, {high:+.2f}]")
    return "\n".join(lines)


def _ceiling(result: xr.Dataset, measured: xr.Dataset) -> list[str]:
    found = forcing_scores.scores(result.found.rename(half="role"))
    cells = ", ".join(f"{name} {float(found[name]):.2f}" for name in forcing_scores.SHARES)
    clips = behaviour.shown(result.ceiling.transpose("quadruplet", "role").values * np.array([1, 1, -1, -1])).mean(1)
    shares = ", ".join(
        f"{name} {float(measured.ceiling.sel(property=name)):.2f} ({clips[chosen].mean():.2f})"
        for name, chosen in by_property(result).items()
    )
    return [
        f"the tracker on {4 * result.sizes['quadruplet']} true clips through the autoencoder, second half: {cells}",
        f"quadruplets (and single clips) taken for what they are, possible or not: {shares}",
    ]


if __name__ == "__main__":
    from figures.know_and_show import draw

    main(Config, run, table, draw, "know_and_show", __doc__)
