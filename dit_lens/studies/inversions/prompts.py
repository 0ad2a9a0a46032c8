"""How far an inversion depends on its prompt: the noise recovered under others, beside the distance between clips."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from dit_lens import fidelity
from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.studies.encoders import text_of
from dit_lens.studies.inversions.probes import inverted
from dit_lens.studies.options import Options

MOVED = (0.1, 1.0)  # of an embedding's norm


def prompt_table(lens: DiTLens, scenes: Sequence[Scene], study: Options, prompts: Sequence[str]) -> list[xr.Dataset]:
    """Sensitivity of the recovered noise to the prompt, averaged over clips; empty for a model without text.

    Returns:
        A table of `fidelity.prompt_sensitivity` with `prompt_between`, the distance between the noises of two clips.
    """
    alternatives = conditionings(lens, prompts, study.seed)
    if not alternatives:
        return []
    path = inverted(lens, scenes, study, study.sampler_steps or 0, study.solver)
    table = fidelity.prompt_sensitivity(lens, path, alternatives).mean("clip")
    noise = path.latents[-1]
    return [table.assign(prompt_between=float(fidelity.relative_error(noise.roll(1, 0), noise).mean()))]


def conditionings(lens: DiTLens, prompts: Sequence[str], seed: int) -> dict[str, Conditioning]:
    """Conditionings by name; for a model without a text encoder, its one embedding moved in a random direction."""
    if lens.prompts.can_encode:
        return {prompt: lens.encode_prompt(prompt) for prompt in prompts}
    if text_of(lens) is None:
        return {}
    return {f"embedding moved by {size:.0%}": fidelity.perturbed(lens.conditioning, size, seed) for size in MOVED}
