"""Guidance branches of pipelines that stack them in one batch, call for up to four, or name none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from guided_pipelines import allegro, cogvideox, ltx, ltx2, mochi
from small_pipelines import quiet
from test_cosmos import NAMES, pipeline
from torch import Tensor, nn

from dit_lens import Conditioning, DiTLens, laws
from dit_lens.hook_points import Hook
from dit_lens.running import HookedTransformer

POST = "blocks.1.hook_resid_post"


def doubled_by_torch(block: nn.Module, part: int, parts: int, wanted: Any = lambda call: True) -> Any:
    """A plain torch hook that doubles the video stream of one part of the batch, in calls that are wanted."""
    calls = iter(range(1000))
    return block.register_forward_hook(
        lambda module, args, out: by_hand(out, part, parts) if wanted(next(calls)) else None
    )


def by_hand(out: Any, part: int, parts: int) -> Any:
    """A block's output with the video stream of one part of the batch doubled."""
    if isinstance(out, tuple):
        return by_hand(out[0], part, parts), *out[1:]
    pieces = list(out.chunk(parts))
    pieces[part] = 2 * pieces[part]
    return torch.cat(pieces)


def double(x: Tensor, hook: Hook) -> Tensor:
    return 2 * x


# Pipelines that run both branches in one batch, the one without the prompt first.


@pytest.fixture(scope="module", params=[cogvideox, ltx, mochi, allegro], ids=lambda case: case.__name__)
def doubled(request: pytest.FixtureRequest) -> tuple[DiTLens, Any]:
    pipe, arguments = request.param()
    conditioning = {"encoder_hidden_states": arguments["prompt_embeds"]}
    lens = DiTLens(pipe, "small", Conditioning(conditioning), verify=False)

    def run(scale: float = 4.0) -> Tensor:
        return pipe(
            **arguments, guidance_scale=scale, num_inference_steps=2, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).frames  # fmt: skip

    return lens, run


def test_a_batch_of_both_branches_is_shown_branch_by_branch(doubled: tuple[DiTLens, Any]) -> None:
    (lens, run), calls = doubled, []
    plain, alone = run(), run(1.0)

    def look(x: Tensor, hook: Hook) -> Tensor:
        calls.append((len(x), hook.step, hook.branch))
        return x.clone()

    with lens.hooks([(["blocks.0.attn.hook_z"], look)]):
        assert torch.equal(run(), plain)
    assert calls == [(1, step, branch) for step in (2, 1) for branch in ("uncond", "cond")]
    calls.clear()
    with lens.hooks([("hook_velocity", look)], branches=("uncond",)):
        assert torch.equal(run(), plain)
    assert calls == [(1, 2, "uncond"), (1, 1, "uncond")]
    calls.clear()
    with lens.hooks([("hook_velocity", look)]):
        assert torch.equal(run(1.0), alone)
    assert calls == [(1, 2, "cond"), (1, 1, "cond")]


@pytest.mark.parametrize("in_place", [False, True])
def test_an_edit_of_a_part_of_the_batch_is_that_of_a_torch_hook(doubled: tuple[DiTLens, Any], in_place: bool) -> None:
    lens, run = doubled

    def doubling(x: Tensor, hook: Hook) -> Tensor | None:
        if in_place:
            x.mul_(2)
            return None
        return 2 * x

    for part, branch in enumerate(("uncond", "cond")):
        with lens.hooks([("blocks.1.hook_resid_post", doubling)], branches=(branch,)):
            edited = run()
        block = lens.transformer.transformer_blocks[1]
        handle = doubled_by_torch(block, part, parts=2)
        expected = run()
        handle.remove()
        torch.testing.assert_close(edited, expected, rtol=0, atol=1e-5)
        assert not torch.equal(edited, run())


def test_a_wrong_value_for_a_part_of_the_batch_is_refused(doubled: tuple[DiTLens, Any]) -> None:
    lens, run = doubled
    with pytest.raises(ValueError, match="shape"), lens.hooks([("blocks.0.hook_resid_post", lambda x, hook: x[:, :1])]):
        run()
    with pytest.raises(TypeError, match="only be read"), lens.hooks([("hook_x0", lambda x, hook: 0 * x)]):
        run()


# LTX-2 guides by up to four branches in three calls; the first holds two of them.


@pytest.fixture(scope="module")
def audiovisual() -> tuple[DiTLens, Any]:
    pipe, arguments = ltx2()
    lens = DiTLens(pipe, "small", Conditioning({"encoder_hidden_states": torch.zeros(1, 3, 20)}), verify=False)

    def run(**options: Any) -> Tensor:
        seed = torch.Generator().manual_seed(0)
        call = {"guidance_scale": 4.0, "num_inference_steps": 2, "output_type": "latent", "generator": seed}
        return pipe(**arguments | call | options).frames

    return lens, run


