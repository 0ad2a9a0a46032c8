"""Exact path patching (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969).

The path from a sender to a receiver: the stream that the receiver reads is that of the corrupted run plus what the
sender would write there more in the clean run, all other writes held as they were; the receiver's own value under that
stream is put into the corrupted run, at the receiver alone, and what comes behind it follows. A sender's paths to all
parts that read the stream begin all ways by which it has an effect: where a model is linear they add up to it.

Paths are those of the video stream; what a sender writes to a text stream beside it is not told on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dit_lens import edits
from dit_lens.cache.anatomy import block_of
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout
from dit_lens.paths.parts import READOUT, Edge, Part, ends_of, no_path, stream_read, writing_part
from dit_lens.running import Evaluation, count
from dit_lens.sweeps import Change, Effects, Path, clip_ids_of, evaluations, sweep, tabulate
from dit_lens.sweeps.changes import check_pair, is_behind, refuse_hooks, run


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
    """What each sender tells each receiver directly: the path from the clean run, all else from the corrupted one.

    Args:
        clean, corrupted, steps, metric: as for `patch_edges`.
        senders: heads and writes, such as `parts_before(lens, metric)`.
        receivers: heads, their q, k and v, writes, and "readout".

    Returns:
        As `patch_edges`, of every sender with every receiver.

    Raises:
        ValueError, KeyError, IndexError, TypeError, RuntimeError: see `patch_edges`.
    """
    return patch_edges(lens, clean, corrupted, steps, metric, list(product(senders, receivers)), progress)


def patch_edges(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric,
    edges: Sequence[Edge],
    progress: bool = False,
) -> xr.Dataset:
    """What chosen paths tell, (sender, receiver) each: from the clean run, all else from the corrupted one.

    Keeps what every sender writes, and what it makes of every receiver, at once: so many times tokens x width.

    Args:
        clean, corrupted, steps: as for `patching.patch_heads`.
        metric: of one hook point, or of the velocity.
        edges: such as `circuit(screen_paths(...), top=20)`.

    Returns:
        `effect` (clip, step, sender, receiver) = patched - corrupted, `total` (clip, step) = clean - corrupted, and
        `before` (clip, step). A path that was not asked for, that would run backward, or whose receiver is behind the
        readout, is NaN.

    Raises:
        ValueError: runs that do not pair up, no steps, no path that runs forward, an unknown spelling, a sender that
            is no write, or a metric of several points. KeyError: no such hook point. IndexError: a step they do not
            have. TypeError: something that is no metric. RuntimeError: hooks are active.
    """
    refuse_hooks(lens)
    given, own, found = evaluations(lens, clean, steps), evaluations(lens, corrupted, steps), {}
    for step in tqdm(steps, desc="paths", unit="step", disable=not progress):
        check_pair(given[step], own[step])
        found[step] = _patch_step(lens, given[step], own[step], metric, edges)
    senders, receivers = ends_of(edges)
    table = tabulate(found, {"sender": senders, "receiver": receivers}, own)
    return table.assign_coords(clip=clip_ids_of(corrupted), donor=("clip", clip_ids_of(clean)))


@torch.no_grad()
def _patch_step(lens: DiTLens, given: Evaluation, own: Evaluation, metric: Metric, edges: Sequence[Edge]) -> Effects:
    """Effects of all senders with all receivers of the edges, NaN where that is no edge."""
    senders, receivers = ends_of(edges)
    sending = {name: writing_part(name) for name in senders}
    stream = {name: stream_read(lens, name, metric) for name in receivers}
    source = run(lens, given, [metric], {part.point for part in sending.values()})
    written, paths = _written(lens, own, source.cache, sending), {}
    for entry in dict.fromkeys(stream.values()):
        here = [(one, other) for one, other in edges if stream[other] == entry]
        told = {one: written[one] for one, _ in here if is_behind(lens, entry, sending[one].write)}
        if told:
            received = _received(lens, own, entry, told, list(dict.fromkeys(other for _, other in here)))
            paths |= {edge: received[edge] for edge in here if edge in received}
    if not paths:
        raise no_path(senders, receivers)
    effects = sweep(lens, own, list(paths.values()), {"": metric}, source)
    table = torch.full((count(own), len(senders), len(receivers)), torch.nan, dtype=effects.effect[""].dtype)
    for index, (one, other) in enumerate(paths):
        table[:, senders.index(one), receivers.index(other)] = effects.effect[""][:, index]
    return Effects({"": table.flatten(1)}, effects.before, effects.clean)


def _written(
    lens: DiTLens, own: Evaluation, clean: Mapping[str, Tensor], sending: Mapping[str, Part]
) -> dict[str, HookFunction]:
    """For each sender, an edit of a stream behind it: what it would write there more, had it its clean value."""
    more: dict[str, HookFunction] = {}
    for block in sorted({block_of(part.write) for part in sending.values()}):
        parts = {name: part for name, part in sending.items() if block_of(part.write) == block}
        changes = [Change(part.point, edits.patch(clean[part.point], part.heads)) for part in parts.values()]
        found = _moved(lens, own, changes, {part.write for part in parts.values()})
        more |= {name: partial(_add, more=found[part.write][:, i]) for i, (name, part) in enumerate(parts.items())}
    return more


def _received(
    lens: DiTLens, own: Evaluation, entry: str, told: Mapping[str, HookFunction], receivers: Sequence[str]
) -> dict[tuple[str, str], Change]:
    """What each receiver of a stream is changed to by what each sender adds to it."""
    parts = {name: Part.of(name) for name in receivers if name != READOUT}
    streams = [Change(entry, add) for add in told.values()]
    paths = {(name, READOUT): change for name, change in zip(told, streams, strict=True) if READOUT in receivers}
    found = _moved(lens, own, streams, {part.point for part in parts.values()}) if parts else {}
    for i, sender in enumerate(told):
        for name, part in parts.items():
            paths[sender, name] = Change(part.point, partial(_add, more=found[part.point][:, i], heads=part.heads))
    return paths


def _moved(
    lens: DiTLens, own: Evaluation, changes: Sequence[Change], points: set[str]
) -> Mapping[str, Float[Tensor, "b change values"]]:
    """How far each change moves activations at some points: all values of a clip are a metric of several numbers."""
    values = {point: Readout(partial(_values, point=point), (point,)) for point in sorted(points)}
    return sweep(lens, own, changes, values).effect


def _values(velocity: Tensor | None, cache: Mapping[str, Tensor], point: str) -> Float[Tensor, "b values"]:
    return cache[point].flatten(1)


def _add(x: Tensor, hook: Hook, more: Float[Tensor, "b values"], heads: Sequence[int] | None = None) -> Tensor:
    return edits.add(more.reshape(x.shape), heads)(x, hook)
