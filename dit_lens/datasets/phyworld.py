"""PhyWorld (Kang et al.; phyworld/phyworld): rendered motion with its true state, for regression.

    ROOT/id_ood_data/parabola_eval.hdf5      init_streams/<s> (N, 2): x0, v0 · position_streams/<s> (N, 32, 2)
                                             video_streams/<s> (N,): bytes of a mp4; s is 00000 (as trained on) or 00001

The prompt that goes with these films is empty: a prompt that tells x0 or v0 would hand a probe its own target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dit_lens.choices import check_choice
from dit_lens.clips import Clip, Group, Track
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Lazily
from dit_lens.reading import Film

STREAMS = {"id": "00000", "ood": "00001"}
INITIAL = {"parabola": ("x0", "v0")}


class PhyWorld(Lazily[int, Group]):
    """Films of a PhyWorld file, each a group by itself, with the object's true position in each frame that is used.

    No film is labelled (`possible` is None). Velocity, radius, shape and colour of the track are not stored: NaN and
    empty. Factors have the state at the start (`x0`, `v0`; for other motions `initial`) and the empty `prompt`.
    The file is opened for each film and closed again, so that worker processes do not share it.

    Args:
        root: the folder that holds id_ood_data.
        split: "id" or "ood".
        motion: the file's name before _eval.hdf5, such as "parabola".
        framing: which frames, at what size.

    Raises:
        ValueError: unknown split, or streams that do not go together. FileNotFoundError: no such file.
    """

    def __init__(self, root: str | Path, split: str = "id", motion: str = "parabola", framing: Framing | None = None):
        self.split, self.motion, self.framing = (
            check_choice(split, STREAMS, "PhyWorld split"),
            motion,
            framing or Framing(),
        )
        self.path = Path(root) / "id_ood_data" / f"{motion}_eval.hdf5"
        if not self.path.exists():
            raise FileNotFoundError(f"got no {self.path} · expected the file of the motion {motion!r} · check the root")
        super().__init__(range(self._count()), str(self.path))

    def read(self, listed: int) -> Group:
        """The film of that number."""
        with h5py.File(self.path) as file:
            data, positions, initial = (self._stream(file, name)[listed] for name in _STREAM_NAMES)
        film = Film(Path(f"{self.path}:{self._key('video_streams')}[{listed}]"), np.asarray(data).tobytes())
        if film.count != len(positions):
            raise ValueError(
                f"got {film.path} of {film.count} frames and {len(positions)} positions · expected as many"
            )
        return Group(self._id(listed), (self._clip(film, listed, positions, initial),))

    def _clip(self, film: Film, number: int, positions: np.ndarray, initial: np.ndarray) -> Clip:
        indices = self.framing.indices(film.count, str(film.path))
        frames, fps = film.read(indices), film.fps
        if not fps:
            raise ValueError(f"got {film.path}, which states no frames per second · expected some")
        factors: dict[str, Any] = {"prompt": "", "initial": tuple(map(float, initial)), "motion": self.motion}
        factors |= dict(zip(INITIAL.get(self.motion, ()), factors["initial"], strict=False))
        factors |= self.framing.record(film.count, indices, frames.shape[1:3], fps) | {"source": str(film.path)}
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
            raise ValueError(f"got {self.path} without {key} · expected {', '.join(_STREAM_NAMES)}, each by split")
        return file[key]

    def _key(self, name: str) -> str:
        return f"{name}/{STREAMS[self.split]}"

    def _id(self, number: int) -> str:
        return f"phyworld/{self.split}/{self.motion}/{number:05d}"


_STREAM_NAMES = ("video_streams", "position_streams", "init_streams")


def _track(positions: np.ndarray) -> Track:
    """A track of which nothing is known but the position, in the file's unit."""
    count = len(positions)
    unknown, unnamed = np.full(count, np.nan), np.full(count, "")
    present, hidden = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    return Track(positions, np.full((count, 2), np.nan), present, hidden, unknown, unnamed, unnamed.copy())
