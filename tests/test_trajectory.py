"""Schedules are the scheduler's own, reversed; trajectories refuse steps they do not have."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler

from dit_lens.conditioning import Conditioning
from dit_lens.trajectory import Schedule, Trajectory

SCHEDULERS = {
    "euler": FlowMatchEulerDiscreteScheduler(shift=1.0),
    "euler, shifted": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "unipc": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}


def trajectory(reached: int = 4, text: int = 1) -> Trajectory:
    levels = tuple(i / 4 for i in range(5))
    return Trajectory(
        latents=torch.arange(reached + 1.0).view(-1, 1, 1, 1, 1, 1) + torch.zeros(1, 3, 2, 1, 1, 1),
        schedule=Schedule(levels, tuple(1000 * level for level in levels)),
        conditioning=Conditioning({"encoder_hidden_states": torch.arange(float(text)).view(-1, 1, 1)}),
        solver="heun",
        direction="invert",
        clip_ids=("a", "b", "c"),
    )


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_a_schedule_is_the_schedulers_own_reversed(name: str, steps: int) -> None:
    scheduler: SchedulerMixin = SCHEDULERS[name]
    schedule = Schedule.from_scheduler(scheduler, steps)
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(steps)
    assert len(schedule) == steps
    assert schedule.sigmas == tuple(own.sigmas.tolist()[::-1])
    assert schedule.timesteps == (0.0, *(float(t) for t in reversed(own.timesteps)))
    assert schedule.sigmas[0] == 0.0
    assert all(low < high for low, high in zip(schedule.sigmas, schedule.sigmas[1:], strict=False))


def test_schedulers_give_different_levels() -> None:
    assert len({Schedule.from_scheduler(scheduler, 10).sigmas for scheduler in SCHEDULERS.values()}) == 3


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
    assert (part.solver, part.direction) == ("heun", "invert") and part.schedule is whole.schedule


def test_a_slice_takes_the_conditioning_of_its_clips() -> None:
    shared, own = trajectory(text=1)[1:], trajectory(text=3)[1:]
    assert shared.conditioning.tensors["encoder_hidden_states"].flatten().tolist() == [0]
    assert own.conditioning.tensors["encoder_hidden_states"].flatten().tolist() == [1, 2]


def test_a_single_clip_is_asked_for_by_a_slice() -> None:
    with pytest.raises(TypeError, match=r"got 1 · expected a slice of clips, such as traj\[:1\]"):
        _ = trajectory()[1]  # type: ignore[index]
