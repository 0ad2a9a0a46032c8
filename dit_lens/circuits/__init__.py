"""Path patching: direct effects of one part of a model on another, and circuits made of such paths.

parts: names of components that write and read the stream. patching: exact path patching. screening: all paths ranked by
a few gradients, and how well. faithfulness: the strongest paths, and the metric when the rest is resampled.
"""

from __future__ import annotations

from dit_lens.circuits.faithfulness import ablate_circuit, circuit, parts_of
from dit_lens.circuits.parts import READOUT, CircuitPart, Edge, parts_before, stream_read
from dit_lens.circuits.patching import patch_edges, patch_paths
from dit_lens.circuits.screening import agreement, among, ranked, screen_paths, screened_paths

__all__ = [
    "READOUT",
    "CircuitPart",
    "Edge",
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
