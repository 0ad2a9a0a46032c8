"""The pipeline's own call, with activations kept on the way."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dit_lens.conditioning import EMPTY, Conditioning
from dit_lens.hook_points import NamesFilter
from dit_lens.lens.running import hooks
from dit_lens.running import Generation, Recorder, Reduce

if TYPE_CHECKING:
    from dit_lens.lens import DiTLens


def generate(
    lens: DiTLens,
    prompt: str | Conditioning | None = None,
    *,
    names_filter: NamesFilter = (),
    reduce: Reduce | None = None,
    steps: Iterable[int] | int | None = None,
    branches: Iterable[str] | None = None,
    **call: Any,
) -> Generation:
    """The pipeline's own call, and the activations of each of its evaluations; active hooks act on it.

    Args:
        prompt: a prompt or its conditioning; the lens's own conditioning unless given here or in `call`.
        names_filter: a name, glob, list of these, or predicate; nothing is kept unless given.
        reduce: applied to each activation in the hook (see `run_with_cache`).
        steps, branches: where to keep (see `hooks`); everywhere unless given.
        **call: the pipeline's own arguments: num_frames, guidance_scale, generator, image, ...

    Raises:
        KeyError: unknown hook point. RuntimeError: nothing was kept at these steps and branches.
        TypeError: conditioning that the pipeline has no argument for.
    """
    pipeline = lens.pipeline
    recorder, call = Recorder(lens.blocks, reduce), _prompt_arguments(lens, prompt, call) | call
    with _whole_pipeline(lens, call):
        if names_filter == ():
            return Generation(pipeline(**call), ())
        with hooks(lens, [(names_filter, recorder)], steps, branches):
            output = pipeline(**call)
    evaluations = (
        replace(kept, cache=replace(kept.cache, anatomy=lens.model.anatomy(kept.expert))) for kept in recorder.kept
    )
    return Generation(output, tuple(evaluations))


@contextmanager
def _whole_pipeline(lens: DiTLens, call: Mapping[str, Any]) -> Iterator[None]:
    """All that the pipeline's own call needs, on the device: text encoders where it has a prompt to encode.

    It encodes the empty prompt itself where guidance is on and no negative prompt was given.
    """
    with ExitStack() as stack:
        if call.get("prompt") is not None or call.get("negative_prompt") is not None or _guided(call):
            stack.enter_context(lens.parts.text_encoders())
        stack.enter_context(lens.parts.residency.all_here())
        yield


def _prompt_arguments(lens: DiTLens, prompt: str | Conditioning | None, call: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt as arguments of the pipeline's call."""
    without_encoder = lens.parts.text is None and not lens.prompts.can_encode
    if isinstance(prompt, str) and not without_encoder:
        return {"prompt": prompt}
    if isinstance(prompt, str):
        prompt = lens.encode_prompt(prompt)
    if prompt is None and not {"prompt", "prompt_embeds"}.isdisjoint(call):
        return {"prompt": None}  # not every pipeline has it as its default
    tensors, keywords = (prompt or lens.conditioning).tensors, lens.family.call_names
    if unknown := [name for name in tensors if name not in keywords and "image" not in call]:
        raise TypeError(
            f"got conditioning of {', '.join(unknown)}, which a {type(lens.pipeline).__name__} is not called with"
            " · expected a prompt, or its own arguments (prompt_embeds=, image=, ...)"
        )
    arguments = {"prompt": None} | {keywords[name]: tensor for name, tensor in tensors.items() if name in keywords}
    accepted = inspect.signature(type(lens.parts.pipeline).__call__).parameters
    if without_encoder and _guided(call) and all(f"negative_{keywords[name]}" in accepted for name in tensors):
        empty = lens.encode_prompt(EMPTY).tensors
        arguments |= {f"negative_{keywords[name]}": tensor for name, tensor in empty.items()}
    return arguments


def _guided(call: Mapping[str, Any]) -> bool:
    """Whether a pipeline's call would encode a negative prompt by itself."""
    scale = call.get("guidance_scale", 2.0)
    return scale is not None and scale > 1 and "negative_prompt_embeds" not in call
