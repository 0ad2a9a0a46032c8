"""Which heads, MLPs and blocks write what the probe reads?

What: the part of the logit's label effect (possible minus impossible clips) that each component writes:
attribute_writes-*.nc with attributions (model, direction, scene, role, block, component).
Why: it is the exact answer to "who writes it": nothing is patched or approximated, so no effect can come from states
outside the model's distribution.
How: the stream is the sum of all earlier writes, so the logit of a frozen linear probe is exactly the sum of what the
embedding, each head (of self- and cross-attention) and each MLP add to it (`cache.attribute_to`).
Controls: in crossed scenes the embedding's label effect is 0; random directions of the probe's length; control models;
components are ranked on half of the test scenes, reported on the other, with a p-value for the largest.
Cost: about two minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.studies import LAWS, Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS, "train": 320, "test": 120}
    ONE_PLACE: ClassVar[bool] = True

    directions: int = 4
    """Number of random directions, as long as the probe's."""

    def per_test_scene(self, size: Size) -> float:
        """One run of every clip."""
        return size.clips


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import xarray as xr

from dit_lens.cache import ActivationCache
from dit_lens.cache.anatomy import Anatomy
from dit_lens.capture import batches, evaluations
from dit_lens.clips import Scene
from dit_lens.running import Request
from dit_lens.studies import outcome
from dit_lens.studies.readers import Reader, readers
from dit_lens.studies.readouts import random_directions


def run(config: Config) -> xr.Dataset:
    """The attributions of all models, along a dimension `model`; every model is read at the block the first chose.

    Raises:
        ValueError: too few scenes to fit on or to test on.
    """
    test, parts = config.scenes("test"), dict[str, xr.Dataset]()
    for reader in readers(config):
        parts[reader.lens.name] = written(reader, config, test).assign(reader.facts())
        question = reader if len(parts) == 1 else question
    result = outcome.by_model(parts).assign_coords(question.place())
    return outcome.finished(outcome.with_scenes(result, config), config, question.lens)


def written(reader: Reader, config: Config, test: Sequence[Scene]) -> xr.Dataset:
    """Direct attributions of every component along the probe and along random directions, on all clips of a scene."""
    lens, probe = reader.lens, reader.probe
    directions = random_directions(probe.weight, config.directions, config.seed)
    parts: list[xr.Dataset] = []
    for batch in batches(test, config.batch_size, f"{lens.name}, writes"):
        (evaluation,) = evaluations(lens, batch, reader.steps, reader.path).values()
        anatomy, point = Anatomy.of(lens.model.of(evaluation).transformer, lens.table), probe.reads.point
        _, activations = lens.model.run(evaluation, Request(anatomy.needs(point), stop_at=point))
        cache = ActivationCache(activations, lens.model.grid(evaluation), lens.blocks, anatomy=anatomy)
        sums = [cache.attribute_to(probe), *(cache.attribute_to(direction, point) for direction in directions.values())]
        table = outcome.by_role(xr.concat(sums, "direction", coords="minimal", compat="override"), batch)
        parts.append(table.assign_coords(crossed=("scene", [scene.crossed for scene in batch])))
    result = xr.concat(parts, "scene", coords="minimal", compat="override").assign_coords(
        direction=["probe", *directions]
    )
    return result.assign(attribution=result.attribution.astype("float32"))


if CONFIG is not None:
    answer(CONFIG, run)
