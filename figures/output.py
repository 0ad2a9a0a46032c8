"""The folder of figures, the provenance line under them, and `python -m figures.NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from dit_lens import results

DATA = Path("figures/data")
OUT = Path("figures/out")


def caption(result: xr.Dataset, note: str) -> str:
    """Data set, split, n, seed and version under a figure."""
    facts = results.facts(result)
    data, split = str(facts["dataset"]), str(facts["split"])
    data = data if data.endswith(f":{split}") else f"{data} ({split})"
    return f"{data}, seed {facts['seed']}; {note}\ndit-lens {facts['versions']['dit-lens']}"


def save(figure: Figure, name: str, path: Path | None = None) -> Path:
    """Writes a figure completely or not at all, with a PNG beside it; returns its path.

    Args:
        path: the file; by default figures/out/NAME.pdf.

    Raises:
        ValueError: the file name ends in no format that can be written.
    """
    path = OUT / f"{name}.pdf" if path is None else Path(path)
    supported = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in supported:
        raise ValueError(f"got figure {path} · expected a file name ending in one of {', '.join(sorted(supported))}")
    for file in dict.fromkeys((path.with_suffix(".png"), path)):
        with results.replace_atomically(file) as aside:
            figure.savefig(aside, format=file.suffix[1:])
    plt.close(figure)
    return path


def newest(name: str) -> Path:
    """The result of an analysis that was written last: NAME.nc or NAME-DIGEST.nc in figures/data.

    Raises:
        FileNotFoundError: there is none.
    """
    files = [file for file in (DATA / f"{name}.nc", *DATA.glob(f"{name}-*.nc")) if file.is_file()]
    if not files:
        raise FileNotFoundError(
            f"got no result of {name} in {DATA} · expected {name}.nc or {name}-DIGEST.nc · run python -m"
            f" analyses.{name}, or pass the name of a file"
        )
    return max(files, key=lambda file: file.stat().st_mtime_ns)


def main(name: str, draw: Callable[[xr.Dataset, Path | None], Path]) -> None:
    """`python -m figures.NAME [RESULT.nc] [--out FILE]`: draws a result, without any model, and prints the file."""
    parser = argparse.ArgumentParser(prog=f"python -m figures.{name}", description=draw.__doc__)
    parser.add_argument("result", nargs="?", type=Path, help=f"netCDF result (default: the newest of {name})")
    parser.add_argument("--out", type=Path, help=f"file of the figure (default: {OUT}/{name}.pdf)")
    arguments = parser.parse_args()
    try:
        print(draw(results.open_result(arguments.result or newest(name)), arguments.out))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
