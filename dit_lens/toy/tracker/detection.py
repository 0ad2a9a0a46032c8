"""Detection of the objects in a frame, each by the outline that fits its region best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from dit_lens.choices import check_choice
from dit_lens.toy.miniphys.scenes import PALETTE, SHAPES, UNSEEN_SHAPES
from dit_lens.toy.tracker.outlines import AREAS, Patch, explain
from dit_lens.toy.tracker.regions import BESIDE, STRONG, Mask, Pixels, split

DARK = 0.43  # occluders, floors and walls are darker than this; backgrounds are lighter, apart from their texture
SMALLEST, SPECK = 1.5, 3.0  # least area of an object, and of one beside another: mixed edges make a third colour
MARGIN = 2  # world pixels around a region that its outline must explain


@dataclass(frozen=True)
class Detection:
    """One object detected in one frame.

    Attributes:
        position: centre (x to the right, y down) of the whole outline, even if part of it is hidden.
        colour, shape, radius: as in miniphys; of an object of two colours, the one at its centre.
        whole: the object is fully visible as far as the frame shows: nothing occludes it, and in a blurred frame
            nothing beside it could.
        area: its visible area, in world pixels squared.
        residual: root mean square error of the outline; 0.035 for sensor noise, 0.1 and more where blurred.
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
        colours, shapes: the possible names; with fewer of them, detection is more reliable.

    Raises:
        ValueError: not a square RGB frame, or an unknown colour or shape.
    """
    if frame.ndim != 3 or frame.shape[0] != frame.shape[1] or frame.shape[2] != 3:
        raise ValueError(f"got a frame of shape {frame.shape} · expected (H, H, 3) · for several frames, track()")
    colours = [check_choice(colour, PALETTE, "colour") for colour in colours]
    shapes = [check_choice(shape, AREAS, "shape") for shape in shapes]
    pixels, regions = split(np.asarray(frame, float) / (255 if frame.dtype == np.uint8 else 1), colours)
    objects = np.logical_or.reduce([np.zeros(pixels.label.shape, bool), *regions])
    detections = []
    for region in regions:
        others = objects & ~region
        patch = _patch(pixels, region, others)
        area = float(patch.coverage[patch.inside].clip(0, 1).sum()) * pixels.scale**2
        if area < (SPECK if (_widened(region, 1) & others).any() else SMALLEST):
            continue
        fit, whole = explain(patch, shapes)
        x, y, radius = (float(value) for value in fit.outline)
        colour = colours[_colour_at(pixels, region, x, y)]
        detections.append(Detection((x, y), colour, fit.shape, radius, whole, area, fit.residual))
    return sorted(detections, key=lambda detection: -detection.radius)


def _colour_at(pixels: Pixels, region: Mask, x: float, y: float) -> int:
    """The colour at a point of the region, or the region's most frequent one where the point is outside."""
    row, column = (int(np.clip(v / pixels.scale, 0, len(region) - 1)) for v in (y, x))
    return int(pixels.label[row, column] if region[row, column] else np.bincount(pixels.label[region]).argmax())


def _widened(mask: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(ndimage.binary_dilation(mask, BESIDE, iterations=pixels), bool)


def _patch(pixels: Pixels, region: Mask, others: Mask) -> Patch:
    """The region and its surroundings, in a window that is wider by a margin.

    The tint of the window's scenery is subtracted, separately for dark and light scenery. On a gate's columns the gate
    is the scenery; if it has the region's colour, the coverage there is unknown.
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
    measurable = tint.max(-1) < STRONG
    clear = ((coverage - tint) / (1 - tint.clip(max=STRONG))).clip(-0.2, 1.2).max(-1)
    near, mixed = _widened(inside, thick), _widened(others, thick) & ~inside
    return Patch(
        coverage=np.where(others, 0.0, clear),
        measurable=measurable,
        front=measurable & ~(mixed & (near | ~others)),
        behind=measurable & ~mixed,
        inside=inside,
        hides=(dark & ~inside) | others,
        xs=(columns + 0.5) * pixels.scale,
        ys=(rows + 0.5) * pixels.scale,
        scale=pixels.scale,
    )
