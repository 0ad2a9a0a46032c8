"""Probes: what activations decode, with the controls that say what a number means.

linear: one frozen probe as an affine torch map. grid: linear probes over cells, strengths and labellings, fast.
estimators: other probes in scikit-learn's manner. protocols: published training recipes. controls: nulls, control
tasks, properties left out and learning curves. transfer: train here, test there. scoring: what log odds tell of a
label. rotation, solvers: what the grid stands on.
"""

from __future__ import annotations

from dit_lens.probing.controls import (
    NullTest,
    learning_curve,
    leave_one_property_out,
    permutation_test,
    scene_labels,
)
from dit_lens.probing.estimators import AttentiveProbe, DifferenceOfMeans, mlp, ridge
from dit_lens.probing.grid import Grid, Nested, accuracy, r_squared
from dit_lens.probing.linear import (
    FOLDS,
    STRENGTH,
    Probe,
    Reads,
    check_labels,
    estimator,
    out_of_fold_logits,
)
from dit_lens.probing.protocols import PROTOCOLS, LinearSoftmax, Protocol
from dit_lens.probing.scoring import Scores, auroc, calibration_error, pairs_in_order, score
from dit_lens.probing.transfer import Carried, Labelled, carry, transfer

__all__ = [
    "FOLDS",
    "PROTOCOLS",
    "STRENGTH",
    "AttentiveProbe",
    "Carried",
    "DifferenceOfMeans",
    "Grid",
    "Labelled",
    "LinearSoftmax",
    "Nested",
    "NullTest",
    "Probe",
    "Protocol",
    "Reads",
    "Scores",
    "accuracy",
    "auroc",
    "calibration_error",
    "carry",
    "check_labels",
    "estimator",
    "learning_curve",
    "leave_one_property_out",
    "mlp",
    "out_of_fold_logits",
    "pairs_in_order",
    "permutation_test",
    "r_squared",
    "ridge",
    "scene_labels",
    "score",
    "transfer",
]
