"""DiTLens: load a video DiT, invert clips through its sampler, run it with hooks, read what it thinks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens import laws
from dit_lens.cache import ActivationCache
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import HookFunction, NamesFilter
from dit_lens.inversion import Inversion
from dit_lens.models.loading import load_pipeline
from dit_lens.running import Evaluation, HookedTransformer, Reduce, Request
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
        self.transformer: Any = transformer if pipeline is None else pipeline.transformer
        source: Any = self.transformer if pipeline is None else pipeline
        self.name = name or source.config.get("_name_or_path") or type(source).__name__
        self.model = HookedTransformer(self.transformer, self.name)
        self.family, self.table = self.model.family, self.model.table
        if pipeline is not None:
            self.family.check_pipeline(pipeline)
            conditioning = conditioning or self.family.encode_prompt(pipeline, "")
        given = conditioning or Conditioning({})
        self.conditioning = given.to(self.transformer.device, self.family.input_dtype(self.transformer))
        if verify:
            self.verify()

    def verify(self) -> pd.DataFrame:
        """How far every law of the hook points is from holding on a tiny random input: law, point, deviation.

        Raises:
            ValueError: a law is broken; names the point and the deviation.
        """
        return pd.DataFrame(laws.verify(self.model))

    @classmethod
    def from_pretrained(cls, name: str | Path, seed: int = 0, verify: bool = True, **options: Any) -> DiTLens:
        """A lens on a bundled model, a diffusers folder, or a hub id. Only safetensors are read.

        Args:
            name: "mini-wan", "mini-wan-null", "mini-wan-random", a folder, or "owner/name".
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
        return self.model.traced.module(self.table.blocks[index])

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
                _, cache = self.run_with_cache(
                    latent=latent, timestep=self.family.to_timestep(0.5), names_filter=list(self.table.points)
                )
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
        }

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
        grid = self.model.grid(evaluations[0])
        if several is None:
            return velocities[0], ActivationCache(caches[0], grid, self.blocks)
        tensors = {name: torch.stack([cache[name] for cache in caches]) for name in caches[0]}
        velocity = None if stop_at else torch.stack(velocities)
        return velocity, ActivationCache(tensors, grid, self.blocks, several)

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
        self, fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]], steps: Iterable[int] | None = None
    ) -> Iterator[DiTLens]:
        """Hooks on every evaluation inside the block: run, invert, sample, and calls of the user's own pipeline.

        Nested contexts add up, outer first. They do not act inside `trace`, which is nnsight's own.

        Args:
            fwd_hooks: (name, glob, list or predicate; function (tensor, hook) -> tensor or None).
            steps: only at these steps, counted from data; everywhere unless given.

        Raises:
            KeyError: unknown hook point. TypeError: writing a point that can only be read.
            RuntimeError: a hook never fired.
        """
        with self.model.hooks(fwd_hooks, steps, getattr(self._pipeline, "scheduler", None)):
            yield self

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
        return self.model.traced.trace(evaluation.inputs)

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
        """
        streams = tuple(entering[name] for name in self.table.entering(start))
        prefix = Prefix(self.table.blocks[:start], streams[0] if len(streams) == 1 else streams)
        asked = Request(request.names, request.reduce, request.stop_at, prefix)
        velocity, kept = self.model.run_with(evaluation, {name: [f] for name, f in functions.items()}, asked)
        return velocity, ActivationCache(kept, self.model.grid(evaluation), self.blocks)

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
