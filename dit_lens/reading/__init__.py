"""Videos on disk: frames of a folder, an animated image or a video file, as a player shows them.

=========== ======================================================================================================
module      what is there
=========== ======================================================================================================
video_file  `VideoFile`: a video that is not read yet, whatever it is made of
folders     what is in a folder, and its images in the order of their numbers
images      stills and animated images, by Pillow
containers  video files, by PyAV, an optional extra: `pip install 'dit-lens[video]'`
display     what a player does to a decoded frame: turned, in its colours; or the reason why it is refused
times       whether frames are shown at even distances, and how many a second
fitting     frames of another size, or fewer of them
=========== ======================================================================================================

What is read is what a player shows: orientation flags, colour matrices and ranges, edit lists and the disposal of
frames in animated images are followed. What eight bits a colour in square pixels at even times cannot hold is refused
by name.
"""

from dit_lens.reading.fitting import FITS, even_indices, evenly, fit
from dit_lens.reading.folders import STILL, list_frames, list_images, list_visible
from dit_lens.reading.images import read_images
from dit_lens.reading.video_file import VIDEO, VideoFile, read_frames

__all__ = [
    "FITS",
    "STILL",
    "VIDEO",
    "VideoFile",
    "even_indices",
    "evenly",
    "fit",
    "list_frames",
    "list_images",
    "list_visible",
    "read_frames",
    "read_images",
]
