"""Edits of attention without the matrix do what an edit of the whole pattern does; planted heads come out first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import SMALL, build
from small_pipelines import wan as wan_pipeline
from test_prompts import text_parts
from torch import Tensor

from dit_lens import DiTLens, attention, edits, interventions, laws, metrics
from dit_lens.attention.looking import PATTERN
from dit_lens.axes import Region
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Hook
from dit_lens.inversion.prompts import CACHE
from dit_lens.running import Evaluation, Request

POINT = f"blocks.1.attn{PATTERN}"
FIRST: Region = (0, slice(None), slice(None))
LATER: Region = (slice(1, None), slice(None), slice(0, 2))
MASKED = ("skyreels", "mochi", "hunyuan", "hunyuan15", "ltx2_gated")  # and, of LTX-2.3, gated


@pytest.fixture(scope="module", params=list(SMALL))
def lens(request: pytest.FixtureRequest) -> DiTLens:
    return DiTLens(transformer=build(request.param), name=request.param, verify=False)


@pytest.fixture(scope="module")
def evaluation(lens: DiTLens) -> Evaluation:
    return laws.example(lens.model.members[0])


def velocity(lens: DiTLens, evaluation: Evaluation, hooks: Any) -> Tensor:
    with lens.hooks(hooks):
        return lens.model.velocity(evaluation)


def test_temperature_and_even_are_those_of_the_pattern(lens: DiTLens, evaluation: Evaluation) -> None:
    def sharper(x: Tensor, hook: Hook) -> Tensor:
        new = x.clone()
        new[:, 1] = (x[:, 1].log() / 0.5).softmax(-1)
        return new

    plain = lens.model.velocity(evaluation)
    ours = velocity(lens, evaluation, attention.temperature(lens, 1, 0.5, heads=[1]))
    torch.testing.assert_close(ours, velocity(lens, evaluation, [(POINT, sharper)]), atol=1e-4, rtol=1e-3)
    assert (ours - plain).abs().max() > 1e-4

    def allowed(x: Tensor, hook: Hook) -> Tensor:
        new = x.clone()
        new[:, 0] = (x[:, 0] > 0) / (x[:, 0] > 0).sum(-1, keepdim=True)
        return new

    even = velocity(lens, evaluation, attention.even(lens, 1, heads=[0]))
    torch.testing.assert_close(even, velocity(lens, evaluation, [(POINT, allowed)]), atol=1e-4, rtol=1e-3)


def test_a_cut_is_that_of_the_pattern_or_refused_where_there_is_a_mask_or_gate(
    lens: DiTLens, evaluation: Evaluation
) -> None:
    grid = lens.model.grid(evaluation)
    if lens.name in MASKED:
        with pytest.raises((ValueError, KeyError)):
            velocity(lens, evaluation, attention.cut(lens, 1, LATER, FIRST, heads=[1]))
        return
    keys = torch.zeros(lens.model.run_with(evaluation, {}, Request(POINT))[1][POINT].shape[-1], dtype=torch.bool)
    keys[: grid.tokens] = grid.mask(*FIRST)
    expected = velocity(lens, evaluation, [(POINT, edits.cut(keys, [1], LATER))])
    ours = velocity(lens, evaluation, attention.cut(lens, 1, LATER, FIRST, heads=[1]))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)
    assert (ours - lens.model.velocity(evaluation)).abs().max() > 1e-5


def test_rotary_at_the_same_speed_changes_nothing_and_at_none_positions_do_not_count(
    lens: DiTLens, evaluation: Evaluation
) -> None:
    """With all positions counted 0 times, rotated queries and keys are those from before, but for one rotation."""
    names = [f"blocks.1.attn.hook_{name}" for name in ("q", "k", "rot_q", "rot_k")]
    if lens.family.name in ("ltx", "ltx2", "mochi") or names[2] not in lens.table.points:
        with pytest.raises((ValueError, KeyError), match=r"expected rotary by frame|no rotary"):
            attention.rotary(lens, 1, frame=0.5)
        return
    plain = lens.model.velocity(evaluation)
    same = velocity(lens, evaluation, attention.rotary(lens, 1))
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-4)

    def logits(hooks: Any) -> Tensor:
        with lens.hooks(hooks):
            _, cache = lens.model.run(evaluation, Request(names))
        q, k, rot_q, rot_k = (cache[name].double() for name in names)
        plainly = torch.einsum("bnke,bmke->bknm", q, k)
        return torch.stack([plainly, torch.einsum("bnke,bmke->bknm", rot_q, rot_k)])

    without, rotated = logits(attention.rotary(lens, 1, frame=0, row=0, column=0))
    torch.testing.assert_close(rotated, without, atol=1e-4, rtol=1e-4)
    without, rotated = logits([(names[0], lambda x, hook: None)])
    assert (rotated - without).abs().max() > 1e-2
    faster = velocity(lens, evaluation, attention.rotary(lens, 1, frame=2.0, heads=[0]))
    assert (faster - plain).abs().max() > 1e-6


# Planted heads: of one small Wan, over four frames of nine places.


@pytest.fixture(scope="module")
def planted() -> tuple[DiTLens, Evaluation, list[tuple[str, Any]]]:
    """Block 1 head 1 looks at its place one frame before, block 2 head 0 at frame 0; cross head 2.1 at token 3."""
    lens = DiTLens(transformer=build("wan"), name="planted", verify=False)
    latent, text = torch.randn(2, 4, 4, 6, 6), torch.randn(1, 5, 16)
    evaluation = lens.model.evaluation(latent, 500.0, Conditioning({"encoder_hidden_states": text}))
    code = torch.nn.functional.normalize(torch.randn(36, 12, generator=torch.Generator().manual_seed(0)), dim=-1)
    before = code.roll(9, 0)  # of token i, the code of token i - 9
    before[:9] = code[:9]

    def put(head: int, values: Tensor) -> Any:
        def hook(x: Tensor, _: Hook) -> Tensor:
            new = x.clone()
            new[:, :, head] = values
            return new

        return hook

    flag, word = torch.zeros(36, 12), torch.zeros(5, 12)
    flag[:, 0], word[3, 0] = -1.0, 1.0
    flag[:9, 0] = 1.0
    hooks = [
        ("blocks.1.attn.hook_rot_q", put(1, 300 * before)),
        ("blocks.1.attn.hook_rot_k", put(1, code)),
        ("blocks.2.attn.hook_rot_q", put(0, 30 * torch.eye(12)[0].expand(36, 12))),
        ("blocks.2.attn.hook_rot_k", put(0, flag)),
        ("blocks.2.cross_attn.hook_q", put(1, 60 * torch.eye(12)[0].expand(36, 12))),
        ("blocks.2.cross_attn.hook_k", put(1, word)),
    ]
    return lens, evaluation, hooks


def first_of(table: Any) -> tuple[int, int]:
    by_head = table.mean("clip")
    block, head = np.unravel_index(int(np.argmax(by_head.values)), by_head.shape)
    return int(block), int(head)


def test_planted_heads_come_out_first(planted: tuple[DiTLens, Evaluation, list[tuple[str, Any]]]) -> None:
    lens, evaluation, hooks = planted
    with lens.hooks(hooks):
        table = attention.atlas(lens, evaluation).plain
        words = attention.maps(lens, evaluation, attention.words({"it": [3], "rest": [0, 1]}), layer="cross_attn").mass
        frames = attention.maps(lens, evaluation, attention.frames(), blocks=[1], heads=[1]).mass
    assert first_of(table.sel(number="same_place_0")) == (1, 1)
    assert first_of(table.sel(number="multi_diagonal")) == (1, 1)
    assert first_of(table.sel(number="first_frame")) == first_of(table.sel(number="sink")) == (2, 0)
    assert first_of(-table.sel(number="band_temporal")) == (1, 1)
    assert first_of(words.sel(word="it").mean(("frame", "row", "column"))) == (2, 1)
    assert float(table.sel(number="same_place_0", block=1, head=1).min()) == pytest.approx(0.75, abs=1e-3)
    expected = np.eye(4, k=-1)
    expected[0, 0] = 1
    np.testing.assert_allclose(frames.values[0, 0, 0], expected, atol=1e-3)
    without = attention.atlas(lens, evaluation).plain  # the control: nothing planted
    assert float(without.sel(number="same_place_0").max()) < 0.5


def test_an_object_that_moves_is_followed_by_the_head_that_is_planted_to(
    planted: tuple[DiTLens, Evaluation, list[tuple[str, Any]]],
) -> None:
    """The head looks at the same place: right for an object at rest, off by its speed for one that moves."""
    lens, evaluation, hooks = planted
    grid = lens.model.grid(evaluation)
    still = grid.mask(row=1, column=1)
    tracks = torch.stack([torch.tensor([1.0, 1.0]) for _ in range(4)])
    moving = tracks + torch.arange(4)[:, None] * torch.tensor([0.0, 1.0])
    with lens.hooks(hooks):
        rests = attention.atlas(lens, evaluation, objects=attention.Objects(still, tracks))
        moves = attention.atlas(lens, evaluation, objects=attention.Objects(still, moving))
    np.testing.assert_allclose(rests.object.sel(block=1, head=1, later=-1), 1.0, atol=1e-3)
    np.testing.assert_allclose(rests.object_even, 1 / 9, atol=1e-6)
    assert (rests.motion_error_still == 0).all()
    np.testing.assert_allclose(moves.motion_error_still, 1.0, atol=1e-6)


def test_cuts_are_interventions_and_free_of_batch_mates(planted: tuple[DiTLens, Evaluation, Any]) -> None:
    lens, evaluation, _ = planted
    cuts = [
        interventions.Intervention(attention.cut(lens, 1, LATER, FIRST, heads=[head]), {"head": head})
        for head in range(2)
    ]
    keys = lens.model.grid(evaluation).mask(*FIRST)
    whole = [interventions.Intervention.single(POINT, edits.cut(keys, [head], LATER), head=head) for head in range(2)]
    path, metric = {0: evaluation}, metrics.Readout(lambda velocity, cache: velocity.square().mean((1, 2, 3, 4)))
    ours = interventions.over(lens, path, cuts, metric, steps=[0], progress=False).effect
    theirs = interventions.over(lens, path, whole, metric, steps=[0], progress=False).effect
    np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-3)
    assert np.abs(ours).min() > 0


def test_words_of_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    lens = DiTLens(wan_pipeline(**text_parts()), "small", verify=False)
    assert attention.words_of(lens, "a ball  rolls a video") == {
        "a": [0], "ball": [1], "rolls": [2], "a (2)": [3], "video": [4]
    }  # fmt: skip
    assert attention.words_of(lens, "a ball.") == {"a": [0], "ball.": [1, 2]}
