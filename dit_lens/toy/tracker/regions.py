"""Segmentation of a frame into objects: regions of one saturated colour, as scenery is nearly grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from dit_lens.toy.miniphys.scenes import PALETTE, WORLD

STRONG = 0.45  # coverage from which on a pixel belongs to an object
TALL = 0.4  # coverage of a column, averaged over its height, that only a gate reaches
BESIDE = np.ones((3, 3), bool)

Mask = Bool[np.ndarray, "H W"]


@dataclass(frozen=True, eq=False)
class Pixels:
    """A frame by its chroma, the colour minus its grey level.

    Attributes:
        coverage: share of each pixel that each colour would cover, were it the only colour over grey.
        label: index of the colour nearest in hue.
        strength: coverage by that colour.
        grey: mean of red, green and blue.
        gate: columns of a gate, the vertical line that paints an object that passes it.
        gate_colour: index of its colour.
        scale: world pixels per pixel.
    """

    coverage: Float[np.ndarray, "H W k"]
    label: Int[np.ndarray, "H W"]
    strength: Float[np.ndarray, "H W"]
    grey: Float[np.ndarray, "H W"]
    gate: Int[np.ndarray, " g"]
    gate_colour: int
    scale: float


def split(image: Float[np.ndarray, "H W 3"], colours: Sequence[str]) -> tuple[Pixels, list[Mask]]:
    """The frame by chroma, and a mask of each region of one colour (of two, where it crosses a gate)."""
    base = np.array([PALETTE[colour] for colour in colours])
    base = base - base.mean(1, keepdims=True)
    length = np.linalg.norm(base, axis=1)
    aligned = (image - image.mean(-1, keepdims=True)) @ (base / length[:, None]).T
    label, coverage = aligned.argmax(-1), aligned / length
    strength = np.take_along_axis(coverage, label[..., None], -1)[..., 0]
    heights = np.array([(strength.clip(0, 1) * (label == k)).mean(0) for k in range(len(colours))])
    tall, gate_colour = np.flatnonzero(heights.max(0) > TALL), int(heights.max(1).argmax())
    lines = np.median(coverage[..., gate_colour], axis=0)
    gate = tall[lines[tall] > STRONG] if (lines[tall] > STRONG).any() else tall
    strong = strength > STRONG
    if len(gate):
        # Beside its full columns a gate half covers others; object pixels there have more coverage than the gate alone.
        lines[: max(gate[0] - 1, 0)] = lines[gate[-1] + 2 :] = 0
        above = strength - lines > STRONG * (1 - lines)
        above[:, gate] = False
        strong &= (label != gate_colour) | above
    masks = [mask for k in np.unique(label[strong]) for mask in _components(strong & (label == k))]
    pixels = Pixels(coverage, label, strength, image.mean(-1), gate, gate_colour, WORLD / len(image))
    return pixels, _join(masks, gate) if len(gate) and masks else masks


def _components(mask: Mask) -> list[Mask]:
    numbers = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, BESIDE, numbers)
    return [numbers == i + 1 for i in range(numbers.max())]


def _join(masks: list[Mask], gate: Int[np.ndarray, " g"]) -> list[Mask]:
    """The regions, with those that meet at the gate merged."""
    left, right = max(gate[0] - 1, 0), min(gate[-1] + 1, masks[0].shape[1] - 1)
    touches = [bool(mask[:, left : right + 1].any()) for mask in masks]
    merged = np.logical_or.reduce(
        [np.zeros_like(masks[0]), *(m for m, touching in zip(masks, touches, strict=True) if touching)]
    )
    merged[:, gate] |= (merged[:, left] & merged[:, right])[:, None]
    return [m for m, touching in zip(masks, touches, strict=True) if not touching] + _components(merged)
