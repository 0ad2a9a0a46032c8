"""A transformer with random weights: the class and config of a model, without training.

Parameters are drawn by the class's own initialisation, from a separate seed. Parameters that a class sets to zero
would leave part of the model without effect (a zero last projection makes every velocity 0), and parameters that it
leaves uninitialised hold whatever was in memory: both are drawn here, normal with a standard deviation of
1 / sqrt(size of the last axis). Vectors of zeros (biases) stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def fresh_transformer(kind: Any, config: Mapping[str, Any], seed: int, dtype: torch.dtype) -> Any:
    """A randomly initialised transformer, the same for the same seed; the global random state does not change.

    It is created on the CPU in float32 and then rounded, except for modules that the class keeps in float32: at most
    four bytes per parameter.

    Args:
        kind: a diffusers model class.
        config: its config.
    """
    with torch.random.fork_rng(devices=[]), _uninitialised_is_nan():
        torch.manual_seed(seed)
        model = kind.from_config(config)
        for tensor in (*model.parameters(), *model.buffers()):
            silent = isinstance(tensor, nn.Parameter) and tensor.ndim > 1 and not tensor.any()
            if tensor.is_floating_point() and (silent or tensor.isnan().any()):
                nn.init.normal_(tensor.data, std=max(tensor.shape[-1:], default=1) ** -0.5)
    return rounded(model, dtype).eval()


def rounded(model: Any, dtype: torch.dtype) -> Any:
    """The model in a dtype as its class's `from_pretrained(dtype=)` would have it: some modules stay in float32."""
    float32_modules = getattr(model, "_keep_in_fp32_modules", None) or ()
    if not float32_modules or dtype == torch.float32:
        return model.to(dtype) if dtype != torch.float32 else model
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not any(module in name.split(".") for module in float32_modules):
            tensor.data = tensor.data.to(dtype)
    return model


@contextmanager
def _uninitialised_is_nan() -> Iterator[None]:
    """A context in which `torch.empty` fills with NaN, which marks parameters that no initialisation set."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # pyright: ignore[reportAttributeAccessIssue]
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        memory.fill_uninitialized_memory = filled
