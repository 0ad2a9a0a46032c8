"""Linear probes: a scikit-learn estimator to fit, one affine torch map to use."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Num
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dit_lens.cache.split import per_token
from dit_lens.metrics import Readout
from dit_lens.probing.checks import (
    check_classes,
    check_features,
    check_groups,
    check_labels,
    check_rows,
    check_strengths,
)
from dit_lens.probing.estimators import gate

STRENGTH = 0.02
FOLDS = 5


def estimator(strength: float = STRENGTH) -> Pipeline:
    """Standardised L2 logistic regression; `strength` is scikit-learn's C, the inverse of the penalty."""
    check_strengths((strength,))
    return make_pipeline(gate(), StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def out_of_fold_logits(
    features: Num[np.ndarray, "i d"],
    possible: np.ndarray,
    groups: np.ndarray,
    folds: int = FOLDS,
    strength: float = STRENGTH,
) -> Float[np.ndarray, " i"]:
    """Each clip's logit by a probe fitted on other groups only, in float64.

    Raises:
        ValueError: see `check_labels`; non-finite features; fewer groups than folds; a fold with one class.
    """
    labels = _checked("features", features, possible, groups)
    check_groups(groups, folds)
    cv = list(GroupKFold(folds).split(features, groups=groups))
    for train, _ in cv:
        check_classes(labels[train])
    return np.asarray(cross_val_predict(estimator(strength), features, labels, cv=cv, method="decision_function"))


def _checked(
    cell: str, features: Num[np.ndarray, "i d"], possible: np.ndarray, groups: np.ndarray
) -> Bool[np.ndarray, " i"]:
    """The labels as booleans.

    Raises:
        ValueError: features, labels or groups that cannot be fitted.
    """
    check_features({cell: features})
    check_rows(clips=features, labels=possible, groups=groups)
    return check_labels(possible)


@dataclass(frozen=True)
class Reads:
    """What a probe reads: a hook point, the step and noise level it was fitted at, and the model."""

    point: str
    step: int
    sigma: float
    model: str


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted, frozen linear probe: logit = mean over tokens of the activation . weight + bias.

    Attributes:
        weight: (d,) in the units of the raw activation (the scaler is folded in); or (f, d), a direction for the mean
            over each latent frame, whose products are summed.
        spread: standard deviation of out-of-fold logits over the training clips; effects are reported in this unit.
    """

    weight: Float[Tensor, "*f d"]
    bias: float
    spread: float
    reads: Reads

    @classmethod
    def fit(
        cls,
        features: Num[np.ndarray, "i d"],
        possible: np.ndarray,
        groups: np.ndarray,
        reads: Reads,
        frames: int | None = None,
        folds: int = FOLDS,
        strength: float = STRENGTH,
    ) -> Probe:
        """Fits on token means of `reads.point`; a positive logit says possible.

        Args:
            frames: features are the means over each of so many latent frames, side by side.
            folds: grouped folds for `spread`.
            strength: see `estimator`.

        Raises:
            ValueError: see `check_labels`; non-finite features.
        """
        labels = _checked(reads.point, features, possible, groups)
        fitted = estimator(strength).fit(features, labels)
        scaler: Any = fitted[-2]
        logistic: Any = fitted[-1]
        weight = logistic.coef_[0] / scaler.scale_
        bias = float(logistic.intercept_[0] - scaler.mean_ @ weight)
        spread = float(out_of_fold_logits(features, labels, groups, folds, strength).std())
        directions = weight if frames is None else rearrange(weight, "(f d) -> f d", f=frames)
        return cls(torch.from_numpy(directions).float(), bias, spread, reads)

    @property
    def logit(self) -> Readout:
        """The metric (velocity, cache) -> (b,), differentiable."""
        point = self.reads.point
        return Readout(lambda velocity, cache: self.of_activation(cache[point]), (point,))

    def of_activation(self, activation: Float[Tensor, "b n d"]) -> Float[Tensor, " b"]:
        """Logits of raw activations, in float32 or better."""
        precise = activation.to(torch.promote_types(activation.dtype, torch.float32))
        return torch.linalg.vecdot(precise, per_token(self.weight, precise)).sum(-1) + self.bias

    def save(self, folder: Path) -> None:
        """Writes probe.safetensors and probe.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"weight": self.weight, "bias": torch.tensor(self.bias, dtype=torch.float64)}, folder / "probe.safetensors"
        )
        (folder / "probe.json").write_text(json.dumps(asdict(self.reads) | {"spread": self.spread}, indent=1))

    @classmethod
    def open(cls, folder: Path) -> Probe:
        """The probe that `save` wrote.

        Raises:
            FileNotFoundError: there is none.
        """
        tensors = load_file(folder / "probe.safetensors")
        facts = json.loads((folder / "probe.json").read_text())
        spread = facts.pop("spread")
        return cls(tensors["weight"], float(tensors["bias"]), spread, Reads(**facts))
