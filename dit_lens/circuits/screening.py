"""Edge attribution patching with integrated gradients: all paths ranked by a few forwards and backwards.

To first order a path's effect is <clean - corrupted write of the sender, gradient of the metric at the stream
that the receiver reads, through the receiver alone> (edge attribution patching, Syed et al. 2023, arXiv:2310.10348).
Where a softmax or an MLP is saturated, one gradient is a poor estimate; its mean over latents on the line from the
corrupted run to the clean one is better (EAP-IG, Hanna et al. 2024, arXiv:2403.17806). A head's write is exact: gate ·
W_k z_k, with the corrupted run's gate (and rms, where a norm sits before it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from dit_lens.arguments import collection, integer, number, strings
from dit_lens.cache import Anatomy
from dit_lens.cache.decomposition import head_readouts, precise
from dit_lens.circuits.faithfulness import circuit
from dit_lens.circuits.parts import READOUT, CircuitPart, Edge, ends_of, no_path, stream_read, writing_part
from dit_lens.circuits.patching import patch_edges
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.interventions import Path, clip_ids_of, evaluations
from dit_lens.interventions.effects import check_pair, is_after, last, run
from dit_lens.interventions.intervention import refuse_hooks
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Readout, Run, bind, differentiable
from dit_lens.running import Evaluation, Request, count

LATENT = "hook_latent"
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def screen_paths(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric,
    senders: Sequence[str],
    receivers: Sequence[str],
    shares: Sequence[float] = SHARES,
) -> xr.DataArray:
    """First-order effects (clip, step, sender, receiver) of the paths that `patch_paths` patches.

    Two forwards, and for each share one forward, one backward and a short one through each receiver's norm and
    projection.

    Args:
        clean, corrupted, steps, metric, senders, receivers: as for `patch_paths`.
        shares: latents at which gradients are taken, from that of the corrupted run (0) to that of the clean one (1);
            (0,) is plain edge attribution patching.

    Raises:
        ValueError, KeyError, IndexError, TypeError, RuntimeError: see `patch_edges`; no shares.
    """
    refuse_hooks(lens)
    shares = collection(shares, "shares", "numbers")
    if not shares:
        raise ValueError("got no shares · expected at least one place on the line, such as 0 (the corrupted run)")
    senders, receivers = strings(senders, "senders"), strings(receivers, "receivers")
    shares = [number(share, "share", 0, 1) for share in shares]
    clean_runs, corrupted_runs, estimates = evaluations(lens, clean, steps), evaluations(lens, corrupted, steps), []
    for step in corrupted_runs:
        check_pair(clean_runs[step], corrupted_runs[step])
        edges = list(product(senders, receivers))
        estimates.append(_screen_step(lens, clean_runs[step], corrupted_runs[step], metric, edges, shares).numpy())
    coords = {"clip": clip_ids_of(corrupted), "step": list(corrupted_runs)}
    coords |= {"sender": list(senders), "receiver": list(receivers)}
    return xr.DataArray(np.stack(estimates, axis=1), coords, ("clip", "step", "sender", "receiver"), "estimate")


def screened_paths(
    lens: DiTLens,
    clean: Path,
    corrupted: Path,
    steps: Sequence[int],
    metric: Metric,
    senders: Sequence[str],
    receivers: Sequence[str],
    *,
    top: int = 10,
    sample: int = 10,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> xr.Dataset:
    """All paths by their first-order effects, the largest of them exactly, and a random sample.

    Args:
        top: how many paths are patched, by the size of their mean over clips and steps.
        sample: how many more, drawn from all paths, so that a ranking that misleads shows.
        seed: of the sample.

    Returns:
        As `patch_edges`, with `estimate` (clip, step, sender, receiver); `verified` and `sampled` (sender, receiver),
        which paths were patched and why; and `agreement` (among), the rank correlation of mean estimates and mean
        effects over the "sample" and over "all patched".

    Raises:
        ValueError: fewer than one path to verify, and as `screen_paths`.
    """
    estimate = screen_paths(lens, clean, corrupted, steps, metric, senders, receivers, shares)
    verified, sampled = ranked(estimate.mean(["clip", "step"], skipna=False), top, sample, seed)
    table = patch_edges(lens, clean, corrupted, steps, metric, list(dict.fromkeys([*verified, *sampled])))
    table = table.reindex(sender=list(senders), receiver=list(receivers))
    table = table.assign(estimate=estimate, verified=among(verified, estimate), sampled=among(sampled, estimate))
    first, exact = (table[name].mean(["clip", "step"], skipna=False) for name in ("estimate", "effect"))
    return table.assign(agreement=agreement(first, exact, table.sampled))


def ranked(estimate: xr.DataArray, top: int, sample: int, seed: int = 0) -> tuple[list[Edge], list[Edge]]:
    """The paths with the largest estimates (sender, receiver), and a random sample of all that have one.

    Raises:
        ValueError: fewer than one path.
    """
    top, sample, seed = integer(top, "top", 1), integer(sample, "sample", 0), integer(seed, "seed", 0)
    flat = estimate.stack(path=["sender", "receiver"]).dropna("path")
    drawn = np.random.default_rng(seed).permutation(flat.sizes["path"])[:sample]
    return circuit(estimate, top), [
        (str(sender), str(receiver)) for sender, receiver in flat.path.values[np.sort(drawn)]
    ]


def among(edges: Sequence[Edge], like: xr.DataArray) -> xr.DataArray:
    """Mask (sender, receiver) of the paths that are among `edges`."""
    senders, receivers = like.sender.values, like.receiver.values
    chosen = [[(str(sender), str(receiver)) in set(edges) for receiver in receivers] for sender in senders]
    return xr.DataArray(chosen, {"sender": senders, "receiver": receivers}, ("sender", "receiver"))


def agreement(estimate: xr.DataArray, effect: xr.DataArray, sampled: xr.DataArray) -> xr.DataArray:
    """Spearman's rank correlation of estimates and effects (sender, receiver): of the sample, and of all patched.

    NaN of fewer than two paths.
    """
    groups = {"sample": sampled & effect.notnull(), "all patched": effect.notnull()}
    values = [
        _rank_correlation(estimate.values[where.values], effect.values[where.values]) for where in groups.values()
    ]
    return xr.DataArray(values, {"among": list(groups)}, "among")


def _rank_correlation(estimate: np.ndarray, effect: np.ndarray) -> float:
    if len(estimate) < 2 or not (np.ptp(estimate) and np.ptp(effect)):
        return float("nan")
    return float(np.asarray(spearmanr(estimate, effect))[0])


def _screen_step(
    lens: DiTLens,
    clean: Evaluation,
    corrupted: Evaluation,
    metric: Metric,
    edges: Sequence[Edge],
    shares: Sequence[float],
) -> Float[Tensor, "b sender receiver"]:
    """Mean over the shares of <change of a sender's write, gradient through a receiver>; NaN without a path."""
    senders, receivers = ends_of(edges)
    sending = {name: writing_part(name) for name in senders}
    streams = {name: stream_read(lens, name, metric) for name in receivers if _is_read(lens, name, metric)}
    senders_of = {
        name: [sender for sender, part in sending.items() if is_after(lens, entry, part.write)]
        for name, entry in streams.items()
    }
    entered = {name: entry for name, entry in streams.items() if senders_of[name]}
    if not entered:
        raise no_path(senders, receivers)
    writes, pair = _Writes.of(lens, clean, corrupted, metric, sending)
    function, (start, end) = bind(metric, *pair), (each_run.cache[LATENT] for each_run in reversed(pair))
    table = torch.full((count(corrupted), len(senders), len(receivers)), torch.nan, dtype=writes.dtype)
    for name in entered:
        table[:, [senders.index(sender) for sender in senders_of[name]], receivers.index(name)] = 0
    for share in shares:
        latent = torch.lerp(start, end, share)
        for name, gradient in _gradients(lens, corrupted, latent, Readout(function, metric.points), entered):
            for sender, along in writes.along(senders_of[name], precise(gradient)).items():
                table[:, senders.index(sender), receivers.index(name)] += along.to(table) / len(shares)
    return table


