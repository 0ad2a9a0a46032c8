"""Does the model use the direction that a probe reads: does a push along it make generated physics possible?

What: how often a steered continuation is possible, and the damage, by dose: steer-*.nc with values (model, direction,
dose, scene, pair, measure), and those of erasure.
Why: a direction can be decodable and unused. Steering is the causal test on generation.
How: a probe and the difference of class means are fitted on continuations; the sampler continues test clips while every
token after the chosen block is pushed along one, or it is erased; a tracker reads the video.
Controls: dose 0, which must change no bit; random directions along which the stream moves exactly as far; control
models, such as one that never saw lawful clips, at the same block and step.
Cost: about four minutes on one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.datasets.spec import PAIRS, SPLICES, TRACKS
from dit_lens.studies import LAWS, Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis; training scenes choose a step of --read-at, and a block unless --block is set."""

    NEEDS: ClassVar[tuple[str, ...]] = (PAIRS, SPLICES, TRACKS)
    DEMO: ClassVar[Mapping[str, Any]] = {
        "controls": ("mini-wan-null",), "properties": LAWS, "read_at": (11, 14), "train": 88, "test": 20,
    }  # fmt: skip

    doses: tuple[float, ...] = (-8.0, -4.0, 0.0, 4.0, 8.0)
    """Doses, in standard deviations of the projection over training clips; 0 is always added."""
    sigmas: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which the sampler is steered."""
    randoms: int = 2
    """Random directions for each of the two fitted ones."""
    sampling: int = 8
    """Euler steps of a continuation."""

    def resolved(self) -> Config:
        """With every unset option filled in: clips are continued."""
        return super(Config, replace(self, path=self.path or "continuation")).resolved()

    def check(self) -> None:
        """Checks options as for every study; also the path, random directions, sampling and noise levels."""
        super().check()
        low, high = self.sigmas
        if self.path != "continuation" or self.randoms < 1 or self.sampling < 1 or not 0 <= low <= high <= 1:
            raise ValueError(
                f"got --path {self.path} --randoms {self.randoms} --sampling {self.sampling} --sigmas {low:g} {high:g}"
                " · expected continuation, at least 1 random direction and 1 sampling step, and two ascending noise"
                " levels in [0, 1]"
            )

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of two continuations for each dose and direction, of erasures, and without steering."""
        return 2 * self.sampling * (1 + 2 * (1 + self.randoms) * (len({0.0, *self.doses}) + 1))


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dit_lens.capture import alike, check_levels_by_frame, encode
from dit_lens.clips import Scene
from dit_lens.hook_points import HookFunction
from dit_lens.lens import DiTLens
from dit_lens.measures.steer import FITTED, as_far_as
from dit_lens.probing import Features
from dit_lens.probing import fit as fit_probes
from dit_lens.steering import Direction, erase, push, steering
from dit_lens.studies import outcome
from dit_lens.studies.readers import features
from dit_lens.toy import behaviour
from dit_lens.toy.behaviour import FirstHalves

MEASURES = (*behaviour.MEASURES, "damage")
PAIRED = ("A, C", "B, D")


@dataclass(frozen=True, eq=False)
class Steered:
    """The cell at which a model is steered, and the directions.

    Attributes:
        step, block: of the cell.
        accuracy: of the probe, out of fold on training scenes.
        directions: by name.
    """

    step: int
    block: int
    accuracy: float
    directions: Mapping[str, Direction]

    @property
    def point(self) -> str:
        """The hook point that is steered."""
        return f"blocks.{self.block}.hook_resid_post"


