"""Scores of linear probes on the layers of one encoder: as published protocols report them, nested, and on other data.

Of "nested" scores each clip gets its logit from a probe whose cell and penalty were chosen inside the other folds;
groups are never split.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import xarray as xr

from dit_lens.datasets.scenes import Scenes
from dit_lens.measures.reproduce_invisible_hand import NESTED
from dit_lens.probing import PROTOCOLS, Features, Grid, Scores, carry, pairs_in_order, score

GRID = Grid((1e-3, 1e-2, 1e-1), progress=False)


def check_enough(name: str, scenes: Scenes, protocols: Sequence[str]) -> None:
    """Checks that every protocol can divide the scenes of a data set, and that both labels occur.

    Raises:
        ValueError: names the data set.
    """
    groups, labels = np.array(scenes.groups), {label for outline in scenes.outlines for label in outline.labels}
    if not {True, False} <= labels:
        raise ValueError(
            f"got {name}, whose clips all have one label · expected possible and impossible clips · use another split"
        )
    try:
        GRID.split(groups)
        for protocol in protocols:
            PROTOCOLS[protocol].split(groups, 0)
    except ValueError as error:
        raise ValueError(f"{error} · data set {name}") from error


def by_protocol(clips: Features, protocols: Sequence[str], seeds: Sequence[int]) -> xr.Dataset:
    """What protocols report: accuracy and pairs in order (protocol, split_seed), and the number of clips (protocol)."""
    shape = (len(protocols), len(seeds))
    reported, pairwise = np.empty(shape), np.empty(shape)
    reported_clips = np.empty(len(protocols), int)
    for (i, protocol), (j, seed) in product(enumerate(protocols), enumerate(seeds)):
        result = PROTOCOLS[protocol].run(clips.cells, clips.labels, clips.groups, seed)
        logits = result.logits[result.cells.index(result.best)]
        reported[i, j], reported_clips[i] = result.reported, len(result.clips)
        pairwise[i, j] = pairs_in_order(logits, clips.labels[result.clips], clips.scenes[result.clips])
    variables = {
        "reported": (("protocol", "split_seed"), reported),
        "reported_pairwise": (("protocol", "split_seed"), pairwise),
        "reported_clips": (("protocol",), reported_clips),
    }
    return xr.Dataset(variables, {"protocol": list(protocols), "split_seed": list(seeds)})


def nested(clips: Features) -> dict[str, float]:
    """Scores (`NESTED`) by probes whose cell and penalty are chosen inside the other folds."""
    return _scores(clips, GRID.nested(clips.cells, clips.labels, clips.groups).outputs)


def on_other_data(train: Features, test: Features) -> dict[str, float]:
    """Scores (`NESTED`) on one data set by a probe chosen and fitted on another."""
    return _scores(test, carry(train, test, GRID).logits)


def _scores(clips: Features, logits: np.ndarray) -> dict[str, float]:
    scores: Scores = score(logits, clips.labels, clips.groups, clips.scenes, clips.crossed_roles)
    return {name: float(getattr(scores, name)) for name in NESTED}
