"""Attribution patching: all patches ranked by one gradient, and how well that ranking agrees with exact effects.

To first order the effect of putting `source` in the place of z is <grad_z metric, source - z> (Nanda 2023). A patch of
queries or keys passes a softmax, which a gradient at saturation does not see: there the change of z is worked out
exactly and only what follows is taken to first order (the query/key correction of AtP*, Kramár et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run
from dit_lens.running import Evaluation, Request, count
from dit_lens.sweeps.changes import Change, Effects, bound, check, last, reaches
from dit_lens.sweeps.suffix import needed, sweep, sweep_on

TOKENS_CORRECTED = (
    8192  # of video; beyond, a softmax over all keys for every head costs more than the patches it screens
)


@dataclass(frozen=True, eq=False)
class Screened:
    """What a screened sweep found.

    Attributes:
        estimate: (b, change), first-order effects of all changes.
        effects: exact effects of those that were verified, NaN elsewhere.
        verified: places of the changes with the largest mean |estimate|, largest first.
        checked: places of a random sample of the others, whose exact effects are known too.
        agreement: Spearman's rank correlation of mean estimated and mean exact effects over `checked` and `verified`.
    """

    estimate: Float[Tensor, "b change"]
    effects: Effects
    verified: tuple[int, ...]
    checked: tuple[int, ...]
    agreement: float


def screen(
    lens: DiTLens,
    evaluation: Evaluation,
    changes: Sequence[Change],
    metric: Metric,
    clean: Run | None = None,
    corrected: bool = True,
) -> Float[Tensor, "b change"]:
    """First-order effects of changes: <gradient of the metric, changed - unchanged activation>, by one backward.

    Args:
        changes, clean: as for `sweep`.
        corrected: queries and keys by AtP*, which runs the attention of their block once more; not above
            `TOKENS_CORRECTED` video tokens.

    Returns:
        NaN where a change comes behind all that the metric reads.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: see `changes.check`.
    """
    check(lens, changes)
    estimate, _ = _screened(lens, evaluation, changes, metric, clean, corrected)
    return estimate


def _screened(
    lens: DiTLens, evaluation: Evaluation, changes: Sequence[Change], metric: Metric, clean: Run | None, corrected: bool
) -> tuple[Float[Tensor, "b change"], Run]:
    """First-order effects of changes, and the unchanged run with all that an exact sweep over them takes up."""
    correct = corrected and lens.model.grid(evaluation).tokens <= TOKENS_CORRECTED
    live = [place for place, change in enumerate(changes) if reaches(lens, change, metric)]
    mixes = {place: _mixed(changes[place].point) if correct else None for place in live}
    names = needed(lens, changes, {"": metric})
    points = {mix or changes[place].point for place, mix in mixes.items()}
    seen, own = _backward(lens, evaluation, points, metric, clean, names)
    estimate = torch.full((count(evaluation), len(changes)), torch.nan)
    if plain := [place for place in live if mixes[place] is None]:
        estimate[:, plain] = torch.stack([seen[changes[i].point].first_order(changes[i]) for i in plain], 1).cpu()
    for mix in {mix for mix in mixes.values() if mix}:
        places = [place for place, its in mixes.items() if its == mix]
        linear = Readout(partial(_along, gradient=seen[mix].gradient, point=mix), (mix,))
        effects = sweep(lens, evaluation, [changes[place] for place in places], {"": linear})
        estimate[:, places] = effects.effect[""].to(estimate)
    return estimate, own


def screened_sweep(
    lens: DiTLens,
    evaluation: Evaluation,
    changes: Sequence[Change],
    metric: Metric,
    clean: Run | None = None,
    *,
    top: int = 10,
    sample: int = 10,
    seed: int = 0,
) -> Screened:
    """All changes by their first-order effects, the largest of them exactly, and a random sample of the rest.

    Args:
        changes, clean: as for `sweep`.
        top: how many changes are verified, by the size of their mean over clips.
        sample: how many of the others, so that a ranking that misleads shows.
        seed: of the sample.

    Raises:
        ValueError: fewer than one change to verify.
    """
    if top < 1:
        raise ValueError(f"got top={top} · expected at least 1 change to verify")
    check(lens, changes)
    estimate, own = _screened(lens, evaluation, changes, metric, clean, corrected=True)
    order = (-estimate.mean(0).abs().nan_to_num(nan=-1.0)).argsort(stable=True).tolist()
    order = [place for place in order if not estimate[:, place].isnan().any()]
    verified, rest = order[:top], order[top:]
    sampled = np.random.default_rng(seed).permutation(rest)[:sample].tolist()
    chosen = [*verified, *sampled]
    verifiable = [changes[place] for place in chosen]
    exact = sweep_on(lens, evaluation, verifiable, bound(own, verifiable, {"": metric}, clean))
    effect = torch.full_like(estimate, torch.nan)
    effect[:, chosen] = exact.effect[""].to(effect)
    mean = pd.DataFrame({"estimate": estimate[:, chosen].mean(0), "effect": effect[:, chosen].mean(0)})
    agreement = float(mean.corr(method="spearman").loc["estimate", "effect"])
    found = Effects({"": effect}, exact.before, exact.clean)
    return Screened(estimate, found, tuple(verified), tuple(sampled), agreement)


@dataclass(frozen=True, eq=False)
class _Seen:
    """An activation, what it was seen by, and the metric's gradient there; zero where it does not depend on it."""

    value: Tensor
    hook: Hook
    gradient: Tensor

    def first_order(self, change: Change) -> Float[Tensor, " b"]:
        """<gradient, changed - unchanged>."""
        new = change.edit(self.value.clone(), self.hook)
        step = torch.zeros_like(self.value) if new is None else new - self.value
        return (self.gradient * step).flatten(1).sum(1)


def _backward(
    lens: DiTLens,
    evaluation: Evaluation,
    points: set[str],
    metric: Metric,
    clean: Run | None,
    names: set[str],
) -> tuple[dict[str, _Seen], Run]:
    """Activations at points, with the gradient of the metric's sum over clips; the run, with those at `names`."""
    told: dict[str, tuple[Tensor, Tensor, Hook]] = {}

    def watch(x: Tensor, hook: Hook) -> Tensor:
        shift = torch.zeros_like(x, requires_grad=True)
        told[hook.name] = x.detach(), shift, hook
        return x + shift

    kept = {*names, *metric.points}
    stop = last(lens, {*points, *kept}) if metric.points else None
    with torch.enable_grad():
        velocity, cache = lens.model.run_with(
            evaluation, {point: [watch] for point in points}, Request(sorted(kept), stop_at=stop)
        )
        own = Run(velocity.detach() if velocity is not None else None, {n: x.detach() for n, x in cache.items()})
        value = metric.bind(clean or own, own)(velocity, cache).sum()
        shifts = [shift for _, shift, _ in told.values()]
        gradients = torch.autograd.grad(value, shifts, allow_unused=True, materialize_grads=True) if shifts else ()
    seen = {name: _Seen(x, hook, g) for (name, (x, _, hook)), g in zip(told.items(), gradients, strict=True)}
    return seen, own


def _mixed(point: str) -> str | None:
    """The z that queries or keys go into; None for other points."""
    home, _, name = point.rpartition(".hook_")
    return f"{home}.hook_z" if name in ("q", "k", "rot_q", "rot_k") else None


def _along(velocity: Tensor | None, cache: Mapping[str, Tensor], gradient: Tensor, point: str) -> Float[Tensor, " b"]:
    return (cache[point] * gradient).flatten(1).sum(1)
