"""Video files, by PyAV: every frame that is shown, and proof that none is missing or damaged, or an error."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dit_lens.reading.boxes import FORMAT, lacks_end
from dit_lens.reading.display import check_stream, rgb_of, turn_of
from dit_lens.reading.images import stacked
from dit_lens.reading.times import even_rate, reencode

# A decoder that repairs what is damaged shows what never was: it stops instead, and tests the checksums that there are.
# Unaligned: pictures are cropped on the left to the pixel, not to the nearest 32 bytes.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode", "flags": "unaligned"}
REPORTERS = ("ffv1", "matroska,webm")  # what reports wrong checksums and broken elements in the log alone
WHOLE = f"expected a complete video · fetch it again, or, if it plays to the end, {reencode('')}"


@dataclass(frozen=True)
class VideoContainer:
    """A video file, or the bytes of one.

    Attributes:
        path: where it lies; where `data` is given, only its name in messages.
        data: its bytes.
    """

    path: Path
    data: bytes | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        """How many frames are shown; nothing is decoded for it."""
        return self._index[0]

    @property
    def fps(self) -> float | None:
        """Frames per second."""
        return self._index[1]

    @cached_property
    def _index(self) -> tuple[int, float | None]:
        """How many frames are shown, and how many a second.

        Raises:
            ValueError: it cannot be read, has no video or several, is cut short, or its frame rate is not constant.
        """
        with self._opened() as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.size]
            shown = [packet for packet in packets if not packet.is_discard]  # an edit list may leave out some
            damaged = sum(packet.is_corrupt for packet in packets)
            if damaged or not shown or len(packets) < stream.frames:
                got = f"{len(packets) - damaged} of {max(stream.frames, len(packets))} frames"
                raise ValueError(f"got {self.path} with {got} · {WHOLE}")
            if container.format.name.startswith(FORMAT) and self._lacks_end():
                raise ValueError(
                    f"got {self.path}, a fragmented mp4 without the closing table of fragments: some may be missing ·"
                    f" {WHOLE}"
                )
            if any(packet.pts is None for packet in shown):
                raise ValueError(f"got {self.path}, which has no frame times · expected them · {reencode('')}")
            tick = float(stream.time_base)
            times = sorted(packet.pts * tick for packet in shown)
            rate = even_rate(times, tick, float(stream.average_rate or 0) or None, str(self.path))
            if not stream.frames and rate:
                self._check_length(container, stream, times, rate)
        return len(shown), rate

    def _lacks_end(self) -> bool:
        with self.path.open("rb") if self.data is None else io.BytesIO(self.data) as file:
            return lacks_end(file)

    def _check_length(self, container: Any, stream: Any, times: Sequence[float], rate: float) -> None:
        """That frames go on as long as a file says that does not say how many there are.

        Raises:
            ValueError: they end sooner, by a frame or more.
        """
        shown, begins = times[-1] + 1 / rate, 0.0
        stated = seconds_of(stream.metadata.get("DURATION", ""))  # Matroska, for each stream
        if stream.duration:
            stated, begins = float(stream.duration * stream.time_base), times[0]
        elif stated is None and len(container.streams) == 1 and container.duration:
            stated = container.duration / 1e6
        if stated is not None and stated - (shown - begins) > 0.75 / rate:
            raise ValueError(f"got {self.path} with {shown - begins:.3g} of {stated:.3g} seconds · {WHOLE}")

    def read(self, wanted: Sequence[int]) -> UInt8[np.ndarray, "F H W 3"]:
        """The frames at these places, as they are shown.

        Raises:
            ValueError: frames are damaged or missing; they are shown in a way that arrays cannot hold (see `display`).
        """
        needed, kept, turns, place, damaged = set(wanted), {}, set(), 0, 0
        with self._opened() as (container, stream), reported() as reports:
            stream.codec_context.options, stream.codec_context.thread_count = STRICT, 1  # threads lose marks of damage
            for frame in decoded(container, stream):
                if frame is None or frame.is_corrupt:
                    damaged += 1
                elif place in needed:
                    kept[place] = rgb_of(frame, str(self.path))
                turns |= {turn_of(frame, str(self.path))} if frame else set()
                place += frame is not None
            check_stream(stream, str(self.path))
        reports = [text for _, reporter, text in reports if reporter in REPORTERS]
        if damaged or reports or place != self.count:
            got = f"{damaged or 'some'} are damaged" if damaged or reports else f"{place} decode"
            raise ValueError(f"got {self.path}, of whose {self.count} frames {got} · {WHOLE}")
        if len(turns) > 1:
            raise ValueError(
                f"got {self.path}, whose orientation changes midway · expected one orientation · {reencode('')}"
            )
        turn = turns.pop()
        return stacked([turn(kept[i]) for i in wanted], self.path)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container, and its one stream of video."""
        av = _import_av(self.path)
        source = str(self.path.absolute()) if self.data is None else io.BytesIO(self.data)
        try:
            with av.open(source, metadata_errors="replace") as container:
                pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
                streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
                if len(streams) != 1:
                    raise ValueError(
                        f"got {self.path} with {len(streams) or 'no'} video streams · expected exactly one"
                        + (" · keep one: ffmpeg -i IN -map 0:v:0 -c copy OUT.mp4" if streams else "")
                    )
                if streams[0].codec_context is None:
                    raise ValueError(f"got {self.path} in an unknown codec · {WHOLE}")
                yield container, streams[0]
        except av.error.FFmpegError as error:
            raise ValueError(f"got {self.path}, which cannot be read ({error}) · expected a video") from error


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame in the order in which they are shown; None for a packet that cannot be decoded."""
    from av.error import InvalidDataError

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except InvalidDataError:
            yield None


@contextmanager
def reported() -> Iterator[list[tuple[int, str, str]]]:
    """The errors that ffmpeg's libraries write into their log meanwhile in this thread: level, who, what."""
    import av

    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines:
            yield lines
    finally:
        av.logging.set_level(before)


def seconds_of(text: str) -> float | None:
    """The seconds of a time such as 00:00:01.500000000; None of another text."""
    parts = text.split(":")
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return None
    return timedelta(hours=hours, minutes=minutes, seconds=seconds).total_seconds()


def _import_av(path: Path) -> Any:
    try:
        import av
        import av.error
    except ModuleNotFoundError as error:
        remedy = "pip install 'dit-lens[video]'"
        raise ModuleNotFoundError(f"got {path}, a video file · expected PyAV, to decode it · {remedy}") from error
    return av
