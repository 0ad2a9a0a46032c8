"""Where figures go, and the line that says what they were made of."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from dit_lens import results

OUT = Path("figures/out")


def caption(result: xr.Dataset, note: str) -> str:
    """Data set, split, n, seed and version under a figure."""
    made = results.facts(result)
    return f"{made['dataset']} ({made['split']}), seed {made['seed']}; {note}\ndit-lens {made['versions']['dit-lens']}"


def save(figure: Figure, name: str) -> Path:
    """Writes NAME.pdf (and NAME.png beside it), aside and renamed; returns the PDF's path."""
    for suffix in ("png", "pdf"):
        with results.replace_atomically(OUT / f"{name}.{suffix}") as aside:
            figure.savefig(aside, format=suffix)
    plt.close(figure)
    return OUT / f"{name}.pdf"
