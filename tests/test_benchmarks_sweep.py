"""The benchmark's ways to sweep heads find the same effects, and one that does not is refused; no time is asserted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.head_patching import WAYS, Task
from benchmarks.sweep import FLOOR, REFERENCE, SCREENED, deviations, runners, task, top_found


@pytest.fixture(scope="module")
def tiny() -> Task:
    return task("tiny")


@pytest.fixture(scope="module")
def effects_by_way(tiny: Task) -> dict[str, Tensor | None]:
    with torch.no_grad():
        return {name: run() for name, run in runners(tiny).items()}


def test_all_ways_find_the_effects_of_plain_hooks(effects_by_way: dict[str, Tensor | None], tiny: Task) -> None:
    deviation = deviations(effects_by_way)
    assert {"dit_lens, exact", "dit_lens, screened", "nnsight, stopped", REFERENCE} <= deviation.keys() <= WAYS.keys()
    assert max(deviation.values()) < 1e-4 and effects_by_way[FLOOR] is None
    effects = effects_by_way[REFERENCE]
    assert effects is not None and effects.shape == (2, 2) and effects.abs().min() > 1e-3


def test_a_way_that_patches_another_head_is_refused(effects_by_way: dict[str, Tensor | None]) -> None:
    exact = effects_by_way["dit_lens, exact"]
    assert exact is not None
    with pytest.raises(ValueError, match="differ"):
        deviations({**effects_by_way, "dit_lens, exact": exact.flip(1)})
    holed = exact.clone()
    holed[0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 absent"):
        deviations({**effects_by_way, "dit_lens, exact": holed})


def test_the_stock_model_of_a_task_is_left_as_it_was(effects_by_way: dict[str, Tensor | None], tiny: Task) -> None:
    hooks = [m for m in tiny.transformer.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks and "forward" not in vars(tiny.transformer)


def test_ways_are_chosen_by_name(tiny: Task) -> None:
    assert list(runners(tiny, ("nnsight, stopped",))) == [FLOOR, "nnsight, stopped", REFERENCE]
    with pytest.raises(KeyError, match="expected of floor"):
        runners(tiny, ("nnsigth",))


def test_it_is_told_how_many_of_the_largest_the_screen_found() -> None:
    exact = torch.arange(24.0).view(4, 6) - 12.5
    screened = torch.full_like(exact, torch.nan)
    screened[3, 3:], screened[0, :2] = exact[3, 3:], exact[0, :2]
    assert top_found({REFERENCE: exact, SCREENED: screened}).startswith("5 of the 10 heads")
    assert top_found({REFERENCE: exact}) == ""
