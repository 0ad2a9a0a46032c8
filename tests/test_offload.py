"""A pipeline whose parts are moved to where they run and back (`enable_model_cpu_offload`) hooks and inverts as ever.

Here both places are the CPU: what is tested is that accelerate's wrappers and ours do not come in each other's way, not
that tensors are on the right device. Offload layer by layer is refused (see test_alterations.py).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_pipelines import CALL, lens_on, noise, text, wan
from torch import Tensor

from dit_lens import DiTLens, edits

HOOKS = [("blocks.1.hook_attn_out", edits.zero())]


def offloaded(pipeline: Any) -> Any:
    pipeline.enable_model_cpu_offload(device="cpu")
    assert hasattr(pipeline.transformer, "_hf_hook")
    return pipeline


@pytest.fixture(params=["before the lens", "after the lens"])
def lens(request: pytest.FixtureRequest) -> DiTLens:
    if request.param == "before the lens":
        return lens_on(offloaded(wan()))
    wan_lens = lens_on(wan())
    offloaded(wan_lens.pipeline)
    return wan_lens


@pytest.fixture(scope="module")
def plain() -> DiTLens:
    return lens_on(wan())


def call(lens: DiTLens) -> Tensor:
    arguments = {"prompt_embeds": text(), "guidance_scale": 1.0, "num_inference_steps": 2, "latents": noise()}
    return lens.pipeline(**CALL | arguments).frames


def test_hooks_act_on_every_call_of_the_pipeline_and_on_none_behind(lens: DiTLens, plain: DiTLens) -> None:
    """The pipeline takes its wrappers off and puts them on again at the end of each call."""
    with plain.hooks(HOOKS):
        edited = call(plain)
    with lens.hooks(HOOKS):
        assert torch.equal(call(lens), edited)
        assert torch.equal(call(lens), edited)
    assert torch.equal(call(lens), call(plain)) and not torch.equal(call(plain), edited)
    with lens.hooks(HOOKS):
        assert torch.equal(call(lens), edited)


def test_evaluations_and_inversion_are_those_of_the_plain_pipeline(lens: DiTLens, plain: DiTLens) -> None:
    call(lens)
    velocity, cache = lens.run_with_cache(latent=noise(), timestep=400.0)
    expected, kept = plain.run_with_cache(latent=noise(), timestep=400.0)
    assert torch.equal(velocity, expected) and all(torch.equal(cache[name], kept[name]) for name in kept)
    paths = [each.invert(noise(1), steps=3, solver="euler") for each in (lens, plain)]
    assert torch.equal(paths[0].latents, paths[1].latents)
    assert torch.equal(lens.sample(paths[0]).latents, plain.sample(paths[1]).latents)


def test_generations_keep_what_is_asked_for(lens: DiTLens, plain: DiTLens) -> None:
    arguments = {**CALL, "guidance_scale": 1.0, "num_inference_steps": 2, "latents": noise()}
    first, second, expected = (
        each.generate(names_filter="blocks.2.hook_resid_post", **arguments) for each in (lens, lens, plain)
    )
    for generation in (first, second):
        assert torch.equal(generation.frames, expected.frames) and len(generation) == len(expected) == 2
        assert torch.equal(generation[1]["resid_post", 2], expected[1]["resid_post", 2])


def test_a_trace_behind_a_call_of_an_offloading_pipeline_asks_for_a_new_lens(lens: DiTLens, plain: DiTLens) -> None:
    call(lens)
    with pytest.raises(RuntimeError, match="make a new lens"):
        lens.trace(latent=noise(), timestep=400.0)
    again = lens_on(lens.pipeline)
    with again.trace(latent=noise(), timestep=400.0):
        hidden = again.block(1).output.save()
    _, kept = plain.run_with_cache(latent=noise(), timestep=400.0)
    assert torch.equal(hidden, kept["resid_post", 1])


def test_offload_layer_by_layer_behind_the_lens_is_refused_by_name() -> None:
    lens = lens_on(wan())
    lens.pipeline.enable_sequential_cpu_offload(device="cpu")
    for act in (lambda: lens.invert(noise(1), 2, "euler"), lambda: lens.run_with_cache(latent=noise(), timestep=400.0)):
        with pytest.raises(TypeError, match=r"layer by layer .*enable_model_cpu_offload"):
            act()
