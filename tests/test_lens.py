"""DiTLens on a random mini-wan: bit-exact when idle, exact gated writes, hooks that leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel, WanPipeline

from dit_lens import datasets, edits, families
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.patching import patch_heads
from dit_lens.running import Request
from dit_lens.toy import mini_wan
from dit_lens.toy.mini_wan import assemble, empty_prompt, new_transformer
from dit_lens.trajectory import Trajectory

STEP = 3


@pytest.fixture(scope="module")
def trajectory(lens: DiTLens) -> Trajectory:
    quadruplet = datasets.load("miniphys", split="test", quadruplets=1)[0]
    return lens.invert(quadruplet.clips, steps=5, solver="euler")


def plain_velocity(lens: DiTLens, trajectory: Trajectory, step: int = STEP) -> torch.Tensor:
    schedule = trajectory.schedule
    with torch.no_grad():
        return lens.transformer(
            hidden_states=trajectory.latents[step],
            timestep=torch.full((len(trajectory),), schedule.timesteps[step]),
            encoder_hidden_states=empty_prompt().expand(len(trajectory), -1, -1),
        ).sample


def test_hooked_equals_plain_to_the_bit(lens: DiTLens, trajectory: Trajectory) -> None:
    velocity, cache = lens.run_with_cache(trajectory, step=STEP)
    assert torch.equal(velocity, plain_velocity(lens, trajectory))
    assert set(cache) == {name for name, point in lens.table.points.items() if not point.on_demand}


def test_the_stream_is_the_sum_of_its_gated_writes_to_the_bit(lens: DiTLens, trajectory: Trajectory) -> None:
    _, cache = lens.run_with_cache(trajectory, step=STEP)
    for block in range(lens.blocks):
        after_attention = cache["resid_pre", block] + cache["attn_out", block]
        assert torch.equal(cache["resid_mid_attn", block], after_attention)
        after_text = after_attention + cache["cross_attn_out", block]
        assert torch.equal(cache["resid_mid_cross_attn", block], after_text)
        assert torch.equal(cache["resid_post", block], after_text + cache["mlp_out", block])
        assert cache["attn_out", block].abs().max() > 1e-4


def test_heads_and_bias_sum_to_the_ungated_attention_output(lens: DiTLens, trajectory: Trajectory) -> None:
    _, cache = lens.run_with_cache(trajectory, step=STEP, names_filter="blocks.2.*")
    projection = lens.transformer.blocks[2].attn1.to_out[0]
    weight = projection.weight.unflatten(1, (lens.heads, -1))
    heads = torch.einsum("bnke,dke->bnd", cache["z", 2], weight) + projection.bias
    with lens.trace(trajectory, step=STEP):
        raw = lens.block(2).attn1.output.save()
    torch.testing.assert_close(heads, raw, rtol=1e-5, atol=1e-6)


def test_an_identity_write_at_any_point_changes_nothing(lens: DiTLens, trajectory: Trajectory) -> None:
    plain = plain_velocity(lens, trajectory)
    for name, point in lens.table.points.items():
        if point.write is not None:
            hooked = lens.run_with_hooks(trajectory, STEP, fwd_hooks=[(name, lambda x, hook: x.clone())])
            assert torch.equal(hooked, plain), name


def test_every_writable_point_moves_the_velocity(lens: DiTLens, trajectory: Trajectory) -> None:
    plain = plain_velocity(lens, trajectory)
    for name, point in lens.table.points.items():
        # The softmax does not see a key shift that is common to all tokens, and text keys matter little: scale instead.
        if point.write is not None:
            moved = lens.run_with_hooks(trajectory, STEP, fwd_hooks=[(name, lambda x, hook: x * 3 + 1)])
            assert not torch.equal(moved, plain), name


def test_zeroing_the_attention_write_equals_putting_back_the_stream_before_it(
    lens: DiTLens, trajectory: Trajectory
) -> None:
    _, cache = lens.run_with_cache(trajectory, step=STEP, names_filter="blocks.3.hook_resid_pre")
    without = lens.run_with_hooks(trajectory, STEP, fwd_hooks=[("blocks.3.hook_attn_out", edits.zero())])
    bypassed = lens.run_with_hooks(
        trajectory, STEP, fwd_hooks=[("blocks.3.hook_resid_mid_attn", lambda x, hook: cache["resid_pre", 3])]
    )
    torch.testing.assert_close(without, bypassed, rtol=0, atol=1e-6)


def test_zeroing_a_head_equals_zeroing_its_columns_of_the_output_projection(
    lens: DiTLens, trajectory: Trajectory
) -> None:
    hooked = lens.run_with_hooks(trajectory, STEP, fwd_hooks=[("blocks.1.attn.hook_z", edits.zero(heads=[2]))])
    weight = lens.transformer.blocks[1].attn1.to_out[0].weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:, 64:96] = 0
        by_hand = plain_velocity(lens, trajectory)
        weight.copy_(kept)
    torch.testing.assert_close(hooked, by_hand, rtol=0, atol=1e-6)
    assert not torch.equal(hooked, plain_velocity(lens, trajectory))


def test_the_clean_estimate_is_the_latent_less_sigma_times_velocity(lens: DiTLens, trajectory: Trajectory) -> None:
    velocity, cache = lens.run_with_cache(trajectory, step=STEP, names_filter=["hook_x0", "hook_latent"])
    expected = cache["hook_latent"] - trajectory.schedule.sigmas[STEP] * velocity
    torch.testing.assert_close(cache["hook_x0"], expected, rtol=0, atol=1e-6)


def test_nested_hooks_run_outer_first_and_only_at_their_steps(lens: DiTLens, trajectory: Trajectory) -> None:
    calls: list[tuple[str, int | None]] = []

    def note(label: str):
        return lambda x, hook: calls.append((label, hook.step))

    point = "blocks.0.hook_resid_post"
    with lens.hooks([(point, note("outer"))]), lens.hooks([(point, note("inner"))], steps=[STEP]):
        lens.run_with_cache(trajectory, steps=[1, STEP], names_filter=point)
    assert calls == [("outer", 1), ("outer", STEP), ("inner", STEP)]


def test_hooks_act_while_inverting_and_sampling(lens: DiTLens, trajectory: Trajectory) -> None:
    latent = trajectory.latents[0]
    with lens.hooks([("blocks.5.hook_mlp_out", edits.zero())], steps=[2]):
        edited = lens.invert(latent, steps=5, solver="euler")
    assert torch.equal(edited.latents[:3], trajectory.latents[:3])
    assert not torch.equal(edited.latents[3], trajectory.latents[3])
    with lens.hooks([("hook_velocity", lambda x, hook: torch.zeros_like(x))]):
        still = lens.sample(trajectory)
    assert torch.equal(still.latents[0], trajectory.latents[-1])


def test_a_hook_around_the_users_own_pipeline_call_acts_there(lens: DiTLens) -> None:
    call = {
        "prompt_embeds": empty_prompt(),
        "guidance_scale": 1.0,
        "height": 32,
        "width": 32,
        "num_frames": 17,
        "num_inference_steps": 2,
    }
    lens.pipeline.set_progress_bar_config(disable=True)

    def sample() -> np.ndarray:
        return lens.pipeline(**call, generator=torch.Generator().manual_seed(0), output_type="latent").frames

    plain = sample()
    steps: list[int | None] = []
    with lens.hooks(
        [("blocks.*.hook_mlp_out", edits.zero()), ("hook_latent", lambda x, hook: steps.append(hook.step))]
    ):
        edited = sample()
    assert steps == [2, 1]
    assert not torch.equal(edited, plain)
    assert torch.equal(sample(), plain)


def test_our_sampler_equals_the_pipelines_own(lens: DiTLens) -> None:
    noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    lens.pipeline.set_progress_bar_config(disable=True)
    theirs = lens.pipeline(
        prompt_embeds=empty_prompt(), guidance_scale=1.0, height=32, width=32, num_frames=17, num_inference_steps=6,
        latents=noise, output_type="latent",
    ).frames  # fmt: skip
    start = lens.noising(torch.zeros_like(noise), noise, steps=6)
    ours = lens.sample(start, solver="euler").latents[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_inversion_and_sampling_meet_as_steps_grow(lens: DiTLens, trajectory: Trajectory) -> None:
    def gap(steps: int) -> float:
        there = lens.invert(trajectory.latents[0][:1], steps=steps, solver="euler")
        return float((lens.sample(there).latents[0] - there.latents[0]).norm() / there.latents[0].norm())

    assert gap(16) < 0.6 * gap(8)


def test_nothing_stays_after_an_exception_or_ctrl_c(lens: DiTLens, trajectory: Trajectory) -> None:
    for error in (RuntimeError, KeyboardInterrupt):

        def fail(x: torch.Tensor, hook: Hook, error: type[BaseException] = error) -> None:
            raise error("in a hook")

        with pytest.raises(error), lens.hooks([("blocks.2.attn.hook_z", fail)]):
            lens.run_with_cache(trajectory, step=STEP, names_filter="hook_velocity")
        velocity, _ = lens.run_with_cache(trajectory, step=STEP)
        assert torch.equal(velocity, plain_velocity(lens, trajectory))


def test_a_hook_that_never_fired_is_an_error(lens: DiTLens, trajectory: Trajectory) -> None:
    with pytest.raises(RuntimeError, match=r"never|fire"), lens.hooks([("blocks.0.hook_resid_pre", edits.zero())], [4]):
        lens.run_with_cache(trajectory, step=1)


def test_gradients_flow_to_an_edit_and_none_to_the_weights(lens: DiTLens, trajectory: Trajectory) -> None:
    push = torch.zeros(128, requires_grad=True)
    _, cache = lens.run_with_cache(trajectory, step=STEP, names_filter="blocks.3.hook_resid_post")
    with lens.hooks([("blocks.1.hook_resid_post", lambda x, hook: x + push)]):
        _, cache = lens.run_with_cache(trajectory, step=STEP, names_filter="blocks.3.hook_resid_post")
    cache["resid_post", 3].sum().backward()
    assert push.grad.abs().max() > 0
    assert all(p.grad is None for p in lens.transformer.parameters())


def test_stopping_early_runs_nothing_behind(lens: DiTLens, trajectory: Trajectory) -> None:
    ran: list[int] = []
    handles = [
        block.ffn.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(lens.transformer.blocks)
    ]
    velocity, cache = lens.run_with_cache(
        trajectory, step=STEP, names_filter="blocks.2.hook_resid_post", stop_at="blocks.2.hook_resid_post"
    )
    for handle in handles:
        handle.remove()
    full = lens.run_with_cache(trajectory, step=STEP, names_filter="blocks.2.hook_resid_post")[1]
    assert velocity is None and ran == [0, 1, 2]
    assert torch.equal(cache["resid_post", 2], full["resid_post", 2])


def test_a_suffix_equals_the_whole_and_runs_no_earlier_block(lens: DiTLens, trajectory: Trajectory) -> None:
    velocity, cache = lens.run_with_cache(trajectory, step=STEP)
    ran: list[int] = []
    handles = [
        block.ffn.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(lens.transformer.blocks)
    ]
    again, kept = lens.model.run_suffix(
        lens.evaluation(trajectory, STEP), 4, dict(cache), {}, Request("blocks.5.hook_resid_post")
    )
    for handle in handles:
        handle.remove()
    assert ran == [4, 5]
    assert torch.equal(again, velocity) and torch.equal(kept["resid_post", 5], cache["resid_post", 5])


def test_several_steps_stack_in_front(lens: DiTLens, trajectory: Trajectory) -> None:
    velocity, cache = lens.run_with_cache(trajectory, steps=[2, STEP], names_filter="blocks.*.hook_resid_post")
    single = lens.run_with_cache(trajectory, step=STEP, names_filter="blocks.4.hook_resid_post")[1]
    assert velocity.shape[:2] == (2, 4)
    assert torch.equal(cache["resid_post", 4][1], single["resid_post", 4])
    assert cache.grid("resid_post", 4).shape == (2, 4, 5, 4, 4, 128)


def test_sigma_finds_the_nearest_step(lens: DiTLens, trajectory: Trajectory) -> None:
    by_sigma = lens.run_with_cache(trajectory, sigma=trajectory.schedule.sigmas[STEP] + 0.01)[0]
    assert torch.equal(by_sigma, plain_velocity(lens, trajectory))


def test_the_transformers_own_arguments_do_as_well(lens: DiTLens, trajectory: Trajectory) -> None:
    velocity, cache = lens.run_with_cache(
        latent=trajectory.latents[STEP], timestep=trajectory.schedule.timesteps[STEP], names_filter="hook_x0"
    )
    assert torch.equal(velocity, plain_velocity(lens, trajectory)) and "hook_x0" in cache


def test_a_hook_may_write_in_place_and_the_trajectory_stays_as_it_was(lens: DiTLens, trajectory: Trajectory) -> None:
    """TransformerLens users write `x[:] = 0`, with and without returning x."""
    kept = trajectory.latents.clone()

    def quiet(x: torch.Tensor, hook: Hook) -> None:
        x[:] = 0

    def returned(x: torch.Tensor, hook: Hook) -> torch.Tensor:
        x[:] = 0
        return x

    for point in ("blocks.2.hook_attn_out", "blocks.2.attn.hook_z", "blocks.2.hook_mlp_out", "hook_latent"):
        expected = lens.run_with_hooks(trajectory, STEP, fwd_hooks=[(point, edits.zero())])
        for function in (quiet, returned):
            assert torch.equal(lens.run_with_hooks(trajectory, STEP, fwd_hooks=[(point, function)]), expected), point
    assert torch.equal(trajectory.latents, kept)


def test_steps_are_those_of_the_trajectory_whatever_the_scheduler_was_left_at(lens: DiTLens) -> None:
    latent = torch.zeros(1, 16, 5, 8, 8)
    lens.pipeline.scheduler.set_timesteps(50)
    steps_seen: list[int | None] = []
    with lens.hooks([("hook_latent", lambda x, hook: steps_seen.append(hook.step))], steps=range(6)):
        lens.invert(latent, steps=5, solver="euler")
    assert steps_seen == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="fire"), lens.hooks([("hook_latent", edits.zero())], steps=[50]):
        lens.invert(latent, steps=5, solver="euler")


def test_conditioning_of_a_batch_follows_its_clips(lens: DiTLens, trajectory: Trajectory) -> None:
    text = torch.randn(4, 4, 32, generator=torch.Generator().manual_seed(3))
    together = DiTLens(lens.pipeline, "own prompts", Conditioning({"encoder_hidden_states": text}))
    path = together.invert(trajectory.latents[0], steps=2, solver="euler", batch_size=3)
    alone = DiTLens(lens.pipeline, "own prompt", Conditioning({"encoder_hidden_states": text[3:]}))
    single = alone.invert(trajectory.latents[0][3:], steps=2, solver="euler")
    torch.testing.assert_close(path[3:].latents, single.latents, rtol=0, atol=1e-4)
    velocity, _ = together.run_with_cache(path[3:], step=1, names_filter="hook_velocity")
    torch.testing.assert_close(velocity, alone.run_with_cache(single, step=1)[0], rtol=0, atol=1e-4)


def test_a_bfloat16_model_keeps_its_laws(codec, tmp_path, trajectory: Trajectory) -> None:
    mini_wan.save(assemble(new_transformer(0), codec), tmp_path)
    half = DiTLens.from_pretrained(tmp_path, dtype=torch.bfloat16)
    path = half.invert(trajectory.latents[0], steps=3, solver="euler")
    assert path.latents.dtype == torch.float32
    velocity, cache = half.run_with_cache(path, step=2)
    assert velocity.dtype == torch.bfloat16 and cache["attn_out", 1].dtype == torch.float32
    after = (cache["resid_pre", 1].float() + cache["attn_out", 1]).to(torch.bfloat16)
    assert torch.equal(after, cache["resid_mid_attn", 1])
    for name in ("blocks.1.hook_attn_out", "blocks.1.attn.hook_z", "blocks.3.hook_mlp_out"):
        same = half.run_with_hooks(path, 2, fwd_hooks=[(name, lambda x, hook: x.clone())])
        assert torch.equal(same, velocity), name


def test_what_is_printed_fits_on_a_line(lens: DiTLens, trajectory: Trajectory) -> None:
    pair = datasets.load("miniphys", split="test", quadruplets=1)[0].pairs("first")[0]
    assert all(len(repr(thing)) < 600 for thing in (lens, trajectory, trajectory.conditioning, pair))
    assert "4 clips" in repr(trajectory) and "6 blocks" in repr(lens)


def test_shapes_of_hook_points_are_told_for_a_latent(lens: DiTLens, trajectory: Trajectory) -> None:
    table = lens.hook_points(trajectory.latents[0]).set_index("name")
    assert table.loc["blocks.3.attn.hook_z", "shape"] == (4, 80, 4, 32)
    assert table.loc["blocks.3.attn.hook_pattern", "shape"] == (4, 4, 80, 80)
    assert "rotary" in table.loc["blocks.*.cross_attn.hook_rot_q", "absent because"]


def test_pipelines_with_parts_that_are_not_handled_are_refused(codec) -> None:
    pipeline = assemble(new_transformer(0), codec)
    pipeline.register_modules(transformer_2=new_transformer(1))
    with pytest.raises(TypeError, match="two experts"):
        DiTLens(pipeline, "two", Conditioning({"encoder_hidden_states": empty_prompt()}))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda lens, t: lens.run_with_cache(t, step=9), IndexError, "step 9"),
        (lambda lens, t: lens.run_with_cache(t), TypeError, "step="),
        (lambda lens, t: lens.run_with_cache(), TypeError, "latent="),
        (lambda lens, t: lens.run_with_cache(t, step=1, names_filter="blocks.3.atn.hook_z"), KeyError, "attn.hook_z"),
        (lambda lens, t: lens.run_with_cache(t, step=1, names_filter="blocks.1.text.hook_q"), KeyError, "absent"),
        (lambda lens, t: lens.run_with_cache(t, sigma=1.5), ValueError, "sigma"),
        (lambda lens, t: lens.run_with_cache(t, steps=[]), ValueError, "no steps"),
        (lambda lens, t: lens.run_with_cache(t, step=1.5), TypeError, "1.5"),
        (lambda lens, t: patch_heads(lens, t, t, [1], lambda v, c: v), TypeError, "Readout"),
        (lambda lens, t: lens.invert(np.zeros((17, 3, 32, 32), np.uint8)), ValueError, "channels last"),
        (lambda lens, t: lens.run_with_cache(step=1, latent=t.latents[0], timestep=1.0), TypeError, "trajectory"),
        (lambda lens, t: lens.block(6), IndexError, "block 6"),
        (lambda lens, t: lens.invert([t.latents[0]]), TypeError, "clips"),
        (
            lambda lens, t: lens.run_with_cache(
                latent=t.latents[0], timestep=1.0, encoder_hidden_states=torch.zeros(3, 4, 32)
            ),
            ValueError,
            "3 clips",
        ),
        (lambda lens, t: lens.invert(t.latents[0], steps=2, solver="heum"), ValueError, "heun"),
        (lambda lens, t: lens.invert(torch.zeros(1, 3, 17, 32, 32)), ValueError, "latents"),
        (lambda lens, t: lens.invert(np.zeros((17, 32, 32, 3))), ValueError, "uint8"),
        (lambda lens, t: lens.run_with_hooks(t, 1, fwd_hooks=[("hook_x0", edits.zero())]), TypeError, "read"),
        (
            lambda lens, t: lens.run_with_hooks(t, 1, fwd_hooks=[("hook_embed", lambda x, h: x[:1])]),
            ValueError,
            "shape",
        ),
    ],
)
def test_bad_input_says_what_was_got_and_what_is_expected(lens, trajectory, call, error, says) -> None:
    with pytest.raises(error, match=says):
        call(lens, trajectory)


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match="WanTransformer3DModel"):
        families.find(
            UNet2DModel(block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        )


def test_per_token_timesteps_gate_each_token(lens: DiTLens, trajectory: Trajectory) -> None:
    """Wan2.2-TI2V feeds a timestep per token; the gated writes still sum to the stream."""
    time = torch.linspace(0, 900, 80).repeat(4, 1)
    velocity, cache = lens.run_with_cache(latent=trajectory.latents[STEP], timestep=time)
    assert torch.equal(cache["resid_pre", 1] + cache["attn_out", 1], cache["resid_mid_attn", 1])
    sigma = (time / 1000).view(4, 1, 5, 4, 1, 4, 1).expand(-1, -1, -1, -1, 2, -1, 2).reshape(4, 1, 5, 8, 8)
    torch.testing.assert_close(cache["hook_x0"], trajectory.latents[STEP] - sigma * velocity)


def test_a_wan_without_text_encoder_needs_a_conditioning(codec) -> None:
    pipeline = assemble(new_transformer(0), codec)
    assert isinstance(pipeline, WanPipeline)
    with pytest.raises(ValueError, match="conditioning"):
        DiTLens(pipeline)
