"""Three published protocols of the same probe, as their descriptions can be read, to be run side by side.

They differ in penalty, split and selection, and two of them choose the best block on the clips they report:
`Outcome.reported` is inflated there by as much as the largest of many noisy cells.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from dit_lens.probing.checks import check_features, check_labels, check_rows
from dit_lens.probing.estimators import Descent, TorchClassifier
from dit_lens.stats import best_of


class LinearSoftmax(TorchClassifier):
    """nn.Linear(d, 2) on raw features (i, d), trained by Adam: the probe of all three protocols.

    At its optimum under `Descent(l2=λ, l2_as="weight_decay")` it is L2 logistic regression with scikit-learn's
    C = 2 / (λ n): the two rows share the weight, which halves its penalty.
    """

    def __init__(self, descent: Descent = Descent(50, 32), seed: int = 0):  # noqa: B008
        self.descent = descent
        self.seed = seed

    def build(self, features: Tensor) -> nn.Module:
        """One linear layer."""
        return nn.Linear(features.shape[-1], 2)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a protocol reports.

    Attributes:
        cells: keys, in the order of the arrays.
        validation, test: accuracy of each cell on the clips that choose and on those that are reported.
        clips: (j,) indices of the reported clips; logits: (cell, j) on them.
    """

    cells: tuple[Hashable, ...]
    validation: Float[np.ndarray, " cell"]
    test: Float[np.ndarray, " cell"]
    clips: Int[np.ndarray, " j"]
    logits: Float[np.ndarray, "cell j"]

    @property
    def best(self) -> Hashable:
        """The cell that validation chooses; the first of equals."""
        return self.cells[best_of(self.validation)[0]]

    @property
    def reported(self) -> float:
        """Test accuracy of the chosen cell."""
        return float(self.test[best_of(self.validation)])


@dataclass(frozen=True)
class Protocol:
    """A recipe: training, and shares of scenes for training, validation and test.

    Attributes:
        shares: two of them where the clips that choose the cell are those reported. All splits go by scene; the paper
            does not say that its own does.
    """

    descent: Descent
    shares: tuple[float, ...]

    def split(self, groups: np.ndarray, seed: int) -> list[np.ndarray]:
        """Indices of training, validation and test clips; the last two are one where `shares` has two.

        Raises:
            ValueError: a part would be without a scene.
        """
        scenes = np.random.default_rng(seed).permutation(np.unique(groups))
        cuts = np.round(np.cumsum(self.shares)[:-1] * len(scenes)).astype(int)
        parts = [np.flatnonzero(np.isin(groups, part)) for part in np.split(scenes, cuts)]
        if not all(len(part) for part in parts):
            raise ValueError(f"got {len(scenes)} scenes · expected some for each of {self.shares} · pass more scenes")
        return parts if len(parts) == 3 else [*parts, parts[-1]]

    def run(
        self, cells: Mapping[Hashable, np.ndarray], possible: np.ndarray, groups: np.ndarray, seed: int = 0
    ) -> Outcome:
        """One probe for each cell, (i, d) features, on one split.

        Raises:
            ValueError: see `check_labels`; non-finite features; too few scenes to split.
        """
        check_features(cells)
        check_rows(clips=next(iter(cells.values())), labels=possible, groups=groups)
        possible = check_labels(possible)
        train, validation, test = self.split(groups, seed)
        probes = [LinearSoftmax(self.descent, seed).fit(x[train], possible[train]) for x in cells.values()]
        fitted = list(zip(probes, cells.values(), strict=True))
        chosen = np.array([(probe.predict(x[validation]) == possible[validation]).mean() for probe, x in fitted])
        logits = np.stack([probe.decision_function(x[test]) for probe, x in fitted])
        reported = ((logits > 0) == possible[test]).mean(1)
        return Outcome(tuple(cells), chosen, reported, test, logits)


PROTOCOLS: dict[str, Protocol] = {
    # The paper says "L2 .01" and no more. It is read as Adam's weight decay, what torch users mean most often;
    # replace(descent, l2_as="loss_term") is the other reading, and penalises twice as much.
    "paper-v1": Protocol(Descent(epochs=50, batch=64, l2=0.01, l2_as="weight_decay"), (0.8, 0.1, 0.1)),
    "released-code": Protocol(Descent(epochs=50, batch=32), (0.8, 0.2)),
    # The website gives the split (and five seeds) alone; the training is that of the released code.
    "website": Protocol(Descent(epochs=50, batch=32), (0.6, 0.4)),
}
