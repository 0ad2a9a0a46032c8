"""Where heads leave self-attention: what puts out z' in the place of z puts out (z' - z) W_o^T more.

So copies of a batch whose changes lie at z, or behind attention, need no attention of their own in the block where they
set in: they take what the unchanged copy's puts out, and their heads' share of the difference. That holds where the
projection's output is the module's: not with a norm between (Mochi) nor where text shares the module (joint attention).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from dit_lens.edits import Edit
from dit_lens.families.parts import upcast
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, count
from dit_lens.running.active import called
from dit_lens.sweeps.changes import Change, is_behind
from dit_lens.tracing import Partly


@dataclass(frozen=True, eq=False)
class Outlet:
    """Of self-attention in a block.

    Attributes:
        z, raw: names of the heads' mix, and of what the module puts out.
        path: of the attention module.
        projection: from one to the other.
    """

    z: str
    raw: str
    path: str
    projection: nn.Linear

    @classmethod
    def of(cls, lens: DiTLens, evaluation: Evaluation, block: int | None) -> Outlet | None:
        """That of a block; None where something lies between z and what the module puts out."""
        names = f"blocks.{block}.attn.hook_z", f"blocks.{block}.attn.hook_raw_out"
        if not {*names} <= lens.table.points.keys():
            return None
        (*before, inner), (*others, outer) = (lens.table.points[name].sites for name in names)
        module_out = outer.port == "output" and inner.port == "input" and inner.path.startswith(f"{outer.path}.")
        if before or others or not module_out:
            return None
        projection = lens.model.of(evaluation).transformer.get_submodule(inner.path)
        return cls(*names, outer.path, projection) if isinstance(projection, nn.Linear) else None

    def passes(self, lens: DiTLens, changes: Iterable[Change], reads: Iterable[str]) -> bool:
        """Whether changes lie at z or behind attention, and neither they nor what is read need its inside."""
        points = {change.point for change in changes} - {self.z}
        behind = all(point == self.raw or is_behind(lens, point, self.raw) for point in points)
        return behind and not any(self._needs_inside(lens, name) for name in (*points, *reads))

    def _needs_inside(self, lens: DiTLens, name: str) -> bool:
        sites = [site for site in lens.table.points[name].sites if (site.path, site.port) != (self.path, "output")]
        return any(site.path == self.path or site.path.startswith(f"{self.path}.") for site in sites)

    def around(
        self,
        lens: DiTLens,
        evaluation: Evaluation,
        changes: Sequence[Change],
        before: int,
        reference: Mapping[str, Tensor],
        moved: dict[int, Tensor],
    ) -> Partly:
        """The module, run for none of the changes' copies; for no copy at all where the unchanged run's z is known.

        Args:
            evaluation: of the clips alone.
            before: how many copies there are beside those of the changes, the unchanged one first.
            reference: activations of the unchanged run; of z if a change lies there.
            moved: by copy, is told which clips (b,) get another output by a change at z.
        """
        clips, device = count(evaluation), lens.model.of(evaluation).device
        value = reference[self.z].to(device) if self.z in reference else None

        def complete(found: Tensor | None) -> Tensor:
            if found is None:
                assert value is not None
                found = linear(value.flatten(2), self.projection.weight, self.projection.bias)
            unchanged, added = found[:clips], []
            for copy, change in enumerate(changes, start=before):
                added.append(unchanged)
                more = None if change.point != self.z or value is None else self._more(lens, evaluation, change, value)
                if more is not None:
                    added[-1] = (upcast(unchanged) + more).type_as(unchanged)
                    moved[copy] = (added[-1] != unchanged).flatten(1).any(1)
            return torch.cat([found, *added])

        alone = before == 1 and value is not None
        return Partly(self.path, 0 if alone else before * clips, (before + len(changes)) * clips, complete)

    def _more(
        self, lens: DiTLens, evaluation: Evaluation, change: Change, z: Float[Tensor, "b n k e"]
    ) -> Float[Tensor, "b n d"] | None:
        """What a change makes the module put out beside what it did; None where it changes nothing."""
        point = lens.table.points[self.z]
        told = evaluation.step, evaluation.sigma, evaluation.branch, evaluation.expert
        new = called(change.edit, z, Hook(self.z, point.axes, lens.model.grid(evaluation), *told), point)
        if new is z:
            return None
        heads = z.shape[2]
        chosen = change.edit.heads if isinstance(change.edit, Edit) else None  # it keeps the bits of all others
        kept = slice(None) if chosen is None else sorted({head % heads for head in chosen})
        weight = rearrange(self.projection.weight, "d (k e) -> d k e", k=heads)[:, kept]
        more = upcast(new[:, :, kept]) - upcast(z[:, :, kept])
        return linear(more.flatten(2), weight.flatten(1).to(more))
