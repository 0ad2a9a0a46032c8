"""Ablating what writes nothing changes nothing; what is taken away is what a hand-written hook takes away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_lens import ablation
from dit_lens.axes import TokenGrid
from dit_lens.capture import NoisePath, evaluations, of_role
from dit_lens.clips import Scene
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout, VelocityRemainder
from dit_lens.running import Evaluation, Request, count, some

END = "blocks.5.hook_resid_post"
SUM = Readout(lambda velocity, cache: cache[END].flatten(1)[:, ::3].sum(1), (END,))


@pytest.fixture(scope="module")
def fed(lens: DiTLens, quadruplets: list[Scene]) -> dict[int, Evaluation]:
    return evaluations(lens, [q for q in quadruplets if q.crossed][:2], (3,), NoisePath("continuation", 5))


def by_hand(lens: DiTLens, evaluation: Evaluation, point: str, function) -> np.ndarray:
    with torch.no_grad():
        before = SUM(None, lens.model.run(evaluation, Request(END))[1])
        with lens.hooks([(point, function)]):
            after = SUM(None, lens.model.run(evaluation, Request(END))[1])
    return (after - before).numpy()


def test_each_replacement_is_what_a_hook_by_hand_does(lens: DiTLens, fed: dict[int, Evaluation]) -> None:
    point = "blocks.1.attn.hook_z"
    means = ablation.means_over(lens, [fed], ["blocks.*.attn.hook_z"])
    donors = torch.arange(count(fed[3])).roll(1)

    def meant(z, hook):
        z = z.clone()
        z[:, :, 2] = means[point][3][:, 2]
        return z

    def swapped(z, hook):
        new = z.clone()
        new[:, :, 2] = z[donors, :, 2]
        return new

    def zeroed(z, hook):
        new = z.clone()
        new[:, :, 2] = 0
        return new

    for replacement, function in (
        (ablation.zero, zeroed),
        (ablation.mean_of(means), meant),
        (ablation.resampled(donors), swapped),
    ):
        effect = ablation.ablate_heads(lens, fed, [3], SUM, replacement=replacement).effect[:, 0, 1, 2]
        np.testing.assert_allclose(effect, by_hand(lens, fed[3], point, function), rtol=1e-3, atol=1e-3)
        assert abs(effect).min() > 1e-2


def test_means_are_over_clips_and_batches(lens: DiTLens, fed: dict[int, Evaluation]) -> None:
    name = "blocks.2.hook_mlp_out"
    parts = [{3: of_role(fed[3], role)} for role in "ABCD"]
    whole, split = (ablation.means_over(lens, batches, [name])[name][3] for batches in ([fed], parts))
    torch.testing.assert_close(whole, split, rtol=1e-4, atol=1e-5)
    assert whole.shape == (80, 128) and whole.abs().max() > 1e-3
    uneven = ({3: some(fed[3], rows)} for rows in (slice(0, 1), slice(1, 8)))  # of 1 clip and of 7
    torch.testing.assert_close(ablation.means_over(lens, uneven, [name])[name][3], whole, rtol=1e-4, atol=1e-5)


def test_what_writes_nothing_is_not_missed(lens: DiTLens, fed: dict[int, Evaluation]) -> None:
    """A head whose columns of the projection are zero: no ablation of it changes a thing, a random write neither."""
    columns = lens.transformer.blocks[2].attn1.to_out[0].weight[:, 32:64]
    kept = columns.clone()
    columns.zero_()
    try:
        for replacement in (ablation.zero, ablation.random_write(0)):
            effect = ablation.ablate_heads(lens, fed, [3], SUM, replacement=replacement).effect[:, 0, 2]
            assert not effect[:, 1].any() and abs(effect[:, 0]).min() > 1e-3
    finally:
        columns.copy_(kept)


def test_a_random_write_is_as_long_as_the_heads_own(lens: DiTLens, fed: dict[int, Evaluation]) -> None:
    """In its place, told through the cache's own split; a random vector of another seed is another one."""
    first, second = (ablation.random_write(seed)(lens, fed[3], "blocks.2.attn.hook_z", 1) for seed in (0, 7))
    latent, time = fed[3].inputs["hidden_states"], fed[3].inputs["timestep"]
    with torch.no_grad():
        _, cache = lens.run_with_cache(latent=latent, timestep=time)
    head_results = cache.stack_head_results(point=("resid_post", 2))
    write = cache["attn_out", 2]
    added, differently = (edit(write, None) - write for _, edit in (first, second))
    assert first[0] == "blocks.2.hook_attn_out"
    torch.testing.assert_close(
        added.norm(dim=-1), head_results.values[head_results.labels.index("L2H1")].norm(dim=-1), rtol=1e-3, atol=1e-5
    )
    assert torch.cosine_similarity(added, differently, dim=-1).abs().mean() < 0.2


