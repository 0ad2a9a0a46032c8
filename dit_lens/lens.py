"""DiTLens: load a video DiT, invert clips through its sampler, run it with hooks, read what it thinks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import xarray as xr
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens import fidelity, laws
from dit_lens.cache import ActivationCache, Anatomy, Estimate, clock
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Hook, HookFunction, NamesFilter
from dit_lens.inversion import Input, Inversion
from dit_lens.models.loading import load_pipeline
from dit_lens.running import (
    Evaluation,
    Experts,
    Generation,
    HookedTransformer,
    Recorder,
    Reduce,
    Request,
    Where,
    of_pipeline,
)
from dit_lens.tracing import Prefix
from dit_lens.trajectory import Trajectory


class DiTLens(Inversion):
    """A lens on the transformer of a stock diffusers video pipeline, or on a transformer alone.

    Args:
        pipeline: a loaded pipeline; its transformer is put in evaluation mode and its parameters are frozen.
        name: how results call the model.
        conditioning: what to feed beside latent and time; the pipeline's empty prompt unless given.
        transformer: instead of a pipeline; it can be traced and hooked, but not invert, sample, encode or decode.
        verify: check the laws of the hook points on a tiny input (see `dit_lens.laws`).

    Raises:
        TypeError: no family knows the transformer, the pipeline has parts that the family does not handle, or neither
            or both of pipeline and transformer were given.
        ValueError: no conditioning was given and the pipeline has no text encoder; or a law is broken.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline | None = None,
        name: str | None = None,
        conditioning: Conditioning | None = None,
        *,
        transformer: nn.Module | None = None,
        verify: bool = True,
    ):
        if (pipeline is None) == (transformer is None):
            raise TypeError("got no single model · expected a pipeline, or transformer= alone")
        self._pipeline = pipeline
        source: Any = transformer if pipeline is None else pipeline
        self.name = name or source.config.get("_name_or_path") or type(source).__name__
        self.model = HookedTransformer(source, self.name) if pipeline is None else of_pipeline(pipeline, self.name)
        self.transformer: Any = self.model.members[0].transformer
        self.family, self.table = self.model.family, self.model.table
        if pipeline is not None:
            conditioning = conditioning or self.family.encode_prompt(pipeline, "")
        given = conditioning or Conditioning({})
        self.conditioning = given.to(self.transformer.device, self.family.input_dtype(self.transformer))
        if verify:
            self.verify()

    def verify(self) -> pd.DataFrame:
        """How far every law of the hook points is from holding on a tiny random input: law, point, deviation.

        Of a model of experts both are verified, and a column says which.

        Raises:
            ValueError: a law is broken; names the point and the deviation.
        """
        found = [pd.DataFrame(laws.verify(member)).assign(expert=member.expert) for member in self.model.members]
        table = pd.concat(found, ignore_index=True)
        return table if isinstance(self.model, Experts) else table.drop(columns="expert")

    @classmethod
    def from_pretrained(cls, name: str | Path, seed: int = 0, verify: bool = True, **options: Any) -> DiTLens:
        """A lens on a bundled model, a diffusers folder, or a hub id. Only safetensors are read.

        Args:
            name: "mini-wan", "mini-wan-null", "-swap", "-planted", "-random", a folder, or "owner/name"; "@step500"
                behind the name of one that was trained here is what it was after that many steps.
            seed: of the initialisation of "mini-wan-random" (0 is where the training of mini-wan began).
            verify: check the laws of the hook points on a tiny input.
            **options: for `DiffusionPipeline.from_pretrained`: dtype, device_map, revision, ...

        Raises:
            ValueError: unknown name, or a damaged checkpoint (names the file).
        """
        pipeline, conditioning = load_pipeline(name, seed, **options)
        return cls(pipeline, str(name), conditioning, verify=verify)

    def __repr__(self) -> str:
        return (
            f"DiTLens({self.name!r}, {self.blocks} blocks x {self.heads} heads, {len(self.table.points)} hook points)"
        )

    @property
    def blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self.table.blocks)

    @property
    def heads(self) -> int:
        """Number of attention heads in a block."""
        return self.transformer.config.num_attention_heads

    def block(self, index: int) -> Any:
        """The nnsight envoy of a block, for use inside `trace`; negative indices count from the end.

        Raises:
            IndexError: there is no such block.
        """
        if not -self.blocks <= index < self.blocks:
            raise IndexError(f"got block {index} · expected {-self.blocks} to {self.blocks - 1}")
        running = [member for member in self.model.members if member.traced.running]
        return (running or self.model.members)[0].traced.module(self.table.blocks[index])

    def hook_points(self, latent: Float[Tensor, "b c f h w"] | None = None) -> pd.DataFrame:
        """Every hook point: name, axes, whether it can be written, and for an absent one the reason.

        Args:
            latent: with one, its shapes too (by one evaluation).
        """
        table = pd.DataFrame(
            [
                (point.name, point.axes, "read, write" if point.write else "read")
                for point in self.table.points.values()
            ],
            columns=["name", "axes", "access"],
        )
        if latent is not None:
            with torch.no_grad():
                time, names = self.family.to_timestep(self.model.middle), list(self.table.points)
                _, cache = self.run_with_cache(latent=latent, timestep=time, names_filter=names)
            table["shape"] = [tuple(cache[name].shape) for name in table.name]
        absent = pd.DataFrame({"name": list(self.table.absent), "absent because": list(self.table.absent.values())})
        return pd.concat([table, absent], ignore_index=True).fillna("")

    def facts(self) -> dict[str, str]:
        """What a result says of its model: name, class, dtype, scheduler, prompt and its hash."""
        return {
            "model": self.name,
            "transformer": type(self.transformer).__name__,
            "dtype": str(self.family.input_dtype(self.transformer)).removeprefix("torch."),
            "scheduler": type(self.pipeline.scheduler).__name__ if self._pipeline else "none",
            "prompt": self.conditioning.prompt,
            "prompt_hash": self.conditioning.hash,
            **self._expert_facts(),
        }

    def _expert_facts(self) -> dict[str, str]:
        if not isinstance(self.model, Experts):
            return {}
        names = ", ".join(str(member.expert) for member in self.model.members)
        return {"experts": f"{names}; boundary {self.model.boundary}"}

    @property
    def anatomy(self) -> Anatomy:
        """How the streams are put together, for a cache from a file: `ActivationCache.open(path, lens.anatomy)`.

        Of a model of several experts it is that of the first.
        """
        first = self.model.members[0]
        return Anatomy.of(first.transformer, first.table)

    def _anatomy(self, *experts: str | None) -> Anatomy | None:
        """Of the transformer that was called; None where several were, whose weights differ."""
        called = [member for member in self.model.members if member.expert in experts]
        return Anatomy.of(called[0].transformer, self.table) if len(called) == 1 else None

    @torch.no_grad()
    def estimate(
        self,
        latent: Float[Tensor, "b c f h w"],
        names_filter: NamesFilter = "*",
        steps: int = 1,
        reduce: Reduce | None = None,
        **told: Tensor,
    ) -> Estimate:
        """Bytes and seconds of a cache before it is made, told by one timed evaluation of the first clip.

        Args:
            latent: what will be run, of all clips.
            names_filter, reduce: as for `run_with_cache`.
            steps: how many.
            **told: conditioning beside the lens's own.
        """
        sizes: dict[str, tuple[int, int]] = {}

        def measure(x: Tensor, hook: Hook) -> None:
            sizes[hook.name] = x.nbytes, (x if reduce is None else reduce(x)).nbytes

        time = torch.as_tensor(self.family.to_timestep(self.model.middle))
        first = {name: tensor[:1] for name, tensor in told.items()}
        (evaluation,) = self._evaluations(None, None, None, None, {"latent": latent[:1], "timestep": time, **first})
        with self.hooks([(names_filter, measure)]):
            start = clock(latent.device)
            self.model.velocity(evaluation)
            seconds = clock(latent.device) - start
        return Estimate(sizes, seconds, len(latent), steps, reduce is not None)

    def fidelity(self, trajectory: Trajectory, clips: Input | None = None, **options: Any) -> xr.Dataset:
        """How faithful an inversion is, as `fidelity.report` tells it; `fidelity.verdict` says it in sentences.

        Args:
            clips: what was inverted, to compare pixels with.
            **options: `watch` and `seed` of `fidelity.report`.
        """
        return fidelity.report(self, trajectory, clips, **options)

    # Running with hooks.

    def run_with_cache(
        self,
        trajectory: Trajectory | None = None,
        step: int | None = None,
        *,
        sigma: float | None = None,
        steps: Iterable[int] | None = None,
        names_filter: NamesFilter = "*",
        reduce: Reduce | None = None,
        stop_at: str | None = None,
        **inputs: Any,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Velocity and activations of one fresh evaluation at (x_i, sigma_i), or of several with a leading step axis.

        Args:
            trajectory: with one of `step`, `sigma` (the nearest level) or `steps`.
            names_filter: a name, glob, list of these, or predicate.
            reduce: applied to each activation where it is made, such as `lambda x: x.mean(1)`.
            stop_at: a hook point behind which nothing is run; the velocity is then None.
            **inputs: instead of a trajectory: `latent`, `timestep` and optionally `encoder_hidden_states`.

        Raises:
            KeyError: unknown hook point. IndexError: unknown step. TypeError: neither trajectory nor latent.
        """
        request = Request(names_filter, reduce, stop_at)
        several = None if steps is None else tuple(steps)
        evaluations = self._evaluations(trajectory, step, sigma, several, inputs)
        velocities, caches = zip(*(self.model.run(evaluation, request) for evaluation in evaluations), strict=True)
        grid, anatomy = self.model.grid(evaluations[0]), self._anatomy(*(e.expert for e in evaluations))
        axes = {} if reduce else {name: self.table.points[name].axes for name in caches[0]}
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
        **inputs: Any,
    ) -> Tensor:
        """The velocity of one evaluation with hooks; see `run_with_cache` and `hooks` for the arguments."""
        (evaluation,) = self._evaluations(trajectory, step, sigma, None, inputs)
        with self.hooks(fwd_hooks):
            return self.model.velocity(evaluation)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
        steps: Iterable[int] | None = None,
        branches: Iterable[str] | None = None,
        experts: Iterable[str] | None = None,
    ) -> Iterator[DiTLens]:
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
            reduce: applied to each activation where it is made.
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
        **inputs: Any,
    ) -> Any:
        """The nnsight tracer over one evaluation; its `with` body starts on a line of its own.

        Modules must be touched in forward order: `h = lens.block(3).output.save()`.
        """
        (evaluation,) = self._evaluations(trajectory, step, sigma, None, inputs)
        return self.model.of(evaluation).traced.trace(evaluation.inputs)

    def run_suffix(
        self,
        evaluation: Evaluation,
        start: int,
        entering: Mapping[str, Tensor],
        functions: Mapping[str, HookFunction],
        request: Request,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Blocks from `start` on, given the streams that enter it; earlier blocks are not run.

        Args:
            evaluation: as for the whole model, at the batch size of the streams.
            entering: values of `table.entering(start)`.
            functions: one hook function per point; those of `hooks` do not act here.

        Raises:
            ValueError: a cache of another expert than the evaluation calls.
        """
        if isinstance(entering, ActivationCache):
            self._check_expert(evaluation, entering)
        streams = tuple(entering[name] for name in self.table.entering(start))
        prefix = Prefix(self.table.blocks[:start], streams[0] if len(streams) == 1 else streams)
        asked = Request(request.names, request.reduce, request.stop_at, prefix)
        velocity, kept = self.model.run_with(evaluation, {name: [f] for name, f in functions.items()}, asked)
        return velocity, ActivationCache(kept, self.model.grid(evaluation), self.blocks)

    def _check_expert(self, evaluation: Evaluation, entering: ActivationCache) -> None:
        own, other = self._anatomy(evaluation.expert), entering.anatomy
        if own is None or other is None:
            return
        mine, theirs = (next(iter(anatomy.heads.values())).weight for anatomy in (own, other))
        if mine.data_ptr() != theirs.data_ptr():
            raise ValueError(
                f"got streams that another transformer made than the {evaluation.expert or 'one'} of sigma"
                f" {evaluation.sigma:g} · expected blocks before and behind of one · cache them at the same step"
            )

    def _evaluations(
        self,
        trajectory: Trajectory | None,
        step: int | None,
        sigma: float | None,
        steps: tuple[int, ...] | None,
        inputs: dict[str, Any],
    ) -> list[Evaluation]:
        if trajectory is None:
            if (step, sigma, steps) != (None, None, None):
                raise TypeError(
                    "got a place on a trajectory without one · expected a trajectory, or latent= and timestep="
                )
            return [self._given(inputs)]
        if inputs:
            raise TypeError(f"got {', '.join(inputs)} beside a trajectory · expected one or the other")
        places = [] if steps is None else list(steps)
        places += [] if step is None else [step]
        places += [] if sigma is None else [trajectory.schedule.step_at(sigma)]
        if (step is not None) + (sigma is not None) + (steps is not None) != 1:
            raise TypeError("got no single place on the trajectory · expected exactly one of step=, sigma= and steps=")
        if not places:
            raise ValueError("got no steps · expected at least one, counted from data (0) to noise")
        return [self.evaluation(trajectory, place) for place in places]

    def _given(self, inputs: dict[str, Any]) -> Evaluation:
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
