"""Wan 2.2 A14B: two transformers that share the noise levels, run, hooked and verified as one model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from head_patches import head_patches
from safetensors.torch import save_file
from small_models import build, wan
from small_pipelines import CALL, experts, lens_on, noise, text
from small_pipelines import wan as pipeline_of
from torch import Tensor

from dit_lens import Conditioning, DiTLens, edits
from dit_lens.interventions import sweep
from dit_lens.metrics import Run, VelocityProjection
from dit_lens.models import EMPTY_PROMPT
from dit_lens.running import Request

STEPS = 5
HIGH, LOW = "high_noise", "low_noise"


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return lens_on(experts())


@contextmanager
def counted(lens: DiTLens) -> Iterator[list[str]]:
    """Which expert each evaluation was of, by a plain torch hook on its first block."""
    ran: list[str] = []
    handles = [
        member.transformer.blocks[0].register_forward_hook(lambda *_, name=str(member.expert): ran.append(name))
        for member in lens.model.members
    ]
    yield ran
    for handle in handles:
        handle.remove()


def call(lens: DiTLens, **options: Any) -> Tensor:
    arguments = {"prompt_embeds": text(), "guidance_scale": 1.0, "num_inference_steps": STEPS, "latents": noise()}
    return lens.pipeline(**CALL | arguments | options).frames


def expected(lens: DiTLens, order: range) -> list[str]:
    """Who is called at these steps, by the pipeline's own rule: timestep >= boundary_ratio * 1000."""
    times = lens.schedule(STEPS).timesteps
    return [HIGH if times[step] >= 700 else LOW for step in order]


def test_each_noise_level_has_its_expert_while_inverting_and_sampling(lens: DiTLens) -> None:
    with counted(lens) as ran:
        path = lens.invert(noise(1), steps=STEPS, solver="euler")
    assert ran == expected(lens, range(STEPS)) and {HIGH, LOW} <= set(ran)
    with counted(lens) as ran:
        lens.sample(path)
    assert ran == expected(lens, range(STEPS, 0, -1))


def test_our_sampler_is_the_pipelines_own(lens: DiTLens) -> None:
    start = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
    ours = lens.sample(start, solver="euler").latents[0]
    torch.testing.assert_close(ours, call(lens), rtol=0, atol=1e-5)
    alone = lens_on(pipeline_of()).sample(start, solver="euler").latents[0]
    assert (alone - ours).abs().max() > 1e-2  # the high-noise expert at all levels makes another clip


def test_an_evaluation_is_the_stock_transformer_of_its_level_to_the_bit(lens: DiTLens) -> None:
    path = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
    for step, name in zip(range(1, STEPS + 1), expected(lens, range(1, STEPS + 1)), strict=True):
        transformer = lens.pipeline.transformer if name == HIGH else lens.pipeline.transformer_2
        time = torch.tensor([path.schedule.timesteps[step]])
        with torch.no_grad():
            plain = transformer(path.latents[step], time, text(), return_dict=False)[0]
        hooked, cache = lens.run_with_cache(path, step=step, names_filter="*")
        assert torch.equal(hooked, plain), step
        assert torch.equal(cache["hook_velocity"], plain)


def test_hooks_act_on_both_experts_of_the_users_own_call_and_say_which(lens: DiTLens) -> None:
    plain = call(lens)
    calls: list[tuple[int | None, str | None]] = []
    with counted(lens) as ran, lens.hooks([("hook_latent", lambda x, hook: calls.append((hook.step, hook.expert)))]):
        assert torch.equal(call(lens), plain)
    assert ran == expected(lens, range(STEPS, 0, -1))
    assert calls == list(zip(range(STEPS, 0, -1), ran, strict=True))


def test_hooks_of_one_expert_leave_the_other_alone(lens: DiTLens) -> None:
    zero = [("blocks.1.attn.hook_z", edits.zero(heads=[1]))]
    for name, member in zip((HIGH, LOW), lens.model.members, strict=True):
        with lens.hooks(zero, experts=(name,)):
            edited = call(lens)
        weight = member.transformer.blocks[1].attn1.to_out[0].weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, 12:] = 0
        by_hand = call(lens)
        with torch.no_grad():
            weight.copy_(kept)
        torch.testing.assert_close(edited, by_hand, rtol=0, atol=1e-5)
        assert not torch.equal(edited, call(lens))


def test_a_hook_on_an_expert_that_is_not_called_is_an_error(lens: DiTLens) -> None:
    path = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
    with pytest.raises(RuntimeError, match="experts"), lens.hooks([("hook_latent", edits.zero())], experts=(LOW,)):
        lens.run_with_cache(path, step=STEPS, names_filter="hook_velocity")
    with pytest.raises(ValueError, match="expected of"), lens.hooks([("hook_latent", edits.zero())], experts=("mid",)):
        pass
    with pytest.raises(TypeError, match="collection"), lens.hooks([("hook_latent", edits.zero())], experts=LOW):
        pass


