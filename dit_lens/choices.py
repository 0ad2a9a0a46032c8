"""Options by name: refused with the nearest of those that there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, options: Iterable[str]) -> str:
    """The sentence "; did you mean 'x'?" for the closest option, or nothing where none is close."""
    close = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(name: str, options: Iterable[str], what: str) -> str:
    """The name itself where it is one of the options.

    Raises:
        ValueError: it is not; the message lists the options and names the nearest.
    """
    options = list(options)
    if isinstance(name, str) and name in options:
        return name
    raise ValueError(f"got {what} {name!r} · expected one of {', '.join(options)}{nearest(name, options)}")
