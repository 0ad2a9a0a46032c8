"""A trajectory: latents at every noise level between data and noise, and what made them."""

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
from dit_lens.conditioning import Conditioning, Guidance, Told
from dit_lens.flow import Solver
from dit_lens.trajectory.record import PLACES, unsolved
from dit_lens.trajectory.schedule import Schedule

KIND = "dit_lens trajectory"
LATENTS, CHECKSUMS = "latents", "checksums"  # how a file calls them


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Latents of b clips along the path between data (step 0) and noise (the last step).

    Attributes:
        latents: (s+1, b, c, f, h, w); an inversion that was stopped early has fewer.
        schedule: levels and timesteps of all steps.
        conditioning: as fed.
        solver: how one level was reached from the one before; None where no model was run.
        direction: "invert" (from data up), "sample" (from noise down) or "noising" (no model at all).
        clip_ids: one per clip.
        record: how each step went (see `record_of`); None where no model was run.
        facts: what made it: the model and its numerics; from a file, everything that `results.provenance` says.
        guidance: with its scale and what the second branch is told; None where the model was called for one alone.
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
    def told(self) -> Told:
        """What the branches of its evaluations are told."""
        return Told(self.conditioning, self.guidance)

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
        """The trajectory of some of its clips."""
        if not isinstance(clips, slice):
            raise TypeError(f"got {clips!r} · expected a slice of clips, such as traj[:1]")
        told = self.told.of_clips(clips)
        return replace(
            self,
            latents=self.latents[:, clips],
            conditioning=told.conditioning,
            guidance=told.guidance,
            clip_ids=self.clip_ids[clips],
            record=None if self.record is None else self.record.isel(clip=clips),
        )

    def save(self, path: str | Path) -> Path:
        """Writes HDF5, whole or not at all; every tensor comes back bit for bit, on the CPU."""
        tensors, told = described(self)
        return tensor_file.write(Path(path), KIND, {LATENTS: self.latents, **tensors}, told)

    @classmethod
    def open(cls, path: str | Path) -> Trajectory:
        """The trajectory that `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated, damaged or no trajectory; names it.
        """
        tensors, told = tensor_file.read(Path(path), KIND)
        latents, expected = tensors.pop(LATENTS), tensors.pop(CHECKSUMS, None)
        if expected is not None and not torch.equal(checksums(latents), expected):
            step = int((checksums(latents) != expected).nonzero()[0])
            raise ValueError(
                f"got {path}, which cannot be read (the latents of step {step} have another checksum)"
                f" · expected a {KIND} saved whole · make it again"
            )
        return of_parts(latents, tensors, told)


def checksums(latents: Float[Tensor, "s b c f h w"]) -> Int64[Tensor, " s"]:
    """A checksum (CRC-32) of each step's bytes."""
    return torch.tensor([zlib.crc32(tensor_file.to_bits(step).tobytes()) for step in latents])


def described(trajectory: Trajectory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a file says of a trajectory beside its latents: tensors by name, and facts."""
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


def of_parts(latents: Tensor, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> Trajectory:
    """The trajectory of latents and of what `described` said of them."""

    def group(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

    kept = {name: (told["record"][name], values.numpy()) for name, values in group("record").items()}
    guidance = told.get("guidance")  # older files were made without
    return Trajectory(
        latents,
        Schedule(**{name: tuple(levels) for name, levels in told["schedule"].items()}),
        Conditioning(group("conditioning"), told["prompt"]),
        None if told["solver"] is None else Solver(**told["solver"]),
        told["direction"],
        tuple(told["clip_ids"]),
        xr.Dataset(kept).set_coords(PLACES) if kept else None,
        told["provenance"],
        guidance and Guidance(guidance["scale"], Conditioning(group("negative"), guidance["prompt"])),
    )
