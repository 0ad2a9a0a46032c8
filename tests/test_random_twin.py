"""A random twin has the class, config and dtypes of a model and nothing that it learned; nothing in it is silent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from saved_pipelines import saved
from small_models import SMALL, WAN, build
from small_pipelines import experts, noise
from torch import Tensor, nn

from dit_lens import DiTLens, models
from dit_lens.conditioning import Conditioning
from dit_lens.inversion.prompts import CACHE
from dit_lens.models.fresh import fresh_transformer
from dit_lens.running import HookedTransformer
from dit_lens.toy.mini_wan import new_transformer

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("saved") / "model")


def load(name: Any, **options: Any) -> DiTLens:
    return DiTLens.from_pretrained(name, verify=False, **options)


def equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("seed", [0, 3])
def test_that_of_mini_wan_is_mini_wan_random_to_the_bit(seed: int) -> None:
    twin, named = load("mini-wan", weights="random", seed=seed), load("mini-wan-random", seed=seed)
    assert equal(twin.transformer, new_transformer(seed)) and equal(named.transformer, new_transformer(seed))
    assert not equal(twin.transformer, load("mini-wan").transformer)
    assert (twin.name, named.name) == ("mini-wan@random", "mini-wan-random")
    assert load("mini-wan@random").name == "mini-wan@random" and equal(twin.vae, load("mini-wan").vae)
    assert twin.conditioning.hash == load("mini-wan").conditioning.hash


def test_trained_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    whole = load(f"{copy}@random", seed=1)
    (copy / "transformer" / WEIGHTS).write_bytes(b"no weights at all")
    assert equal(load(copy, weights="random", seed=1).transformer, whole.transformer)
    (copy / "transformer" / WEIGHTS).unlink()
    twin = load(f"{copy}@random", seed=1)
    assert equal(twin.transformer, whole.transformer) and twin.name == f"{copy}@random"
    assert not equal(load(f"{copy}@random", seed=2).transformer, whole.transformer)
    assert twin.invert(noise(), 2, "euler").latents[-1].isfinite().all()
    with pytest.raises(ValueError, match=f"got {copy / 'transformer' / WEIGHTS}, which is missing"):
        load(copy)


def test_experts_have_twins_of_their_own(tmp_path: Path) -> None:
    experts().save_pretrained(tmp_path / "model")
    conditioning = Conditioning({"encoder_hidden_states": torch.zeros(1, 3, 16)})
    lens = load(tmp_path / "model", weights="random", conditioning=conditioning)
    high, low = (member.transformer for member in lens.model.members)
    assert not equal(high, low)


def test_dtypes_are_those_that_loading_gives(folder: Path) -> None:
    twin = load(folder, weights="random", dtype="bfloat16").transformer
    stock = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", dtype=torch.bfloat16)
    dtypes, expected = ({n: t.dtype for n, t in model.state_dict().items()} for model in (twin, stock))
    assert dtypes == expected and {*dtypes.values()} == {torch.bfloat16, torch.float32}


def test_the_global_random_state_stays(folder: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    load(folder, weights="random")
    assert torch.equal(torch.get_rng_state(), state) and not torch.are_deterministic_algorithms_enabled()


def velocity(transformer: Any) -> Tensor:
    model = HookedTransformer(transformer, "small")
    latent, tensors = model.family.example(transformer, torch.Generator().manual_seed(0))
    return model.velocity(model.evaluation(latent, model.family.to_timestep(0.5), Conditioning(tensors)))


@pytest.mark.parametrize("name", SMALL)
def test_every_family_has_a_twin_that_says_something(name: str) -> None:
    stock = build(name)
    twin, again, different = (fresh_transformer(type(stock), stock.config, seed, torch.float32) for seed in (0, 0, 1))
    assert type(twin) is type(stock) and twin.config == stock.config
    assert equal(twin, again) and not equal(twin, different)
    output = velocity(twin)
    assert output.isfinite().all() and output.abs().max() > 1e-4
    assert all(parameter.any() for parameter in twin.parameters() if parameter.ndim > 1)


class Silent(WanTransformer3DModel):
    """A class that leaves its last projection at zero, and a table uninitialised."""

    def __init__(self):
        super().__init__(**WAN)
        nn.init.zeros_(self.proj_out.weight)
        self.scale_shift_table = nn.Parameter(torch.empty(1, 2, self.scale_shift_table.shape[-1]))


def test_what_a_class_leaves_at_zero_or_uninitialised_is_drawn() -> None:
    assert not Silent().proj_out.weight.any()
    twin, again = (fresh_transformer(Silent, {}, 0, torch.float32) for _ in range(2))
    assert twin.proj_out.weight.std() > 0.05 and equal(twin, again)
    assert twin.scale_shift_table.isfinite().all() and twin.scale_shift_table.any()
    assert velocity(twin).abs().max() > 1e-4


def test_random_weights_have_no_steps_of_training() -> None:
    with pytest.raises(ValueError, match="got random weights together with @step500"):
        load("mini-wan@step500", weights="random")


def test_a_name_is_taken_apart() -> None:
    split = models.split_name
    assert split("mini-wan@step500") == models.ModelName("mini-wan", 500)
    assert split("owner/name@random") == models.ModelName("owner/name", random=True)
    assert split("mini-wan-random") == split("mini-wan-random@random") == models.ModelName("mini-wan", random=True)
    assert split("owner/name") == models.ModelName("owner/name")
