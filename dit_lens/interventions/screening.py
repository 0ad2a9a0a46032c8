"""Attribution patching: all interventions ranked by one gradient, and the agreement of this with exact effects.

To first order the effect of replacing z by `source` is <grad_z metric, source - z> (Nanda 2023); the effect of several
edits is the sum of theirs. A patch of queries or keys passes through a softmax, whose gradient vanishes at saturation:
there the change of z is computed exactly and only what follows is taken to first order (the query/key correction of
AtP*, Kramár et al. 2024).

Example: metric z², z = 3 and source 4. The gradient is 6, so the estimate is 6·(4 - 3) = 6; the exact effect is
16 - 9 = 7.
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

from dit_lens.arguments import integer
from dit_lens.families.parts import upcast
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.interventions.effects import Effects, Screened, bound, can_move, is_seen, last
from dit_lens.interventions.exact import needed, sweep_exactly, sweep_from
from dit_lens.interventions.intervention import Intervention, resolved
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run, bind, differentiable
from dit_lens.running import Evaluation, Request, count

# The largest number of video tokens; with more, a softmax over all keys for every head costs more than it saves.
TOKENS_CORRECTED = 8192


@dataclass(frozen=True)
class Screening:
    """The settings of a screened sweep.

    Attributes:
        top: the number of interventions with exact effects, by the size of their mean estimate over clips.
        sample: the number of random others with exact effects, to detect a misleading ranking.
        seed: the seed of the sample.

    Raises:
        ValueError: fewer than one to verify, or a negative sample. TypeError: values that are no integers.
    """

    top: int = 10
    sample: int = 10
    seed: int = 0

    def __post_init__(self):
        for name, least in (("top", 1), ("sample", 0), ("seed", 0)):
            object.__setattr__(self, name, integer(getattr(self, name), name, least))


def screen(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metric: Metric,
    clean: Run | None = None,
    *,
    corrected: bool = True,
) -> Float[Tensor, "b intervention"]:
    """First-order effects: <gradient of the metric, edited - unchanged activation>, by one backward pass.

    Args:
        interventions, clean: as for `sweep`.
        corrected: use AtP* for queries and keys, which runs the attention of their block once more; never with more
            than `TOKENS_CORRECTED` video tokens.

    Returns:
        The effects, NaN where all edits come after all points that the metric reads.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: see `intervention.resolved`.
    """
    estimate, _ = _estimated(lens, evaluation, resolved(lens, interventions), metric, clean, corrected)
    return estimate


def sweep_screened(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metrics: Mapping[str, Metric],
    clean: Run | None,
    screening: Screening,
) -> Effects:
    """First-order effects of all resolved interventions, with exact effects of the largest and of a random sample."""
    parts = {
        name: _screened(lens, evaluation, interventions, metric, clean, screening) for name, metric in metrics.items()
    }
    return Effects(
        {name: effects.effect[""] for name, (effects, _) in parts.items()},
        {name: effects.before[""] for name, (effects, _) in parts.items()},
        {name: effects.clean[""] for name, (effects, _) in parts.items() if effects.clean},
        {name: screened for name, (_, screened) in parts.items()},
    )


def _screened(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metric: Metric,
    clean: Run | None,
    screening: Screening,
) -> tuple[Effects, Screened]:
    """Effects on one metric, exact where verified, and the estimates with their agreement."""
    estimate, ran = _estimated(lens, evaluation, interventions, metric, clean, corrected=True)
    order = (-estimate.mean(0).abs().nan_to_num(nan=-1.0)).argsort(stable=True).tolist()
    order = [index for index in order if not estimate[:, index].isnan().any()]
    verified, rest = order[: screening.top], order[screening.top :]
    sampled = np.random.default_rng(screening.seed).permutation(rest)[: screening.sample].tolist()
    chosen = [*verified, *sampled]
    start = bound(ran, len(chosen), {"": metric}, clean)
    exact = sweep_from(lens, evaluation, [interventions[index] for index in chosen], start)
    effect = torch.full_like(estimate, torch.nan)
    effect[:, chosen] = exact.effect[""].to(effect)
    mean = pd.DataFrame({"estimate": estimate[:, chosen].mean(0), "effect": effect[:, chosen].mean(0)})
    agreement = float(mean.corr(method="spearman").loc["estimate", "effect"])
    effects = Effects({"": effect}, exact.before, exact.clean, {})
    return effects, Screened(estimate, tuple(verified), tuple(sampled), agreement)


def _estimated(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metric: Metric,
    clean: Run | None,
    corrected: bool,
) -> tuple[Float[Tensor, "b intervention"], Run]:
    """First-order effects, and the unchanged run with all activations that an exact sweep needs."""
    correct = corrected and lens.model.grid(evaluation).tokens <= TOKENS_CORRECTED
    live = {i: edited for i, edited in enumerate(interventions) if can_move(lens, edited, metric)}
    parts = {i: _by_readout(lens, edited, metric, correct) for i, edited in live.items()}
    points = {mix or point for by_mix in parts.values() for mix, part in by_mix.items() for point in part.points}
    linearised, ran = _backward(lens, evaluation, points, metric, clean, needed(lens, interventions, {"": metric}))
    estimate = torch.full((count(evaluation), len(interventions)), torch.nan)
    estimate[:, list(live)] = 0
    for i, by_mix in parts.items():
        if plain := by_mix.get(None):
            estimate[:, i] += (
                torch.stack([linearised[p].first_order(plain.edits_at(p)) for p in plain.points]).sum(0).to(estimate)
            )
    for mix in dict.fromkeys(mix for by_mix in parts.values() for mix in by_mix if mix):
        corrections = {i: by_mix[mix] for i, by_mix in parts.items() if mix in by_mix}
        linear = Readout(partial(_inner_product, gradient=linearised[mix].gradient, point=mix), (mix,))
        effects = sweep_exactly(lens, evaluation, list(corrections.values()), {"": linear}, None)
        estimate[:, list(corrections)] += effects.effect[""].to(estimate)
    return estimate, ran


def _by_readout(
    lens: DiTLens, intervention: Intervention, metric: Metric, correct: bool
) -> dict[str | None, Intervention]:
    """An intervention split by the point whose gradient is used: z for queries and keys, None for the edited points.

    Edits that cannot change the metric are left out.
    """
    points: dict[str | None, list[str]] = {}
    for point in intervention.points:
        if is_seen(lens, point, metric):
            mix = _mixed(point) if correct else None
            points.setdefault(mix if mix and is_seen(lens, mix, metric) else None, []).append(point)
    return {mix: intervention.only(edited) for mix, edited in points.items()}


@dataclass(frozen=True, eq=False)
class _Linearised:
    """An activation, its `Hook`, and the metric's gradient there; zero where the metric does not depend on it."""

    value: Tensor
    hook: Hook
    gradient: Tensor

    def first_order(self, functions: Sequence[HookFunction]) -> Float[Tensor, " b"]:
        """The first-order effect of edits, <gradient, edited - unchanged>."""
        new = self.value
        for function in functions:
            edited = function(new.clone(), self.hook)
            new = new if edited is None else edited
        return (upcast(self.gradient) * (upcast(new) - upcast(self.value))).flatten(1).sum(1)


