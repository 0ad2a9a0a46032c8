"""`solver="pipeline"`: from the same noise a lens samples what the stock pipeline makes, whatever its scheduler."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.schedulers import (
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from small_pipelines import quiet
from stock_calls import (
    COGVIDEOX,
    STEPS,
    Case,
    by_allegro,
    by_cogvideox,
    by_cogvideox_2b,
    by_cosmos,
    by_ltx,
    by_mochi,
    by_wan,
)
from torch import Tensor

from dit_lens import Conditioning, DiTLens, flow
from dit_lens.conditioning import Guidance
from dit_lens.flow import Solver
from dit_lens.inversion import model_input
from dit_lens.inversion.latents import channels

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:small is sampled by:UserWarning"),
]
FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SEED = 7


def wan_by(scheduler: Any) -> Case:
    case = by_wan()
    case[0].scheduler = scheduler
    return case


def dpm() -> Case:
    return by_cogvideox(CogVideoXDPMScheduler(**COGVIDEOX, snr_shift_scale=1.0))


SAME_AS_EULER: dict[str, tuple[Callable[[], Case], int]] = {
    "wan, Euler": (by_wan, STEPS),
    "mochi, Euler": (by_mochi, STEPS),
    "cogvideox, DDIM": (by_cogvideox, STEPS),
    "allegro, Euler": (by_allegro, STEPS),
    "cosmos 2.5, UniPC of first order": (lambda: by_cosmos("cosmos_25"), STEPS),
}
OTHER: dict[str, tuple[Callable[[], Case], int]] = {
    "wan, UniPC": (lambda: wan_by(UniPCMultistepScheduler(**FLOW)), STEPS),
    "wan, UniPC, 20 steps": (lambda: wan_by(UniPCMultistepScheduler(**FLOW)), 20),
    "wan, DPM++": (lambda: wan_by(DPMSolverMultistepScheduler(**FLOW)), STEPS),
    "wan, LCM": (lambda: wan_by(FlowMatchLCMScheduler(shift=3.0)), STEPS),
    "wan, stochastic Euler": (
        lambda: wan_by(FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)),
        STEPS,
    ),
    "cogvideox, DPM": (dpm, STEPS),
    "cogvideox, DDIM, 30 steps": (by_cogvideox, 30),
    "cogvideox 2b, DDIM, 35 steps": (by_cogvideox_2b, 35),
    "allegro, clipped DDIM": (lambda: by_allegro(DDIMScheduler(timestep_spacing="trailing")), STEPS),
    "allegro, ancestral Euler": (lambda: by_allegro(EulerAncestralDiscreteScheduler()), STEPS),
    "allegro, DPM++": (lambda: by_allegro(DPMSolverMultistepScheduler()), STEPS),
}


def lens_of(case: Case) -> DiTLens:
    pipe, tensors, _ = case
    return DiTLens(quiet(pipe), "small", Conditioning(tensors), verify=False)


def frames_first(lens: DiTLens) -> bool:
    return lens.family.name == "cogvideox"


SHAPES = {"mochi": (2, 4, 4), "allegro": (2, 4, 4), "cosmos": (2, 8, 8)}


def drawn(lens: DiTLens) -> Tensor:
    """Noise for a clip of the size of the stock call."""
    shape = 1, channels(lens), *SHAPES.get(lens.family.name, (2, 4, 4))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def stock(lens: DiTLens, case: Case, noise: Tensor, steps: int) -> Tensor:
    """What the pipeline's own call makes of the noise."""
    arguments = {"height": 32, "width": 32, "guidance_scale": 1.0, "output_type": "latent"} | case[2]
    kept = {name: value for name, value in arguments.items() if value is not None}
    torch.manual_seed(SEED)  # of pipelines that hand no generator to their scheduler
    given_noise = noise.transpose(1, 2) if frames_first(lens) else noise
    frames = lens.pipeline(
        **kept, num_inference_steps=steps, latents=given_noise, generator=torch.Generator().manual_seed(SEED)
    ).frames
    return frames.transpose(1, 2) if frames_first(lens) else frames


def apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def sampled(lens: DiTLens, noise: Tensor, steps: int, solver: str | None = None) -> Tensor:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED) if solver is None else None
    return lens.sample(noise, solver, steps, generator=generator).latents[0]


@pytest.mark.parametrize("name", [*SAME_AS_EULER, *OTHER])
def test_from_noise_a_lens_makes_the_stock_pipeline_s_latent(name: str) -> None:
    make, steps = (SAME_AS_EULER | OTHER)[name]
    case = make()
    lens = lens_of(case)
    noise = drawn(lens)
    theirs = stock(lens, case, noise, steps)
    assert apart(sampled(lens, noise, steps), theirs) < 1e-5
    if name in OTHER:
        assert apart(sampled(lens, noise, steps, "euler"), theirs) > 2e-3
        different = sampled(lens, torch.randn(noise.shape, generator=torch.Generator().manual_seed(2)), steps)
        assert apart(different, theirs) > 1e-2


def test_ltx_is_stepped_on_its_own_shift() -> None:
    lens = lens_of(by_ltx())
    noise = torch.randn(1, 4, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    ours, euler = (lens.sample(noise, solver, STEPS).latents for solver in ("pipeline", "euler"))
    torch.testing.assert_close(ours, euler)  # which is the stock call's, see test_schedules.py


def test_guidance_goes_along() -> None:
    case = wan_by(UniPCMultistepScheduler(**FLOW))
    lens, (pipe, tensors, call) = lens_of(case), case
    noise, negative = drawn(lens), torch.randn(tensors["encoder_hidden_states"].shape)
    away = Guidance(4.0, Conditioning({"encoder_hidden_states": negative}))
    guided = call | {"guidance_scale": 4.0, "negative_prompt_embeds": negative}
    theirs = stock(lens, (pipe, tensors, guided), noise, STEPS)
    assert apart(lens.sample(noise, steps=STEPS, guidance=away).latents[0], theirs) < 1e-5
    assert apart(lens.sample(noise, steps=STEPS).latents[0], theirs) > 1e-2


# How it is drawn and by whom.


def several(lens: DiTLens) -> Tensor:
    return torch.cat([drawn(lens), drawn(lens).flip(-1), drawn(lens).flip(-2)])


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_with_a_generator_for_each_clip_no_clip_depends_on_its_batch() -> None:
    lens = lens_of(dpm())
    noise = several(lens)
    together = lens.sample(noise, steps=STEPS, generator=seeds(1, 2, 3)).latents[0]
    apart_ = lens.sample(noise, steps=STEPS, generator=seeds(1, 2, 3), batch_size=2).latents[0]
    alone = lens.sample(noise[2:], steps=STEPS, generator=seeds(3)).latents[0]
    torch.testing.assert_close(together, apart_)
    torch.testing.assert_close(together[2:], alone)
    assert not torch.allclose(alone, lens.sample(noise[2:], steps=STEPS, generator=seeds(4)).latents[0], atol=1e-2)


def test_generators_that_would_draw_otherwise_than_the_pipeline_are_refused() -> None:
    lens = lens_of(dpm())
    noise = several(lens)
    with pytest.raises(ValueError, match=r"got one generator for 3 clips in batches of 2 · expected one for each"):
        lens.sample(noise, steps=STEPS, generator=seeds(1)[0], batch_size=2)
    with pytest.raises(ValueError, match=r"got 2 generators for 3 clips"):
        lens.sample(noise, steps=STEPS, generator=seeds(1, 2))
    with pytest.raises(ValueError, match=r"got a generator for euler"):
        lens.sample(noise, "euler", STEPS, generator=seeds(1)[0])


def test_the_pipeline_and_torch_s_random_numbers_are_left_as_they_are() -> None:
    lens = lens_of(wan_by(UniPCMultistepScheduler(**FLOW)))
    before, noise = torch.get_rng_state(), drawn(lens)
    config = dict(lens.pipeline.scheduler.config)
    first = lens.sample(noise, steps=STEPS).latents
    assert torch.equal(lens.sample(noise, steps=STEPS).latents, first)  # nothing is left of the steps before
    lens.sample(noise, "euler", STEPS)
    assert torch.equal(torch.get_rng_state(), before)
    assert lens.pipeline.scheduler.step_index is None and dict(lens.pipeline.scheduler.config) == config


# Where it does not serve.


def test_a_scheduler_neither_inverts_nor_steps_on_other_levels() -> None:
    lens = lens_of(by_wan())
    noise = drawn(lens)
    with pytest.raises(ValueError, match=r"got solver 'pipeline' to invert · expected euler, implicit_euler, "):
        lens.invert(noise, STEPS, "pipeline")
    with pytest.raises(ValueError, match=r"got levels that are not those of the FlowMatchEulerDiscreteScheduler in 2"):
        lens.sample(noise, "pipeline", [0.0, 0.5, 1.0])
    lens.sample(noise, "pipeline", lens.schedule(STEPS))
    with pytest.raises(ValueError, match="got solver 'pipeline' where there is no scheduler"):
        list(flow.integrate(lambda x, sigma: x, noise, [1.0, 0.5], "pipeline"))


def test_cosmos_1_is_refused_with_what_serves() -> None:
    lens = lens_of(by_cosmos("cosmos_1"))
    with pytest.raises(ValueError, match=r"\(Cosmos\) .* lens\.generate"):
        lens.sample(drawn(lens), steps=STEPS)


def test_back_from_an_inversion_the_sampler_it_inverts_is_meant() -> None:
    lens = lens_of(wan_by(UniPCMultistepScheduler(**FLOW)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = lens.invert(drawn(lens), STEPS, "heun")
        assert str(lens.sample(path).solver) == "heun"
        path_from_noise = lens.sample(path.latents[-1], steps=STEPS)
        assert str(path_from_noise.solver) == "pipeline" and str(lens.sample(path_from_noise).solver) == "pipeline"


# What is said.


@pytest.mark.parametrize("name", [*SAME_AS_EULER, *OTHER])
def test_it_is_said_once_that_the_pipeline_makes_another_video(name: str) -> None:
    make, steps = (SAME_AS_EULER | OTHER)[name]
    lens = lens_of(make())
    noise = drawn(lens)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            lens.sample(noise, "euler", steps)
        if name != "wan, LCM":
            lens.sample(noise, steps=steps)
    messages = [str(warning.message) for warning in said if "is sampled by" in str(warning.message)]
    assert len(messages) == (name in OTHER)
    if messages:
        scheduler = type(lens.pipeline.scheduler).__name__
        assert messages[0].startswith(f"small is sampled by euler, not by its pipeline's {scheduler}: ")


# Which inversion is which.


def test_of_a_variance_preserving_model_current_is_ddim_inversion_and_target_is_not() -> None:
    case = by_cogvideox()
    lens = lens_of(case)
    clean, schedule = drawn(lens), lens.schedule(20)
    alphas = lens.pipeline.scheduler.alphas_cumprod.double()

    def amplitudes(sigma: float) -> tuple[float, float]:
        root = ((1 - sigma) ** 2 + sigma**2) ** 0.5
        return (1 - sigma) / root, sigma / root

    current, target = (lens.invert(clean, 20, Solver("euler", time_at)) for time_at in ("current", "target"))
    x = model_input(lens, current.latent(1), schedule.timesteps[1])  # data itself lies at no level of the model's
    assert amplitudes(schedule.sigmas[1])[0] == pytest.approx(float(alphas[int(schedule.timesteps[1])]) ** 0.5)
    for step in range(1, len(schedule) - 1):  # Song et al. 2021, between equations 12 and 13, from data to noise
        (a, s), (a_next, s_next) = (amplitudes(schedule.sigmas[place]) for place in (step, step + 1))
        time, text = torch.tensor([schedule.timesteps[step]]), lens.conditioning.tensors
        output = lens.transformer(**lens.family.inputs(lens.transformer, x, time, text))[0].transpose(1, 2)
        x = a_next * (a * x - s * output) + s_next * (a * output + s * x)
    current, target = (model_input(lens, path.latents[-2], schedule.timesteps[-2]) for path in (current, target))
    assert apart(current, x) < 1e-3 and apart(target, x) > 0.05
