"""Capture and noising: crossed where they should be, equal to single evaluations."""

from __future__ import annotations

import pytest
import torch

from dit_lens import datasets
from dit_lens.capture import Route, capture_pooled, role_major, spliced_noise, travel
from dit_lens.lens import DiTLens

QUADRUPLETS = list(datasets.load("miniphys", split="test", quadruplets=3))


def test_noised_latents_of_a_quadruplet_are_crossed_at_every_step(lens: DiTLens) -> None:
    path = travel(lens, QUADRUPLETS, Route("noising", levels=6))
    a, b, c, d = path.latents.unflatten(1, (4, 3)).double().unbind(1)
    torch.testing.assert_close(a + b, c + d, rtol=0, atol=1e-5)
    assert (a - c).abs().max() > 1


def test_the_noise_of_a_quadruplet_does_not_depend_on_its_neighbours(lens: DiTLens) -> None:
    latents = lens.encode(role_major(QUADRUPLETS))
    together = spliced_noise(latents, QUADRUPLETS, 0).unflatten(0, (4, 3))[:, 1]
    alone = spliced_noise(lens.encode(role_major(QUADRUPLETS[1:2])), QUADRUPLETS[1:2], 0)
    assert torch.equal(together, alone)
    assert not torch.equal(alone, spliced_noise(latents[:4], QUADRUPLETS[1:2], 1))


def test_pooled_capture_equals_single_evaluations(lens: DiTLens) -> None:
    seen = capture_pooled(lens, QUADRUPLETS, [1, 3], Route(levels=4), batch_size=2)
    path = lens.invert(QUADRUPLETS[2].clips, steps=4, solver="euler")
    _, cache = lens.run_with_cache(path, step=3, names_filter="blocks.5.hook_resid_post")
    captured = torch.from_numpy(seen.activation.isel(quadruplet=2).sel(step=3, block=5).values)
    torch.testing.assert_close(captured, cache["resid_post", 5].mean(1), rtol=0, atol=1e-5)
    fed = torch.from_numpy(seen.latent.isel(quadruplet=2).sel(step=3).values)
    torch.testing.assert_close(fed, path.latent(3).flatten(1), rtol=0, atol=1e-5)
    assert seen.possible.isel(quadruplet=0).values.tolist() == [True, True, False, False]


def test_a_continuation_gives_the_first_half_clean_and_says_so(lens: DiTLens) -> None:
    route = Route("continuation", levels=4)
    seen = capture_pooled(lens, QUADRUPLETS, [1, 3], route, pooling="frames", batch_size=2)
    clean = lens.encode(role_major(QUADRUPLETS))
    noise = spliced_noise(clean, QUADRUPLETS, 0)
    sigma, cut = lens.schedule(4).sigmas[3], 3
    latent = clean.clone()
    latent[:, :, cut:] = (1 - sigma) * clean[:, :, cut:] + sigma * noise[:, :, cut:]
    fed = torch.from_numpy(seen.latent.sel(step=3).values).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(fed, latent.flatten(1), rtol=0, atol=1e-6)
    time = torch.zeros(12, 5, 16)
    time[:, cut:] = 1000 * sigma
    _, cache = lens.run_with_cache(latent=latent, timestep=time.flatten(1), names_filter="blocks.2.hook_resid_post")
    by_frame = cache.grid("resid_post", 2).mean((2, 3)).flatten(1)
    captured = torch.from_numpy(seen.activation.sel(step=3, block=2).values).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(captured, by_frame, rtol=0, atol=1e-5)
    told_otherwise = lens.run_with_cache(
        latent=latent, timestep=1000 * sigma, names_filter="blocks.2.hook_resid_post"
    )[1].grid("resid_post", 2).mean((2, 3)).flatten(1)  # fmt: skip
    assert (captured - told_otherwise).abs().max() > 1e-3


def test_unknown_path_is_refused(lens: DiTLens) -> None:
    with pytest.raises(ValueError, match="inversion"):
        travel(lens, QUADRUPLETS, Route("inversoin"))  # pyright: ignore[reportArgumentType]