def _backward(
    lens: DiTLens,
    evaluation: Evaluation,
    points: set[str],
    metric: Metric,
    clean: Run | None,
    names: set[str],
) -> tuple[dict[str, _Linearised], Run]:
    """Activations at points, with the gradient of the metric summed over clips; and the run, with those at `names`."""
    shifted: dict[str, tuple[Tensor, Tensor, Hook]] = {}

    def watch(x: Tensor, hook: Hook) -> Tensor:
        shift = torch.zeros_like(x, requires_grad=True)
        shifted[hook.name] = x.detach(), shift, hook
        return x + shift

    cached = {*names, *metric.points}
    stop = last(lens, {*points, *cached}) if metric.points else None
    with torch.enable_grad():
        velocity, cache = lens.model.run_with(
            evaluation, {point: [watch] for point in points}, Request(sorted(cached), stop_at=stop)
        )
        ran = Run(velocity.detach() if velocity is not None else None, {n: x.detach() for n, x in cache.items()})
        value = differentiable(bind(metric, clean or ran, ran)(velocity, cache)).sum()
        shifts = [shift for _, shift, _ in shifted.values()]
        gradients = torch.autograd.grad(value, shifts, allow_unused=True, materialize_grads=True) if shifts else ()
    linearised = {
        name: _Linearised(x, hook, gradient)
        for (name, (x, _, hook)), gradient in zip(shifted.items(), gradients, strict=True)
    }
    return linearised, ran


def _mixed(point: str) -> str | None:
    """The z of the attention of queries or keys; None for other points."""
    home, _, name = point.rpartition(".hook_")
    return f"{home}.hook_z" if name in ("q", "k", "rot_q", "rot_k") else None


def _inner_product(
    velocity: Tensor | None, cache: Mapping[str, Tensor], gradient: Tensor, point: str
) -> Float[Tensor, " b"]:
    return (upcast(cache[point]) * upcast(gradient)).flatten(1).sum(1)
