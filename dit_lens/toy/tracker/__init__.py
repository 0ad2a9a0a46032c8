"""Detection of miniphys objects in generated frames: position, colour, shape and size of each.

`find_objects` reads one frame, `track` several, `follow` links detections over time, and `compare` and `summarise`
score them against a clip's ground truth. Lengths are in world pixels: a frame is 32 x 32 of them at any
resolution.
"""

from dit_lens.toy.tracker.detection import Detection, find_objects, track
from dit_lens.toy.tracker.linking import Tracked, follow
from dit_lens.toy.tracker.scoring import Match, compare, summarise

__all__ = ["Detection", "Match", "Tracked", "compare", "find_objects", "follow", "summarise", "track"]
