"""The bytes that are told before a run are those of the cache that it makes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dit_lens.cache import CacheCost
from dit_lens.lens import DiTLens


@pytest.fixture
def latent(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 16, 5, 8, 8, generator=generator)


@pytest.mark.parametrize("names", ["*", "blocks.*.attn.hook_z", ["blocks.2.attn.hook_pattern", "hook_velocity"]])
@pytest.mark.parametrize("reduce", [None, lambda x: x.flatten(1).mean(1)])
def test_bytes_are_those_of_the_cache(lens: DiTLens, latent: Tensor, names: str | list[str], reduce) -> None:
    estimate = lens.estimate(latent, names, steps=2, reduce=reduce)
    path = lens.noising(latent, torch.randn_like(latent), steps=10)
    _, whole = lens.run_with_cache(path, steps=[3, 7], names_filter=names)
    _, kept = lens.run_with_cache(path, steps=[3, 7], names_filter=names, reduce=reduce)
    assert estimate.whole_bytes == sum(x.nbytes for x in whole.values())
    assert estimate.kept_bytes == sum(x.nbytes for x in kept.values())
    assert (estimate.kept_bytes < estimate.whole_bytes) == (reduce is not None)
    assert set(estimate.sizes) == set(whole) and (estimate.clips, estimate.steps) == (3, 2)


def test_it_runs_one_clip_and_leaves_nothing(lens: DiTLens, latent: Tensor) -> None:
    ran: list[int] = []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: ran.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    estimate = lens.estimate(latent)
    handle.remove()
    assert ran == [1] and not lens.model.hooked
    assert estimate.seconds_each > 0 and math.isclose(estimate.seconds, 3 * estimate.seconds_each)


def test_it_reads_as_a_sentence() -> None:
    sizes = {"blocks.0.attn.hook_z": (4_000_000, 4_000), "hook_velocity": (1_000_000, 1_000)}
    assert str(CacheCost(sizes, 0.25, clips=16, steps=10, reduced=True)) == (
        "2 points x 16 clips x 10 steps: 800 kB reduced, of 800 MB (largest blocks.0.attn.hook_z, 640 kB), about 40 s"
    )
    whole = {name: (size, size) for name, (size, _) in sizes.items()}
    assert str(CacheCost(whole, 0.25, clips=1, steps=1, reduced=False)) == (
        "2 points x 1 clips x 1 steps: 5 MB (largest blocks.0.attn.hook_z, 4 MB), about 0.25 s"
    )
