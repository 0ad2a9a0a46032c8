"""Pairing of the clips of an IntPhys scene, by the frames that they share or by a table of pairs.

By frames. The frames of the impossible clips C and D are those of the possible ones A and B: C equals A until it
switches to B, D equals B until it switches to A, and in scenes with two breaks both switch back. So at the first frame
in which the four clips are not all equal, they are equal two by two, and these are the pairs: C is compared with the
clip that shares its first frames. Worked example (a, b: a frame of A, of B; =: a frame in which A and B are equal):

    A  = = a a a a a a        A and C share 4 frames, A and B two; so do A and D, B and C.
    B  = = b b b b b b        The pairs are (A, C) and (B, D); both break at frame 4 and, as here they have two
    C  = = a a b b a a        breaks, meet again at frame 6.
    D  = = b b a a b b

Where the break is occluded, A and B are equal around it, and a pair differs only when the change becomes visible:
later than the event, and not necessarily at the same frame in both pairs. Where a clip switches before A and B first
differ, it is compared with the clip that it equals from then on, as no frame shows what it was before.

By a table, as facebookresearch/minimal_video_pairs has it for dev (setup/intphys_pairs.csv, 180 pairs): a header
`Property;id;Video1;Label1;Video2;Label2` and lines such as `O1;1;0;0;1;1`: of scene O1/01, sub-directory 1 (videos
count from 0), which is impossible (label 0), with sub-directory 2, which is possible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from dit_lens.clips import block_means
from dit_lens.datasets.intphys_files import NUMBERS, read_label
from dit_lens.datasets.tables import Row, read_table

Match = tuple[int, int]
COLUMNS = ("Property", "id", "Video1", "Label1", "Video2", "Label2")
LABELS = {"0": False, "1": True}
PAIRINGS: tuple[tuple[Match, Match], ...] = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
TENTHS, MOST = 10, 20.0  # tolerances are proposed in tenths of a grey level; compression does less than this


class PairingError(ValueError):
    """The frames do not determine which clips belong together."""


def pair_by_frames(
    videos: Sequence[UInt8[np.ndarray, "F H W 3"]],
    labels: Sequence[bool | None] = (None,) * 4,
    tolerance: float = 0.0,
    name: str = "a scene",
) -> tuple[Match, Match]:
    """The pairs of clips that are compared: (possible, impossible) positions where labels are known.

    The pair of the lower possible clip comes first (of the lowest clip, where labels are unknown). Where labels are
    known and both impossible clips begin like the same possible one, that clip is paired with the one that equals it
    longest; if both do equally long, with the one that has more of its frames, and then with the lower one.

    Args:
        videos: the four clips, in the order of their sub-directories, all of one shape.
        labels: whether each clip is possible; two are, or all are unknown.
        tolerance: distance (see `dit_lens.clips.frame_distances`) up to which two frames count as the same.
        name: what to call the scene in a message.

    Raises:
        PairingError: the frames show no pairs, or contradict the labels; says which tolerance helps, if any does.
        ValueError: not two possible and two impossible labels.
    """
    if None not in labels and sum(map(bool, labels)) != 2:
        raise ValueError(
            f"got {name} with {sum(map(bool, labels))} possible clips · expected 2 of 4 · unpack the split again"
        )
    try:
        return _paired(_agreement(videos, tolerance), labels)
    except PairingError as error:
        raise PairingError(f"got {name}, {error} · {_remedy(videos, labels, tolerance)}") from None


def is_crossed(videos: Sequence[UInt8[np.ndarray, "F H W 3"]]) -> bool:
    """Whether at each frame the last two of four clips are the first two in some order, bit for bit."""
    a, b, c, d = videos

    def same(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return (first == second).all(axis=(1, 2, 3))

    return bool(((same(c, a) & same(d, b)) | (same(c, b) & same(d, a))).all())


def read_pairs(table: Path, scenes: Sequence[Path], there: Sequence[str]) -> dict[Path, tuple[Match, ...]]:
    """The matches of each scene in a table of pairs: (possible, impossible) positions, lower ones first.

    Args:
        table: the file.
        scenes: folders of the scenes that are read, such as dev/O1/01; lines of other blocks are skipped.
        there: the blocks of the split on disk.

    Raises:
        FileNotFoundError: no such file. ValueError: a line of an unknown scene or clip, or with other labels than
            status.json; a clip in two pairs; a pair of two equal labels; no line for these scenes.
    """
    folders = {(scene.parent.name, scene.name.lstrip("0")): scene for scene in scenes}
    blocks = {block for block, _ in folders}
    matches: dict[Path, dict[Match, str]] = {}
    for line, row in _rows(table):
        block = row["Property"]
        if block in there and block not in blocks:
            continue
        scene = folders.get((block, row["id"].lstrip("0")))
        if scene is None:
            raise ValueError(
                f"got {line}, scene {block}/{row['id']} · expected a scene of {scenes[0].parent.parent} · unpack the"
                " whole split, or read only the blocks that you have: --data-options blocks=O1"
            )
        match = _match(row, scene, line)
        for pair, earlier in matches.get(scene, {}).items():
            if set(pair) & set(match):
                raise ValueError(
                    f"got {line}, with a clip that is also in {earlier} · expected each clip in one pair only"
                )
        matches.setdefault(scene, {})[match] = line
    if not matches:
        raise ValueError(f"got {table} without pairs of the blocks {', '.join(sorted(blocks))} · expected some")
    return {scene: tuple(sorted(matches[scene])) for scene in scenes if scene in matches}


def _paired(same: Bool[np.ndarray, "4 4 F"], labels: Sequence[bool | None]) -> tuple[Match, Match]:
    """The pairing by shared first frames; see `pair_by_frames`."""
    count = same.shape[-1]
    shared = np.where(same.all(-1), count, same.argmin(-1))
    alike = [(i, j) for i, j in combinations(range(4), 2) if shared[i, j] == count]
    if alike:
        (i, j), *_ = alike
        raise PairingError(f"whose clips {NUMBERS[i]} and {NUMBERS[j]} have the same frames")
    matches = _siblings(shared)
    if None in labels:
        if matches is None:
            raise PairingError("whose clips do not form two pairs that share their first frames")
        return _oriented(same, matches)
    if matches is None:
        matches = _by_longest(same, shared, labels)
    for i, j in matches:
        if labels[i] == labels[j]:
            label = "possible" if labels[i] else "impossible"
            raise PairingError(
                f"whose clips {NUMBERS[i]} and {NUMBERS[j]} share their first frames and are both {label}"
            )
    first, second = sorted((i, j) if labels[i] else (j, i) for i, j in matches)
    return first, second


def _siblings(shared: np.ndarray) -> tuple[Match, Match] | None:
    """The pairs that share more first frames than any two clips of different pairs; None if there are none."""
    for pairing in PAIRINGS:
        across = [shared[i, j] for i, j in combinations(range(4), 2) if (i, j) not in pairing]
        if min(shared[i, j] for i, j in pairing) > max(across):
            return pairing
    return None


def _oriented(same: np.ndarray, matches: tuple[Match, Match]) -> tuple[Match, Match]:
    """Pairs without labels; the second is reversed if only then the second clips consist of the first ones' frames."""
    (a, c), (b, d) = matches
    crossed = (same[c, a] & same[d, b]) | (same[c, b] & same[d, a])
    turned = (same[c, a] & same[b, d]) | (same[c, d] & same[b, a])
    return ((a, c), (d, b)) if turned.all() and not crossed.all() else matches


