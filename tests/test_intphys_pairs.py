"""Pairs and breaks of IntPhys: read from the frames, exact or compressed, or from a table; scene by scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_files import noise

import dit_lens as dl
from dit_lens.clips import ROLES, Scene, breaks_between, frame_distances
from dit_lens.datasets import Framing
from dit_lens.datasets.intphys import Disagreement, IntPhys, compare_pairings
from dit_lens.datasets.intphys_pairs import PairingError, pair_by_frames
from dit_lens.reading import read_frames

REAL = Path(__file__).parents[2] / "shared" / "clips" / "intphys"
FRAMES = 20
# In which frames C shows B and D shows A.
ONE_BREAK, TWO_BREAKS = range(8, FRAMES), range(6, 13)
LABELS = {"A": True, "B": True, "C": False, "D": False}


def quartet(
    c: Sequence[int] = ONE_BREAK, d: Sequence[int] | None = None, same: Sequence[int] = (0, 1), seed: int = 0
) -> dict[str, np.ndarray]:
    """Four videos: C shows B in the frames `c`, D shows A in the frames `d`; in `same` A and B are the same."""
    a, b = noise(FRAMES, 2 * seed, 16, 16), noise(FRAMES, 2 * seed + 1, 16, 16)
    b[list(same)] = a[list(same)]
    videos = {"A": a, "B": b, "C": a.copy(), "D": b.copy()}
    for role, donor, frames in (("C", b, c), ("D", a, c if d is None else d)):
        videos[role][list(frames)] = donor[list(frames)]
    return videos


def compressed(videos: dict[str, np.ndarray], levels: int = 6) -> dict[str, np.ndarray]:
    """Copies of which each pixel is off by up to so many grey levels, in each video otherwise."""
    rng = np.random.default_rng(0)
    errors = (rng.integers(-levels, levels + 1, video.shape) for video in videos.values())
    return {
        r: (f.astype(int) + e).clip(0, 255).astype(np.uint8) for (r, f), e in zip(videos.items(), errors, strict=True)
    }


def write_scene(scene: Path, videos: dict[str, np.ndarray], order: str = "ABCD", labelled: bool = True) -> None:
    for number, role in enumerate(order, start=1):
        folder = scene / str(number)
        (folder / "scene").mkdir(parents=True)
        for place, frame in enumerate(videos[role], start=1):
            Image.fromarray(frame).save(folder / "scene" / f"scene_{place:03}.png")
        if labelled:
            (folder / "status.json").write_text(json.dumps({"header": {"is_possible": LABELS[role]}}))


def load(root: Path, videos: dict[str, np.ndarray], order: str = "ABCD", **options: object) -> Scene:
    write_scene(root / "dev" / "O1" / "01", videos, order)
    (scene,) = dl.datasets.load("intphys", root=root, **options)
    return scene


def paired(videos: dict[str, np.ndarray], order: str, tolerance: float = 0.0, labelled: bool = True) -> list[str]:
    """The pairs by their roles, such as ["AC", "BD"]."""
    labels = [LABELS[role] if labelled else None for role in order]
    matches = pair_by_frames([videos[role] for role in order], labels, tolerance)
    return ["".join(order[i] for i in match) for match in matches]


# Pairs and breaks from the frames.


@given(
    shows=st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES),
    same=st.sets(st.integers(0, FRAMES - 1), max_size=FRAMES - 4),
    order=st.permutations(ROLES),
    labelled=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_breaks_c_goes_with_what_it_shows_first(
    shows: list[bool], same: set[int], order: list[str], labelled: bool
) -> None:
    swapped = [i for i, swap in enumerate(shows) if swap]
    videos = quartet(swapped, same=sorted(same))
    apart = [i for i in range(FRAMES) if i not in same]  # frames in which A and B differ, so that one sees who is shown
    if len({shows[i] for i in apart}) < 2:
        with pytest.raises(PairingError, match="have the same frames"):
            paired(videos, "".join(order), labelled=labelled)
        return
    expected = {"AD", "BC"} if shows[apart[0]] else {"AC", "BD"}
    assert {"".join(sorted(pair)) for pair in paired(videos, "".join(order), labelled=labelled)} == expected


def test_the_possible_clip_of_the_lower_sub_directory_is_a(tmp_path: Path) -> None:
    videos = quartet()
    scene = load(tmp_path, videos, "CBDA")
    assert [clip.factors["video"][-1] for clip in scene.clips] == ["2", "4", "3", "1"] and scene.roles == ROLES
    for clip, role in zip(scene.clips, "BADC", strict=True):
        assert np.array_equal(clip.frames, videos[role]) and clip.possible is LABELS[role]


@pytest.mark.parametrize(
    ("videos", "breaks", "crossed"),
    [
        (quartet(ONE_BREAK), ((8,), (8,)), True),
        (quartet(TWO_BREAKS), ((6, 13), (6, 13)), True),
        # Hidden: A and B are the same in frames 5 to 10; C goes over in frame 6 and D in 9, and both show it in 11.
        (quartet(range(6, FRAMES), range(9, FRAMES), same=(0, *range(5, 11))), ((11,), (11,)), True),
        # Seen, and not at once: in frames 8 and 9 C and D both show B.
        (quartet(range(8, FRAMES), range(10, FRAMES)), ((8,), (10,)), False),
        (quartet(range(6, 13), range(7, 15)), ((6, 13), (7, 15)), False),
        # The object comes in late; in the second scene after C and D went over, so that D shows A at first.
        (quartet(ONE_BREAK, same=range(7)), ((8,), (8,)), True),
        (quartet(range(3, 13), same=range(7)), ((13,), (13,)), True),
    ],
)
def test_each_pair_has_its_own_breaks(
    videos: dict[str, np.ndarray], breaks: tuple[tuple[int, ...], ...], crossed: bool, tmp_path: Path
) -> None:
    for labelled, split in ((True, "dev"), (False, "test")):
        write_scene(tmp_path / split / "O1" / "01", videos, "CADB", labelled)
        (scene,) = dl.datasets.load("intphys", root=tmp_path, split=split)
        assert scene.breaks == breaks and scene.crossed == crossed
        for (i, j), frames in zip(scene.matches, scene.breaks, strict=True):
            assert breaks_between(scene.clips[i].frames, scene.clips[j].frames) == frames
            assert {scene.clips[k].factors["break_frames"] for k in (i, j)} == {frames}
        a, b, c, d = (clip.frames.astype(int) for clip in scene.clips)
        assert bool((a + b == c + d).all()) == crossed
    assert {clip.possible for clip in scene.clips} == {None} and sorted(scene.roles) == ["1", "2", "3", "4"]


def test_clips_that_both_follow_one_possible_clip_go_with_what_they_follow_longest() -> None:
    """C goes over unseen before A and B first differ, D after it: at first both show B."""
    videos = quartet([*range(3, 12)], [*range(9, 14)], same=range(7))
    assert paired(videos, "ABCD") == ["AD", "BC"] and paired(videos, "DBCA") == ["BC", "AD"]
    with pytest.raises(PairingError, match="do not form two pairs that share their first frames"):
        paired(videos, "ABCD", labelled=False)


def test_breaks_and_crossing_are_of_the_frames_that_are_used(tmp_path: Path) -> None:
    videos = quartet(range(8, FRAMES), range(10, FRAMES))  # frames 8 and 9 alone are no crossing
    framing = Framing(count=5, policy="drop-tail", step=4)  # frames 0, 4, 8, 12 and 16
    assert load(tmp_path, videos, framing=framing).breaks == ((2,), (3,))
    framing = Framing(count=3, policy="resample", step=10)
    with pytest.raises(ValueError, match="expected at least 3"):
        dl.datasets.load("intphys", root=tmp_path, framing=framing)[0]
    (apart,) = dl.datasets.load("intphys", root=tmp_path, framing=Framing(step=10))
    assert apart.breaks == ((1,), (1,)) and apart.crossed and apart["C"].factors["break_frames"] == (8,)


def test_frames_that_do_not_show_the_break_are_refused(tmp_path: Path) -> None:
    videos = quartet(TWO_BREAKS)
    short, coarse = Framing(count=5, policy="drop-tail"), Framing(step=13)
    message = r"O1/01, one of whose pairs is equal in all {} frames that are used, and differs in the file from frame 6"
    with pytest.raises(ValueError, match=message.format(5)):
        load(tmp_path, videos, framing=short)
    with pytest.raises(ValueError, match=message.format(2)):
        dl.datasets.load("intphys", root=tmp_path, framing=coarse)[0]


def test_resizing_changes_neither_breaks_nor_crossing(tmp_path: Path) -> None:
    """A and B differ by one grey level of one pixel, which is lost when frames are made smaller; from 14 on by all."""
    videos = quartet(TWO_BREAKS)
    videos["B"][:14] = videos["A"][:14]
    videos["B"][:14, 3, 3, 1] ^= 1
    for role, next_shown, first in (("C", "B", "A"), ("D", "A", "B")):
        videos[role] = videos[first].copy()
        videos[role][6:13] = videos[next_shown][6:13]
    scene = load(tmp_path, videos, framing=Framing(size=(2, 2), fit="crop"))
    assert scene.breaks == ((6, 13), (6, 13)) and scene.crossed
    a, b, c, d = (clip.frames.astype(int) for clip in scene.clips)
    assert (a + b == c + d).all() and (a == b)[:14].all() and not (a == b)[14:].all()


def test_scenes_are_paired_each_by_itself(tmp_path: Path) -> None:
    kinds = {"01": quartet(ONE_BREAK), "02": quartet(TWO_BREAKS, seed=1), "03": quartet(range(15, FRAMES), seed=2)}
    for name, videos in kinds.items():
        write_scene(tmp_path / "dev" / "O2" / name, videos, "DCBA")
    loaded = dl.datasets.load("intphys", root=tmp_path)
    assert [scene.breaks[0] for scene in loaded] == [(8,), (6, 13), (15,)]
    assert [scene.splice for scene in loaded] == [8, 6, 15] and {scene.event for scene in loaded} == {"changes shape"}


@pytest.mark.parametrize(("label", "count"), [(True, 4), (False, 1)])
def test_a_scene_has_two_possible_clips(tmp_path: Path, label: bool, count: int) -> None:
    write_scene(tmp_path / "dev" / "O1" / "01", quartet())
    for number in (2, 3, 4):
        path = tmp_path / f"dev/O1/01/{number}/status.json"
        path.write_text(json.dumps({"header": {"is_possible": label}}))
    with pytest.raises(ValueError, match=rf"O1/01 with {count} possible clips · expected 2 of 4"):
        dl.datasets.load("intphys", root=tmp_path)[0]


# Compressed copies.


@pytest.mark.parametrize("event", [ONE_BREAK, TWO_BREAKS])
@pytest.mark.parametrize("order", ["ABCD", "CBDA"])
def test_compressed_copies_pair_and_break_as_the_originals_to_the_tolerance_that_the_refusal_names(
    tmp_path: Path, event: range, order: str
) -> None:
    videos = quartet(event)
    original, copy = load(tmp_path / "exact", videos, order), compressed(videos)
    write_scene(tmp_path / "lossy" / "dev" / "O1" / "01", copy, order)
    with pytest.raises(ValueError, match=r"O1/01, .* --data-options tolerance=\d") as refused:
        dl.datasets.load("intphys", root=tmp_path / "lossy")[0]
    tolerance = float(str(refused.value).rpartition("=")[2])
    assert 0.5 < tolerance < 6
    (scene,) = dl.datasets.load("intphys", root=tmp_path / "lossy", tolerance=tolerance)
    assert scene.breaks == original.breaks and original.crossed and not scene.crossed
    assert [clip.factors["video"] for clip in scene.clips] == [clip.factors["video"] for clip in original.clips]
    assert {clip.factors["break_tolerance"] for clip in scene.clips} == {tolerance}
    assert {clip.factors["break_tolerance"] for clip in original.clips} == {0.0}
    for (i, j), frames in zip(scene.matches, scene.breaks, strict=True):
        assert breaks_between(scene.clips[i].frames, scene.clips[j].frames, tolerance) == frames


@pytest.mark.parametrize("labelled", [True, False])
def test_the_tolerance_that_is_named_is_the_smallest_without_a_contradiction(labelled: bool) -> None:
    copy = compressed(quartet(same=range(3, 7)))
    with pytest.raises(PairingError) as refused:
        paired(copy, "ABCD", labelled=labelled)
    tolerance = float(str(refused.value).rpartition("=")[2])
    apart = {pair: frame_distances(copy[pair[0]], copy[pair[1]]) for pair in map("".join, permutations(ROLES, 2))}

    def sound(most: float) -> bool:
        """Each frame of C and D is one of A or B, and what is the same as the same frame is the same."""
        shown = all(((apart[f"{clip}A"] <= most) | (apart[f"{clip}B"] <= most)).all() for clip in "CD")
        groups = (apart[f"{i}{j}"].clip(min=apart[f"{j}{k}"]) for i, j, k in permutations(ROLES, 3))
        ends = (apart[f"{i}{k}"] for i, _, k in permutations(ROLES, 3))
        return shown and not any(((two <= most) & (end > most)).any() for two, end in zip(groups, ends, strict=True))

    assert sound(tolerance) and not any(sound(tenth / 10) for tenth in range(round(10 * tolerance)))


@pytest.mark.parametrize("labelled", [True, False])
def test_clips_that_no_tolerance_pairs_are_refused_without_one(labelled: bool) -> None:
    videos = dict(zip("ABCD", (noise(FRAMES, seed, 16, 16) for seed in range(4)), strict=True))
    with pytest.raises(
        PairingError, match=r"· unpack the split again, or use the published pairs: --data-options pairs="
    ):
        paired(videos, "ABCD", labelled=labelled)


def test_a_tolerance_above_all_differences_says_that_clips_are_the_same(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"whose clips 1 and 2 have the same frames"):
        load(tmp_path, quartet(), tolerance=300.0)
    with pytest.raises(ValueError, match=r"got tolerance=-1 · expected 0 or more"):
        dl.datasets.load("intphys", root=tmp_path, tolerance=-1.0)


@pytest.mark.skipif(not REAL.exists(), reason="the example clips of IntPhys are not at hand")
def test_a_real_scene_of_two_breaks_is_paired_to_a_tolerance(tmp_path: Path) -> None:
    """The ball of clip 1 is gone between the screens of clip 3, and there again; in 2 and 4 it is the other way."""
    videos = {role: read_frames(REAL / f"test_{i}.gif") for i, role in enumerate(ROLES, start=1)}
    with pytest.raises(ValueError, match=r"--data-options tolerance=2\.\d") as refused:
        load(tmp_path, videos, "CADB")
    smallest = float(str(refused.value).rpartition("=")[2])
    for tolerance in (smallest, 4.0):
        (scene,) = dl.datasets.load("intphys", root=tmp_path, tolerance=tolerance)
        assert [clip.factors["video"][-1] for clip in scene.clips] == ["2", "4", "1", "3"]
        assert not scene.crossed and all(len(frames) == 2 for frames in scene.breaks)
        assert all(frames[0] == 21 and frames[1] in (32, 33) for frames in scene.breaks)
    parts = breaks_between(scene["A"].frames, scene["B"].frames, 4.0)  # rolls in, is seen between, is there at the end
    assert parts == (1, 7, 21, 32, 36, 65)


# Pairs from a table.

HEADER = "Property;id;Video1;Label1;Video2;Label2"
ORDERS = {("O1", 1): "CADB", ("O1", 2): "ABCD", ("O3", 1): "DCBA"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, ((block, number), order) in enumerate(ORDERS.items()):
        write_scene(tmp_path / "dev" / block / f"{number:02}", quartet(TWO_BREAKS, seed=seed), order)
    return tmp_path


def table(folder: Path, *lines: str, header: str = HEADER) -> str:
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def published(pairs: tuple[str, str] = ("AC", "BD")) -> list[str]:
    """Lines as the publishers write them: the lower video first, and the pair of video 0 before the other."""
    lines = []
    for (block, number), order in ORDERS.items():
        for pair in sorted(sorted(order.index(role) for role in pair) for pair in pairs):
            cells = [f"{video};{int(LABELS[order[video]])}" for video in pair]
            lines.append(f"{block};{number};{';'.join(cells)}")
    return lines


def test_a_table_of_the_same_pairs_changes_nothing(root: Path) -> None:
    pairs = table(root, *published())
    assert compare_pairings(root, pairs) == []
    by_frames, by_table = IntPhys(root), IntPhys(root, pairs=pairs)
    for a, b in zip(by_frames, by_table, strict=True):
        assert (a.id, a.breaks, a.crossed, a.matches) == (b.id, b.breaks, b.crossed, b.matches)
        assert [clip.id for clip in a.clips] == [clip.id for clip in b.clips]
        assert all(np.array_equal(x.frames, y.frames) for x, y in zip(a.clips, b.clips, strict=True))


def test_a_table_of_other_pairs_is_followed_and_the_comparison_says_where(root: Path) -> None:
    lines = published()
    lines[2:4] = ["O1;2;0;1;3;0", "O1;2;1;1;2;0"]
    pairs = table(root, *lines)
    (difference,) = compare_pairings(root, pairs)
    assert difference == Disagreement("O1/02", (("1", "3"), ("2", "4")), (("1", "4"), ("2", "3")))
    first, second, third = IntPhys(root, pairs=pairs)
    assert [clip.factors["video"][-1] for clip in second.clips] == ["1", "2", "4", "3"]
    assert second.roles == ROLES and second.crossed
    assert second.breaks == ((2, 6, 13), (2, 6, 13)) and first.breaks == third.breaks == ((6, 13), (6, 13))


def test_a_comparison_says_why_frames_do_not_pair_a_scene(root: Path) -> None:
    write_scene(
        root / "dev" / "O1" / "03", dict(zip("ABCD", (noise(FRAMES, s, 16, 16) for s in range(4)), strict=True))
    )
    (difference,) = compare_pairings(root, table(root, *published(), "O1;3;0;1;2;0"))
    assert difference.by_frames == () and difference.by_table == (("1", "3"),) and "O1/03" in difference.reason
    scene = IntPhys(root, pairs=table(root, *published(), "O1;3;0;1;2;0"))[2]
    assert scene.breaks == ((),)  # no first frame is shared
    with pytest.raises(ValueError, match="share no first frames"):
        _ = scene.splices


def test_a_scene_of_one_pair_is_that_pair_and_one_of_none_is_left_out(root: Path) -> None:
    loaded = IntPhys(root, pairs=table(root, "O1;1;1;1;0;0", "O3;1;3;1;1;0", "O3;1;2;1;0;0"))
    lone, full = loaded
    assert lone.roles == ("A", "C") and lone.matches == ((0, 1),) and lone.breaks == ((6, 13),) and not lone.crossed
    assert [clip.factors["video"] for clip in lone.clips] == ["O1/01/2", "O1/01/1"]
    assert full.roles == ROLES and full.crossed and [path.name for path in loaded.left_out] == ["02"]
    for index, scene in enumerate(loaded):
        outline = loaded.outline(index)
        assert outline.labels == tuple(clip.possible for clip in scene.clips) and outline.matches == scene.matches


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("O1;7;0;0;1;1", r"pairs\.csv, line 2, scene O1/7 · expected a scene of .*dev"),
        ("O2;1;0;0;1;1", r"pairs\.csv, line 2, scene O2/1 · .* --data-options blocks=O1"),
        ("O1;1;4;0;1;1", r"line 2, video '4' · expected 0, 1, 2 or 3"),
        ("O1;1;0;no;1;1", r"line 2, label 'no' · expected 0 \(impossible\) or 1"),
        ("O1;1;0;1;1;1", r"line 2, label 1 of video 0 · expected the label in .*O1/01/1/status\.json"),
        ("O1;1;1;1;3;1", r"line 2, two clips with label 1"),
        ("O1;1;0;0;0;0", r"line 2, two clips with label 0"),
        ("O1;1;0;0;1", r"line 2, with more or fewer cells than the header · expected 6 cells"),
        ("O1;1;0;0;1;1;1", r"line 2, with more or fewer cells than the header · expected 6 cells"),
    ],
)
def test_a_bad_line_is_refused_by_its_number_before_a_frame_is_read(root: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dl.datasets.load("intphys", root=root, pairs=table(root, line))


def test_a_bad_table_is_refused(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"pairs\.csv, line 3, with a clip that is also in .*line 2 · expected each clip in one pair"
    ):
        dl.datasets.load("intphys", root=root, pairs=table(root, "O1;1;0;0;1;1", "O1;1;2;0;1;1"))
    with pytest.raises(ValueError, match=r"with columns \['Property,id"):
        dl.datasets.load("intphys", root=root, pairs=table(root, header=HEADER.replace(";", ",")))
    with pytest.raises(ValueError, match=r"pairs\.csv without pairs of the blocks O1, O3"):
        dl.datasets.load("intphys", root=root, pairs=table(root))
    with pytest.raises(FileNotFoundError, match=r"got no .*nowhere\.csv"):
        dl.datasets.load("intphys", root=root, pairs=str(root / "nowhere.csv"))
    (root / "dev").rename(root / "test")
    with pytest.raises(ValueError, match="for the split test · expected a table of pairs for dev only"):
        dl.datasets.load("intphys", root=root, split="test", pairs=table(root, *published()))


def test_lines_of_blocks_that_are_not_read_are_passed_over(root: Path) -> None:
    (only,) = dl.datasets.load("intphys", root=root, blocks=("O3",), pairs=table(root, *published()))
    assert only.id == "intphys/dev/O3/01"


def test_pairs_of_different_scenes_do_not_mix() -> None:
    """Positive control of the fixtures: clips of two scenes are never the same, those of one are in two and two."""
    videos = [video for seed in range(2) for video in quartet(seed=seed).values()]
    for i, j in combinations(range(8), 2):
        assert (videos[i] == videos[j]).all(axis=(1, 2, 3)).any() == (i // 4 == j // 4)
