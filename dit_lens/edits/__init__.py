"""Edits: pure functions (tensor, hook) -> tensor that know no model.

Each takes `heads` (indices on the k axis) and `tokens` (a (frame, row, column) triple of integers or slices on the
token grid) and leaves everything else as it is, bit for bit. Use them as hooks:
`lens.run_with_hooks(traj, step=25, fwd_hooks=[("blocks.3.attn.hook_z", dl.edits.zero(heads=[2]))])`; a list of
(names, edit), as `lens.hooks` takes it, is written to disk by `save` and read by `load`.

Where an activation is taken from elsewhere (`patch`, `mean`, `resample`), it is one tensor for every step, or a
mapping from steps to tensors; a step that it lacks is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dit_lens.edits.derangement import donors
from dit_lens.edits.edit import Edit, Tokens
from dit_lens.edits.files import load, save

__all__ = ["Edit", "Tokens", "add", "cut", "donors", "evenly", "load", "mean", "noise", "patch", "project_out",
           "resample", "save", "scale", "zero"]  # fmt: skip

Heads = Sequence[int] | None
Source = Tensor | Mapping[int, Tensor]


def zero(heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Sets the chosen heads and tokens to zero."""
    return Edit("zero", {}, heads, tokens)


def mean(means: Source, heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Sets the chosen heads and tokens to given means over clips, the same for every clip.

    Of a cache over several steps: `{step: x.mean(0) for step, x in zip(cache.steps, cache["z", 3])}`. Take the mean
    over clips that the edit is not measured on.

    Args:
        means: of the activation's shape without its clip axis, such as (n, k, e); an axis of size 1 serves all places.

    Raises:
        ValueError: (when run) the shapes do not fit. KeyError: (when run) no means at this step.
    """
    return Edit("mean", {"means": means}, heads, tokens)


def patch(source: Source, heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Takes the chosen heads and tokens from `source`, an activation of the same shape from another run.

    Raises:
        ValueError: (when run) the shapes differ. KeyError: (when run) no source at this step.
    """
    return Edit("patch", {"source": source}, heads, tokens)


def resample(source: Source, donors: Int[Tensor, " b"], heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Takes the chosen heads and tokens of clip i from clip `donors[i]` of `source`, the same point in a run of theirs.

    Args:
        source: the activation of all clips that give, (b', ...), of the guidance branch that the edit is used in
            (`lens.hooks(..., branches=["cond"])`).
        donors: which clip of `source` gives, for each clip of the run (see `donors`).

    Raises:
        ValueError: (when run) the shapes differ, or there is another number of clips than of donors.
        KeyError: (when run) no source at this step.
    """
    return Edit("resample", {"source": source, "donors": donors}, heads, tokens)


def add(vector: Float[Tensor, "..."], heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Adds a vector that broadcasts against the activation."""
    return Edit("add", {"vector": vector}, heads, tokens)


def scale(factor: float, heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Multiplies by a number."""
    return Edit("scale", {"factor": float(factor)}, heads, tokens)


def noise(alpha: float, seed: int, heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Gaussian noise in proportion to the activation's own spread: h + alpha * std(h) * eps.

    std is over the features of each token (of each head, where there are heads). eps depends on the seed, the hook
    point and the place on the trajectory, and is the same for every clip and guidance branch: what happens to a clip
    does not depend on its batch, and clips of a pair meet the same noise. Give several seeds to average over it.
    """
    return Edit("noise", {"alpha": float(alpha), "seed": int(seed)}, heads, tokens)


def project_out(direction: Float[Tensor, " d"], heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """Removes the component along a direction of the last axis.

    Raises:
        ValueError: the direction is zero.
    """
    if not direction.any():
        raise ValueError("got a direction of length zero · expected a direction · was the probe fitted?")
    return Edit("project_out", {"direction": direction}, heads, tokens)


def cut(keys: Bool[Tensor, " m"], heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """At a `hook_pattern`: no attention from the chosen queries (`tokens`) to the given keys; the rest is scaled to 1.

    With `keys = grid.mask(frame=slice(0, 3))` and `tokens=(slice(3, None), slice(None), slice(None))` later frames
    look at earlier ones no more. A query whose keys are all cut mixes nothing: its z is 0.

    Args:
        keys: True where attention is cut; video keys, then text keys where attention is joint.

    Raises:
        ValueError: (when run) not as many as the pattern has keys.
    """
    return Edit("cut", {"keys": keys}, heads, tokens)


def evenly(heads: Heads = None, tokens: Tokens | None = None) -> Edit:
    """At a `hook_pattern`: the chosen queries attend to all keys alike."""
    return Edit("evenly", {}, heads, tokens)
