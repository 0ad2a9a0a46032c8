"""Calls that others make of a transformer, such as a pipeline: where they lie, and that active hooks act on them."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dit_lens.families.family import Family
from dit_lens.running.branches import Branches
from dit_lens.running.evaluation import PLAIN, Evaluation

if TYPE_CHECKING:
    from dit_lens.running.hooked import HookedTransformer

ROUNDED = 0.002  # how far a scheduler's rounding takes the level of a timestep from the exact one
TORCH_HOOKS = (
    "_forward_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


@contextmanager
def intercepted(models: Sequence[HookedTransformer], pipeline: Any) -> Iterator[None]:
    """Every plain call of the transformers takes the active hooks along; a call inside a trace is left alone."""
    with ExitStack() as stack:
        for model in models:
            branches = Branches(model.family, pipeline)
            # At the end of a call a pipeline that moves its parts about makes forward again, of what accelerate keeps.
            for name in ("forward", "_old_forward"):
                if name == "forward" or name in vars(model.transformer):
                    hooked = _forward(model, pipeline, branches, getattr(model.transformer, name))
                    stack.enter_context(_replaced(model.transformer, name, hooked))
            if hasattr(model.transformer, "cache_context"):
                noted = branches.noting(model.transformer)
                stack.enter_context(_replaced(model.transformer, "cache_context", noted))
        yield


@contextmanager
def _replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    overridden, before = name in vars(module), getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        if overridden:
            setattr(module, name, before)
        else:
            delattr(module, name)


def _forward(model: HookedTransformer, pipeline: Any, branches: Branches, forward: Any) -> Any:
    """The given forward of the model, under the active hooks where a call is not ours."""
    signature = inspect.signature(type(model.transformer).forward)

    def hooked_forward(*args: Any, **kwargs: Any) -> Any:
        with model.alone:
            return called(*args, **kwargs)

    def called(*args: Any, **kwargs: Any) -> Any:
        if model.traced.running or model.calling:
            return forward(*args, **kwargs)
        model.check()
        bound = signature.bind(model.transformer, *args, **kwargs).arguments
        inputs = {name: value for name, value in bound.items() if name != "self"}
        inputs |= inputs.pop("kwargs", {})
        wants_tuple = not inputs.get("return_dict", True)
        place = placed(model, getattr(pipeline, "scheduler", None), inputs["timestep"])
        evaluation = Evaluation(inputs | {"return_dict": False}, *place, model.expert, branches.of_call())
        functions = model.active.at(evaluation)
        if not functions:
            with model.by_ourselves():
                return forward(*args, **kwargs)
        with _seen(model.transformer):
            output, _, _ = model.put_out(evaluation, functions, PLAIN)
        return output if wants_tuple else model.family.output(*output)

    hooked_forward.active = model.active  # pyright: ignore[reportFunctionMemberAccess]
    return hooked_forward


def refuse_others(model: HookedTransformer) -> None:
    """Passes where no other lens has hooks open on the transformer.

    Raises:
        RuntimeError: one has; its trace and ours would run into each other.
    """
    for name in ("forward", "_old_forward"):
        if getattr(vars(model.transformer).get(name), "active", model.active) is not model.active:
            raise RuntimeError(
                f"got hooks that another lens has open on the transformer of {model.name} · expected one lens at a time"
                " · open them all on one lens, or leave the other's `hooks` first"
            )


@contextmanager
def _seen(module: nn.Module) -> Iterator[None]:
    """The module without the torch hooks of its user, which see the call itself: nnsight calls it a second time."""
    with ExitStack() as stack:
        for name in TORCH_HOOKS:
            stack.enter_context(_replaced(module, name, OrderedDict()))
        yield


def placed(model: HookedTransformer, scheduler: Any, timestep: Tensor) -> tuple[int | None, float]:
    """Step and sigma of a call that a pipeline makes, those of its noisiest clip, frame and token.

    The step is None where its scheduler has no such timestep.
    """
    sigma = float(model.family.to_sigma(timestep).max())
    if scheduler is None:
        return None, sigma
    fed = timestep.max().cpu()
    # A pipeline may feed its timesteps rounded to the model's dtype, where two of them can be one.
    places = (scheduler.timesteps.cpu().to(fed.dtype) == fed).nonzero().flatten().tolist()
    if not places:
        return None, sigma
    step: Any = getattr(scheduler, "step_index", None)  # not every scheduler counts
    index = step if step in places else places[0]
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and same_levels(model.family, sigmas, scheduler.timesteps):
        sigma = float(sigmas[index])
    return len(scheduler.timesteps) - index, sigma


def same_levels(family: Family, sigmas: Tensor, timesteps: Tensor) -> bool:
    """Whether a scheduler counts noise as the family does, up to rounding of timesteps; Mochi's and EDM's do not."""
    levels = family.to_sigma(timesteps.float()).cpu()
    return bool((sigmas[: len(levels)].cpu() - levels).abs().max() < ROUNDED)
