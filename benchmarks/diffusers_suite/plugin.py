"""A plugin of pytest: writes down what tests and pipeline calls came to; with LENS set, a lens is on every pipeline.

Without it transformers are frozen as a lens freezes them: torch takes other kernels then, which round otherwise.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (  # before the checkout's own sources come into the path
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    CosmosTransformer3DModel,
    DDIMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
)
from torch import Tensor

from benchmarks.diffusers_suite import resizing
from dit_lens import Conditioning, DiTLens
from dit_lens.hook_points import Hook

REPORT, LENS = "DIFFUSERS_SUITE_REPORT", "DIFFUSERS_SUITE_LENS"
READ = ["hook_latent", "blocks.*.hook_resid_pre", "blocks.*.hook_resid_post", "blocks.*.attn.hook_z",
        "blocks.*.hook_mlp_out", "hook_velocity"]  # fmt: skip
WRITTEN = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "hook_velocity"]
LENSES: WeakKeyDictionary[Any, DiTLens] = WeakKeyDictionary()


class Report:
    """Lines of json, one to a test or a call of a pipeline.

    Attributes:
        test: the one that runs.
        inside: whether a pipeline's call runs, which may call another's.
    """

    def __init__(self) -> None:
        self.test, self.inside = "", False

    def write(self, **line: Any) -> None:
        """One line, with the name of the test."""
        with Path(os.environ[REPORT]).open("a") as file:
            file.write(json.dumps({"test": self.test, **line}) + "\n")


REPORTED = Report()


def pytest_configure() -> None:
    """One thread: with several, torch may add up in another order from run to run."""
    torch.set_num_threads(1)
    resizing.stand_in()


def pytest_runtest_logstart(nodeid: str) -> None:
    """Calls from here on belong to this test."""
    REPORTED.test = nodeid


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Writes down how a test ended."""
    if report.when == "call" or report.outcome != "passed":
        why = str(report.longrepr).strip().splitlines()[-1][:200] if report.failed else ""
        REPORTED.write(outcome=report.outcome, why=why)


def pytest_collection_finish() -> None:
    """All pipelines that the tests import are watched."""
    for kind in _kinds(DiffusionPipeline):
        if "__call__" in vars(kind):
            kind.__call__ = _watched(vars(kind)["__call__"])


def _kinds(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def _watched(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def watched(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        if REPORTED.inside:
            return call(pipeline, *args, **kwargs)
        REPORTED.inside = True
        try:
            _as_released(pipeline)
            output, line = (with_lens if LENS in os.environ else stock)(call, pipeline, args, kwargs)
        finally:
            REPORTED.inside = False
        REPORTED.write(pipeline=type(pipeline).__name__, **line, digest=_digest(output))
        return output

    return watched


def _as_released(pipeline: Any) -> None:
    """What no checkpoint has, and a lens refuses, is changed with a lens and without.

    That is CogVideoX's scheduler, and learned positions in Cosmos Predict 2 and 2.5.
    """
    transformer = getattr(pipeline, "transformer", None)
    if isinstance(transformer, CogVideoXTransformer3DModel) and type(pipeline.scheduler) is DDIMScheduler:
        shift = 1.0 if transformer.config["use_rotary_positional_embeddings"] else 3.0
        pipeline.scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=shift
        )
    if isinstance(transformer, CosmosTransformer3DModel) and not isinstance(pipeline.scheduler, EDMEulerScheduler):
        transformer.learnable_pos_embed = None
        transformer.register_to_config(extra_pos_embed_type=None)


def stock(call: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """A call without hooks."""
    _freeze(pipeline)
    return call(pipeline, *args, **kwargs), {}


def with_lens(call: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """A call under hooks, by the lens that was made at the pipeline's first; where the lens refuses it, the stock call.

    What it refuses at the first evaluation has drawn its noise by then, so generators are set back.
    """
    generators = [torch.default_generator, *_generators(kwargs.get("generator"))]
    states = [generator.get_state() for generator in generators]
    try:
        if pipeline not in LENSES:
            LENSES[pipeline] = DiTLens(pipeline, conditioning=Conditioning({}), verify=False)
        with LENSES[pipeline].hooks([(READ, look), (WRITTEN, same)]):
            return call(pipeline, *args, **kwargs), {"hooked": True}
    except (TypeError, ValueError) as error:
        if "· expected" not in (refusal := str(error)):  # a pipeline's own error, which a test may ask for
            raise
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    return stock(call, pipeline, args, kwargs)[0], {"refused": refusal}


def _generators(value: Any) -> list[torch.Generator]:
    return [
        generator
        for generator in (value if isinstance(value, list) else [value])
        if isinstance(generator, torch.Generator)
    ]


def _freeze(pipeline: Any) -> None:
    for name in ("transformer", "transformer_2"):
        if isinstance(module := getattr(pipeline, name, None), torch.nn.Module):
            module.requires_grad_(False).eval()


def look(x: Tensor, hook: Hook) -> None:
    """Reads and leaves all as it is."""
    assert hook.axes and x.ndim > 1


def same(x: Tensor, hook: Hook) -> Tensor:
    """Writes what was read."""
    return x.clone()


def _digest(output: Any) -> str:
    """Of all numbers that a pipeline put out."""
    digest = hashlib.sha256()
    for value in _values(output):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def _values(output: Any) -> Iterator[np.ndarray]:
    if isinstance(output, Tensor):
        yield output.detach().cpu().float().numpy()
    elif isinstance(output, PIL.Image.Image | np.ndarray):
        yield np.asarray(output)
    elif isinstance(output, dict):
        yield from _values(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _values(part)