def run(config: Config) -> xr.Dataset:
    """Values of every dose of all models; all are steered at the cell that the first model chose.

    Raises:
        ValueError: a model that cannot be fed a noise level for each frame; too few scenes.
    """
    train, test = config.scenes("train"), config.scenes("test")
    parts: dict[str, xr.Dataset] = {}
    cell: tuple[int, int] | None = None
    for name, lens in config.lenses():
        check_levels_by_frame(lens)
        read = features(config, lens, train, "train", pooling="tokens")
        steered = directions_of(of_inner_blocks(read, lens.blocks, config.block), config, cell)
        question = lens if cell is None else question
        cell = steered.step, steered.block
        latents = encode(lens.encode, [test[0]]).shape[2]
        tables = [dose_response(lens, batch, steered, config) for batch in alike(test, config.batch_size, latents)]
        facts: dict[str, Any] = {"accuracy": steered.accuracy, "step": steered.step, "block": steered.block}
        facts["spread"] = "direction", [direction.spread for direction in steered.directions.values()]
        parts[name] = outcome.concatenated(tables).assign(facts)
    return outcome.finished(outcome.with_scenes(outcome.by_model(parts), config), config, question)


def of_inner_blocks(read: Features, blocks: int, block: int | None) -> Features:
    """Features of the blocks to choose from: one, or all but the first and the last.

    Before the first there is nothing to read yet, and after the last nothing that could use a push.

    Raises:
        ValueError: a block that the model does not have.
    """
    if block is not None and not 0 <= block < blocks:
        raise ValueError(f"got --block {block} · expected 0 to {blocks - 1}")
    inner = list(range(1, blocks - 1)) or list(range(blocks))
    return read.select(block=inner if block is None else block)


def directions_of(read: Features, config: Config, cell: tuple[int, int] | None) -> Steered:
    """Steering directions at a cell (step, block), or at the cell that training scenes choose."""
    probes = fit_probes(read, cell=cell)
    assert probes.probe is not None
    step, block = (int(str(part)) for part in probes.cell)
    x = read.cell(step, block)
    probe = Direction.of_probe(probes.probe, x)
    fitted = dict(zip(FITTED, (probe, Direction.of_means(x, read.labels)), strict=True))
    randoms = {
        f"{as_far_as(name)} {i}": direction.random(x, config.seed + i)
        for name, direction in fitted.items()
        for i in range(config.randoms)
    }
    return Steered(step, block, float(probes.accuracy.sel(step=step, block=block)), fitted | randoms)


def dose_response(lens: DiTLens, batch: Sequence[Scene], steered: Steered, config: Config) -> xr.Dataset:
    """`values` (direction, dose, scene, pair, measure), and `erased` without a dose."""
    halves = FirstHalves.of(lens, batch, config.seed)
    plain = behaviour.continued(lens, halves, config.sampling)
    doses = sorted({0.0, *config.doses})

    def measured(functions: list[HookFunction]) -> np.ndarray:
        with steering(lens, steered.point, functions, sigmas=config.sigmas):
            steered_latents = behaviour.continued(lens, halves, config.sampling)
        moved = damage(steered_latents[:, :, halves.cut :], plain[:, :, halves.cut :])
        rows = np.column_stack([behaviour.margins(lens, halves, steered_latents), moved])
        return rows.reshape(2, len(batch), len(MEASURES)).swapaxes(0, 1)

    bar = tqdm(steered.directions.values(), desc=f"{lens.name}, {len(batch)} scenes", unit="direction")
    rows = [([measured(push(direction, dose)) for dose in doses], measured(erase(direction))) for direction in bar]
    names = ("scene", "pair", "measure")
    return xr.Dataset(
        {
            "values": (("direction", "dose", *names), np.array([values for values, _ in rows])),
            "erased": (("direction", *names), np.array([erased for _, erased in rows])),
        },
        {
            "direction": list(steered.directions),
            "dose": doses,
            "scene": [scene.id for scene in batch],
            "pair": list(PAIRED),
            "measure": list(MEASURES),
        },
    )


def damage(steered: Float[Tensor, "b c f h w"], plain: Float[Tensor, "b c f h w"]) -> Float[np.ndarray, " b"]:
    """Relative change of each clip's latent, |steered - unsteered| / |unsteered|."""
    moved, size = ((x.double().square().flatten(1).sum(1)) for x in (steered - plain, plain))
    return torch.sqrt(moved / size).cpu().numpy()


if CONFIG is not None:
    answer(CONFIG, run)
