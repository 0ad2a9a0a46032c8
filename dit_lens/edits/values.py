"""Checks of the values of edits, from tensors, arrays or lists, when an edit is created."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dit_lens.arguments import integer
from dit_lens.edits.changes import Source


def source_of(value: Any, what: str) -> Source:
    """A source activation, or source activations by step, as tensors.

    Raises:
        TypeError: values that are no tensor of numbers.
    """
    if isinstance(value, Mapping):
        return {integer(step, f"step of {what}"): _tensor(x, what) for step, x in value.items()}
    return _tensor(value, what)


def numbers(value: Any, what: str) -> Tensor:
    """A tensor of finite floating-point numbers.

    Raises:
        TypeError: values that are no numbers. ValueError: a value is not finite.
    """
    tensor = _tensor(value, what)
    if tensor.dtype == torch.bool:
        raise TypeError(f"got a {what} of truth values · expected numbers")
    tensor = tensor if tensor.is_floating_point() else tensor.float()
    if not torch.isfinite(tensor).all():
        raise ValueError(f"got a {what} that is not finite · expected finite numbers · look at what it was made from")
    return tensor


def whole(value: Any, what: str) -> Tensor:
    """A tensor (b,) of non-negative integers.

    Raises:
        TypeError: other values.
    """
    tensor = _tensor(value, what)
    if tensor.is_floating_point() or tensor.dtype == torch.bool or tensor.ndim != 1 or (tensor < 0).any():
        raise TypeError(f"got {what} {value!r} · expected one clip's number, from 0 on, for each clip")
    return tensor.long()


def truths(value: Any, what: str) -> Tensor:
    """A tensor of booleans.

    Raises:
        TypeError: other values.
    """
    tensor = _tensor(value, what)
    if tensor.dtype != torch.bool:
        raise TypeError(f"got {what} of {tensor.dtype} · expected truth values, such as grid.mask(frame=0)")
    return tensor


def _tensor(value: Any, what: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
        if tensor.is_complex():
            raise TypeError("complex numbers")
        return tensor
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"got a {type(value).__name__} as {what} · expected a tensor of numbers ({error})") from error
