"""How well each model's states tell what lies within a half: `python -m figures.decode_states`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

from analyses.decode_states import scores
from dit_lens import plots, results
from figures.output import caption, save

TABLE = Path("figures/data/decode_states.nc")


def draw(result: xr.Dataset) -> Path:
    """A panel per target, a row per source, with intervals over quadruplets."""
    plots.use_style()
    measured = scores(result)
    names = [Path(str(source)).name for source in result.source.values]
    figure, panels = plt.subplots(1, result.sizes["target"], figsize=(7.2, 0.9 + 0.2 * len(names)), sharey=True)
    for axes, target in zip(panels, result.target.values, strict=True):
        here = measured.sel(target=target)
        values = (here[key].values for key in ("score", "score_low", "score_high"))
        plots.intervals(axes, names, *values, chance=float(here.score[0]))
        axes.set_title(str(target))
        axes.set_xlabel("accuracy" if target in ("colour", "shape") else "R²")
    facts = results.facts(result)
    note = (
        f"{facts['views']} views, n = {result.sizes['quadruplet']} test quadruplets, 95% CI; σ = {facts['sigma']:.2f}"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "decode_states")


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
