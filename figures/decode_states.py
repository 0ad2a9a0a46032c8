"""Decoding of the content of a half from each model's states: `python -m figures.decode_states`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

from dit_lens import plots, results
from dit_lens.measures.decode_states import NAMES, scores
from figures.output import caption, main, save


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """A panel per target, a row per source, with intervals over scenes."""
    plots.use_style()
    measured = scores(result)
    names = [Path(str(source)).name for source in result.source.values]
    figure, panels = plt.subplots(1, result.sizes["target"], figsize=(7.2, 0.9 + 0.2 * len(names)), sharey=True)
    for axes, target in zip(panels, result.target.values, strict=True):
        of_target = measured.sel(target=target)
        values = (of_target[key].values for key in ("score", "score_low", "score_high"))
        plots.intervals(axes, names, *values, chance=float(of_target.score[0]))
        axes.set_title(str(target))
        axes.set_xlabel("accuracy" if target in NAMES else "R²")
    facts = results.facts(result)
    note = f"{facts['views']} views, n = {result.sizes['scene']} test scenes, 95% CI; σ = {facts['sigma']:.2f}"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "decode_states", path)


if __name__ == "__main__":
    main("decode_states", draw)
