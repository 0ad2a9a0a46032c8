"""Every family on the noise levels of its stock pipeline: our schedule and sampler feed what its call feeds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTX2Pipeline
from diffusers.schedulers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from small_models import build
from small_pipelines import quiet
from stock_calls import BY_SIZE, CASES, COGVIDEOX, STEPS, Calls, by_allegro, by_cogvideox
from torch import Tensor

from dit_lens import Conditioning, DiTLens
from dit_lens.families import find
from dit_lens.families.levels import Levels
from dit_lens.inversion import levels_by_size, model_input
from dit_lens.trajectory import Schedule

# Of tensors in stock schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NO_FLOWS = ["cogvideox", "cogvideox_2b", "allegro", "cosmos_1"]  # fed other latents than a flow's
LEVELS = np.linspace(0, 0.8, 9).tolist()
SHIFTED_TWICE = ["hunyuan", "hunyuan15", "mochi"]
MADE: dict[str, Calls] = {}


def calls_of(name: str) -> Calls:
    """What the stock pipeline feeds, called once for all tests."""
    if name not in MADE:
        MADE[name] = Calls(CASES[name]())
    return MADE[name]


@pytest.fixture(params=list(CASES))
def calls(request: pytest.FixtureRequest) -> Calls:
    return calls_of(request.param)


def apart(x: Tensor, y: Tensor) -> float:
    """The largest relative distance between the latents of two trajectories at a step."""
    return float(((x - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).max())


def test_our_timesteps_are_those_that_the_pipeline_feeds(calls: Calls) -> None:
    schedule = calls.lens.schedule(STEPS, calls.fed[0])
    assert len(calls.timesteps) == STEPS
    np.testing.assert_allclose(schedule.timesteps[:0:-1], calls.timesteps, rtol=1e-6, atol=1e-6)
    even = calls.lens.schedule(np.linspace(0, 1, STEPS + 1).tolist())
    assert not np.allclose(even.timesteps[:0:-1], calls.timesteps, rtol=1e-3)


def test_our_sampler_feeds_what_the_pipeline_feeds(calls: Calls) -> None:
    """Levels and velocities are the model's: Euler's rule is the stock loop (for VP models DDIM) at every step."""
    lens, schedule = calls.lens, calls.lens.schedule(STEPS, calls.fed[0])
    noise = calls.fed[0] / model_input(lens, torch.ones(1, 1, 1, 1, 1), schedule.timesteps[-1])
    euler, heun = (lens.sample(noise, solver, steps=schedule) for solver in ("euler", "heun"))
    for step, theirs in zip(range(STEPS, 0, -1), calls.fed, strict=True):
        torch.testing.assert_close(
            model_input(lens, euler.latent(step), schedule.timesteps[step]), theirs, rtol=1e-5, atol=1e-4
        )
    last = model_input(lens, heun.latent(1), schedule.timesteps[1])
    assert not torch.allclose(last, calls.fed[-1], rtol=0, atol=1e-3)


def test_what_was_sampled_is_inverted(calls: Calls) -> None:
    sampled = calls.lens.sample(calls.fed[0], "euler", steps=LEVELS)
    exact, naive = (calls.lens.invert(sampled.latents[0], LEVELS, solver) for solver in ("implicit_euler", "euler"))
    assert apart(exact.latents, sampled.latents) < 1e-4 and exact.record is not None
    assert apart(naive.latents, sampled.latents) > 1e-2
    assert exact.record.sigma.values.tolist() == LEVELS
    fed = [calls.lens.family.to_timestep(level) for level in LEVELS[1:]]
    assert exact.record.fed_timestep.values[1:].tolist() == pytest.approx(fed)


@pytest.mark.parametrize("name", SHIFTED_TWICE)
def test_a_scheduler_left_alone_has_other_levels_than_the_pipeline(name: str) -> None:
    lens = calls_of(name).lens
    alone = Schedule.from_scheduler(lens.pipeline.scheduler, STEPS)
    assert not np.allclose(alone.sigmas, lens.schedule(STEPS).sigmas, atol=1e-2)


def test_ltx_asks_for_the_size_of_a_latent() -> None:
    lens, latent = calls_of("ltx").lens, calls_of("ltx").fed[0]
    with pytest.raises(ValueError, match=r"got no latent · expected one, .* schedule\(steps, latent\)"):
        lens.schedule(STEPS)
    assert levels_by_size(lens) and not levels_by_size(calls_of("wan").lens)
    by_shape = lens.schedule(STEPS, lens.latent_shape(9, 64, 96))
    assert by_shape.sigmas == lens.schedule(STEPS, latent).sigmas  # the size that the stock call was made with
    assert by_shape.sigmas != lens.schedule(STEPS, lens.latent_shape(17, 64, 96)).sigmas
    for path in (lens.invert(latent, STEPS, "euler"), lens.noising(latent, latent, STEPS)):
        assert path.schedule.sigmas == by_shape.sigmas
    assert lens.sample(latent, "euler", STEPS).schedule.sigmas == by_shape.sigmas


def test_ltx_that_does_not_shift_asks_for_no_size() -> None:
    pipe, tensors, _ = CASES["ltx"]()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    lens = DiTLens(pipe, "small", Conditioning(tensors), verify=False)
    assert lens.schedule(STEPS).sigmas == lens.schedule(STEPS, calls_of("ltx").fed[0]).sigmas


def test_mochi_has_no_schedule_of_one_step() -> None:
    with pytest.raises(ValueError, match="got 1 steps"):
        calls_of("mochi").lens.schedule(1)


class StopError(Exception):
    """Ends a call at the transformer."""


def test_ltx_2_has_the_levels_of_its_pipeline() -> None:
    transformer = build("ltx2")
    absent: Any = dict.fromkeys(("vae", "audio_vae", "text_encoder", "tokenizer", "connectors", "vocoder"))
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(BY_SIZE.config)
    pipe: Any = quiet(LTX2Pipeline(scheduler=scheduler, transformer=transformer, **absent))
    text, mask = torch.ones(1, 3, 20), torch.tensor([[0, 1, 1]])
    pipe.connectors = lambda *_, **__: (text, text, mask)

    def stop(*_: Any) -> None:
        raise StopError

    transformer.register_forward_pre_hook(stop)
    with pytest.raises(StopError):
        pipe(
            prompt_embeds=torch.ones(1, 3, 4), prompt_attention_mask=mask, height=64, width=96, num_frames=17,
            guidance_scale=1.0, audio_guidance_scale=1.0, num_inference_steps=STEPS,
        )  # fmt: skip
    asked = (find(transformer).schedule_arguments(pipe, torch.zeros(1, 4, 3, 2, width), STEPS) for width in (3, 30))
    matching, wider = (Schedule.from_scheduler(pipe.scheduler, STEPS, **arguments) for arguments in asked)
    assert matching.sigmas == tuple(pipe.scheduler.sigmas.tolist()[::-1])
    assert matching.timesteps == (0.0, *pipe.scheduler.timesteps.tolist()[::-1])
    assert not np.allclose(wider.sigmas, matching.sigmas, atol=1e-3)


@pytest.mark.parametrize("steps", [4, 7])
@pytest.mark.parametrize("name", ["dpm", "ddim", "ancestral"])
def test_samplers_that_are_no_euler_lend_their_levels(name: str, steps: int) -> None:
    cases = {
        "dpm": lambda: by_cogvideox(CogVideoXDPMScheduler(**COGVIDEOX, snr_shift_scale=1.0)),
        "ddim": lambda: by_allegro(DDIMScheduler(timestep_spacing="trailing")),
        "ancestral": lambda: by_allegro(EulerAncestralDiscreteScheduler()),
    }
    calls = Calls(cases[name](), steps)
    schedule = calls.lens.schedule(steps)
    np.testing.assert_allclose(schedule.timesteps[:0:-1], calls.timesteps, rtol=1e-6, atol=1e-3)
    scheduler = calls.lens.pipeline.scheduler
    if name == "ancestral":
        s = scheduler.sigmas.double().numpy()[:-1]
        np.testing.assert_allclose(schedule.sigmas[:0:-1], s / (1 + s), rtol=1e-3)
    else:
        kept = scheduler.alphas_cumprod.double()[scheduler.timesteps].numpy()
        np.testing.assert_allclose(schedule.sigmas[:0:-1], (1 - kept) ** 0.5 / (kept**0.5 + (1 - kept) ** 0.5))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_between_timesteps_the_logarithm_of_signal_to_noise_is_linear(shift: float) -> None:
    scheduler = CogVideoXDDIMScheduler(**COGVIDEOX, snr_shift_scale=shift)
    levels, alphas = Levels.of(scheduler), scheduler.alphas_cumprod.double()
    sigma = levels.to_sigma(torch.tensor([500.0, 500.25, 501.0], dtype=torch.float64)).double()
    ratio, known = 2 * ((1 - sigma) / sigma).log(), (alphas / (1 - alphas)).log()[500:502]
    expected = torch.stack([known[0], 0.75 * known[0] + 0.25 * known[1], known[1]])
    torch.testing.assert_close(ratio, expected, rtol=0, atol=1e-5)
    times = [0.0, 0.5, 10.3, 500.25, 998.0, 998.5, 999.0]
    sigmas = levels.to_sigma(torch.tensor(times))
    assert [levels.to_timestep(level) for level in sigmas.tolist()] == pytest.approx(times, abs=0.02)
    assert sigmas[-1] == 1.0 and levels.to_timestep(0.0) == 0.0


@pytest.mark.parametrize("name", NO_FLOWS)
def test_a_trajectory_keeps_the_flow_s_latent_and_the_model_is_fed_its_own(name: str) -> None:
    lens = calls_of(name).lens
    latent = calls_of(name).fed[0]
    path = lens.noising(latent, latent.flip(-1), [0.0, 0.3, 0.7])
    sigma, x = 0.7, path.latent(2)
    torch.testing.assert_close(x, 0.3 * latent + 0.7 * latent.flip(-1))
    velocity, cache = lens.run_with_cache(path, step=2, names_filter=["hook_latent", "hook_x0"])
    assert velocity is not None
    torch.testing.assert_close(cache["hook_latent"], x / (0.3**2 + 0.7**2) ** 0.5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache["hook_x0"], x - sigma * velocity, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NO_FLOWS)
def test_half_way_between_levels_the_model_s_own_time_is_fed(name: str) -> None:
    calls = calls_of(name)
    schedule, before = calls.lens.schedule(STEPS), len(calls.timesteps)
    handle = calls.lens.transformer.register_forward_pre_hook(calls.hear, with_kwargs=True)
    calls.lens.sample(calls.fed[0], "midpoint", steps=schedule)
    handle.remove()
    heard, calls.timesteps[before:] = calls.timesteps[before + 1 :: 2], []
    halves = [(high + low) / 2 for low, high in itertools.pairwise(schedule.sigmas)][::-1]
    assert heard == pytest.approx([calls.lens.family.to_timestep(level) for level in halves], rel=1e-5)
    assert heard != pytest.approx([schedule.timestep(level) for level in halves], rel=1e-2)
