"""Steering: a direction added to a model's stream, or erased from it, while it inverts, samples or continues a clip.

    direction = Direction.of_probe(probe, features)
    with steering(lens, "blocks.3.hook_resid_post", push(direction, dose=4), sigmas=(0.3, 0.9)):
        steered = behaviour.continued(lens, halves)

A dose is in units of the direction's spread, the standard deviation of the projection over training clips, so that it
means the same in every model and block. `push` and `erase` are edits of `dit_lens.edits`, added to every token.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dit_lens import edits
from dit_lens.arguments import collection, number
from dit_lens.axes import Region
from dit_lens.hook_points import Hook, HookFunction, NamesFilter
from dit_lens.lens import DiTLens
from dit_lens.probing import DifferenceOfMeans, Probe, check_labels

Features = Float[np.ndarray, "i d"]  # of training clips, token means at the point that is steered
Sigmas = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction of a stream, with the centre and spread of clips along it.

    Attributes:
        unit: of length 1.
        spread: standard deviation of the projection over training clips: a dose of 1.
        centre: its mean over these clips.
    """

    unit: Float[Tensor, " d"]
    spread: float
    centre: float

    @classmethod
    def of(cls, vector: Float[Tensor, " d"], features: Features) -> Direction:
        """The direction of a vector, with spread and centre estimated on clips.

        Raises:
            ValueError: the vector is zero, of another width than the features, or no clip differs along it.
        """
        if vector.shape != features.shape[1:] or not vector.any():
            raise ValueError(
                f"got a vector of shape {tuple(vector.shape)} and norm {float(vector.norm()):g} for features of width"
                f" {features.shape[1]} · expected a non-zero vector of that width"
            )
        unit = vector.double() / vector.double().norm()
        along = features @ unit.numpy()
        if not along.std():
            raise ValueError(
                f"got {len(features)} clips with equal projections on the direction · expected some spread · use other"
                " clips, or another direction"
            )
        return cls(unit.float(), float(along.std()), float(along.mean()))

    @classmethod
    def of_probe(cls, probe: Probe, features: Features) -> Direction:
        """The direction that a probe reads, toward possible: its logit changes by dose x spread x |weight|."""
        return cls.of(probe.weight, features)

    @classmethod
    def of_means(cls, features: Features, possible: np.ndarray) -> Direction:
        """The direction from the mean of impossible clips to that of possible ones (Marks & Tegmark 2023).

        Raises:
            ValueError: see `Direction.of` and `probing.check_labels`.
        """
        fitted = DifferenceOfMeans().fit(features, check_labels(possible))
        return cls.of(torch.from_numpy(fitted.coef_), features)

    def random(self, features: Features, seed: int) -> Direction:
        """A random direction with this one's spread, so that a dose moves the stream exactly as far: the control."""
        vector = torch.randn(len(self.unit), generator=torch.Generator().manual_seed(seed))
        return replace(Direction.of(vector, features), spread=self.spread)

    def project(self, x: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
        """Projections of activations on the direction, in spreads from its centre."""
        return (x @ self.unit.to(x) - self.centre) / self.spread


def push(direction: Direction, dose: float, tokens: Region | None = None) -> list[HookFunction]:
    """Moves every (chosen) token by `dose` spreads along the direction; a dose of 0 changes no bit."""
    return [edits.add(number(dose, "dose") * direction.spread * direction.unit, tokens=tokens)]


def erase(direction: Direction, tokens: Region | None = None) -> list[HookFunction]:
    """Sets every (chosen) token to the direction's centre, so that it carries no information and the mean stays."""
    return [
        edits.project_out(direction.unit, tokens=tokens),
        edits.add(direction.centre * direction.unit, tokens=tokens),
    ]


def leace(features: Features, possible: np.ndarray) -> list[HookFunction]:
    """LEACE: the least change after which no linear probe separates possible clips (Belrose et al. 2023).

    Raises:
        ImportError: concept-erasure is not installed.
        ValueError: see `probing.check_labels`.
    """
    labels: Bool[np.ndarray, " i"] = check_labels(possible)
    try:
        package = importlib.import_module("concept_erasure")
    except ImportError as error:
        raise ImportError(
            "got no package concept_erasure · expected it, for LEACE · pip install concept-erasure, or use erase()"
        ) from error
    eraser = package.LeaceEraser.fit(torch.from_numpy(features).double(), torch.from_numpy(labels).double())

    def erased(x: Tensor, hook: Hook) -> Tensor:
        return eraser(x.double().cpu()).to(x)

    return [erased]


@contextmanager
def steering(
    lens: DiTLens,
    points: NamesFilter,
    functions: Sequence[HookFunction],
    steps: Iterable[int] | None = None,
    sigmas: Sigmas = (0.0, 1.0),
) -> Iterator[DiTLens]:
    """Functions, one after the other, at the given points of every evaluation inside the block.

    Args:
        points: name, glob, list of these, or predicate, such as "blocks.3.hook_resid_post".
        functions: of `push`, `erase`, `leace`, or any hook functions.
        steps: only at these steps of a trajectory, counted from data. A continuation lies on none: use `sigmas` there.
        sigmas: only at noise levels from the first to the second, both included.

    Raises:
        ValueError: no functions, or levels that are not in order in [0, 1].
        RuntimeError: no evaluation inside the block at these points, steps and levels. See also `lens.hooks`.
    """
    levels = [number(level, "sigmas") for level in collection(sigmas, "sigmas", "two levels")]
    if not functions or len(levels) != 2 or not 0 <= levels[0] <= levels[1] <= 1:
        raise ValueError(
            f"got {len(functions)} functions, sigmas {levels} · expected one or more, and 0 <= low <= high <= 1"
        )
    low, high = levels
    sigmas_met: list[float] = []

    def within(function: HookFunction) -> HookFunction:
        def call(x: Tensor, hook: Hook) -> Tensor | None:
            if not low <= hook.sigma <= high:
                return None
            sigmas_met.append(hook.sigma)
            return function(x, hook)

        return call

    with lens.hooks([(points, within(function)) for function in functions], steps):
        yield lens
    if not sigmas_met:
        raise RuntimeError(
            f"got no evaluation between sigma {low:g} and {high:g} · expected one or more inside the with block ·"
            " sample or continue inside it, or widen sigmas="
        )
