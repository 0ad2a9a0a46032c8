"""Cosmos: one class, three conventions of time and output; positions, text and image keys of its blocks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLCosmos,
    AutoencoderKLWan,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2TextToImagePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
)
from diffusers.models.transformers import transformer_cosmos
from diffusers.schedulers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from small_models import build, cosmos
from torch import Tensor, nn

from dit_lens import DiTLens, laws
from dit_lens.conditioning import Conditioning
from dit_lens.families import cosmos as family
from dit_lens.hook_points import Hook
from dit_lens.running import Evaluation, HookedTransformer, Request, repeat

NAMES = ["cosmos", "cosmos_1", "cosmos_25"]


class Unchecked:
    """Stands where the pipelines want a safety checker; here they are given no text and put out no video."""

    def to(self, device: Any) -> Unchecked:
        return self


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return HookedTransformer(build(request.param), request.param)


def wan_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0],
    ).eval()  # fmt: skip


def cosmos_vae() -> AutoencoderKLCosmos:
    torch.manual_seed(0)
    stats = torch.rand(2, 4, 3) + 0.5
    return AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8,) * 4, decode_block_out_channels=(8,) * 4,
        attention_resolutions=(8,), resolution=64, num_layers=1, spatial_compression_ratio=8,
        temporal_compression_ratio=8, latents_mean=stats[0].flatten().tolist(), latents_std=stats[1].flatten().tolist(),
    ).eval()  # fmt: skip


def pipeline(name: str) -> tuple[Any, dict[str, Any]]:
    """A stock pipeline as the published model has it, and arguments for a call of it."""
    if name == "cosmos_1":
        scheduler = EDMEulerScheduler(sigma_data=0.5, prediction_type="epsilon", final_sigmas_type="sigma_min")
        return CosmosTextToWorldPipeline(None, None, build(name), cosmos_vae(), scheduler, Unchecked()), {
            "num_frames": 9, "height": 64, "width": 64,
        }  # fmt: skip
    if name == "cosmos_25":
        flow = UniPCMultistepScheduler(
            use_karras_sigmas=True, use_flow_sigmas=True, prediction_type="flow_prediction", sigma_max=200.0,
            sigma_min=0.01, solver_order=1, disable_corrector=list(range(8)),
        )  # fmt: skip
        transformer = cosmos(
            use_crossattn_projection=True, crossattn_proj_in_channels=20, encoder_hidden_states_channels=16
        )
        return Cosmos2_5_PredictBasePipeline(None, None, transformer, wan_vae(), flow, Unchecked()), {
            "num_frames": 5, "height": 64, "width": 64,
        }  # fmt: skip
    karras = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    transformer = cosmos(in_channels=4)
    pipe = Cosmos2TextToImagePipeline(None, None, transformer, wan_vae(), karras, Unchecked())
    return pipe, {"height": 64, "width": 64}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of tensors in stock schedulers
@pytest.mark.parametrize("name", NAMES)
def test_the_stock_pipeline_follows_the_velocity(name: str) -> None:
    """Euler's rule in the flow's coordinates, at the pipeline's own levels."""
    pipe, shape = pipeline(name)
    pipe.set_progress_bar_config(disable=True)
    text = laws.example(HookedTransformer(pipe.transformer, name)).inputs["encoder_hidden_states"]
    lens = DiTLens(pipe, name, Conditioning({"encoder_hidden_states": text}), verify=False)
    path: list[dict[str, Any]] = []

    def look(x: Tensor, hook: Hook) -> None:
        if hook.name == "hook_latent":
            path.append({"sigma": hook.sigma})
        path[-1][hook.name] = x.clone()

    with lens.hooks([(["hook_latent", "hook_velocity", "hook_x0"], look)]):
        pipe(
            prompt_embeds=text, negative_prompt_embeds=text, guidance_scale=1.0, num_inference_steps=8,
            output_type="latent", generator=torch.Generator().manual_seed(0), **shape,
        )  # fmt: skip
    assert len(path) == 8
    for place in path:
        sigma, fed = place["sigma"], place["hook_latent"]
        place["x"] = fed * ((1 - sigma) ** 2 + sigma**2) ** 0.5 if name == "cosmos_1" else fed
        torch.testing.assert_close(place["hook_x0"], place["x"] - sigma * place["hook_velocity"], atol=1e-5, rtol=1e-5)
    for here, there in itertools.pairwise(path):
        change = there["sigma"] - here["sigma"]
        assert change < 0
        torch.testing.assert_close(there["x"], here["x"] + change * here["hook_velocity"], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_laws_hold_in_bfloat16(name: str) -> None:
    assert all(finding.holds for finding in laws.verify(HookedTransformer(build(name).to(torch.bfloat16), name)))


@pytest.mark.parametrize("sigma", [0.01, 0.3, 0.5, 0.9])
def test_sigma_and_timestep_are_each_other_s_inverse(model: HookedTransformer, sigma: float) -> None:
    fed = torch.tensor([model.family.to_timestep(sigma)])
    torch.testing.assert_close(model.family.to_sigma(fed), torch.tensor([sigma]))


def test_predict_1_is_fed_levels_that_it_knows() -> None:
    assert family.edm_timestep(0.0) == pytest.approx(torch.tensor(0.002).log().item() / 4)
    assert family.edm_timestep(1.0) == pytest.approx(torch.tensor(80.0).log().item() / 4)


def test_predict_1_puts_out_what_the_stock_scheduler_takes() -> None:
    """Its precondition_outputs gives the data that the latent was made of."""
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(1, 4, 2, 8, 8, generator=generator) for _ in range(2))
    stock, s = EDMEulerScheduler(sigma_data=0.5, prediction_type="epsilon"), torch.tensor(1.7)
    x = 0.5 * data + s * noise
    unit = stock.precondition_outputs(x, torch.ones_like(x), s) - stock.precondition_outputs(x, torch.zeros_like(x), s)
    output = (0.5 * data - stock.precondition_outputs(x, torch.zeros_like(x), s)) / unit
    inputs = {"hidden_states": stock.precondition_inputs(x, s), "timestep": stock.precondition_noise(s).view(1)}
    torch.testing.assert_close(family.edm_velocity(inputs, (output,)), noise - data, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_time_told_by_frame_serves_every_hook_point(name: str) -> None:
    model = HookedTransformer(build(name), name)
    evaluation = laws.example(model)
    by_frame = {**evaluation.inputs, "timestep": evaluation.inputs["timestep"].expand(1, 1, 2, 1, 1)}
    framed = replace(evaluation, inputs=by_frame)
    plain, cache = model.run_with(framed, {}, Request("*"))
    torch.testing.assert_close(plain, model.velocity(evaluation), atol=1e-5, rtol=1e-5)
    assert cache["hook_time_embed"].shape[:2] == (1, 2)
    assert cache["blocks.1.mod.hook_gate_attn"].shape == cache["blocks.1.hook_attn_out"].shape
    for before, writes, after in laws.streams(list(model.table.points)):
        total = sum((cache[write] for write in writes), cache[before])
        torch.testing.assert_close(cache[after], total, atol=1e-5, rtol=1e-5)
    same = {name: [lambda x, hook: x.clone()] for name, point in model.table.points.items() if point.write is not None}
    assert torch.equal(model.run_with(framed, same, Request())[0], plain)


def test_time_is_fed_by_frame_where_it_is_given_so(model: HookedTransformer) -> None:
    conditioning = {"encoder_hidden_states": torch.zeros(1, 3, 16)}
    inputs = model.family.inputs(model.transformer, torch.zeros(2, 4, 3, 8, 8), torch.rand(2, 3), conditioning)
    assert inputs["timestep"].shape == (2, 1, 3, 1, 1)


def test_only_predict_1_writes_positions() -> None:
    learned, rotary = (HookedTransformer(build(name), name) for name in ("cosmos_1", "cosmos"))
    _, cache = learned.run_with(laws.example(learned), {}, Request("blocks.*.hook_pos_out"))
    first, last = cache["blocks.0.hook_pos_out"], cache["blocks.2.hook_pos_out"]
    assert torch.equal(first, last)
    assert first.abs().max() > 0
    with pytest.raises(KeyError, match="positions are rotary alone"):
        rotary.table.select("blocks.0.hook_pos_out", "cosmos")


def test_image_context_is_absent_for_a_reason(model: HookedTransformer) -> None:
    with pytest.raises(KeyError, match="text alone"):
        model.table.select("blocks.0.cross_attn.img.hook_q", model.name)


def test_which_frames_are_given_can_be_told() -> None:
    model = HookedTransformer(build("cosmos"), "cosmos")
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, *latent.shape[2:])
    mask[:, :, 0] = 1
    none, some = (
        model.velocity(model.evaluation(latent, 0.5, Conditioning({**tensors, **more})))
        for more in ({}, {"condition_mask": mask})
    )
    assert not torch.equal(none, some)
    zeros = Conditioning({**tensors, "condition_mask": 0 * mask})
    assert torch.equal(none, model.velocity(model.evaluation(latent, 0.5, zeros)))


