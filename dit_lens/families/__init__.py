"""Families: one file per diffusers architecture says how its modules spell the vocabulary, nothing else.

A family is a module with

- `NAME`, `TRANSFORMER` (the diffusers class), `CONDITIONING` (names of what it is told beside latent and time);
- `check_pipeline`, `encode_prompt`, `encode`, `decode`: what its pipeline does around the transformer;
- `to_timestep`, `to_sigma`, `velocity`: its conventions of time and output, as sigma and noise - data;
- `example`, `inputs`, `input_dtype`, `grid`: how the transformer is called;
- `hook_table`: how its modules spell the vocabulary.
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
