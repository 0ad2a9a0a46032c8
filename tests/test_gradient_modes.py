"""Gradient methods under `torch.no_grad` give what they give outside; in `torch.inference_mode` they say why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_clips import SmallClips
from torch import Tensor

from dit_lens import DiTLens, attribution, circuits, edits, interventions
from dit_lens.attribution import Integral, Smoothing
from dit_lens.interventions import Intervention
from dit_lens.metrics import Readout

Z, STREAM = "blocks.1.attn.hook_z", "blocks.1.hook_resid_post"
EDITED = [Intervention.single(Z, edits.zero([0])), Intervention.single(STREAM, edits.scale(0.5))]
END = Readout(lambda velocity, cache: velocity.flatten(1).mean(1))

METHODS: dict[str, Callable[[DiTLens, Any, Any], Tensor]] = {
    "integrated": lambda lens, a, b: (
        attribution.integrated_gradients(lens, a, b, Z, END, Integral(2, limit=9))[Z].values
    ),
    "first order": lambda lens, a, b: attribution.gradient_times_difference(lens, a, b, Z, END)[Z].values,
    "smoothed": lambda lens, a, b: attribution.smooth_gradients(lens, a, b, Z, END, Smoothing(2))[Z].values,
    "conductance": lambda lens, a, b: attribution.conductance(lens, a, b, Z, END, 2)[Z].values,
    "screened": lambda lens, a, b: (
        interventions.sweep(lens, b, EDITED, {"end": END}, method="screened").screened["end"].estimate
    ),
    "paths": lambda lens, a, b: torch.tensor(
        circuits.screen_paths(lens, {0: a}, {0: b}, [0], END, ["0.1"], ["readout", "1.0.v"]).values
    ),
}


@pytest.fixture(scope="module")
def clips() -> Iterator[SmallClips]:
    yield SmallClips("wan")


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_the_same_under_no_grad_and_refused_in_inference_mode(name: str, clips: SmallClips) -> None:
    pair = clips.at([0, 1], clean=True), clips.at([0, 1])
    plain = METHODS[name](clips.lens, *pair)
    with torch.no_grad():
        assert torch.equal(METHODS[name](clips.lens, *pair), plain)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inside torch\.inference_mode"):
        METHODS[name](clips.lens, *pair)
    assert plain.any() and torch.equal(METHODS[name](clips.lens, *pair), plain)


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_that_were_made_in_inference_mode_have_gradients_outside(name: str, clips: SmallClips) -> None:
    with torch.inference_mode():
        inside = clips.at([0, 1], clean=True), clips.at([0, 1])
    outside = clips.at([0, 1], clean=True), clips.at([0, 1])
    assert torch.equal(METHODS[name](clips.lens, *inside), METHODS[name](clips.lens, *outside))


def test_a_model_that_was_loaded_in_inference_mode_has_gradients_outside() -> None:
    with torch.inference_mode():
        lens = DiTLens.from_pretrained("mini-wan")
        assert not any(weight.is_inference() for weight in (*lens.transformer.parameters(), *lens.vae.parameters()))
        draws, size = torch.Generator().manual_seed(0), (1, lens.transformer.config["out_channels"], 2, 4, 4)
        ends = [lens.invert(torch.randn(size, generator=draws), steps=1, solver="euler") for _ in range(2)]
    attributions = attribution.integrated_gradients(lens, (ends[0], 1), (ends[1], 1), Z, END, Integral(2, limit=1e9))
    assert attributions[Z].values.any()