def _by_longest(same: np.ndarray, shared: np.ndarray, labels: Sequence[bool | None]) -> tuple[Match, Match]:
    """The pairs of possible and impossible clips where both impossible ones begin like the same possible clip."""
    (a, b), (c, d) = ([i for i in range(4) if labels[i] is label] for label in (True, False))
    if any(max(shared[i, a], shared[i, b]) <= shared[a, b] for i in (c, d)) or not shared[a, b]:
        raise PairingError("in which an impossible clip shares its first frames with no possible one")
    total = same.sum(-1)
    options: tuple[tuple[Match, Match], ...] = (((a, c), (b, d)), ((a, d), (b, c)))
    return max(options, key=lambda pairs: (sum(shared[p] for p in pairs), sum(total[p] for p in pairs)))


def _agreement(videos: Sequence[np.ndarray], tolerance: float) -> Bool[np.ndarray, "4 4 F"]:
    """Whether two clips are equal (within the tolerance), for each two clips and each frame."""
    if tolerance > 0:
        return _distances(videos) <= tolerance
    same = np.ones((4, 4, len(videos[0])), dtype=bool)
    for i, j in combinations(range(4), 2):
        same[i, j] = same[j, i] = (videos[i] == videos[j]).all(axis=(1, 2, 3))
    return same