def test_the_velocity_moves_where_a_layer_is_taken_away(lens: DiTLens, fed: dict[int, Evaluation]) -> None:
    table = ablation.ablate_writes(lens, fed, [3], VelocityRemainder())
    assert dict(table.effect.sizes) == {"clip": 8, "step": 1, "write": 2, "block": 6}
    assert (table.effect > 0).all() and not table.before.any() and float(table.sigma[0]) == pytest.approx(fed[3].sigma)


def test_cut_attention_is_felt_only_where_it_is_cut(lens: DiTLens, fed: dict[int, Evaluation]) -> None:
    whole = (slice(None), slice(None))
    first, second = (slice(0, 3), *whole), (slice(3, None), *whole)
    name = "blocks.0.attn.hook_z"

    def length_of(part: slice) -> Readout:
        return Readout(lambda v, cache: cache[name].unflatten(1, (5, 16))[:, part].flatten(1).norm(dim=1), (name,))

    frames = {"first": length_of(slice(0, 3)), "second": length_of(slice(3, None))}
    cuts = {
        "later → earlier": ablation.between((second, first)),
        "earlier → later": ablation.between((first, second)),
        "both": ablation.between((first, second), (second, first)),
    }
    table = ablation.cut_attention(lens, fed, [3], frames, cuts).isel(step=0, block=0)
    assert not table.effect_first.sel(cut="later → earlier").any()
    assert not table.effect_second.sel(cut="earlier → later").any()
    assert (table.effect_second.sel(cut="later → earlier") != 0).all()
    for part, cut in (("first", "earlier → later"), ("second", "later → earlier")):
        both, single = (table[f"effect_{part}"].sel(cut=name, drop=True) for name in ("both", cut))
        np.testing.assert_allclose(both, single, rtol=1e-4, atol=1e-5)


def test_heads_of_a_block_are_cut_together_and_attention_can_be_even_or_without_text(
    lens: DiTLens, fed: dict[int, Evaluation]
) -> None:
    """At the point itself: even attention mixes all values alike, and without text z is 0."""
    self_z, text_z = "blocks.2.attn.hook_z", "blocks.2.cross_attn.hook_z"
    _, cache = lens.model.run(fed[3], Request(["blocks.2.attn.hook_v", self_z]))
    mean = cache["blocks.2.attn.hook_v"].mean(1, keepdim=True)
    metrics = {
        "spread": Readout(lambda v, cache: (cache[self_z] - mean).flatten(1).norm(dim=1), (self_z,)),
        "text": Readout(lambda v, cache: cache[text_z].flatten(1).norm(dim=1), (text_z,)),
    }
    cuts = {"uniform": ablation.uniform, "without text": ablation.without_text}
    table = ablation.cut_attention(lens, fed, [3], metrics, cuts, by_head=False).isel(step=0).sel(block=2)
    assert "head" not in table.dims
    left = table.before_spread + table.effect_spread.sel(cut="uniform")
    assert (left < 1e-4 * table.before_spread).all() and (table.before_text > 0).all()
    np.testing.assert_allclose(table.effect_text.sel(cut="without text"), -table.before_text, rtol=1e-5)


def test_text_is_cut_from_joint_attention_and_nothing_else_is() -> None:
    """Of a pattern over 4 video and 3 text keys: no text is left, and video keys keep their proportions."""
    pattern = torch.rand(2, 3, 4, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    hook = Hook("blocks.0.attn.hook_pattern", "b k n m", TokenGrid(1, 2, 2), None, 0.5)
    point, edit = ablation.without_joint_text(0, [1])
    left = edit(pattern, hook)
    assert point == hook.name and left is not None and not left[:, 1, :, 4:].any()
    video = pattern[:, 1, :, :4]
    torch.testing.assert_close(left[:, 1, :, :4], video / video.sum(-1, keepdim=True))
    assert torch.equal(left[:, [0, 2]], pattern[:, [0, 2]]) and pattern[:, :, :, 4:].min() > 0.01


def test_a_random_write_of_no_head_is_refused(lens: DiTLens, fed: dict[int, Evaluation]) -> None:
    with pytest.raises(ValueError, match="expected a head"):
        ablation.ablate_writes(lens, fed, [3], SUM, replacement=ablation.random_write(0))


@pytest.mark.parametrize("replacement", [ablation.zero, ablation.random_write(0)])
def test_a_block_that_the_model_does_not_have_is_refused_by_every_replacement(
    replacement: ablation.Replacement, lens: DiTLens, fed: dict[int, Evaluation]
) -> None:
    with pytest.raises(KeyError, match=r"no hook point 'blocks\.6\.attn\.hook_z'"):
        ablation.ablate_heads(lens, fed, [3], SUM, replacement=replacement, blocks=[0, 6])
