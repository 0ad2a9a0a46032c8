"""Patching and ablation on the micro DiT against numbers worked out by hand; its arithmetic is in `test_micro_dit`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import micro_dit
import numpy as np
import pytest
import torch
from micro_dit import MicroDiT, set_by_hand
from test_micro_dit import DIFFERENCE_AFTER_PATCH, RECIPIENT, SIGMA, SOURCE
from torch import Tensor

from dit_lens import DiTLens, ablation, edits, families, patching
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Hook
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, repeat
from dit_lens.trajectory import Schedule, Trajectory

POST_0 = "blocks.0.hook_resid_post"
BEFORE = 4.752375 - 2.98775
FRAMES = {"first": (0, slice(None), slice(None)), "second": (1, slice(None), slice(None))}


@pytest.fixture(scope="module")
def lens() -> Iterator[DiTLens]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(families, "FAMILIES", (micro_dit.FAMILY, *families.FAMILIES))
        yield DiTLens(transformer=set_by_hand(MicroDiT()), verify=False)


def path(*clips: Tensor, name: str = "clip") -> Trajectory:
    """The clips at data and at SIGMA."""
    x = torch.cat(clips)
    ids = tuple(f"{name} {i}" for i in range(len(x)))
    return Trajectory(torch.stack([x, x]), Schedule((0.0, SIGMA), (0.0, SIGMA)), Conditioning({}), None, "noising", ids)


END = Readout(lambda velocity, cache: velocity[:, 0, 1, 0, 0])  # a - b of frame 1
INSIDE = Readout(lambda velocity, cache: cache[POST_0][:, 0, 1], (POST_0,))  # b of frame 0 after block 0


def check(values: Any, by_hand: Any) -> None:
    np.testing.assert_allclose(values, by_hand, atol=1e-9, rtol=0)


# The source: after block 0 (5.92, 3.11), (3.92, 4.6) as in test_micro_dit; block 1: z = 4.92, 3.11/4 + 3 * 4.6/4 =
# 4.2275; writes (4.3275, 4.92) * .5; frame 1: mid (6.08375, 7.06); MLP (7.06, 0) by .4: (8.90775, 7.06)
OF_SOURCE = 8.90775 - 7.06


def test_patched_heads(lens: DiTLens) -> None:
    table = patching.patch_heads(lens, path(SOURCE, name="clean"), path(RECIPIENT), [1], {"end": END, "inside": INSIDE})
    assert table.effect_end.dims == ("clip", "step", "block", "head")
    check(table.effect_end[0, 0], np.array(DIFFERENCE_AFTER_PATCH) - BEFORE)
    check(table.before_end, [[BEFORE]])
    check(table.total_end, [[OF_SOURCE - BEFORE]])
    # head 0 of block 0 writes 3 * .2 to b in the place of 2 * .2; head 1 writes to a, which in frame 0 does not make
    # a - b positive; block 1 lies behind
    check(table.effect_inside[0, 0, 0], [0.2, 0.0])
    assert table.effect_inside[0, 0, 1].isnull().all()
    check(table.total_inside, [[3.11 - 2.4]])
    assert list(table["clip"].values) == ["clip 0"] and list(table.donor.values) == ["clean 0"]
    assert table.donor.dims == ("clip",)
    assert list(table.step.values) == [1] and table.sigma.values.tolist() == [SIGMA]


def test_heads_patched_in_a_region(lens: DiTLens) -> None:
    arguments = path(SOURCE), path(RECIPIENT), [1], INSIDE
    table = patching.patch_heads(lens, *arguments, regions=FRAMES)
    assert table.effect.dims == ("clip", "step", "region", "block", "head")
    check(table.effect[0, 0, :, 0], [[0.2, 0.0], [0.0, 0.0]])  # what frame 0 is written is read
    assert list(table.region.values) == ["first", "second"]


def test_patched_parts_of_attention(lens: DiTLens) -> None:
    table = patching.patch_attention(lens, path(SOURCE), path(RECIPIENT), [1], END, parts=["z"])
    assert table.effect.dims == ("clip", "step", "part", "block", "head") and list(table.part.values) == ["z"]
    check(table.effect[0, 0, 0], np.array(DIFFERENCE_AFTER_PATCH) - BEFORE)


def test_a_patched_stream(lens: DiTLens) -> None:
    # entering block 1, frame 0 from the source: (5.92, 3.11), (2.97, 1.185): z = 4.445, .7775 + .88875 = 1.66625
    #   writes (1.76625, 4.445) * .5; frame 1: mid (3.853125, 3.4075); MLP (3.4075, .445625) by .4
    #   (5.216125, 3.58575)
    # frame 1 from the source: (2.17, 2.4), (3.92, 4.6): z = 3.045, .6 + 3.45 = 4.05; writes (4.15, 3.045) * .5
    #   mid (5.995, 6.1225); MLP (6.1225, 0) by .4: (8.444, 6.1225)
    table = patching.patch_residual(lens, path(SOURCE), path(RECIPIENT), [1], END, regions=FRAMES)
    assert table.effect.dims == ("clip", "step", "block", "region")
    check(table.effect[0, 0, 1], [5.216125 - 3.58575 - BEFORE, 8.444 - 6.1225 - BEFORE])
    whole = patching.patch_residual(lens, path(SOURCE), path(RECIPIENT), [1], END)
    check(whole.effect[0, 0, :, 0], [OF_SOURCE - BEFORE] * 2)
    assert list(whole.region.values) == ["all"]
    later = patching.patch_residual(lens, path(SOURCE), path(RECIPIENT), [1], END, point="resid_post")
    check(later.effect[0, 0, :, 0], [OF_SOURCE - BEFORE] * 2)
    # the middle of block 0, from the source: (5.62, .6), (1.62, 4.6)
    middle = patching.patch_residual(lens, path(SOURCE), path(RECIPIENT), [1], INSIDE, point="resid_mid_attn")
    check(middle.effect[0, 0, 0], [3.11 - 2.4])


def test_patched_writes(lens: DiTLens) -> None:
    # in block 1 of the source attention writes (4.3275, 4.92) * .5 in the place of (1.58875, 2.57) * .5
    #   frame 1: mid (2.97 + 2.16375, 1.185 + 2.46) = (5.13375, 3.645); MLP (3.645, 1.48875) by .4
    #   (6.59175, 4.2405)
    # its MLP writes (7.06, 0) * .4 in frame 1: (3.764375 + 2.824, 2.47)
    table = patching.patch_writes(lens, path(SOURCE), path(RECIPIENT), [1], END)
    assert table.effect.dims == ("clip", "step", "write", "block", "region")
    check(table.effect.sel(block=1, region="all")[0, 0], [6.59175 - 4.2405 - BEFORE, 6.588375 - 2.47 - BEFORE])
    assert list(table.write.values) == ["attn_out", "mlp_out"]
    frames = patching.patch_writes(lens, path(SOURCE), path(RECIPIENT), [1], END, writes=["mlp_out"], regions=FRAMES)
    check(frames.effect.sel(block=1, write="mlp_out")[0, 0], [0.0, 6.588375 - 2.47 - BEFORE])


def test_clip_i_is_patched_into_clip_i(lens: DiTLens) -> None:
    table = patching.patch_residual(lens, path(RECIPIENT, SOURCE), path(SOURCE, RECIPIENT), [1], END)
    check(table.effect[:, 0, 0, 0], [BEFORE - OF_SOURCE, OF_SOURCE - BEFORE])
    with pytest.raises(ValueError, match=r"^got 2 clean and 1 corrupted clips"):
        patching.patch_residual(lens, path(RECIPIENT, SOURCE), path(SOURCE), [1], END)


def test_frames_as_regions() -> None:
    assert patching.frames_of(2) == {"0": (0, slice(None), slice(None)), "1": (1, slice(None), slice(None))}


def test_a_bar_is_shown_where_it_is_asked_for(lens: DiTLens, capsys: pytest.CaptureFixture) -> None:
    pair, alone = (lens, path(SOURCE), path(RECIPIENT), [1], END), (lens, path(RECIPIENT), [1], END)
    cuts = {"silent": lambda block, heads: (f"blocks.{block}.attn.hook_z", edits.zero(heads))}
    asked = (
        ("interventions", lambda **shown: patching.patch_heads(*pair, **shown)),
        ("interventions", lambda **shown: patching.patch_heads(*pair, regions=FRAMES, **shown)),
        ("interventions", lambda **shown: patching.patch_attention(*pair, parts=["z"], **shown)),
        ("interventions", lambda **shown: patching.patch_residual(*pair, **shown)),
        ("interventions", lambda **shown: patching.patch_writes(*pair, **shown)),
        ("interventions", lambda **shown: ablation.ablate_heads(*alone, **shown)),
        ("interventions", lambda **shown: ablation.ablate_writes(*alone, **shown)),
        ("interventions", lambda **shown: ablation.cut_attention(*alone, cuts, **shown)),
    )
    for word, question in asked:
        question()
        assert capsys.readouterr().err == ""
        question(progress=True)
        assert f"{word}: 100%" in (printed := capsys.readouterr().err) and "1/1" in printed and "step" in printed


# Ablation. Without a head of the recipient's, in frame 1:
#   block 0, head 0: writes (-.15, 0) * .2; mid (.97, 2), (2.97, -1); MLP (2, 0), (0, 3.97) by .5
#     post (1.97, 2), (2.97, .985); then z = 2.47, .5 + .73875 = 1.23875; writes (1.33875, 2.47) * .5
#     mid (3.639375, 2.22); MLP (2.22, 1.419375) by .4: (4.527375, 2.78775)
#   block 0, head 1: (4.83175, 3.0415), as in test_micro_dit
#   block 1, head 0: mid (3.764375, 1.185); MLP (1.185, 2.579375) by .4: (4.238375, 2.21675)
#   block 1, head 1: writes (.1, 2.57) * .5; mid (3.02, 2.47); MLP (2.47, .55) by .4: (4.008, 2.69)
WITHOUT = [[4.527375 - 2.78775, 4.83175 - 3.0415], [4.238375 - 2.21675, 4.008 - 2.69]]


def test_ablated_heads(lens: DiTLens) -> None:
    table = ablation.ablate_heads(lens, path(RECIPIENT), [1], {"end": END, "inside": INSIDE})
    assert table.effect_end.dims == ("clip", "step", "block", "head")
    check(table.effect_end[0, 0], np.array(WITHOUT) - BEFORE)
    check(table.before_end, [[BEFORE]])
    assert table.effect_inside[0, 0, 1].isnull().all() and set(table.data_vars) == {
        "effect_end", "effect_inside", "before_end", "before_inside"
    }  # fmt: skip
    assert list(table["clip"].values) == ["clip 0"]
    alone = ablation.ablate_heads(lens, path(RECIPIENT), [1], END, blocks=[1])
    check(alone.effect[0, 0], [np.array(WITHOUT[1]) - BEFORE])
    assert alone.block.values.tolist() == [1]


def test_ablated_writes(lens: DiTLens) -> None:
    # block 1 without attention: (2.97, 1.185); MLP (1.185, 1.785) by .4: (3.444, 1.899)
    # block 1 without its MLP: (3.764375, 2.47)
    table = ablation.ablate_writes(lens, path(RECIPIENT), [1], END)
    assert table.effect.dims == ("clip", "step", "write", "block")
    check(table.effect.sel(block=1)[0, 0], [3.444 - 1.899 - BEFORE, 3.764375 - 2.47 - BEFORE])
    assert list(table.write.values) == ["attn_out", "mlp_out"] and table.block.values.tolist() == [0, 1]
    assert list(ablation.ablate_writes(lens, path(RECIPIENT), [1], END, writes=["mlp_out"]).write.values) == ["mlp_out"]


def test_the_mean_takes_the_place_of_a_head(lens: DiTLens) -> None:
    # z of block 1: (2.57, 1.48875) of the recipient, (4.92, 4.2275) of the source, in both frames
    runs = {1: lens.evaluation(path(RECIPIENT), 1)}, {1: lens.evaluation(path(SOURCE, SOURCE, RECIPIENT), 1)}
    name = "blocks.1.attn.hook_z"
    means = ablation.means_over(lens, iter(runs), [name, "blocks.0.hook_mlp_out"])
    # over 4 clips: (2.57 + 4.92 * 2 + 2.57) / 4 = 3.745, (1.48875 * 2 + 4.2275 * 2) / 4 = 2.858125
    check(means[name][1].squeeze(-1), [[3.745, 2.858125]] * 2)
    assert set(means) == {name, "blocks.0.hook_mlp_out"} and means[name][1].dtype == torch.float64
    table = ablation.ablate_heads(lens, path(RECIPIENT), [1], END, replacement=ablation.mean_of(means), blocks=[1])
    # head 0: mid b 1.185 + 1.8725 = 3.0575; MLP (3.0575, .706875) by .4: (4.987375, 3.34025)
    # head 1: mid a 2.97 + 1.4790625 = 4.4490625; MLP (2.47, 1.9790625) by .4: (5.4370625, 3.261625)
    check(table.effect[0, 0, 0], [4.987375 - 3.34025 - BEFORE, 5.4370625 - 3.261625 - BEFORE])
    with pytest.raises(
        KeyError, match=r"got means of .*blocks.1.attn.hook_z.* · expected those of blocks.0.attn.hook_z too"
    ):
        ablation.mean_of(means)(lens, runs[0][1], "blocks.0.attn.hook_z", 1)
    whole = ablation.mean_of(means)(lens, runs[0][1], "blocks.0.hook_mlp_out", None)
    assert whole[1].heads is None and ablation.mean_of(means)(lens, runs[0][1], name, 0)[1].heads == [0]


def test_means_by_step_are_kept_apart(lens: DiTLens) -> None:
    at = lens.evaluation(path(RECIPIENT), 1)
    means = ablation.means_over(lens, [{1: at, 7: lens.evaluation(path(SOURCE), 1)}, {1: at}], ["hook_embed"])
    assert set(means["hook_embed"]) == {1, 7}
    check(means["hook_embed"][1], [[1, 2, 0], [3, -1, 1]])
    check(means["hook_embed"][7], [[5, 0, 0], [1, 4, 1]])


def test_another_clip_takes_the_place_of_a_head(lens: DiTLens) -> None:
    clips = path(RECIPIENT, SOURCE)
    swap = ablation.resampled(torch.tensor([1, 0]))
    table = ablation.ablate_heads(lens, clips, [1], END, replacement=swap)
    check(table.effect[0, 0], np.array(DIFFERENCE_AFTER_PATCH) - BEFORE)  # as patched from the source
    unchanged = ablation.ablate_heads(lens, clips, [1], END, replacement=ablation.resampled(torch.tensor([0, 1])))
    assert not unchanged.effect.any() and abs(table.effect[1]).min() > 1e-3
    x = torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 2, 2, 1)
    hook = Hook("blocks.0.attn.hook_z", "b n k e", TokenGrid(2, 1, 1), None, 0.5)
    whole = swap(lens, None, hook.name, None)  # type: ignore[arg-type]
    assert whole[0] == hook.name and whole[1](x, hook)[:, 0, 0, 0].tolist() == [2, 1]
    alone = swap(lens, None, hook.name, 1)[1](x, hook)  # type: ignore[arg-type]
    assert alone[:, 0, :, 0].tolist() == [[1, 2], [2, 1]]


def test_a_random_write_is_as_long_as_the_heads_own_by_hand(lens: DiTLens) -> None:
    at = lens.evaluation(path(RECIPIENT, SOURCE), 1)
    stream = torch.zeros(2, 2, 3).double()
    hook = Hook("blocks.1.hook_attn_out", "b n d", TokenGrid(2, 1, 1), 1, SIGMA)
    replace = ablation.random_write(3)
    # the gate of block 1 is .5: head 0 writes 2.57 * .5 to b (the source 4.92 * .5), head 1 1.48875 * .5 to a
    for head, lengths in ((0, (1.285, 2.46)), (1, (0.744375, 2.11375))):
        change = replace(lens, at, "blocks.1.attn.hook_z", head)
        added = change[1](stream + 1, hook) - 1
        assert change[0] == "blocks.1.hook_attn_out"
        check(added.norm(dim=-1), [[length] * 2 for length in lengths])
        direction = added / added.norm(dim=-1, keepdim=True)
        check(direction[0], direction[1])  # the same for every clip
        assert (direction[0, 0] @ direction[0, 1]).abs() < 0.999  # not for every token
        twin = ablation.random_write(3)(lens, at, "blocks.1.attn.hook_z", head)[1](stream, hook)
        check(twin, added)
        further = ablation.random_write(4)(lens, at, "blocks.1.attn.hook_z", head)[1](stream, hook)
        assert (further - added).abs().max() > 1e-2
    heads = [replace(lens, at, "blocks.1.attn.hook_z", head)[1](stream, hook) for head in (0, 1)]
    unit = [x / x.norm(dim=-1, keepdim=True) for x in heads]
    assert (unit[0] - unit[1]).abs().max() > 1e-2
    other_run = lens.evaluation(path(SOURCE, RECIPIENT), 1)  # lengths are those of the run at hand
    swapped = replace(lens, other_run, "blocks.1.attn.hook_z", 0)[1](stream, hook)
    check(swapped.norm(dim=-1), [[2.46] * 2, [1.285] * 2])
    for point, head in (("blocks.1.attn.hook_z", None), ("blocks.1.hook_mlp_out", 0)):
        with pytest.raises(ValueError, match=rf"^got {point} and head {head} · expected a head"):
            replace(lens, at, point, head)


# Attention cut. A pattern over two video tokens, of two heads, and one of text keys behind them.

PATTERN = Hook("blocks.4.attn.hook_pattern", "b k n n2", TokenGrid(2, 1, 1), 1, 0.5)
ROWS = torch.tensor([[[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [0.4, 0.4, 0.2]]]])
FIRST, SECOND = FRAMES["first"], FRAMES["second"]


def test_regions_cut_from_each_other_by_hand() -> None:
    change = ablation.between((SECOND, FIRST))(4, [1])
    by_hand = ROWS.clone()
    by_hand[0, 1, 1] = torch.tensor([0, 2 / 3, 1 / 3])  # (.4, .2) / .6; text is seen still
    torch.testing.assert_close(change[1](ROWS, PATTERN), by_hand)
    assert change[0] == PATTERN.name
    both = ablation.between((SECOND, FIRST), (FIRST, SECOND))(4, None)[1](ROWS, PATTERN)
    torch.testing.assert_close(both[0, 0], torch.tensor([[5 / 7, 0, 2 / 7], [0, 8 / 9, 1 / 9]]))
    torch.testing.assert_close(both[0, 1, 0], torch.tensor([0.25, 0, 0.75]))


def test_even_attention_by_hand() -> None:
    change = ablation.uniform(4, [0])
    pattern = change[1](ROWS, PATTERN)
    assert change[0] == PATTERN.name and torch.equal(pattern[:, 1], ROWS[:, 1])
    torch.testing.assert_close(pattern[:, 0], torch.full((1, 2, 3), 1 / 3))


def test_without_text_by_hand() -> None:
    change = ablation.without_text(4, [1])
    assert change[0] == "blocks.4.cross_attn.hook_z"
    z = Hook(change[0], "b n k e", TokenGrid(2, 1, 1), 1, 0.5)
    edited = change[1](torch.ones(1, 2, 2, 1), z)
    assert edited[0, :, :, 0].tolist() == [[1, 0], [1, 0]]
    joint = ablation.without_joint_text(4, [0])
    assert joint[0] == PATTERN.name
    by_hand = ROWS.clone()
    by_hand[0, 0] = torch.tensor([[5 / 8, 3 / 8, 0], [1 / 9, 8 / 9, 0]])  # / .8 and / .9
    torch.testing.assert_close(joint[1](ROWS, PATTERN), by_hand)


def test_cuts_are_made_head_by_head_or_block_by_block(lens: DiTLens) -> None:
    """In the place of cuts of a pattern, which the micro DiT does not show: heads set to zero."""

    def silent(block: int, heads: Any) -> Any:
        return (f"blocks.{block}.attn.hook_z", edits.zero(heads))

    def same(block: int, heads: Any) -> Any:
        return (f"blocks.{block}.attn.hook_z", edits.scale(1.0, heads))

    cuts = {"silent": silent, "same": same}
    table = ablation.cut_attention(lens, path(RECIPIENT), [1], END, cuts)
    assert table.effect.dims == ("clip", "step", "cut", "block", "head") and list(table.cut.values) == [*cuts]
    check(table.effect.sel(cut="silent")[0, 0], np.array(WITHOUT) - BEFORE)
    assert not table.effect.sel(cut="same").any()
    # all heads of block 1: writes (.1, 0) * .5: mid (3.02, 1.185); MLP (1.185, 1.835) by .4: (3.494, 1.919)
    whole = ablation.cut_attention(lens, path(RECIPIENT), [1], END, cuts, by_head=False)
    assert whole.effect.dims == ("clip", "step", "cut", "block")
    check(whole.effect.sel(cut="silent", block=1)[0, 0], 3.494 - 1.919 - BEFORE)


def test_zero_of_a_head_or_of_all(lens: DiTLens) -> None:
    at = Evaluation({"hidden_states": RECIPIENT}, 1, SIGMA)
    assert ablation.zero(lens, at, "blocks.1.attn.hook_z", 1)[1].heads == [1]
    whole = ablation.zero(lens, repeat(at, 1), POST_0, None)
    assert whole[1].heads is None and whole[1].kind == "zero" and whole[0] == POST_0
