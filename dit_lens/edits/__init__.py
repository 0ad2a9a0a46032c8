"""Edits: pure functions (tensor, hook) -> tensor for use as hooks, independent of any model.

Each takes `heads` (indices on the k axis) and `tokens` (a (frame, row, column) triple of integers or slices on the
token grid) and changes no bit of anything else. Use them as hooks:
`lens.run_with_hooks(traj, step=25, fwd_hooks=[("blocks.3.attn.hook_z", dl.edits.zero(heads=[2]))])`; `save` writes
a list of (names, edit), as `lens.hooks` takes it, to disk, and `load` reads it.

The source activation of `patch`, `mean` and `resample` is one tensor for all steps, or a mapping from steps to tensors,
where a missing step is an error. Numpy arrays work like tensors; values that are no numbers, and directions or factors
that are not finite, raise an error when the edit is created.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dit_lens.arguments import integer, number
from dit_lens.axes import Region
from dit_lens.edits.derangement import donors
from dit_lens.edits.edit import Edit
from dit_lens.edits.files import load, save
from dit_lens.edits.values import numbers, source_of, truths, whole

__all__ = ["Edit", "add", "cut", "donors", "evenly", "load", "mean", "noise", "patch", "project_out",
           "resample", "save", "scale", "zero"]  # fmt: skip

Heads = Sequence[int] | None
Source = Tensor | Mapping[int, Tensor]


def zero(heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Sets the chosen heads and tokens to zero."""
    return Edit("zero", {}, heads, tokens)


def mean(means: Source, heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Sets the chosen heads and tokens to means over clips, the same for every clip.

    From a cache over several steps: `{step: x.mean(0) for step, x in zip(cache.steps, cache["z", 3])}`. Take the mean
    over clips that the edit is not measured on.

    Args:
        means: of the activation's shape without its clip axis, such as (n, k, e); an axis of size 1 is broadcast.

    Raises:
        ValueError: (when run) the shapes do not fit. KeyError: (when run) no means at this step.
    """
    return Edit("mean", {"means": source_of(means, "means")}, heads, tokens)


def patch(source: Source, heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Takes the chosen heads and tokens from `source`, an activation of the same shape from another run.

    Raises:
        ValueError: (when run) the shapes differ. KeyError: (when run) no source at this step.
    """
    return Edit("patch", {"source": source_of(source, "source")}, heads, tokens)


def resample(source: Source, donors: Int[Tensor, " b"], heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Takes the chosen heads and tokens of clip i from clip `donors[i]` of `source`, the same hook point in their run.

    Args:
        source: the activation of all donor clips, (b', ...), in the guidance branch that the edit is used in
            (`lens.hooks(..., branches=["cond"])`).
        donors: the index in `source` of the donor of each clip of the run (see `donors`).

    Raises:
        ValueError: (when run) the shapes differ, or the numbers of clips and donors differ.
        KeyError: (when run) no source at this step.
    """
    return Edit("resample", {"source": source_of(source, "source"), "donors": whole(donors, "donors")}, heads, tokens)


def add(vector: Float[Tensor, "..."], heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Adds a vector that broadcasts against the activation.

    Raises:
        ValueError: (when run) it does not broadcast.
    """
    return Edit("add", {"vector": numbers(vector, "vector")}, heads, tokens)


def scale(factor: float, heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Multiplies by a number."""
    return Edit("scale", {"factor": number(factor, "factor")}, heads, tokens)


def noise(alpha: float, seed: int, heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Gaussian noise in proportion to the activation's own spread: h + alpha * std(h) * eps.

    std is over the features of each token (of each head, where there are heads). eps depends on the seed, the hook
    point, the step and the noise level, and is the same for every clip and guidance branch: the effect on a clip does
    not depend on its batch, and both clips of a pair get the same noise. Use several seeds to average over it.
    """
    return Edit("noise", {"alpha": number(alpha, "alpha"), "seed": integer(seed, "seed", 0)}, heads, tokens)


def project_out(direction: Float[Tensor, " d"], heads: Heads = None, tokens: Region | None = None) -> Edit:
    """Removes the component along a direction of the last axis.

    Raises:
        ValueError: the direction is zero.
    """
    along = numbers(direction, "direction")
    if not along.any():
        raise ValueError("got a direction of length zero · expected a direction · was the probe fitted?")
    return Edit("project_out", {"direction": along}, heads, tokens)


def cut(keys: Bool[Tensor, " m"], heads: Heads = None, tokens: Region | None = None) -> Edit:
    """At a `hook_pattern`: no attention from the chosen queries (`tokens`) to the given keys; the rest is scaled to 1.

    With `keys = grid.mask(frame=slice(0, 3))` and `tokens=(slice(3, None), slice(None), slice(None))` later frames
    no longer attend to earlier ones. A pattern row (0.5, 0.3, 0.2) with the first key cut becomes (0, 0.6, 0.4). With
    all keys cut, z is 0.

    Args:
        keys: True where attention is cut; video keys, then text keys where attention is joint.

    Raises:
        ValueError: (when run) another number of keys than in the pattern.
    """
    return Edit("cut", {"keys": truths(keys, "keys")}, heads, tokens)


def evenly(heads: Heads = None, tokens: Region | None = None) -> Edit:
    """At a `hook_pattern`: the chosen queries attend to all keys equally."""
    return Edit("evenly", {}, heads, tokens)
