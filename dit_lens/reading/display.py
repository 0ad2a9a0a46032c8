"""What a player does to a decoded frame before it is seen: done here as well, or refused by name.

Turned and mirrored pictures are turned as their display matrix says. Colours are those of the stated matrix and range;
where no matrix is stated, BT.709 above 576 rows or from 1280 columns on and BT.601 below, as mpv does (and as ffmpeg
does not, which takes BT.601 for all).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dit_lens.reading.times import reencode

ONE = 1 << 16  # 1.0 in the fixed-point numbers of a display matrix
UNSTATED = 2  # of colour matrices (ITU-T H.273)
RGB, BT709, BT601 = 0, 1, 5
MATRICES = (BT709, UNSTATED, 4, BT601, 6, 7, 9)  # those that swscale knows
HDR = {16: "PQ", 18: "HLG"}  # of transfer characteristics (ITU-T H.273)
PROJECTED = {"SPHERICAL": "a projection of a sphere", "DOVI_METADATA": "Dolby Vision colours"}


@dataclass(frozen=True)
class Turn:
    """How a picture is turned: rows and columns exchanged, then the order of each reversed, or not."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @classmethod
    def of(cls, matrix: bytes, name: str) -> Turn:
        """The turn that a display matrix says: nine numbers a b u, c d v, x y w; (x, y) goes to (ax + cy, bx + dy).

        Raises:
            ValueError: it is not by quarters of a circle, or also scales.
        """
        a, b, u, c, d, v = (round(int(n) / ONE, 2) for n in np.frombuffer(matrix, np.int32)[:6])
        if any((u, v)) or {abs(a), abs(d)} | {abs(b), abs(c)} != {0, 1} or abs(a) != abs(d) or abs(b) != abs(c):
            raise ValueError(
                f"got {name} with the display matrix [{a:g} {b:g}; {c:g} {d:g}] · expected only quarter turns and"
                f" mirroring · {reencode('')}"
            )
        return cls(True, b < 0, c < 0) if a == 0 else cls(False, d < 0, a < 0)

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """The frame as it is shown."""
        turned = frame.swapaxes(0, 1) if self.transposed else frame
        return turned[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


def check_stream(stream: Any, name: str) -> None:
    """That pixels are square and nothing is said to be transparent.

    A stretch by less than half a pixel of the whole width is none.

    Raises:
        ValueError: they are not, or something is.
    """
    for aspect in (stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio):
        width = stream.codec_context.width
        if aspect and round(width * Fraction(aspect)) != width:
            raise ValueError(
                f"got {name}, whose pixels are {aspect} times as wide as high · expected square pixels ·"
                f" {reencode('-vf scale=iw*sar:ih,setsar=1')}"
            )
    if {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode", "0") != "0":
        raise ValueError(f"got {name} with transparent pixels · {OPAQUE}")


OPAQUE = f"expected an opaque video · add a background, or {reencode('-pix_fmt yuv420p')}"


def turn_of(frame: Any, name: str) -> Turn:
    """How a decoded frame is turned before it is shown (frame.rotation of PyAV takes a mirror for half a turn).

    Raises:
        ValueError: see `Turn.of`.
    """
    matrices = [bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    return Turn.of(matrices[0], name) if matrices else Turn()


def rgb_of(frame: Any, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """A decoded frame in the colours that are shown, not turned yet.

    Raises:
        ValueError: it is interlaced, HDR, transparent, projected, or in colours of an unknown matrix.
    """
    kinds = {data.type.name for data in frame.side_data}
    what = next((text for kind, text in PROJECTED.items() if kind in kinds), "")
    if what or frame.color_trc in HDR:
        what = what or f"{HDR[frame.color_trc]} (high dynamic range)"
        raise ValueError(f"got {name} in {what} · expected standard dynamic range without a transform · convert it")
    if frame.interlaced_frame:
        raise ValueError(f"got {name}, which is interlaced · expected progressive frames · {reencode('-vf bwdif')}")
    parts = frame.format.components
    if frame.format.has_palette or any(part.is_alpha for part in parts):
        rgba = frame.to_ndarray(format="rgba")
        if rgba[..., 3].min() < 255:
            raise ValueError(f"got {name} with transparent pixels · {OPAQUE}")
        return np.ascontiguousarray(rgba[..., :3])
    if frame.format.is_rgb or len(parts) < 3:  # grey has no matrix
        return frame.to_ndarray(format="rgb24")
    if frame.colorspace not in MATRICES:
        raise ValueError(
            f"got {name} with the colour matrix {frame.colorspace} of H.273 · expected BT.601, BT.709 or BT.2020"
            f" · {reencode('-vf scale=out_color_matrix=bt709')}"
        )
    matrix = frame.colorspace
    if matrix == UNSTATED:
        matrix = BT709 if frame.height > 576 or frame.width >= 1280 else BT601
    return frame.to_ndarray(format="rgb24", src_colorspace=matrix)
