"""Probes: accuracy of decoding from activations, with the controls that a number must be compared with.

features: clips with features by cell, the input of everything else. probe_map: `fit`, from features to a table, a
map, a null and the chosen probe. linear: one frozen probe as an affine torch map. grid: linear probes over cells,
strengths and labellings, fast. estimators: other probes as scikit-learn estimators. protocols: published training
recipes. controls: nulls, control tasks, properties left out and learning curves. transfer: probes trained on some
clips, tested on others. scoring: scores of log odds against labels. checks, tables, affine, rotation, solvers: shared
parts.
"""

from __future__ import annotations

from dit_lens.probing.checks import check_labels
from dit_lens.probing.controls import (
    NullTest,
    learning_curve,
    leave_one_property_out,
    null_labels,
    permutation_test,
    scene_labels,
)
from dit_lens.probing.estimators import AttentiveProbe, DifferenceOfMeans, mlp, ridge
from dit_lens.probing.features import Features
from dit_lens.probing.grid import Grid, Nested, accuracy, r_squared
from dit_lens.probing.linear import (
    FOLDS,
    STRENGTH,
    Probe,
    Reads,
    estimator,
    out_of_fold_logits,
)
from dit_lens.probing.probe_map import ProbeMap, fit
from dit_lens.probing.protocols import PROTOCOLS, LinearSoftmax, Protocol
from dit_lens.probing.scoring import Scores, auroc, calibration_error, pairs_in_order, score
from dit_lens.probing.transfer import Carried, carry, transfer

__all__ = [
    "FOLDS",
    "PROTOCOLS",
    "STRENGTH",
    "AttentiveProbe",
    "Carried",
    "DifferenceOfMeans",
    "Features",
    "Grid",
    "LinearSoftmax",
    "Nested",
    "NullTest",
    "Probe",
    "ProbeMap",
    "Protocol",
    "Reads",
    "Scores",
    "accuracy",
    "auroc",
    "calibration_error",
    "carry",
    "check_labels",
    "estimator",
    "fit",
    "learning_curve",
    "leave_one_property_out",
    "mlp",
    "null_labels",
    "out_of_fold_logits",
    "pairs_in_order",
    "permutation_test",
    "r_squared",
    "ridge",
    "scene_labels",
    "score",
    "transfer",
]
