"""One stock transformer whose named activations can be read and written; it knows nothing of clips or trajectories."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens import families
from dit_lens.arguments import collection
from dit_lens.axes import TokenGrid
from dit_lens.conditioning import Conditioning
from dit_lens.families.family import Family
from dit_lens.families.fingerprint import fingerprint
from dit_lens.hook_points import QKV, Hook, HookFunction, HookPoint, NamesFilter
from dit_lens.models.placing import Residency
from dit_lens.running.active import ActiveHooks, Functions, Where, called
from dit_lens.running.calls import intercepted, refuse_others
from dit_lens.running.evaluation import PLAIN, Evaluation, Request, reduction
from dit_lens.tracing import TracedModel

VELOCITY = "hook_velocity"


class HookedTransformer:
    """A stock diffusers transformer whose named activations can be read and written.

    Args:
        transformer: put in evaluation mode; its parameters are frozen.
        name: how errors call it.
        expert: which one it is, where a model has several.
        by_frame: whether it gets a timestep for every latent frame where one is passed for the whole clip.
        family: its conventions, where its pipeline has others than the transformer alone.
        current: returns the transformer that its pipeline holds now, which must stay this one.

    Attributes:
        verify: called again after the transformer was altered; nothing is called unless set.

    Raises:
        TypeError: no family knows the transformer.
    """

    verify: Callable[[HookedTransformer], object] | None = None

    def __init__(
        self,
        transformer: nn.Module,
        name: str,
        expert: str | None = None,
        by_frame: bool = False,
        family: Family | None = None,
        current: Callable[[], Any] | None = None,
    ):
        self.transformer, self.name = transformer.requires_grad_(False).eval(), name
        self.expert, self.by_frame, self.current = expert, by_frame, current
        self.family = family or families.find(transformer)
        self.active = ActiveHooks()
        refuse_others(self)
        self._put_hook_points()
        self.residency = Residency()
        self.alone = threading.RLock()  # held by the thread that evaluates: a second one waits
        self.calling = False  # inside our own call of the forward, whose step is known

    def _put_hook_points(self) -> None:
        self._fingerprint: list[Any] | None = None
        try:
            self.table = self.family.hook_table(self.transformer)
            self.traced = TracedModel(self.transformer, self.table)
        except (AttributeError, IndexError) as error:
            raise TypeError(
                f"got {self.name}, whose modules are not those of the family {self.family.name} ({error}) · expected"
                f" the stock {type(self.transformer).__name__} · load the model again"
            ) from error
        self._fingerprint = fingerprint(self.transformer)

    def check(self) -> None:
        """Passes where the transformer is as hook points were made for it; they are made again where it was altered.

        Raises:
            TypeError: it was altered in a way that hook points do not survive, or its pipeline has another one now.
            ValueError: the laws do not hold of it any more.
            RuntimeError: it was altered while hooks are active.
        """
        if self.current is not None and (now := self.current()) is not self.transformer:
            if isinstance(now, nn.Module):
                families.alterations.check(now)
            raise TypeError(
                f"got {self.name}, whose pipeline has another transformer than it had ({type(now).__name__})"
                " · expected the one that the lens was made for · make a new lens: DiTLens(pipeline)"
            )
        if self._fingerprint == fingerprint(self.transformer) and (self.hooked or not self.traced.replaced):
            return
        families.alterations.check(self.transformer)
        if self.hooked:
            raise RuntimeError(
                f"got {self.name}, altered while hooks are active · expected it to stay as it is inside the block"
                " · alter it before `with lens.hooks(...)`"
            )
        self._put_hook_points()
        if self.verify is not None:
            try:
                self.verify(self)
            except BaseException:
                self._fingerprint = None  # it is asked again at the next call
                raise

    @property
    def hooked(self) -> bool:
        """Whether hooks are active."""
        return bool(self.active.contexts)

    @property
    def device(self) -> torch.device:
        """Where it runs: an offloaded transformer's weights lie elsewhere between its calls."""
        if self.residency.device is not None:
            return self.residency.device
        moved_to = getattr(getattr(self.transformer, "_hf_hook", None), "execution_device", None)
        if moved_to is not None:
            return torch.device(moved_to)
        return next(self.transformer.parameters()).device

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
            ValueError: conditioning or timesteps for another number of clips.
            TypeError, ValueError, RuntimeError: the transformer was altered (see `check`).
        """
        self.check()
        self.residency.bring(self.transformer)
        device, dtype = self.device, self.family.input_dtype(self.transformer)
        time = _times(timestep, len(latent), device)
        time = time.expand(len(latent)) if time.ndim < 2 else time
        if self.by_frame and time.ndim < 2:
            time = time[:, None].expand(-1, latent.shape[2])
        tensors = conditioning.to(device, dtype).tensors
        for name, tensor in tensors.items():
            if len(tensor) not in (1, len(latent)):
                raise ValueError(
                    f"got {name} for {len(tensor)} clips · expected 1 or {len(latent)}, as many as latents"
                )
        level = float(self.family.to_sigma(time).max()) if sigma is None else sigma
        fed = self.family.inputs(self.transformer, latent.to(device, dtype), time, tensors)
        evaluation = Evaluation(fed, step, level, self.expert)
        if time.ndim == 2 and time.shape[1] not in (frames := latent.shape[2], tokens := self.grid(evaluation).tokens):
            raise ValueError(
                f"got {time.shape[1]} timesteps for a clip · expected one, or {frames} (frames) or {tokens} (tokens)"
            )
        return evaluation

    def run(self, evaluation: Evaluation, request: Request = PLAIN) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Velocity and kept activations under the hooks that are active; without either the plain model is called.

        Raises:
            KeyError: unknown hook point. ValueError: `stop_at` lies before a point that is wanted.
        """
        self.residency.bring(self.transformer)
        functions = self.active.at(evaluation)
        if functions or request != PLAIN:
            return self.run_with(evaluation, functions, request)
        with self.evaluating(), self.by_ourselves():
            output = self.transformer(**evaluation.inputs)
        return self.family.velocity(evaluation.inputs, output), {}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """One evaluation at a time; those of other threads wait.

        Raises:
            RuntimeError: one is under way on this thread, or another lens has hooks open.
        """
        with self.alone:
            refuse_others(self)
            if self.traced.running:
                raise RuntimeError(
                    f"got an evaluation of {self.name} inside another, such as in a hook · expected one at a time"
                    " · run it before, and let the hook use its values"
                )
            yield

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
        self.residency.bring(self.transformer)
        keep = {point.name for point in self.table.select(request.names, self.name)}
        points = self._points({*keep, *functions, request.stop_at or VELOCITY}, evaluation, request)
        points = [*self._without_patterns(evaluation, request, {*keep, *functions}), *points]
        grid, kept, stop = self.grid(evaluation), {}, request.stop_at is not None
        reduced = reduction(request.reduce)
        velocity: Tensor | None = None

        def visit(point: HookPoint, value: Any) -> Any:
            nonlocal velocity
            where = evaluation.step, evaluation.sigma, evaluation.branch, evaluation.expert
            hook = Hook(point.name, point.axes, grid, *where)
            if isinstance(value, QKV):
                request.attention[point.name](value, hook)
                return value
            for function in functions.get(point.name, ()):
                value = called(function, value, hook, point)
            if point.name in keep:
                kept[point.name] = reduced(value, hook)
            if point.name == VELOCITY and not stop:
                velocity = value  # of the latent that the model was fed, which a hook may have edited
            return value

        with self.evaluating():
            output = self.traced.run(evaluation.inputs, points, visit, request.prefix, stop)
        return output, velocity, kept

    def _points(self, wanted: set[str], evaluation: Evaluation, request: Request) -> list[HookPoint]:
        """The points to visit, in forward order, less those that such a call leaves out."""
        points = self.table.select(sorted(wanted), self.name)
        points = [p for p in points if not self.family.passed_over(self.transformer, evaluation.inputs, p.name)]
        if request.stop_at and points[-1].name != request.stop_at:
            raise ValueError(
                f"got stop_at={request.stop_at!r} before {points[-1].name}"
                " · expected it after all hooks and kept points"
            )
        return points

    def _without_patterns(self, evaluation: Evaluation, request: Request, wanted: set[str]) -> list[HookPoint]:
        """The points that read what patterns are made of.

        Raises:
            ValueError: the pattern itself is hooked or kept too: an edit of it is not in what it is made of.
        """
        if both := sorted(wanted & request.attention.keys()):
            raise ValueError(
                f"got {both[0]} hooked or kept while attention is measured from its queries and keys · expected one of"
                " them: an edit of the pattern does not show there · edit hook_rot_q or hook_rot_k, or reduce the"
                " pattern"
            )
        points = self.table.select(list(request.attention), self.name) if request.attention else []
        skips = (self.family.passed_over(self.transformer, evaluation.inputs, point.name) for point in points)
        return [point.without_pattern() for point, skipped in zip(points, skips, strict=True) if not skipped]


