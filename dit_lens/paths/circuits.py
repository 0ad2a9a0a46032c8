"""Circuits: the strongest paths, and what is left of a metric without the rest, and without them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from dit_lens import edits
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric
from dit_lens.paths.parts import READOUT, Edge, Part, parts_before
from dit_lens.sweeps import Path, clip_ids_of, evaluations
from dit_lens.sweeps.changes import refuse_hooks, run


def circuit(effect: xr.DataArray, top: int | None = None, threshold: float = 0.0) -> list[Edge]:
    """The paths whose effect is larger than a threshold in size, the `top` largest of them, largest first.

    Args:
        effect: (sender, receiver); paths that are NaN are none.
    """
    flat = effect.stack(path=["sender", "receiver"])
    size = np.nan_to_num(np.abs(flat.values), nan=-1.0)
    order = [place for place in np.argsort(-size, kind="stable") if size[place] > threshold]
    return [(str(sender), str(receiver)) for sender, receiver in flat.path.values[order[:top]]]


def parts_of(edges: Sequence[Edge]) -> list[str]:
    """The heads and writes that a circuit's paths join, "3.1" for "3.1.v"."""
    names = dict.fromkeys(re.sub(r"\.[qkv]$", "", name) for edge in edges for name in edge)
    return [name for name in names if name != READOUT]


@torch.no_grad()
def ablate_circuit(
    lens: DiTLens,
    path: Path,
    steps: Sequence[int],
    metric: Metric,
    parts: Sequence[str],
    donors: Int[Tensor, " b"],
    draws: int = 10,
    seed: int = 0,
) -> xr.Dataset:
    """The metric with all heads and MLPs outside a circuit resampled at once, and with the circuit itself resampled.

    What is left of the metric's contrast without the rest is the circuit's faithfulness; none should be left without
    the circuit, or it is not complete (Wang et al. 2022). Random circuits have as many heads and as many MLPs.
    Cross-attention and the embedding stay as they are.

    Args:
        path: a trajectory, or evaluations by step.
        parts: of the circuit, such as `parts_of(edges)`.
        donors: which clip gives its activations (of the run as it is) to each clip; see `edits.donors`.
        draws: random circuits.
        seed: of their choice.

    Returns:
        `value` (clip, step, circuit, resampled), circuit "found", "random 0" and so on, resampled "the rest" or "the
        circuit", and `whole` (clip, step).

    Raises:
        ValueError: a part that is none of those before the readout. IndexError: a step the path does not have.
        RuntimeError: hooks are active.
    """
    refuse_hooks(lens)
    fed, known = evaluations(lens, path, steps), parts_before(lens, metric)
    if strangers := [name for name in parts if name not in known]:
        raise ValueError(f"got {strangers[0]!r} in a circuit · expected of {', '.join(known)}, before the readout")
    random = np.random.default_rng(seed)
    circuits = {"found": list(parts)} | {f"random {i}": _as_many(parts, known, random) for i in range(draws)}
    value, whole = [], []
    for step in steps:
        own = run(lens, fed[step], [metric], {Part.of(name).point for name in known})
        read = metric.bind(own, own)
        whole.append(read(own.velocity, own.cache))
        for chosen in circuits.values():
            for resampled in ([name for name in known if name not in chosen], chosen):
                with lens.hooks(_resampling(own.cache, resampled, donors)):
                    after = run(lens, fed[step], [metric])
                value.append(read(after.velocity, after.cache))
    values = torch.stack(value).unflatten(0, (len(steps), len(circuits), 2)).movedim(-1, 0).cpu().numpy()
    coords = {"clip": clip_ids_of(path), "step": list(steps), "circuit": list(circuits)}
    return xr.Dataset(
        {
            "value": (("clip", "step", "circuit", "resampled"), values),
            "whole": (("clip", "step"), torch.stack(whole, 1).cpu().numpy()),
        },
        coords=coords | {"resampled": ["the rest", "the circuit"]},
    )


def _resampling(
    cache: Mapping[str, Tensor], names: Sequence[str], donors: Int[Tensor, " b"]
) -> list[tuple[str, edits.Edit]]:
    """Edits that give the parts the activations of other clips."""
    return [(part.point, edits.resample(cache[part.point], donors, part.heads)) for part in map(Part.of, names)]


def _as_many(parts: Sequence[str], known: Sequence[str], random: np.random.Generator) -> list[str]:
    """As many heads and as many of each kind of write as the circuit has, drawn from those that are known."""
    drawn: list[str] = []
    for kind in dict.fromkeys(_kind(name) for name in parts):
        alike = [name for name in known if _kind(name) == kind]
        drawn += random.permutation(alike)[: sum(_kind(name) == kind for name in parts)].tolist()
    return drawn


def _kind(name: str) -> str:
    """Which write it is, "mlp" of "mlp 3"; nothing for a head."""
    return name.rpartition(" ")[0]
