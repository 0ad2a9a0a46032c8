"""Video files as they are shown: turned, in their colours, at even times; what arrays cannot hold is refused by name.

ffmpeg decodes every file too, by another build of its libraries and other code around them.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_files import X265, ffmpeg, noise, shown, write_mp4, write_with_ffmpeg

from dit_lens.reading import VideoFile, read_frames
from dit_lens.reading.display import Turn
from dit_lens.reading.times import even_rate

X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(tmp_path_factory.mktemp("plain") / "plain.mp4", noise(4, height=32, width=48))


# Orientation.


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_turned_and_mirrored_videos_are_as_they_are_shown(
    plain: Path, quarters: int, mirrored: bool, kind: str, tmp_path: Path
) -> None:
    flags = ["-display_rotation", str(90 * quarters), *(["-display_hflip"] if mirrored else [])]
    stored, turned = noise(4, height=32, width=48), tmp_path / f"turned.{kind}"
    ffmpeg(*flags, "-i", plain, "-c", "copy", turned)
    expected = np.rot90(stored, quarters, axes=(1, 2))[:, :, :: -1 if mirrored else 1]
    assert np.array_equal(shown(turned), expected), "ffmpeg turns counter-clockwise, then mirrors"
    assert np.array_equal(read_frames(turned), expected)
    assert (quarters == 0 and not mirrored) or not np.array_equal(expected, stored)


def test_a_turn_by_other_angles_is_refused(plain: Path, tmp_path: Path) -> None:
    ffmpeg("-display_rotation", "30", "-i", plain, "-c", "copy", tmp_path / "turned.mp4")
    with pytest.raises(
        ValueError, match=r"turned\.mp4 with the display matrix \[0\.87 -0\.5; .* · expected only quarter"
    ):
        read_frames(tmp_path / "turned.mp4")
    for scaled in ([2, 0, 0, 0, 2, 0], [1, 0, 1, 0, 1, 0], [1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="display matrix"):
            Turn.of((np.array([*scaled, 0, 0, 1 << 14], np.int32) * (1 << 16)).tobytes(), "a video")


# Pixel aspect.


def test_stretched_pixels_are_refused_and_a_stretch_of_no_pixel_is_none(tmp_path: Path) -> None:
    wide = write_with_ffmpeg(tmp_path / "wide.mp4", *X264, "-vf", "setsar=4/3")
    with pytest.raises(ValueError, match=r"wide\.mp4, whose pixels are 4/3 times as wide as high .* scale=iw\*sar:ih"):
        read_frames(wide)
    for kind, codec in (("mkv", "ffv1"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")):
        with pytest.raises(ValueError, match=r"as wide as high · expected square pixels"):
            read_frames(write_with_ffmpeg(tmp_path / f"wide.{kind}", "-c:v", codec, "-vf", "setsar=2/1"))
    nearly = write_with_ffmpeg(tmp_path / "nearly.mp4", *X264, "-vf", "setsar=100/101")
    assert np.array_equal(read_frames(nearly), shown(nearly))


# Colours.


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt470bg", "bt2020nc"])
@pytest.mark.parametrize("limits", ["pc", "tv"])
@pytest.mark.parametrize("name", ["x.mp4 libx264", "x.mkv libx265", "x.webm libvpx-vp9"])
def test_colours_are_of_the_stated_matrix_and_range(name: str, limits: str, matrix: str, tmp_path: Path) -> None:
    file, codec = name.split()
    quiet = X265 if codec == "libx265" else ()
    tags = ("-colorspace", matrix, "-color_range", limits)
    ours = {"smpte170m": "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020"}.get(matrix, matrix)
    encoding = f"scale=out_color_matrix={ours}:out_range={limits},format=yuv420p"
    video = write_with_ffmpeg(tmp_path / file, "-vf", encoding, *tags, "-c:v", codec, *quiet, count=2)
    frames = read_frames(video)
    stated = shown(video, "-vf", f"scale=in_color_matrix={ours}:in_range={limits}:flags=bilinear")
    assert np.array_equal(frames, stated) and np.array_equal(frames, shown(video))
    wrong_matrix = shown(
        video, "-vf", f"scale=in_color_matrix={'bt709' if ours != 'bt709' else 'bt601'}:flags=bilinear"
    )
    assert not np.array_equal(frames, wrong_matrix)


def test_without_a_matrix_large_videos_are_bt709_and_small_ones_bt601(tmp_path: Path) -> None:
    for size, matrix in (("64x576", "bt601"), ("64x578", "bt709"), ("1280x64", "bt709"), ("1278x64", "bt601")):
        video = write_with_ffmpeg(tmp_path / f"{size}.mp4", *X264, count=1, size=size)
        assert np.array_equal(read_frames(video), shown(video, "-vf", f"scale=in_color_matrix={matrix}:flags=bilinear"))


@pytest.mark.parametrize(
    "kind",
    ["ffv1 yuv420p10le", "ffv1 yuv444p12le", "ffv1 gray", "ffv1 gray10le", "ffv1 gbrp10le", "ffv1 rgb48le", "png pal8",
     "png gray", "png monob", "png rgb48be"],
)  # fmt: skip
def test_other_depths_are_shown_in_eight_bits(kind: str, tmp_path: Path) -> None:
    codec, depth = kind.split()
    video = write_with_ffmpeg(tmp_path / "deep.mkv", "-pix_fmt", depth, "-c:v", codec, count=3)
    assert np.array_equal(read_frames(video), shown(video)) and read_frames(video).std() > 10


@pytest.mark.parametrize(("trc", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused(trc: int, name: str, tmp_path: Path) -> None:
    options = (*X264, "-bsf:v", f"h264_metadata=transfer_characteristics={trc}")
    with pytest.raises(ValueError, match=rf"hdr\.mp4 in {name} \(high dynamic range\) · expected"):
        read_frames(write_with_ffmpeg(tmp_path / "hdr.mp4", *options))


def test_an_unknown_matrix_is_refused(tmp_path: Path) -> None:
    video = write_with_ffmpeg(tmp_path / "odd.mp4", *X264, "-bsf:v", "h264_metadata=matrix_coefficients=8")
    with pytest.raises(ValueError, match=r"odd\.mp4 with the colour matrix 8 of H\.273"):
        read_frames(video)


def test_pictures_cropped_by_the_codec_are_cropped_to_the_pixel(tmp_path: Path) -> None:
    sides = "h264_metadata=crop_left=6:crop_right=2:crop_top=4"
    video = write_with_ffmpeg(tmp_path / "cropped.mp4", *X264, "-bsf:v", sides)
    assert read_frames(video).shape == (8, 28, 40, 3) and np.array_equal(read_frames(video), shown(video))


# Transparency, interlacing, streams.


def test_transparent_pixels_are_refused_and_opaque_ones_are_not(tmp_path: Path) -> None:
    clear = ("-vf", "format=argb,colorchannelmixer=aa=0.5")
    for file, *codec in (("a.mov", "qtrle"), ("a.mkv", "png"), ("a.webm", "libvpx-vp9", "-pix_fmt", "yuva420p")):
        video = write_with_ffmpeg(tmp_path / file, *clear, "-c:v", *codec)
        with pytest.raises(ValueError, match=rf"{file} with transparent pixels · expected an opaque video"):
            read_frames(video)
    opaque = write_with_ffmpeg(tmp_path / "opaque.mov", "-vf", "format=argb", "-c:v", "qtrle")
    assert np.array_equal(read_frames(opaque), shown(opaque))


def test_interlaced_videos_are_refused(tmp_path: Path) -> None:
    fields = ("-vf", "setfield=tff", "-flags", "+ilme+ildct")
    for file, codec in (("i.mp4", "libx264"), ("i.mpg", "mpeg2video")):
        with pytest.raises(ValueError, match=rf"{file}, which is interlaced · expected progressive frames .* bwdif"):
            read_frames(write_with_ffmpeg(tmp_path / file, *fields, "-c:v", codec, "-pix_fmt", "yuv420p"))


def test_a_file_has_one_stream_of_video(plain: Path, tmp_path: Path) -> None:
    sound = ("-f", "lavfi", "-i", "sine=duration=0.1")
    ffmpeg(*sound, tmp_path / "sound.mp4")
    ffmpeg("-i", plain, "-i", plain, "-map", "0", "-map", "1", "-c", "copy", tmp_path / "two.mkv")
    ffmpeg("-i", plain, *sound, "-c:v", "copy", tmp_path / "both.mp4")
    cover = ("-map", "0", "-map", "1", "-c:v:0", "copy", "-c:v:1", "png", "-disposition:v:1", "attached_pic")
    ffmpeg("-i", plain, "-f", "lavfi", "-i", "testsrc2=size=32x32:duration=0.04", *cover, tmp_path / "cover.mp4")
    for name, count in (("sound.mp4", "no"), ("two.mkv", "2")):
        with pytest.raises(ValueError, match=rf"{name} with {count} video streams · expected exactly one"):
            read_frames(tmp_path / name)
    for name in ("both.mp4", "cover.mp4"):
        assert np.array_equal(read_frames(tmp_path / name), noise(4, height=32, width=48))


# Times.


def test_an_edit_list_leaves_out_what_a_player_leaves_out(tmp_path: Path) -> None:
    whole = write_with_ffmpeg(tmp_path / "whole.mp4", *X264, count=12)
    ffmpeg("-ss", "0.2", "-i", whole, "-c", "copy", tmp_path / "edited.mp4")
    video = VideoFile(tmp_path / "edited.mp4")
    assert video.count == 7 and np.array_equal(video.read(), shown(video.path))
    assert np.array_equal(video.read(), read_frames(whole)[5:])


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi"])
def test_an_uneven_frame_rate_is_refused(kind: str, tmp_path: Path) -> None:
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(kind, "libx264")
    uneven = ("-vf", "select=not(eq(n\\,3))", "-fps_mode", "vfr", "-c:v", codec, "-pix_fmt", "yuv420p")
    expected = "7 of 8 frames" if kind == "avi" else r"40 to 80 ms · expected a constant frame rate, .* -vf fps=25"
    with pytest.raises(ValueError, match=expected):
        read_frames(write_with_ffmpeg(tmp_path / f"uneven.{kind}", *uneven))


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60), Fraction(10), Fraction(7)]
)
def test_times_rounded_to_milliseconds_are_even(rate: Fraction) -> None:
    exact = [float(i / rate) for i in range(40)]
    for tick in (1e-3, 1 / 90000, 1 / 12800):
        rounded = [round(round(time, 3) / tick) * tick for time in exact]
        assert even_rate(rounded, tick, float(rate), "a video") == float(rate)
        assert even_rate(rounded, tick, None, "a video") == pytest.approx(float(rate), rel=1e-3)
        for dropped in (1, 20, 38):
            with pytest.raises(ValueError, match="constant frame rate"):
                even_rate(rounded[:dropped] + rounded[dropped + 1 :], tick, float(rate), "a video")


def test_by_hand() -> None:
    assert even_rate([0.0], 1, 25, "x") == 25 and even_rate([0.0], 1, None, "x") is None
    assert even_rate([0, 0.1, 0.2], 0.01, 50, "x") == pytest.approx(10), "what is stated is not what is shown"
    uneven: list[Any] = [[0, 0.1, 0.1], [0, 0.02, 0.06, 0.08, 0.12], [0, 0.04, 0.08, 0.18]]
    for times in uneven:
        with pytest.raises(ValueError, match="expected increasing times" if times[1] == times[2] else "constant"):
            even_rate(times, 0.01, None, "x")
