"""Path patching: what one part of a model tells another directly, and circuits made of such paths.

parts: names of what writes to the stream and reads it. patching: exact path patching. circuits: the strongest paths,
and what is left of a metric without the rest.
"""

from __future__ import annotations

from dit_lens.paths.circuits import Edge, ablate_circuit, circuit, parts_of
from dit_lens.paths.parts import READOUT, Part, parts_before, stream_read
from dit_lens.paths.patching import patch_paths

__all__ = [
    "READOUT",
    "Edge",
    "Part",
    "ablate_circuit",
    "circuit",
    "parts_before",
    "parts_of",
    "patch_paths",
    "stream_read",
]
