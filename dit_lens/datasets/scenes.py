"""Selection of comparable scenes from any data set, and their split into fitting and test scenes.

Worked example: a LikePhys scene of one possible clip and three violations gives three pairs with the roles A and C,
which count as one observation (`group`); an InfLevel scene of two possible and two impossible clips gives one scene
with the roles A, B (possible), C and D (compared with A and with B).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np

from dit_lens.choices import nearest
from dit_lens.clips import ROLES, Clip, Scene
from dit_lens.datasets.recordings import Outline
from dit_lens.reading import even_indices

PAIR = ("A", "C")


class Scenes(Sequence[Scene]):
    """A selection of a data set's scenes, each read when it is accessed.

    Args:
        source: a data set.
        places: indices of scenes, and for each the matches that are compared (both of a quadruplet); None for the scene
            as it is.
        roles: of every scene's clips; None for scenes as they are.

    Attributes:
        outlines: outline of each scene (see `Outline`); for a pair, the outline of the pair alone.

    Raises:
        ValueError: two scenes with the same id.
    """

    def __init__(
        self,
        source: Sequence[Scene],
        places: Sequence[tuple[int, tuple[int, ...] | None]],
        roles: tuple[str, ...] | None,
    ):
        self.source, self.places, self.roles = source, list(places), roles
        dataset: Any = source
        self.outlines = [_outline(dataset.outline(index), matches, roles) for index, matches in self.places]
        _check_ids(self.outlines, [place for place, _ in self.places])

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place, matches = self.places[index]
        return _comparable(self.source[place], matches, self.roles)

    def __iter__(self) -> Iterator[Scene]:
        return (self[i] for i in range(len(self)))

    def outline(self, index: int) -> Outline:
        """Id, property, labels and matches of a scene, without reading its frames."""
        return self.outlines[index]

    @property
    def groups(self) -> list[str]:
        """The group of each scene, one independent observation: for a pair, the scene that it is taken from."""
        return [outline.group for outline in self.outlines]

    @property
    def properties(self) -> list[str]:
        """The physical property of each scene."""
        return [outline.property for outline in self.outlines]

    def at(self, indices: Sequence[int]) -> Scenes:
        """The scenes at some indices."""
        return Scenes(self.source, [self.places[i] for i in indices], self.roles)

    def first(self, count: int) -> Scenes:
        """At most `count` scenes, evenly spaced, so that all properties are included."""
        return self.at(even_indices(len(self), min(count, len(self))) if count < len(self) else range(len(self)))


def labelled_pairs(source: Sequence[Scene], properties: Sequence[str] = ()) -> Scenes:
    """The scenes of a data set that have possible clips to compare with impossible ones.

    If every scene has two pairs of four clips, the clips get the roles A, B, C, D; otherwise each pair becomes a scene
    with the roles A and C.

    Args:
        properties: the properties to keep; by default all.

    Raises:
        ValueError: unknown property, or no labelled pair.
    """
    chosen = _with_properties(source, properties)
    matches = {index: _labelled(outline) for index, outline in chosen.items()}
    matches = {index: places for index, places in matches.items() if places}
    if not matches:
        raise ValueError(
            f"got {len(chosen)} scenes without a labelled pair · expected a possible and an impossible clip in each ·"
            " use another split, or a table of labels"
        )
    if all(_is_double(chosen[index], places) for index, places in matches.items()):
        return Scenes(source, list(matches.items()), ROLES)
    return Scenes(source, [(index, (place,)) for index, places in matches.items() for place in places], PAIR)


def labelled_clips(source: Sequence[Scene], properties: Sequence[str] = ()) -> Scenes:
    """The scenes of a data set in which some clip has a label, unchanged.

    Raises:
        ValueError: unknown property, or no labelled clip.
    """
    chosen = _with_properties(source, properties)
    places = [(i, None) for i, outline in chosen.items() if any(label is not None for label in outline.labels)]
    if not places:
        raise ValueError(f"got {len(chosen)} scenes without labels · expected clips labelled possible or impossible")
    return Scenes(source, places, None)


def all_scenes(source: Sequence[Scene], properties: Sequence[str] = ()) -> Scenes:
    """All scenes of a data set, unchanged."""
    return Scenes(source, [(index, None) for index in _with_properties(source, properties)], None)


def divide(scenes: Scenes, share: float, seed: int = 0) -> tuple[Scenes, Scenes]:
    """A split into fitting and test scenes: by group, stratified by property.

    The split depends only on the seed, the share and the groups' names in each property, not on the order of scenes or
    properties.

    Args:
        share: share of each property's groups in the first part, in [0, 1]; of two or more groups, each part gets at
            least one. Groups that are alone in their property are pooled into one stratum.
        seed: of the draw.

    Raises:
        ValueError: a single group, or a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"got share={share:g} of scenes to fit probes on · expected a number in [0, 1]")
    strata: dict[str, set[str]] = {}
    for prop, group in zip(scenes.properties, scenes.groups, strict=True):
        strata.setdefault(prop, set()).add(group)
    alone = {group for names in strata.values() if len(names) == 1 for group in names}
    several = [(prop, names) for prop, names in strata.items() if len(names) > 1]
    fit = {group for prop, names in [*several, ("", alone)] for group in _drawn(names, share, seed, prop)}
    inside = [group in fit for group in scenes.groups]
    if all(inside) or not any(inside):
        raise ValueError(
            f"got {len(set(scenes.groups))} independent scenes to divide, {len(fit)} of them to fit probes on ·"
            " expected at least one on each side · use more scenes"
        )
    first, second = ([i for i, in_first in enumerate(inside) if in_first is chosen] for chosen in (True, False))
    return scenes.at(first), scenes.at(second)


