"""A trajectory: latents at every noise level between data and noise, with a record of how they were computed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int64
from torch import Tensor

from dit_lens import results, tensor_file
from dit_lens.conditioning import Conditioning, Conditions, Guidance
from dit_lens.flow import Solver
from dit_lens.trajectory.record import PLACES, unsolved
from dit_lens.trajectory.schedule import Schedule

KIND = "dit_lens trajectory"
LATENTS, CHECKSUMS = "latents", "checksums"  # names in the file


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Latents of b clips along the path between data (step 0) and noise (the last step).

    Attributes:
        latents: (s+1, b, c, f, h, w); an inversion that was stopped early has fewer.
        schedule: levels and timesteps of all steps.
        conditioning: as the model got it.
        solver: the integrator from one level to the next; None where no model was run.
        direction: "invert" (from data up), "sample" (from noise down) or "noising" (no model at all).
        clip_ids: one per clip.
        record: evaluations, residual and convergence by step (see `record_of`); None where no model was run.
        facts: the model and its numerics; of a trajectory from a file, all of `results.provenance`.
        guidance: scale and conditioning of the second branch of classifier-free guidance; None without guidance.
    """

    latents: Float[Tensor, "s b c f h w"]
    schedule: Schedule
    conditioning: Conditioning
    solver: Solver | None
    direction: str
    clip_ids: tuple[str, ...] = field(default=())
    record: xr.Dataset | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    guidance: Guidance | None = None

    def __repr__(self) -> str:
        by = f" by {self.solver}" if self.solver else ""
        by += f", guidance {self.guidance.scale:g}" if self.guidance else ""
        return (
            f"Trajectory({len(self)} clips, {self.direction}{by}, steps 0 to {len(self.latents) - 1} of"
            f" {len(self.schedule)}, latents {tuple(self.latents.shape)}{unsolved(self.record)})"
        )

    def __len__(self) -> int:
        """Number of clips."""
        return self.latents.shape[1]

    @property
    def conditions(self) -> Conditions:
        """The conditioning of each branch of its evaluations."""
        return Conditions(self.conditioning, self.guidance)

    def latent(self, step: int) -> Float[Tensor, "b c f h w"]:
        """The latents at a step.

        Raises:
            IndexError: no such step, or the inversion stopped before it.
        """
        self.schedule.check_step(step)
        if step >= len(self.latents):
            raise IndexError(
                f"got step {step} · expected at most {len(self.latents) - 1}, where this inversion was stopped"
                " · invert with a larger `until`"
            )
        return self.latents[step]

    def __getitem__(self, clips: slice) -> Trajectory:
        """The trajectory of a slice of its clips."""
        if not isinstance(clips, slice):
            raise TypeError(f"got {clips!r} · expected a slice of clips, such as traj[:1]")
        selected = self.conditions.of_clips(clips)
        return replace(
            self,
            latents=self.latents[:, clips],
            conditioning=selected.conditioning,
            guidance=selected.guidance,
            clip_ids=self.clip_ids[clips],
            record=None if self.record is None else self.record.isel(clip=clips),
        )

    def save(self, path: str | Path) -> Path:
        """Writes an HDF5 file atomically; `open` returns every tensor bit for bit, on the CPU."""
        tensors, facts = described(self)
        return tensor_file.write(Path(path), KIND, {LATENTS: self.latents, **tensors}, facts)

    @classmethod
    def open(cls, path: str | Path) -> Trajectory:
        """The trajectory that `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated, damaged or not a trajectory; names it.
        """
        tensors, facts = tensor_file.read(Path(path), KIND)
        latents, expected = tensors.pop(LATENTS), tensors.pop(CHECKSUMS, None)
        if expected is not None and not torch.equal(checksums(latents), expected):
            step = int((checksums(latents) != expected).nonzero()[0])
            raise ValueError(
                f"got {path}, which cannot be read (the latents of step {step} have another checksum)"
                f" · expected a {KIND} saved whole · make it again"
            )
        return of_parts(latents, tensors, facts)


def checksums(latents: Float[Tensor, "s b c f h w"]) -> Int64[Tensor, " s"]:
    """A checksum (CRC-32) of each step's bytes."""
    return torch.tensor([zlib.crc32(tensor_file.to_bits(step).tobytes()) for step in latents])


def described(trajectory: Trajectory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The content of a trajectory's file except its latents: tensors by name, and metadata for JSON."""
    record = {} if trajectory.record is None else trajectory.record.variables
    guidance = trajectory.guidance
    groups: dict[str, Mapping[str, Tensor]] = {
        "conditioning": trajectory.conditioning.tensors,
        "negative": guidance.negative.tensors if guidance else {},
        "record": {str(name): torch.tensor(variable.values) for name, variable in record.items()},
    }
    tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
    return tensors, {
        "schedule": asdict(trajectory.schedule),
        "solver": None if trajectory.solver is None else asdict(trajectory.solver),
        "direction": trajectory.direction,
        "clip_ids": trajectory.clip_ids,
        "prompt": trajectory.conditioning.prompt,
        "guidance": None if guidance is None else {"scale": guidance.scale, "prompt": guidance.negative.prompt},
        "record": {str(name): variable.dims for name, variable in record.items()},
        "provenance": json.loads(results.provenance(**trajectory.facts)),
    }


def of_parts(latents: Tensor, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Trajectory:
    """A trajectory from its latents and from the tensors and metadata that `described` returns."""

    def group(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

    variables = {name: (facts["record"][name], values.numpy()) for name, values in group("record").items()}
    guidance = facts.get("guidance")  # older files were made without
    return Trajectory(
        latents,
        Schedule(**{name: tuple(levels) for name, levels in facts["schedule"].items()}),
        Conditioning(group("conditioning"), facts["prompt"]),
        None if facts["solver"] is None else Solver(**facts["solver"]),
        facts["direction"],
        tuple(facts["clip_ids"]),
        xr.Dataset(variables).set_coords(PLACES) if variables else None,
        facts["provenance"],
        guidance and Guidance(guidance["scale"], Conditioning(group("negative"), guidance["prompt"])),
    )


def checked(trajectory: Any) -> Trajectory:
    """The trajectory itself.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(trajectory, Trajectory):
        raise TypeError(
            f"got a {type(trajectory).__name__} as trajectory · expected one that lens.invert, lens.sample or"
            " lens.noising made · latents are run by run_with_cache(latent=, timestep=)"
        )
    return trajectory
