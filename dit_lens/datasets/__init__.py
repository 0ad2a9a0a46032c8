"""Data sets by name: each hands out `Quadruplet`s. `export` writes them in the IntPhys layout."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from dit_lens.choices import check_choice
from dit_lens.clips import Quadruplet

NAMES = ("miniphys",)


def load(name: str, **options: Any) -> Sequence[Quadruplet]:
    """A data set as a sequence of quadruplets.

    Args:
        name: "miniphys".
        **options: the data set's own; for miniphys `split`, `quadruplets`, `properties`, `seed`, `size`, `law`
            (see `dit_lens.datasets.miniphys.MiniPhys`).

    Raises:
        ValueError: unknown name, option or option value; names the nearest.
    """
    check_choice(name, NAMES, "data set")
    from dit_lens.datasets.miniphys import MiniPhys

    for option in options:
        check_choice(option, inspect.signature(MiniPhys).parameters, f"option of {name}")
    return MiniPhys(**options)
