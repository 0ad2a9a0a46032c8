"""Reductions of activations, made where an activation is made: `parse("space_mean.random:16")`.

A reduction is a chain of steps, each from a tensor with named axes to another:

===================== ====================================================================================
`none`                the activation as it is, bit for bit
`mean`                mean over all tokens
`space_mean`          mean over rows and columns, one for each frame
`time_mean`           mean over frames, one for each place
`coarse:F:R:C`        mean over the cells of a coarse grid of F frames, R rows and C columns
`tokens:I:J:...`      the video tokens with these numbers (columns fastest), bit for bit
`region:F:R:C`        a box of tokens: each part a number, `first-last` or `*`; bit for bit
`random:WIDTH:SEED`   random projection of the features (seed 0 unless told)
`moments`             over frames at each place: mean, standard deviation, signed cube root of the third moment
`frame_mass`          of a pattern: how much attention each frame pays to each, (frame, key_frame)
`direction:FILE`      projection on the tensor "direction" of a safetensors file (last of a chain)
===================== ====================================================================================

Means, moments, masses and projections are worked out and kept in float32, or float64 where the activation is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dit_lens.axes import Part
from dit_lens.choices import check_choice
from dit_lens.hook_points import Hook
from dit_lens.reductions.attention import FrameMass, FrameMasses, frame_mass
from dit_lens.reductions.named import GRID, Named, name_axes
from dit_lens.reductions.steps import TOKENS, Coarse, Direction, Mean, Moments, RandomProjection, Region, Tokens

__all__ = ["GRID", "Direction", "FrameMass", "FrameMasses", "Named", "Reduction", "Step", "frame_mass", "parse"]


class Step(Protocol):
    """A step of a reduction; `str` of it is what `parse` reads."""

    def __call__(self, x: Named) -> Named:
        """The reduced tensor."""
        ...


@dataclass(frozen=True)
class Reduction:
    """A chain of steps, applied to an activation in a hook."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return ".".join(str(step) for step in self.steps) or "none"

    def __call__(self, x: Tensor, hook: Hook) -> Named:
        """What is kept of an activation; its first axis is "clip".

        Raises:
            ValueError: the activation has not the axes that a step needs; names the hook point.
        """
        try:
            named = name_axes(x, hook.axes, hook.grid)
            for step in self.steps:
                named = step(named)
        except ValueError as error:
            raise ValueError(f"{hook.name}, {self}: {error}") from error
        return named


def parse(text: str) -> Reduction:
    """The reduction that a chain of step names stands for; see the table above.

    Raises:
        ValueError: unknown step, or other numbers than it takes; names the nearest step.
    """
    chain, _, file = text.partition("direction:")
    steps = [_step(word) for word in chain.strip(".").split(".") if word not in ("", "none")]
    if file:
        steps.append(Direction.open(file))
    if not text:
        raise ValueError(f"got an empty reduction · expected one of {', '.join(STEPS)}")
    return Reduction(tuple(steps))


def _step(word: str) -> Step:
    name, *told = word.split(":")
    check_choice(name, STEPS, "reduction")
    try:
        return STEPS[name](*told)
    except (TypeError, ValueError) as error:
        raise ValueError(f"got reduction {word!r} ({error}) · expected {name} as dit_lens.reductions tells") from error


def _positive(*told: str) -> list[int]:
    numbers = [int(number) for number in told]
    if not numbers or min(numbers) < 1:
        raise ValueError("sizes are 1 or more")
    return numbers


def _tokens(*told: str) -> Tokens:
    if not told:
        raise ValueError("it takes the numbers of tokens")
    return Tokens(tuple(int(number) for number in told))


def _part(text: str) -> Part:
    if text == "*":
        return slice(None)
    first, _, last = text.partition("-")
    return slice(int(first), int(last) + 1) if last else int(first)


STEPS: dict[str, Callable[..., Step]] = {
    "mean": lambda: Mean("mean", TOKENS),
    "space_mean": lambda: Mean("space_mean", ("row", "column")),
    "time_mean": lambda: Mean("time_mean", ("frame",)),
    "coarse": lambda frames, rows, columns: Coarse(*_positive(frames, rows, columns)),
    "tokens": _tokens,
    "region": lambda frame, row, column: Region(_part(frame), _part(row), _part(column)),
    "random": lambda width, seed="0": RandomProjection(_positive(width)[0], int(seed)),
    "moments": Moments,
    "frame_mass": FrameMass,
}
