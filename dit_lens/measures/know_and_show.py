"""Knowing against showing: in how many scenes the possible clips win by a probe, by likelihood, and by behaviour."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.measures import forcing
from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate, conclusion
from dit_lens.measures.labels import by_group, mean_interval, rows, signs
from dit_lens.measures.selection import ALL, by_property, counted, pool_name
from dit_lens.measures.text import interval
from dit_lens.stats import DIFFERENCE, SHARE

LEAD = ("knowing", "likelihood", "showing, tracker")
WORDS = ("its states (by a probe)", "its velocity error", "its own continuations (by a tracker on decoded frames)")


def shown(margin: xr.DataArray) -> xr.DataArray:
    """1 where the possible outcome is preferred, 0 where the impossible one is, and one half where neither is."""
    return xr.apply_ufunc(np.sign, margin) / 2 + 0.5


def preferred(result: xr.Dataset) -> xr.DataArray:
    """(model, measure, scene): 1 where its possible clips win over all its pairs, 0 where they lose, or one half."""
    return shown(result.margin.sum("pair", skipna=False))


def lead_measures(result: xr.Dataset) -> list[str]:
    """Which of knowing, likelihood and showing were measured."""
    return [name for name in LEAD if name in result.measure.values]


def right(result: xr.Dataset) -> xr.DataArray:
    """Accuracy of the tracker on true clips (scene): possible and impossible clips count half each."""
    sign = signs(result.ceiling.role)
    sides = [
        side * result.ceiling.isel(role=np.flatnonzero(sign == side)).sum("role", skipna=False) for side in (1, -1)
    ]
    return (shown(sides[0]) + shown(sides[1])) / 2


def scores(result: xr.Dataset) -> xr.Dataset:
    """Share of scenes whose possible clips win, with its 95% interval over scenes.

    Returns:
        `share`, `low`, `high` (property, measure, model) and the number `n` of scenes (property); where true clips were
        measured, `ceiling` (property): the same share by the tracker on true clips.
    """
    votes, chosen, scored = preferred(result).transpose("scene", "measure", "model"), by_property(result, least=2), []
    for scenes in chosen.values():
        selected = votes.isel(scene=scenes)
        ends = zip(("share", "low", "high"), mean_interval(selected, SHARE), strict=True)
        row = {name: (("measure", "model"), values) for name, values in ends}
        if "ceiling" in result:
            row["ceiling"] = rows(right(result).isel(scene=scenes)).mean()
        scored.append(xr.Dataset(row | {"n": by_group(selected).sizes["scene"]}))
    named = {"measure": votes.measure.values, "model": votes.model.values}
    return xr.concat(scored, xr.Variable("property", list(chosen))).assign_coords(named)


def gap(result: xr.Dataset, model: str) -> tuple[float, float, float] | None:
    """How much larger the share of knowing is than that of showing, in the pooled scenes, with its 95% interval.

    None where one of the two was not measured.
    """
    if not {LEAD[0], LEAD[-1]} <= {str(name) for name in result.measure.values}:
        return None
    votes = preferred(result).sel(model=model).isel(scene=by_property(result)[ALL])
    apart = votes.sel(measure=LEAD[0], drop=True) - votes.sel(measure=LEAD[-1], drop=True)
    estimate, low, high = mean_interval(apart, DIFFERENCE)
    return float(estimate), float(low), float(high)


def share(measured: xr.Dataset, model: str, measure: str) -> Estimate:
    """The share of the pooled scenes of a model by one measure."""
    row = measured.sel(property=ALL, model=model, measure=measure)
    return Estimate(model, float(row.share), float(row.low), float(row.high))


def verdict(result: xr.Dataset) -> str:
    """In how many scenes the model's states, its likelihood and its continuations prefer the possible clips."""
    measured, leads = scores(result), lead_measures(result)
    model, *other_models = (str(name) for name in result.model.values)
    words = {str(name): word for name, word in zip(LEAD, WORDS, strict=True)}
    parts = [f"by {words[name]} in {share(measured, model, name).number(digits=2)}" for name in leads]
    n = f"n = {counted(result.isel(scene=by_property(result)[ALL]), pool_name(result))}, chance 0.5"
    top = f"; true clips: {float(measured.ceiling.sel(property=ALL)):.2f}" if "ceiling" in measured else ""
    last = leads[-1]
    controls = [share(measured, name, last) for name in other_models]
    end = conclusion(share(measured, model, last), controls, 0.5, digits=2, what=last.split(",")[0].capitalize())
    return f"{model} prefers the possible clips {', '.join(parts)} of the scenes ({n}{top}). {_gap(result, model)}{end}"


def _gap(result: xr.Dataset, model: str) -> str:
    ends = gap(result, model)
    if ends is None or not np.isfinite(ends[1]):
        return ""
    size = f"(difference {interval(*ends, signed=True, digits=2)})"
    if ends[1] > 0:
        return f"It knows more than it shows {size}. "
    if ends[2] < 0:
        return f"It shows more than the probe reads {size}. "
    return f"Knowing and showing do not clearly differ {size}. "


def table(result: xr.Dataset, full: bool = False) -> str:
    """By model and measure the share with its interval; in full by property, and the tracker on true clips first."""
    measured = scores(result)
    names = [str(p) for p in measured.property.values if p != ALL] if full and measured.sizes["property"] > 2 else []
    lines = [*_ceiling(result, measured), ""] if full and "ceiling" in result else []
    lines.append(
        f"share of {int(measured.n.sel(property=ALL))} test {pool_name(result)} whose possible clips win (95% interval)"
        + ", and by property" * bool(names)
        + "; chance is .5"
    )
    text = [["model", "measure", ALL, *names]]
    for model in measured.model.values:
        for measure in result.measure.values if full else lead_measures(result):
            row = measured.sel(model=model, measure=measure)
            cells = [number(row.share.sel(property=name), ".2f") for name in names]
            text.append([str(model), str(measure), share(measured, str(model), str(measure)).number(digits=2), *cells])
        if (ends := gap(result, str(model))) is not None:
            text.append(["", "knowing - showing", interval(*ends, signed=True, digits=2)])
    return "\n".join([*lines, *aligned(text), *([] if full else ["(--full: other measures, properties, true clips)"])])


def _ceiling(result: xr.Dataset, measured: xr.Dataset) -> list[str]:
    clips = shown(result.ceiling * signs(result.ceiling.role)).mean("role").values
    shares = ", ".join(
        f"{name} {float(measured.ceiling.sel(property=name)):.2f} ({clips[chosen].mean():.2f})"
        for name, chosen in by_property(result, least=2).items()
    )
    lines = [f"scenes (and single clips) classified correctly as possible or impossible: {shares}"]
    if "found" in result:
        tracked = forcing.scores(result.found.rename(half="role"))
        cells = ", ".join(f"{name} {float(tracked[name]):.2f}" for name in forcing.SHARES)
        count = result.ceiling.size
        lines.insert(0, f"the tracker on {count} true clips through the autoencoder, second half: {cells}")
    return lines
