"""Image-to-video Wan: what is fed is what the stock pipeline feeds, and image keys have a softmax of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import build
from small_models import wan as small_wan
from small_pipelines import CALL, FRAMES, SIZE, image, image_encoder, image_to_video, lens_on, noise, text
from torch import Tensor

from dit_lens import DiTLens, edits, laws
from dit_lens.families import wan
from dit_lens.running import HookedTransformer, Request

STEPS = 4
VIDEO = (FRAMES, SIZE, SIZE)
NAMES = ["wan_i2v", "wan22_i2v", "two experts", "first and last"]


def pipeline(name: str) -> Any:
    """A stock image-to-video pipeline of that kind."""
    if name == "wan_i2v":
        return image_to_video(name, **image_encoder())
    if name == "two experts":
        return image_to_video("wan22_i2v", transformer_2=build("wan22_i2v", seed=1), boundary_ratio=0.7)
    if name == "first and last":
        torch.manual_seed(0)
        transformer: Any = small_wan(in_channels=12, image_dim=10, added_kv_proj_dim=24, pos_embed_seq_len=10)
        return image_to_video("wan_i2v", transformer=transformer.eval(), **image_encoder())
    return image_to_video(name)


def frames_of(name: str) -> dict[str, Tensor]:
    """The given frames, by the names of the stock pipeline's arguments."""
    return {"image": image()} | ({"last_image": image(1)} if name == "first and last" else {})


@pytest.fixture(scope="module", params=NAMES)
def lens_and_call(request: pytest.FixtureRequest) -> tuple[DiTLens, dict[str, Any]]:
    """A lens that is told of the frames, and the arguments of the pipeline's own call."""
    pipe, images = pipeline(request.param), frames_of(request.param)
    tensors = wan.encode_image(pipe, images["image"], VIDEO, images.get("last_image"))
    prompt = text(tokens=512)
    lens = lens_on(pipe, **tensors | {"encoder_hidden_states": prompt})
    call = CALL | images | {"prompt_embeds": prompt, "guidance_scale": 1.0, "num_inference_steps": STEPS}
    return lens, call | {"latents": noise()}


def test_what_is_fed_is_what_the_pipeline_feeds(lens_and_call: tuple[DiTLens, dict[str, Any]]) -> None:
    lens, call = lens_and_call
    fed: list[dict[str, Any]] = []
    handles = [
        member.transformer.register_forward_pre_hook(lambda module, args, kwargs: fed.append(kwargs), with_kwargs=True)
        for member in lens.model.members
    ]
    lens.pipeline(**call)
    for handle in handles:
        handle.remove()
    assert len(fed) == STEPS
    for expected in fed:
        latent = expected["hidden_states"][:, :4]
        inputs = lens.model.evaluation(latent, expected["timestep"], lens.conditioning).inputs
        for name in ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"):
            assert (inputs.get(name) is None) == (expected[name] is None), name
            assert expected[name] is None or torch.equal(inputs[name], expected[name].float()), name


def test_our_sampler_is_the_pipelines_own(lens_and_call: tuple[DiTLens, dict[str, Any]]) -> None:
    lens, call = lens_and_call
    start = lens.noising(torch.zeros_like(noise()), noise(), steps=STEPS)
    ours = lens.sample(start, solver="euler").latents[0]
    torch.testing.assert_close(ours, lens.pipeline(**call).frames, rtol=0, atol=1e-5)
    different = lens.pipeline(**call | {"image": image(3)}).frames
    assert (different - ours).abs().max() > 1e-3  # the first frame matters


def test_hooks_act_on_the_pipelines_own_calls(lens_and_call: tuple[DiTLens, dict[str, Any]]) -> None:
    lens, call = lens_and_call
    plain = lens.pipeline(**call).frames
    kept = lens.generate(names_filter=["hook_latent", "hook_velocity", "hook_x0"], **call)
    assert torch.equal(kept.frames, plain)
    for evaluation in kept:
        cache = evaluation.cache
        assert cache["hook_latent"].shape == noise().shape
        expected = cache["hook_latent"] - evaluation.sigma * cache["hook_velocity"]
        torch.testing.assert_close(cache["hook_x0"], expected)
    with lens.hooks([("hook_latent", lambda x, hook: 0 * x)]):
        assert not torch.equal(lens.pipeline(**call).frames, plain)


