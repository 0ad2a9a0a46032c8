"""What `analyses.forcing` says of its sums: scores with intervals, by property, hiding and round, and their table."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens import stats

ALL = "all"
MEASURES = {
    "found": ("found", "sight"),
    "place": ("place", "sight"),
    "colour": ("colour", "found"),
    "error": ("error", "found"),
    "objects": ("drawn", "frames"),
    "psnr": ("squared", "pixels"),
    "psnr moving": ("squared moving", "pixels moving"),
}
SHARES, SIZES = ("found", "place", "colour"), ("error", "objects", "psnr", "psnr moving")
COLUMNS = (
    "found",
    "in place",
    "colour, if found",
    "error (world px)",
    "objects per frame",
    "PSNR (dB)",
    "PSNR, moving",
)
HEAD = " ".join(f"{name:19s}" for name in COLUMNS)
STATISTICS = ("scenery", "sharpness", "latents", "objects")


def scores(sums: xr.DataArray) -> xr.Dataset:
    """Each of `MEASURES` (model, context) with its 95% interval over quadruplets; of `sums` (.., quadruplet, role)."""
    totals, values = sums.sum("role").transpose("quadruplet", ...), {}
    for name, (over, under) in MEASURES.items():
        parts = stats.bootstrap_ratio(totals.sel(count=over).values, totals.sel(count=under).values)
        if name.startswith("psnr"):  # of squared errors at a peak-to-peak of 2; the larger error is the lower end
            with np.errstate(divide="ignore"):  # infinite where videos are equal
                middle, low, high = (-10 * np.log10(part / 4) for part in parts)
            parts = middle, high, low
        cell = totals.isel(quadruplet=0, count=0, drop=True)
        values |= {f"{name}{end}": cell.copy(data=part) for end, part in zip(("", "_low", "_high"), parts, strict=True)}
    return xr.Dataset(values)


def by_property(sums: xr.DataArray) -> xr.Dataset:
    """Scores of all quadruplets, and by property where there are two or more of it."""
    names = [ALL, *(p for p in dict.fromkeys(sums.property.values) if (sums.property == p).sum() > 1)]
    chosen = [sums if name == ALL else sums.isel(quadruplet=np.flatnonzero(sums.property == name)) for name in names]
    return xr.concat([scores(part) for part in chosen], xr.Variable("property", names))


def by_hiding(sums: xr.DataArray) -> dict[int, xr.Dataset]:
    """Scores and number of clips by how many frames the object is hidden; spans of a single quadruplet are left out."""
    found: dict[int, xr.Dataset] = {}
    for span in np.unique(sums.hidden):
        here = sums.hidden == span
        groups = np.flatnonzero(here.any("role"))
        if span and len(groups) > 1:
            found[int(span)] = scores(sums.where(here, 0).isel(quadruplet=groups)).assign(clips=here.sum())
    return found


def drift_scores(drift: xr.DataArray) -> xr.DataArray:
    """Mean drift (end, level, round, statistic) with its 95% interval over clips."""
    values = drift.transpose("rolled", ...)
    parts = stats.bootstrap_ratio(values.values, np.ones(values.shape))
    cell = values.isel(rolled=0, drop=True)
    return xr.concat([cell.copy(data=part) for part in parts], xr.Variable("end", ["middle", "low", "high"]))


def _line(row: xr.Dataset) -> str:
    def cell(name: str, digits: int) -> str:
        middle, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
        return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    return " ".join(f"{cell(name, 1 if 'psnr' in name else 2):19s}" for name in (*SHARES, *SIZES))


def table(result: xr.Dataset) -> str:
    """Continuation by model and by property, forgetting by context and by hiding, drift by level and round."""
    sums, whole = result.sums, result.sums.isel(context=-1)
    name = str(result.model.values[0])
    lines = [f"{result.sizes['quadruplet']} test quadruplets (A and B), 95% intervals over quadruplets"]
    lines += ["", f"{'first half given':30s}{HEAD}"]
    lines += [f"{str(m)[-30:]:30s}{_line(scores(whole.sel(model=m)))}" for m in whole.model.values]
    return "\n".join(lines + _details(sums, name) + _drift(result.drift))


def _details(sums: xr.DataArray, name: str) -> list[str]:
    own, lines = sums.sel(model=name), []
    properties, hiding = by_property(own.isel(context=-1)), by_hiding(own.isel(context=-1))
    for p in properties.property.values:
        n = sums.sizes["quadruplet"] if p == ALL else int((sums.property == p).sum())
        lines.append(f"{f'  {name}, {p} ({n})':30s}{_line(properties.sel(property=p))}")
    for span, row in hiding.items():
        lines.append(f"{f'  hidden {span} frames ({int(row.clips)} clips)':30s}{_line(row)}")
    for model in sums.model.values[:-1]:
        lines += ["", f"{f'{model}, frames given'[-30:]:30s}{HEAD}"]
        rows = scores(sums.sel(model=model))
        lines += [f"  {context:<28d}{_line(rows.sel(context=context))}" for context in sums.context.values]
    return lines


def _drift(drift: xr.DataArray) -> list[str]:
    measured, rounds = drift_scores(drift), drift["round"].values
    shown = [r for r in rounds if r in (0, 1, 2, 4) or r == rounds[-1]]
    lines = ["", f"drift over {drift.sizes['rolled']} clips A; round 0 is the true clip through the autoencoder"]
    for statistic in STATISTICS:
        lines.append(f"{statistic:12s}" + "".join(f"{f'round {r}':<24s}" for r in shown))
        for level in drift.level.values:
            ends = [measured.sel(statistic=statistic, level=level, round=r).values for r in shown]
            cells = "".join(f"{f'{m:.3g} [{low:.3g}, {high:.3g}]':<24s}" for m, low, high in ends)
            lines.append(f"  σ_c={level:<6g}{cells}")
    return lines
