"""What an inversion owes to its prompt: how far the recovered noise moves, and the way back fails, under another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xarray as xr

from dit_lens.conditioning import Conditioning
from dit_lens.fidelity.paths import relative_error, round_trip
from dit_lens.inversion import Lens, invert, sample
from dit_lens.trajectory import Trajectory


def prompt_sensitivity(lens: Lens, path: Trajectory, prompts: Mapping[str, Conditioning]) -> xr.Dataset:
    """Of an inversion done again under other prompts.

    Args:
        path: an inversion that reached the last step.
        prompts: by name.

    Returns:
        `prompt_noise` (prompt, clip), the relative distance of the recovered noise from that of `path`;
        `prompt_round_trip`, the mean error of the way back under the same prompt; `prompt_crossed`, the error at the
        data of the way back from the noise of `path` under this prompt.
    """
    assert path.solver is not None
    rows: list[xr.Dataset] = []
    for conditioning in prompts.values():
        inverted = invert(lens, path.latent(0), path.schedule, path.solver, prompt=conditioning, guidance=path.guidance)
        crossed = sample(lens, path, prompt=conditioning).latents[0]
        values = {
            "prompt_noise": relative_error(inverted.latents[-1], path.latents[-1]).cpu().numpy(),
            "prompt_round_trip": round_trip(lens, inverted)[0].mean("step").values,
            "prompt_crossed": relative_error(crossed, path.latents[0]).cpu().numpy(),
        }
        rows.append(xr.Dataset({name: ("clip", value) for name, value in values.items()}))
    joined: xr.Dataset = xr.concat(rows, xr.Variable("prompt", list(prompts)))
    return joined.assign_coords(clip=list(path.clip_ids))


def perturbed(conditioning: Conditioning, size: float, seed: int = 0) -> Conditioning:
    """The embedding of a prompt moved at random by a part of its norm: for models that know but one prompt.

    Args:
        size: |moved - original| / |original| of each tensor of floats; 1 is as far as another embedding of its norm.
    """
    generator = torch.Generator().manual_seed(seed)

    def moved(x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x
        noise = torch.randn(x.shape, generator=generator).to(x)
        return x + size * x.norm() / noise.norm() * noise

    return Conditioning(
        {name: moved(x) for name, x in conditioning.tensors.items()}, f"{conditioning.prompt} (moved by {size:g})"
    )
