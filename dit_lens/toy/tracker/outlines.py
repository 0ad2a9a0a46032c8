"""Analysis by synthesis: the outline whose rendering fits a region's coverage best, by least squares.

An outline is x, y and radius of a shape; `rendering.distance` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dit_lens.toy.miniphys.rendering import distance
from dit_lens.toy.miniphys.scenes import SHAPES, UNSEEN_SHAPES

RADII, TYPICAL, PRIOR = (1.0, 4.5), 2.9, 0.02  # where the pixels do not determine the radius it is the typical one
ROUGH = 0.06  # residual above which other outlines are tried; sensor noise alone gives 0.035
HIDES = 1.3  # how much better than a whole outline a partly hidden one must fit
SOFT = 2.0  # width of a soft edge in world pixels; a sharp one is as wide as a pixel
STEPS, DELTA, STILL = 12, 0.1, 0.003  # of the descent: steps, step of finite differences, step size at which it ends


def _area(shape: str) -> float:
    """Area of the shape at radius 1."""
    u = np.arange(-1.2, 1.2, 0.01) + 0.005
    return float((distance(shape, 1.0, u[None, :], u[:, None]) < 0).sum()) * 1e-4


AREAS = {shape: _area(shape) for shape in (*SHAPES, *UNSEEN_SHAPES)}


@dataclass(frozen=True, eq=False)
class Patch:
    """A region and its surroundings.

    Attributes:
        coverage: by the region's colour, with the scenery's tint subtracted.
        measurable: where the coverage can be measured (not on a gate of the same colour);
        front: where it can be measured if the region is in front of its neighbours;
        behind: where it can be measured if they may occlude it.
        inside: the region.
        hides: pixels that may belong to an occluder: other objects, and dark pixels.
        xs, ys: coordinates of the pixels, in world pixels.
        scale: world pixels to a pixel.
    """

    coverage: Float[np.ndarray, "h w"]
    measurable: Bool[np.ndarray, "h w"]
    front: Bool[np.ndarray, "h w"]
    behind: Bool[np.ndarray, "h w"]
    inside: Bool[np.ndarray, "h w"]
    hides: Bool[np.ndarray, "h w"]
    xs: Float[np.ndarray, " w"]
    ys: Float[np.ndarray, " h"]
    scale: float


@dataclass(frozen=True, eq=False)
class Fit:
    """An outline (x, y, radius), its root mean square error, and the pixels that may show the object."""

    shape: str
    outline: Float[np.ndarray, " 3"]
    residual: float
    shows: Bool[np.ndarray, "h w"]


def explain(patch: Patch, shapes: Sequence[str]) -> tuple[Fit, bool]:
    """The best outline, and whether the object is fully visible as far as the frame shows.

    A whole outline in front of its neighbours is tried first, then one behind them, soft edges, and outlines that are
    partly hidden by something beside the region. Where no whole outline fits well, as in blurred frames, a possible
    occluder on the left or the right is enough for doubt (a floor below is not).
    """
    mass = patch.inside * patch.coverage.clip(0, 1)
    centre = np.array([(mass * patch.xs).sum(), (mass * patch.ys[:, None]).sum()]) / mass.sum()
    extent = max(patch.inside.any(0).sum(), patch.inside.any(1).sum()) * patch.scale
    starts = np.array([[*centre, extent / 2], [*centre, np.sqrt(mass.sum() * patch.scale**2 / 2.5)]])
    sharp, doubt = patch.scale, False
    best = _fit(patch, shapes, starts, patch.front[None], patch.measurable, sharp)
    if (patch.front != patch.behind).any():
        behind = _fit(patch, shapes, starts, patch.behind[None], patch.behind, sharp)
        best = behind if best.residual > min(ROUGH, HIDES * behind.residual) else best
    if best.residual > ROUGH:
        soft = _fit(patch, shapes, starts, patch.behind[None], patch.behind, SOFT)
        best = min(best, soft, key=lambda fit: fit.residual)
        sides = _hiding_sides(patch)
        doubt = best.residual > ROUGH and any(axis == 0 for axis, _ in sides)
        cuts = [cut for axis, direction in sides for cut in _cuts(patch, centre, axis, direction)]
        if cuts:
            starts, weights = (np.array(column) for column in zip(*cuts, strict=True))
            hidden = [_fit(patch, shapes, starts, weights, None, edge) for edge in (sharp, SOFT)]
            best = min(best, *hidden, key=lambda fit: fit.residual * (HIDES if fit in hidden else 1))
    shows = best.shows | (patch.inside & ~patch.measurable)
    visible_area = (_draw([best.shape], best.outline[None], patch, sharp)[0] * shows).sum() * patch.scale**2
    return best, bool(visible_area > 0.95 * AREAS[best.shape] * best.outline[2] ** 2) and not doubt


def _hiding_sides(patch: Patch) -> list[tuple[int, int]]:
    """Sides (axis 0 for x, 1 for y; direction 1 or -1) on which something may occlude the region; none if all would."""
    deep, hiding, clear = max(round(2 / patch.scale), 1), [], []
    for axis in (0, 1):
        hides, inside = (patch.hides, patch.inside) if axis == 0 else (patch.hides.T, patch.inside.T)
        beside = hides[inside.any(1)]
        first, last = np.flatnonzero(inside.any(0))[[0, -1]]
        for direction, strip in (
            (1, beside[:, last + 1 : last + 1 + deep]),
            (-1, beside[:, max(first - deep, 0) : first]),
        ):
            if strip.size:
                (hiding if strip.mean() >= 0.5 else clear).append((axis, direction))
    return hiding if clear else []


def _cuts(patch: Patch, centre: np.ndarray, axis: int, direction: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(start, weights) of outlines that extend beyond the region on one side and are hidden there."""
    first, last = np.flatnonzero(patch.inside.any(axis))[[0, -1]]
    points = (patch.xs, patch.ys)[axis]
    place = np.arange(len(points)) if axis == 0 else np.arange(len(points))[:, None]
    keep = patch.behind & (place < last if direction > 0 else place > first)
    if not (keep & patch.inside).any():
        return []
    starts = np.array([[*centre, radius] for radius in (1.8, 2.6, 3.2)])
    starts[:, axis] = points[first if direction > 0 else last] + direction * (starts[:, 2] - patch.scale / 2)
    return [(start, keep) for start in starts]


