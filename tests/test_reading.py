"""Clips from files: what is read is what was written, and what is missing is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import noise, write_mp4

from dit_lens.reading import VideoFile, evenly, fit, read_frames


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)


def test_a_folder_of_frames_is_read_in_the_order_of_names(frames: np.ndarray, tmp_path: Path) -> None:
    for i, frame in enumerate(frames):
        Image.fromarray(frame).convert("RGBA").save(tmp_path / f"scene_{i:03d}.png")
    (tmp_path / "._scene_000.png").write_bytes(b"what macOS leaves")
    (tmp_path / "status.json").write_text("{}")
    assert np.array_equal(read_frames(tmp_path), frames)


@pytest.mark.parametrize("name", ["{}.png", "scene_{:03}.png", "take 2 frame {}.png", "{:04}_rgb.png"])
@pytest.mark.parametrize("start", [0, 1, 95])
def test_frames_of_a_folder_are_in_the_order_of_their_numbers(
    frames: np.ndarray, name: str, start: int, tmp_path: Path
) -> None:
    for number, frame in enumerate(frames, start=start):
        Image.fromarray(frame).save(tmp_path / name.format(number))
    video = VideoFile(tmp_path)
    assert video.count == 12 and np.array_equal(video.read(), frames)
    assert np.array_equal(video.read([11, 2]), frames[[11, 2]])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("1.png", "2.png", "4.png"), r"without number 3, between 1\.png and 4\.png"),
        (("1.png", "01.png"), r"1\.png and 01\.png, both with number 1"),
        (("1.png", "1.jpg"), r"1\.png beside 1\.jpg"),
        (("rgb_1.png", "depth_1.png", "rgb_2.png"), r"rgb_1\.png beside depth_1\.png"),
        (("1_rgb.png", "1_mask.png"), r"1_rgb\.png beside 1_mask\.png"),
        (("1.png", "2.png", "2 (1).png"), r"2 \(1\)\.png beside 1\.png"),
        (("1.png", "2.png", "preview.png"), r"preview\.png, without a number"),
    ],
)
def test_images_that_are_no_single_run_are_refused_by_name(
    names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    for read in (read_frames, lambda path: VideoFile(path).count):
        with pytest.raises(ValueError, match=rf"{message}.* expected one numbered run of frames"):
            read(tmp_path)


def test_a_single_image_needs_no_number(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "still.png")
    assert read_frames(tmp_path).shape == (1, 4, 4, 3)


def test_an_animated_image_gives_all_its_frames(tmp_path: Path) -> None:
    grey = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 48).reshape(5, 4, 4, 3)
    first, *others = map(Image.fromarray, grey)
    for kind in ("gif", "png"):
        first.save(tmp_path / f"clip.{kind}", save_all=True, append_images=others)
        assert np.array_equal(read_frames(tmp_path / f"clip.{kind}"), grey)


def test_what_is_no_clip_is_told(frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_frames(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected frames of one size"):
        read_frames(tmp_path)
    Image.fromarray(frames[0]).save(tmp_path / "0.png")
    Image.fromarray(frames[1][:3]).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"sizes \[\(3, 8, 3\), \(6, 8, 3\)\]"):
        read_frames(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1\.png, which cannot be read"):
        read_frames(tmp_path)


def test_fitting_by_hand() -> None:
    wide = np.zeros((1, 4, 8, 3), np.uint8)
    wide[:, :, 2:6] = 200
    assert (fit(wide, 2, 2) == 200).all()
    boxed = fit(wide, 4, 4, "letterbox")
    assert (boxed[:, [0, 3]] == 0).all() and (boxed[:, 1:3, 1:3] == 200).all() and (boxed[:, 1:3, [0, 3]] == 0).all()
    four = np.array([[[0, 40], [80, 120]]], np.uint8)[..., None].repeat(3, -1)
    assert (fit(four, 1, 1) == 60).all()
    with pytest.raises(ValueError, match="did you mean 'crop'"):
        fit(wide, 2, 2, "corp")


def test_frames_at_even_distances_are_never_repeated(frames: np.ndarray) -> None:
    assert np.array_equal(evenly(frames, 12), frames)
    assert np.array_equal(evenly(frames, 3), frames[[0, 6, 11]])
    with pytest.raises(ValueError, match="got 12 frames · expected at least 13"):
        evenly(frames, 13)


# Video files.


def test_a_video_file_gives_the_frames_that_were_written(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = noise(7)
    video = VideoFile(write_mp4(tmp_path / "clip.mp4", frames, fps=50))
    assert (video.count, video.fps) == (7, 50)
    assert np.array_equal(read_frames(video.path), frames)
    assert np.array_equal(video.read([6, 2, 2]), frames[[6, 2, 2]])
    assert np.array_equal(VideoFile(Path("in memory"), video.path.read_bytes()).read(), frames)


def test_a_damaged_video_is_told_by_name(tmp_path: Path) -> None:
    pytest.importorskip("av")
    whole = write_mp4(tmp_path / "clip.mp4", noise(7)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.mp4").write_bytes(b"")
    quarter = len(whole) // 4
    (tmp_path / "hole.mp4").write_bytes(whole[:quarter] + bytes(quarter) + whole[2 * quarter :])
    assert len(read_frames(tmp_path / "clip.mp4")) == 7
    for name in ("cut", "none", "hole"):
        with pytest.raises(ValueError, match=rf"{name}\.mp4"):
            read_frames(tmp_path / f"{name}.mp4")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        read_frames(tmp_path / "nowhere.mp4")


def test_without_the_decoder_a_video_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"clip\.mp4, a video file .* pip install 'dit-lens\[video\]'"):
        read_frames(tmp_path / "clip.mp4")


def test_the_rate_of_an_animated_image_is_its_own(tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, noise(4))
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others, duration=100)
    video = VideoFile(tmp_path / "clip.gif")
    assert (video.count, video.fps) == (4, 10) and len(video.read([3, 0])) == 2
    first.save(tmp_path / "still.png")
    assert VideoFile(tmp_path / "still.png").fps is None


def test_an_animated_image_is_no_frame_of_a_folder(tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, noise(3))
    first.save(tmp_path / "0.png", save_all=True, append_images=others)
    with pytest.raises(ValueError, match=r"0\.png, which is animated"):
        read_frames(tmp_path)