@torch.enable_grad()
def _gradients(
    lens: DiTLens, corrupted: Evaluation, latent: Tensor, metric: Readout, entered: Mapping[str, str]
) -> Iterator[tuple[str, Float[Tensor, "b n d"]]]:
    """For each receiver, the metric's gradient at the stream that it reads, through the receiver alone.

    Args:
        fed: the latent.
        entered: the stream of each receiver.
    """
    values: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}

    def watch(x: Tensor, hook: Hook) -> Tensor:
        values[hook.name], shifts[hook.name] = x, torch.zeros_like(x, requires_grad=True)
        return x + shifts[hook.name]

    parts = {name: CircuitPart.of(name) for name in entered if name != READOUT}
    watched = {*entered.values(), *(part.point for part in parts.values())}
    functions: dict[str, list[HookFunction]] = {name: [watch] for name in watched}
    functions[LATENT] = [lambda x, hook: latent]
    stop = last(lens, metric.points) if metric.points else None
    measured = differentiable(
        metric(*lens.model.run_with(corrupted, functions, Request(sorted(metric.points), stop_at=stop)))
    )
    slopes = dict(zip(shifts, _slopes([measured.sum()], list(shifts.values())), strict=True))
    for name, entry in entered.items():
        if name == READOUT:
            yield name, slopes[entry]
        else:
            # From the receiver's value back to the stream: other readers of that stream are left out.
            value, slope = (_of_heads(x[parts[name].point], parts[name].heads) for x in (values, slopes))
            yield name, _slopes([value], [shifts[entry]], [slope])[0]


