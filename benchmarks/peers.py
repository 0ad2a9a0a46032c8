"""Libraries that benchmarks stand beside, none of them a dependency: which are installed, and how others can be."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

INSTALL = {
    "baukit": "pip install git+https://github.com/davidbau/baukit torchvision",
    "pyvene": "pip install pyvene",
}


def missing(library: str) -> str:
    """Why a library's row is not run; nothing where it is installed."""
    if importlib.util.find_spec(library):
        return ""
    return f"not run: not installed · {INSTALL[library]}"


def library(name: str) -> Any:
    """The library itself.

    Raises:
        ImportError: it is not installed, or not whole.
    """
    return importlib.import_module(name)