def _drawn(names: Collection[str], share: float, seed: int, stratum: str) -> list[str]:
    """A random share of the names, whatever their order: at least one is drawn, and at least one is left out."""
    rng = np.random.default_rng([seed, *stratum.encode()])
    count = int(np.clip(round(share * len(names)), 1, len(names) - 1)) if len(names) > 1 else round(share * len(names))
    return [str(name) for name in rng.permutation(sorted(names))[:count]]


def _with_properties(source: Sequence[Scene], properties: Sequence[str]) -> dict[int, Outline]:
    dataset: Any = source
    outlines = {index: dataset.outline(index) for index in range(len(source))}
    available = dict.fromkeys(outline.property for outline in outlines.values())
    for name in properties:
        if name not in available:
            raise ValueError(
                f"got property {name!r} · expected one of {', '.join(available)}{nearest(name, available)} · change"
                " --properties"
            )
    return {index: outline for index, outline in outlines.items() if not properties or outline.property in properties}


def _check_ids(outlines: Sequence[Outline], places: Sequence[int]) -> None:
    first: dict[str, int] = {}
    for outline, place in zip(outlines, places, strict=True):
        if outline.id in first:
            raise ValueError(
                f"got two scenes with the id {outline.id}, items {first[outline.id]} and {place} of the data set ·"
                " expected unique ids, which identify scenes in splits and stores · rename one of them"
            )
        first[outline.id] = place


def _labelled(outline: Outline) -> tuple[int, ...]:
    """Indices of the matches of a possible and an impossible clip."""
    labels = outline.labels
    return tuple(m for m, (i, j) in enumerate(outline.matches) if labels[i] is True and labels[j] is False)


def _is_double(outline: Outline, matches: tuple[int, ...]) -> bool:
    """Whether these matches are two pairs of four different clips."""
    return len(matches) == 2 and len({i for m in matches for i in outline.matches[m]}) == len(ROLES)


def _outline(outline: Outline, matches: tuple[int, ...] | None, roles: tuple[str, ...] | None) -> Outline:
    if matches is None:
        return outline
    if roles == ROLES:
        return replace(outline, labels=(True, True, False, False), matches=((0, 2), (1, 3)))
    return replace(outline, id=_name(outline, matches), labels=(True, False), matches=((0, 1),), unit=outline.group)


def _name(outline: Outline, matches: tuple[int, ...]) -> str:
    """The id of a pair: that of its scene, and a number if the scene has several pairs."""
    return outline.id if len(outline.matches) == 1 else f"{outline.id}#{matches[0]}"


def _comparable(scene: Scene, matches: tuple[int, ...] | None, roles: tuple[str, ...] | None) -> Scene:
    """The scene with its clips in roles, or one of its pairs as a scene."""
    if matches is None or roles is None:
        return scene
    if roles == ROLES and scene.roles == ROLES:
        return scene
    pairs = [scene.matches[m] for m in matches]
    order = [i for i, _ in pairs] + [j for _, j in pairs]
    outline = Outline(scene.id, scene.property, tuple(clip.possible for clip in scene.clips), scene.matches)
    name = scene.id if roles == ROLES else _name(outline, matches)
    clips = tuple(_in_role(scene.clips[i], role, name) for i, role in zip(order, roles, strict=True))
    half = len(roles) // 2
    breaks = tuple(scene.breaks[m] for m in matches) if scene.breaks else ()
    return Scene(name, clips, tuple((i, i + half) for i in range(half)), breaks, False, scene.event, scene.group)


def _in_role(clip: Clip, role: str, scene: str) -> Clip:
    """A clip with a new role and id; its factors keep the role and id of the data set."""
    factors = {**clip.factors, "data_role": clip.role, "data_id": clip.id}
    return replace(clip, id=f"{scene}/{role}", role=role, factors=factors)
