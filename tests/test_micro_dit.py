"""Patched outputs against numbers worked out by hand on the micro DiT, to 1e-10."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import micro_dit
import pytest
import torch
from head_patches import head_patches
from micro_dit import MicroDiT, set_by_hand
from torch import Tensor

from dit_lens import DiTLens, edits, families
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import HookFunction
from dit_lens.interventions import sweep
from dit_lens.metrics import Readout
from dit_lens.running import Request
from dit_lens.trajectory import Schedule, Trajectory

SIGMA = 0.5  # gates of block 0: 0.2 and 0.5, of block 1: 0.5 and 0.4
Rows = list[tuple[float, float]]


def tokens(rows: Rows) -> Tensor:
    """(a, b) of the tokens of frame 0 and frame 1, as a latent with the marker beside them."""
    (a0, b0), (a1, b1) = rows
    return torch.tensor([[a0, a1], [b0, b1], [0, 1]], dtype=torch.float64).reshape(1, 3, 2, 1, 1)


RECIPIENT, SOURCE = tokens([(1, 2), (3, -1)]), tokens([(5, 0), (1, 4)])


@pytest.fixture
def lens(monkeypatch: pytest.MonkeyPatch) -> DiTLens:
    monkeypatch.setattr(families, "FAMILIES", (micro_dit.FAMILY, *families.FAMILIES))
    return DiTLens(transformer=set_by_hand(MicroDiT()))


def as_velocity(rows: Rows) -> Tensor:
    return tokens([(a - b, 2 * b) for a, b in rows])


def check(velocity: Tensor | None, stream: Rows) -> None:
    """The velocity is that of these (a, b) behind the last block."""
    assert velocity is not None and velocity.dtype == torch.float64
    torch.testing.assert_close(velocity, as_velocity(stream), atol=1e-10, rtol=0)


def hooked(lens: DiTLens, *fwd_hooks: tuple[str, HookFunction]) -> Tensor:
    return lens.run_with_hooks(latent=RECIPIENT, timestep=SIGMA, fwd_hooks=fwd_hooks)


def cached(lens: DiTLens, latent: Tensor, name: str) -> Tensor:
    return lens.run_with_cache(latent=latent, timestep=SIGMA, names_filter=name)[1][name]


def test_without_hooks(lens: DiTLens) -> None:
    # block 0: z = (1 + 3)/2, 2/4 - 3/4 = 2, -0.25; writes (-0.25 + 0.1, 2) * 0.2 = (-0.03, 0.4)
    #   mid (0.97, 2.4), (2.97, -0.6); MLP (2.4, 0), (0, 3.57) by 0.5; post (2.17, 2.4), (2.97, 1.185)
    # block 1: z = 2.57, 0.6 + 0.88875 = 1.48875; writes (1.58875, 2.57) * 0.5 = (0.794375, 1.285)
    #   mid (2.964375, 3.685), (3.764375, 2.47); MLP (3.685, 0), (2.47, 1.294375) by 0.4
    after_block_0 = torch.tensor([[[2.17, 2.4, 0], [2.97, 1.185, 1]]], dtype=torch.float64)
    activation = cached(lens, RECIPIENT, "blocks.0.hook_resid_post")
    torch.testing.assert_close(activation, after_block_0, atol=1e-10, rtol=0)
    z = cached(lens, RECIPIENT, "blocks.1.attn.hook_z")[0, :, :, 0]
    torch.testing.assert_close(z, torch.tensor([[2.57, 1.48875]] * 2, dtype=torch.float64), atol=1e-10, rtol=0)
    check(hooked(lens), [(4.438375, 3.685), (4.752375, 2.98775)])


def test_a_head_is_ablated(lens: DiTLens) -> None:
    # block 0, head 1 silent: writes (0.1, 2) * 0.2 = (0.02, 0.4)
    #   mid (1.02, 2.4), (3.02, -0.6); MLP (2.4, 0), (0, 3.62) by 0.5; post (2.22, 2.4), (3.02, 1.21)
    # block 1: z = 2.62, 0.6 + 0.9075; writes (1.6075, 2.62) * 0.5
    #   mid (3.02375, 3.71), (3.82375, 2.52); MLP (3.71, 0), (2.52, 1.30375) by 0.4
    velocity = hooked(lens, ("blocks.0.attn.hook_z", edits.zero(heads=[1])))
    check(velocity, [(4.50775, 3.71), (4.83175, 3.0415)])


HEAD_0_IN_BLOCK_1: Rows = [(4.908375, 4.86), (5.222375, 3.69275)]


def test_a_head_is_patched(lens: DiTLens) -> None:
    # the source after block 0: z = 3, 3; (3.1, 3) * 0.2; mid (5.62, 0.6), (1.62, 4.6)
    #   MLP (0.6, 5.02), (4.6, 0) by 0.5; post (5.92, 3.11), (3.92, 4.6), so head 0 of block 1 mixes 4.92
    # the recipient's block 1 with it: writes (1.58875, 4.92) * 0.5 = (0.794375, 2.46)
    #   mid (2.964375, 4.86), (3.764375, 3.645); MLP (4.86, 0), (3.645, 0.119375) by 0.4
    source = cached(lens, SOURCE, "blocks.1.attn.hook_z")
    check(hooked(lens, ("blocks.1.attn.hook_z", edits.patch(source, heads=[0]))), HEAD_0_IN_BLOCK_1)


def test_the_mlp_of_one_token_is_patched(lens: DiTLens) -> None:
    # the source's MLP of block 0 adds (2.3, 0) in frame 1: post (2.17, 2.4), (2.97 + 2.3, -0.6)
    # block 1: z = 3.72, 0.6 - 0.45 = 0.15; writes (0.25, 3.72) * 0.5 = (0.125, 1.86)
    #   mid (2.295, 4.26), (5.395, 1.26); MLP (4.26, 0), (1.26, 4.135) by 0.4
    source = cached(lens, SOURCE, "blocks.0.hook_mlp_out")
    torch.testing.assert_close(source[0, 1], torch.tensor([2.3, 0, 0], dtype=torch.float64), atol=1e-10, rtol=0)
    edit = edits.patch(source, tokens=(1, slice(None), slice(None)))
    check(hooked(lens, ("blocks.0.hook_mlp_out", edit)), [(3.999, 4.26), (5.899, 2.914)])


def test_two_edits_at_once(lens: DiTLens) -> None:
    # block 0, MLP halved: post (0.97 + 0.6, 2.4), (2.97, -0.6 + 0.8925)
    # block 1: z = 2.27, 0.6 + 0.219375 = 0.819375; attention adds (0.919375, 2.27) * 0.5 and in frame 0 minus (1, 1)
    #   mid (1.57 + 0.4596875 - 1, 2.4 + 1.135 - 1), (3.4296875, 1.4275)
    #   MLP (2.535, 0), (1.4275, 2.0021875) by 0.4
    vector = torch.tensor([-1.0, -1.0, 0.0], dtype=torch.float64)
    velocity = hooked(
        lens,
        ("blocks.0.hook_mlp_out", edits.scale(0.5)),
        ("blocks.1.hook_attn_out", edits.add(vector, tokens=(0, slice(None), slice(None)))),
    )
    check(velocity, [(1.0296875 + 1.014, 2.535), (3.4296875 + 0.571, 1.4275 + 0.800875)])


def test_a_suffix_is_computed_anew_and_nothing_before_it(lens: DiTLens, ran: list[int]) -> None:
    source = cached(lens, SOURCE, "blocks.1.attn.hook_z")
    entering = {"blocks.1.hook_resid_pre": cached(lens, RECIPIENT, "blocks.1.hook_resid_pre")}
    evaluation = lens.model.evaluation(RECIPIENT, SIGMA, Conditioning({}))
    ran.clear()
    edit = edits.patch(source, heads=[0])
    velocity, _ = lens.model.run_suffix(evaluation, 1, entering, {"blocks.1.attn.hook_z": edit}, Request())
    check(velocity, HEAD_0_IN_BLOCK_1)
    assert ran == [1]
    hooked(lens, ("blocks.1.attn.hook_z", edit))
    assert ran == [1, 0, 1]


@pytest.fixture
def ran(lens: DiTLens) -> Iterator[list[int]]:
    """Which blocks ran their MLP."""
    numbers: list[int] = []
    handles = [
        block.mlp.register_forward_hook(lambda *_, index=index: numbers.append(index))
        for index, block in enumerate(lens.transformer.blocks)
    ]
    yield numbers
    for handle in handles:
        handle.remove()


# The source's heads mix 3 and 3 in block 0, 4.92 and 4.2275 in block 1. With one of them in the recipient:
#   block 0, head 0: writes (-0.15, 3) * 0.2; post (2.27, 2.6), (2.97, 1.285); then z = 2.62, 1.61375
#     mid (3.126875, 3.91), (3.826875, 2.595); MLP (3.91, 0), (2.595, 1.231875) by 0.4
#   block 0, head 1: writes (3.1, 2) * 0.2; post (2.82, 2.4), (3.62, 1.51); then z = 3.22, 1.7325
#     mid (3.73625, 4.01), (4.53625, 3.12); MLP (4.01, 0), (3.12, 1.41625) by 0.4
#   block 1, head 0: as in HEAD_0_IN_BLOCK_1
#   block 1, head 1: writes (4.3275, 2.57) * 0.5; mid (4.33375, 3.685), (5.13375, 2.47)
#     MLP (3.685, 0.64875), (2.47, 2.66375) by 0.4
DIFFERENCE_AFTER_PATCH = [[4.864875 - 3.08775, 5.78425 - 3.6865], [5.222375 - 3.69275, 6.12175 - 3.5355]]


@pytest.mark.parametrize("method", ["exact", "literal"])
def test_a_sweep_of_head_patches_has_the_effects_worked_out_by_hand(lens: DiTLens, method: Any) -> None:
    """On the velocity's a - b in frame 1."""
    schedule = Schedule((0.0, SIGMA), (0.0, SIGMA))
    clean, corrupted = (
        Trajectory(torch.stack([x, x]), schedule, Conditioning({}), None, "noising", ("clip",))
        for x in (SOURCE, RECIPIENT)
    )
    metric = Readout(lambda velocity, cache: velocity[:, 0, 1, 0, 0])
    changes = head_patches(lens, lens.evaluation(clean, 1))
    result = sweep(lens, lens.evaluation(corrupted, 1), changes, {"difference": metric}, method=method)
    effect = result.effect["difference"][0].unflatten(0, (lens.blocks, lens.heads))
    by_hand = torch.tensor(DIFFERENCE_AFTER_PATCH, dtype=torch.float64) - (4.752375 - 2.98775)
    torch.testing.assert_close(effect, by_hand, atol=1e-10, rtol=0)
