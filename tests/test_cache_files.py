"""A cache comes back from its file bit for bit, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch

from dit_lens import tensor_file
from dit_lens.axes import TokenGrid
from dit_lens.cache import ActivationCache
from dit_lens.lens import DiTLens

GRID = TokenGrid(frames=2, rows=3, columns=4)


def handmade(steps: tuple[int, ...] | None) -> ActivationCache:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, 24, 5), generator=generator)
    tensors = {
        "hook_velocity": x,  # not in the order of the alphabet
        "blocks.1.attn.hook_z": x.bfloat16(),
        "blocks.0.hook_resid_post": x.half(),
        "blocks.0.attn.hook_pattern": x.double(),
        "blocks.10.hook_mlp_out": torch.tensor(float("nan")).expand(2, 3).to(torch.bfloat16),
        "hook_embed": x.transpose(1, 2),
    }
    return ActivationCache(tensors, GRID, 11, steps, {"blocks.1.attn.hook_z": "b n k e"})


@pytest.mark.parametrize("steps", [None, (3, 7)])
def test_every_bit_comes_back(tmp_path: Path, steps: tuple[int, ...] | None) -> None:
    cache = handmade(steps)
    again = ActivationCache.open(cache.save(tmp_path / "cache.h5"))
    assert list(again) == list(cache)
    for name in cache:
        assert again[name].dtype == cache[name].dtype
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[cache[name].element_size()]
        assert torch.equal(again[name].view(bits), cache[name].contiguous().view(bits)), name
    assert (again.grid_shape, again.blocks, again.steps, again.axes) == (GRID, 11, steps, cache.axes)


def test_a_cache_of_more_names_than_an_attribute_holds(tmp_path: Path) -> None:
    names = [f"blocks.{block}.cross_attn.hook_{'x' * 40}_{i}" for block in range(60) for i in range(30)]
    cache = ActivationCache({name: torch.zeros(1) for name in names}, GRID, 60, axes=dict.fromkeys(names, "b"))
    again = ActivationCache.open(cache.save(tmp_path / "cache.h5"))
    assert list(again) == names and again.axes == cache.axes


def test_with_weights_it_is_decomposed_as_before(tmp_path: Path, lens: DiTLens, generator: torch.Generator) -> None:
    latent = torch.randn(2, 16, 5, 8, 8, generator=generator)
    _, cache = lens.run_with_cache(latent=latent, timestep=500.0)
    path, direction = cache.save(tmp_path / "cache.h5"), torch.randn(128, generator=generator)
    again = ActivationCache.open(path, lens.anatomy)
    assert again.attribute_to(direction).identical(cache.attribute_to(direction))
    with pytest.raises(ValueError, match="got a cache without weights"):
        ActivationCache.open(path).attribute_to(direction)


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = handmade(None).save(tmp_path / "cache.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"got .*cache\.h5, which cannot be read .* · expected a dit_lens activations"):
        ActivationCache.open(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    tensor_file.write(tmp_path / "other.h5", "dit_lens trajectory", {"latents": torch.zeros(2)}, {})
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["hook_embed"] = [1.0]
    (tmp_path / "text.h5").write_text("activations")
    for name in ("other.h5", "bare.h5", "text.h5"):
        with pytest.raises(ValueError, match="expected a dit_lens activations"):
            ActivationCache.open(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"got .*none\.h5"):
        ActivationCache.open(tmp_path / "none.h5")


def test_a_failed_save_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    cache = handmade(None)
    path = cache.save(tmp_path / "cache.h5")
    before = path.read_bytes()
    unknown = ActivationCache({"hook_embed": torch.zeros(3, dtype=torch.float8_e4m3fn)}, GRID, 1)
    with pytest.raises(TypeError):
        unknown.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