def _distances(videos: Sequence[np.ndarray]) -> Float[np.ndarray, "4 4 F"]:
    means = [block_means(video) for video in videos]
    return np.stack([[np.abs(first - second).max(axis=(1, 2, 3)) for second in means] for first in means])


def _remedy(videos: Sequence[np.ndarray], labels: Sequence[bool | None], tolerance: float) -> str:
    smallest = smallest_tolerance(videos, labels)
    if smallest is None or smallest <= tolerance:
        return "unpack the split again, or use the published pairs: --data-options pairs=intphys_pairs.csv"
    return f"compressed copies can be paired with --data-options tolerance={smallest:g}"


def smallest_tolerance(videos: Sequence[UInt8[np.ndarray, "F H W 3"]], labels: Sequence[bool | None]) -> float | None:
    """The smallest tolerance, in tenths of a grey level, to which a scene can be paired without contradiction.

    That is: every frame of the impossible clips equals one of a possible clip, and in no frame does a clip equal two
    clips that differ from each other. Where there is no such tolerance (an object that appears gradually may be near
    any clip), the one with the fewest such frames. None where no tolerance pairs them.
    """
    distances = _distances(videos)
    possible = tuple(i for i in range(4) if labels[i])
    centres = list(combinations(range(4), 2)) if None in labels else [possible]
    needed = min(
        max(float(np.minimum(distances[a, i], distances[b, i]).max()) for i in range(4) if i not in (a, b))
        for a, b in centres
    )
    tenths = range(math.ceil(needed * TENTHS), int(MOST * TENTHS) + 1)
    paired = [tenth / TENTHS for tenth in tenths if _is_paired(distances <= tenth / TENTHS, labels)]
    return min(paired, key=lambda tolerance: (_contradictions(distances <= tolerance), tolerance), default=None)


def _is_paired(same: np.ndarray, labels: Sequence[bool | None]) -> bool:
    try:
        _paired(same, labels)
    except PairingError:
        return False
    return True


def _contradictions(same: np.ndarray) -> int:
    """The number of frames in which a clip equals two clips that differ from each other."""
    linked = (same[:, :, None] & same[None]).any(1)  # i is the same as some j, which is the same as k
    return int((linked & ~same).any((0, 1)).sum())


def _rows(table: Path) -> list[tuple[str, Row]]:
    """The lines of a table, each with the name that error messages use."""
    if not table.is_file():
        raise FileNotFoundError(
            f"got no file {table} · expected a table of pairs, such as intphys_pairs.csv · check the path"
        )
    columns, rows = read_table(table, ";")
    if tuple(columns) != COLUMNS:
        raise ValueError(f"got {table} with columns {columns} · expected {';'.join(COLUMNS)}")
    for line, row in rows:
        if not all(row.values()):
            raise ValueError(f"got {line}, with empty cells · expected {';'.join(COLUMNS)}")
    return rows


def _match(row: Mapping[str, str], scene: Path, line: str) -> Match:
    """The pair in a line of the table, possible clip first."""
    places: dict[bool, int] = {}
    for number in ("1", "2"):
        video, text = row[f"Video{number}"], row[f"Label{number}"]
        if video not in ("0", "1", "2", "3"):
            raise ValueError(f"got {line}, video {video!r} · expected 0, 1, 2 or 3")
        if text not in LABELS:
            raise ValueError(f"got {line}, label {text!r} · expected 0 (impossible) or 1 (possible)")
        folder = scene / NUMBERS[int(video)]
        if LABELS[text] != read_label(folder):
            raise ValueError(
                f"got {line}, label {text} of video {video} · expected the label in {folder / 'status.json'}, which"
                " differs · use the table of this release"
            )
        places[LABELS[text]] = int(video)
    if len(places) < 2:
        raise ValueError(
            f"got {line}, two clips with label {row['Label1']} · expected a possible and an impossible one"
        )
    return places[True], places[False]
