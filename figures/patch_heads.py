"""Block x head map of patching effects: `python -m figures.patch_heads` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from analyses.pairs import content, label_odd, top_places, velocity_recovery
from dit_lens import plots, results
from figures.output import caption, save

TABLE = Path("figures/data/patch_heads.nc")


def draw(result: xr.Dataset) -> Path:
    """Rows: label-odd effect on the probe and on the velocity, content. Columns: models and steps. Returns the file."""
    plots.use_style()
    rows = [
        (
            "label-odd effect on the\nprobe logit [probe SD]",
            label_odd(result).mean("quadruplet", skipna=False),
            "RdBu_r",
        ),
        (
            "content effect on the\nprobe logit, rms [probe SD]",
            content(result).mean("quadruplet", skipna=False),
            "viridis",
        ),
        ("velocity difference\nrecovered [fraction]", velocity_recovery(result), "viridis"),
    ]
    columns = [(str(model), int(step)) for step in result.step.values for model in result.model.values]
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(1.9 * len(columns) + 1.6, 5.4), squeeze=False)
    for row, (label, mean, colours) in enumerate(rows):
        reach = float(np.abs(mean).max())
        limits = (-reach, reach) if colours == "RdBu_r" else (0.0, reach)
        for column, (model, step) in enumerate(columns):
            cell = axes[row, column]
            values = mean.sel(model=model, step=step).transpose("block", "head").values
            image = plots.heat_map(cell, values, limits, colours)
            if row == 0:
                sigma = float(result.sel(step=step).sigma)
                cell.set_title(f"{model}\nstep {step}, σ = {sigma:.2f}")
                chosen = np.zeros_like(values, dtype=bool)
                for head in top_places(result, model, step) if column == 0 else ():
                    chosen[head] = True
                plots.outline(cell, chosen)
            if row == len(rows) - 1:
                cell.set_xlabel("head")
            if column == 0:
                cell.set_ylabel("block")
        figure.colorbar(image, ax=axes[row], label=label, shrink=0.9)
    size = result.sizes["quadruplet"]
    note = (
        f"n = {size} test quadruplets, 8 possible/impossible pairs each; hatched: behind the readout; framed: top heads"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "patch_heads")


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
