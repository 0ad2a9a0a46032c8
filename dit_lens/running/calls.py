"""Calls that others make of a transformer, such as a pipeline: where they lie, and that active hooks act on them."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from dit_lens.running.branches import Branches
from dit_lens.running.evaluation import PLAIN, Evaluation

if TYPE_CHECKING:
    from dit_lens.running.hooked import HookedTransformer

TORCH_HOOKS = (
    "_forward_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


@contextmanager
def intercepted(models: Sequence[HookedTransformer], pipeline: Any) -> Iterator[None]:
    """Every plain call of the transformers takes the active hooks along; a call inside a trace is left alone."""
    with ExitStack() as stack:
        for model in models:
            told = Branches(model.family, pipeline)
            # At the end of a call a pipeline that moves its parts about makes forward anew, of what accelerate keeps.
            for name in ("forward", "_old_forward"):
                if name == "forward" or name in vars(model.transformer):
                    hooked = _forward(model, pipeline, told, getattr(model.transformer, name))
                    stack.enter_context(_replaced(model.transformer, name, hooked))
            if hasattr(model.transformer, "cache_context"):
                noted = told.noting(model.transformer)
                stack.enter_context(_replaced(model.transformer, "cache_context", noted))
        yield


@contextmanager
def _replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    own, before = name in vars(module), getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        if own:
            setattr(module, name, before)
        else:
            delattr(module, name)


def _forward(model: HookedTransformer, pipeline: Any, told: Branches, forward: Any) -> Any:
    """The given forward of the model, under the active hooks where a call is not ours."""
    signature = inspect.signature(type(model.transformer).forward)

    def hooked_forward(*args: Any, **kwargs: Any) -> Any:
        if model.traced.running or model.calling:
            return forward(*args, **kwargs)
        given = signature.bind(model.transformer, *args, **kwargs).arguments
        inputs = {name: value for name, value in given.items() if name != "self"}
        inputs |= inputs.pop("kwargs", {})
        wants_tuple = not inputs.get("return_dict", True)
        place = placed(model, getattr(pipeline, "scheduler", None), inputs["timestep"])
        evaluation = Evaluation(inputs | {"return_dict": False}, *place, model.expert, told.of_call())
        functions = model.active.at(evaluation)
        if not functions:
            with model.by_ourselves():
                return forward(*args, **kwargs)
        with _seen(model.transformer):
            output, _, _ = model.put_out(evaluation, functions, PLAIN)
        return output if wants_tuple else getattr(model.family, "OUTPUT", Transformer2DModelOutput)(*output)

    return hooked_forward


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
    own = getattr(scheduler, "sigmas", None)
    if own is not None and model.same_levels(own, scheduler.timesteps):
        sigma = float(own[index])
    return len(scheduler.timesteps) - index, sigma
