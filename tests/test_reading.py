"""Clips from files: what is read is what was written, and what is missing is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_lens.reading import evenly, fit, read_frames


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)


def test_a_folder_of_frames_is_read_in_the_order_of_names(frames: np.ndarray, tmp_path: Path) -> None:
    for i, frame in enumerate(frames):
        Image.fromarray(frame).convert("RGBA").save(tmp_path / f"scene_{i:03d}.png")
    (tmp_path / "._scene_000.png").write_bytes(b"what macOS leaves")
    (tmp_path / "status.json").write_text("{}")
    assert np.array_equal(read_frames(tmp_path), frames)


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
