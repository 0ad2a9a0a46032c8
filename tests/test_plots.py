"""Plots: names as figures show them."""

from __future__ import annotations

import pytest

from dit_lens import plots


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mini-wan, continuation", "mini-wan, continuation"),
        ("/data/runs/wan21, inversion", "wan21, inversion"),
        ("noise matched to /data/runs/wan21@random, inversion", "noise matched to wan21@random, inversion"),
        ("tint: Wan-AI/Wan2.1-T2V-1.3B-Diffusers, inversion", "tint: Wan2.1-T2V-1.3B-Diffusers, inversion"),
        ("a" * 30 + "b" * 30, "a" * 21 + "…" + "b" * 21),
    ],
)
def test_a_label_is_short_and_keeps_both_ends(name: str, shown: str) -> None:
    assert plots.label(name) == shown
