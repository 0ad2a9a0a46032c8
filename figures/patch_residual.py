"""Block x frame maps of patched streams: `python -m figures.patch_residual` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from dit_lens.measures.patch_residual import by_sharing
from figures.output import main
from figures.places import draw_places


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Maps of frames that a pair shares, in which it differs, and where an object is hidden. Returns the file."""
    return draw_places(result, "patch_residual", "frame", by_sharing(result), path)


if __name__ == "__main__":
    main("patch_residual", draw)
