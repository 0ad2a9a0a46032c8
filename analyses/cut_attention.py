"""Which attention brings plausibility: across the splice, from frame to frame, to the text, or none in particular?

Method: a probe of a block's output is frozen. In one block at a time, all its heads or a single one, queries are kept
from keys: those behind the splice from those before it and the reverse, each latent frame from the one before; or
attention is even over all keys; or nothing comes from the text. What is left of a row of attention is scaled to 1.
Effects are label-odd: by how much the contrast (A + B - C - D) / 2 of the logit changes, in probe SDs. Blocks are
ranked on half of the scenes and reported on the other.

Controls: the null twin and a random initialisation; the largest |t| of all cells of a map where possible and impossible
clips trade places in whole quadruplets. The text is the same for every clip and cannot bring a label: where its cut
costs much, the cut took the model out of what it was trained on, and says so of others in that block.

Output: figures/data/cut_attention.nc with logits and their changes (model, quadruplet, role, cut, block, head).
Cost: about three minutes of one core with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analyses.command import main
from analyses.frozen_probe import Options, by_model, halves, interval, load, probed, route
from analyses.roles import by_role, contrast
from dit_lens import ablation, stats
from dit_lens.capture import batches, evaluations, latent_splice
from dit_lens.clips import Quadruplet
from dit_lens.edits import Tokens
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe

TOP = 3
LEVEL = 0.05


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""


def run(config: Config) -> xr.Dataset:
    """Logits of all models and their changes; every model is read at the block that the first chose.

    Raises:
        ValueError: too few quadruplets to fit or to split.
    """
    train, test = load(config.dataset, config.properties, (config.train, config.test), config.seed)
    parts: list[xr.Dataset] = []
    for name, lens, probe, accuracy in probed(config, train):
        told = cut(lens, config, test, probe).assign(probe_spread=probe.spread, train_accuracy=accuracy)
        parts.append(told.expand_dims(model=[name]))
    return by_model(parts, config, lens, probe)


def cut(lens: DiTLens, config: Config, test: Sequence[Quadruplet], probe: Probe) -> xr.Dataset:
    """`logit` (role, quadruplet), its change `whole` (cut, block) and, by head, `effect` (cut, block, head)."""
    latent = lens.encode(test[0].a)
    cuts = knockouts(latent_splice(latent, test[0]), latent.shape[-3])
    parts: list[xr.Dataset] = []
    for batch in batches(test, config.batch_size, f"{lens.name}, cuts"):
        fed = evaluations(lens, batch, config.steps, route(config))
        heads, blocks = (
            ablation.cut_attention(lens, fed, config.steps, probe.logit, cuts, by_head).squeeze("step", drop=True)
            for by_head in (True, False)
        )
        told = xr.Dataset({"logit": heads.before, "effect": heads.effect, "whole": blocks.effect})
        parts.append(by_role(told, batch))
    return xr.concat(parts, "quadruplet", coords="minimal", compat="override")


def knockouts(splice: int, frames: int) -> dict[str, ablation.Knockout]:
    """The cuts of a clip of so many latent frames whose second half begins at one of them."""

    def at(frame: int | slice) -> Tokens:
        return frame, slice(None), slice(None)

    first, second = at(slice(0, splice)), at(slice(splice, None))
    return {
        "behind → before the splice": ablation.between((second, first)),
        "before → behind the splice": ablation.between((first, second)),
        "frame → the one before": ablation.between(*((at(frame), at(frame - 1)) for frame in range(1, frames))),
        "uniform": ablation.uniform,
        "video → text": ablation.without_text,
    }


def odd(result: xr.Dataset, name: str) -> xr.DataArray:
    """The label-odd change (quadruplet, ..., block) of a map, `whole` or `effect`, in probe SDs; cells that count."""
    return contrast(result[name], result.probe_spread).sel(block=slice(0, int(result.readout_block)))


def significance(result: xr.Dataset, name: str) -> xr.DataArray:
    """The chance that the largest |t| of all cells of a model's map is as large under flipped signs."""
    values = odd(result, name).stack(cell=[dim for dim in result[name].dims if dim in ("cut", "block", "head")])
    values = values.transpose("quadruplet", "cell")
    return values[0].copy(data=stats.sign_flip_p(values.values)).unstack("cell")


def top(result: xr.Dataset) -> list[tuple[str, int]]:
    """The (cut, block) that cost the contrast of a model most on the ranking half."""
    mean = odd(halves(result)[0], "whole").mean("quadruplet").stack(cell=["cut", "block"])
    return [(str(name), int(block)) for name, block in mean.cell.values[np.argsort(mean.values)[:TOP]]]


def table(result: xr.Dataset) -> str:
    """Per model: its contrast, the cuts that cost it most on held-out scenes, and by each head."""
    _, report = halves(result)
    lines = [
        f"cuts ranked on {result.sizes['quadruplet'] - report.sizes['quadruplet']} test quadruplets, reported on"
        f" {report.sizes['quadruplet']}; change of (A + B - C - D) / 2 in probe SDs [95% interval over quadruplets]"
    ]
    for model in result.model.values:
        lines += ["", *_lines(result.sel(model=model), report.sel(model=model))]
    return "\n".join(lines)


def _lines(whole: xr.Dataset, report: xr.Dataset) -> list[str]:
    accuracy = float(whole.train_accuracy.sel(depth=int(whole.readout_block)))
    p, by_head = significance(whole, "whole"), odd(report, "effect").mean("quadruplet")
    lines = [
        f"{whole.model.item()}, sigma {float(whole.sigma):.2f}, probe behind block {int(whole.readout_block)}:"
        f" {accuracy:.3f} out of fold; contrast {_told(contrast(report.logit, report.probe_spread))}",
        f"  {'cut':<28}block  {'all heads':<26}p (largest of all)   by head",
    ]
    for name, block in top(whole):
        change = odd(report, "whole").sel(cut=name, block=block)
        heads = "  ".join(f"{float(x):+.2f}" for x in by_head.sel(cut=name, block=block))
        lines.append(f"  {name:<28}{block:<7}{_told(change):<26}{float(p.sel(cut=name, block=block)):.4f}{heads:>36}")
    text = float(np.abs(odd(whole, "whole").sel(cut="video → text").mean("quadruplet")).max())
    beyond = int((significance(whole, "effect") < LEVEL).sum())
    return [*lines, f"  without text at most {text:.3f}; by head {beyond} of {by_head.size} cells beyond the threshold"]


def _told(values: xr.DataArray) -> str:
    return interval(values.values, np.ones_like(values.values))


if __name__ == "__main__":
    from figures.cut_attention import draw

    main(Config, run, table, draw, "cut_attention", __doc__)