def _times(timestep: Any, clips: int, device: torch.device) -> Tensor:
    """Timesteps as a tensor, of no axis, (b,) or (b, n).

    Raises:
        TypeError: no numbers. ValueError: not finite, or for another number of clips.
    """
    try:
        time = torch.as_tensor(timestep, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"got timestep {timestep!r} · expected a number, or a tensor (b,) or (b, n)") from error
    if time.ndim > 2 or (time.ndim and len(time) not in (1, clips)) or not time.isfinite().all():
        raise ValueError(
            f"got timesteps of shape {tuple(time.shape)}, finite: {bool(time.isfinite().all())} · expected a finite"
            f" one, or ({clips},), or ({clips}, n) with one for each token"
        )
    return time


@contextmanager
def hooking(
    members: Sequence[HookedTransformer],
    fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
    where: Where,
    pipeline: Any,
) -> Iterator[None]:
    """Hooks on the evaluations of transformers that share their active hooks, and on calls that others make of them."""
    first = members[0]
    experts = {member.expert for member in members}
    if where.experts and not where.experts <= experts:
        raise ValueError(
            f"got experts {', '.join(sorted(where.experts))} · expected of {', '.join(str(name) for name in experts)}"
            f" · {first.name} has no others"
        )
    if not first.hooked:
        for member in members:
            member.check()
    functions = [(first.table.select(names, first.name), function) for names, function in _checked(fwd_hooks)]
    for member in members:
        refuse_others(member)
    with first.active.adding(functions, where), first.active.once(intercepted(members, pipeline)):
        yield


def _checked(fwd_hooks: Any) -> Sequence[tuple[NamesFilter, HookFunction]]:
    """The hooks.

    Raises:
        TypeError: they are no pairs of names and a function.
    """
    listed = collection(fwd_hooks, "hooks", "(names, function) pairs")
    for hook in listed:
        if not isinstance(hook, tuple | list) or len(hook) != 2 or not callable(hook[1]):
            raise TypeError(
                f"got {hook!r} as a hook · expected a list of (names, function) pairs, such as"
                ' [("blocks.3.attn.hook_z", edits.zero(heads=[2]))]'
            )
    return listed
