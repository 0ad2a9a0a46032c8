"""MP4 files in fragments: read where they have their end, refused where fragments may be missing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from video_files import shown, write_with_ffmpeg

from dit_lens.reading import VideoFile
from dit_lens.reading.boxes import lacks_end, top_level

pytest.importorskip("av")
FRAGMENTS = "-c:v", "libx264", "-g", "2", "-bf", "0", "-movflags", "frag_keyframe+empty_moov"


def parts(data: bytes) -> list[tuple[str, int]]:
    """The kind of each box, and where it ends."""
    ends, place = [], 0
    while place < len(data):
        place += int.from_bytes(data[place : place + 4], "big")
        ends.append(place)
    return list(zip(top_level(io.BytesIO(data)), ends, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_with_ffmpeg(tmp_path_factory.mktemp("fragments") / "whole.mp4", *FRAGMENTS)


def test_a_whole_file_in_fragments_is_read(whole: Path) -> None:
    kinds = [kind for kind, _ in parts(whole.read_bytes())]
    assert kinds.count("moof") == 4 and kinds[-1] == "mfra"
    video = VideoFile(whole)
    assert video.count == 8 and np.array_equal(video.read(), shown(whole))
    assert np.array_equal(VideoFile(whole, whole.read_bytes()).read(), video.read())


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_one_that_was_cut_between_fragments_is_refused(whole: Path, tmp_path: Path, kept: int) -> None:
    data = whole.read_bytes()
    ends = [end for kind, end in parts(data) if kind == "mdat"]
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: ends[kept - 1]])
    assert len(shown(cut)) == 2 * kept  # to others it is a sound file of fewer frames
    for video in (VideoFile(cut), VideoFile(cut, cut.read_bytes())):
        with pytest.raises(ValueError, match=r"fragmented mp4 without .* some may be missing"):
            _ = video.count


def test_files_without_fragments_need_no_such_end(tmp_path: Path) -> None:
    for name in ("plain.mp4", "plain.mov", "plain.mkv"):
        assert VideoFile(write_with_ffmpeg(tmp_path / name, "-c:v", "libx264")).count == 8


def test_boxes_by_hand() -> None:
    def box(kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
        return (8 + len(body) if size is None else size).to_bytes(4, "big") + kind + body

    long = (1).to_bytes(4, "big") + b"mdat" + (20).to_bytes(8, "big") + b"four"
    assert list(top_level(io.BytesIO(box(b"ftyp", b"12") + long + box(b"moof") + box(b"mfra")))) == [
        "ftyp", "mdat", "moof", "mfra",
    ]  # fmt: skip
    for last, lacks in ((box(b"mfra"), False), (box(b"mdat", b"x"), True), (box(b"mdat", b"x", 0), True), (b"", True)):
        assert lacks_end(io.BytesIO(box(b"moov") + box(b"moof") + last)) == lacks
    assert not lacks_end(io.BytesIO(box(b"moov") + box(b"mdat", b"cut", 99)))
