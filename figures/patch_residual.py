"""Block x frame maps of patched streams: `python -m figures.patch_residual` reads the table and draws, no model."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from dit_lens import results
from figures.places import draw_places

TABLE = Path("figures/data/patch_residual.nc")


def draw(result: xr.Dataset) -> Path:
    """Maps of all pairs, of frames that a pair shares, and of frames in which it differs. Returns the file."""
    return draw_places(result, "patch_residual", columns="frame", apart=True)


if __name__ == "__main__":
    print(draw(results.open_result(TABLE)))
