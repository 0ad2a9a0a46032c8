"""LTX-Video and LTX-2: what is fed, encoded and decoded is what the stock pipelines feed, encode and decode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTXConditionPipeline,
    LTXI2VLongMultiPromptPipeline,
    LTXPipeline,
)
from small_models import build
from torch import Tensor

from dit_lens import DiTLens
from dit_lens.conditioning import Conditioning
from dit_lens.families import ltx, ltx2
from dit_lens.families.ltx_parts import pack, token_grid, unpack
from dit_lens.hook_points import Hook
from dit_lens.running import Evaluation, HookedTransformer, Model, Request

GRID = {"num_frames": 2, "height": 3, "width": 2}
PROMPT = {"prompt_embeds": torch.ones(1, 3, 16), "prompt_attention_mask": torch.tensor([[True, True, False]])}


def autoencoder(timestep_conditioning: bool) -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), scaling_factor=0.7,
        timestep_conditioning=timestep_conditioning,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-1, 1, 4))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 4))
    return vae.eval()


@pytest.fixture(params=[False, True])
def pipeline(request: pytest.FixtureRequest) -> LTXPipeline:
    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder(request.param), text_encoder=None, tokenizer=None,
        transformer=build("ltx"),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, output: str) -> Any:
    return pipe(
        **PROMPT, height=64, width=64, num_frames=9, num_inference_steps=2, guidance_scale=1.0, output_type=output,
        generator=torch.Generator().manual_seed(0), return_dict=False,
    )[0]  # fmt: skip


@pytest.mark.parametrize("stock", [LTXPipeline, LTX2Pipeline])
def test_latents_are_packed_as_the_pipelines_pack_them(stock: Any, generator: torch.Generator) -> None:
    latent = torch.randn(2, 4, 2, 3, 2, generator=generator)
    packed = pack(latent)
    assert torch.equal(packed, stock._pack_latents(latent))
    assert torch.equal(unpack(packed, GRID | {"hidden_states": packed}), latent)
    assert torch.equal(stock._unpack_latents(packed, 2, 3, 2), latent)


def test_tokens_that_are_no_place_of_the_latent_are_refused() -> None:
    for sizes, where in (
        (GRID, r"for .* = \(2, 3, 2\)"),
        (dict.fromkeys(GRID), "that are placed by coordinates alone"),
    ):
        with pytest.raises(ValueError, match=rf"got 15 tokens {where} · expected one token for each place"):
            token_grid(sizes | {"hidden_states": torch.zeros(1, 15, 4)})


def test_what_is_fed_is_what_the_pipeline_feeds(pipeline: LTXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[dict] = []
    forward = pipeline.transformer.forward
    monkeypatch.setattr(
        pipeline.transformer, "forward", lambda **arguments: fed.append(arguments) or forward(**arguments)
    )
    run(pipeline, "latent")
    expected = {name: value for name, value in fed[0].items() if name != "attention_kwargs"}
    tensors = dict(zip(ltx.CONDITIONING[:2], PROMPT.values(), strict=True))
    inputs = ltx.inputs(
        pipeline.transformer, unpack(expected["hidden_states"], expected), expected["timestep"], tensors
    )
    assert inputs.keys() == expected.keys()
    for name, value in inputs.items():
        assert torch.equal(value, expected[name]) if isinstance(value, Tensor) else value == expected[name], name


def test_a_latent_is_decoded_as_the_pipeline_decodes_it(pipeline: LTXPipeline) -> None:
    tokens, video = run(pipeline, "latent"), run(pipeline, "pt")
    latent = LTXPipeline._unpack_latents(tokens, 2, 2, 2)
    with torch.no_grad():
        decoded = ltx.FAMILY.decode(pipeline.vae, latent)
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1).transpose(1, 2), video)
    with torch.no_grad():
        encoded = ltx.FAMILY.encode(pipeline.vae, decoded)
        raw = pipeline.vae.encode(decoded).latent_dist.mode()
    expected = LTXPipeline._normalize_latents(raw, pipeline.vae.latents_mean, pipeline.vae.latents_std, 0.7)
    torch.testing.assert_close(encoded, expected)


def test_hooks_act_on_the_pipelines_own_calls(pipeline: LTXPipeline) -> None:
    conditioning = Conditioning(dict(zip(ltx.CONDITIONING[:2], PROMPT.values(), strict=True)))
    lens, plain, estimates = DiTLens(pipeline, conditioning=conditioning, verify=False), run(pipeline, "latent"), []
    with lens.hooks([("hook_x0", lambda x, hook: estimates.append(x))]):
        assert torch.equal(run(pipeline, "latent"), plain)
    assert [tuple(x.shape) for x in estimates] == [(1, 4, 2, 2, 2)] * 2
    torch.testing.assert_close(pack(estimates[-1]), plain)  # the last step of a sampler lands on the clean estimate
    with lens.hooks([("blocks.1.hook_attn_out", lambda x, hook: 0 * x)]):
        assert not torch.equal(run(pipeline, "latent"), plain)


def test_the_compression_is_that_of_the_pipeline_s_autoencoder() -> None:
    """Diffusers' own test pipelines compress 4 times; the rotary embedding counts in seconds and pixels."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), patch_size=1, patch_size_t=1,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        encoder_causal=True, decoder_causal=False,
    ).eval()  # fmt: skip
    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=None, tokenizer=None,
        transformer=build("ltx"),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    conditioning = Conditioning(dict(zip(ltx.CONDITIONING[:2], PROMPT.values(), strict=True)))
    lens, fed = DiTLens(pipe, conditioning=conditioning), []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, arguments: fed.append(arguments), with_kwargs=True
    )
    run(pipe, "latent")
    handle.remove()
    scale = fed[0]["rope_interpolation_scale"]
    assert scale == (4 / 25, 4, 4) and lens.sizes is not None and (lens.sizes.temporal, lens.sizes.spatial) == (4, 4)
    inputs = lens.model.evaluation(torch.zeros(1, 4, 2, 3, 2), 500.0, conditioning).inputs
    assert inputs["rope_interpolation_scale"] == scale
    alone = HookedTransformer(build("ltx"), "alone").evaluation(torch.zeros(1, 4, 2, 3, 2), 500.0, conditioning).inputs
    assert alone["rope_interpolation_scale"] == (8 / 25, 32, 32)  # as released


