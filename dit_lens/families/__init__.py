"""Families: one file per diffusers architecture maps the hook point names to that model's modules.

Each file ends with a `FAMILY`, an instance of `Family` (`family.py` lists its fields and their defaults).
`conventions.py` has what most families share, `parts.py` the functions that build hook points.
"""

from __future__ import annotations

from torch import nn

import dit_lens.families.allegro as allegro
import dit_lens.families.alterations as alterations
import dit_lens.families.cogvideox as cogvideox
import dit_lens.families.cosmos as cosmos
import dit_lens.families.hunyuan as hunyuan
import dit_lens.families.hunyuan15 as hunyuan15
import dit_lens.families.ltx as ltx
import dit_lens.families.ltx2 as ltx2
import dit_lens.families.mochi as mochi
import dit_lens.families.skyreels as skyreels
import dit_lens.families.wan as wan
from dit_lens.families.family import Family

_MODULES = wan, ltx, ltx2, hunyuan, hunyuan15, cogvideox, mochi, cosmos, allegro, skyreels
FAMILIES: tuple[Family, ...] = tuple(module.FAMILY for module in _MODULES)


def find(transformer: nn.Module) -> Family:
    """The family of a transformer.

    Raises:
        TypeError: no family supports its class (the message lists the supported ones), or the model was altered in a
            way that breaks hook points (compiled, fused, cached, ...; the message says how to undo it).
    """
    alterations.check(transformer)
    for family in FAMILIES:
        if isinstance(transformer, family.transformer):
            return family.of_transformer(transformer)
    supported = ", ".join(f"{family.transformer.__name__} ({family.name})" for family in FAMILIES)
    raise TypeError(
        f"got a {type(transformer).__name__} · expected one of {supported}"
        " · CONTRIBUTING.md tells how to add a family (one file)"
    )
