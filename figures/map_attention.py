"""Block x head maps of what heads look at, beside what they are needed for: `python -m figures.map_attention`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from dit_lens import plots
from dit_lens.measures.map_attention import KINDS, MIXED, by_head, classes, effect, facts
from figures.output import caption, main, save

SHARES = (("entropy", "entropy / log n"), ("first_frame", "mass on the first frame"),
          ("same_place_1", "same place, other frames"), ("text", "mass on text"))  # fmt: skip
NAMES = {"diagonal": "diagonal", "multi_diagonal": "multi-diagonal", "stripe": "stripe"}
COLUMNS = 4


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Maps of the model in question: shares, distance in time, the three scores (framed: the class), the effect."""
    plots.use_style()
    model = result.isel(model=0)
    means, names = by_head(model), classes(model)
    panels = [(key, label) for key, label in SHARES if key in means.number.values]
    panels = [*panels, ("distance_t", "mean |Δt| [latent frames]"), *NAMES.items(), ("effect", "effect [probe SD]")]
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(7.2, 1.9 * rows + 0.4), squeeze=False)
    for place in axes.flat[len(panels) :]:
        place.set_visible(False)
    for place, (key, label) in zip(axes.flat, panels, strict=False):
        if key == "effect":
            cells = effect(model).mean("scene").reindex(block=means.block)
            reach = max(0.01, float(np.nanmax(np.abs(cells))))
            _map(place, cells, label, (-reach, reach), "RdBu_r")
            continue
        cells = means.sel(number=key)
        low = min(0.0, float(cells.min())) if key in KINDS else 0.0
        _map(place, cells, label, (low, max(float(cells.max()), low + 1e-3)), "viridis")
        plots.outline(place, (names.values == key) & (names.values != MIXED))
    note = f"{facts(result)}; framed: class of the head, by a margin of {float(result.margin):g}"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "map_attention", path)


def _map(axes: Axes, cells: xr.DataArray, label: str, limits: tuple[float, float], colours: str) -> None:
    values = cells.transpose("block", "head")
    image = plots.heat_map(axes, values.values, limits, colours)
    for ticks, set_ticks, dim in ((values["head"], axes.set_xticks, "head"), (values.block, axes.set_yticks, "block")):
        chosen = range(0, ticks.size, 1 + ticks.size // 10)
        set_ticks(list(chosen), [str(int(ticks[i])) for i in chosen])
        (axes.set_xlabel if dim == "head" else axes.set_ylabel)(dim)
    axes.set_title(label)
    axes.figure.colorbar(image, ax=axes, shrink=0.9)


if __name__ == "__main__":
    main("map_attention", draw)
