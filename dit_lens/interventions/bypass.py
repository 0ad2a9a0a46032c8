"""Edits of z without running self-attention again, since the output of attention is linear in z.

The attention module returns W_o z + bias. A copy whose edit turns z into z' returns that plus W_o (z' - z), so in the
block where it joins it needs no attention: it uses the unchanged copy's output plus the difference of its heads.
Example: edit one head of 12 at 32,760 tokens. Attention would cost 4 n^2 d = 6.6e12 operations; the
difference costs 2 n d (d / 12) = 1.3e10.

This requires that the output of the projection is that of the module: no norm in between (Mochi), and no text in the
module (joint attention).
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
from dit_lens.hook_points import Hook, HookFunction
from dit_lens.interventions.effects import is_after
from dit_lens.interventions.intervention import Intervention
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, count
from dit_lens.running.active import called
from dit_lens.tracing import Partly


@dataclass(frozen=True, eq=False)
class AttentionBypass:
    """The modules and points with which edits of z skip self-attention in a block.

    Attributes:
        z, raw: names of z and of the module's output.
        path: the path of the attention module.
        projection: the output projection, from z to the output.
    """

    z: str
    raw: str
    path: str
    projection: nn.Linear

    @classmethod
    def in_block(cls, lens: DiTLens, evaluation: Evaluation, block: int | None) -> AttentionBypass | None:
        """The bypass of a block; None if there is more than a linear projection between z and the module's output."""
        names = f"blocks.{block}.attn.hook_z", f"blocks.{block}.attn.hook_raw_out"
        if not {*names} <= lens.table.points.keys():
            return None
        (*before, inner), (*after, outer) = (lens.table.points[name].sites for name in names)
        module_out = outer.port == "output" and inner.port == "input" and inner.path.startswith(f"{outer.path}.")
        if before or after or not module_out:
            return None
        projection = lens.model.of(evaluation).transformer.get_submodule(inner.path)
        return cls(*names, outer.path, projection) if isinstance(projection, nn.Linear) else None

    def serves(self, lens: DiTLens, new: Iterable[str], others: Iterable[str]) -> bool:
        """Whether joining copies can skip the module.

        Args:
            new: points that joining copies edit, which must be z or come after attention.
            others: points that earlier copies edit or that are read, none of which may need the module's inside.
        """
        not_z = {point for point in new if point != self.z}
        after = all(point == self.raw or is_after(lens, point, self.raw) for point in not_z)
        return after and not any(self._needs_inside(lens, name) for name in (*not_z, *others))

    def _needs_inside(self, lens: DiTLens, name: str) -> bool:
        sites = [site for site in lens.table.points[name].sites if (site.path, site.port) != (self.path, "output")]
        return any(site.path == self.path or site.path.startswith(f"{self.path}.") for site in sites)

    def around(
        self,
        lens: DiTLens,
        evaluation: Evaluation,
        joined: Sequence[Intervention],
        joining: Sequence[Intervention],
        reference: Mapping[str, Tensor],
        moved: dict[int, Tensor],
    ) -> Partly:
        """The module, which runs for none of the joining copies, and not at all if z of the unchanged run is cached.

        Args:
            evaluation: the evaluation of the clips alone.
            joined: interventions of all edited copies; the last of them are `joining`.
            reference: activations of the unchanged run; with z if an intervention edits it.
            moved: by copy; set to the clips (b,) whose output an edit of z changes.
        """
        clips, device = count(evaluation), lens.model.of(evaluation).device
        before = 1 + len(joined) - len(joining)
        value = reference[self.z].to(device) if self.z in reference else None

        def complete(computed: Tensor | None) -> Tensor:
            if computed is None:
                assert value is not None
                computed = linear(value.flatten(2), self.projection.weight, self.projection.bias)
            unchanged, added = computed[:clips], []
            for copy, intervention in enumerate(joining, start=before):
                added.append(unchanged)
                functions = intervention.edits_at(self.z)
                change = self._change(lens, evaluation, functions, value) if functions and value is not None else None
                if change is not None:
                    added[-1] = (upcast(unchanged) + change).type_as(unchanged)
                    moved[copy] = (added[-1] != unchanged).flatten(1).any(1)
            return torch.cat([computed, *added])

        alone = before == 1 and value is not None
        return Partly(self.path, 0 if alone else before * clips, (1 + len(joined)) * clips, complete)

    def _change(
        self, lens: DiTLens, evaluation: Evaluation, functions: Sequence[HookFunction], z: Float[Tensor, "b n k e"]
    ) -> Float[Tensor, "b n d"] | None:
        """The change of the module's output by edits of z; None if they change nothing."""
        point, new = lens.table.points[self.z], z
        place = evaluation.step, evaluation.sigma, evaluation.branch, evaluation.expert
        for function in functions:
            new = called(function, new, Hook(self.z, point.axes, lens.model.grid(evaluation), *place), point)
        if new is z:
            return None
        heads = z.shape[2]
        edited = _heads_of(functions, heads)
        weight = rearrange(self.projection.weight, "d (k e) -> d k e", k=heads)[:, edited]
        difference = upcast(new[:, :, edited]) - upcast(z[:, :, edited])
        return linear(difference.flatten(2), weight.flatten(1).to(difference))


def _heads_of(functions: Sequence[HookFunction], heads: int) -> slice | list[int]:
    """The heads that edits may change: an `Edit` with heads changes no bit of the others."""
    by_edit = [edit.heads if isinstance(edit, Edit) else None for edit in functions]
    if any(chosen is None for chosen in by_edit):
        return slice(None)
    return sorted({head % heads for chosen in by_edit if chosen is not None for head in chosen})
