"""Block x head maps of the cost of ablation: `python -m figures.ablate_heads` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from dit_lens import plots
from dit_lens.measures.ablate_heads import top_heads
from dit_lens.measures.ablation import loss, scores_of
from figures.output import caption, main, save

LABELS = {
    "fixed": "fixed probe",
    "refitted": "refitted probe",
    "colour": "colour, refitted",
}


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Rows: scores. Columns: replacements in the model in question, the first of them in controls. Returns the file."""
    plots.use_style()
    lost = 100 * loss(result)
    labels = {score: LABELS.get(score, score) for score in scores_of(result)}
    kinds = [str(kind) for kind in lost.replacement.values]
    first, *controls = (str(model) for model in result.model.values)
    columns = [(first, kind) for kind in kinds] + [(model, kinds[0]) for model in controls]
    figure, axes = plt.subplots(
        len(labels), len(columns), figsize=(1.45 * len(columns) + 1.4, 1.6 * len(labels)), squeeze=False
    )
    for row, (score, label) in enumerate(labels.items()):
        reach = max(1.0, *(float(np.abs(lost.sel(model=m, replacement=k, score=score)).max()) for m, k in columns))
        for column, (model, kind) in enumerate(columns):
            cell = axes[row, column]
            values = lost.sel(model=model, replacement=kind, score=score).transpose("block", "head").values
            image = plots.heat_map(cell, values, (-reach, reach), "RdBu_r")
            chosen = np.zeros_like(values, dtype=bool)
            for head in top_heads(result, model) if model == first else ():
                chosen[head] = True
            plots.outline(cell, chosen)
            if row == 0:
                cell.set_title(f"{model}\n{kind}")
            if row == len(labels) - 1:
                cell.set_xlabel("head")
            if column == 0:
                cell.set_ylabel(f"{label}\nblock")
        figure.colorbar(image, ax=axes[row], label="loss [points]", shrink=0.9)
    note = (
        f"n = {result.sizes['scene']} test scenes; states after block {int(result.readout)};\nred: worse"
        " without the head; framed: heads that cost the refitted probe most on half the scenes"
    )
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "ablate_heads", path)


if __name__ == "__main__":
    main("ablate_heads", draw)
