"""An intervention: edits applied together in one run, with coordinates in the table of effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dit_lens.arguments import collection
from dit_lens.hook_points import HookFunction
from dit_lens.lens import DiTLens

PointEdit = tuple[str, HookFunction]  # a hook point, or a glob such as "blocks.*.attn.hook_z", and its edit


@dataclass(frozen=True, eq=False)
class Intervention:
    """Edits applied together in one run, at one or several hook points.

    Example: head 2 of block 3 and the MLP of block 4, both set to zero in the same run:

        Intervention(
            [("blocks.3.attn.hook_z", edits.zero(heads=[2])), ("blocks.4.hook_mlp_out", edits.zero())],
            at={"block": 3, "head": 2},
        )

    Attributes:
        edits: (hook point, function) pairs. A function is (tensor, hook) -> tensor or None, which treats clips
            independently and returns the same result at each call. A later edit applies to the result of earlier ones:
            at another point, to the activation of the edited run; at the same point, to what the edit before returned.
        at: coordinates in the table of effects, such as {"block": 3, "head": 2}.

    Raises:
        TypeError: `edits` are not pairs of a name and a function.
    """

    edits: Sequence[PointEdit]
    at: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        pairs = [self.edits] if isinstance(self.edits, str) else list(self.edits)
        for pair in pairs:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and callable(pair[1])):
                raise TypeError(
                    f"got {pair!r} as an edit of an intervention · expected pairs of a hook point and a function: "
                    '("blocks.3.attn.hook_z", edits.zero(heads=[2])) · one pair: Intervention.single(point, edit)'
                )
        object.__setattr__(self, "edits", tuple(pairs))

    @classmethod
    def single(cls, point: str, edit: HookFunction, **at: object) -> Intervention:
        """One edit at one hook point, with its coordinates."""
        return cls([(point, edit)], at)

    @property
    def points(self) -> tuple[str, ...]:
        """The edited hook points, each once."""
        return tuple(dict.fromkeys(point for point, _ in self.edits))

    def edits_at(self, point: str) -> list[HookFunction]:
        """The functions that edit a point, in turn."""
        return [edit for where, edit in self.edits if where == point]

    def only(self, points: Sequence[str]) -> Intervention:
        """The part of the intervention at some points."""
        return replace(self, edits=[(point, edit) for point, edit in self.edits if point in points])


def resolved(lens: DiTLens, interventions: Sequence[Intervention]) -> list[Intervention]:
    """The interventions with globs replaced by the hook points of the model that they match.

    Raises:
        ValueError: no interventions. KeyError: a hook point that the model does not have. RuntimeError: hooks are
            active; they would act on whole runs but not on those that start at a block.
        TypeError: an object that is no intervention, or an edit of a read-only point.
    """
    interventions = collection(interventions, "interventions", "interventions")
    if not interventions:
        raise ValueError(
            "got no interventions · expected at least one, such as Intervention.single(point, edits.zero())"
        )
    refuse_hooks(lens)
    return [_resolved(lens, intervention) for intervention in interventions]


def refuse_hooks(lens: DiTLens) -> None:
    """Checks that no hooks are active.

    Raises:
        RuntimeError: a hook is active.
    """
    if lens.model.hooked:
        raise RuntimeError("got active hooks around a sweep · expected none · leave the `hooks` context first")


def _resolved(lens: DiTLens, intervention: Intervention) -> Intervention:
    if not isinstance(intervention, Intervention):
        raise TypeError(
            f"got a {type(intervention).__name__} as an intervention · expected Intervention.single(point, edit) or"
            " Intervention([(point, edit), ...])"
        )
    pairs: list[PointEdit] = []
    for pattern, edit in intervention.edits:
        exact = lens.table.points.get(pattern)
        for point in [exact] if exact else lens.table.select([pattern], lens.name):
            if point.write is None:
                raise TypeError(f"got an edit of {point.name}, which can only be read · expected a point to write")
            pairs.append((point.name, edit))
    return replace(intervention, edits=pairs)
