"""Exact path patching (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969).

The path from a sender to a receiver: the receiver reads the stream of the corrupted run plus the difference that the
sender's clean value makes to its write, all other writes held fixed; the receiver's value under that
stream is patched into the corrupted run, at the receiver alone, and all later blocks follow. A sender's paths to all
parts that read the stream make up its whole effect: in a linear model they add up to it.

Paths are those of the video stream; what a sender writes to a text stream is not passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from dit_lens import edits
from dit_lens.arguments import strings
from dit_lens.cache.anatomy import block_of
from dit_lens.circuits.parts import READOUT, CircuitPart, Edge, ends_of, no_path, stream_read, writing_part
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.interventions import Intervention, Path, over, sweep
from dit_lens.interventions.effects import is_after
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run
from dit_lens.running import Evaluation


def patch_paths(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric,
    senders: Sequence[str],
    receivers: Sequence[str],
    progress: bool = False,
) -> xr.Dataset:
    """Effects of the direct paths from each sender to each receiver: the path from the clean run, all else corrupted.

    Args:
        clean, corrupted, steps, metric: as for `patch_edges`.
        senders: heads and writes, such as `parts_before(lens, metric)`.
        receivers: heads, their q, k and v, writes, and "readout".

    Returns:
        As `patch_edges`, of every sender with every receiver.

    Raises:
        ValueError, KeyError, IndexError, TypeError, RuntimeError: see `patch_edges`.
    """
    return patch_edges(
        lens,
        clean,
        corrupted,
        steps,
        metric,
        list(product(strings(senders, "senders"), strings(receivers, "receivers"))),
        progress,
    )


def patch_edges(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric,
    edges: Sequence[Edge],
    progress: bool = False,
) -> xr.Dataset:
    """Effects of chosen paths (sender, receiver): the path from the clean run, all else from the corrupted one.

    Holds all senders' writes, and all receivers' values under each, in memory at once: as many times tokens x width.

    Args:
        clean, corrupted, steps: as for `patching.patch_heads`.
        metric: of one hook point, or of the velocity.
        edges: such as `circuit(screen_paths(...), top=20)`.

    Returns:
        `effect` (clip, step, sender, receiver) = patched - corrupted, `total` (clip, step) = clean - corrupted, and
        `before` (clip, step). A path that was not requested, that would run backward, or whose receiver is after the
        readout, is NaN.

    Raises:
        ValueError: runs that do not pair up, no steps, no path that runs forward, an unknown name, a sender that
            is no write, or a metric of several points. KeyError: no such hook point. IndexError: a step they do not
            have. TypeError: an object that is no metric. RuntimeError: hooks are active.
    """
    senders, receivers = ends_of(edges)
    sending = {name: writing_part(name) for name in senders}

    def paths(evaluation: Evaluation, source: Run | None) -> list[Intervention]:
        assert source is not None
        return _paths(lens, evaluation, source.cache, metric, edges)

    points = sorted({part.point for part in sending.values()})
    table = over(lens, corrupted, paths, metric, steps=steps, clean=clean, reads=points, progress=progress)
    return table.reindex(sender=senders, receiver=receivers)


@torch.no_grad()
def _paths(
    lens: DiTLens, corrupted: Evaluation, clean: Mapping[str, Tensor], metric: Metric, edges: Sequence[Edge]
) -> list[Intervention]:
    """The intervention of each edge that runs forward."""
    senders, receivers = ends_of(edges)
    sending = {name: writing_part(name) for name in senders}
    stream = {name: stream_read(lens, name, metric) for name in receivers}
    written, paths = _written(lens, corrupted, clean, sending), []
    for entry in dict.fromkeys(stream.values()):
        entering = [(sender, receiver) for sender, receiver in edges if stream[receiver] == entry]
        added = {sender: written[sender] for sender, _ in entering if is_after(lens, entry, sending[sender].write)}
        if added:
            received = _received(
                lens, corrupted, entry, added, list(dict.fromkeys(receiver for _, receiver in entering))
            )
            paths += [received[edge] for edge in entering if edge in received]
    if not paths:
        raise no_path(senders, receivers)
    return paths


def _written(
    lens: DiTLens, corrupted: Evaluation, clean: Mapping[str, Tensor], sending: Mapping[str, CircuitPart]
) -> dict[str, HookFunction]:
    """For each sender, an edit of a later stream: it adds the change of the sender's write under its clean value."""
    more: dict[str, HookFunction] = {}
    for block in sorted({block_of(part.write) for part in sending.values()}):
        parts = {name: part for name, part in sending.items() if block_of(part.write) == block}
        patches = [Intervention.single(p.point, edits.patch(clean[p.point], p.heads)) for p in parts.values()]
        moved = _moved(lens, corrupted, patches, {part.write for part in parts.values()})
        more |= {name: partial(_add, more=moved[part.write][:, i]) for i, (name, part) in enumerate(parts.items())}
    return more


def _received(
    lens: DiTLens, corrupted: Evaluation, entry: str, added: Mapping[str, HookFunction], receivers: Sequence[str]
) -> dict[Edge, Intervention]:
    """For each sender and receiver of a stream, the edit of the receiver when the sender's change is added."""
    parts = {name: CircuitPart.of(name) for name in receivers if name != READOUT}
    streams = [Intervention.single(entry, add, sender=name, receiver=READOUT) for name, add in added.items()]
    paths = {
        (name, READOUT): intervention for name, intervention in zip(added, streams, strict=True) if READOUT in receivers
    }
    moved = _moved(lens, corrupted, streams, {part.point for part in parts.values()}) if parts else {}
    for i, sender in enumerate(added):
        for name, part in parts.items():
            add = partial(_add, more=moved[part.point][:, i], heads=part.heads)
            paths[sender, name] = Intervention.single(part.point, add, sender=sender, receiver=name)
    return paths


def _moved(
    lens: DiTLens, corrupted: Evaluation, interventions: Sequence[Intervention], points: set[str]
) -> Mapping[str, Float[Tensor, "b intervention values"]]:
    """The change of activations at some points under each intervention, as a metric of several numbers per clip."""
    values = {point: Readout(partial(_values, point=point), (point,)) for point in sorted(points)}
    return sweep(lens, corrupted, interventions, values).effect


def _values(velocity: Tensor | None, cache: Mapping[str, Tensor], point: str) -> Float[Tensor, "b values"]:
    return cache[point].flatten(1)


def _add(x: Tensor, hook: Hook, more: Float[Tensor, "b values"], heads: Sequence[int] | None = None) -> Tensor:
    return edits.add(more.reshape(x.shape), heads)(x, hook)