@pytest.mark.parametrize("kind", [LTXConditionPipeline, LTXI2VLongMultiPromptPipeline])
def test_pipelines_that_place_tokens_by_coordinates_are_refused_and_their_parts_are_not(kind: Any) -> None:
    parts: Any = {"text_encoder": None, "tokenizer": None, "transformer": build("ltx")}
    whole = LTXPipeline(FlowMatchEulerDiscreteScheduler(), autoencoder(False), **parts)
    conditioning, refused = Conditioning({"encoder_hidden_states": torch.ones(1, 3, 16)}), kind(**whole.components)
    with pytest.raises(TypeError, match=r"places tokens by coordinates,.* expected an LTXPipeline"):
        DiTLens(refused, conditioning=conditioning, verify=False)
    assert DiTLens(LTXPipeline.from_pipe(refused), conditioning=conditioning, verify=False).blocks == 3


def test_a_prompt_is_encoded_as_the_pipelines_encode_it() -> None:
    text, mask = torch.ones(1, 3, 8), torch.tensor([[True, True, False]])
    asked: list[dict] = []

    def encode_prompt(prompt: str, **options: Any) -> tuple:
        asked.append(options)
        return text, mask, None, None

    def connectors(raw: Tensor, mask: Tensor, padding_side: str) -> tuple:
        return 2 * raw, 3 * raw, mask.long() + len(padding_side)

    stock = SimpleNamespace(
        text_encoder=True, encode_prompt=encode_prompt, connectors=connectors,
        tokenizer=SimpleNamespace(padding_side="left"), transformer=SimpleNamespace(config={"audio_in_channels": 6}),
    )  # fmt: skip
    conditioning, more = ltx.encode_prompt(stock, "a ball"), ltx2.encode_prompt(stock, "a ball")
    assert tuple(conditioning.tensors) == ltx.CONDITIONING[:2] and tuple(more.tensors) == ltx2.CONDITIONING
    assert conditioning.prompt == more.prompt == "a ball"
    assert conditioning.to("cpu", torch.bfloat16).tensors["encoder_attention_mask"].dtype == torch.bool
    expected = [2 * text, 3 * text, mask.long() + 4, torch.zeros(1, 1, 6)]
    assert all(map(torch.equal, more.tensors.values(), expected))
    assert [options["max_sequence_length"] for options in asked] == [128, 1024]
    stock.text_encoder = None
    for family in (ltx, ltx2):
        with pytest.raises(ValueError, match="got a pipeline without text encoder"):
            family.encode_prompt(stock, "")


