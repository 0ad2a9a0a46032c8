"""Results: `xarray.Dataset`s with their provenance, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import xarray as xr

PACKAGES = ("dit-lens", "torch", "diffusers", "nnsight", "scikit-learn", "xarray", "numpy")


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well and vanishes when it does not.

    The file is flushed to disk before it is renamed, so a kill or Ctrl-C leaves the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def provenance(**facts: Any) -> str:
    """One JSON string: the given facts beside versions, command line and numerics (netCDF takes no nested values)."""
    known = {
        "command": " ".join(sys.argv),
        "versions": versions(),
        "commit": _commit(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return json.dumps(known | facts, default=str)


def versions() -> dict[str, str]:
    """Of this package and those that results depend on."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def source_digest(*files: Path) -> str:
    """Tells one state of the code from another: a digest of this package's sources and the given files."""
    sources = [*sorted(Path(__file__).parent.rglob("*.py")), *files]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def _commit() -> str:
    """The commit of the checkout that the package is run from; empty where there is none."""
    root = Path(__file__).parent.parent
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    if not (root / ".git").exists():
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def save(result: xr.Dataset, path: Path) -> Path:
    """Writes netCDF aside and renames it when whole."""
    with replace_atomically(path) as aside:
        result.to_netcdf(aside, engine="h5netcdf")
    return Path(path)


def open_result(path: Path) -> xr.Dataset:
    """The result in memory, its file closed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a readable result (truncated or foreign); names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"got {path} · expected a result file · run the analysis that writes it")
    try:
        result = xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"got {path}, which cannot be read ({error}) · expected a netCDF result · run it again"
        ) from error
    if "provenance" not in result.attrs:
        raise ValueError(f"got {path} without provenance · expected a result of dit_lens · run the analysis again")
    return result


def facts(result: xr.Dataset) -> Mapping[str, Any]:
    """The provenance as a mapping."""
    return json.loads(result.attrs["provenance"])
