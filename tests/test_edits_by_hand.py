"""Every edit's value on numbers small enough for paper: two tokens of two heads of two features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dit_lens import edits
from dit_lens.axes import TokenGrid
from dit_lens.edits import Edit
from dit_lens.hook_points import Hook

GRID = TokenGrid(frames=2, rows=1, columns=1)
Z = Hook("blocks.0.attn.hook_z", "b n k e", GRID, step=3, sigma=0.5)
PATTERN = Hook("blocks.0.attn.hook_pattern", "b k n n2", GRID, step=3, sigma=0.5)
LATENT = Hook("hook_latent", "b c f h w", GRID, step=3, sigma=0.5)
# (clip, token, head, feature)
X = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
SOURCE = torch.tensor([[[[10.0, 20.0], [30.0, 40.0]], [[50.0, 60.0], [70.0, 80.0]]]])


@pytest.mark.parametrize(
    ("edit", "by_hand"),
    [
        (edits.zero(), [[[0, 0], [0, 0]], [[0, 0], [0, 0]]]),
        (edits.zero(heads=[1]), [[[1, 2], [0, 0]], [[5, 6], [0, 0]]]),
        (edits.zero(heads=[-1]), [[[1, 2], [0, 0]], [[5, 6], [0, 0]]]),
        (edits.zero(heads=[-2]), [[[0, 0], [3, 4]], [[0, 0], [7, 8]]]),
        (edits.zero(tokens=(1, 0, 0)), [[[1, 2], [3, 4]], [[0, 0], [0, 0]]]),
        (edits.zero([0], (1, 0, 0)), [[[1, 2], [3, 4]], [[0, 0], [7, 8]]]),
        (edits.patch(SOURCE, [0], (0, 0, 0)), [[[10, 20], [3, 4]], [[5, 6], [7, 8]]]),
        (edits.patch({2: X, 3: SOURCE}, [1]), [[[1, 2], [30, 40]], [[5, 6], [70, 80]]]),
        (edits.mean(SOURCE[0], [0]), [[[10, 20], [3, 4]], [[50, 60], [7, 8]]]),
        (edits.mean({3: torch.tensor([[[9.0, 11.0]]])}, [1]), [[[1, 2], [9, 11]], [[5, 6], [9, 11]]]),
        (edits.add(torch.tensor([0.5, -1.0]), [1]), [[[1, 2], [3.5, 3]], [[5, 6], [7.5, 7]]]),
        (edits.scale(-2, tokens=(0, 0, 0)), [[[-2, -4], [-6, -8]], [[5, 6], [7, 8]]]),
        # 11/5, 25/5, 39/5 and 53/5 along (3, 4)/5, which is (1.32, 1.76), (3, 4), (4.68, 6.24) and (6.36, 8.48)
        (
            edits.project_out(torch.tensor([3.0, 4.0])),
            [[[1 - 1.32, 2 - 1.76], [0, 0]], [[5 - 4.68, 6 - 6.24], [7 - 6.36, 8 - 8.48]]],
        ),
    ],
)
def test_of_heads(edit: Edit, by_hand: list) -> None:
    torch.testing.assert_close(edit(X, Z), torch.tensor([by_hand], dtype=torch.float32))


def test_resample_takes_clip_i_from_its_donor() -> None:
    run = torch.cat([X, 2 * X, 3 * X])
    edited = edits.resample(torch.cat([SOURCE, -SOURCE]), torch.tensor([1, 0, 1]), heads=[0])(run, Z)
    # head 0 of clips 0, 1, 2 from donors 1, 0, 1; head 1 stays (3, 4), (6, 8), (9, 12)
    by_hand = [[[-10, -20], [3, 4]], [[10, 20], [6, 8]], [[-10, -20], [9, 12]]]
    assert edited[:, 0].tolist() == by_hand


def test_noise_is_alpha_standard_deviations_of_each_tokens_own_features() -> None:
    """Told through the same edit of another activation: eps is the same, the spread is by hand."""
    # Features (0, 2), (0, 4), ...: their (unbiased) standard deviation is d / sqrt(2)
    spreads = torch.tensor([[2.0, 4.0], [6.0, 8.0]])
    x = torch.stack([torch.zeros(2, 2), spreads], dim=-1)[None]
    added = edits.noise(0.5, seed=7)(x, Z) - x
    eps = added / (0.5 * spreads / 2**0.5)[None, :, :, None]
    twice = edits.noise(2.0, seed=7)(10 * x, Z) - 10 * x
    torch.testing.assert_close(twice, 2.0 * 10 * (spreads / 2**0.5)[None, :, :, None] * eps)
    assert eps.abs().min() > 0.01 and eps.abs().max() < 4 and len(set(eps.flatten().tolist())) == 8


def test_noise_on_a_latent_is_in_proportion_to_the_spread_over_channels() -> None:
    # Channels (0, 2) at one place and (0, 200) at the other: a hundred times as large there; by the last axis none
    x = torch.tensor([[0.0, 0.0], [2.0, 200.0]])[None, :, :, None, None]
    added = (edits.noise(1.0, 0)(x, LATENT) - x)[0, :, :, 0, 0]
    flat = (edits.noise(1.0, 0)(x / x.amax(1, keepdim=True), LATENT) - x / x.amax(1, keepdim=True))[0, :, :, 0, 0]
    torch.testing.assert_close(added, flat * torch.tensor([2.0, 200.0]), rtol=1e-4, atol=1e-4)
    assert added.isfinite().all() and added.abs().min() > 1e-3


def test_noise_depends_on_seed_point_step_and_level_and_on_nothing_else() -> None:
    def added(seed: int, hook: Hook, clips: int = 1) -> Tensor:
        x = torch.tensor([1.0, -1.0]).expand(clips, 2, 2, 2)
        return edits.noise(1.0, seed)(x, hook) - x

    first = added(0, Z)
    for noise in (
        added(1, Z),
        *(added(0, Hook(*place)) for place in (
            ("blocks.1.attn.hook_z", "b n k e", GRID, 3, 0.5),
            ("blocks.0.attn.hook_z", "b n k e", GRID, 2, 0.5),
            ("blocks.0.attn.hook_z", "b n k e", GRID, 3, 0.25),
        )),
    ):  # fmt: skip
        assert not torch.equal(noise, first)
    assert torch.equal(added(0, Hook("blocks.0.attn.hook_z", "b n k e", GRID, 3, 0.5, "uncond", "low_noise")), first)
    assert torch.equal(added(0, Z, clips=3), first.expand(3, 2, 2, 2))


# (clip, head, query, key): rows sum to 1.
ROWS = torch.tensor([[[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [0.0, 1.0, 0.0]]]])


def test_cut_scales_what_is_left_to_one_and_leaves_nothing_where_all_is_cut() -> None:
    edited = edits.cut(torch.tensor([False, True, False]))(ROWS, PATTERN)
    # (.5, .2) / .7; (.1, .1) / .2; (.2, .6) / .8; nothing is left
    by_hand = [[[[5 / 7, 0, 2 / 7], [0.5, 0, 0.5]], [[0.25, 0, 0.75], [0, 0, 0]]]]
    torch.testing.assert_close(edited, torch.tensor(by_hand))


def test_cut_of_one_head_and_query() -> None:
    edited = edits.cut(torch.tensor([True, False, False]), [0], (1, 0, 0))(ROWS, PATTERN)
    by_hand = ROWS.clone()
    by_hand[0, 0, 1] = torch.tensor([0, 8 / 9, 1 / 9])  # (.8, .1) / .9
    torch.testing.assert_close(edited, by_hand)


def test_evenly_is_one_over_the_number_of_keys() -> None:
    edited = edits.evenly(heads=[1], tokens=(0, 0, 0))(ROWS, PATTERN)
    by_hand = ROWS.clone()
    by_hand[0, 1, 0] = 1 / 3
    torch.testing.assert_close(edited, by_hand)
    torch.testing.assert_close(edits.evenly()(ROWS, PATTERN), torch.full_like(ROWS, 1 / 3))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edits.mean(torch.zeros(2, 2)), r"^got means of shape \(2, 2\) for an activation of shape \(1, 2, 2, 2\) · "),
        (edits.mean(torch.zeros(2, 2, 3)), r"means of shape \(2, 2, 3\) .* expected \(2, 2, 2\), or 1 "),
        (
            edits.mean({1: X[0], 2: X[0]}),
            r"^.got a call at step 3 of blocks.0.attn.hook_z .* 1, 2, for which .* means",
        ),
        (edits.patch({1: X}), "of the steps 1, for which the edit holds source "),
        (
            edits.patch(SOURCE[:, :1]),
            r"^got a source of shape \(1, 1, 2, 2\) for an activation of shape \(1, 2, 2, 2\)",
        ),
        (
            edits.resample(SOURCE, torch.tensor([0, 0])),
            r"^got 2 donors and a source of shape \(1, 2, 2, 2\) for .* each of its 1 clips and \(2, 2, 2\) of each",
        ),
        (edits.resample(SOURCE[:, :1], torch.tensor([0])), r"^got 1 donors and a source of shape \(1, 1, 2, 2\)"),
        (edits.resample({1: X}, torch.tensor([0])), "the edit holds source"),
        (edits.cut(torch.zeros(3, dtype=torch.bool)), r"^got keys of shape \(3,\) for a pattern .* each of its 2 keys"),
        (edits.zero(heads=[2]), "^got head 2 on an axis of 2 · expected -2 to 1$"),
        (edits.zero(heads=[-3]), "^got head -3 on an axis of 2 · expected -2 to 1$"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers(edit: Edit, message: str) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        edit(X, Z)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (edits.zero(), "zero()"),
        (edits.zero([2], (0, 1, 2)), "zero(heads=[2], tokens=(0, 1, 2))"),
        (edits.scale(2, [0]), "scale(factor=2.0, heads=[0])"),
        (edits.noise(1, 3), "noise(alpha=1.0, seed=3)"),
        (edits.patch(X.bfloat16()), "patch(source=<1x2x2x2 bfloat16>)"),
        (edits.mean({3: X[0], 4: X[0]}), "mean(means={3: <2x2x2 float32>, 4: <2x2x2 float32>})"),
    ],
)
def test_an_edit_prints_as_it_is_written(edit: Edit, text: str) -> None:
    assert repr(edit) == text


def test_a_kind_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    edits.save([("hook_embed", edits.zero())], tmp_path / "e.json")
    (tmp_path / "e.json").write_text((tmp_path / "e.json").read_text().replace('"zero"', '"zeroo"'))
    with pytest.raises(ValueError, match=r"^got kind of edit 'zeroo' · expected one of zero, .*did you mean 'zero'"):
        edits.load(tmp_path / "e.json")
