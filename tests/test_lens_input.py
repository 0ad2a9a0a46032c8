"""Integers of numpy and torch are integers, one place stands for a list of it; all else is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saved_pipelines import saved
from small_pipelines import lens_on, noise, text, wan

from dit_lens import Conditioning, DiTLens, edits
from dit_lens.metrics import Readout


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return lens_on(wan())


def inverted(lens: DiTLens, **options: Any) -> Any:
    return lens.invert(noise(), **{"steps": 3, "solver": "euler"} | options)


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)], ids=repr)
def test_integers_of_numpy_and_torch_are_integers(lens: DiTLens, three: Any) -> None:
    plain = inverted(lens)
    assert torch.equal(inverted(lens, steps=three, batch_size=three).latents, plain.latents)
    assert torch.equal(plain.latent(three), plain.latents[3])
    steps_seen: list[int | None] = []
    with lens.hooks([("hook_latent", lambda x, hook: steps_seen.append(hook.step))], steps=three - 1):
        inverted(lens)
    assert steps_seen == [2]


def test_one_place_stands_for_a_list_of_it(lens: DiTLens) -> None:
    path = inverted(lens)
    _, single = lens.run_with_cache(path, steps=2, names_filter="blocks.1.attn.hook_z")
    _, several = lens.run_with_cache(path, steps=[2], names_filter="blocks.1.attn.hook_z")
    assert torch.equal(single["z", 1], several["z", 1]) and len(single["z", 1]) == 1
    assert edits.zero(heads=np.int64(1)).heads == edits.zero(heads=[1]).heads == [1]


REFUSED: list[tuple[Callable[[DiTLens], Any], type[Exception], str]] = [
    (lambda lens: inverted(lens, steps=3.0), TypeError, r"got steps 3\.0 · expected a whole number"),
    (lambda lens: inverted(lens, steps=True), TypeError, "got steps True"),
    (lambda lens: inverted(lens, steps="3"), TypeError, "got steps '3'"),
    (lambda lens: inverted(lens, batch_size=0), ValueError, "got batch_size 0 · expected a whole number from 1"),
    (lambda lens: lens.encode(np.zeros((5, 32, 32, 3), np.uint8), 0), ValueError, "got batch_size 0"),
    (lambda lens: inverted(lens, solver=None), TypeError, "got None as solver"),
    (lambda lens: inverted(lens, prompt=3), TypeError, "got prompt=3"),
    (lambda lens: inverted(lens).latent(1.5), TypeError, r"got step 1\.5"),
    (lambda lens: lens.hooks([], steps=[2.5]).__enter__(), TypeError, r"got steps 2\.5 · expected a whole number"),
    (lambda lens: lens.hooks([], steps="12").__enter__(), TypeError, "got steps '12'"),
    (lambda lens: lens.run_with_cache(noise(), 1), TypeError, "got a Tensor as trajectory"),
    (lambda lens: edits.zero(heads="1"), TypeError, "got heads '1'"),
    (lambda lens: DiTLens(wan(), "small", {"encoder_hidden_states": text()}), TypeError, "got a dict as conditioning"),
    (lambda lens: DiTLens(wan(), "small", text()), TypeError, "got a Tensor as conditioning"),
    (lambda lens: Readout(lambda velocity, cache: velocity.mean())(noise(), {}), TypeError, "got a single number from"),
    (lambda lens: Readout(lambda velocity, cache: 0.5)(noise(), {}), TypeError, "got a single number from a metric"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "kind", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_all_else_is_refused(lens: DiTLens, act: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        act(lens)


def test_an_option_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder, conditioning = saved(tmp_path / "model"), Conditioning({"encoder_hidden_states": text()})
    with pytest.raises(TypeError, match=r"got unknown option 'devcie' · .* did you mean 'device'"):
        DiTLens.from_pretrained(folder, devcie="cpu", conditioning=conditioning)
    DiTLens.from_pretrained(
        folder, device="cpu", vae=None, boundary_ratio=None, conditioning=conditioning, verify=False
    )