def _fit(
    patch: Patch, shapes: Sequence[str], starts: np.ndarray, weights: np.ndarray, shows: np.ndarray | None, edge: float
) -> Fit:
    """The best outline over all shapes and starts; by default its `shows` are its weights."""
    weights = np.broadcast_to(weights, (len(starts), *weights.shape[1:]))
    outlines, residuals = _descend(
        patch, shapes, np.tile(starts, (len(shapes), 1)), np.tile(weights, (len(shapes), 1, 1)), edge
    )
    k = int(residuals.argmin())
    return Fit(
        shapes[k // len(starts)], outlines[k], float(residuals[k]), weights[k % len(starts)] if shows is None else shows
    )


def _draw(shapes: Sequence[str], outlines: Float[np.ndarray, "n 3"], patch: Patch, edge: float) -> np.ndarray:
    """Coverage (n, h, w) of outlines: an equal number of each shape, in the order of `shapes`."""
    count = len(outlines) // len(shapes)
    drawn = np.empty((len(outlines), len(patch.ys), len(patch.xs)))
    for i, shape in enumerate(shapes):
        span = slice(i * count, (i + 1) * count)
        x, y, radius = outlines[span].T[..., None, None]
        drawn[span] = distance(shape, radius, patch.xs - x, patch.ys[:, None] - y)
    return np.clip(0.5 - drawn / edge, 0, 1)


def _descend(
    patch: Patch, shapes: Sequence[str], outlines: np.ndarray, weights: np.ndarray, edge: float
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Outlines and their residuals after Levenberg-Marquardt optimisation from each start."""
    count, weights, pixels = len(outlines), weights.reshape(len(weights), -1), np.maximum(weights.sum((1, 2)), 1)
    moves = np.concatenate([np.zeros((1, 3)), DELTA * np.eye(3)])
    prior = PRIOR * np.diag([0.0, 0.0, 1.0])
    best, cost, damping = outlines, np.full(count, np.inf), np.full(count, 0.01)
    slopes, residual = np.zeros((count, 3, weights.shape[1])), np.zeros(weights.shape)
    for _ in range(STEPS):
        drawn = _draw(shapes, (outlines[:, None] + moves).reshape(-1, 3), patch, edge).reshape(count, 4, -1)
        misfit = (patch.coverage.reshape(1, -1) - drawn[:, 0]) * weights
        total = (misfit**2).sum(1) + PRIOR * (outlines[:, 2] - TYPICAL) ** 2
        better = total < cost
        best, cost = np.where(better[:, None], outlines, best), np.where(better, total, cost)
        slopes[better] = (drawn[better, 1:] - drawn[better, :1]) / DELTA * weights[better, None]
        residual[better] = misfit[better]
        damping = np.where(better, damping / 4, damping * 8)
        pull = (slopes @ residual[..., None])[..., 0] + (np.array([0, 0, TYPICAL]) - best) @ prior
        curve = slopes @ slopes.transpose(0, 2, 1) + prior
        curve += (damping * np.trace(curve, axis1=1, axis2=2) / 3)[:, None, None] * np.eye(3)
        step = np.linalg.solve(curve, pull[..., None])[..., 0].clip(-1, 1)
        if np.abs(step).max() < STILL:
            break
        outlines = best + step
        outlines[:, 2] = outlines[:, 2].clip(*RADII)
    return best, np.sqrt(cost / pixels)
