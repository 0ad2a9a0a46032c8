"""PhyWorld (Kang et al.; phyworld/phyworld): rendered motion with its true state, for regression.

    ROOT/id_ood_data/parabola_eval.hdf5      init_streams/<s> (N, 2): x0, v0 · position_streams/<s> (N, 32, 2)
                                             video_streams/<s> (N,): bytes of a mp4; s is 00000 (as trained on) or 00001

The prompt of these videos is empty: a prompt that states x0 or v0 would give a probe its own target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dit_lens.choices import check_choice
from dit_lens.clips import Clip, Scene, Track
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Lazily, Outline
from dit_lens.reading import VideoFile

STREAMS = {"id": "00000", "ood": "00001"}
INITIAL = {"parabola": ("x0", "v0")}


class PhyWorld(Lazily[int, Scene]):
    """Videos of a PhyWorld file, each a separate group, with the object's true position in each frame that is used.

    No video is labelled (`possible` is None). Velocity, radius, shape and colour of the track are not stored: NaN and
    empty. Factors have the state at the start (`x0`, `v0`; for other motions `initial`) and the empty `prompt`.
    The file is opened for each video and closed again, so that worker processes do not share it.

    Args:
        root: the folder that holds id_ood_data.
        split: "id" or "ood".
        motion: the file's name before _eval.hdf5, such as "parabola".
        framing: which frames, at what size.

    Raises:
        ValueError: unknown split, or streams of different lengths. FileNotFoundError: no such file.
    """

    def __init__(self, root: str | Path, split: str = "id", motion: str = "parabola", framing: Framing | None = None):
        self.split, self.motion, self.framing = (
            check_choice(split, STREAMS, "PhyWorld split"),
            motion,
            framing or Framing(),
        )
        self.path = Path(root) / "id_ood_data" / f"{motion}_eval.hdf5"
        if not self.path.exists():
            raise FileNotFoundError(
                f"got no file {self.path} · expected the file of the motion {motion!r} · check the root"
            )
        super().__init__(range(self._count()), str(self.path))

    def read(self, listed: int) -> Scene:
        """Reads the video with this number."""
        with h5py.File(self.path) as file:
            data, positions, initial = (self._stream(file, name)[listed] for name in _STREAM_NAMES)
        video = VideoFile(Path(f"{self.path}:{self._key('video_streams')}[{listed}]"), np.asarray(data).tobytes())
        if video.count != len(positions):
            raise ValueError(
                f"got {video.path} with {video.count} frames and {len(positions)} positions · expected one position for"
                " each frame"
            )
        return Scene(self._id(listed), (self._clip(video, listed, positions, initial),))

    def outline(self, index: int) -> Outline:
        """Id, motion and (unknown) label of a clip, without reading its frames."""
        return Outline(self._id(self.listed[index]), self.motion, (None,))

    def _clip(self, video: VideoFile, number: int, positions: np.ndarray, initial: np.ndarray) -> Clip:
        indices = self.framing.indices(video.count, str(video.path))
        frames, fps = video.read(indices), video.fps
        if not fps:
            raise ValueError(f"got {video.path}, which states no frame rate · expected one")
        factors: dict[str, Any] = {"prompt": "", "initial": tuple(map(float, initial)), "motion": self.motion}
        factors |= dict(zip(INITIAL.get(self.motion, ()), factors["initial"], strict=False))
        factors |= self.framing.record(video.count, indices, frames.shape[1:3], fps) | {"source": str(video.path)}
        track, group = _track(np.asarray(positions, dtype=float)[list(indices)]), self._id(number)
        shaped, rate = self.framing.shape(frames), self.framing.rate(fps, indices)
        return Clip(f"{group}/A", shaped, None, group, "A", self.motion, factors, (track,), rate)

    def _count(self) -> int:
        with h5py.File(self.path) as file:
            counts = {len(self._stream(file, name)) for name in _STREAM_NAMES}
        if len(counts) != 1:
            raise ValueError(f"got {self.path} with streams of lengths {sorted(counts)} · expected one length")
        return counts.pop()

    def _stream(self, file: h5py.File, name: str) -> Any:
        key = self._key(name)
        if key not in file:
            raise ValueError(
                f"got {self.path} without {key} · expected {', '.join(_STREAM_NAMES)}, each for every split"
            )
        return file[key]

    def _key(self, name: str) -> str:
        return f"{name}/{STREAMS[self.split]}"

    def _id(self, number: int) -> str:
        return f"phyworld/{self.split}/{self.motion}/{number:05d}"


_STREAM_NAMES = ("video_streams", "position_streams", "init_streams")


def _track(positions: np.ndarray) -> Track:
    """A track with only the position known, in the file's unit."""
    count = len(positions)
    unknown, unnamed = np.full(count, np.nan), np.full(count, "")
    present, hidden = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    return Track(positions, np.full((count, 2), np.nan), present, hidden, unknown, unnamed, unnamed.copy())
