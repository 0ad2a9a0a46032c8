"""The top-level boxes of an MP4 file (ISO/IEC 14496-12), and whether one in fragments has its end.

A file that was cut between two fragments is a valid file of fewer frames. What says that nothing is missing is the
table of fragments, `mfra`, which stands last; live streams and segments do without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

FORMAT = "mov,mp4"  # how ffmpeg's libraries begin the name of the format


def top_level(file: BinaryIO) -> Iterator[str]:
    """The kinds of the boxes, in order; an incomplete one is the last."""
    place, end = 0, file.seek(0, os.SEEK_END)
    while place + 8 <= end:
        file.seek(place)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:  # it stands behind the kind
            size = int.from_bytes(header[8:16], "big")
        yield header[4:8].decode("latin-1")
        if size < 8:  # 0: to the end of the file
            return
        place += size


def lacks_end(file: BinaryIO) -> bool:
    """Whether it is in fragments without the table of them at its end."""
    kinds = list(top_level(file))
    return "moof" in kinds and kinds[-1] != "mfra"
