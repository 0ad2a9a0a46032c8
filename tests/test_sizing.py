"""The sizing table's model of cost is what torch counts in a run; on tensors without values, at the released size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sizing import QUESTIONS, RELEASES, Release, cost, disk, evaluations


def counted(release: Release, inputs: dict[str, torch.Tensor]) -> float:
    """FLOPs of the blocks in one evaluation, as torch counts them."""
    with torch.device("meta"):
        model: Any = getattr(diffusers, release.transformer)(**release.config)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs, return_dict=False)
    by_module = counter.get_flop_counts()
    blocks = {name: sum(ops.values()) for name, ops in by_module.items() if name.split(".")[-1].isdigit()}
    return sum(flops for name, flops in blocks.items() if name.split(".")[-2].endswith("blocks"))


def fed(release: Release, **axes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in axes.items()}


@pytest.mark.parametrize("name", ["Wan 2.1 1.3B", "CogVideoX-5B"])
def test_the_computed_flops_are_those_of_a_run(name: str) -> None:
    release = replace(RELEASES[name], config={**RELEASES[name].config, "num_layers": 2})
    frames, rows, columns = release.grid
    latent = {"WanTransformer3DModel": (1, 16, frames, 2 * rows, 2 * columns)}.get(
        release.transformer, (1, frames, 16, 2 * rows, 2 * columns)
    )
    inputs = fed(release, hidden_states=latent, encoder_hidden_states=(1, release.text, 4096), timestep=(1,))
    if name.startswith("Cog"):
        release = replace(release, config={**release.config, "use_rotary_positional_embeddings": True})
    assert cost(release).flops == pytest.approx(counted(release, inputs), rel=0.02)


def test_released_sizes() -> None:
    tokens = {name: release.tokens for name, release in RELEASES.items()}
    assert tokens == {
        "Wan 2.1 1.3B": 21 * 30 * 52, "Wan 2.1 14B": 21 * 45 * 80, "Wan 2.2 A14B": 21 * 45 * 80,
        "CogVideoX-5B": 13 * 30 * 45, "LTX-2": 16 * 16 * 24, "HunyuanVideo 1.5": 31 * 30 * 53,
    }  # fmt: skip
    small = cost(RELEASES["Wan 2.1 1.3B"])
    assert small.parameters == pytest.approx(1.42e9, rel=0.01) and (small.blocks, small.heads) == (30, 12)


def test_questions_are_counted_as_studies_count_them() -> None:
    release = RELEASES["Wan 2.1 1.3B"]
    of = cost(release)
    # Two models read 360 clips by an inversion of 50 steps, and at three places.
    assert evaluations("probe_blocks", release, of) == 2 * 360 * (50 + 3)
    counts = {question: evaluations(question, release, of) for question in QUESTIONS}
    assert counts["patch_heads"] > counts["patch_residual"] > counts["probe_blocks"]
    assert disk(release, of) == 4 * 360 * 3 * 30 * 1536 * 21
