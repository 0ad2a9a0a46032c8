"""Which attention carries plausibility: across the break, from frame to frame, or from the text?

What: change of the label effect (possible minus impossible clips, in probe SDs) by cut: cut_attention-*.nc with logits
and their changes (model, scene, role, cut, block, head).
Why: patching a head says that it matters; cutting chosen query-key connections says which information it moves.
How: in one block, in all heads or a single one, attention is cut across the break (either direction), to the previous
frame or to the text, or made uniform; rows still sum to 1. A frozen probe reads the output of a block.
Controls: control models; the largest |t| over all cells of a map under swapped labels; cutting the text, which cannot
carry the label; blocks are ranked on half of the scenes and reported on the other half.
Cost: about three minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from analyses.command import answer, asked
from dit_lens.axes import Region
from dit_lens.studies import LAWS, Size, Study


@dataclass(frozen=True)
class Config(Study):
    """Options of the analysis."""

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS}
    ONE_PLACE: ClassVar[bool] = True

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each cut of each head, and of all heads of each block."""
        return 0.5 * size.clips * len(CUTS) * size.blocks * (1 + size.heads)


AFTER_BEFORE, BEFORE_AFTER = "after → before the break", "before → after the break"
STEPWISE, UNIFORM, TEXT = "frame → the one before", "uniform", "video → text"
CUTS = (AFTER_BEFORE, BEFORE_AFTER, STEPWISE, UNIFORM, TEXT)
CONFIG = asked(Config, __name__)

from collections.abc import Sequence

import xarray as xr

from dit_lens import ablation
from dit_lens.capture import alike, begins_alike, encode, evaluations, given_frames
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.studies import outcome
from dit_lens.studies.ablations import check_points
from dit_lens.studies.readers import Reader, reader_of


def run(config: Config) -> xr.Dataset:
    """Logits of all models and their changes; every model is read after the block that the first model chose.

    Raises:
        ValueError: too few scenes. KeyError: a model without attention patterns.
    """
    parts: dict[str, xr.Dataset] = {}
    blocks: Mapping[int, int] = {}
    for _, lens in config.lenses():
        check_points(lens, [f"blocks.{block}.attn.hook_pattern" for block in range(lens.blocks)])
        reader = reader_of(config, lens, blocks=blocks)
        blocks, first = reader.blocks, lens if not parts else first
        (step,) = reader.steps
        accuracy = reader.accuracy.sel(step=step, drop=True).rename(block="depth").drop_vars("sigma", errors="ignore")
        effects = cut(reader, config.scenes("test"), config.batch_size)
        parts[lens.name] = effects.assign(probe_spread=reader.probe.spread, train_accuracy=accuracy)
    coords = {"readout_block": blocks[step], "sigma": reader.probe.reads.sigma}
    result = outcome.by_model(parts).assign_coords(coords)
    return outcome.finished(outcome.with_scenes(result, config), config, first)


def cut(reader: Reader, scenes: Sequence[Scene], batch_size: int) -> xr.Dataset:
    """`logit` (role, scene), its change `whole` (cut, block) and, by head, `effect` (cut, block, head).

    Cuts at the break are NaN of scenes whose clips do not begin alike.
    """
    lens, parts = reader.lens, list[xr.Dataset]()
    latents = encode(lens.encode, [scenes[0]]).shape[2]
    for batch in alike(scenes, batch_size, latents, f"{lens.name}, cuts"):
        inputs = evaluations(lens, batch, reader.steps, reader.path)
        cuts = knockouts(lens, min(given_frames(batch[0], latents)) if begins_alike(batch[0], latents) else 0, latents)
        heads, blocks = (
            ablation.cut_attention(lens, inputs, reader.steps, reader.probe.logit, cuts, by_head=by_head).squeeze(
                "step", drop=True
            )
            for by_head in (True, False)
        )
        table = xr.Dataset({"logit": heads.before, "effect": heads.effect, "whole": blocks.effect})
        parts.append(outcome.by_role(table, batch))
    result: xr.Dataset = xr.concat(parts, "scene", join="outer", coords="minimal", compat="override")
    return result.sel(cut=[name for name in CUTS if name in result.cut.values])


def knockouts(lens: DiTLens, given: int, latents: int) -> dict[str, ablation.Knockout]:
    """The cuts for clips of `latents` latent frames, the first `given` of which lie before the break (0: no break)."""

    def frames(frame: int | slice) -> Region:
        return frame, slice(None), slice(None)

    before, after = frames(slice(0, given)), frames(slice(given, None))
    at_break = {AFTER_BEFORE: ablation.between((after, before)), BEFORE_AFTER: ablation.between((before, after))}
    crossed = f"blocks.{lens.blocks - 1}.cross_attn.hook_z" in lens.table.points
    return (at_break if given else {}) | {
        STEPWISE: ablation.between(*((frames(frame), frames(frame - 1)) for frame in range(1, latents))),
        UNIFORM: ablation.uniform,
        TEXT: ablation.without_text if crossed else ablation.without_joint_text,
    }


if CONFIG is not None:
    answer(CONFIG, run)
