"""Running a lens: with a cache, with hooks, as its pipeline runs it, or inside nnsight's trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from dit_lens.cache import ActivationCache
from dit_lens.conditioning import BRANCHES, Conditioning
from dit_lens.hook_points import HookFunction, NamesFilter
from dit_lens.lens.restarting import Restarting
from dit_lens.running import Evaluation, Generation, Recorder, Reduce, Request, Tokens, Where, keeping
from dit_lens.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class Place:
    """Where a model is evaluated, as it was asked: on a trajectory at one of `step`, `sigma` and `steps`; or nowhere.

    Attributes:
        branch: of guidance; the only one, or "cond", unless given.
    """

    trajectory: Trajectory | None = None
    step: int | None = None
    sigma: float | None = None
    steps: tuple[int, ...] | None = None
    branch: str | None = None

    @property
    def told(self) -> bool:
        """Whether anything was asked but a trajectory."""
        return (self.step, self.sigma, self.steps, self.branch) != (None,) * 4

    def on(self, trajectory: Trajectory) -> list[int]:
        """The steps of it that were asked for.

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
        return [*self.steps]


class Running(Restarting):
    """The half of `DiTLens` that evaluates, with what is read and written on the way."""

    def run_with_cache(
        self,
        trajectory: Trajectory | None = None,
        step: int | None = None,
        *,
        sigma: float | None = None,
        steps: Iterable[int] | None = None,
        branch: str | None = None,
        names_filter: NamesFilter = "*",
        reduce: Reduce | None = None,
        tokens: Tokens | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        start_at: int | None = None,
        entering: Mapping[str, Tensor] | None = None,
        stop_at: str | None = None,
        **inputs: Any,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Velocity and activations of one fresh evaluation at (x_i, sigma_i), or of several with a leading step axis.

        Args:
            trajectory: with one of `step`, `sigma` (the nearest level) or `steps`.
            branch: of a path under guidance, "cond" unless given, or "uncond".
            names_filter: a name, glob, list of these, or predicate.
            reduce: (tensor) or (tensor, hook) -> tensor, applied to each activation where it is made, such as
                `lambda x: x.mean(1)`, or `lambda x, hook: hook.grid.unflatten(x).mean((2, 3))`.
            tokens: (frame, row, column), integers or slices; of video tokens only these are kept, before `reduce`.
            device, dtype: of what is kept; as it is made unless given.
            start_at: a block, counted from the end where it is negative. It is entered with the streams given as
                `entering`, and earlier blocks are not run. Hooks act from there on; what lies in earlier blocks is not
                kept.
            entering: values of `table.entering(start_at)`, such as a cache of the same evaluation, changed or not.
            stop_at: a hook point behind which nothing is run; the velocity is then None.
            **inputs: instead of a trajectory: `latent`, `timestep` and optionally `encoder_hidden_states`.

        Raises:
            KeyError: unknown hook point, or a stream is not among those given. IndexError: unknown step or block.
            TypeError: neither trajectory nor latent; or `start_at` without `entering`, or with `steps`.
            ValueError: a hook, or all that is asked for, lies in blocks that are not run; or a branch that the path
                does not have.
        """
        request = Request(names_filter, keeping(reduce, tokens, device, dtype), stop_at)
        several = None if steps is None else tuple(steps)
        place = Place(trajectory, step, sigma, several, branch)
        evaluations = self._evaluations(place, inputs)
        if start_at is None and entering is None:
            ran = [self.model.run(evaluation, request) for evaluation in evaluations]
        elif several is not None:
            raise TypeError("got start_at= with steps= · expected a single step=, whose streams are given")
        else:
            ran = [self._restarted(evaluations[0], start_at, entering, request)]
        velocities, caches = zip(*ran, strict=True)
        grid, anatomy = self.model.grid(evaluations[0]), self._anatomy(*(e.expert for e in evaluations))
        axes = {} if reduce or tokens else {name: self.table.points[name].axes for name in caches[0]}
        if several is None:
            return velocities[0], ActivationCache(caches[0], grid, self.blocks, None, axes, anatomy)
        tensors = {name: torch.stack([cache[name] for cache in caches]) for name in caches[0]}
        velocity = None if stop_at else torch.stack(velocities)
        return velocity, ActivationCache(tensors, grid, self.blocks, several, axes, anatomy)

    def run_with_hooks(
        self,
        trajectory: Trajectory | None = None,
        step: int | None = None,
        *,
        fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
        sigma: float | None = None,
        branch: str | None = None,
        **inputs: Any,
    ) -> Tensor:
        """The velocity of one evaluation with hooks; see `run_with_cache` and `hooks` for the arguments."""
        (evaluation,) = self._evaluations(Place(trajectory, step, sigma, None, branch), inputs)
        with self.hooks(fwd_hooks):
            return self.model.velocity(evaluation)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
        steps: Iterable[int] | None = None,
        branches: Iterable[str] | None = None,
        experts: Iterable[str] | None = None,
    ) -> Iterator[Self]:
        """Hooks on every evaluation inside the block: run, invert, sample, and calls of the user's own pipeline.

        Nested contexts add up, outer first. They do not act inside `trace`, which is nnsight's own. Where a pipeline
        calls for several guidance branches in one batch, a function is called for each by itself.

        Args:
            fwd_hooks: (name, glob, list or predicate; function (tensor, hook) -> tensor or None).
            steps: only at these steps, counted from data; everywhere unless given.
            branches: only in these guidance branches of a pipeline's calls, as it names them ("cond", "uncond").
            experts: only in these experts ("high_noise", "low_noise").

        Raises:
            KeyError: unknown hook point. TypeError: writing a point that can only be read. ValueError: no such expert.
            RuntimeError: a hook never fired.
        """
        with self.model.hooks(fwd_hooks, Where.of(steps, branches, experts), self._pipeline):
            yield self

    def generate(
        self,
        prompt: str | Conditioning | None = None,
        *,
        names_filter: NamesFilter = (),
        reduce: Reduce | None = None,
        steps: Iterable[int] | None = None,
        branches: Iterable[str] | None = None,
        **call: Any,
    ) -> Generation:
        """The pipeline's own call, and the activations of each of its evaluations; active hooks act on it.

        Args:
            prompt: a prompt or what it is encoded to; the lens's own conditioning unless given here or in `call`.
            names_filter: a name, glob, list of these, or predicate; nothing is kept unless given.
            reduce: applied to each activation where it is made (see `run_with_cache`).
            steps, branches: where to keep (see `hooks`); everywhere unless given.
            **call: the pipeline's own arguments: num_frames, guidance_scale, generator, image, ...

        Raises:
            KeyError: unknown hook point. RuntimeError: nothing was kept at the steps and branches asked for.
            TypeError: conditioning that the pipeline has no argument for.
        """
        pipeline = self.pipeline
        recorder, call = Recorder(self.blocks, reduce), self._prompt_arguments(prompt, call) | call
        if names_filter == ():
            return Generation(pipeline(**call), ())
        with self.hooks([(names_filter, recorder)], steps, branches):
            output = pipeline(**call)
        kept = (replace(k, cache=replace(k.cache, anatomy=self._anatomy(k.expert))) for k in recorder.kept)
        return Generation(output, tuple(kept))

    def _prompt_arguments(self, prompt: str | Conditioning | None, call: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(prompt, str):
            return {"prompt": prompt}
        if prompt is None and not {"prompt", "prompt_embeds"}.isdisjoint(call):
            return {"prompt": None}  # not every pipeline has it as its default
        told, known = (prompt or self.conditioning).tensors, getattr(self.family, "CALL", {})
        if unknown := [name for name in told if name not in known and "image" not in call]:
            raise TypeError(
                f"got conditioning of {', '.join(unknown)}, which a {type(self.pipeline).__name__} is not called with"
                " · expected a prompt, or its own arguments (prompt_embeds=, image=, ...)"
            )
        return {"prompt": None} | {known[name]: tensor for name, tensor in told.items() if name in known}

    def trace(
        self,
        trajectory: Trajectory | None = None,
        step: int | None = None,
        *,
        sigma: float | None = None,
        branch: str | None = None,
        **inputs: Any,
    ) -> Any:
        """The nnsight tracer over one evaluation; its `with` body starts on a line of its own.

        Modules must be touched in forward order: `h = lens.block(3).output.save()`.
        """
        (evaluation,) = self._evaluations(Place(trajectory, step, sigma, None, branch), inputs)
        return self.model.of(evaluation).traced.trace(evaluation.inputs)

    def _evaluations(self, place: Place, inputs: Mapping[str, Any]) -> list[Evaluation]:
        trajectory = place.trajectory
        if trajectory is None:
            if place.told:
                raise TypeError(
                    "got a place on a trajectory without one · expected a trajectory, or latent= and timestep="
                )
            return [self._given(inputs)]
        if inputs:
            raise TypeError(f"got {', '.join(inputs)} beside a trajectory · expected one or the other")
        return [self.evaluation(trajectory, step, place.branch or BRANCHES[0]) for step in place.on(trajectory)]

    def _given(self, inputs: Mapping[str, Any]) -> Evaluation:
        told = self.family.CONDITIONING
        free = {*self.conditioning.tensors, *getattr(self.family, "OPTIONAL", ())}
        needed = {"latent", "timestep", *told} - free
        if not needed <= inputs.keys() or not inputs.keys() <= {*needed, *told}:
            raise TypeError(
                f"got {', '.join(inputs) or 'nothing'} · expected a trajectory, or {'=, '.join(sorted(needed))}="
                f" and maybe {', '.join(told)}="
            )
        latent = self.encode(inputs["latent"])
        tensors = {name: inputs[name] for name in told if name in inputs}
        tensors = {**self.conditioning.tensors, **tensors}
        return self.model.evaluation(latent, inputs["timestep"], Conditioning(tensors))
