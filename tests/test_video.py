"""Frames to tensors and back, and the distance of two videos."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dit_lens.video import psnr, to_frames, to_tensor

LEVELS = np.arange(256, dtype=np.uint8)


def clip(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def test_every_level_survives_the_round_trip() -> None:
    frames = np.broadcast_to(LEVELS[:, None, None, None], (256, 1, 1, 3)).copy()
    assert np.array_equal(to_frames(to_tensor(frames)), frames)


def test_tensors_have_channels_before_frames_and_lie_in_minus_one_to_one() -> None:
    frames = clip()
    video = to_tensor(frames)
    assert video.shape == (3, 5, 4, 6) and video.dtype == torch.float32
    assert video[2, 1, 3, 5] == pytest.approx(frames[1, 3, 5, 2] / 127.5 - 1, abs=1e-6)
    ends = to_tensor(np.array([0, 255], dtype=np.uint8).repeat(3).reshape(2, 1, 1, 3))
    assert ends[:, 0].unique().tolist() == [-1] and ends[:, 1].unique().tolist() == [1]


def test_a_batch_is_its_clips() -> None:
    batch = np.stack([clip(0), clip(1)])
    assert torch.equal(to_tensor(batch)[1], to_tensor(clip(1)))
    assert np.array_equal(to_frames(to_tensor(batch)), batch)


def test_values_outside_the_range_are_clipped_and_not_wrapped() -> None:
    video = torch.tensor([-1.5, 1.5]).view(1, 2, 1, 1).expand(3, 2, 1, 1)
    assert to_frames(video)[:, 0, 0, 0].tolist() == [0, 255]


def test_a_clip_played_backward_converts() -> None:
    frames = clip()
    assert torch.equal(to_tensor(frames[::-1]), to_tensor(frames).flip(1))


def test_read_only_frames_convert() -> None:
    frames = clip()
    frames.setflags(write=False)
    assert torch.equal(to_tensor(frames), to_tensor(clip()))


@pytest.mark.parametrize(
    "frames", [clip().astype(np.float32), clip()[0], clip()[..., :1]], ids=["floats", "one picture", "grey"]
)
def test_anything_but_uint8_rgb_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(F, H, W, 3\)"):
        to_tensor(frames)


def test_psnr_of_a_known_error() -> None:
    reference = torch.zeros(3, 2, 4, 4)
    assert psnr(reference + 0.2, reference).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(reference + 0.02, reference).item() == pytest.approx(40.0, abs=1e-3)
    assert math.isinf(psnr(reference, reference).item())


def test_a_video_that_is_not_finite_is_no_picture() -> None:
    video = torch.zeros(1, 3, 2, 4, 4)
    for unsound in (torch.nan, torch.inf):
        video[0, 1, 0, 2, 3] = unsound
        with pytest.raises(ValueError, match="got a video of which 1 of 96 values are not finite"):
            to_frames(video)
    video[0, 1, 0, 2, 3] = 7
    assert to_frames(video)[0, 0, 2, 3].tolist() == [128, 255, 128]
