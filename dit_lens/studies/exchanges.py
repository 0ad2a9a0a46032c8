"""Parts of all patching studies: the pairs of a scene, and the effects of a kind of patch in all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from dit_lens.axes import Region
from dit_lens.capture import alike, batches, begins_alike, differing, encode, evaluations, given_frames, of_role
from dit_lens.clips import Scene
from dit_lens.datasets.scenes import Scenes
from dit_lens.datasets.spec import CROSSED
from dit_lens.lens import DiTLens
from dit_lens.metrics import Metric, VelocityProjection
from dit_lens.running import Evaluation
from dit_lens.studies import outcome
from dit_lens.studies.options import Options
from dit_lens.studies.readers import Reader, readers
from dit_lens.studies.readouts import Readouts, readouts
from dit_lens.studies.study import PatchStudy

# Clean role, corrupted role. Sign +1: possible into impossible; -1: back; 0: a control.
PAIRS = {
    "A→C": +1, "B→D": +1, "A→D": +1, "B→C": +1,
    "C→A": -1, "D→B": -1, "D→A": -1, "C→B": -1,
    "A→B": 0, "B→A": 0, "A→A": 0,
}  # fmt: skip
PARTNER = {"C": "A", "D": "B"}
EVERYWHERE = slice(None)
Metrics = Mapping[str, Metric]


@dataclass(frozen=True, eq=False)
class Exchange:
    """Two runs of as many clips, one to be patched into the other.

    Attributes:
        clean, corrupted: evaluations by step.
        regions: latent frames by name: "all", those that the two clips "share", and those in which they "differ".
    """

    clean: Mapping[int, Evaluation]
    corrupted: Mapping[int, Evaluation]
    regions: Mapping[str, Region]


Runs = Mapping[int, Evaluation]  # by step
Measure = Callable[[Runs, Runs], xr.Dataset]  # of the clean and the corrupted runs
Patch = Callable[[DiTLens, Exchange, Sequence[int], Metrics], xr.Dataset]


def pairs_of(roles: Sequence[str], crossed: bool) -> dict[str, int]:
    """The pairs that scenes of these roles have, with their signs.

    Crossed scenes have all eight pairs with a sign; other scenes of four clips those of partners, which are compared;
    single pairs theirs.
    """
    available = {pair: sign for pair, sign in PAIRS.items() if pair[0] in roles and pair[-1] in roles}
    if crossed:
        return available
    return {pair: sign for pair, sign in available.items() if not sign or _partners(pair)}


def partners_of(roles: Sequence[str], crossed: bool) -> list[list[int]]:
    """For each clip of a scene its partner in a possible/impossible pair; one list for each pair that a clip is in.

    Worked example: of crossed scenes C, D, A, B (which share the first frames) and D, C, B, A (which share the last)
    for A, B, C, D; of single pairs C, A for A, C.
    """
    pairs = [pair.split("→") for pair, sign in pairs_of(roles, crossed).items() if sign]
    clean = {role: [source for source, target in pairs if target == role] for role in roles}
    return [[list(roles).index(name) for name in column] for column in zip(*clean.values(), strict=True)]


def _partners(pair: str) -> bool:
    return PARTNER.get(pair[0]) == pair[-1] or PARTNER.get(pair[-1]) == pair[0]


def measure(study: PatchStudy, patch: Patch) -> xr.Dataset:
    """Effects of a kind of patch in all models, along a dimension `model`, on all readouts (see `readouts`).

    Every model is read after the blocks that the first model chose (`readout_block`).

    Raises:
        ValueError: too few scenes to fit or to test on.
    """
    train, test = study.scenes("train"), study.scenes("test")
    parts: dict[str, xr.Dataset] = {}
    blocks: Mapping[int, int] = {}
    for reader in readers(study):
        lines = {step: readouts(reader, train, step, study.directions, study.seed) for step in reader.steps}
        facts = xr.concat([lines_of_step.facts() for lines_of_step in lines.values()], "step").assign_coords(
            step=list(lines)
        )
        effects = patch_scenes(reader, study, test, lines, patch)
        parts[reader.lens.name] = effects.assign(facts).assign(train_accuracy=reader.accuracy)
        blocks, lens = (reader.blocks, reader.lens) if len(parts) == 1 else (blocks, lens)
    result = outcome.by_model(parts).assign(readout_block=("step", list(blocks.values())))
    return outcome.finished(outcome.with_scenes(result, study), study, lens)


def patch_scenes(
    reader: Reader, study: PatchStudy, test: Sequence[Scene], lines: Mapping[int, Readouts], patch: Patch
) -> xr.Dataset:
    """Effects (scene, pair, step, ..., readout) of all pairs of the test scenes, and the facts of `about`."""
    lens, parts = reader.lens, list[xr.Dataset]()
    signs = pairs_of(test[0].roles, CROSSED in study.spec.gives)
    latents = encode(lens.encode, [test[0]]).shape[2]
    for batch in alike(test, study.batch_size, latents, f"{lens.name}, patching"):
        inputs = evaluations(lens, batch, reader.steps, reader.path)
        effects: list[xr.Dataset] = []
        for pair in signs:
            clean, corrupted = (
                {step: of_role(evaluation, role, batch[0].roles) for step, evaluation in inputs.items()}
                for role in pair.split("→")
            )
            exchange = Exchange(clean, corrupted, regions(pair, batch[0], latents))
            steps = [
                patch(
                    lens, exchange, [step], {"logit": step_readouts.metric, "velocity": VelocityProjection()}
                ).drop_vars(["donor", "clip"])
                for step, step_readouts in lines.items()
            ]
            effects.append(xr.concat(steps, "step"))
        table = xr.concat(effects, "pair").assign_coords(pair=list(signs)).rename(clip="scene", feature="readout")
        parts.append(table.assign(about(batch, latents)).assign_coords(scene=[scene.id for scene in batch]))
    return xr.concat(parts, "scene").assign_coords(sign=("pair", list(signs.values())))


def over_pairs(reader: Reader, study: Options, scenes: Scenes, measure: Measure, what: str) -> xr.Dataset:
    """Effects on the probe's logit (scene, pair, ...) of all pairs of scenes at the one step of a reader.

    Pairs have their `sign`, of content alone only a clip with itself; scenes their property and group.

    Args:
        measure: (clean, corrupted) -> effects, as `patch_heads` returns them; each variable gets the suffix `_logit`.
        what: is measured, for the progress bar.
    """
    lens, (step,), parts = reader.lens, reader.steps, list[xr.Dataset]()
    all_signs = pairs_of(scenes.roles or (), CROSSED in study.spec.gives)
    signs = {pair: sign for pair, sign in all_signs.items() if sign or pair[0] == pair[-1]}
    for batch in batches(scenes, study.batch_size, f"{lens.name}, {what}"):
        evaluation = evaluations(lens, batch, [step], reader.path)[step]
        tables = [
            measure(*({step: of_role(evaluation, role, batch[0].roles)} for role in pair.split("→"))) for pair in signs
        ]
        table = xr.concat([effects.drop_vars(["donor", "clip"], errors="ignore") for effects in tables], "pair")
        parts.append(table.rename(clip="scene").assign_coords(_scene_coords(batch)))
    combined = xr.concat(parts, "scene").squeeze("step", drop=True)
    combined = combined.rename({name: f"{name}_logit" for name in combined.data_vars})
    combined = combined.assign_coords(pair=list(signs), sign=("pair", list(signs.values())))
    return combined.assign(probe_spread=reader.probe.spread)


def regions(pair: str, scene: Scene, latents: int) -> dict[str, Region]:
    """Latent frames of a pair by name: "all", "shared" and "differs"; A and B share none, a clip all with itself.

    Where noise is spliced with the frames, the shared ones have equal inputs: an effect of patching them arrived by
    attention from other frames. Patching the differing frames early merely restores the input.

    Worked example (5 latent frames, a break at the fourth): A→C shares frames 0, 1, 2 and differs in 3, 4; A→D, whose
    first frames are B's, the other way around.
    """
    if pair[0] == pair[-1]:
        differs = np.zeros(latents, dtype=bool)
    elif not {*pair} & PARTNER.keys():
        differs = np.ones(latents, dtype=bool)
    else:
        impossible = next(role for role in pair if role in PARTNER)
        differs = differing(scene, "CD".index(impossible), latents)
        differs = differs if _partners(pair) else ~differs
    frames = {"all": EVERYWHERE, "shared": _part(~differs), "differs": _part(differs)}
    return {name: (part, EVERYWHERE, EVERYWHERE) for name, part in frames.items()}


def _part(mask: np.ndarray) -> slice | list[int]:
    """Frames as an index: a slice where they are consecutive, and else a list."""
    places = np.flatnonzero(mask)
    if not len(places):
        return slice(0, 0)
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if len(places) == last + 1 - first else places.tolist()


def about(scenes: Sequence[Scene], latents: int) -> xr.Dataset:
    """Facts of scenes: `crossed`, `given` (latent frames before the break; 0 without one) and `hidden`.

    `hidden` (scene, frame) says in which latent frames the first object is hidden in some clip; absent where the
    clips have no tracks.
    """
    counts = [min(given_frames(scene, latents)) if begins_alike(scene, latents) else 0 for scene in scenes]
    variables = {"given": ("scene", counts), "crossed": ("scene", [scene.crossed for scene in scenes])}
    if not all(clip.tracks for scene in scenes for clip in scene.clips):
        return xr.Dataset(variables)
    hidden = np.array([np.any([clip.tracks[0].hidden for clip in scene.clips], axis=0) for scene in scenes])
    later = hidden[:, 1:].reshape(len(hidden), latents - 1, -1).any(-1)  # the first latent frame holds a single one
    return xr.Dataset(variables | {"hidden": (("scene", "frame"), np.column_stack([hidden[:, 0], later]))})


def _scene_coords(batch: Sequence[Scene]) -> dict[str, tuple[str, list[str]]]:
    """Scene, property and group as coordinates, by which scenes are divided in halves."""
    columns = {"scene": "id", "property": "property", "group": "group"}
    return {name: ("scene", [str(getattr(scene, key)) for scene in batch]) for name, key in columns.items()}
