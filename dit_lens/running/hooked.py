"""One stock transformer whose named activations can be read and written; it knows nothing of clips or trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens import families
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Hook, HookFunction, HookPoint, NamesFilter
from dit_lens.running.active import ActiveHooks, Functions, Where, called
from dit_lens.running.calls import intercepted
from dit_lens.running.evaluation import PLAIN, Evaluation, Request, reduction
from dit_lens.tracing import TracedModel

VELOCITY = "hook_velocity"
ROUNDED = 0.002  # how far a scheduler's rounding takes the level of a timestep from its own


class HookedTransformer:
    """A stock diffusers transformer whose named activations can be read and written.

    Args:
        transformer: put in evaluation mode; its parameters are frozen.
        name: how errors call it.
        expert: which one it is, where a model has several.
        by_frame: whether it is told a time for every latent frame where one is given for a clip.

    Raises:
        TypeError: no family knows the transformer.
    """

    def __init__(self, transformer: nn.Module, name: str, expert: str | None = None, by_frame: bool = False):
        self.transformer, self.name = transformer.requires_grad_(False).eval(), name
        self.expert, self.by_frame = expert, by_frame
        self.family = families.find(transformer)
        self.table = self.family.hook_table(transformer)
        self.traced = TracedModel(transformer, self.table)
        self.active = ActiveHooks()
        self.calling = False  # its place is known, so a call of ours is not located a second time

    @property
    def members(self) -> tuple[HookedTransformer, ...]:
        """The transformers of the model: this one."""
        return (self,)

    @property
    def hooked(self) -> bool:
        """Whether hooks are active."""
        return bool(self.active.contexts)

    @property
    def middle(self) -> float:
        """A noise level in the middle of those it is evaluated at."""
        return 0.5

    @property
    def device(self) -> torch.device:
        """Where it runs: an offloaded transformer's weights lie elsewhere between its calls.

        Raises:
            TypeError: its pipeline was offloaded layer by layer after the lens was made.
        """
        moved_to = getattr(getattr(self.transformer, "_hf_hook", None), "execution_device", None)
        if moved_to is not None:
            return torch.device(moved_to)
        lies_on = next(self.transformer.parameters()).device
        if lies_on.type == "meta":
            families.alterations.check(self.transformer)
        return lies_on

    def of(self, evaluation: Evaluation) -> HookedTransformer:
        """The transformer that an evaluation calls: this one."""
        return self

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
            timestep: one for all, (b,), or (b, n) with one for each token (of latent frames, (b, f), likewise).
            sigma: the noise level, where it is not that of the (noisiest) timestep.

        Raises:
            ValueError: conditioning for another number of clips.
        """
        device, dtype = self.device, self.family.input_dtype(self.transformer)
        time = torch.as_tensor(timestep, dtype=torch.float32, device=device)
        time = time.expand(len(latent)) if time.ndim < 2 else time
        if self.by_frame and time.ndim < 2:
            time = time[:, None].expand(-1, latent.shape[2])
        told = conditioning.to(device, dtype).tensors
        for name, tensor in told.items():
            if len(tensor) not in (1, len(latent)):
                raise ValueError(
                    f"got {name} for {len(tensor)} clips · expected 1 or {len(latent)}, as many as latents"
                )
        level = float(self.family.to_sigma(time).max()) if sigma is None else sigma
        fed = self.family.inputs(self.transformer, latent.to(device, dtype), time, told)
        return Evaluation(fed, step, level, self.expert)

    def run(self, evaluation: Evaluation, request: Request = PLAIN) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Velocity and kept activations under the hooks that are active; without either the plain model is called.

        Raises:
            KeyError: unknown hook point. ValueError: `stop_at` lies before a point that is wanted.
        """
        functions = self.active.at(evaluation)
        if functions or request != PLAIN:
            return self.run_with(evaluation, functions, request)
        with self.by_ourselves():
            output = self.transformer(**evaluation.inputs)
        return self.family.velocity(evaluation.inputs, output), {}

    @contextmanager
    def by_ourselves(self) -> Iterator[None]:
        """Calls of the transformer in here are let through as they are."""
        self.calling = True
        try:
            yield
        finally:
            self.calling = False

    def velocity(self, evaluation: Evaluation) -> Tensor:
        """The velocity (b, c, f, h, w) of a whole evaluation under the hooks that are active."""
        velocity, _ = self.run(evaluation)
        assert velocity is not None
        return velocity

    def run_with(
        self, evaluation: Evaluation, functions: Functions, request: Request
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The same with the given hook functions in the place of the active ones."""
        _, velocity, kept = self.put_out(evaluation, functions, request)
        return velocity, kept

    def put_out(
        self, evaluation: Evaluation, functions: Functions, request: Request
    ) -> tuple[Any, Tensor | None, dict[str, Tensor]]:
        """What the transformer itself puts out, its velocity (None both where it was stopped), and kept activations."""
        keep = {point.name for point in self.table.select(request.names, self.name)}
        points = self._points({*keep, *functions, request.stop_at or VELOCITY}, evaluation, request)
        grid, kept, stop = self.grid(evaluation), {}, request.stop_at is not None
        reduced = reduction(request.reduce)
        velocity: Tensor | None = None

        def visit(point: HookPoint, value: Tensor) -> Tensor:
            nonlocal velocity
            told = evaluation.step, evaluation.sigma, evaluation.branch, evaluation.expert
            hook = Hook(point.name, point.axes, grid, *told)
            for function in functions.get(point.name, ()):
                value = called(function, value, hook, point)
            if point.name in keep:
                kept[point.name] = reduced(value, hook)
            if point.name == VELOCITY and not stop:
                velocity = value  # of the latent that the model was fed, which a hook may have edited
            return value

        output = self.traced.run(evaluation.inputs, points, visit, request.prefix, stop)
        return output, velocity, kept

    def _points(self, wanted: set[str], evaluation: Evaluation, request: Request) -> list[HookPoint]:
        """The points to visit, in forward order, less those that such a call leaves out."""
        points = self.table.select(sorted(wanted), self.name)
        if passed_over := getattr(self.family, "passed_over", None):
            points = [p for p in points if not passed_over(self.transformer, evaluation.inputs, p.name)]
        if request.stop_at and points[-1].name != request.stop_at:
            raise ValueError(
                f"got stop_at={request.stop_at!r} before {points[-1].name}"
                " · expected it behind all hooks and kept points"
            )
        return points

    def hooks(
        self,
        fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
        where: Where | None = None,
        pipeline: Any = None,
    ) -> AbstractContextManager[None]:
        """Hooks on every evaluation inside the block, also on calls that others make of the transformer.

        Args:
            where: which evaluations; all unless given.
            pipeline: the one whose scheduler and guidance place calls that others make.

        Raises:
            KeyError: unknown hook point. RuntimeError: a hook never fired.
        """
        return hooking((self,), fwd_hooks, where or Where(), pipeline)

    def same_levels(self, sigmas: Tensor, timesteps: Tensor) -> bool:
        """Whether a scheduler counts noise as we do, but for timesteps that it rounds; Mochi's and EDM's do not."""
        told = self.family.to_sigma(timesteps.float()).cpu()
        return bool((sigmas[: len(told)].cpu() - told).abs().max() < ROUNDED)


@contextmanager
def hooking(
    members: Sequence[HookedTransformer],
    fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
    where: Where,
    pipeline: Any,
) -> Iterator[None]:
    """Hooks on the evaluations of transformers that share their active hooks, and on calls that others make of them."""
    first = members[0]
    known = {member.expert for member in members}
    if where.experts and not where.experts <= known:
        raise ValueError(
            f"got experts {', '.join(sorted(where.experts))} · expected of {', '.join(str(name) for name in known)}"
            f" · {first.name} has no others"
        )
    functions = [(first.table.select(names, first.name), function) for names, function in fwd_hooks]
    outermost = not first.active.contexts
    with first.active.adding(functions, where), intercepted(members if outermost else (), pipeline):
        yield
