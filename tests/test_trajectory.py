"""Schedules are the scheduler's own, reversed; trajectories refuse steps they do not have, and come back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from dit_lens import tensor_file
from dit_lens.conditioning import Conditioning
from dit_lens.flow import Solver, Step
from dit_lens.trajectory import Schedule, Trajectory, record_of

SCHEDULERS: dict[str, Any] = {
    "euler": FlowMatchEulerDiscreteScheduler(shift=1.0),
    "euler, shifted": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "euler, Karras": FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    "unipc": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}
# As the LTX and Flux-like schedulers are set: shifted by the size of the latent, the last level stretched to 0.1.
BY_SIZE = FlowMatchEulerDiscreteScheduler(
    use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1, time_shift_type="exponential"
)


def from_noise(steps: int) -> list[float]:
    """What a pipeline hands to a scheduler that shifts it: 1 down to 1 / steps."""
    return np.linspace(1.0, 1 / steps, steps).tolist()


def trajectory(reached: int = 4, text: int = 1) -> Trajectory:
    levels = tuple(i / 4 for i in range(5))
    return Trajectory(
        latents=torch.arange(reached + 1.0).view(-1, 1, 1, 1, 1, 1) + torch.zeros(1, 3, 2, 1, 1, 1),
        schedule=Schedule(levels, tuple(1000 * level for level in levels)),
        conditioning=Conditioning({"encoder_hidden_states": torch.arange(float(text)).view(-1, 1, 1)}),
        solver=Solver("implicit_euler", sigma_min=0.01),
        direction="invert",
        clip_ids=("a", "b", "c"),
        record=record(reached),
        facts={"model": "by hand"},
    )


def record(reached: int) -> xr.Dataset:
    """Of three clips, of which the last one does not converge in step 2."""
    first = Step(torch.zeros(3, 1, 1, 1, 1))
    converged = [torch.tensor([True, True, step != 2]) for step in range(1, reached + 1)]
    steps = [Step(first.x, (step / 4,) * 5, torch.full((3,), 0.5**step), ok) for step, ok in enumerate(converged, 1)]
    return record_of([first, *steps], Schedule((0, 0.25, 0.5, 0.75, 1), (0, 250, 500, 750, 1000)), 0)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_a_schedule_is_the_schedulers_own_reversed(name: str, steps: int) -> None:
    scheduler = SCHEDULERS[name]
    schedule = Schedule.from_scheduler(scheduler, steps)
    reference = type(scheduler).from_config(scheduler.config)
    reference.set_timesteps(steps)
    assert len(schedule) == steps
    assert schedule.sigmas == tuple(reference.sigmas.tolist()[::-1])
    assert schedule.timesteps == (0.0, *(float(t) for t in reversed(reference.timesteps)))
    assert schedule.sigmas[0] == 0.0
    assert all(low < high for low, high in zip(schedule.sigmas, schedule.sigmas[1:], strict=False))


def test_schedulers_give_different_levels() -> None:
    schedules = [Schedule.from_scheduler(scheduler, 10) for scheduler in SCHEDULERS.values()]
    schedules += [Schedule.from_scheduler(BY_SIZE, 10, sigmas=from_noise(10), mu=mu) for mu in (0.95, 2.05)]
    assert len({schedule.sigmas for schedule in schedules}) == 6


@pytest.mark.parametrize("mu", [0.95, 1.3])
@pytest.mark.parametrize("steps", [2, 10, 50])
def test_levels_that_depend_on_the_size_are_the_schedulers_own(mu: float, steps: int) -> None:
    reference = FlowMatchEulerDiscreteScheduler.from_config(BY_SIZE.config)
    reference.set_timesteps(sigmas=from_noise(steps), mu=mu)
    schedule = Schedule.from_scheduler(BY_SIZE, steps, sigmas=from_noise(steps), mu=mu)
    assert schedule.sigmas == tuple(reference.sigmas.tolist()[::-1]) and schedule.sigmas[1] == pytest.approx(0.1)
    assert schedule.timesteps == (0.0, *reference.timesteps.tolist()[::-1])


def test_levels_that_are_shifted_again_are_others() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    once = Schedule.from_scheduler(scheduler, 10, sigmas=from_noise(10))
    twice = Schedule.from_scheduler(scheduler, 10, sigmas=list(once.sigmas[:0:-1]))
    assert once.sigmas[5] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert twice.sigmas[5] > once.sigmas[5] + 0.1


def test_a_scheduler_that_counts_from_data_is_turned_round() -> None:
    rising = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    schedule = Schedule.from_scheduler(rising, 4, sigmas=from_noise(4))
    assert schedule.sigmas == pytest.approx((0, 0.25, 0.5, 0.75, 1))
    assert schedule.timesteps[1:] == pytest.approx((750, 500, 250, 0))


def test_a_scheduler_that_shifts_by_size_must_be_told_how_far() -> None:
    with pytest.raises(ValueError, match=r"got no mu for a FlowMatchEuler.* lens\.schedule\(steps, mu="):
        Schedule.from_scheduler(BY_SIZE, 10)


@pytest.mark.parametrize("sigmas", [(0.0, 0.5, 0.5), (0.1, 0.5), (0.0, 1.5), (0.0,), (), (1.0, 0.5, 0.0)])
def test_levels_that_do_not_rise_from_data_to_noise_are_refused(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected one at each of several levels that rise"):
        Schedule(sigmas, sigmas)
    with pytest.raises(ValueError, match="got 1 timesteps"):
        Schedule((0.0, 1.0), (0.0,))


def test_the_pipelines_scheduler_is_left_as_it_was() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    before = scheduler.sigmas.clone()
    Schedule.from_scheduler(scheduler, 20)
    assert torch.equal(scheduler.sigmas, before)


def test_a_schedule_of_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="got steps=0 · expected at least 1"):
        Schedule.from_scheduler(SCHEDULERS["euler"], 0)


def test_the_timestep_on_a_level_is_the_schedulers_and_linear_in_between() -> None:
    schedule = Schedule((0.0, 0.5, 1.0), (0.0, 600.0, 1000.0))
    assert [schedule.timestep(sigma) for sigma in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 300, 600, 800, 1000]


def test_shifted_levels_by_hand_and_as_diffusers_shifts_them() -> None:
    schedule = Schedule((0.0, 0.25, 0.5, 1.0), (0.0, 250.0, 500.0, 1000.0))
    shifted = schedule.shifted(3)
    assert shifted.sigmas == pytest.approx((0, 0.5, 0.75, 1)) and shifted.timesteps == pytest.approx(
        (0, 500, 750, 1000)
    )
    assert shifted.shifted(1 / 3).sigmas == pytest.approx(schedule.sigmas)
    plain, by_diffusers = (
        Schedule.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=s), 10, sigmas=from_noise(10)) for s in (1.0, 3.0)
    )
    assert plain.shifted(3).sigmas == pytest.approx(by_diffusers.sigmas) and plain.shifted(1).sigmas == plain.sigmas
    with pytest.raises(ValueError, match="expected a positive one"):
        schedule.shifted(0)


def test_the_step_at_a_level_is_the_nearest() -> None:
    schedule = trajectory().schedule
    assert [schedule.step_at(sigma) for sigma in (0.0, 0.1, 0.2, 0.5, 0.9, 1.0)] == [0, 0, 1, 2, 4, 4]
    for sigma in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"got sigma={sigma} · expected a noise level"):
            schedule.step_at(sigma)


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_that_is_not_there_is_refused(step: int) -> None:
    whole = trajectory()
    assert [whole.schedule.check_step(i) for i in range(5)] == [0, 1, 2, 3, 4]
    for ask in (whole.schedule.check_step, whole.latent):
        with pytest.raises(IndexError, match=rf"got step {step} · expected 0 \(data\) to 4 \(noise\)"):
            ask(step)


def test_the_latent_of_a_step_counts_from_data() -> None:
    assert [trajectory().latent(step).unique().tolist() for step in (0, 3, 4)] == [[0], [3], [4]]


def test_an_inversion_that_was_stopped_says_where() -> None:
    stopped = trajectory(reached=2)
    assert stopped.latent(2).unique().tolist() == [2]
    with pytest.raises(IndexError, match=r"got step 3 · expected at most 2, where .* stopped .* `until`"):
        stopped.latent(3)


def test_a_slice_takes_clips_with_their_ids_at_all_steps() -> None:
    whole = trajectory()
    part = whole[1:]
    assert len(whole) == 3 and len(part) == 2
    assert part.clip_ids == ("b", "c")
    assert part.latents.shape == (5, 2, 2, 1, 1, 1)
    assert part.solver is whole.solver and part.direction == "invert" and part.schedule is whole.schedule
    assert part.record.converged.sel(step=2).values.tolist() == [True, False]


def test_a_slice_takes_the_conditioning_of_its_clips() -> None:
    shared, separate = trajectory(text=1)[1:], trajectory(text=3)[1:]
    assert shared.conditioning.tensors["encoder_hidden_states"].flatten().tolist() == [0]
    assert separate.conditioning.tensors["encoder_hidden_states"].flatten().tolist() == [1, 2]


def test_a_single_clip_is_asked_for_by_a_slice() -> None:
    with pytest.raises(TypeError, match=r"got 1 · expected a slice of clips, such as traj\[:1\]"):
        _ = trajectory()[1]  # type: ignore[index]


def test_a_record_says_how_each_step_went() -> None:
    record = trajectory().record
    assert record.evaluations.sum("step").values.tolist() == [20, 20, 20]
    assert np.isnan(record.residual.sel(step=0)).all() and record.residual.sel(step=3).values.tolist() == [0.125] * 3
    assert record.fed_timestep.values[1:].tolist() == [250, 500, 750, 1000]


def test_the_record_of_a_sampler_lies_in_steps_from_data() -> None:
    steps = [Step(torch.zeros(1, 1, 1, 1, 1)), *(Step(torch.zeros(1, 1, 1, 1, 1), (level,)) for level in (1.0, 0.5))]
    record = record_of(steps, Schedule((0, 0.5, 1), (0, 600, 1000)), 2)
    assert record.step.values.tolist() == [0, 1, 2] and record.evaluations.values.ravel().tolist() == [1, 1, 0]
    assert record.fed_timestep.values[:2].tolist() == [600, 1000] and record.converged.all()


def test_a_step_that_is_not_solved_shows() -> None:
    assert "NOT CONVERGED at steps [2]" in repr(trajectory())
    assert "NOT CONVERGED" not in repr(trajectory()[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_trajectory_comes_back_from_disk_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = trajectory(text=3)
    latents = torch.randn(5, 3, 2, 1, 1, 1, dtype=dtype)
    latents[0, 0, 0] = torch.nan
    mask = torch.tensor([[True], [False], [True]])
    conditioning = Conditioning(
        {**whole.conditioning.tensors, "mask": mask, "half": torch.randn(3, 2).bfloat16()}, "a ball"
    )
    kept = Trajectory(
        latents,
        whole.schedule,
        conditioning,
        whole.solver,
        "invert",
        whole.clip_ids,
        whole.record,
        {"model": "by hand"},
    )
    again = Trajectory.open(kept.save(tmp_path / "path.h5"))
    assert again.latents.dtype == dtype and again.latents.shape == latents.shape
    bits = torch.uint8
    assert torch.equal(again.latents.view(bits), latents.view(bits))
    assert again.conditioning.hash == conditioning.hash and again.conditioning.prompt == "a ball"
    assert all(torch.equal(again.conditioning.tensors[name], t) for name, t in conditioning.tensors.items())
    assert again.schedule.sigmas == whole.schedule.sigmas and again.schedule.timesteps == whole.schedule.timesteps
    assert (again.solver, again.direction, again.clip_ids) == (whole.solver, "invert", whole.clip_ids)
    xr.testing.assert_identical(again.record, whole.record)
    assert again.facts["model"] == "by hand" and again.facts["versions"]["torch"] == torch.__version__
    assert [file.name for file in tmp_path.iterdir()] == ["path.h5"]


def test_a_path_that_no_solver_made_comes_back_too(tmp_path: Path) -> None:
    plain = Trajectory(
        torch.zeros(3, 1, 1, 1, 1, 1), Schedule((0, 0.5, 1), (0, 1, 2)), Conditioning({}), None, "noising"
    )
    again = Trajectory.open(plain.save(tmp_path / "path.h5"))
    assert again.solver is None and again.record is None and again.clip_ids == ()


def test_a_file_that_is_no_whole_trajectory_is_refused(tmp_path: Path) -> None:
    file = trajectory().save(tmp_path / "path.h5")
    whole = file.read_bytes()
    damaged = bytearray(whole)
    place = whole.index(torch.tensor([3.0] * 6).numpy().tobytes())
    damaged[place] ^= 1
    foreign = tensor_file.write(tmp_path / "other.h5", "something else", {}, {}).read_bytes()
    for content in (whole[: len(whole) // 2], bytes(damaged), foreign, b"not HDF5 at all", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"got .*path.h5, which cannot be read .* expected a dit_lens trajectory"):
            Trajectory.open(file)
    file.write_bytes(whole)
    assert len(Trajectory.open(file)) == 3
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Trajectory.open(tmp_path / "nowhere.h5")


def test_saving_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = trajectory().save(tmp_path / "path.h5")
    before = file.read_bytes()
    with pytest.raises(TypeError):
        tensor_file.write(file, "dit_lens trajectory", {"x": torch.ones(2)}, {"no JSON": object()})
    assert file.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
