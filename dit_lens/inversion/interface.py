"""What the functions of this package need of a lens: a model, the parts of its pipeline, and its conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from dit_lens.clips import Clip
from dit_lens.conditioning import Conditioning
from dit_lens.families.family import Family
from dit_lens.inversion.prompts import Prompts
from dit_lens.models.parts import Parts
from dit_lens.running import Model
from dit_lens.trajectory import Schedule

Input = Clip | Sequence[Clip] | np.ndarray | Tensor | str | Path
Steps = int | Sequence[float] | Schedule


class Lens(Protocol):
    """A `DiTLens`, as far as these functions are concerned.

    Attributes:
        name: how results call the model.
        model: evaluates velocities.
        family: the conventions of its architecture.
        parts: the pipeline, whose autoencoder and text encoders may not be loaded yet.
        prompts: encodes prompts.
        conditioning: what the transformer gets beside latent and time unless something else is passed.
    """

    name: str
    model: Model
    family: Family
    parts: Parts
    prompts: Prompts
    conditioning: Conditioning

    @property
    def transformer(self) -> Any:
        """The diffusers transformer; of experts the first."""
        ...

    @property
    def vae(self) -> Any:
        """The autoencoder, on the device."""
        ...

    def facts(self) -> dict[str, str]:
        """What a result records of its model."""
        ...


def pipeline_of(lens: Lens) -> Any:
    """The pipeline, whose autoencoder may not be loaded yet.

    Raises:
        TypeError: the lens was made from a transformer alone.
    """
    if lens.parts.pipeline is None:
        raise TypeError(
            f"got {lens.name} as a transformer alone · expected a pipeline for latents, schedules and decoding"
            " · DiTLens(pipeline), or run_with_cache(latent=, timestep=, ...)"
        )
    return lens.parts.pipeline
