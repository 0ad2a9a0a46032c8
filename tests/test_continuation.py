"""Continuation: given frames are held and told their level, the others follow the flow; windows slide over pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dit_lens.continuation import Context, Window, continue_frames, frame_velocity, roll_on
from dit_lens.lens import DiTLens

SIGMAS = (1.0, 0.6, 0.3, 0.0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("frames_given", [[0, 1, 2], [2], [1, 4], []])
@pytest.mark.parametrize("level", [0.0, 0.25])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_given_frames_are_held_and_the_others_reach_data(frames_given: list[int], level: float, solver: str) -> None:
    clean, noise = randn(2, 3, 5, 4, 4), randn(2, 3, 5, 4, 4).flip(0)
    mask = torch.tensor([frame in frames_given for frame in range(5)])
    data, levels_fed = torch.full_like(clean, 0.5), []

    def velocity(x: Tensor, levels: Tensor) -> Tensor:  # of the straight path from noise to data
        levels_fed.append(levels)
        held = (1 - level) * clean + level * noise
        assert torch.equal(x[:, :, mask], held[:, :, mask])
        return noise - data

    continued = continue_frames(velocity, Context(clean, mask, level), noise, SIGMAS, solver)
    assert torch.equal(continued[:, :, mask], clean[:, :, mask])
    torch.testing.assert_close(continued[:, :, ~mask], data[:, :, ~mask])
    assert all((levels[mask] == level).all() and len(levels[~mask].unique()) == 1 for levels in levels_fed)
    assert [float(levels[~mask][0]) for levels in levels_fed[:2]] == pytest.approx([1, 0.6])


def test_nothing_given_is_the_sampler_itself(lens: DiTLens) -> None:
    noise = randn(2, 16, 5, 8, 8)
    nothing = Context(torch.zeros_like(noise), torch.zeros(5, dtype=torch.bool))
    continued = continue_frames(frame_velocity(lens), nothing, noise, lens.schedule(4).sigmas[::-1])
    assert torch.equal(continued, lens.sample(noise, "euler", steps=4).latent(0))


def test_the_model_is_told_a_time_for_every_frame(lens: DiTLens, monkeypatch: pytest.MonkeyPatch) -> None:
    timesteps: list[Tensor] = []
    run = lens.model.velocity
    monkeypatch.setattr(lens.model, "velocity", lambda e: (timesteps.append(e.inputs["timestep"]), run(e))[1])
    velocity, latent = frame_velocity(lens), randn(2, 16, 5, 8, 8)
    levels = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    by_frame, whole = velocity(latent, levels), velocity(latent, torch.full((5,), 0.5))
    assert timesteps[0].view(2, 5, 16).mean(2).tolist() == [[0, 250, 500, 750, 1000]] * 2
    assert timesteps[1].shape == (2,) and (by_frame - whole).abs().max() > 1e-3


@pytest.mark.parametrize("context", [1, 3, 4])
def test_each_window_begins_with_what_the_last_one_made(
    context: int, lens: DiTLens, videos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[Tensor] = []
    encode = lens.family.encode
    noted = replace(lens.family, encode=lambda vae, video: (fed.append(video), encode(vae, video))[1])
    monkeypatch.setattr(lens, "family", noted)
    rounds = list(roll_on(lens, videos[:2], 3, Window(context, 0.1, 2), torch.Generator().manual_seed(0)))
    whole = torch.cat([videos[:2], *(video for _, video in rounds)], 2)
    length, new = 4 * context - 3, 4 * (5 - context)
    assert all(z.shape == (2, 16, 5 - context, 8, 8) and video.shape[2] == new for z, video in rounds)
    for number, video in enumerate(fed[1:]):
        end = videos.shape[2] + number * new
        if length <= new or not number:
            assert torch.equal(video, whole[:, :, end - length : end])


@pytest.mark.parametrize(("mask", "level"), [([1] * 5, 0.0), ([1] * 4, 0.0), ([1, 0, 0, 0, 0], 1.0)])
def test_a_context_that_leaves_nothing_to_do_is_refused(mask: list[int], level: float) -> None:
    with pytest.raises(ValueError, match=r"expected fewer than all of 5 frames, sigma in \[0, 1\)"):
        Context(randn(1, 3, 5, 4, 4), torch.tensor(mask, dtype=torch.bool), level)


def test_a_window_all_context_is_refused(lens: DiTLens, videos: Tensor) -> None:
    with pytest.raises(ValueError, match="expected 1 to 4"):
        next(roll_on(lens, videos[:1], 1, Window(5), torch.Generator()))
