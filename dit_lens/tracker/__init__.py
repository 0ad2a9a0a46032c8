"""Where the objects of miniphys are in frames that a model made: position, colour, shape and size of each.

`find_objects` reads one frame, `track` several, `follow` links what they found over time, and `compare` and
`summarise` hold it against a clip's ground truth. Lengths are in world pixels: a frame is 32 x 32 of them at any
resolution.
"""

from dit_lens.tracker.detection import Detection, find_objects, track
from dit_lens.tracker.linking import Tracked, follow
from dit_lens.tracker.scoring import Match, compare, summarise

__all__ = ["Detection", "Match", "Tracked", "compare", "find_objects", "follow", "summarise", "track"]
