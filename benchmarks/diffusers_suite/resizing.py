"""The two functions of torchvision that Cosmos calls, where torchvision is not installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers.models.controlnets.controlnet_cosmos as controlnet
import diffusers.models.transformers.transformer_cosmos as transformer
import diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict as predict
import numpy as np
import torch
from diffusers.utils import is_torchvision_available
from torch import Tensor
from torch.nn.functional import interpolate


def stand_in() -> None:
    """Puts them where diffusers looks for them."""
    if is_torchvision_available():
        return
    functional = SimpleNamespace(resize=_resize, to_tensor=_to_tensor)
    transforms = SimpleNamespace(functional=functional, InterpolationMode=SimpleNamespace(NEAREST="nearest"))
    for module in (controlnet, transformer):
        vars(module)["transforms"] = transforms
    vars(predict)["torchvision"] = SimpleNamespace(transforms=transforms)


def _resize(mask: Tensor, size: list[int], interpolation: str) -> Tensor:
    return interpolate(mask, size, mode=interpolation)


def _to_tensor(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
