"""At load the first, middle and last block of each kind are verified, on a model of these alone; a mistake is still
caught, and what is altered in one block is a kind of its own."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import pytest
import torch
from small_models import SMALL, build
from test_altered_later import Louder
from test_laws import MISTAKES, known
from torch import nn

from dit_lens import DiTLens, laws
from dit_lens.running import HookedTransformer
from dit_lens.running.shortened import representatives, shortened

__all__ = ["known"]  # a fixture


def deep(name: str, more: int = 4) -> Any:
    """A small model with so many more blocks between the first two of each list; all weights differ."""
    transformer = build(name)
    homes = {path.rpartition(".")[0] for path in HookedTransformer(build(name), name).table.blocks}
    torch.manual_seed(9)
    for home in homes:
        blocks = transformer.get_submodule(home)
        for _ in range(more):
            added = copy.deepcopy(blocks[0])
            for weight in added.parameters():
                nn.init.normal_(weight, std=0.2)
            blocks.insert(1, added)
    return transformer


@pytest.mark.parametrize("name", SMALL)
def test_of_every_family_a_few_blocks_stand_for_the_whole(name: str) -> None:
    model = HookedTransformer(deep(name), name)
    homes = [path.rpartition(".")[0] for path in model.table.blocks]
    kept = representatives(model.transformer, model.table)
    assert {0, len(homes) - 1} <= {*kept} and len(kept) <= 4 * len({*homes}) < len(homes)
    counted: dict[str, int] = defaultdict(int)
    for index in kept:
        counted[homes[index]] += 1
    assert all(counted[home] >= 2 for home in homes)
    few, _ = shortened(model)
    assert len(few.table.blocks) == len(kept) and few.transformer is not model.transformer
    before = {key: id(module) for key, module in model.transformer.named_modules()}
    fast = {finding.point for finding in laws.verify(model, every_block=False) if finding.law != "between"}
    whole = {finding.point for finding in laws.verify(model)}
    assert {*fast} < whole
    assert {int(point.split(".")[1]) for point in fast if point.startswith("blocks.")} == {*kept}
    assert {key: id(module) for key, module in model.transformer.named_modules()} == before


@pytest.mark.parametrize(("mistake", "broken"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_misspelt_family_is_caught_by_the_few(known: Any, mistake: Any, broken: set[str]) -> None:
    known(lambda table: table)
    DiTLens(transformer=deep("ltx"))
    known(mistake)
    model = HookedTransformer(deep("ltx"), "small ltx")
    with pytest.raises(ValueError, match=r"laws broken\) · expected at most"):
        laws.verify(model, every_block=False)
    assert len(shortened(model)[1]) < len(model.table.blocks)


@pytest.mark.parametrize("index", [0, 2, 5, 6])
def test_a_block_that_is_built_otherwise_is_verified_too(index: int) -> None:
    transformer = deep("wan")
    attention = transformer.blocks[index].attn1
    attention.to_out[0] = Louder(24, 24)
    assert index in representatives(transformer, HookedTransformer(transformer, "wan").table)
    with pytest.raises(ValueError, match=rf"got blocks\.{index}\..* off by"):
        DiTLens(transformer=transformer)


def test_all_blocks_are_verified_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[bool] = []
    verify = laws.verify

    def noted(model: HookedTransformer, seed: int = 0, every_block: bool = True) -> Any:
        log.append(every_block)
        return verify(model, seed, every_block)

    monkeypatch.setattr(laws, "verify", noted)
    DiTLens(transformer=build("wan"))
    DiTLens(transformer=build("wan"), verify="all").verify()
    DiTLens(transformer=build("wan"), verify=False)
    assert log == [False, True, True]
    with pytest.raises(ValueError, match="got verify 'every'"):
        DiTLens(transformer=build("wan"), verify="every")
