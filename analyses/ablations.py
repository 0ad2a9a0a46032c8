"""What ablation analyses have in common: what is kept of a state, and scores that tell knowledge gone from moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from einops import reduce
from jaxtyping import Float
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens import stats
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.metrics import Readout
from dit_lens.probing import Probe, estimator

SCORES = ("fixed", "refitted", "colour")
POSSIBLE = np.array([True, True, False, False])
STRENGTHS = tuple(float(strength) for strength in np.logspace(0, 6, 7))


def by_property(split: Sequence[Quadruplet], batch_size: int) -> list[list[Quadruplet]]:
    """Batches of one property each, nearly equal in size: donors are found inside a batch."""
    batches: list[list[Quadruplet]] = []
    for prop in dict.fromkeys(q.property for q in split):
        own = [q for q in split if q.property == prop]
        parts = np.array_split(np.arange(len(own)), max(1, len(own) // max(2, batch_size)))
        batches += [[own[i] for i in part] for part in parts]
    return batches


def by_quadruplet(values: np.ndarray) -> np.ndarray:
    """Role-major rows as (quadruplet, role, ...)."""
    return values.reshape(len(ROLES), -1, *values.shape[1:]).swapaxes(0, 1)


def by_frame(probe: Probe) -> Readout:
    """The means by latent frame that a probe reads, (b, f d)."""
    frames, point = len(probe.weight), probe.reads.point
    return Readout(lambda velocity, cache: reduce(cache[point], "b (f n) d -> b (f d)", "mean", f=frames), (point,))


def logits(probe: Probe, states: Float[np.ndarray, "*rest d"]) -> Float[np.ndarray, "*rest"]:
    """What a frozen probe says of means by latent frame."""
    return states @ probe.weight.flatten().numpy() + probe.bias


def scores(
    probe: Probe,
    train: Float[np.ndarray, "q r d"],
    test: Float[np.ndarray, "p r d"],
    known: Sequence[Sequence[Quadruplet]],
) -> Float[np.ndarray, "score 2 p"]:
    """Per score, what was right and what could be, by test quadruplet; probes are refitted on `train`."""
    labels = np.tile(POSSIBLE, len(train))
    refitted = (
        estimator().fit(train.reshape(-1, train.shape[-1]), labels).decision_function(test.reshape(-1, test.shape[-1]))
    )
    rows = [right(logits(probe, test)), right(np.asarray(refitted).reshape(len(test), -1))]
    return np.stack([*rows, _colour(train, test, known)])


def right(told: Float[np.ndarray, "p r"]) -> Float[np.ndarray, "2 p"]:
    """How many of a quadruplet's clips a probe's logits tell right, of 1, and 1."""
    return np.stack([((told > 0) == POSSIBLE).mean(1), np.ones(len(told))])


def _colour(train: np.ndarray, test: np.ndarray, known: Sequence[Sequence[Quadruplet]]) -> Float[np.ndarray, "2 p"]:
    """How well the first object's colour in the last frame is decoded, where there is one."""
    named = [np.array([[clip.tracks[0].colour[-1] for clip in q.clips] for q in part]) for part in known]
    there = [np.array([[bool(clip.tracks[0].present[-1]) for clip in q.clips] for q in part]) for part in known]
    fitted = make_pipeline(StandardScaler(), RidgeClassifierCV(STRENGTHS)).fit(train[there[0]], named[0][there[0]])
    told = np.zeros(there[1].shape)
    told[there[1]] = fitted.predict(test[there[1]]) == named[1][there[1]]
    return np.stack([told.sum(1), there[1].sum(1)])


def loss(result: xr.Dataset) -> xr.DataArray:
    """What each score loses by an ablation: that of the whole model less that without it, (replacement, ...)."""
    sums = result.counts.sum("quadruplet", skipna=False)
    value = sums.sel(part="good") / sums.sel(part="of")
    return value.sel(replacement="none") - value.drop_sel(replacement="none")


def loss_interval(result: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The loss of one score by one ablation, the last replacement, with its 95% interval over quadruplets."""
    whole, without = (result.counts.sel(replacement=name).transpose("quadruplet", "part").values
                      for name in ("none", str(result.replacement.values[-1])))  # fmt: skip
    return stats.bootstrap_ratio(whole[:, 0] - without[:, 0], whole[:, 1])
