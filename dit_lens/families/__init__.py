"""Families: one file per diffusers architecture says how its modules spell the vocabulary, nothing else.

A family is a module with `NAME`, `TRANSFORMER` (the diffusers class), `TRAIN_TIMESTEPS`, `check_pipeline`,
`encode_prompt`, `inputs`, `input_dtype`, `grid`, `encode`, `decode`, `block_path` and `hook_table`.
"""

from __future__ import annotations

from types import ModuleType

from torch import nn

import dit_lens.families.wan as wan

FAMILIES: tuple[ModuleType, ...] = (wan,)


def find(transformer: nn.Module) -> ModuleType:
    """The family of a transformer.

    Raises:
        TypeError: no family knows its class; lists those that are known.
    """
    for family in FAMILIES:
        if isinstance(transformer, family.TRANSFORMER):
            return family
    known = ", ".join(f"{family.TRANSFORMER.__name__} ({family.NAME})" for family in FAMILIES)
    raise TypeError(
        f"got a {type(transformer).__name__} · expected one of {known}"
        " · CONTRIBUTING.md tells how to add a family (one file)"
    )