def test_the_condition_is_no_part_of_the_latent() -> None:
    model = HookedTransformer(build("wan22_i2v"), "small")
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))
    fed = model.family.inputs(model.transformer, latent, torch.tensor([500.0]), tensors)["hidden_states"]
    assert torch.equal(fed[:, :4], latent) and torch.equal(fed[:, 4:], tensors["condition"])


@pytest.mark.parametrize("name", ["wan_i2v", "skyreels_i2v"])
def test_zeroing_the_image_mix_is_zeroing_the_values_of_image_tokens(name: str) -> None:
    model = HookedTransformer(build(name), name)
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))
    evaluation = model.evaluation(latent, 500.0, wan.Conditioning(tensors))
    plain = model.velocity(evaluation)
    edited, _ = model.run_with(evaluation, {"blocks.1.cross_attn.img.hook_z": [edits.zero()]}, Request())
    values = model.transformer.blocks[1].attn2.add_v_proj
    kept = [parameter.detach().clone() for parameter in values.parameters()]
    with torch.no_grad():
        for parameter in values.parameters():
            parameter.zero_()
        by_hand = model.velocity(evaluation)
        for parameter, before in zip(values.parameters(), kept, strict=True):
            parameter.copy_(before)
    torch.testing.assert_close(edited, by_hand)
    assert not torch.equal(edited, plain)


@pytest.mark.parametrize("name", ["wan_i2v", "skyreels_i2v"])
def test_text_and_image_have_a_softmax_each_and_their_mixes_are_summed(name: str) -> None:
    model = HookedTransformer(build(name), name)
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(0))
    names = ["blocks.1.cross_attn.*", "blocks.1.cross_attn.*pattern", "blocks.1.cross_attn.*result"]
    _, cache = model.run_with(model.evaluation(latent, 500.0, wan.Conditioning(tensors)), {}, Request(names))
    home = "blocks.1.cross_attn"
    for part, tokens in ((home, 512), (f"{home}.img", 5)):
        pattern = cache[f"{part}.hook_pattern"]
        assert pattern.shape == (1, 2, latent[0, 0].numel() // 4, tokens)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
    z = cache[f"{home}.hook_z"] + cache[f"{home}.img.hook_z"]
    projection = model.transformer.blocks[1].attn2.to_out[0]
    total = torch.nn.functional.linear(z.flatten(2), projection.weight, projection.bias)
    torch.testing.assert_close(cache[f"{home}.hook_raw_out"], total)
    torch.testing.assert_close(cache[f"{home}.hook_result"].sum(2) + projection.bias, total)


@pytest.mark.parametrize("by_frame", [False, True])
@pytest.mark.parametrize("name", ["wan", "wan_i2v", "skyreels", "skyreels_i2v"])
def test_the_laws_hold_in_bfloat16_for_clips_and_for_frames(name: str, by_frame: bool, tmp_path: Path) -> None:
    transformer = build(name)
    transformer.save_pretrained(tmp_path)
    half = type(transformer).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    model = HookedTransformer(half, name, by_frame=by_frame)
    assert all(finding.holds for finding in laws.verify(model))
    assert model.velocity(laws.example(model)).dtype == torch.bfloat16


def test_what_is_missing_is_asked_for() -> None:
    lens = lens_on(image_to_video("wan22_i2v"))
    with pytest.raises(ValueError, match="without condition"):
        lens.invert(noise(), steps=2)
    tensors = wan.encode_image(lens.pipeline, image(), VIDEO)
    assert set(tensors) == {"condition"}
    short = lens_on(pipeline("wan_i2v"), **wan.encode_image(pipeline("wan_i2v"), image(), VIDEO))
    with pytest.raises(ValueError, match="3 text tokens beside an image · expected 512"):
        short.invert(noise(), steps=2)
    blind = image_to_video("wan_i2v")
    with pytest.raises(ValueError, match="without image encoder"):
        wan.encode_image(blind, image(), VIDEO)
    tokens = torch.ones(1, 5, 10)
    assert torch.equal(wan.encode_image(blind, image(), VIDEO, image_embeds=tokens)[wan.IMAGE], tokens)
    with pytest.raises(TypeError, match=r"8 input channels over latents of 4 · expected 4 .* or 12"):
        lens_on(image_to_video("wan22_i2v", transformer=small_wan(in_channels=8)))
