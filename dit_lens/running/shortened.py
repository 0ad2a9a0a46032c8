"""A model of fewer blocks that stands for the whole: the first, middle and last block of each kind.

Blocks are of one kind where they are spelled alike (hook points and sites) and built alike (classes, attention
processors, shapes of weights). What is altered or spelled otherwise in one block makes a kind of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import nn

from dit_lens.hook_points import Site, Table
from dit_lens.running.hooked import HookedTransformer
from dit_lens.tracing import untraced_copy


def shortened(model: HookedTransformer) -> tuple[HookedTransformer, list[int]]:
    """The model of the representatives of its blocks, and where each of these stands in the whole.

    Modules are shared. A model whose parts accelerate moves about stays whole: its wrappers hold on to the original.
    """
    kept = representatives(model.transformer, model.table)
    moved = any("_hf_hook" in vars(module) for module in model.transformer.modules())
    if moved or len(kept) == len(model.table.blocks):
        return model, [*range(len(model.table.blocks))]
    model.residency.bring(model.transformer)
    few = _of_blocks(model.transformer, [model.table.blocks[index] for index in kept])
    return HookedTransformer(few, model.name, model.expert, model.by_frame, model.family), kept


def representatives(transformer: nn.Module, table: Table) -> list[int]:
    """The first, middle and last block of each kind, in order."""
    points: dict[int, list[Any]] = defaultdict(list)
    for name, point in table.points.items():
        if name.startswith("blocks."):
            _, number, short = name.split(".", 2)
            sites = tuple(_within(site, table.blocks[int(number)]) for site in point.sites)
            points[int(number)].append((short, point.axes, point.write is None, sites))
    kinds: dict[Any, list[int]] = defaultdict(list)
    for index, path in enumerate(table.blocks):
        kinds[path.rpartition(".")[0], tuple(points[index]), _built(transformer.get_submodule(path))].append(index)
    return sorted({kind[place] for kind in kinds.values() for place in (0, len(kind) // 2, -1)})


def _within(site: Site, block: str) -> tuple[str, str, str]:
    """A site as seen from a block."""
    return f"{site.path}.".removeprefix(f"{block}."), site.port, site.label


def _built(block: nn.Module) -> tuple[Any, ...]:
    """Of what modules a block is."""
    return tuple(
        (
            name,
            type(module),
            type(vars(module).get("processor")),
            tuple(tuple(w.shape) for w in module.parameters(False)),
        )
        for name, module in block.named_modules()
    )


def _of_blocks(transformer: Any, paths: Sequence[str]) -> Any:
    """The transformer with these blocks alone, all modules shared with it."""
    few = untraced_copy(transformer)
    lists: dict[str, list[nn.Module]] = defaultdict(list)
    for path in paths:
        lists[path.rpartition(".")[0]].append(transformer.get_submodule(path))
    for home, blocks in lists.items():
        setattr(few, home, nn.ModuleList(blocks))
    return few
