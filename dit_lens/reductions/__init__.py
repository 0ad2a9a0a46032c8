"""Reductions of activations inside the hook, before they are cached: `parse("space_mean.random:16")`.

A reduction is a chain of steps, each of which maps a tensor with named axes to another:

===================== ====================================================================================
`none`                the activation as it is, bit for bit
`mean`                mean over all tokens
`space_mean`          mean over rows and columns, one for each frame
`time_mean`           mean over frames, one for each place
`coarse:F:R:C`        mean over the cells of a coarse grid of F frames, R rows and C columns
`tokens:I:J:...`      the video tokens with these numbers (columns fastest), bit for bit
`region:F:R:C`        a box of tokens: each part a number, `first-last` or `*`; bit for bit
`random:WIDTH:SEED`   random projection of the features (seed 0 by default)
`moments`             over frames at each place: mean, standard deviation, signed cube root of the third moment
`space_moments`       over rows and columns of each frame: mean, standard deviation
`frame_mass`          of a pattern: attention from each frame to each frame, (frame, key_frame)
`direction:FILE`      projection on the tensor "direction" of a safetensors file (only as last step)
===================== ====================================================================================

Means, moments, masses and projections are computed and stored in float32, or float64 for float64 activations.

Example: on an activation "b n d" of 2 clips, 3 x 4 x 5 tokens and width 64, `space_mean.random:16` gives a tensor with
axes (clip, frame, feature) of shape (2, 3, 16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dit_lens.axes import Indices
from dit_lens.choices import check_choice
from dit_lens.hook_points import Hook
from dit_lens.reductions.attention import FrameMass, FrameMasses, frame_mass
from dit_lens.reductions.named import GRID, Named, name_axes
from dit_lens.reductions.steps import (
    TOKENS,
    Coarse,
    Mean,
    Moments,
    Projection,
    RandomProjection,
    Region,
    SpaceMoments,
    Tokens,
)

__all__ = [
    "GRID",
    "FrameMass",
    "FrameMasses",
    "Named",
    "Projection",
    "Reduction",
    "ReductionStep",
    "frame_mass",
    "parse",
]


class ReductionStep(Protocol):
    """A step of a reduction; `str` of it is its name for `parse`."""

    def __call__(self, x: Named) -> Named:
        """The reduced tensor."""
        ...


@dataclass(frozen=True)
class Reduction:
    """A chain of steps, applied to an activation in a hook."""

    steps: tuple[ReductionStep, ...]

    def __str__(self) -> str:
        return ".".join(str(step) for step in self.steps) or "none"

    def __call__(self, x: Tensor, hook: Hook) -> Named:
        """The reduced activation; its first axis is "clip".

        Raises:
            ValueError: the activation lacks an axis that a step needs; the message names the hook point.
        """
        try:
            named = name_axes(x, hook.axes, hook.grid)
            for step in self.steps:
                named = step(named)
        except ValueError as error:
            raise ValueError(f"{hook.name}, {self}: {error}") from error
        return named


def parse(text: str) -> Reduction:
    """The reduction for a chain of step names; see the table above.

    Raises:
        ValueError: an unknown step (the message names the nearest one), or wrong numbers for a step.
    """
    if not isinstance(text, str):
        raise TypeError(f"got {text!r} as a reduction · expected its name, one of {', '.join(STEPS)}")
    chain, direction, file = text.partition("direction:")
    steps = [_step(word) for word in chain.strip(".").split(".") if word not in ("", "none")]
    if direction:
        steps.append(Projection.open(file))
    if not text.strip("."):
        raise ValueError(f"got an empty reduction · expected one of {', '.join(STEPS)}")
    return Reduction(tuple(steps))


def _step(word: str) -> ReductionStep:
    name, *arguments = word.split(":")
    check_choice(name, STEPS, "reduction")
    try:
        return STEPS[name](*arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"got reduction {word!r} ({error}) · expected {name} as dit_lens.reductions tells") from error


def _positive(*words: str) -> list[int]:
    numbers = [int(word) for word in words]
    if not numbers or min(numbers) < 1:
        raise ValueError("sizes are 1 or more")
    return numbers


def _tokens(*words: str) -> Tokens:
    if not words:
        raise ValueError("it takes the numbers of tokens")
    return Tokens(tuple(int(word) for word in words))


def _part(text: str) -> Indices:
    if text == "*":
        return slice(None)
    first, _, last = text.partition("-")
    return slice(int(first), int(last) + 1) if last else int(first)


STEPS: dict[str, Callable[..., ReductionStep]] = {
    "mean": lambda: Mean("mean", TOKENS),
    "space_mean": lambda: Mean("space_mean", ("row", "column")),
    "time_mean": lambda: Mean("time_mean", ("frame",)),
    "coarse": lambda frames, rows, columns: Coarse(*_positive(frames, rows, columns)),
    "tokens": _tokens,
    "region": lambda frame, row, column: Region(_part(frame), _part(row), _part(column)),
    "random": lambda width, seed="0": RandomProjection(_positive(width)[0], int(seed)),
    "moments": Moments,
    "space_moments": SpaceMoments,
    "frame_mass": FrameMass,
}