def _slopes(outputs: list[Tensor], inputs: list[Tensor], weights: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    """Gradients of outputs (times weights) at inputs, 0 where they do not depend on them; the graph stays."""
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(outputs, inputs, weights, **options)


def _of_heads(x: Tensor, heads: tuple[int, ...] | None) -> Tensor:
    return x if heads is None else x[:, :, list(heads)]


def _is_read(lens: DiTLens, receiver: str, metric: Metric) -> bool:
    """Whether a metric can depend on a receiver."""
    if receiver == READOUT or not metric.points:
        return True
    return any(not is_after(lens, CircuitPart.of(receiver).point, point) for point in metric.points)


@dataclass(frozen=True, eq=False)
class _Writes:
    """The changes of senders' writes from the corrupted run to the clean one.

    Attributes:
        parts: senders by name.
        more: at their points clean - corrupted, beside the corrupted run's gates.
    """

    parts: Mapping[str, CircuitPart]
    more: Mapping[str, Tensor]
    anatomy: Anatomy

    @classmethod
    def of(
        cls,
        lens: DiTLens,
        clean_evaluation: Evaluation,
        corrupted_evaluation: Evaluation,
        metric: Metric,
        parts: Mapping[str, CircuitPart],
    ) -> tuple[_Writes, tuple[Run, Run]]:
        """The changes between a clean and a corrupted evaluation, and the two runs with their latents."""
        anatomy = Anatomy.of(lens.model.of(corrupted_evaluation).transformer, lens.table)
        needs = {p.point for p in parts.values()} | {
            name for p in parts.values() if p.heads is not None for name in anatomy.heads[p.write].needs
        }
        with torch.no_grad():
            clean, corrupted = (
                run(lens, evaluation, [metric], {LATENT, *needs})
                for evaluation in (clean_evaluation, corrupted_evaluation)
            )
        more = {p.point: precise(clean.cache[p.point]) - precise(corrupted.cache[p.point]) for p in parts.values()}
        return cls(parts, {**corrupted.cache, **more}, anatomy), (clean, corrupted)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which changes are computed."""
        return next(self.more[part.point].dtype for part in self.parts.values())

    def along(self, names: Sequence[str], direction: Float[Tensor, "b n d"]) -> dict[str, Float[Tensor, " b"]]:
        """Projections of senders' changes on a direction; all heads pass gate and projection together."""
        heads: dict[str, Tensor] = {}
        for write in {self.parts[name].write for name in names if self.parts[name].heads is not None}:
            by_source, _ = head_readouts(self.more, self.anatomy.heads[write], direction)
            heads[write] = by_source[""].sum(-2)
        products = {}
        for name in names:
            part = self.parts[name]
            is_write = part.heads is None
            products[name] = (
                _along(self.more[part.point], direction) if is_write else heads[part.write][:, part.heads].sum(1)
            )
        return products


def _along(x: Float[Tensor, "b n d"], direction: Float[Tensor, "b n d"]) -> Float[Tensor, " b"]:
    return torch.linalg.vecdot(x, direction.to(x)).sum(-1)
