"""The pairs of clips that are drawn with maps over them: of each property the one that a logit separates best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from dit_lens.capture import latent_frame
from dit_lens.clips import Scene
from dit_lens.measures.attributed_frames import SHOWN


@dataclass(eq=False)
class Shown:
    """Maps and frames of the best pair of each property so far, collected batch by batch: maps of all are large."""

    best: dict[str, tuple[float, xr.Dataset]] = field(default_factory=dict)

    def add(self, table: xr.Dataset, batch: Sequence[Scene]) -> None:
        """Adds a batch of scenes.

        Args:
            table: `heat` (baseline, scene, frame, row, column), `agree` (scene, frame), `logit` (scene, role) and
                `splice` (scene).
        """
        for number, scene in enumerate(batch):
            maps = table.isel(scene=number)
            possible, impossible = (float(maps.logit.sel(role=role)) for role in SHOWN)
            margin = possible - impossible
            if scene.property not in self.best or margin > self.best[scene.property][0]:
                self.best[scene.property] = margin, _drawn(maps, scene)

    def table(self, count: int) -> xr.Dataset:
        """The best pairs along `shown`, `count` of them and at least one, best first.

        Returns:
            `heat`, `shown_agree` (shown, frame), `pixels` (shown, side, frame, row_drawn, column_drawn, rgb) of the two
            clips at the frames of the maps, and `cut`, the frame of the splice.
        """
        order = sorted(self.best.values(), key=lambda entry: -entry[0])[: max(1, count)]
        return xr.concat([drawn for _, drawn in order], "shown")


def frames_of(scene: Scene, count: int) -> list[int]:
    """The last frame of each of `count` latent frames; every frame where there are as many."""
    total = len(scene.clips[0].frames)
    last = {latent_frame(frame, total, count): frame for frame in range(total)}
    return [last[place] for place in range(count)]


def _drawn(maps: xr.Dataset, scene: Scene) -> xr.Dataset:
    frames = frames_of(scene, maps.sizes["frame"])
    pixels = np.stack([scene[role].frames[frames] for role in SHOWN])
    drawn = {"heat": maps.heat.reset_coords(drop=True), "shown_agree": maps.agree.reset_coords(drop=True)}
    table = xr.Dataset(drawn).assign(
        pixels=(("side", "frame", "row_drawn", "column_drawn", "rgb"), pixels), cut=float(maps.splice)
    )
    return table.expand_dims(shown=[f"{scene.property}: {scene.event or scene.id}"])