@pytest.mark.parametrize("name", ["ltx", "ltx2", "ltx2_gated"])
def test_every_token_may_have_a_time_of_its_own(name: str, generator: torch.Generator) -> None:
    model = HookedTransformer(build(name), name)
    latent, tensors = model.family.example(model.transformer, generator)
    latent = torch.cat([latent, latent])
    times = torch.linspace(0, 1000, 12).expand(2, -1)
    asked = ["hook_time_embed", "blocks.0.mod.hook_gate_attn", "hook_x0", "hook_velocity"]

    def cached(timestep: Tensor, names: list[str] = asked) -> dict[str, Tensor]:
        return model.run_with(model.evaluation(latent, timestep, Conditioning(tensors)), {}, Request(names))[1]

    apart, same, shared = cached(times), cached(torch.full((2, 12), 500.0)), cached(torch.full((2,), 500.0))
    assert [apart[name].shape[:2] for name in asked[:2]] == [(2, 12)] * 2
    assert [shared[name].ndim for name in asked[:2]] == [2, 2]
    for point in asked:
        torch.testing.assert_close(
            same[point], shared[point].unsqueeze(1).expand_as(same[point]) if shared[point].ndim == 2 else shared[point]
        )
    sigma = model.family.grid(model.transformer, {"hidden_states": torch.zeros(2, 12, 4)} | GRID).unflatten(
        times / 1000
    )
    torch.testing.assert_close(apart["hook_x0"], latent - sigma.unsqueeze(1) * apart["hook_velocity"])


@pytest.fixture
def audiovisual() -> HookedTransformer:
    return HookedTransformer(build("ltx2_gated"), "small LTX-2.3")


@pytest.fixture
def evaluation(audiovisual: HookedTransformer, generator: torch.Generator) -> Evaluation:
    latent, tensors = ltx2.example(audiovisual.transformer, generator)
    return audiovisual.evaluation(latent, 500.0, Conditioning(tensors))


def zero(x: Tensor, hook: Hook) -> Tensor:
    return 0 * x


def test_without_its_cross_modal_writes_ltx2_is_two_models(
    audiovisual: HookedTransformer, evaluation: Evaluation
) -> None:
    apart = audiovisual.transformer(**evaluation.inputs, isolate_modalities=True)
    writes = {f"blocks.{block}.{name}": [zero] for block in (0, 1) for name in ("hook_a2v_out", "audio.hook_v2a_out")}
    velocity, cache = audiovisual.run_with(evaluation, writes, Request("audio.hook_velocity"))
    torch.testing.assert_close(velocity, unpack(apart[0], evaluation.inputs))
    torch.testing.assert_close(cache["audio.hook_velocity"], apart[1])
    assert not torch.allclose(velocity, audiovisual.velocity(evaluation))


def test_a_head_behind_a_closed_gate_writes_nothing(audiovisual: HookedTransformer, evaluation: Evaluation) -> None:
    def shut(x: Tensor, hook: Hook) -> Tensor:
        assert hook.axes == "b n k"
        return x.index_fill(2, torch.tensor([1]), 0)

    name = "blocks.0.attn.hook_head_gate"
    _, plain = audiovisual.run_with(evaluation, {}, Request("blocks.0.attn.hook_result"))
    _, cache = audiovisual.run_with(evaluation, {name: [shut]}, Request("blocks.0.attn.hook_result"))
    result = cache["blocks.0.attn.hook_result"]
    torch.testing.assert_close(result[:, :, 1], torch.zeros_like(result[:, :, 1]))
    assert torch.equal(result[:, :, 0], plain["blocks.0.attn.hook_result"][:, :, 0])


