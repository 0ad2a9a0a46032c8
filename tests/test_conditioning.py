"""The hash of a conditioning tells tensors apart and nothing else."""

from __future__ import annotations

import torch

from dit_lens.conditioning import Conditioning
from dit_lens.toy.mini_wan import empty_prompt


def test_equal_tensors_hash_alike_whatever_their_order() -> None:
    first = Conditioning({"a": torch.ones(1, 2), "b": torch.zeros(1, 2)})
    second = Conditioning({"b": torch.zeros(1, 2), "a": torch.ones(1, 2)})
    assert first.hash == second.hash
    assert len(first.hash) == 16 and int(first.hash, 16) >= 0


def test_another_value_or_name_changes_the_hash() -> None:
    text = empty_prompt()
    changed = text.clone()
    changed[0, -1, -1] += 1e-3
    hashes = {
        Conditioning({"encoder_hidden_states": text}).hash,
        Conditioning({"encoder_hidden_states": changed}).hash,
        Conditioning({"image": text}).hash,
    }
    assert len(hashes) == 3


def test_another_shape_changes_the_hash() -> None:
    text = empty_prompt()
    assert Conditioning({"text": text}).hash != Conditioning({"text": text.transpose(0, 1).contiguous()}).hash


def test_half_precision_tensors_hash() -> None:
    text = empty_prompt().bfloat16()
    assert Conditioning({"text": text}).hash == Conditioning({"text": text.float()}).hash
