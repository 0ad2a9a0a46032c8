"""Families: one file per diffusers architecture says how its modules spell the vocabulary, nothing else.

A family is a module with

- `NAME`, `TRANSFORMER` (the diffusers class), `CONDITIONING` (names of what it is told beside latent and time), and
  `OPTIONAL` where some of these have a default;
- `check_pipeline`, `encode_prompt`, `encode`, `decode`: what its pipeline does around the transformer;
- `to_timestep`, `to_sigma`, `velocity`: its conventions of time and output, as sigma and noise - data;
- `example`, `inputs`, `input_dtype`, `grid`: how the transformer is called;
- `hook_table`: how its modules spell the vocabulary;
- `of`, where its conventions differ from model to model: the family as one transformer has it;
- where its pipeline's calls need it, `OUTPUT` (the class of what one puts out), `passed_over` (does one leave a
  hook point out?) and `CALL` (what its arguments call the conditioning);
- where its pipeline does so, `boundary` (the noise level between two experts), `by_frame` (is time told for every
  frame?), `given_frames` (clean frames that a clip begins with, by its conditioning), `CONTEXTS` (what the calls of a
  step are for, in turn, where it names none by `cache_context`), `GUIDED_FROM_COND` (guidance is added to "cond") and
  `schedule_arguments` (what it hands to its scheduler);
- `noise_levels` (rising, after 0) where its scheduler does not count noise as a flow, and `as_fed` where the model is
  fed another latent than the flow's.

What most families share is taken from `conventions.py` by assignment: `encode, decode = conventions.encode, ...`.
"""

from __future__ import annotations

from types import ModuleType

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

FAMILIES: tuple[ModuleType, ...] = (wan, ltx, ltx2, hunyuan, hunyuan15, cogvideox, mochi, cosmos, allegro, skyreels)


def find(transformer: nn.Module) -> ModuleType:
    """The family of a transformer.

    Raises:
        TypeError: no family knows its class (lists those that are known), or it was altered in a way that hook points
            do not survive (compiled, fused, cached, ...; says how to undo it).
    """
    alterations.check(transformer)
    for family in FAMILIES:
        if isinstance(transformer, family.TRANSFORMER):
            return family.of(transformer) if hasattr(family, "of") else family
    known = ", ".join(f"{family.TRANSFORMER.__name__} ({family.NAME})" for family in FAMILIES)
    raise TypeError(
        f"got a {type(transformer).__name__} · expected one of {known}"
        " · CONTRIBUTING.md tells how to add a family (one file)"
    )
