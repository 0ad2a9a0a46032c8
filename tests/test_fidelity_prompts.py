"""Fidelity under prompts and precisions: nothing moves under the same, something under another; both ways are told."""

from __future__ import annotations

import pytest
import torch
from small_pipelines import lens_on, noise, text, wan
from torch import Tensor

from dit_lens import Conditioning, DiTLens, fidelity
from dit_lens.conditioning import Conditions, Guidance

TEXT = "encoder_hidden_states"
OTHER = Conditioning({TEXT: text(3)}, "another")


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return lens_on(wan())


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.cat([noise(), noise(1)])


def test_the_same_prompt_moves_nothing_and_another_does(lens: DiTLens, latents: Tensor) -> None:
    path = lens.invert(latents, 3, "heun")
    prompts = {"same": lens.conditioning, "near": fidelity.perturbed(lens.conditioning, 0.01), "other": OTHER}
    table = fidelity.prompt_sensitivity(lens, path, prompts)
    same, near, different = (table.prompt_noise.sel(prompt=name) for name in prompts)
    assert (same == 0).all() and ((near > 0) & (near < different)).all()
    there_and_back = fidelity.round_trip(lens, path)[0]
    assert table.prompt_crossed.sel(prompt="same").values == pytest.approx(there_and_back[0].values, rel=1e-6)
    assert (table.prompt_crossed.sel(prompt="other") > table.prompt_crossed.sel(prompt="same")).all()
    lens_of_other = lens_on(wan(), **OTHER.tensors)
    wanted = fidelity.round_trip(lens_of_other, lens_of_other.invert(latents, 3, "heun"))[0].mean("step")
    assert table.prompt_round_trip.sel(prompt="other").values == pytest.approx(wanted.values)


def test_an_embedding_is_moved_by_what_is_said_and_a_mask_is_not() -> None:
    conditioning = Conditioning({TEXT: text(), "mask": torch.tensor([[True, True, False]])})
    moved = fidelity.perturbed(conditioning, 0.1)
    assert float((moved.tensors[TEXT] - text()).norm() / text().norm()) == pytest.approx(0.1, rel=1e-5)
    assert torch.equal(moved.tensors["mask"], conditioning.tensors["mask"])
    assert (
        fidelity.perturbed(conditioning, 0.1).hash == moved.hash != fidelity.perturbed(conditioning, 0.1, seed=1).hash
    )


def test_a_report_of_a_path_is_under_its_own_prompt_and_guidance(lens: DiTLens, latents: Tensor) -> None:
    away = Guidance(3.0, Conditioning({TEXT: text(7)}))
    path = lens.invert(latents, 3, "heun", prompt=OTHER, guidance=away)
    lens_of_other = lens_on(wan(), **OTHER.tensors)
    same_path = lens_of_other.invert(latents, 3, "heun", guidance=away)
    assert torch.equal(path.latents, same_path.latents)
    assert fidelity.convergence(lens, path).identical(fidelity.convergence(lens_of_other, same_path))
    assert fidelity.round_trip(lens, path)[0].identical(fidelity.round_trip(lens_of_other, same_path)[0])
    start = fidelity.white_noise(2, latents, 0)
    ours = fidelity.known_noise(lens, start, 3, conditions=path.conditions)
    assert ours.identical(
        fidelity.known_noise(lens_of_other, start, 3, conditions=Conditions(lens_of_other.conditioning, away))
    )
    assert not ours.identical(fidelity.known_noise(lens, start, 3))


def test_the_same_precision_drifts_nowhere_and_half_a_little() -> None:
    whole, half = (DiTLens.from_pretrained("mini-wan", verify=False, dtype=d) for d in (torch.float32, torch.bfloat16))
    assert half.facts()["dtype"] == "bfloat16"
    latent = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    path = whole.invert(latent, 2, "euler")
    assert float(fidelity.precision_drift(whole, path)) == 0
    assert 1e-5 < float(fidelity.precision_drift(half, path)) < 0.1
