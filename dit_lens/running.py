"""One evaluation of the transformer, with hooks, a cache, a skipped prefix or an early stop.

`HookedTransformer` is what `DiTLens` runs on; it knows nothing of clips or trajectories.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens import families
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Hook, HookFunction, HookPoint, NamesFilter
from dit_lens.tracing import Prefix, TracedModel

Reduce = Callable[[Tensor], Tensor]
Functions = Mapping[str, Sequence[HookFunction]]
VELOCITY = "hook_velocity"
SHARED = ("padding_mask",)  # of batch 1 for any number of clips (Cosmos)
ROUNDED = 0.002  # how far a scheduler's rounding takes the level of a timestep from its own


@dataclass(frozen=True)
class Evaluation:
    """One call of the transformer: its keyword arguments and where on a trajectory it lies (step None: nowhere)."""

    inputs: Mapping[str, Any]
    step: int | None
    sigma: float


@dataclass(frozen=True)
class Request:
    """What to keep of an evaluation and how much of it to run.

    Attributes:
        names: hook points to keep.
        reduce: applied to each kept activation where it is made.
        stop_at: a hook point behind which nothing is run; there is no velocity then.
        prefix: blocks that are skipped, and the stream that leaves them.
    """

    names: NamesFilter = ()
    reduce: Reduce | None = None
    stop_at: str | None = None
    prefix: Prefix | None = None


@dataclass(frozen=True)
class _Hooked:
    """Hook functions by point, and the steps at which they act (None: all)."""

    functions: Functions
    steps: frozenset[int] | None


class HookedTransformer:
    """A stock diffusers transformer whose named activations can be read and written.

    Raises:
        TypeError: no family knows the transformer.
    """

    def __init__(self, transformer: nn.Module, name: str):
        self.transformer, self.name = transformer.requires_grad_(False).eval(), name
        self.family = families.find(transformer)
        self.table = self.family.hook_table(transformer)
        self.traced = TracedModel(transformer, self.table)
        self._active: list[_Hooked] = []
        self._own_call = False

    @property
    def hooked(self) -> bool:
        """Whether hooks are active."""
        return bool(self._active)

    def grid(self, evaluation: Evaluation) -> TokenGrid:
        """The token grid of an evaluation's latent."""
        return self.family.grid(self.transformer, evaluation.inputs)

    def evaluation(
        self,
        latent: Float[Tensor, "b c f h w"],
        timestep: float | Tensor,
        conditioning: Conditioning,
        step: int | None = None,
        sigma: float | None = None,
    ) -> Evaluation:
        """A call of the transformer, on its device and in its dtype; time stays float32.

        Args:
            timestep: one for all, (b,), or (b, n) with one for each token.
            sigma: the noise level, where it is not that of the (noisiest) timestep.

        Raises:
            ValueError: conditioning for another number of clips.
        """
        device, dtype = next(self.transformer.parameters()).device, self.family.input_dtype(self.transformer)
        time = torch.as_tensor(timestep, dtype=torch.float32, device=device)
        time = time.expand(len(latent)) if time.ndim < 2 else time
        told = conditioning.to(device, dtype).tensors
        for name, tensor in told.items():
            if len(tensor) not in (1, len(latent)):
                raise ValueError(
                    f"got {name} for {len(tensor)} clips · expected 1 or {len(latent)}, as many as latents"
                )
        level = float(self.family.to_sigma(time).max()) if sigma is None else sigma
        return Evaluation(self.family.inputs(self.transformer, latent.to(device, dtype), time, told), step, level)

    def run(self, evaluation: Evaluation, request: Request = Request()) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Velocity and kept activations under the hooks that are active; without either the plain model is called.

        Raises:
            KeyError: unknown hook point. ValueError: `stop_at` lies before a point that is wanted.
        """
        functions = self._functions(evaluation)
        if functions or request != Request():
            return self.run_with(evaluation, functions, request)
        self._own_call = True  # its place is known, so a call of ours is not located a second time
        try:
            output = self.transformer(**evaluation.inputs)
        finally:
            self._own_call = False
        return self.family.velocity(evaluation.inputs, output), {}

    def velocity(self, evaluation: Evaluation) -> Tensor:
        """The velocity (b, c, f, h, w) of a whole evaluation under the hooks that are active."""
        velocity, _ = self.run(evaluation)
        assert velocity is not None
        return velocity

    def run_with(
        self, evaluation: Evaluation, functions: Functions, request: Request
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The same with the given hook functions in the place of the active ones."""
        _, velocity, kept = self._hooked(evaluation, functions, request)
        return velocity, kept

    def _hooked(
        self, evaluation: Evaluation, functions: Functions, request: Request
    ) -> tuple[Any, Tensor | None, dict[str, Tensor]]:
        """What the transformer itself puts out, its velocity (None both where it was stopped), and kept activations."""
        keep = {point.name for point in self.table.select(request.names, self.name)}
        wanted = {*keep, *functions, request.stop_at or VELOCITY}
        passed_over = getattr(self.family, "passed_over", None)
        points = self.table.select(sorted(wanted), self.name)
        if passed_over:
            points = [p for p in points if not passed_over(self.transformer, evaluation.inputs, p.name)]
        if request.stop_at and points[-1].name != request.stop_at:
            raise ValueError(
                f"got stop_at={request.stop_at!r} before {points[-1].name}"
                " · expected it behind all hooks and kept points"
            )
        grid, kept, stop = self.grid(evaluation), {}, request.stop_at is not None
        velocity: Tensor | None = None

        def visit(point: HookPoint, value: Tensor) -> Tensor:
            nonlocal velocity
            hook = Hook(point.name, point.axes, grid, evaluation.step, evaluation.sigma)
            for function in functions.get(point.name, ()):
                value = _called(function, value, hook, point)
            if point.name in keep:
                kept[point.name] = value if request.reduce is None else request.reduce(value)
            if point.name == VELOCITY and not stop:
                velocity = value  # of the latent that the model was fed, which a hook may have edited
            return value

        output = self.traced.run(evaluation.inputs, points, visit, request.prefix, stop)
        return output, velocity, kept

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
        steps: Iterable[int] | None,
        scheduler: Any,
    ) -> Iterator[None]:
        """Hooks on every evaluation inside the block, also on calls that others make of the transformer.

        Args:
            scheduler: the pipeline's, which places calls that others make.

        Raises:
            KeyError: unknown hook point. RuntimeError: a hook never fired.
        """
        functions: dict[str, list[HookFunction]] = {}
        fired: set[str] = set()

        def recorded(function: HookFunction) -> HookFunction:
            def call(x: Tensor, hook: Hook) -> Tensor | None:
                fired.add(hook.name)
                return function(x, hook)

            return call

        for names, function in fwd_hooks:
            for point in self.table.select(names, self.name):
                functions.setdefault(point.name, []).append(recorded(function))
        hooked = _Hooked(functions, None if steps is None else frozenset(steps))
        self._active.append(hooked)
        try:
            with self._intercepted(scheduler):
                yield
        finally:
            self._active.remove(hooked)
        if missed := sorted(set(functions) - fired):
            raise RuntimeError(
                f"got no evaluation that reached {missed[0]} ({len(missed)} in all) · expected every hook to fire"
                " · run, invert or sample inside the block, at the steps asked for"
            )

    def _functions(self, evaluation: Evaluation) -> dict[str, list[HookFunction]]:
        """The active hook functions that concern an evaluation, outer contexts first."""
        functions: dict[str, list[HookFunction]] = {}
        for hooked in self._active:
            if hooked.steps is None or evaluation.step in hooked.steps:
                for name, own in hooked.functions.items():
                    functions.setdefault(name, []).extend(own)
        return functions

    @contextmanager
    def _intercepted(self, scheduler: Any) -> Iterator[None]:
        """Every plain call of the transformer takes the active hooks along; a call inside a trace is left alone."""
        forward = self.transformer.forward
        signature = inspect.signature(type(self.transformer).forward)

        def hooked_forward(*args: Any, **kwargs: Any) -> Any:
            if self.traced.running or self._own_call:
                return forward(*args, **kwargs)
            given = signature.bind(self.transformer, *args, **kwargs).arguments
            inputs = {name: value for name, value in given.items() if name != "self"}
            inputs |= inputs.pop("kwargs", {})
            wants_tuple = not inputs.get("return_dict", True)
            evaluation = Evaluation(inputs | {"return_dict": False}, *self._place(scheduler, inputs["timestep"]))
            functions = self._functions(evaluation)
            if not functions:
                return forward(*args, **kwargs)
            output, _, _ = self._hooked(evaluation, functions, Request())
            put_out = getattr(self.family, "OUTPUT", Transformer2DModelOutput)
            return output if wants_tuple else put_out(*output)

        if len(self._active) > 1:
            yield
            return
        self.transformer.forward = hooked_forward
        try:
            yield
        finally:
            self.transformer.forward = forward

    def _place(self, scheduler: Any, timestep: Tensor) -> tuple[int | None, float]:
        """Step and sigma of a call that a pipeline makes; step None where its scheduler has no such timestep."""
        sigma = float(self.family.to_sigma(timestep).max())
        if scheduler is None:
            return None, sigma
        fed = timestep.max().cpu()
        # A pipeline may feed its timesteps rounded to the model's dtype, where two of them can be one.
        places = (scheduler.timesteps.cpu().to(fed.dtype) == fed).nonzero().flatten().tolist()
        if not places:
            return None, sigma
        step: Any = getattr(scheduler, "step_index", None)  # not every scheduler counts
        index = step if step in places else places[0]
        own = getattr(scheduler, "sigmas", None)
        if own is not None and self.same_levels(own, scheduler.timesteps):
            sigma = float(own[index])
        return len(scheduler.timesteps) - index, sigma

    def same_levels(self, sigmas: Tensor, timesteps: Tensor) -> bool:
        """Whether a scheduler counts noise as we do, but for timesteps that it rounds; Mochi's and EDM's do not."""
        told = self.family.to_sigma(timesteps.float()).cpu()
        return bool((sigmas[: len(told)].cpu() - told).abs().max() < ROUNDED)


def repeat(evaluation: Evaluation, copies: int) -> Evaluation:
    """The evaluation of that many copies of its clips; what serves all clips at once stays as it is."""
    tensors = {
        name: value.repeat(copies, *[1] * (value.ndim - 1))
        if isinstance(value, Tensor) and name not in SHARED
        else value
        for name, value in evaluation.inputs.items()
    }
    return replace(evaluation, inputs=tensors)


def _called(function: HookFunction, old: Tensor, hook: Hook, point: HookPoint) -> Tensor:
    """What a hook makes of an activation: what it returns, or what it wrote into the copy it was given."""
    given = old.clone()
    unwritten = given._version
    new = function(given, hook)
    if new is None:
        new = given if given._version != unwritten else old
    if new is old:
        return old
    if point.write is None:
        raise TypeError(f"got a new value for {point.name} · expected None, it can only be read · edit hook_velocity")
    if not isinstance(new, Tensor) or new.shape != old.shape:
        got = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"got {got} from a hook at {point.name} · expected a tensor of {tuple(old.shape)} or None")
    return new.to(old.dtype)