def test_frames_per_second_are_the_pipelines_own() -> None:
    defaults = {"cosmos_1": CosmosTextToWorldPipeline, "cosmos": Cosmos2VideoToWorldPipeline}
    for name, stock in defaults.items():
        assert stock.__call__.__wrapped__.__kwdefaults__ is None
        evaluation = laws.example(HookedTransformer(build(name), name))
        names = stock.__call__.__wrapped__.__code__.co_varnames[1:]
        assert (
            dict(zip(names, stock.__call__.__wrapped__.__defaults__, strict=False))["fps"] == evaluation.inputs["fps"]
        )
    assert laws.example(HookedTransformer(build("cosmos_25"), "2.5")).inputs["fps"] is None


def test_a_padding_mask_needs_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = cosmos(concat_padding_mask=True)
    conditioning = {"encoder_hidden_states": torch.zeros(1, 3, 16)}
    arguments = transformer, torch.zeros(2, 4, 2, 8, 8), torch.full((2,), 0.5), conditioning
    monkeypatch.setattr(family, "is_torchvision_available", lambda: False)
    with pytest.raises(ImportError, match="expected it, for this CosmosTransformer3DModel resizes its padding mask"):
        family.inputs(*arguments)
    monkeypatch.setattr(family, "is_torchvision_available", lambda: True)
    resize = SimpleNamespace(resize=lambda mask, size, interpolation: mask)
    stub = SimpleNamespace(functional=resize, InterpolationMode=SimpleNamespace(NEAREST=0))
    monkeypatch.setattr(transformer_cosmos, "transforms", stub, raising=False)
    inputs = family.inputs(*arguments)
    assert torch.isfinite(transformer(**inputs)[0]).all()
    copied = repeat(Evaluation(inputs, None, 0.5), 3).inputs
    assert transformer(**copied)[0].shape == (6, 4, 2, 8, 8)


