"""Stills and animated images as they are shown: upright, 16 bits scaled, frames composed; all else refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from video_files import noise, shown, write_with_ffmpeg

from dit_lens.reading import VideoFile, read_frames

ORIENTATION = 0x0112  # a tag of EXIF


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


# Stills.


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled(kind: str, tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    frames = read_frames(saved(tmp_path / f"grey.{kind}", Image.fromarray(levels)))
    assert np.array_equal(frames[0], np.repeat(np.round(levels / 257).astype(np.uint8)[..., None], 3, -1))
    assert frames.std() > 70 and (frames == 255).mean() < 0.01, "not white from 255 on"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_orientation_is_applied(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = Image.fromarray(np.kron(noise(1, height=3, width=5)[0], np.ones((16, 16, 1), np.uint8)))
    path = saved(tmp_path / f"{orientation}.{kind}", picture, exif=exif, quality=95)
    stored = read_frames(saved(tmp_path / f"plain.{kind}", picture, quality=95))[0]
    upright = {  # EXIF 2.3, 4.6.4: where row 0 and column 0 are shown
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1), 7: np.rot90(stored, 2).swapaxes(0, 1), 8: np.rot90(stored),
    }  # fmt: skip
    assert np.array_equal(read_frames(path)[0], upright[orientation])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_images_of_eight_bits_are_as_they_are(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(1)[0]).convert(mode)
    frames = read_frames(saved(tmp_path / "still.png", image))
    assert np.array_equal(frames[0], np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("name", "mode"), [("x.tif", "F"), ("x.tif", "I"), ("x.jpg", "CMYK"), ("x.tif", "LAB"), ("x.tif", "YCbCr")]
)
def test_modes_that_are_shown_in_several_ways_are_refused(name: str, mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(1)[0]).convert("L" if mode in "FI" else "RGB")
    if mode == "LAB":
        image = Image.frombytes("LAB", image.size, image.tobytes())
    path = saved(tmp_path / name, image if mode == "LAB" else image.convert(mode))
    with pytest.raises(ValueError, match=rf"{name} in Pillow's mode {mode} · expected 8- or 16-bit grey"):
        read_frames(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_refused(mode: str, tmp_path: Path) -> None:
    image, options = Image.fromarray(noise(1)[0]).convert(mode), {}
    if mode in ("P", "RGB"):  # one colour is said to be transparent
        options = {"transparency": image.getpixel((0, 0))}
    else:
        image.putalpha(Image.fromarray(np.full((32, 48), 254, np.uint8)))
    with pytest.raises(ValueError, match=r"clear\.png with transparent pixels · expected an opaque image"):
        read_frames(saved(tmp_path / "clear.png", image, **options))


def test_sixteen_bits_with_white_as_zero_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint16))
    with pytest.raises(ValueError, match=r"negative\.tif, 16-bit grey with white as 0"):
        read_frames(saved(tmp_path / "negative.tif", image, tiffinfo={262: 0}))
    assert (read_frames(saved(tmp_path / "positive.tif", image)) == 0).all()


def test_a_picture_behind_a_jpeg_is_no_frame(tmp_path: Path) -> None:
    first, second = map(Image.fromarray, noise(2))
    path = saved(tmp_path / "1.jpg", first, format="MPO", save_all=True, append_images=[second])
    with Image.open(path) as image:
        assert image.format == "MPO" and getattr(image, "n_frames", 1) == 2
        assert np.array_equal(read_frames(path), np.asarray(image)[None])
    assert len(read_frames(tmp_path)) == 1


def test_what_pillow_cannot_read_is_an_error_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.gif").write_text("no image")
    large = saved(tmp_path / "large.png", Image.new("1", (300, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # as a bomb of zeros would have them
    for path in (tmp_path / "text.gif", large):
        with pytest.raises(ValueError, match=rf"{path.name}, which cannot be read \(.*\) · expected an image or"):
            read_frames(path)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, noise(3))
    saved(tmp_path / "still.png", first)
    saved(tmp_path / "moving.png", first, save_all=True, append_images=others, duration=40)
    for name in ("still.png", "moving.png"):
        data = bytearray((tmp_path / name).read_bytes())
        read_frames(tmp_path / name)
        for place in range(len(data) - 200, len(data) - 20, 7):
            data[place] ^= 1
            (tmp_path / "flipped.png").write_bytes(data)
            with pytest.raises(ValueError, match=r"flipped\.png, which cannot be read \(.*\) · expected an image"):
                read_frames(tmp_path / "flipped.png")
            data[place] ^= 1


# Animated images.


def boxes(mode: str = "RGB") -> list[Image.Image]:
    """A box that moves over a ground: what GIF and APNG keep as a part of a frame."""
    frames = []
    for place in range(5):
        image = Image.new("RGB", (48, 32), (30, 90, 160))
        image.paste((250, 200, 20), (8 * place, 8, 8 * place + 8, 16))
        frames.append(image.convert(mode))
    return frames


@pytest.mark.parametrize("disposal", [0, 1])
@pytest.mark.parametrize(("kind", "mode"), [("gif", "P"), ("gif", "RGB"), ("png", "RGB"), ("webp", "RGB")])
def test_frames_are_composed_as_they_are_shown(kind: str, mode: str, disposal: int, tmp_path: Path) -> None:
    first, *others = boxes(mode)
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {"disposal": disposal}
    path = saved(tmp_path / f"a.{kind}", first, save_all=True, append_images=others, duration=40, **options)
    expected = np.stack([np.asarray(image.convert("RGB")) for image in boxes(mode)])
    assert np.array_equal(read_frames(path), expected)
    assert (VideoFile(path).count, VideoFile(path).fps) == (5, 25)
    assert kind == "webp" or np.array_equal(shown(path), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_frames_that_leave_the_canvas_clear_are_refused(mode: str, tmp_path: Path) -> None:
    first, *others = boxes(mode)
    options: dict[str, Any] = {"save_all": True, "append_images": others, "duration": 40, "disposal": 2}
    path = saved(tmp_path / "a.png", first, **options)  # the frame before the first is a clear canvas
    with pytest.raises(ValueError, match=r"a\.png with transparent pixels"):
        read_frames(path)
    small = saved(tmp_path / "small.gif", first, **options)
    larger = bytearray(small.read_bytes())
    larger[6:8] = (64).to_bytes(2, "little")  # the canvas, of which no frame covers the right
    (tmp_path / "larger.gif").write_bytes(larger)
    with pytest.raises(ValueError, match=r"larger\.gif with transparent pixels"):
        read_frames(tmp_path / "larger.gif")
    assert len(read_frames(small)) == 5


@pytest.mark.parametrize("kind", ["gif", "apng"])
def test_what_ffmpeg_writes_is_what_ffmpeg_reads(kind: str, tmp_path: Path) -> None:
    path = write_with_ffmpeg(tmp_path / f"a.{kind}", *(("-plays", "0") if kind == "apng" else ()))
    assert np.array_equal(read_frames(path), shown(path)) and VideoFile(path).fps == 25


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_frames_shown_for_different_times_are_refused(kind: str, tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, noise(5))
    options = {"save_all": True, "append_images": others}
    last = saved(tmp_path / f"last.{kind}", first, duration=[40, 40, 40, 40, 1000], **options)
    assert VideoFile(last).fps == 25, "the last frame may stay"
    held = saved(tmp_path / f"held.{kind}", first, duration=[40, 40, 120, 40, 40], **options)
    for read in (read_frames, lambda path: VideoFile(path).fps, lambda path: VideoFile(path).count):
        with pytest.raises(ValueError, match=rf"held\.{kind}, whose frames are shown for 40 to 120 ms"):
            read(held)
    unstated = saved(tmp_path / f"unstated.{kind}", first, duration=0, **options)
    assert VideoFile(unstated).fps is None and VideoFile(unstated).count == 5


def test_thirty_a_second_in_hundredths_is_even(tmp_path: Path) -> None:
    path = write_with_ffmpeg(tmp_path / "thirty.gif", count=15, rate=30)
    assert VideoFile(path).fps == pytest.approx(30, rel=0.02) and len(read_frames(path)) == 15


def test_a_still_for_others_is_no_frame_of_an_animation(tmp_path: Path) -> None:
    cover, *frames = map(Image.fromarray, noise(4))
    options = {"save_all": True, "append_images": frames, "duration": 40}
    path = saved(tmp_path / "a.png", cover, default_image=True, **options)
    assert np.array_equal(read_frames(path), noise(4)[1:]) and VideoFile(path).count == 3
    assert np.array_equal(shown(path), noise(4)[1:])


def test_an_animated_image_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, noise(6))
    for kind in ("gif", "png", "webp"):
        whole = saved(tmp_path / f"a.{kind}", first, save_all=True, append_images=others, duration=40).read_bytes()
        assert len(read_frames(tmp_path / f"a.{kind}")) == 6
        cuts = (
            {len(whole) * share // 50 for share in range(1, 50)} | {whole.rindex(b"\x21\xf9")}
            if kind == "gif"
            else {len(whole) * share // 50 for share in range(1, 50)}
        )
        for cut in cuts:  # among them one between two frames, which Pillow takes for the end
            (tmp_path / f"cut.{kind}").write_bytes(whole[:cut])
            with pytest.raises(ValueError, match=rf"cut\.{kind}, which (is truncated|cannot be read)"):
                read_frames(tmp_path / f"cut.{kind}")


def test_orientation_of_every_frame(tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, noise(3))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path / "a.webp", first, save_all=True, append_images=others, exif=exif, lossless=True, duration=40)
    assert np.array_equal(read_frames(path), np.rot90(noise(3), -1, axes=(1, 2)))
