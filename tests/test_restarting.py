"""A model that is entered at a block, with streams that are given: earlier blocks do not run, nothing else differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import build
from torch import Tensor

from dit_lens import DiTLens, edits, laws
from dit_lens.hook_points import HookFunction
from dit_lens.running import Request


@pytest.fixture(scope="module")
def small() -> DiTLens:
    return DiTLens(transformer=build("wan"), name="small wan", verify=False)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    torch.manual_seed(3)
    text = torch.randn(2, 3, 16)
    return {"latent": torch.randn(2, 4, 2, 4, 4), "timestep": 400.0, "encoder_hidden_states": text}


@pytest.fixture
def ran(small: DiTLens) -> Iterator[list[int]]:
    """Blocks whose MLP was run."""
    blocks_run: list[int] = []
    blocks = enumerate(small.transformer.blocks)
    handles = [block.ffn.register_forward_hook(lambda *_, i=i: blocks_run.append(i)) for i, block in blocks]
    yield blocks_run
    for handle in handles:
        handle.remove()


def writing(value: Tensor) -> HookFunction:
    return lambda x, hook: value


@pytest.mark.parametrize("family", ["wan", "cogvideox", "hunyuan", "ltx2"])
def test_altered_streams_do_what_hooks_that_write_them_do(family: str) -> None:
    """From every block, the first included; of every stream that a joint model has."""
    lens = DiTLens(transformer=build(family), verify=False)
    evaluation = laws.example(lens.model.members[0])
    plain, cache = lens.model.run_with(evaluation, {}, Request([f"blocks.*.{name}" for name in lens.table.streams]))

    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, lens.blocks - 1), st.integers(0, 99))
    def check(start: int, seed: int) -> None:
        noise = torch.Generator().manual_seed(seed)
        names = lens.table.entering(start)
        streams = {name: cache[name] + torch.randn(cache[name].shape, generator=noise) for name in names}
        again, _ = lens.model.run_suffix(evaluation, start, streams, {}, Request())
        hooked, _ = lens.model.run_with(evaluation, {n: [writing(x)] for n, x in streams.items()}, Request())
        assert again is not None and hooked is not None and plain is not None
        torch.testing.assert_close(again, hooked, rtol=1e-5, atol=1e-6)
        assert (again - plain).abs().max() > 1e-3

    check()


@pytest.mark.parametrize("start", [0, 1, 2, -1])
def test_a_restart_is_the_whole_and_earlier_blocks_do_not_run(
    small: DiTLens, inputs: dict[str, Any], ran: list[int], start: int
) -> None:
    velocity, cache = small.run_with_cache(**inputs)
    ran.clear()
    again, kept = small.run_with_cache(**inputs, start_at=start, entering=cache)
    assert torch.equal(again, velocity) and ran == list(range(start % 3, 3))
    behind = {name for name in cache if not name.startswith(tuple(f"blocks.{b}." for b in range(start % 3)))}
    assert set(kept) == behind and all(torch.equal(kept[name], cache[name]) for name in kept)


def test_hooks_act_from_the_start_on(small: DiTLens, inputs: dict[str, Any], ran: list[int]) -> None:
    _, cache = small.run_with_cache(**inputs)
    hooks = [("blocks.2.hook_mlp_out", edits.zero()), ("blocks.1.hook_resid_pre", lambda x, hook: 2 * x)]
    with small.hooks(hooks):
        whole, _ = small.run_with_cache(**inputs, names_filter="hook_velocity")
        ran.clear()
        again, kept = small.run_with_cache(
            **inputs, names_filter="blocks.2.hook_resid_pre", start_at=1, entering=cache, stop_at=None
        )
    assert torch.equal(again, whole) and ran == [1, 2] and list(kept) == ["blocks.2.hook_resid_pre"]


def test_a_middle_part_is_run_alone(small: DiTLens, inputs: dict[str, Any], ran: list[int]) -> None:
    _, cache = small.run_with_cache(**inputs)
    ran.clear()
    point = "blocks.1.hook_resid_post"
    velocity, kept = small.run_with_cache(**inputs, names_filter=point, start_at=1, entering=cache, stop_at=point)
    assert velocity is None and ran == [1] and torch.equal(kept[point], cache[point])


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"start_at": 1}, TypeError, "entering="),
        ({"entering": {}}, TypeError, "start_at="),
        ({"start_at": 3, "entering": {}}, IndexError, "-3 to 2"),
        ({"start_at": 1, "entering": {}}, KeyError, "blocks.1.hook_resid_pre"),
        ({"start_at": 2, "entering": {}, "names_filter": "blocks.1.hook_resid_post"}, ValueError, "before 2"),
        ({"start_at": 2, "entering": None, "stop_at": "blocks.1.hook_resid_post"}, ValueError, "from block 2 on"),
    ],
)
def test_what_cannot_be_is_refused(
    small: DiTLens, inputs: dict[str, Any], asked: dict[str, Any], error: type[Exception], says: str
) -> None:
    if asked.get("stop_at"):
        asked = asked | {"entering": small.run_with_cache(**inputs)[1]}
    with pytest.raises(error, match=says):
        small.run_with_cache(**inputs, **asked)


def test_a_hook_in_a_block_that_is_not_run_is_refused(small: DiTLens, inputs: dict[str, Any]) -> None:
    _, cache = small.run_with_cache(**inputs)
    with pytest.raises(ValueError, match="from block 1 on"), small.hooks([("blocks.0.hook_mlp_out", edits.zero())]):
        small.run_with_cache(**inputs, start_at=1, entering=cache)
