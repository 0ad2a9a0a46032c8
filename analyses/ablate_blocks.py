"""Which blocks does plausibility need, and does it need them along the inversion or at the readout?

What: change of the label effect (possible minus impossible clips, in probe SDs) without each block: ablate_blocks-*.nc
with logits, counts and errors (model, reading, replacement, write, block, scene).
Why: ablation asks whether a block is necessary. In an inverted clip a block has already acted at earlier steps, which
an ablation at the readout alone misses.
How: the write of a block, or of its attention or MLP, is replaced, or noise is added; a frozen probe reads, where one
step is read a refitted one too. Ablated at the readout, on the way (the last steps before it), or both.
Controls: a random write of the same length; control models; the largest |t| over all cells under random swaps of
labels; blocks are ranked on half of the test scenes and reported on the other half.
Cost: about six minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from analyses.command import answer, asked
from dit_lens.studies import LAWS, Size, Study

Kind = Literal["zero", "mean", "resample", "noise", "random write"]
Write = Literal["all", "attn_out", "mlp_out"]
SOLVERS = ("euler", "implicit_euler", "heun")  # which evaluate at steps alone


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; --path inversion gives all four readings, --path continuation only "half given"."""

    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null",), "properties": LAWS, "path": "inversion", "sampler_steps": 10, "read_at": (7,),
        "train": 40, "test": 16,
    }  # fmt: skip
    ONE_PLACE: ClassVar[bool] = True

    replacements: tuple[Kind, ...] = ("mean", "noise", "random write")
    """What replaces the write of a block."""
    writes: tuple[Write, ...] = ("all", "attn_out", "mlp_out")
    """Which writes are ablated: all of a block, or those of its attention or MLP."""
    alpha: float = 0.5
    """Standard deviation of the added noise, relative to that of each token."""
    away: int = 3
    """Number of inversion steps before the readout at which a block is ablated ("on the way")."""

    def check(self) -> None:
        """That options go together.

        Raises:
            ValueError: no replacements or writes, or a path or solver that does not evaluate at steps alone.
        """
        super().check()
        if not self.replacements or not self.writes or self.away < 1:
            raise ValueError(
                f"got --replacements {' '.join(self.replacements)} --writes {' '.join(self.writes)} --away {self.away}"
                " · expected one or more replacements (zero, mean, resample, noise, random write), one or more writes"
                " (all, attn_out, mlp_out), and --away 1 or more"
            )
        if self.path == "noising" or (self.path == "inversion" and self.solver not in SOLVERS):
            raise ValueError(
                f"got --path {self.path} --solver {self.solver} · expected an inversion by {', '.join(SOLVERS)} (these"
                " solvers evaluate the model only at steps), or a continuation · change --path or --solver"
            )

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each cell at the readout, of training scenes too; whole forwards along the trajectory."""
        cells = len(self.replacements) * len(self.writes) * size.blocks
        once = 0.5 * (1 + size.train / max(1, size.test)) * 2
        return size.clips * cells * (once + (self.path == "inversion") * (self.away + 2))


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from dit_lens.cache.anatomy import block_of
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.ablation import NONE
from dit_lens.studies import outcome
from dit_lens.studies.ablations import check_donors, check_points, logits, right, scores, scores_there
from dit_lens.studies.block_ablations import points_of
from dit_lens.studies.block_readings import Ablations, Readings, Splits, States, paths_of
from dit_lens.studies.paths import path_of, steps_of
from dit_lens.studies.readers import Reader, reader_of


def run(config: Config) -> xr.Dataset:
    """Readings of all models; every model is read after the blocks that the first model chose.

    Raises:
        ValueError: too few scenes, or no step before the readout. KeyError: a model without such writes.
    """
    splits = config.scenes("train"), config.scenes("test")
    if "resample" in config.replacements:
        for split in splits:
            check_donors(split)
    parts: dict[str, xr.Dataset] = {}
    blocks: dict[str, Mapping[int, int]] = {}
    for _, lens in config.lenses():
        check_lens(config, lens, splits[1])
        first, kinds = (lens, paths_of(config, lens, splits)) if not parts else (first, kinds)
        tables: list[xr.Dataset] = []
        for kind in kinds:
            reader = reader_of(config, lens, path_of(config, kind=kind), blocks.get(kind))
            blocks[kind] = reader.blocks
            tables.append(table_of(config, reader, splits))
        errors = [table[["error"]] for table in tables if "error" in table]
        readings = xr.concat([table.drop_vars("error", errors="ignore") for table in tables], "reading")
        parts[lens.name] = xr.merge([readings, *errors])
    return outcome.finished(outcome.with_scenes(outcome.by_model(parts), config), config, first)


def check_lens(config: Config, lens: DiTLens, test: Sequence[Scene]) -> None:
    """Checks that a model has the writes to ablate, and that a step lies before the readout."""
    chosen = [f"hook_{write}" for write in config.writes if write != "all"]
    for block in range(lens.blocks):
        check_points(lens, [*points_of(lens, block), *(f"blocks.{block}.{name}" for name in chosen)])
    (step,) = steps_of(config, lens, test, path_of(config, kind="noising"))
    if step == 0:
        raise ValueError(
            f"got --read-at {' '.join(map(str, config.read_at or ()))}, the clean clip · expected a step above 0"
        )


def steps_away(config: Config, step: int) -> range:
    """The steps before the readout at which a block is ablated."""
    return range(max(0, step - config.away), step)


def table_of(config: Config, reader: Reader, splits: Splits) -> xr.Dataset:
    """`logit` in probe SDs, `counts`, `error` by reading, replacement ("none": whole model), write and block."""
    (step,), probe, roles = reader.steps, reader.probe, list(splits[1].roles or ())
    ablations = Ablations(config.replacements, config.writes, config.alpha, config.seed)
    readings = Readings(reader, ablations, steps_away(config, step), config.batch_size)
    means = readings.means(splits[0])
    fit, test = readings.read(splits[0], means, at_once=True), readings.read(splits[1], means)
    scored = [_scored(reader, fit, test, reading, roles) for reading in test.without]
    shape = len(config.replacements), len(config.writes), reader.lens.blocks
    logit, counts = (np.stack([_placed(values, shape) for values in part]) for part in zip(*scored, strict=True))
    cells = "replacement", "write", "block"
    variables: dict[str, tuple[tuple[str, ...], object]] = {
        "logit": (("reading", *cells, "scene", "role"), logit),
        "counts": (("reading", *cells, "scene", "score", "part"), counts),
        "readout": (("reading",), [block_of(probe.reads.point)] * len(test.without)),
    }
    if test.error is not None:
        variables["error"] = (*cells, "scene", "role"), _placed(test.error, shape)
    coords = {
        "reading": list(test.without), "replacement": [NONE, *config.replacements], "write": list(config.writes),
        "block": range(reader.lens.blocks), "role": roles, "score": scores_there((fit.colours, test.colours)),
        "part": ["good", "of"], "scene": test.ids,
    }  # fmt: skip
    return xr.Dataset(variables, coords=coords)


def _scored(
    reader: Reader, fit: States, test: States, reading: str, roles: Sequence[str]
) -> tuple[Float[np.ndarray, "scene role cell"], Float[np.ndarray, "scene score 2 cell"]]:
    """Logits in probe SDs and counts of correct clips, the intact model first.

    Probes are refitted where training clips were read so, too; elsewhere counts of their scores are NaN.
    """
    probe, colours = reader.probe, (fit.colours, test.colours)
    logit = logits(probe, np.concatenate([test.whole[:, :, None], test.without[reading]], 2))
    counts = np.full((len(scores_there(colours)), 2, *logit.shape[::2]), np.nan)
    for cell in np.flatnonzero(np.isfinite(logit).all((0, 1))):
        if reading in fit.without:
            x, y = ((s.whole if cell == 0 else s.without[reading][:, :, cell - 1]) for s in (fit, test))
            counts[..., cell] = scores(probe, x, y, roles, colours)
        else:
            counts[0, ..., cell] = right(logit[:, :, cell], roles)
    return logit / probe.spread, np.moveaxis(counts, 2, 0)


def _placed(values: Float[np.ndarray, "*rest cell"], shape: tuple[int, int, int]) -> np.ndarray:
    """Values as (replacement, write, block, *rest), from cells of which the first is the intact model."""
    cells = np.moveaxis(values, -1, 0)
    whole = np.broadcast_to(cells[0], (1, *shape[1:], *cells.shape[1:]))
    return np.concatenate([whole, cells[1:].reshape(*shape, *cells.shape[1:])])


if CONFIG is not None:
    answer(CONFIG, run)
