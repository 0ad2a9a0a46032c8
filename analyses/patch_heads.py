"""Which attention heads carry plausibility from one clip to another?

Method: the first half of each clip is given clean, the second noised (noise spliced by half; `--path` takes the paper's
inversion instead). Every head's z of one clip of a quadruplet is put into the forward of another (possible into
impossible, and back), one head at a time. Measured on the logit of a linear probe for "possible" (on means by latent
frame, fitted on training scenes, at the block those scenes choose, then frozen), and on the velocity's projection on
v_clean - v_corrupted. Over the eight pairs of a quadruplet, what follows the label (odd) is told from what follows the
content of either half.

Controls: a clip patched with itself; A with B, where all changes but the label; the same map on a twin that never saw
lawful clips and on a random initialisation. Heads are ranked on half the test scenes and reported on the other.

Output: figures/data/patch_heads.nc with effects (model, quadruplet, pair, step, block, head).
Cost: under two minutes on two cores with the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from analyses.command import main
from analyses.pairs import Options, measure, table
from dit_lens.patching import patch_heads


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""


def run(config: Config) -> xr.Dataset:
    """The effects of all models; see `pairs.measure`."""
    return measure(config, patch_heads)


if __name__ == "__main__":
    from figures.patch_heads import draw

    main(Config, run, table, draw, "patch_heads", __doc__)