@pytest.mark.parametrize(("name", "vae", "size"), [("cosmos_1", cosmos_vae, 9), ("cosmos", wan_vae, 5)])
@torch.no_grad()
def test_latents_are_those_of_the_stock_pipelines(name: str, vae: Any, size: int) -> None:
    stock = vae()
    video = torch.rand(1, 3, size, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = family.FAMILY.encode(stock, video)
    assert latent.shape == (1, 4, 2, 8, 8)
    mean, std = (
        torch.tensor(s).view(1, 4, -1, 1, 1)[:, :, :2] for s in (stock.config.latents_mean, stock.config.latents_std)
    )  # as the pipelines' __call__ has it, but for sigma_data
    torch.testing.assert_close(latent * std + mean, stock.encode(video).latent_dist.mode())
    torch.testing.assert_close(family.FAMILY.decode(stock, latent), stock.decode(latent * std + mean).sample)


def test_what_does_not_fit_is_refused() -> None:
    flow = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(TypeError, match="without control"):
        family.check_pipeline(SimpleNamespace(transformer=cosmos(), controlnet=nn.Identity(), scheduler=flow))
    with pytest.raises(TypeError, match="expected EDMEulerScheduler"):
        family.check_pipeline(SimpleNamespace(transformer=build("cosmos_1"), scheduler=flow))
    family.check_pipeline(SimpleNamespace(transformer=cosmos(), scheduler=flow))
    with pytest.raises(ValueError, match="without text encoder"):
        family.FAMILY.encode_prompt(SimpleNamespace(), "")
