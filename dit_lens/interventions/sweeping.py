"""`sweep`: effects by the exact engine, one by one or by first-order estimates; `over`: tables by coordinates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, get_args

import torch
import xarray as xr
from tqdm import tqdm

from dit_lens.arguments import integer
from dit_lens.choices import nearest
from dit_lens.interventions.effects import Effects, check_pair, run
from dit_lens.interventions.exact import sweep_exactly
from dit_lens.interventions.intervention import Intervention, refuse_hooks, resolved
from dit_lens.interventions.literal import sweep_literally
from dit_lens.interventions.screening import Screening, sweep_screened
from dit_lens.interventions.tables import Path, clip_ids_of, evaluations, named, tabulate
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation

Method = Literal["exact", "screened", "literal"]
Making = Callable[[Evaluation, Run | None], Sequence[Intervention]]


@torch.no_grad()
def sweep(
    lens: DiTLens,
    evaluation: Evaluation,
    interventions: Sequence[Intervention],
    metrics: Mapping[str, Metric],
    clean: Run | None = None,
    *,
    method: Method | Screening = "exact",
    batch_size: int | None = None,
    progress: bool = False,
    kept_bytes: int | None = None,
) -> Effects:
    """The effect of each intervention on each metric, in one evaluation.

    Args:
        evaluation: the run that is edited, such as `lens.evaluation(trajectory, step)`.
        metrics: by name.
        clean: the run that patches come from, to which metrics are bound together with the unchanged run; by default
            the unchanged run itself.
        method: "exact", by the engine, which computes nothing twice; "screened", or `Screening(top=20)`: first-order
            estimates of all, exact effects of the largest; "literal", one full forward each, the reference for tests.
        batch_size: clips per forward, counting copies; by default from half of the free memory ("exact").
        progress: show a progress bar ("exact").
        kept_bytes: bytes of the unchanged run in memory; the rest goes to temporary files. By default a quarter of the
            free memory ("exact").

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: see `intervention.resolved`; or an unknown method, or an object
            that is no metric.
    """
    chosen = Screening() if method == "screened" else method
    if not isinstance(chosen, Screening) and chosen not in get_args(Method):
        raise ValueError(
            f"got method {chosen!r}{nearest(str(chosen), get_args(Method))} · expected one of"
            f" {', '.join(get_args(Method))}, or Screening(top=...)"
        )
    ready = resolved(lens, interventions)
    batch_size = None if batch_size is None else integer(batch_size, "batch_size", 1)
    if isinstance(chosen, Screening):
        return sweep_screened(lens, evaluation, ready, metrics, clean, chosen)
    if chosen == "literal":
        return sweep_literally(lens, evaluation, ready, metrics, clean)
    return sweep_exactly(lens, evaluation, ready, metrics, clean, batch_size, progress, kept_bytes)


def over(
    lens: DiTLens,
    path: Path,
    interventions: Sequence[Intervention] | Making,
    metric: Metric | Mapping[str, Metric],
    *,
    steps: Sequence[int],
    clean: Path | None = None,
    reads: Collection[str] = (),
    method: Method | Screening = "exact",
    progress: bool = False,
) -> xr.Dataset:
    """A table of effects by the interventions' coordinates, at each of some steps of a path.

    Example: the effect of zeroing the MLP of each block on a probe's logit.

        mlps = [Intervention.single(f"blocks.{i}.hook_mlp_out", edits.zero(), block=i) for i in range(lens.blocks)]
        table = over(lens, trajectory, mlps, probe.logit, steps=[20])    # table.effect: (clip, step, block)

    Args:
        path: a trajectory, or evaluations by step.
        interventions: the same at every step; or a function (evaluation of a step, clean run there) -> interventions,
            with the same coordinates at every step.
        metric: such as `probe.logit`; or several by name, whose variables are then `effect_NAME` and so on.
        steps: steps of the path, counted from data.
        clean: the path that patches come from and that metrics are bound to; clip i is paired with clip i.
        reads: hook points of the clean run that the function reads in `clean.cache`.
        method: see `sweep`.
        progress: show a progress bar over the steps.

    Returns:
        See `tables.tabulate`: `effect` (clip, step, *coordinates) = edited - unchanged, `before` (clip, step), and
        `total` = clean - before where there is a clean path. Screened: `estimate` and `agreement` too.

    Raises:
        ValueError: paths that do not pair up, no steps, coordinates that differ between interventions or occur twice.
        IndexError: a step that a path does not have. TypeError, KeyError, RuntimeError: see `sweep`.
    """
    refuse_hooks(lens)
    metrics, fed = named(metric), evaluations(lens, path, steps)
    sources = None if clean is None else evaluations(lens, clean, steps)
    effects: dict[int, Effects] = {}
    at: list[Mapping[str, object]] | None = None
    for step in tqdm(fed, desc="interventions", unit="step", disable=not progress):
        source = None if sources is None else _clean_run(lens, sources[step], fed[step], metrics, reads)
        of_step = interventions(fed[step], source) if callable(interventions) else interventions
        effects[step] = sweep(lens, fed[step], of_step, metrics, source, method=method)
        at = _same([intervention.at for intervention in of_step], at, step)
    table = tabulate(effects, at or [], fed).assign_coords(clip=clip_ids_of(path))
    return table if clean is None else table.assign_coords(donor=("clip", clip_ids_of(clean)))


@torch.no_grad()
def _clean_run(
    lens: DiTLens,
    clean: Evaluation,
    corrupted: Evaluation,
    metrics: Mapping[str, Metric],
    reads: Collection[str],
) -> Run:
    check_pair(clean, corrupted)
    return run(lens, clean, metrics.values(), reads)


def _same(
    at: list[Mapping[str, object]], before: list[Mapping[str, object]] | None, step: int
) -> list[Mapping[str, object]]:
    if before is not None and at != before:
        raise ValueError(f"got other coordinates at step {step} · expected the same interventions at every step")
    return at
