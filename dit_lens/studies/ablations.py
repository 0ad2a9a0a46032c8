"""Parts of all ablation studies: batches with donors, probe inputs, and scores after an ablation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens import edits
from dit_lens.capture import clips_of
from dit_lens.clips import Scene
from dit_lens.datasets.scenes import Scenes
from dit_lens.lens import DiTLens
from dit_lens.measures.ablation import COLOUR, FIXED, REFITTED
from dit_lens.measures.labels import signs
from dit_lens.metrics import Readout
from dit_lens.probing import STRENGTH, Probe
from dit_lens.probing.affine import Affine

STRENGTHS = tuple(float(strength) for strength in np.logspace(0, 6, 7))
Colours = np.ndarray  # (scene, role) names of the first object's colour in the last frame; "" where there is no object


def check_points(lens: DiTLens, names: Sequence[str]) -> None:
    """Checks that a model has some hook points, before anything is captured.

    Raises:
        KeyError: a hook point is missing; says why.
    """
    for name in names:
        lens.table.select(name, lens.name)


# Batches.


def by_property(scenes: Scenes, batch_size: int) -> list[Scenes]:
    """Batches of one property each, nearly equal in size, of two groups or more, so that every clip has a donor.

    Worked example: 7 scenes of gravity and 4 of inertia, in batches of 3, give 4 + 3 and 4 scenes.
    """
    batches: list[Scenes] = []
    groups, laws = scenes.groups, scenes.properties
    for law in dict.fromkeys(laws):
        rows = [i for i, scene_law in enumerate(laws) if scene_law == law]
        names_of_groups = list(dict.fromkeys(groups[i] for i in rows))
        together = max(2, batch_size * len(names_of_groups) // len(rows))
        for part in np.array_split(np.arange(len(names_of_groups)), max(1, len(names_of_groups) // together)):
            chosen = {names_of_groups[i] for i in part}
            batches.append(scenes.at([i for i in rows if groups[i] in chosen]))
    return batches


def check_donors(scenes: Scenes) -> None:
    """Checks that every scene has another scene of its property to take activations from.

    Raises:
        ValueError: a property of which there is a single independent scene.
    """
    for law in dict.fromkeys(scenes.properties):
        groups = {group for group, scene_law in zip(scenes.groups, scenes.properties, strict=True) if scene_law == law}
        if len(groups) < 2:
            raise ValueError(
                f"got a single scene of {law} among {len(scenes)} · expected at least two of each property, because a"
                " write is resampled from another scene · use more scenes (--train, --test), or leave the property out"
                " (--properties)"
            )


def donors_of(batch: Sequence[Scene], seed: int) -> Int[torch.Tensor, " b"]:
    """The donor of each clip of a batch (see `clips_of`): a clip of another group and the same property."""
    owner = {clip.id: scene for scene in batch for clip in scene.clips}
    of_clip = [owner[clip.id] for clip in clips_of(batch)]
    return edits.donors([scene.group for scene in of_clip], [scene.property for scene in of_clip], seed)


def scene_first(values: np.ndarray, batch: Sequence[Scene]) -> np.ndarray:
    """Rows that lie role by role as (scene, role, ...)."""
    return values.reshape(len(batch[0].roles), len(batch), *values.shape[1:]).swapaxes(0, 1)


# Probe inputs.


def by_frame(probe: Probe) -> Readout:
    """The means by latent frame that a probe reads, (b, f d), in float32."""
    frames, point = len(torch.atleast_2d(probe.weight)), probe.reads.point
    return Readout(
        lambda velocity, cache: reduce(cache[point].float(), "b (f n) d -> b (f d)", "mean", f=frames), (point,)
    )


def logits(probe: Probe, states: Float[np.ndarray, "*rest d"]) -> Float[np.ndarray, "*rest"]:
    """Logits of a frozen probe on means by latent frame."""
    return states @ probe.weight.flatten().cpu().numpy() + probe.bias


def colours_of(scenes: Sequence[Scene]) -> Colours | None:
    """The colour of each clip's first object in the last frame; None for data without tracks."""
    clips = [clip for scene in scenes for clip in scene.clips]
    if not all(clip.tracks for clip in clips):
        return None
    names = [str(clip.tracks[0].colour[-1]) if clip.tracks[0].present[-1] else "" for clip in clips]
    return np.array(names).reshape(len(scenes), -1)


# Scores.


def scores_there(colours: Sequence[Colours | None]) -> list[str]:
    """The scores that the data allow: "colour" needs true colours of training and test clips, and two of them."""
    available = [names for names in colours if names is not None]
    several = len(available) == len(colours) and len({*np.ravel(available[0])} - {""}) > 1
    return [FIXED, REFITTED, COLOUR] if several else [FIXED, REFITTED]


def scores(
    probe: Probe,
    train: Float[np.ndarray, "i role d"],
    test: Float[np.ndarray, "j role d"],
    roles: Sequence[str],
    colours: Sequence[Colours | None] = (None, None),
) -> Float[np.ndarray, "score 2 j"]:
    """The number correct and the total of each score (see `scores_there`), by test scene; probes refitted on `train`.

    Args:
        colours: of the training and the test scenes.
    """
    possible = possible_of(roles)
    refitted = Affine.fit(train.reshape(-1, train.shape[-1]), np.tile(possible, len(train)), STRENGTH)
    values = [logits(probe, test), refitted(test.reshape(-1, test.shape[-1])).reshape(len(test), -1)]
    rows = [right(outputs, roles) for outputs in values]
    if COLOUR in scores_there(colours):
        rows.append(_colour((train, np.asarray(colours[0])), (test, np.asarray(colours[1]))))
    return np.stack(rows)


def possible_of(roles: Sequence[str]) -> Bool[np.ndarray, " role"]:
    """Whether each role is a possible clip."""
    return signs(roles).values > 0


def right(values: Float[np.ndarray, "j role"], roles: Sequence[str]) -> Float[np.ndarray, "2 j"]:
    """Fraction of a scene's clips that a probe classifies correctly (NaN where a logit is NaN), and its weight (1)."""
    correct = np.where(np.isnan(values), np.nan, (values > 0) == possible_of(roles))
    return np.stack([correct.mean(1), np.ones(len(values))])


def _colour(train: tuple[np.ndarray, Colours], test: tuple[np.ndarray, Colours]) -> Float[np.ndarray, "2 j"]:
    """The number of objects whose colour a refitted probe decodes, and the number of objects, by test scene."""
    (x, names), (y, truth) = train, test
    fitted = make_pipeline(StandardScaler(), RidgeClassifierCV(STRENGTHS)).fit(x[names != ""], names[names != ""])
    present, decoded = truth != "", np.zeros(truth.shape)
    if present.any():
        decoded[present] = fitted.predict(y[present]) == truth[present]
    return np.stack([decoded.sum(1), present.sum(1)])
