"""Where on a path a model is evaluated, and what is kept of its activations.

lens.run_with_cache(traj, step=20, names_filter="blocks.3.*")                    # TransformerLens's keywords, or
lens.run_with_cache(traj, at=At(20), keep="blocks.3.*")                          # the same in two nouns,
lens.run_with_cache(traj, at=At(sigma=.7), keep=Keep("*", reduce=lambda x: x.mean(1), device="cpu"))
lens.run_with_cache(traj, at=At(steps=[0, 10, 20], branch="uncond"))             # a leading step axis
lens.run_with_cache(latent=x, timestep=500.0, encoder_hidden_states=prompt)      # no trajectory
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dit_lens.arguments import integers
from dit_lens.axes import Region
from dit_lens.choices import nearest
from dit_lens.conditioning import BRANCHES, Conditioning
from dit_lens.hook_points import NamesFilter
from dit_lens.inversion.solver_runs import evaluation
from dit_lens.running import Evaluation, Reduce, Request, keeping
from dit_lens.trajectory import Trajectory, checked

if TYPE_CHECKING:
    from dit_lens.lens import DiTLens


@dataclass(frozen=True, eq=False)
class At:
    """A place on a trajectory: exactly one of step, sigma and steps.

    Attributes:
        step: counted from data (0) to noise.
        sigma: the nearest noise level.
        steps: several steps; what is read there has a leading step axis.
        branch: of a path under guidance, "cond" unless given, or "uncond".
    """

    step: int | None = None
    sigma: float | None = None
    steps: Iterable[int] | int | None = None
    branch: str | None = None

    def __post_init__(self):
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(integers(self.steps, "steps")))

    @property
    def empty(self) -> bool:
        """Whether nothing is given."""
        return (self.step, self.sigma, self.steps, self.branch) == (None,) * 4

    def on(self, trajectory: Trajectory) -> list[int]:
        """The steps of a trajectory that are meant.

        Raises:
            TypeError: none or several of the three are given. ValueError: no steps.
        """
        if (self.step is not None) + (self.sigma is not None) + (self.steps is not None) != 1:
            raise TypeError("got no single place on the trajectory · expected exactly one of step=, sigma= and steps=")
        if self.sigma is not None:
            return [trajectory.schedule.step_at(self.sigma)]
        if self.step is not None:
            return [self.step]
        if not self.steps:
            raise ValueError("got no steps · expected at least one, counted from data (0) to noise")
        return [*self.steps]  # type: ignore[misc]  # a tuple by now


@dataclass(frozen=True, eq=False)
class Keep:
    """What is kept of the activations of an evaluation.

    Attributes:
        names: hook points: a name, glob, list of these, or predicate.
        reduce: (tensor) or (tensor, hook) -> tensor, applied to each activation in the hook, such as
            `lambda x: x.mean(1)`, or `lambda x, hook: hook.grid.unflatten(x).mean((2, 3))`.
        tokens: (frame, row, column), integers or slices; of video tokens only these are kept, before `reduce`.
        device, dtype: of what is kept; as the model has it unless given.
        stop_at: a hook point after which nothing is run; the velocity is then None.
    """

    names: NamesFilter = "*"
    reduce: Reduce | None = None
    tokens: Region | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    stop_at: str | None = None

    @property
    def request(self) -> Request:
        """The same as a request to a model.

        Raises:
            TypeError: a reduction or tokens of another kind. ValueError: a device or dtype that does not exist.
        """
        return Request(self.names, keeping(self.reduce, self.tokens, self.device, self.dtype), self.stop_at)


KEYWORDS = {"names_filter": "names"} | {field.name: field.name for field in fields(Keep) if field.name != "names"}
PLACES = tuple(field.name for field in fields(At))


def place_of(at: At | int | None, step: int | None, options: dict[str, Any]) -> At:
    """The place that keywords give; those that are used are taken out of the options.

    Raises:
        TypeError: at= beside single keywords, or something that is no place.
    """
    single = {name: options.pop(name) for name in PLACES if name in options}
    if step is not None:
        single["step"] = step
    if at is None:
        return At(**single)
    if single:
        raise TypeError(f"got at= beside {', '.join(single)}= · expected one or the other, such as at=At(step=3)")
    if isinstance(at, At):
        return at
    return At(step=at)


def kept_by(keep: Keep | NamesFilter | None, options: dict[str, Any]) -> Keep:
    """What keywords ask to keep; those that are used are taken out of the options.

    Raises:
        TypeError: keep= beside single keywords.
    """
    single = {KEYWORDS[name]: options.pop(name) for name in KEYWORDS if name in options}
    if keep is None:
        return Keep(**single)
    if single:
        raise TypeError(
            f"got keep= beside {', '.join(single)} · expected one or the other, such as keep=Keep('*', device='cpu')"
        )
    return keep if isinstance(keep, Keep) else Keep(keep)


def evaluations_of(
    lens: DiTLens, where: Trajectory | Evaluation | None, at: At, inputs: Mapping[str, Any]
) -> list[Evaluation]:
    """The evaluations that are meant: of a trajectory at a place, of latent and time, or the evaluation itself.

    Raises:
        TypeError: none or several of these; or inputs that are no arguments of the transformer.
    """
    if isinstance(where, Evaluation):
        if inputs or not at.empty:
            raise TypeError("got an evaluation beside a place or inputs · expected it alone, for it names its own")
        return [where]
    if where is None:
        if not at.empty:
            raise TypeError("got a place on a trajectory without one · expected a trajectory, or latent= and timestep=")
        return [_from_inputs(lens, inputs)]
    checked(where)
    if inputs:
        known = [*PLACES, *KEYWORDS, "at", "keep", "start_at", "entering", "fwd_hooks"]
        raise TypeError(
            f"got {', '.join(inputs)} beside a trajectory{nearest(next(iter(inputs)), known)} · expected one or the"
            " other"
        )
    return [evaluation(lens, where, step, at.branch or BRANCHES[0]) for step in at.on(where)]


def _from_inputs(lens: DiTLens, inputs: Mapping[str, Any]) -> Evaluation:
    names = lens.family.conditioning
    optional = {*lens.conditioning.tensors, *lens.family.optional}
    needed = {"latent", "timestep", *names} - optional
    if not needed <= inputs.keys() or not inputs.keys() <= {*needed, *names}:
        raise TypeError(
            f"got {', '.join(inputs) or 'nothing'} · expected a trajectory, or {'=, '.join(sorted(needed))}="
            f" and maybe {', '.join(names)}="
        )
    latent = lens.encode(inputs["latent"])
    tensors = {name: inputs[name] for name in names if name in inputs}
    conditioning = Conditioning({**lens.conditioning.tensors, **tensors})
    for name, default in lens.conditioning.tensors.items():
        _check_kind(name, conditioning.tensors[name], default)
    return lens.model.evaluation(latent, inputs["timestep"], conditioning)


def _check_kind(name: str, tensor: Tensor, default: Tensor) -> None:
    """Passes for a tensor with as many axes and features as the lens's own, floats or integers like it.

    Raises:
        ValueError: it is of another kind.
    """
    width = default.shape[2:] if default.ndim == 3 else ()  # clips and tokens may differ
    kinds = tensor.is_floating_point(), default.is_floating_point()
    if tensor.ndim != default.ndim or tensor.shape[2:][: len(width)] != width or kinds[0] != kinds[1]:
        raise ValueError(
            f"got {name} as {tensor.dtype} of shape {tuple(tensor.shape)} · expected {default.dtype}, of clips and"
            f" tokens like {tuple(default.shape)}"
        )
