"""CogVideoX: streams that share one attention, noise levels of a variance-preserving model, what its pipelines feed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline, CogVideoXPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.schedulers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler
from small_models import build
from torch import Tensor

from dit_lens import DiTLens, laws
from dit_lens.conditioning import Conditioning
from dit_lens.families import cogvideox
from dit_lens.hook_points import Hook
from dit_lens.running import Evaluation, HookedTransformer, Request

SHIFT = {"cogvideox": 1.0, "cogvideox_2b": 3.0, "cogvideox_i2v": 1.0, "cogvideox_15_i2v": 1.0}


def scheduler(shift: float) -> CogVideoXDDIMScheduler:
    """As the published models have it, of 2B (3.0) and 5B (1.0)."""
    return CogVideoXDDIMScheduler(
        beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, clip_sample=False, set_alpha_to_one=True,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=shift, timestep_spacing="trailing",
    )  # fmt: skip


@pytest.fixture(params=list(SHIFT))
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return HookedTransformer(build(request.param), request.param)


def kept(model: HookedTransformer, *names: str, functions: Any = None, evaluation: Any = None) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.run_with(evaluation or laws.example(model), functions or {}, Request(names))[1]


@pytest.mark.parametrize("timestep", [0, 1, 500, 998, 999])
def test_velocity_is_noise_minus_data_at_the_levels_of_the_stock_scheduler(
    model: HookedTransformer, timestep: int
) -> None:
    stock, timesteps = scheduler(SHIFT[model.name]), torch.tensor([timestep])
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))
    data, noise = latent, torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    noisy = stock.add_noise(data, noise, timesteps)
    inputs = model.family.inputs(model.transformer, noisy, timesteps.float(), tensors)
    output = (stock.get_velocity(data, noise, timesteps).transpose(1, 2),)
    torch.testing.assert_close(model.family.velocity(inputs, output), noise - data, atol=1e-5, rtol=1e-5)
    clean = model.table.points["hook_x0"].read(((), inputs), output)
    torch.testing.assert_close(clean, data, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("timestep", [0, 1, 500, 998, 999])
def test_sigma_and_timestep_are_each_other_s_inverse(model: HookedTransformer, timestep: int) -> None:
    alpha = scheduler(SHIFT[model.name]).alphas_cumprod[timestep]
    sigma = model.family.to_sigma(torch.tensor([timestep]))
    torch.testing.assert_close(sigma, ((1 - alpha) ** 0.5 / (alpha**0.5 + (1 - alpha) ** 0.5)).float().view(1))
    assert model.family.to_timestep(float(sigma)) == pytest.approx(timestep, abs=1e-2)


def test_the_ends_of_time(model: HookedTransformer) -> None:
    assert model.family.to_timestep(1.0) == 999
    assert model.family.to_timestep(0.0) == 0
    assert float(model.family.to_sigma(torch.tensor([999.0]))) == 1.0
    between = model.family.to_sigma(torch.tensor([500.0, 500.5, 501.0]))
    assert between[0] < between[1] < between[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stream_and_its_write_make_the_next_stream_to_the_bit(model: HookedTransformer, dtype: torch.dtype) -> None:
    model.transformer.to(dtype)
    cache = kept(model, "*")
    stretches = list(laws.streams(list(model.table.points)))
    assert len(stretches) == 2 * 2 * 3  # writes, streams, blocks
    for before, (write,), after in stretches:
        assert torch.equal(cache[before] + cache[write], cache[after])


def test_queries_and_keys_are_kept_as_they_were_before_rotary(model: HookedTransformer) -> None:
    evaluation = laws.example(model)
    rotary, attention = evaluation.inputs["image_rotary_emb"], model.transformer.transformer_blocks[0].attn1
    normed: dict[str, Tensor] = {}  # the stock processor turns them in place, so a look at the end comes too late
    handles = [
        getattr(attention, f"norm_{letter}").register_forward_hook(
            lambda module, args, out, letter=letter: normed.update({letter: out.clone()})
        )
        for letter in "qk"
    ]
    cache = kept(model, "blocks.0.*attn.hook_*", evaluation=evaluation)
    for handle in handles:
        handle.remove()
    text = cache["blocks.0.text.attn.hook_q"].shape[1]
    for letter, value in normed.items():
        assert torch.equal(cache[f"blocks.0.attn.hook_{letter}"], value[:, :, text:].transpose(1, 2))
        assert torch.equal(cache[f"blocks.0.text.attn.hook_{letter}"], value[:, :, :text].transpose(1, 2))
        if rotary is not None:
            turned = apply_rotary_emb(value[:, :, text:], rotary).transpose(1, 2)
            assert torch.equal(cache[f"blocks.0.attn.hook_rot_{letter}"], turned)
            assert not torch.equal(turned, cache[f"blocks.0.attn.hook_{letter}"])


def test_patterns_have_video_keys_first(model: HookedTransformer) -> None:
    home = "blocks.1"
    cache = kept(model, f"{home}.*attn.hook_pattern", f"{home}.*attn.hook_[vz]")
    values = torch.cat([cache[f"{home}.attn.hook_v"], cache[f"{home}.text.attn.hook_v"]], 1)
    for stream in ("", "text."):
        pattern, z = (cache[f"{home}.{stream}attn.hook_{name}"] for name in ("pattern", "z"))
        torch.testing.assert_close(torch.einsum("bknm,bmke->bnke", pattern, values), z, atol=1e-5, rtol=1e-4)


def test_an_edited_pattern_moves_z_by_as_much(model: HookedTransformer) -> None:
    name = "blocks.1.attn.hook_pattern"

    def video_only(x: Tensor, hook: Hook) -> None:
        x[..., hook.grid.tokens :] = 0

    before, after = (
        kept(model, name, "blocks.1.*attn.hook_[vz]", functions=functions) for functions in ({}, {name: [video_only]})
    )
    pattern = before[name][..., : before["blocks.1.attn.hook_v"].shape[1]]
    expected = torch.einsum("bknm,bmke->bnke", pattern, before["blocks.1.attn.hook_v"])
    torch.testing.assert_close(after["blocks.1.attn.hook_z"], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(after["blocks.1.text.attn.hook_z"], before["blocks.1.text.attn.hook_z"])


def test_velocity_is_that_of_the_latent_the_model_was_fed(model: HookedTransformer) -> None:
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))

    def evaluation(latent: Tensor) -> Evaluation:
        return model.evaluation(latent, 500.0, Conditioning(tensors))

    edited, cache = model.run_with(
        evaluation(latent), {"hook_latent": [lambda x, hook: 0.5 * x]}, Request(["hook_velocity", "hook_x0"])
    )
    plain, plain_cache = model.run_with(evaluation(0.5 * latent), {}, Request("hook_x0"))
    assert edited is not None
    torch.testing.assert_close(edited, plain)
    torch.testing.assert_close(cache["hook_x0"], plain_cache["hook_x0"])
    assert torch.equal(edited, cache["hook_velocity"])


def pipeline(name: str, **latents: Any) -> Any:
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_height=64,
        sample_width=64, scaling_factor=0.7, **latents,
    )  # fmt: skip
    kind = CogVideoXImageToVideoPipeline if "i2v" in name else CogVideoXPipeline
    absent: Any = {"tokenizer": None, "text_encoder": None}
    pipe: Any = kind(transformer=build(name), vae=vae.eval(), scheduler=scheduler(SHIFT[name]), **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fed(pipe: Any, *, frames: int = 5, output: str = "latent", image: Tensor | None = None) -> tuple[list[Any], Any]:
    """The keyword arguments of every call that a stock pipeline makes of its transformer, and what comes out."""
    calls: list[Any] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    images = {} if image is None else {"image": image}
    out = pipe(
        prompt_embeds=torch.randn(1, 3, 12), height=64, width=64, num_frames=frames, num_inference_steps=2,
        guidance_scale=1.0, output_type=output, **images,
    ).frames  # fmt: skip
    handle.remove()
    return calls, out


@pytest.mark.parametrize("name", list(SHIFT))
def test_inputs_are_what_the_stock_pipeline_feeds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pipeline draws image latents from the posterior, the family takes its mode.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    pipe, image = pipeline(name, invert_scale_latents="15" in name), torch.rand(1, 3, 64, 64)
    family = HookedTransformer(pipe.transformer, name).family
    for call in fed(pipe, image=image if "i2v" in name else None)[0]:
        conditioning = {"encoder_hidden_states": call["encoder_hidden_states"]}
        if "i2v" in name:
            # The image processor takes what is in [0, 1] to [-1, 1].
            conditioning["image_latents"] = cogvideox.encode_image(
                pipe.vae, 2 * image - 1, call["hidden_states"].shape[1]
            )
        latent = call["hidden_states"][:, :, :4].transpose(1, 2)
        inputs = family.inputs(pipe.transformer, latent, call["timestep"].float(), conditioning)
        assert set(inputs) >= {key for key, value in call.items() if value is not None}
        assert torch.equal(inputs["hidden_states"], call["hidden_states"])
        assert torch.equal(inputs["timestep"], call["timestep"].float())
        assert (inputs["image_rotary_emb"] is None) == (call["image_rotary_emb"] is None) == (name == "cogvideox_2b")
        for ours, theirs in zip(inputs["image_rotary_emb"] or (), call["image_rotary_emb"] or (), strict=True):
            assert torch.equal(ours, theirs)
        assert inputs["ofs"] is call.get("ofs") is None or torch.equal(inputs["ofs"], call["ofs"])


def test_latents_are_scaled_as_the_stock_pipeline_scales_them() -> None:
    pipe, latent = pipeline("cogvideox"), torch.randn(1, 4, 2, 8, 8)
    torch.testing.assert_close(cogvideox.FAMILY.decode(pipe.vae, latent), pipe.decode_latents(latent.transpose(1, 2)))
    video = torch.rand(1, 3, 5, 64, 64) * 2 - 1
    assert torch.equal(cogvideox.FAMILY.encode(pipe.vae, video), 0.7 * pipe.vae.encode(video).latent_dist.mode())


def test_the_stock_pipeline_runs_under_hooks() -> None:
    pipe = pipeline("cogvideox")
    torch.manual_seed(0)
    _, plain = fed(pipe)
    lens = DiTLens(pipe, conditioning=Conditioning({"encoder_hidden_states": torch.randn(1, 3, 12)}))
    places = []

    def look(x: Tensor, hook: Hook) -> Tensor:
        places.append((hook.step, hook.sigma))
        return x.clone()

    torch.manual_seed(0)
    with lens.hooks([("blocks.1.hook_attn_out", look), ("hook_velocity", look)]):
        _, hooked = fed(pipe)
    assert torch.equal(hooked, plain)
    assert [step for step, _ in places] == [2, 2, 1, 1]
    assert places[0][1] == 1.0 and 0 < places[2][1] < 1


def test_another_schedule_than_the_model_s_does_not_load() -> None:
    for name, stock in (("cogvideox", 3.0), ("cogvideox_2b", 1.0)):
        stranger: Any = SimpleNamespace(transformer=build(name), scheduler=scheduler(stock))
        with pytest.raises(TypeError, match="noise levels are not the model's own · expected v_prediction"):
            cogvideox.check_pipeline(stranger)
    stranger = SimpleNamespace(transformer=build("cogvideox"), scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(TypeError, match="got a FlowMatchEulerDiscreteScheduler of prediction None"):
        cogvideox.check_pipeline(stranger)


def test_what_is_missing_is_asked_for() -> None:
    for name, frames, message in (
        ("cogvideox_i2v", 2, "got no image_latents"),
        ("cogvideox_15_i2v", 3, "got latents of 3 frames · expected a multiple of 2"),
    ):
        transformer = build(name)
        with pytest.raises(ValueError, match=message):
            cogvideox.inputs(
                transformer,
                torch.randn(1, 4, frames, 8, 8),
                torch.ones(1),
                {"encoder_hidden_states": torch.ones(1, 3, 12)},
            )
    conditioning = {
        name: HookedTransformer(build(name), name).family.conditioning for name in ("cogvideox", "cogvideox_i2v")
    }
    assert conditioning == {
        "cogvideox": ("encoder_hidden_states",),
        "cogvideox_i2v": ("encoder_hidden_states", "image_latents"),
    }
    with pytest.raises(ValueError, match="got a pipeline without text encoder"):
        cogvideox.FAMILY.encode_prompt(SimpleNamespace(), "")
