"""Checks of numbers and collections in arguments, from Python, numpy or torch; results are Python's own types."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any


def integer(value: Any, what: str, least: int | None = None) -> int:
    """An integer from a Python, numpy or torch number.

    Raises:
        TypeError: another type, such as a boolean or a fraction. ValueError: below `least`.
    """
    bound = "" if least is None else f" from {least} on"
    number = _plain(value)
    try:
        if isinstance(number, bool):
            raise TypeError
        number = operator.index(number)
    except TypeError as error:
        raise TypeError(f"got {what} {value!r} · expected a whole number{bound}") from error
    if least is not None and number < least:
        raise ValueError(f"got {what} {number} · expected a whole number{bound}")
    return number


def number(value: Any, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite float from a Python, numpy or torch number.

    Raises:
        TypeError: another type. ValueError: not finite, or outside of its range.
    """
    limits = (math.isfinite(least) * f" from {least:g}" + math.isfinite(most) * f" to {most:g}") or ""
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise TypeError(f"got {what} {value!r} · expected a number{limits}")
    if not math.isfinite(plain) or not least <= plain <= most:
        raise ValueError(f"got {what} {plain} · expected a finite number{limits}")
    return float(plain)


def integers(values: Any, what: str) -> list[int]:
    """Integers from any collection of them; a single number gives a list of one.

    Raises:
        TypeError: something else.
    """
    plain = _plain(values)
    if isinstance(plain, int):
        return [integer(plain, what)]
    return [integer(value, what) for value in collection(plain, what, "whole numbers")]


def strings(values: Any, what: str) -> list[str]:
    """A list of strings from any collection of them.

    Raises:
        TypeError: a single string, or another type.
    """
    listed = collection(values, what, "names")
    if wrong := [value for value in listed if not isinstance(value, str)]:
        raise TypeError(f"got {wrong[0]!r} among {what} · expected names")
    return listed


def collection(values: Any, what: str, kind: str) -> list[Any]:
    """The members of any collection, as a list.

    Raises:
        TypeError: a single value or a string.
    """
    listed = _plain(values)
    if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):
        raise TypeError(f"got {what} {values!r} · expected a collection of {kind}, such as [{values!r}] for one")
    return list(listed)


def places(part: Any, size: int, what: str) -> list[int]:
    """The indices on an axis that an index, a slice or a collection of indices selects; negative ones from the end.

    On an axis of size 5, -1 gives [4], slice(1, 3) gives [1, 2] and [0, -2] gives [0, 3].

    Raises:
        TypeError: another type, such as booleans. ValueError: an index outside of the axis.
    """
    if isinstance(part, slice):
        bounds = (integer(bound, what) if bound is not None else None for bound in (part.start, part.stop, part.step))
        start, stop, step = bounds
        return list(range(size)[slice(start, stop, integer(1 if step is None else step, f"step of {what}", 1))])
    listed = _plain(part)
    several = isinstance(listed, Iterable) and not isinstance(listed, str)
    indices = integers(listed, what) if several else [integer(listed, what)]
    if outside := [index for index in indices if not -size <= index < size]:
        raise ValueError(f"got {what} {outside[0]} on an axis of {size} · expected {-size} to {size - 1}")
    return [index % size for index in indices]


def triple(parts: Any, what: str) -> tuple[Any, Any, Any]:
    """The (frame, row, column) of a region, checked to be three parts.

    Raises:
        TypeError: not a sequence of three parts.
    """
    if not isinstance(parts, Sequence) or isinstance(parts, str) or len(parts) != 3:
        raise TypeError(
            f"got {what} {parts!r} · expected (frame, row, column), each an index, a slice or a list of indices,"
            " such as (0, slice(None), slice(None))"
        )
    frame, row, column = parts
    return frame, row, column


def _plain(value: Any) -> Any:
    """Numbers and lists of Python from arrays and tensors; other values as they are."""
    return value.tolist() if hasattr(value, "tolist") else value