WAYS = [("uncond", 0, 0, 2), ("cond", 0, 1, 2), ("uncond_stg", 1, 0, 1), ("uncond_modality", 2, 0, 1)]


def test_the_four_branches_of_ltx2_are_told_apart(audiovisual: tuple[DiTLens, Any]) -> None:
    (lens, run), calls = audiovisual, []
    plain = run()
    with lens.hooks([("hook_latent", lambda x, hook: calls.append((len(x), hook.step, hook.branch)))]):
        assert torch.equal(run(), plain)
    assert calls == [(1, step, branch) for step in (2, 1) for branch, *_ in WAYS]
    calls.clear()
    alone = {"guidance_scale": 1.0, "audio_guidance_scale": 1.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}
    with lens.hooks([("hook_latent", lambda x, hook: calls.append(hook.branch))]):
        run(**alone)
    assert calls == ["cond", "uncond_stg"] * 2


@pytest.mark.parametrize(("branch", "call", "part", "parts"), WAYS)
def test_an_edit_of_a_branch_of_ltx2_is_that_of_a_torch_hook(
    audiovisual: tuple[DiTLens, Any], branch: str, call: int, part: int, parts: int
) -> None:
    lens, run = audiovisual
    with lens.hooks([("blocks.0.hook_resid_post", double)], branches=(branch,)):
        edited = run()
    handle = doubled_by_torch(lens.transformer.transformer_blocks[0], part, parts, lambda n: n % 3 == call)
    expected = run()
    handle.remove()
    torch.testing.assert_close(edited, expected, rtol=0, atol=1e-5)
    assert (edited - run()).abs().max() > 1e-4


# Cosmos calls once for each branch, and says nowhere for which.


@pytest.fixture(scope="module", params=NAMES)
def in_turn(request: pytest.FixtureRequest) -> tuple[DiTLens, Any]:
    pipe, shape = pipeline(request.param)
    text = laws.example(HookedTransformer(quiet(pipe).transformer, request.param)).inputs["encoder_hidden_states"]
    lens = DiTLens(pipe, "small", Conditioning({"encoder_hidden_states": text}), verify=False)

    def run(scale: float = 4.0) -> Tensor:
        return pipe(
            prompt_embeds=text, negative_prompt_embeds=-text, guidance_scale=scale, num_inference_steps=3,
            output_type="latent", generator=torch.Generator().manual_seed(0), return_dict=False, **shape,
        )[0]  # fmt: skip

    return lens, run


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of tensors in stock schedulers
def test_calls_that_nobody_names_are_told_apart_by_their_turn(in_turn: tuple[DiTLens, Any]) -> None:
    (lens, run), branches = in_turn, []
    plain, alone = run(), run(1.0)

    def look(x: Tensor, hook: Hook) -> None:
        branches.append(hook.branch)

    with lens.hooks([("hook_latent", look)]):
        assert torch.equal(run(), plain) and torch.equal(run(1.0), alone) and torch.equal(run(), plain)
    guided = ["cond", "uncond"] * 3
    assert branches == [*guided, *["cond"] * 3, *guided]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_call_that_is_broken_off_does_not_turn_the_branches_over(in_turn: tuple[DiTLens, Any]) -> None:
    (lens, run), branches = in_turn, []

    def look(x: Tensor, hook: Hook) -> None:
        branches.append(hook.branch)
        if len(branches) == 1:
            raise KeyboardInterrupt

    with lens.hooks([("hook_latent", look)]):
        with pytest.raises(KeyboardInterrupt):
            run()
        run()
    assert branches == ["cond", *["cond", "uncond"] * 3]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("branch", "turn"), [("cond", 0), ("uncond", 1)])
def test_an_edit_in_its_turn_is_that_of_a_torch_hook(in_turn: tuple[DiTLens, Any], branch: str, turn: int) -> None:
    lens, run = in_turn
    with lens.hooks([(POST, double)], branches=(branch,)):
        edited = run()
    handle = doubled_by_torch(lens.transformer.transformer_blocks[1], 0, 1, lambda n: n % 2 == turn)
    expected = run()
    handle.remove()
    torch.testing.assert_close(edited, expected, rtol=1e-5, atol=1e-5)
    assert (edited - run()).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_call_outside_of_the_pipeline_is_of_no_branch(in_turn: tuple[DiTLens, Any]) -> None:
    (lens, run), branches = in_turn, []
    run()
    evaluation = laws.example(lens.model.members[0])
    with lens.hooks([("hook_latent", lambda x, hook: branches.append(hook.branch))]):
        lens.transformer(**evaluation.inputs)
    assert branches == [None]
