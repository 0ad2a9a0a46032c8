"""Videos of every kind, whole and damaged: the frames that ffmpeg shows, or an error in the house's form."""

from __future__ import annotations

import re
import subprocess
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from video_files import X265, shown, write_with_ffmpeg

from dit_lens.reading import VideoFile

KINDS = {
    "h264.mp4": ("libx264", "-pix_fmt", "yuv420p"),
    "h264-front.mp4": ("libx264", "-pix_fmt", "yuv420p", "-movflags", "faststart"),
    "h264-parts.mp4": ("libx264", "-pix_fmt", "yuv420p", "-g", "3", "-movflags", "frag_keyframe+empty_moov"),
    "h264-keys.mkv": ("libx264", "-pix_fmt", "yuv420p", "-g", "2"),
    "hevc.mp4": ("libx265", "-pix_fmt", "yuv420p", *X265),
    "hevc.mkv": ("libx265", "-pix_fmt", "yuv420p10le", *X265),
    "vp8.webm": ("libvpx",),
    "vp9.webm": ("libvpx-vp9", "-pix_fmt", "yuv420p"),
    "vp9.mp4": ("libvpx-vp9", "-pix_fmt", "yuv420p"),
    "av1.webm": ("libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p", "-svtav1-params", "lp=1"),
    "mpeg4.avi": ("mpeg4",),
    "mpeg4.mov": ("mpeg4", "-bf", "2"),
    "mjpeg.avi": ("mjpeg", "-pix_fmt", "yuvj420p"),
    "mjpeg.mov": ("mjpeg", "-pix_fmt", "yuvj444p"),
    "ffv1.mkv": ("ffv1", "-level", "3", "-slicecrc", "1"),
    "ffv1.avi": ("ffv1", "-level", "3", "-slicecrc", "1", "-pix_fmt", "bgr0"),
    "prores.mov": ("prores_ks",),
    "mpeg2.mpg": ("mpeg2video",),
    "mpeg2.ts": ("mpeg2video",),
    "gif.gif": ("gif",),
    "apng.apng": ("apng", "-plays", "0"),
}


DEEP = ("hevc.mkv", "prores.mov")  # of 10 bits, whose chroma ffmpeg's command places half a pixel elsewhere
# MJPEG has no checksum and no end of its data: what a scan shows whose codes run out differs from build to build.


@dataclass(frozen=True)
class Damage:
    """What happens to a file: its end is cut off, or bytes at a place are flipped, zeroed or exchanged."""

    how: str
    place: float
    mask: int

    def __call__(self, whole: bytes) -> bytes:
        """The file after it."""
        data, at = bytearray(whole), int(self.place * (len(whole) - 1))
        if self.how == "cut":
            return whole[:at]
        if self.how == "flip":
            data[at] ^= self.mask
        if self.how == "zero":
            data[at : at + self.mask] = bytes(len(data[at : at + self.mask]))
        if self.how == "lose":
            del data[at : at + self.mask]
        return bytes(data)


DAMAGES = st.builds(
    Damage,
    st.sampled_from(["none", "cut", "flip", "flip", "zero", "lose"]),
    st.floats(0, 1),
    st.integers(1, 255),
)


@cache
def folder() -> Path:
    return Path(mkdtemp(prefix="dit_lens_fuzz_"))


@cache
def whole(kind: str) -> bytes:
    codec, *options = KINDS[kind]
    return write_with_ffmpeg(folder() / kind, "-c:v", codec, *options, size="96x64").read_bytes()


def outcome(kind: str, damage: Damage) -> tuple[str, np.ndarray | None]:
    """The error, or the frames. Any error but the house's own is raised."""
    data = damage(whole(kind))
    path = folder() / f"damaged-{kind}"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Pillow, on metadata
        try:
            return "", VideoFile(path).read()
        except ValueError as error:
            assert type(error).__module__ in ("builtins", "dit_lens.reading.images"), repr(error)
            assert re.match(rf"got \S*damaged-{re.escape(kind)}\b.* · ", str(error), re.DOTALL), str(error)
            return str(error), None


def check(kind: str, damage: Damage) -> str:
    """ "refused", or "shown" where the frames are those of ffmpeg."""
    error, frames = outcome(kind, damage)
    if frames is None:
        assert damage.how != "none", error
        return "refused"
    if kind == "gif.gif" and damage.how != "none":
        return "shown"  # ffmpeg shows nothing where a colour table is shifted; GIF has no checksum that would tell
    try:
        judged = shown(folder() / f"damaged-{kind}")
    except subprocess.CalledProcessError as error:
        raise AssertionError(f"{kind}, {damage}: ffmpeg shows nothing: {error.stderr}") from error
    assert judged.shape == frames.shape, f"{kind}, {damage}: {frames.shape}, ffmpeg {judged.shape}"
    near = 10 if kind in DEEP else 0
    differing = int((np.abs(judged.astype(int) - frames).mean((1, 2, 3)) > near).sum())
    assert differing <= (kind.startswith("mjpeg") and damage.how != "none"), (
        f"{kind}, {damage}: {differing} other frames"
    )
    return "shown"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_whole(kind: str) -> None:
    assert check(kind, Damage("none", 0, 1)) == "shown"
    assert VideoFile(folder() / f"damaged-{kind}").count == 8


def test_a_file_that_is_cut_anywhere_is_refused() -> None:
    for kind in ("h264-front.mp4", "h264-keys.mkv", "vp9.webm", "ffv1.avi", "gif.gif", "apng.apng"):
        for place in (0.3, 0.5, 0.6, 0.75, 0.9):
            assert check(kind, Damage("cut", place, 1)) == "refused", (kind, place)


def test_a_wrong_checksum_is_refused() -> None:
    for kind in ("ffv1.mkv", "ffv1.avi"):
        for place in (0.3, 0.4, 0.6, 0.7):
            assert check(kind, Damage("flip", place, 4)) == "refused", (kind, place)


QUICK = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@given(st.sampled_from(sorted(KINDS)), DAMAGES)
@QUICK
def test_damage_is_refused_or_shown_as_ffmpeg_shows_it(kind: str, damage: Damage) -> None:
    check(kind, damage)


@pytest.mark.slow
@given(st.sampled_from(sorted(KINDS)), DAMAGES)
@settings(QUICK, max_examples=600)
def test_much_damage_is_refused_or_shown_as_ffmpeg_shows_it(kind: str, damage: Damage) -> None:
    check(kind, damage)


def test_the_check_itself_would_see_other_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    read = VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self: read(self)[::-1])
    with pytest.raises(AssertionError, match="other frames"):
        check("vp9.mp4", Damage("none", 0, 1))
