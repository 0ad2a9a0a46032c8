"""Readouts of patched streams, all in one sweep: the probe, second probes, content, and random directions."""

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
from dit_lens.capture import NoisePath, batches, by_scene, evaluations
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.patching import CONTENT, HALF, MEANS, PLAUSIBILITY, RANDOM
from dit_lens.metrics import Readout
from dit_lens.probing import FOLDS, DifferenceOfMeans, Grid, estimator, r_squared, ridge
from dit_lens.running import Request
from dit_lens.stats import best_of
from dit_lens.studies.readers import Reader

STRENGTHS = tuple(10.0**power for power in range(-6, 1))
POSITION, COLOUR, BACKGROUND = CONTENT
Rows = Float[np.ndarray, "i parts d"]


@dataclass(frozen=True, eq=False)
class LinearReadout:
    """One linear readout of a stream.

    Attributes:
        kind: what it reads, such as "position"; several readouts can be of one kind.
        weight: a direction for the mean over each latent frame, or for each token (parts = n), in units of the raw
            activation; products are summed.
        spread: standard deviation of out-of-fold outputs over the training clips: effects are given in this unit.
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
    """Linear readouts of one hook point, read by one metric.

    Attributes:
        point: what they read.
        lines: the readouts; the first is the probe for plausibility.
    """

    point: str
    lines: tuple[LinearReadout, ...]

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
        values = {"probe_spread": [line.spread for line in self.lines], "score": [line.score for line in self.lines]}
        coords = {
            "readout": [line.name for line in self.lines],
            "kind": ("readout", [line.kind for line in self.lines]),
        }
        return xr.Dataset({name: ("readout", column) for name, column in values.items()}, coords=coords)


def readouts(reader: Reader, scenes: Sequence[Scene], step: int, directions: int, seed: int) -> Readouts:
    """The readouts of a model at one step, fitted on training scenes; with content where the data have tracks.

    Args:
        scenes: the training scenes of the reader's features; empty to leave content out.
        directions: the number of random directions, as long as the probe's weight.
    """
    block, features = reader.blocks[step], reader.features
    rows = rearrange(features.cell(step, block), "i (f d) -> i f d", f=features.parts).astype(np.float64)
    labels, groups = features.labels, features.groups
    names = list(dict.fromkeys(groups))
    first = np.isin(groups, np.random.default_rng(seed).permutation(names)[::2])
    lines = [_classified(PLAUSIBILITY, PLAUSIBILITY, estimator(), (rows, labels, groups))]
    lines += [
        _classified(f"{HALF} {i}", HALF, estimator(), (rows[half], labels[half], groups[half]))
        for i, half in enumerate((first, ~first))
    ]
    lines.append(_classified(MEANS, MEANS, DifferenceOfMeans(), (rows, labels, groups)))
    content = list(contents(scenes))
    if content:
        tokens = last_tokens(reader.lens, reader.path, scenes, step, block)
        for kind, columns, truth in content:
            lines += _regressed(kind, columns, (tokens if kind == POSITION else rows, truth, groups))
    lines += _random(lines[0], directions, seed)
    return Readouts(f"blocks.{block}.hook_resid_post", tuple(lines))


@torch.no_grad()
def last_tokens(lens: DiTLens, path: NoisePath, scenes: Sequence[Scene], step: int, block: int) -> Rows:
    """Tokens after a block, all 0 but those of the last latent frame; a row for each clip, scene by scene."""
    point, rows = f"blocks.{block}.hook_resid_post", list[np.ndarray]()
    for batch in batches(scenes, 8):
        (evaluation,) = evaluations(lens, batch, [step], path).values()
        _, cache = lens.model.run(evaluation, Request([point], stop_at=point))
        chosen = lens.model.grid(evaluation).mask(frame=-1)[:, None].to(cache[point].device)
        rows.append((cache[point] * chosen).float().cpu().numpy()[by_scene(batch)])
    return np.concatenate(rows)


def contents(scenes: Sequence[Scene]) -> Iterator[tuple[str, list[str], Float[np.ndarray, "i t"]]]:
    """Kind, names and true values of what clips show at their end, NaN without an object; empty without tracks.

    The position of the first object, its colour (one-hot), and the colour of the background.
    """
    if not len(scenes) or not scenes[0].clips[0].tracks:
        return
    clips = [clip for scene in scenes for clip in scene.clips]
    if not all(clip.tracks and "scene" in clip.factors for clip in clips):
        return
    present = np.array([bool(clip.tracks[0].present[-1]) for clip in clips])[:, None]
    colour = np.array([str(clip.tracks[0].colour[-1]) for clip in clips])
    names = sorted(set(colour[present[:, 0]]))
    targets: dict[str, tuple[list[str], np.ndarray]] = {
        POSITION: (["x", "y"], np.stack([clip.tracks[0].position[-1] for clip in clips])),
        COLOUR: (names, np.where(present, colour[:, None] == np.array(names), np.nan)),
        BACKGROUND: (["r", "g", "b"], np.array([clip.factors["scene"]["background"] for clip in clips])),
    }
    for kind, (labels, truth) in targets.items():
        varies = np.ptp(truth[np.isfinite(truth).all(1)], axis=0) > 1e-6
        if varies.any():
            yield kind, [f"{kind} {label}" for label, on in zip(labels, varies, strict=True) if on], truth[:, varies]


def _classified(name: str, kind: str, model: Any, data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> LinearReadout:
    """A readout between possible and impossible clips, from rows, labels and groups."""
    rows, labels, groups = data
    flat, folds = rows.reshape(len(rows), -1), GroupKFold(min(FOLDS, len(np.unique(groups))))  # half the scenes are few
    logits = np.asarray(cross_val_predict(model, flat, labels, groups=groups, cv=folds, method="decision_function"))
    weight, bias = _affine(model.fit(flat, labels).decision_function, rows.shape[1:])
    accuracy = float(((logits > 0) == labels).mean())
    return LinearReadout(name, kind, weight[0], float(bias[0]), float(logits.std()), accuracy)


def _regressed(kind: str, names: Sequence[str], data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[LinearReadout]:
    """A readout of each number, by ridge regression whose strength is chosen out of fold; rows, truth and groups."""
    finite = np.isfinite(data[1]).all(1)
    rows, truth, groups = (part[finite] for part in data)
    used = np.flatnonzero(rows.any((0, 2)))  # tokens that were kept
    flat = rows[:, used].reshape(len(rows), -1)
    outputs = Grid(STRENGTHS, FOLDS, model="ridge", progress=False).outputs({kind: flat}, truth, groups)[0]
    best = best_of(r_squared(truth, outputs).mean(-1))[0]
    score, spread = r_squared(truth, outputs)[best], outputs[best].std(0)
    weights, bias = _affine(ridge(STRENGTHS[best]).fit(flat, truth).predict, (len(used), rows.shape[2]))
    weight = np.zeros((len(weights), *rows.shape[1:]))
    weight[:, used] = weights
    return [
        LinearReadout(name, kind, weight[t], float(bias[t]), float(spread[t]), float(score[t]))
        for t, name in enumerate(names)
    ]


def _affine(predict: Any, shape: tuple[int, ...]) -> tuple[Float[np.ndarray, "t parts d"], Float[np.ndarray, " t"]]:
    """Weight and bias of an affine map, known by its values at 0 and at the unit vectors."""
    width = int(np.prod(shape))
    bias = np.asarray(predict(np.zeros((1, width)))).reshape(1, -1)
    return (np.asarray(predict(np.eye(width))).reshape(width, -1) - bias).T.reshape(-1, *shape), bias[0]


def random_directions(weight: Float[Tensor, "*f d"], count: int, seed: int) -> dict[str, Float[Tensor, "*f d"]]:
    """Directions as long as a probe's weight, by name."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(weight.shape, generator=generator) for _ in range(count))
    return {f"{RANDOM} {i}": direction / direction.norm() * weight.norm() for i, direction in enumerate(drawn)}


def _random(probe: LinearReadout, count: int, seed: int) -> list[LinearReadout]:
    """Directions of the probe's length, in its unit."""
    drawn = np.random.default_rng(seed).standard_normal((count, *probe.weight.shape))
    drawn *= np.linalg.norm(probe.weight) / np.linalg.norm(drawn, axis=(1, 2), keepdims=True)
    return [LinearReadout(f"{RANDOM} {i}", RANDOM, weight, 0.0, probe.spread, np.nan) for i, weight in enumerate(drawn)]
