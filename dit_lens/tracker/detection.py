"""The objects in a frame, each by the outline that explains its region best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from dit_lens.choices import check_choice
from dit_lens.datasets.miniphys.scenes import PALETTE, SHAPES, UNSEEN_SHAPES
from dit_lens.tracker.outlines import AREAS, Patch, explain
from dit_lens.tracker.regions import BESIDE, STRONG, Mask, Pixels, split

DARK = 0.43  # occluders, floors and walls are darker than this; backgrounds, but for their texture, lighter
SMALLEST, SPECK = 1.5, 3.0  # least area of an object, and of one beside another: mixed edges make a third colour
MARGIN = 2  # world pixels around a region that its outline must explain


@dataclass(frozen=True)
class Detection:
    """One object seen in one frame.

    Attributes:
        position: centre (x to the right, y down) of the whole outline, also where part of it is hidden.
        colour, shape, radius: as in miniphys; of an object of two colours, the one at its centre.
        whole: all of it is seen, as far as the frame can tell: nothing cuts it off, and in a blurred frame nothing
            that may is beside it.
        area: how much of it is seen, in world pixels squared.
        residual: root mean square of what the outline leaves; 0.035 for sensor noise, 0.1 and more where blurred.
    """

    position: tuple[float, float]
    colour: str
    shape: str
    radius: float
    whole: bool
    area: float = field(repr=False)
    residual: float = field(repr=False)


def track(frames: UInt8[np.ndarray, "F H H 3"] | Float[np.ndarray, "F H H 3"], **options) -> list[list[Detection]]:
    """The objects in each frame of a clip; options are those of `find_objects`."""
    return [find_objects(frame, **options) for frame in frames]


def find_objects(
    frame: UInt8[np.ndarray, "H H 3"] | Float[np.ndarray, "H H 3"],
    colours: Sequence[str] = tuple(PALETTE),
    shapes: Sequence[str] = (*SHAPES, *UNSEEN_SHAPES),
) -> list[Detection]:
    """The objects in one frame, the largest first.

    Args:
        frame: uint8, or floats about [0, 1].
        colours, shapes: names that come into question; the fewer, the surer.

    Raises:
        ValueError: not a square RGB frame, or an unknown colour or shape.
    """
    if frame.ndim != 3 or frame.shape[0] != frame.shape[1] or frame.shape[2] != 3:
        raise ValueError(f"got a frame of shape {frame.shape} · expected (H, H, 3) · for several frames, track()")
    colours = [check_choice(colour, PALETTE, "colour") for colour in colours]
    shapes = [check_choice(shape, AREAS, "shape") for shape in shapes]
    pixels, regions = split(np.asarray(frame, float) / (255 if frame.dtype == np.uint8 else 1), colours)
    objects = np.logical_or.reduce([np.zeros(pixels.label.shape, bool), *regions])
    found = []
    for region in regions:
        others = objects & ~region
        patch = _patch(pixels, region, others)
        area = float(patch.coverage[patch.inside].clip(0, 1).sum()) * pixels.scale**2
        if area < (SPECK if (_widened(region, 1) & others).any() else SMALLEST):
            continue
        fit, whole = explain(patch, shapes)
        x, y, radius = (float(value) for value in fit.outline)
        colour = colours[_colour_at(pixels, region, x, y)]
        found.append(Detection((x, y), colour, fit.shape, radius, whole, area, fit.residual))
    return sorted(found, key=lambda detection: -detection.radius)


def _colour_at(pixels: Pixels, region: Mask, x: float, y: float) -> int:
    """The colour at a point of the region, or the region's most frequent one where the point is outside."""
    row, column = (int(np.clip(v / pixels.scale, 0, len(region) - 1)) for v in (y, x))
    return int(pixels.label[row, column] if region[row, column] else np.bincount(pixels.label[region]).argmax())


def _widened(mask: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(ndimage.binary_dilation(mask, BESIDE, iterations=pixels), bool)


def _patch(pixels: Pixels, region: Mask, others: Mask) -> Patch:
    """The region and what is around it, in a window a margin wider.

    The window's scenery gives the tint that is taken off, dark and light scenery each its own. On a gate's columns
    the gate is the scenery; where that has the region's own colour, the coverage cannot be told.
    """
    thick, pad, size = max(round(1 / pixels.scale), 1), round(MARGIN / pixels.scale), len(region)
    box = ndimage.find_objects(region.astype(int))[0]
    rows, columns = (np.arange(max(part.start - pad, 0), min(part.stop + pad, size)) for part in box)
    window = np.ix_(rows, columns)
    inside, others = region[window], others[window]
    gate = np.arange(pixels.gate[0] - 1, pixels.gate[-1] + 2) if len(pixels.gate) else pixels.gate
    kinds = np.unique(pixels.label[region])
    if np.isin(gate, columns[inside.any(0)]).any():
        kinds = np.union1d(kinds, [pixels.gate_colour])
    coverage, dark = pixels.coverage[window][..., kinds], pixels.grey[window] < DARK
    scenery = ~(_widened(inside | others, thick) | np.isin(columns, pixels.gate))
    tint = np.zeros_like(coverage)
    for part in (dark, ~dark):
        if (scenery & part).sum() > 4:
            tint[part] = np.median(coverage[scenery & part], axis=0)
    on_gate = np.isin(columns, gate)
    tint[:, on_gate] = np.median(pixels.coverage[..., kinds], axis=0)[columns[on_gate]]
    known = tint.max(-1) < STRONG
    clear = ((coverage - tint) / (1 - tint.clip(max=STRONG))).clip(-0.2, 1.2).max(-1)
    near, mixed = _widened(inside, thick), _widened(others, thick) & ~inside
    return Patch(
        coverage=np.where(others, 0.0, clear),
        known=known,
        front=known & ~(mixed & (near | ~others)),
        behind=known & ~mixed,
        inside=inside,
        hides=(dark & ~inside) | others,
        xs=(columns + 0.5) * pixels.scale,
        ys=(rows + 0.5) * pixels.scale,
        scale=pixels.scale,
    )