def test_nothing_is_left_on_either_expert_after_an_exception(lens: DiTLens) -> None:
    before = {id(member): dict(vars(member.transformer)) for member in lens.model.members}
    plain = call(lens)

    def fail(x: Tensor, hook: Any) -> None:
        if hook.expert == LOW:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lens.hooks([("blocks.2.hook_resid_pre", fail)]):
        call(lens)
    assert torch.equal(call(lens), plain)
    for member in lens.model.members:
        left = vars(member.transformer)
        assert left.keys() - {"_diffusers_hook"} == before[id(member)].keys() - {"_diffusers_hook"}
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in member.transformer.modules())


def test_both_experts_are_verified_when_loaded() -> None:
    pipeline = experts()
    lens = DiTLens(pipeline, "two", Conditioning({"encoder_hidden_states": text()}))
    assert set(lens.verify().expert) == {HIGH, LOW}
    # A block that does not add what its attention puts out times the gate: the laws of that expert break.
    broken = pipeline.transformer_2.blocks[1].attn1
    broken.register_forward_hook(lambda module, args, out: out + 0.1 * torch.randn_like(out))
    with pytest.raises(ValueError, match="off by"):
        DiTLens(pipeline, "two", Conditioning({"encoder_hidden_states": text()}))


def test_the_names_and_shapes_are_those_of_one_transformer(lens: DiTLens) -> None:
    single = lens_on(pipeline_of())
    assert list(lens.hook_points(noise()).name) == list(single.hook_points(noise()).name)
    assert lens.facts()["experts"] == "high_noise, low_noise; boundary 0.7"
    assert lens.model.boundary == 0.7 and single.model.boundary is None and "experts" not in single.facts()


def test_a_trace_is_over_the_expert_of_its_level(lens: DiTLens) -> None:
    path = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
    for step in (1, STEPS):
        _, cache = lens.run_with_cache(path, step=step, names_filter="blocks.1.hook_resid_post")
        with lens.trace(path, step=step):
            stream = lens.block(1).output.save()
        assert torch.equal(stream, cache["resid_post", 1]), step


def test_a_pipeline_loaded_with_one_expert_runs_at_its_levels_only() -> None:
    for present, absent in ((HIGH, LOW), (LOW, HIGH)):
        two = {"transformer": build("wan"), "transformer_2": build("wan", seed=1)}
        two["transformer_2" if present == HIGH else "transformer"] = None
        lens = lens_on(pipeline_of(**two, boundary_ratio=0.7))
        assert list(lens.hook_points(noise()).name)
        path = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
        inside, outside = (STEPS, 1) if present == HIGH else (1, STEPS)
        lens.run_with_cache(path, step=inside, names_filter="hook_velocity")
        with pytest.raises(ValueError, match=f"{absent} expert"):
            lens.run_with_cache(path, step=outside)


def test_blocks_of_one_expert_are_not_followed_by_those_of_the_other(lens: DiTLens) -> None:
    path = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
    for step, other_step in ((STEPS, 1), (1, STEPS)):
        velocity, cache = lens.run_with_cache(path, step=step)
        again, _ = lens.model.run_suffix(lens.evaluation(path, step), 1, cache, {}, Request())
        assert torch.equal(again, velocity)
        with pytest.raises(ValueError, match="another transformer"):
            lens.model.run_suffix(lens.evaluation(path, other_step), 1, cache, {}, Request())


def test_a_folder_of_two_experts_is_loaded_as_it_was_saved(lens: DiTLens, tmp_path: Path) -> None:
    lens.pipeline.save_pretrained(tmp_path)
    save_file({"prompt_embeds": text()}, tmp_path / EMPTY_PROMPT)
    loaded = DiTLens.from_pretrained(tmp_path)
    path = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
    for step in (1, STEPS):
        assert torch.equal(loaded.run_with_cache(path, step=step)[0], lens.run_with_cache(path, step=step)[0])


def test_a_head_is_patched_in_the_expert_of_its_step(lens: DiTLens) -> None:
    clean, corrupted = (lens.noising(noise(seed), noise(), steps=STEPS) for seed in (3, 4))
    metrics = {"velocity": VelocityProjection()}
    assert expected(lens, range(1, STEPS)) == [LOW, LOW, HIGH, HIGH]
    for step in (1, STEPS - 1):
        at, source = lens.evaluation(corrupted, step), lens.evaluation(clean, step)
        with torch.no_grad():
            clean_run, changes = Run(*lens.model.run(source)), head_patches(lens, source)
        fast, slow = (
            sweep(lens, at, changes, metrics, clean_run, method=method).effect["velocity"]
            for method in ("exact", "literal")
        )
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)
        assert fast.abs().max() > 1e-4


def test_experts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match="two experts and no boundary"):
        lens_on(pipeline_of(transformer_2=build("wan")))
    with pytest.raises(TypeError, match="without a transformer"):
        lens_on(pipeline_of(transformer=None))
    with pytest.raises(ValueError, match="3 and 2 blocks"):
        lens_on(pipeline_of(transformer_2=wan(num_layers=2), boundary_ratio=0.5))
