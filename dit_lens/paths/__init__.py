"""Path patching: what one part of a model tells another directly, and circuits made of such paths.

parts: names of what writes to the stream and reads it. patching: exact path patching. screening: all paths ranked by a
few gradients, and how well. circuits: the strongest paths, and what is left of a metric without the rest.
"""

from __future__ import annotations

from dit_lens.paths.circuits import ablate_circuit, circuit, parts_of
from dit_lens.paths.parts import READOUT, Edge, Part, parts_before, stream_read
from dit_lens.paths.patching import patch_edges, patch_paths
from dit_lens.paths.screening import agreement, among, ranked, screen_paths, screened_paths

__all__ = [
    "READOUT",
    "Edge",
    "Part",
    "ablate_circuit",
    "agreement",
    "among",
    "circuit",
    "parts_before",
    "parts_of",
    "patch_edges",
    "patch_paths",
    "ranked",
    "screen_paths",
    "screened_paths",
    "stream_read",
]
