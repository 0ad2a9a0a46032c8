"""The decision rule of verdicts: is a value above chance, and above every control?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dit_lens.measures.text import interval, listed

NAMED = 3  # controls that a sentence names


class Estimate(NamedTuple):
    """A value with its 95% interval and the name of the model or reader it belongs to."""

    name: str
    value: float
    low: float
    high: float

    def text(self, signed: bool = False, digits: int = 3, unit: str = "") -> str:
        """Such as "mini-wan-null (0.514 [0.498, 0.528])"."""
        return f"{self.name} ({self.number(signed, digits, unit)})"

    def number(self, signed: bool = False, digits: int = 3, unit: str = "") -> str:
        """The value and its interval, without the name: "0.514 [0.498, 0.528]"."""
        estimate, *ends = interval(self.value, self.low, self.high, signed, digits).split(" ", 1)
        return " ".join([estimate + unit, *ends])


def above(estimate: Estimate, chance: float) -> bool:
    """Whether the whole interval lies above chance."""
    return bool(estimate.low > chance)


def strongest_first(controls: Sequence[Estimate]) -> list[Estimate]:
    """Controls by falling value, without those that have none."""
    finite = [control for control in controls if np.isfinite(control.value)]
    return sorted(finite, key=lambda control: -control.value)


def as_good(estimate: Estimate, controls: Sequence[Estimate]) -> list[Estimate]:
    """The controls whose interval reaches into that of the estimate, strongest first.

    This errs towards the control: two intervals that just touch would differ in a test of their difference.
    """
    ordered = strongest_first(controls)
    return [
        control for control in ordered if (control.high if np.isfinite(control.high) else control.value) >= estimate.low
    ]


def conclusion(
    estimate: Estimate,
    controls: Sequence[Estimate],
    chance: float | None = 0.0,
    signed: bool = False,
    digits: int = 3,
    what: str = "This",
) -> str:
    """One sentence: not above chance, or above chance and above which controls; names them with their numbers.

    Args:
        chance: what the interval must lie above; None where there is no such value.
        what: the grammatical subject.
    """
    ordered = strongest_first(controls)
    names = [control.text(signed, digits) for control in ordered]
    level = "" if chance is None else f"chance ({chance:g})" if chance else "0"
    subject = f"the strongest of {len(names)} controls is" if len(names) > 1 else "the control is"
    beside = f"; {subject} {names[0]}" if names else "; no control was run"
    if not np.isfinite(estimate.low):
        return f"Without an interval there is no conclusion{beside}."
    if chance is not None and not above(estimate, chance):
        return f"{what} is not above {level}{beside}."
    if not ordered:
        return f"{what} is above {level}, but no control was run." if level else "No control was run."
    equal = as_good(estimate, controls)
    if not equal:
        every = f"all {len(names)} controls, the strongest of which is" if len(names) > 1 else "the control,"
        return f"{what} is above {f'{level} and above ' * bool(level)}{every} {names[0]}."
    listing = listed([control.text(signed, digits) for control in equal[:NAMED]])
    more = f" and {len(equal) - NAMED} more" if len(equal) > NAMED else ""
    if len(equal) == len(ordered):
        return f"{what} is {f'above {level}, but ' * bool(level)}no more than in the controls: {listing}{more}."
    exceeded = f"above {f'{level} and above ' * bool(level)}{len(ordered) - len(equal)} of {len(ordered)} controls"
    return f"{what} is {exceeded}, but not above {listing}{more}."
