"""Steering: nothing at dose 0, dose x SD x |direction| at the readout, nothing along an erased direction, no trace."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads
from dit_lens.steering import Direction, erase, leace, push, steering

WIDTH, POINT, SIGMA = 128, "blocks.2.hook_resid_post", 0.5


@pytest.fixture(scope="module")
def latent() -> Tensor:
    return torch.randn((2, 16, 5, 8, 8), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and groups of 40 clips whose labels lie along the first axis."""
    rng = np.random.default_rng(0)
    possible = np.tile([True, True, False, False], 10)
    x = rng.standard_normal((40, WIDTH))
    x[:, 0] += np.where(possible, 4.0, -4.0)
    return x.astype(np.float32), possible, np.repeat(np.arange(10), 4)


@pytest.fixture(scope="module")
def direction(clips: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Direction:
    return Direction.of_means(clips[0], clips[1])


def velocity(lens: DiTLens, latent: Tensor) -> Tensor:
    result, _ = lens.run_with_cache(latent=latent, timestep=1000 * SIGMA, names_filter=POINT)
    assert result is not None
    return result


def stream(lens: DiTLens, latent: Tensor) -> Tensor:
    return lens.run_with_cache(latent=latent, timestep=1000 * SIGMA, names_filter=POINT)[1][POINT]


def test_dose_0_changes_no_bit(lens: DiTLens, latent: Tensor, direction: Direction) -> None:
    plain, sampled = velocity(lens, latent), lens.sample(latent, solver="euler", steps=3).latents
    with steering(lens, POINT, push(direction, 0.0)):
        assert torch.equal(velocity(lens, latent), plain)
        assert torch.equal(lens.sample(latent, solver="euler", steps=3).latents, sampled)
    with steering(lens, POINT, push(direction, 1.0)):  # the control: another dose does
        assert not torch.equal(velocity(lens, latent), plain)


@pytest.mark.parametrize("dose", [-8.0, 0.5, 4.0])
def test_the_readout_moves_by_dose_times_spread_times_length(
    dose: float, lens: DiTLens, latent: Tensor, clips: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    probe = Probe.fit(*clips, Reads(POINT, 0, SIGMA, lens.name))
    pushed = Direction.of_probe(probe, clips[0])
    before = stream(lens, latent)
    with steering(lens, POINT, push(pushed, dose)):
        after = stream(lens, latent)
    moved = dose * pushed.spread * float(probe.weight.norm())
    assert (probe.of_activation(after) - probe.of_activation(before)).tolist() == pytest.approx([moved] * 2, rel=1e-3)
    assert pushed.project(after).mean(1) - pushed.project(before).mean(1) == pytest.approx(dose, rel=1e-3)


def test_erasing_leaves_the_centre_and_nothing_else_along_the_direction(
    lens: DiTLens, latent: Tensor, direction: Direction
) -> None:
    before = stream(lens, latent)
    with steering(lens, POINT, erase(direction)):
        after = stream(lens, latent)
    assert direction.project(before).std() > 0.01
    assert direction.project(after).abs().max() < 1e-4
    rest = before - (before @ direction.unit)[..., None] * direction.unit
    assert torch.allclose(after - (after @ direction.unit)[..., None] * direction.unit, rest, atol=1e-5)


def test_only_chosen_tokens_move(lens: DiTLens, latent: Tensor, direction: Direction) -> None:
    before = stream(lens, latent)
    with steering(lens, POINT, push(direction, 4.0, tokens=(slice(3, None), slice(None), slice(None)))):
        moved = (stream(lens, latent) - before).norm(dim=-1)
    assert (moved[:, :48] == 0).all() and (moved[:, 48:] > 0).all()


def test_nothing_is_left_behind(lens: DiTLens, latent: Tensor, direction: Direction) -> None:
    plain, (model,) = velocity(lens, latent), lens.model.members
    with steering(lens, POINT, push(direction, 4.0)):
        assert model.active.contexts
        velocity(lens, latent)
    assert not model.active.contexts and torch.equal(velocity(lens, latent), plain)

    def fails(x: Tensor, hook: Hook) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), steering(lens, POINT, [fails]):
        velocity(lens, latent)
    assert not model.active.contexts and torch.equal(velocity(lens, latent), plain)


def test_steps_and_levels_choose_when(lens: DiTLens, latent: Tensor, direction: Direction) -> None:
    plain = lens.sample(latent, solver="euler", steps=4)
    low = plain.schedule.sigmas[2]
    with steering(lens, POINT, push(direction, 4.0), sigmas=(0.0, low)):
        by_level = lens.sample(latent, solver="euler", steps=4).latents
    with steering(lens, POINT, push(direction, 4.0), steps=[1, 2]):
        by_step = lens.sample(latent, solver="euler", steps=4).latents
    assert torch.equal(by_level, by_step)
    assert torch.equal(by_level[2:], plain.latents[2:]) and not torch.equal(by_level[1], plain.latents[1])


def test_a_direction_by_hand(clips: tuple[np.ndarray, np.ndarray, np.ndarray], direction: Direction) -> None:
    x, possible, _ = clips
    assert float(direction.unit[0]) > 0.9 and float(direction.unit.norm()) == pytest.approx(1)
    along = x @ direction.unit.numpy()
    assert direction.spread == pytest.approx(along.std(), rel=1e-5) and along[possible].mean() > along[~possible].mean()
    assert direction.centre == pytest.approx(along.mean(), rel=1e-3)
    random = direction.random(x, 1)
    assert random.spread == direction.spread and abs(float(random.unit @ direction.unit)) < 0.4
    assert float(random.unit.norm()) == pytest.approx(1) and not torch.equal(random.unit, direction.random(x, 2).unit)
    assert random.centre == pytest.approx((x @ random.unit.numpy()).mean(), abs=1e-5)


def test_wrong_input_is_told(
    lens: DiTLens, latent: Tensor, direction: Direction, clips: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    x, _, _ = clips
    for vector in (torch.zeros(WIDTH), torch.ones(3)):
        with pytest.raises(ValueError, match="expected a non-zero vector of that width"):
            Direction.of(vector, x)
    with pytest.raises(ValueError, match="expected some spread"):
        Direction.of(torch.ones(WIDTH), np.ones((4, WIDTH), np.float32))
    with pytest.raises(ValueError, match="possible and impossible"):
        Direction.of_means(x, np.ones(len(x), bool))
    for functions, sigmas in (([], (0.0, 1.0)), (push(direction, 1.0), (0.5, 0.2)), (push(direction, 1.0), (0.0, 2.0))):
        with pytest.raises(ValueError, match="expected one or more"), steering(lens, POINT, functions, sigmas=sigmas):
            pass
    with (
        pytest.raises(RuntimeError, match="expected one or more inside the with block"),
        steering(lens, POINT, push(direction, 1.0), sigmas=(0.9, 1.0)),
    ):
        velocity(lens, latent)


def test_leace_says_what_it_needs(
    clips: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "concept_erasure", None)
    with pytest.raises(ImportError, match="pip install concept-erasure"):
        leace(clips[0], clips[1])


def test_leace_leaves_no_difference_of_means(
    lens: DiTLens, latent: Tensor, clips: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    pytest.importorskip("concept_erasure")
    x, possible, _ = clips
    (erased,) = leace(x, possible)
    hook = Hook(POINT, "b n d", lens.model.grid(lens.model.evaluation(latent, 0.0, lens.conditioning)), None, 0.0)
    left = erased(torch.from_numpy(x)[:, None], hook)
    assert left is not None
    gap = left[possible].mean(0) - left[~possible].mean(0)
    assert gap.norm() < 0.05 * np.linalg.norm(x[possible].mean(0) - x[~possible].mean(0))
