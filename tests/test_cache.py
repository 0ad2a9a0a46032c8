"""The cache finds activations under full and short names, and puts tokens on their grid."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lens.axes import TokenGrid
from dit_lens.cache import ActivationCache
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens

GRID = TokenGrid(frames=2, rows=3, columns=4)
SHORT = {
    ("z", 1): "blocks.1.attn.hook_z",
    ("q", 0): "blocks.0.attn.hook_q",
    ("z", 1, "cross_attn"): "blocks.1.cross_attn.hook_z",
    ("pre", 0): "blocks.0.mlp.hook_pre",
    ("post", 1): "blocks.1.mlp.hook_post",
    ("resid_pre", 0): "blocks.0.hook_resid_pre",
    ("attn_out", 1): "blocks.1.hook_attn_out",
    ("mlp_out", 1): "blocks.1.hook_mlp_out",
    ("resid_post", -1): "blocks.1.hook_resid_post",
}


def handmade(steps: tuple[int, ...] | None = None) -> ActivationCache:
    shape = (3, GRID.tokens, 5) if steps is None else (len(steps), 3, GRID.tokens, 5)
    names = [*SHORT.values(), "hook_x0", "blocks.0.hook_resid_post"]
    generator = torch.Generator().manual_seed(0)
    return ActivationCache({n: torch.randn(shape, generator=generator) for n in names}, GRID, blocks=2, steps=steps)


@pytest.mark.parametrize(("key", "name"), SHORT.items(), ids=str)
def test_a_short_key_is_the_full_name(key: tuple, name: str) -> None:
    cache = handmade()
    assert cache[key] is cache.tensors[name]
    assert cache[name] is cache.tensors[name]


def test_negative_blocks_count_from_the_end() -> None:
    cache = handmade()
    assert cache["resid_post", -2] is cache["resid_post", 0]
    assert cache["resid_post", -1] is cache["resid_post", 1] is not cache["resid_post", 0]


@pytest.mark.parametrize("block", [2, -3])
def test_a_block_that_is_not_there_is_refused(block: int) -> None:
    with pytest.raises(KeyError, match=f"got block {block} · expected -2 to 1"):
        _ = handmade()["z", block]


def test_a_name_that_was_not_cached_is_told_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"got 'blocks\.0\.attn\.hook_z' .* did you mean 'blocks\.1\.attn\.hook_z'"):
        _ = handmade()["z", 0]


def test_it_is_a_mapping_of_full_names() -> None:
    cache = handmade()
    assert list(cache) == list(cache.tensors) and len(cache) == len(cache.tensors)
    assert "hook_x0" in cache and "hook_velocity" not in cache
    assert dict(cache.items())["hook_x0"] is cache["hook_x0"]
    assert "blocks.1.attn.hook_z: (3, 24, 5)" in repr(cache)


def test_grid_puts_tokens_on_frames_rows_and_columns() -> None:
    cache = handmade()
    on_grid = cache.grid("resid_post", 0)
    assert on_grid.shape == (3, 2, 3, 4, 5)
    assert torch.equal(on_grid[:, 1, 2, 3], cache["resid_post", 0][:, 1 * 12 + 2 * 4 + 3])


def test_grid_keeps_a_leading_step_axis() -> None:
    cache = handmade(steps=(4, 8))
    on_grid = cache.grid("resid_post", -1)
    assert on_grid.shape == (2, 3, 2, 3, 4, 5)
    assert torch.equal(on_grid[1, 2, 1, 2, 3], cache["resid_post", -1][1, 2, 1 * 12 + 2 * 4 + 3])


def test_grid_keeps_heads_behind_the_tokens(generator: torch.Generator) -> None:
    z = torch.randn(3, GRID.tokens, 4, 5, generator=generator)
    cache = ActivationCache({"blocks.0.attn.hook_z": z}, GRID, blocks=1)
    assert torch.equal(cache.grid("z", 0)[:, 0, 1, 2], z[:, 1 * 4 + 2])


def test_every_block_point_of_a_model_has_a_short_key(lens: DiTLens) -> None:
    latent = torch.zeros(1, 16, 5, 8, 8)
    _, cache = lens.run_with_cache(latent=latent, timestep=500.0, names_filter="blocks.*")
    for name in cache:
        _, block, *layer, point = name.split(".")
        key = (point.removeprefix("hook_"), int(block))
        assert (cache[(*key, *layer)] if layer == ["cross_attn"] else cache[key]) is cache[name]
    assert cache.blocks == 6 and cache.grid("resid_post", 5).shape == (1, 5, 4, 4, 128)


def test_stack_activation_puts_blocks_first_and_behind_steps() -> None:
    names = [f"blocks.{block}.cross_attn.hook_z" for block in range(2)]
    for steps, lead in ((None, ()), ((4, 8, 9), (3,))):
        tensors = {name: torch.randn(*lead, 2, 6, 4, 5) for name in names}
        cache = ActivationCache(tensors, GRID, blocks=2, steps=steps)
        stacked = cache.stack_activation("z", "cross_attn")
        assert stacked.shape == (*lead, 2, 2, 6, 4, 5)
        for block in range(2):
            assert torch.equal(stacked.select(len(lead), block), cache["z", block, "cross_attn"])
    with pytest.raises(KeyError, match=r"got 'blocks\.0\.attn\.hook_z'"):
        cache.stack_activation("z")


@pytest.mark.parametrize("steps", [None, (4, 8)])
def test_a_slice_is_the_cache_of_these_clips(steps: tuple[int, ...] | None) -> None:
    cache = handmade(steps)
    some = cache[1:]
    assert isinstance(some, ActivationCache) and some.steps == steps and some.blocks == 2
    for name in cache:
        assert torch.equal(some[name], cache[name][1:] if steps is None else cache[name][:, 1:])
    assert cache.grid("resid_post", 1)[..., 1:, :, :, :, :].equal(some.grid("resid_post", 1))


def test_a_slice_of_what_a_reduction_has_taken_the_clips_of_is_refused() -> None:
    tensors = {"hook_embed": torch.zeros(3, 4, 5), "hook_time_embed": torch.zeros(5)}
    with pytest.raises(ValueError, match=r"got activations of \[3, 5\] clips"):
        _ = ActivationCache(tensors, GRID, blocks=1)[:1]


def test_to_casts_floating_activations_alone() -> None:
    tensors = {"hook_embed": torch.randn(2, 3), "blocks.0.hook_mask": torch.tensor([[True, False]])}
    half = ActivationCache(tensors, GRID, blocks=1).to(torch.bfloat16)
    assert torch.equal(half["hook_embed"], tensors["hook_embed"].bfloat16())
    assert half["blocks.0.hook_mask"].dtype == torch.bool
    assert half.to("meta")["hook_embed"].device.type == "meta"


def test_axes_are_those_of_the_hook_points_and_none_after_a_reduction(lens: DiTLens) -> None:
    latent = torch.zeros(1, 16, 5, 8, 8)
    _, cache = lens.run_with_cache(latent=latent, timestep=500.0, names_filter="blocks.0.*")
    assert cache.axes["blocks.0.attn.hook_z"] == "b n k e" and set(cache.axes) == set(cache)
    _, pooled = lens.run_with_cache(latent=latent, timestep=500.0, names_filter="*_post", reduce=lambda x: x.mean(1))
    assert pooled.axes == {}


def test_a_reduction_may_be_told_of_its_hook(lens: DiTLens) -> None:
    latent = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = {"latent": latent, "timestep": 500.0, "names_filter": ["hook_velocity", "blocks.*.hook_resid_post"]}
    hooks: list[tuple[str, str, float]] = []

    def by_frame(x: Tensor, hook: Hook) -> Tensor:
        hooks.append((hook.name, hook.axes, hook.sigma))
        return x.mean((3, 4)) if hook.name == "hook_velocity" else hook.grid.unflatten(x).mean((2, 3))

    velocity, reduced = lens.run_with_cache(**asked, reduce=by_frame)
    _, whole = lens.run_with_cache(**asked)
    assert velocity is not None and torch.equal(reduced["hook_velocity"], velocity.mean((3, 4)))
    assert torch.equal(reduced["resid_post", 2], whole.grid("resid_post", 2).mean((2, 3)))
    assert [name for name, *_ in hooks] == list(whole) and {sigma for *_, sigma in hooks} == {0.5}
    assert {axes for _, axes, _ in hooks} == {"b c f h w", "b n d"} and not reduced.axes


@pytest.mark.parametrize(
    "reduce", [torch.relu, partial(torch.mean, dim=1), torch.nn.Flatten(), lambda x, d=1: x.sum(d)]
)
def test_a_reduction_of_one_argument_is_given_one(lens: DiTLens, reduce: Any) -> None:
    latent = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = {"latent": latent, "timestep": 500.0, "names_filter": "hook_velocity"}
    velocity, kept = lens.run_with_cache(**asked, reduce=reduce)
    assert torch.equal(kept["hook_velocity"], reduce(velocity))


def test_tokens_dtype_and_device_are_of_what_is_kept(lens: DiTLens) -> None:
    latent = torch.randn(2, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = {
        "latent": latent,
        "timestep": 500.0,
        "names_filter": ["blocks.1.attn.hook_z", "blocks.1.mod.hook_gate_mlp"],
    }
    _, whole = lens.run_with_cache(**arguments)
    part = (slice(1, 3), 0, slice(None))
    _, some = lens.run_with_cache(**arguments, tokens=part, dtype=torch.float64, device="cpu")
    assert torch.equal(some["z", 1], whole.grid("z", 1)[:, 1:3, 0].flatten(1, 2).double())
    assert torch.equal(some["gate_mlp", 1], whole["gate_mlp", 1].double())
    _, pooled = lens.run_with_cache(**arguments, tokens=part, reduce=lambda x: x.mean(1))
    torch.testing.assert_close(pooled["z", 1], some["z", 1].mean(1).float())
    with pytest.raises(ValueError, match="got frame 9 on an axis of 5"):
        lens.run_with_cache(**arguments, tokens=(9, 0, 0))
