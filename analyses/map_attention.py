"""What does every attention head look at, and is it what the model needs to tell possible from impossible clips?

What: numbers of every head, its class where one score leads, and its causal effect: map_attention-*.nc with `plain`,
`value_weighted` (scene, role, block, head, number), `effect` and `logit`.
Why: heads are often named after what they look at. A name is worth something if it holds for other clips, stands out
from the next best, and says which heads matter.
How: spread, reach, and mass on the same place, the first frame and text, on every test clip, without the matrix; beside
them, how far zeroing a head's z moves the label effect of a frozen probe's logit.
Controls: control models; ranks of heads from scene to scene; possible against impossible clips under labels swapped
within scenes; ranks of a number against those of the effect, with heads shuffled.
Cost: by estimate three minutes of one core with the defaults.
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

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS, "train": 120, "test": 60}
    ONE_PLACE: ClassVar[bool] = True

    margin: float = 0.1
    """How far the first of the three scores must lead for a head to be called by it."""
    band: float = 1.5
    """Half the width of Sparse VideoGen's bands, in latent frames (2 for Wan)."""

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each head, and as much as six for the numbers."""
        return size.clips * (6 + 0.5 * size.blocks * size.heads)


CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import xarray as xr

from dit_lens import ablation, attention
from dit_lens.capture import batches, evaluations
from dit_lens.clips import Scene
from dit_lens.studies import outcome
from dit_lens.studies.ablations import check_points
from dit_lens.studies.readers import Reader, reader_of


def run(config: Config) -> xr.Dataset:
    """Numbers and effects of all heads of all models; every model is read after the block that the first model chose.

    Raises:
        ValueError: too few scenes. KeyError: a model without attention patterns.
    """
    parts: dict[str, xr.Dataset] = {}
    blocks: Mapping[int, int] = {}
    for _, lens in config.lenses():
        check_points(lens, [f"blocks.{block}.attn.hook_{x}" for block in range(lens.blocks) for x in ("pattern", "z")])
        reader = reader_of(config, lens, blocks=blocks)
        blocks, first = reader.blocks, lens if not parts else first
        numbers = attention.Numbers(band=config.band, seed=config.seed)
        parts[lens.name] = mapped(reader, config.scenes("test"), config.batch_size, numbers).assign(
            probe_spread=reader.probe.spread
        )
    (step,) = reader.steps
    coords = {"readout_block": blocks[step], "sigma": reader.probe.reads.sigma, "margin": config.margin}
    result = outcome.by_model(parts).assign_coords(coords)
    return outcome.finished(outcome.with_scenes(result, config), config, first)


def mapped(reader: Reader, scenes: Sequence[Scene], batch_size: int, numbers: attention.Numbers) -> xr.Dataset:
    """`plain`, `value_weighted` (role, scene, block, head, number), `effect` (role, scene, block, head) and `logit`."""
    lens, (step,), parts = reader.lens, reader.steps, list[xr.Dataset]()
    for batch in batches(scenes, batch_size, f"{lens.name}, heads"):
        inputs = evaluations(lens, batch, reader.steps, reader.path)
        numbered = attention.atlas(lens, inputs[step], numbers=numbers)
        ablated = ablation.ablate_heads(lens, inputs, reader.steps, reader.probe.logit).sel(step=step, drop=True)
        table = numbered.isel(step=0, drop=True).drop_vars(["sigma", "clip"], errors="ignore")
        table = table.assign(
            effect=ablated.effect.drop_vars("clip").reset_coords(drop=True),
            logit=ablated.before.drop_vars("clip").reset_coords(drop=True),
        )
        parts.append(outcome.by_role(table, batch))
    return outcome.concatenated(parts)


if CONFIG is not None:
    answer(CONFIG, run)