def test_audio_is_fed_clean_and_as_long_as_the_clip(audiovisual: HookedTransformer, generator: torch.Generator) -> None:
    latent, tensors = ltx2.example(audiovisual.transformer, generator)
    audio = torch.randn(1, 1, 6, generator=generator)
    fed = ltx2.inputs(
        audiovisual.transformer,
        torch.cat([latent] * 2),
        torch.tensor([900.0, 100.0]),
        tensors | {"audio_hidden_states": audio},
    )
    assert torch.equal(
        fed["audio_hidden_states"], audio.expand(2, 9, -1)
    )  # 9 frames at 24 a second, 25 tokens a second
    assert not fed["audio_timestep"].any() and not fed["audio_sigma"].any()
    assert fed["sigma"].tolist() == [900, 100]
    with pytest.raises(ValueError, match="got conditioning without audio_hidden_states · expected encoder_hidden"):
        ltx2.inputs(audiovisual.transformer, latent, torch.tensor([1.0]), {n: tensors[n] for n in list(tensors)[:3]})


def test_a_hooked_call_puts_out_what_a_plain_one_does(audiovisual: HookedTransformer, evaluation: Evaluation) -> None:
    arguments = evaluation.inputs | {"return_dict": True}
    plain = audiovisual.transformer(**arguments)
    with Model(audiovisual).hooks([("blocks.0.attn.hook_z", lambda x, hook: x.clone())]):
        hooked = audiovisual.transformer(**arguments)
    assert type(hooked) is type(plain)
    assert torch.equal(hooked.sample, plain.sample) and torch.equal(hooked.audio_sample, plain.audio_sample)


def test_calls_that_leave_layers_out_are_hooked_in_the_others(
    audiovisual: HookedTransformer, evaluation: Evaluation
) -> None:
    writable = [name for name, point in audiovisual.table.points.items() if point.write is not None]
    apart = evaluation.inputs | {"isolate_modalities": True}
    perturbed = evaluation.inputs | {"spatio_temporal_guidance_blocks": [1]}
    plain = [audiovisual.transformer(**inputs) for inputs in (evaluation.inputs, apart, perturbed)]
    assert not any(torch.equal(plain[i][0], plain[j][0]) for i, j in ((0, 1), (0, 2), (1, 2)))
    calls: list[str] = []

    def noted(x: Tensor, hook: Hook) -> Tensor:
        calls.append(hook.name)
        return x.clone()

    with Model(audiovisual).hooks([(writable, noted)]):
        for inputs, stock in zip((evaluation.inputs, apart, perturbed), plain, strict=True):
            assert all(map(torch.equal, audiovisual.transformer(**inputs), stock))
    assert calls.count("blocks.1.hook_mlp_out") == 3
    for name in ("blocks.0.hook_a2v_out", "blocks.1.audio.v2a.hook_q", "blocks.1.attn.hook_head_gate"):
        assert calls.count(name) == 2, name


class FedError(Exception):
    """Carries what a transformer was called with."""


def test_ltx2_is_told_what_its_pipeline_tells(audiovisual: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = audiovisual.transformer
    pipe = LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer, vae=None, audio_vae=None,
        text_encoder=None, tokenizer=None, connectors=None, vocoder=None,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    text, audio_text, mask = torch.ones(1, 3, 20), torch.ones(1, 3, 16), torch.tensor([[0, 1, 1]])
    pipe.connectors = lambda *_, **__: (text, audio_text, mask)

    def catch(**arguments: Any) -> None:
        raise FedError(arguments)

    monkeypatch.setattr(transformer, "forward", catch)
    with pytest.raises(FedError) as caught:
        pipe(
            prompt_embeds=torch.ones(1, 3, 4), prompt_attention_mask=mask, height=64, width=96, num_frames=17,
            guidance_scale=1.0, audio_guidance_scale=1.0,
        )  # fmt: skip
    (expected,) = caught.value.args
    tensors = dict(zip(ltx2.CONDITIONING, (text, audio_text, mask, torch.zeros(1, 1, 6)), strict=True))
    inputs = ltx2.inputs(transformer, unpack(expected["hidden_states"], expected), expected["timestep"], tensors)
    ours = {"audio_hidden_states", "audio_timestep", "audio_sigma"}
    for name in inputs.keys() - ours:
        value = inputs[name]
        assert torch.equal(value, expected[name]) if isinstance(value, Tensor) else value == expected[name], name
    assert inputs["audio_hidden_states"].shape[1] == expected["audio_hidden_states"].shape[1]
    rope = transformer.rope.prepare_video_coords(1, *token_sizes(inputs), "cpu", fps=inputs["fps"])
    assert torch.equal(rope, expected["video_coords"])


def token_sizes(arguments: dict) -> tuple[int, ...]:
    return arguments["num_frames"], arguments["height"], arguments["width"]
