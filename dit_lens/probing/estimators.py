"""Further probes as scikit-learn estimators: difference of means, attention over tokens, a perceptron, ridge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from dit_lens.probing.checks import check_features, check_logits, check_rows, check_strengths

Penalty = Literal["weight_decay", "loss_term"]


def precise(features: np.ndarray) -> Float[np.ndarray, "i d"]:
    """Features in float64, where sums of float16 do not overflow.

    Raises:
        ValueError: see `check_features`.
    """
    check_features({"features": features})
    return features.astype(np.float64, copy=False)


def gate() -> FunctionTransformer:
    """The first step of every scikit-learn pipeline here: checked features in float64."""
    return FunctionTransformer(precise)


def ridge(strength: float = 0.02) -> Pipeline:
    """Standardised ridge regression for continuous state; `strength` is the inverse of the penalty, as in `estimator`.

    Fits (i, d) features to (i,) or (i, t) positions, velocities, angles; `Grid(model="ridge")` is the same over cells.
    """
    check_strengths((strength,))
    return make_pipeline(gate(), StandardScaler(), Ridge(alpha=1 / strength))


def mlp(width: int = 64, penalty: float = 1.0, seed: int = 0) -> Pipeline:
    """Standardised perceptron with one hidden layer: the accuracy of a non-linear probe of the same features."""
    hidden = MLPClassifier((width,), solver="lbfgs", alpha=penalty, max_iter=1000, random_state=seed)
    return make_pipeline(gate(), StandardScaler(), hidden)


def decide(fitted: Any, features: np.ndarray) -> Float[np.ndarray, " i"]:
    """Log odds of the second class by any fitted two-class estimator.

    Raises:
        ValueError: NaN among them.
    """
    if hasattr(fitted, "decision_function"):
        logits = np.asarray(fitted.decision_function(features))
    else:
        logged = np.log(np.clip(fitted.predict_proba(features), 1e-15, 1))
        logits = logged[:, 1] - logged[:, 0]
    check_logits(logits)
    return logits


class TwoClasses(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of two classes by the sign of `decision_function`."""

    classes_: np.ndarray

    @abstractmethod
    def decision_function(self, features: np.ndarray) -> np.ndarray:
        """Log odds of the second class, (i,)."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The class of each clip, (i,)."""
        return self.classes_[(self.decision_function(features) > 0).astype(int)]

    def _second(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether each label is the second class.

        Raises:
            ValueError: there are not two.
        """
        check_rows(clips=features, labels=labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) != 2:
            raise ValueError(f"got classes {self.classes_.tolist()} · expected two · pass clips of both classes")
        return np.asarray(labels) == self.classes_[1]


class DifferenceOfMeans(TwoClasses):
    """The direction between two class means, threshold halfway: no penalty, no hyperparameter (Marks & Tegmark 2023).

    Attributes:
        coef_: (d,) mean of the second class minus mean of the first.
    """

    coef_: np.ndarray
    intercept_: float

    def fit(self, features: Float[np.ndarray, "i d"], labels: np.ndarray) -> DifferenceOfMeans:
        """The direction of these clips, in float64."""
        features, second = precise(features), self._second(features, labels)
        means = features[~second].mean(0), features[second].mean(0)
        self.coef_ = means[1] - means[0]
        self.intercept_ = float(-(means[0] + means[1]) @ self.coef_ / 2)
        return self

    def decision_function(self, features: np.ndarray) -> np.ndarray:
        """Signed distance from the threshold, times the length of `coef_`; (i,)."""
        check_is_fitted(self)
        return precise(features) @ self.coef_ + self.intercept_


@dataclass(frozen=True)
class Descent:
    """How a torch probe is trained: Adam on the mean cross-entropy over shuffled batches.

    Attributes:
        l2: size of the penalty.
        l2_as: "weight_decay" is torch's Adam(weight_decay=l2): l2 * w joins the gradient, a loss of l2 |w|² / 2.
            "loss_term" adds l2 |w|² to the mean loss, twice as much. Neither is AdamW's decay, which is no loss.
            Biases are penalised too, as torch does by default.
    """

    epochs: int
    batch: int
    rate: float = 1e-3
    l2: float = 0.0
    l2_as: Penalty = "weight_decay"

    def __call__(self, module: nn.Module, features: Tensor, labels: Tensor, seed: int) -> nn.Module:
        """Trains `module` (b, ...) -> (b, 2) in place."""
        decay = self.l2 if self.l2_as == "weight_decay" else 2 * self.l2
        optimiser = torch.optim.Adam(module.parameters(), lr=self.rate, weight_decay=decay)
        for batch in self._batches(len(features), torch.Generator().manual_seed(seed)):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(features[batch]), labels[batch]).backward()
            optimiser.step()
        return module.eval()

    def _batches(self, clips: int, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(self.epochs):
            yield from torch.randperm(clips, generator=generator).split(self.batch)


class TorchClassifier(TwoClasses):
    """A torch module (b, ...) -> (b, 2) as an estimator; a subclass makes the module."""

    axes: tuple[str, ...] = ("clips", "features")
    module_: nn.Module
    descent: Descent
    seed: int

    @abstractmethod
    def build(self, features: Tensor) -> nn.Module:
        """The module to train on these clips."""

    def fit(self, features: np.ndarray, labels: np.ndarray) -> Any:
        """Trains a new module; the same seed gives the same one."""
        clips = self._single(features)
        second = torch.from_numpy(self._second(features, labels)).long()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.module_ = self.build(clips)
        self.descent(self.module_, clips, second, self.seed)
        return self

    @torch.no_grad()
    def decision_function(self, features: np.ndarray) -> np.ndarray:
        """Difference of the two outputs, (i,)."""
        check_is_fitted(self)
        first, second = self.module_(self._single(features)).unbind(-1)
        return (second - first).double().numpy()

    def _single(self, features: np.ndarray) -> Tensor:
        """Features in float32.

        Raises:
            ValueError: see `check_features`.
        """
        check_features({"features": features}, axes=self.axes)
        return torch.as_tensor(features, dtype=torch.float32)


class AttentiveProbe(TorchClassifier):
    """Learned queries weigh tokens before a linear read-out: finds information in a few tokens of many.

    Fits (n, tokens, d) features. The attentive probe of Bardes et al. 2024 without its MLP: the read-out stays linear
    in the tokens that are attended to.
    """

    axes = ("clips", "tokens", "features")

    def __init__(self, queries: int = 1, descent: Descent = Descent(200, 64, 1e-2, 1e-3), seed: int = 0):
        self.queries = queries
        self.descent = descent
        self.seed = seed

    def build(self, features: Tensor) -> nn.Module:
        """A pooling that begins near the mean over tokens."""
        return AttentivePooling(features, self.queries)

    def attention(self, features: Float[np.ndarray, "i n d"]) -> Float[np.ndarray, "i q n"]:
        """Attention weight of each query on each token."""
        check_is_fitted(self)
        pooling: Any = self.module_
        with torch.no_grad():
            return pooling.attention(pooling.standard(self._single(features))).numpy()


class AttentivePooling(nn.Module):
    """Standardised tokens (b, n, d) -> attention by learned queries -> two outputs (b, 2)."""

    mean: Tensor
    spread: Tensor

    def __init__(self, features: Float[Tensor, "i n d"], queries: int):
        super().__init__()
        width = features.shape[-1]
        self.register_buffer("mean", features.mean((0, 1)))
        self.register_buffer("spread", features.std((0, 1)).clamp_min(1e-6))
        self.query = nn.Parameter(0.1 * torch.randn(queries, width) / width**0.5)
        self.readout = nn.Linear(queries * width, 2)

    def standard(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens in units of the training clips."""
        return (tokens - self.mean) / self.spread

    def attention(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b q n"]:
        """Softmax over tokens of each query's match."""
        return einsum(self.query, tokens, "q d, b n d -> b q n").softmax(-1)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b 2"]:
        """Two outputs for each clip."""
        tokens = self.standard(features)
        return self.readout(einsum(self.attention(tokens), tokens, "b q n, b n d -> b q d").flatten(1))
