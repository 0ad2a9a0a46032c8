"""What patched streams are read by, all in one sweep: the probe, second probes, content, and random directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float
from sklearn.model_selection import GroupKFold, cross_val_predict
from torch import Tensor

from dit_lens.cache.split import per_token
from dit_lens.capture import Route, batches, evaluations
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from dit_lens.probing import FOLDS, DifferenceOfMeans, Grid, estimator, r_squared, ridge
from dit_lens.running import Request

PLAUSIBILITY, HALF, MEANS, RANDOM = "plausibility", "half the scenes", "difference of means", "random"
CONTENT = ("position", "colour", "background")
STRENGTHS = tuple(10.0**power for power in range(-6, 1))
Rows = Float[np.ndarray, "i parts d"]


@dataclass(frozen=True, eq=False)
class Line:
    """One linear readout of a stream.

    Attributes:
        kind: what it tells, such as "position"; several readouts can tell of one kind.
        weight: a direction for the mean over each latent frame, or for each token (parts = n), in units of the raw
            activation; products are summed.
        spread: standard deviation of out-of-fold outputs over the training clips: effects are told in this unit.
        score: out of fold, accuracy for plausibility and R² for content; NaN of a random direction.
    """

    name: str
    kind: str
    weight: Float[np.ndarray, "parts d"]
    bias: float
    spread: float
    score: float


@dataclass(frozen=True, eq=False)
class Readouts:
    """Linear readouts of one hook point, told by one metric.

    Attributes:
        point: what they read.
        lines: the readouts; the first is the probe for plausibility.
    """

    point: str
    lines: tuple[Line, ...]

    @property
    def metric(self) -> Readout:
        """(velocity, cache) -> (b, readout), differentiable."""
        return Readout(lambda velocity, cache: self.of_activation(cache[self.point]), (self.point,))

    def of_activation(self, activation: Float[Tensor, "b n d"]) -> Float[Tensor, "b readout"]:
        """Outputs for raw activations, in float32 or better."""
        precise = activation.to(torch.promote_types(activation.dtype, torch.float32))
        weight = torch.stack([per_token(torch.from_numpy(line.weight).to(precise), precise) for line in self.lines])
        return einsum(precise, weight, "b n d, r n d -> b r") + precise.new_tensor([line.bias for line in self.lines])

    def facts(self) -> xr.Dataset:
        """`probe_spread` and `score` (readout,), with the kind of each as coordinate."""
        told = {"probe_spread": [line.spread for line in self.lines], "score": [line.score for line in self.lines]}
        coords = {
            "readout": [line.name for line in self.lines],
            "kind": ("readout", [line.kind for line in self.lines]),
        }
        return xr.Dataset({name: ("readout", values) for name, values in told.items()}, coords=coords)


def fit_readouts(
    cell: xr.DataArray, train: Sequence[Quadruplet], tokens: Rows | None, directions: int, seed: int
) -> Readouts:
    """The readouts of one cell of `cross_validate`, fitted on training scenes.

    Args:
        cell: pooled activations (quadruplet, role, feature) at one step and block.
        tokens: of the last latent frame at the same place (see `last_tokens`), which tell where things are; without
            them content is not read.
        directions: how many random directions, as long as the probe's.
    """
    rows, labels = rearrange(cell.values, "q r (f d) -> (q r) f d", f=int(cell.attrs["parts"])), cell.possible.values
    labels, groups = labels.ravel(), np.repeat(cell.quadruplet.values, len(ROLES))
    one = np.isin(groups, np.random.default_rng(seed).permutation(cell.quadruplet.values)[::2])
    lines = [_classified(PLAUSIBILITY, PLAUSIBILITY, estimator(), (rows, labels, groups))]
    lines += [
        _classified(f"{HALF} {i}", HALF, estimator(), (rows[half], labels[half], groups[half]))
        for i, half in enumerate((one, ~one))
    ]
    lines.append(_classified(MEANS, MEANS, DifferenceOfMeans(), (rows, labels, groups)))
    if tokens is not None:
        for kind, names, truth in content_of(train):
            lines += _regressed(kind, names, (tokens if kind == "position" else rows, truth, groups))
    lines += _random(lines[0], directions, seed)
    return Readouts(f"blocks.{int(cell.block)}.hook_resid_post", tuple(lines))


@torch.no_grad()
def last_tokens(lens: DiTLens, route: Route, train: Sequence[Quadruplet], step: int, block: int) -> Rows:
    """Tokens behind a block, all 0 but those of the last latent frame; a row to each role of each quadruplet."""
    point, found = f"blocks.{block}.hook_resid_post", list[np.ndarray]()
    for batch in batches(train, 8):
        (fed,) = evaluations(lens, batch, [step], route).values()
        _, cache = lens.model.run(fed, Request([point], stop_at=point))
        chosen = lens.model.grid(fed).mask(frame=-1)[:, None].to(cache[point].device)
        kept = (cache[point] * chosen).float().cpu().numpy()
        found.append(rearrange(kept, "(r q) n d -> (q r) n d", r=len(ROLES)))
    return np.concatenate(found)


def content_of(train: Sequence[Quadruplet]) -> Iterator[tuple[str, list[str], Float[np.ndarray, "i t"]]]:
    """Kind, names and truth of what clips show at their end, NaN where no object is; nothing where truth is unknown.

    The position of the first object, its colour (a number for each: 1 for its own), and that of the background.
    """
    clips = [clip for quadruplet in train for clip in quadruplet.clips]
    if not all(clip.tracks for clip in clips):
        return
    there = np.array([bool(clip.tracks[0].present[-1]) for clip in clips])[:, None]
    colour = np.array([str(clip.tracks[0].colour[-1]) for clip in clips])
    names = sorted(set(colour[there[:, 0]]))
    told: dict[str, tuple[list[str], np.ndarray]] = {
        "position": (["x", "y"], np.stack([clip.tracks[0].position[-1] for clip in clips])),
        "colour": (names, np.where(there, colour[:, None] == np.array(names), np.nan)),
        "background": (["r", "g", "b"], np.array([clip.factors["scene"]["background"] for clip in clips])),
    }
    for kind, (labels, truth) in told.items():
        varies = np.ptp(truth[np.isfinite(truth).all(1)], axis=0) > 1e-6
        if varies.any():
            yield kind, [f"{kind} {label}" for label, on in zip(labels, varies, strict=True) if on], truth[:, varies]


def _classified(name: str, kind: str, model: Any, known: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Line:
    """A line between possible and impossible clips, from rows, labels and groups."""
    rows, labels, groups = known
    flat = rows.reshape(len(rows), -1)
    told = cross_val_predict(model, flat, labels, groups=groups, cv=GroupKFold(FOLDS), method="decision_function")
    weight, bias = _affine(model.fit(flat, labels).decision_function, rows.shape[1:])
    logits = np.asarray(told)
    return Line(name, kind, weight[0], float(bias[0]), float(logits.std()), float(((logits > 0) == labels).mean()))


def _regressed(kind: str, names: Sequence[str], known: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[Line]:
    """A line to each number, by ridge regression whose strength is chosen out of fold, from rows, truth and groups."""
    finite = np.isfinite(known[1]).all(1)
    rows, truth, groups = (part[finite] for part in known)
    used = np.flatnonzero(rows.any((0, 2)))  # tokens that were kept
    flat = rows[:, used].reshape(len(rows), -1)
    told = Grid(STRENGTHS, FOLDS, model="ridge", progress=False).outputs({kind: flat}, truth, groups)[0]
    best = int(r_squared(truth, told).mean(-1).argmax())
    score, spread = r_squared(truth, told)[best], told[best].std(0)
    found, bias = _affine(ridge(STRENGTHS[best]).fit(flat, truth).predict, (len(used), rows.shape[2]))
    weight = np.zeros((len(found), *rows.shape[1:]))
    weight[:, used] = found
    return [
        Line(name, kind, weight[t], float(bias[t]), float(spread[t]), float(score[t])) for t, name in enumerate(names)
    ]


def _affine(predict: Any, shape: tuple[int, ...]) -> tuple[Float[np.ndarray, "t parts d"], Float[np.ndarray, " t"]]:
    """Weight and bias of an affine map, known by its values at 0 and at the unit vectors."""
    width = int(np.prod(shape))
    bias = np.asarray(predict(np.zeros((1, width)))).reshape(1, -1)
    return (np.asarray(predict(np.eye(width))).reshape(width, -1) - bias).T.reshape(-1, *shape), bias[0]


def _random(probe: Line, count: int, seed: int) -> list[Line]:
    """Directions of the probe's length, told in its unit."""
    drawn = np.random.default_rng(seed).standard_normal((count, *probe.weight.shape))
    drawn *= np.linalg.norm(probe.weight) / np.linalg.norm(drawn, axis=(1, 2), keepdims=True)
    return [Line(f"{RANDOM} {i}", RANDOM, weight, 0.0, probe.spread, np.nan) for i, weight in enumerate(drawn)]
