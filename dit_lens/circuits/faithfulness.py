"""Circuits: the strongest paths, and their faithfulness and completeness by resampling."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from dit_lens import edits
from dit_lens.arguments import integer, number, strings
from dit_lens.circuits.parts import READOUT, CircuitPart, Edge, parts_before
from dit_lens.interventions import Intervention, Path, over
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, Run
from dit_lens.running import Evaluation


def circuit(effect: xr.DataArray, top: int | None = None, threshold: float = 0.0) -> list[Edge]:
    """The paths whose effect is larger than a threshold in size, the `top` largest of them, largest first.

    Args:
        effect: (sender, receiver); paths that are NaN are none.
    """
    top = None if top is None else integer(top, "top", 1)
    threshold = number(threshold, "threshold")
    flat = effect.stack(path=["sender", "receiver"])
    size = np.nan_to_num(np.abs(flat.values), nan=-1.0)
    order = [place for place in np.argsort(-size, kind="stable") if size[place] > threshold]
    return [(str(sender), str(receiver)) for sender, receiver in flat.path.values[order[:top]]]


def parts_of(edges: Sequence[Edge]) -> list[str]:
    """The heads and writes that a circuit's paths join, "3.1" for "3.1.v"."""
    names = dict.fromkeys(re.sub(r"\.[qkv]$", "", name) for edge in edges for name in edge)
    return [name for name in names if name != READOUT]


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

    The metric's contrast that remains without the rest is the circuit's faithfulness; none should remain without
    the circuit, or it is not complete (Wang et al. 2022). Random circuits have equal numbers of heads and MLPs.
    Cross-attention and the embedding stay as they are.

    Args:
        path: a trajectory, or evaluations by step.
        parts: of the circuit, such as `parts_of(edges)`.
        donors: the clip whose activations (of the unedited run) each clip gets; see `edits.donors`.
        draws: random circuits.
        seed: of the random circuits.

    Returns:
        `value` (clip, step, circuit, resampled), circuit "found", "random 0" and so on, resampled "the rest" or "the
        circuit", and `whole` (clip, step).

    Raises:
        ValueError: a part that is none of those before the readout. IndexError: a step the path does not have.
        RuntimeError: hooks are active.
    """
    parts, draws, seed = strings(parts, "parts"), integer(draws, "draws", 0), integer(seed, "seed", 0)
    available = parts_before(lens, metric)
    if strangers := [name for name in parts if name not in available]:
        raise ValueError(f"got {strangers[0]!r} in a circuit · expected of {', '.join(available)}, before the readout")
    random = np.random.default_rng(seed)
    circuits = {"found": list(parts)} | {f"random {i}": _as_many(parts, available, random) for i in range(draws)}

    def resampling(evaluation: Evaluation, whole: Run | None) -> list[Intervention]:
        assert whole is not None
        interventions = []
        for name, chosen in circuits.items():
            outside = [part for part in available if part not in chosen]
            for resampled, names in (("the rest", outside), ("the circuit", chosen)):
                edited = [
                    (p.point, edits.resample(whole.cache[p.point], donors, p.heads)) for p in map(CircuitPart.of, names)
                ]
                interventions.append(Intervention(edited, {"circuit": name, "resampled": resampled}))
        return interventions

    points = sorted({CircuitPart.of(name).point for name in available})
    table = over(lens, path, resampling, metric, steps=steps, clean=path, reads=points)
    return xr.Dataset({"value": table.effect + table.before, "whole": table.before}).drop_vars("donor")


def _as_many(parts: Sequence[str], available: Sequence[str], random: np.random.Generator) -> list[str]:
    """A random circuit with as many heads and as many of each kind of write, drawn from the available parts."""
    drawn: list[str] = []
    for kind in dict.fromkeys(_kind(name) for name in parts):
        same_kind = [name for name in available if _kind(name) == kind]
        drawn += random.permutation(same_kind)[: sum(_kind(name) == kind for name in parts)].tolist()
    return drawn


def _kind(name: str) -> str:
    """The kind of a write, "mlp" of "mlp 3"; empty for a head."""
    return name.rpartition(" ")[0]
