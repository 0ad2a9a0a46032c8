"""Scenes of any data set: made comparable, chosen, divided; what is said of them before reading is what is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_files import noise, write_mp4

import dit_lens as dl
from dit_lens.clips import ROLES, Clip, Scene
from dit_lens.datasets import scenes
from dit_lens.datasets.export import export_intphys
from dit_lens.datasets.recordings import Outline
from dit_lens.datasets.scenes import Scenes, all_scenes, divide, labelled_clips, labelled_pairs
from dit_lens.toy.miniphys import PROPERTIES, MiniPhys

SILENT = pytest.mark.filterwarnings("ignore:InfLevel is for evaluation", "ignore:IntPhys 2 is")


class Listed(Sequence[Scene]):
    """A data set of outlines whose frames nobody reads."""

    def __init__(self, outlines: Sequence[Outline]):
        self.outlines = list(outlines)

    def __len__(self) -> int:
        return len(self.outlines)

    def __getitem__(self, index):
        raise AssertionError("read a frame")

    def outline(self, index: int) -> Outline:
        return self.outlines[index]


def listed(groups: dict[str, int], pairs: int = 1) -> Listed:
    """So many scenes of each property, each of one possible clip and so many impossible ones."""
    matches = tuple((0, j) for j in range(1, pairs + 1))
    labels = (True, *(False,) * pairs)
    return Listed(
        [Outline(f"{prop}/{i}", prop, labels, matches) for prop, count in groups.items() for i in range(count)]
    )


# Data sets as they lie on disk.

INFLEVEL = {
    "continuity": "inflevel_lab/continuity/center__continuity__cup__clover__{}__LR.mp4",
    "gravity": "inflevel_lab/gravity/center__gravity__cup__crayon__{}.mp4",
}
TRIALS = {"continuity": ("vv", "ii", "vi", "iv"), "gravity": ("cv", "ui", "ci", "uv")}
PRIMING = {"continuity": 0, "gravity": 0}


def crossing(seed: int, splice: int = 3, count: int = 6) -> list[np.ndarray]:
    """Videos A, B, C, D of which C is A and then B, and D is B and then A."""
    a, b = noise(count, 2 * seed), noise(count, 2 * seed + 1)
    return [a, b, np.concatenate([a[:splice], b[splice:]]), np.concatenate([b[:splice], a[splice:]])]


@pytest.fixture(scope="module")
def inflevel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("inflevel")
    for seed, (prop, name) in enumerate(INFLEVEL.items()):
        for trial, video in zip(TRIALS[prop], crossing(seed), strict=True):
            write_mp4(root / name.format(trial), video)
    return root


@pytest.fixture(scope="module")
def intphys2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, their videos in another order than the readers'."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("intphys2") / "Main"
    kinds = dict(zip(("1_Possible", "2_Possible", "1_Impossible", "2_Impossible"), range(4), strict=True))
    lines = ["SceneIndex,name,file_name,condition,type"]
    for scene in (1, 2):
        for kind in sorted(kinds, reverse=True):
            write_mp4(folder / "Videos" / f"{scene}{kind}.mp4", crossing(scene)[kinds[kind]], fps=60)
            lines.append(f"{scene},{scene}{kind},Videos/{scene}{kind}.mp4,permanence,{kind}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder.parent


@pytest.fixture(scope="module")
def likephys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenarios of two subgroups; a violation that begins as the valid video does, and one that does not."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("likephys")
    for seed, (scenario, number) in enumerate([(s, n) for s in ("ball_drop", "flag") for n in (0, 1)]):
        folder = root / f"data/{scenario}_videos/subgroup_{number:03}"
        valid, early, late, _ = crossing(seed)
        for name, video in {"valid": valid, "late": late, "early": early, "color_change": noise(6, 99)}.items():
            write_mp4(folder / f"{name}_00.mp4", video)
    return root


@pytest.fixture(scope="module")
def intphys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = MiniPhys("test", 4, ("permanence", "shape"))
    return export_intphys(world, tmp_path_factory.mktemp("intphys"), shuffle=2).parent


@SILENT
def test_inflevel_and_intphys2_come_out_as_a_b_c_d_with_the_partners_that_begin_alike(
    inflevel: Path, intphys2: Path
) -> None:
    continuity, gravity = labelled_pairs(dl.datasets.load("inflevel", root=inflevel, priming=PRIMING))
    assert [clip.factors["data_role"] for clip in continuity.clips] == ["vv", "ii", "vi", "iv"]
    assert [clip.factors["data_role"] for clip in gravity.clips] == ["cv", "ui", "ci", "uv"]
    two = labelled_pairs(dl.datasets.load("intphys2", root=intphys2))
    for scene in two:
        kinds = [clip.factors["data_role"] for clip in scene.clips]
        assert kinds == ["1_Possible", "2_Possible", "1_Impossible", "2_Impossible"]
    for scene in (continuity, gravity, *two):
        assert scene.roles == ROLES and scene.matches == ((0, 2), (1, 3)) and not scene.crossed
        assert [clip.possible for clip in scene.clips] == [True, True, False, False]
        assert scene.breaks == ((3,), (3,)) and scene.splices == (3, 3, 3, 3)  # these videos are stored without loss
        assert [clip.id for clip in scene.clips] == [f"{scene.id}/{role}" for role in ROLES]
        assert [pair.shares for pair in scene.pairs()] == ["first", "first"]


def test_units_of_one_likephys_scene_are_pairs_of_one_group(likephys: Path) -> None:
    source = dl.datasets.load("likephys", root=likephys, controls=True)
    pairs = labelled_pairs(source)
    assert len(source) == 4 and len(pairs) == 8 and len(set(pairs.groups)) == 4
    for index, pair in enumerate(pairs):
        assert pair.roles == ("A", "C") and pair.group == pairs.groups[index] == source[index // 2].id
        assert pair["A"].factors["data_role"] == "valid_00"
        assert (pair.breaks == ((3,),)) == (pair["C"].factors["violation"] == "late")
        assert pair.breaks in (((3,),), ((),))  # the other begins otherwise
    for part in divide(pairs, 0.5):
        assert len(part) == 4 and len(set(part.groups)) == 2 and set(part.properties) == {"ball_drop", "flag"}


@SILENT
@pytest.mark.parametrize("name", ["miniphys", "intphys", "inflevel", "intphys2", "likephys"])
@pytest.mark.parametrize("kind", [labelled_pairs, labelled_clips, all_scenes])
def test_what_is_said_before_reading_is_what_is_read(name: str, kind, request: pytest.FixtureRequest) -> None:
    options: dict = {"quadruplets": 3} if name == "miniphys" else {"root": request.getfixturevalue(name)}
    options |= {"inflevel": {"priming": PRIMING}, "likephys": {"controls": True}}.get(name, {})
    chosen = kind(dl.datasets.load(name, **options))
    ids = []
    for index, scene in enumerate(chosen):
        outline = chosen.outline(index)
        assert (outline.id, outline.property, outline.group) == (scene.id, scene.property, scene.group)
        assert outline.labels == tuple(clip.possible for clip in scene.clips) and outline.clips == len(scene.clips)
        assert outline.matches == scene.matches and chosen.roles in (None, scene.roles)
        assert outline.policy == scene.clips[0].factors.get("policy", "")
        assert (chosen.groups[index], chosen.properties[index]) == (scene.group, scene.property)
        ids += [clip.id for clip in scene.clips]
    assert len(ids) == len(set(ids))


def test_quadruplets_are_handed_out_as_they_are(intphys: Path) -> None:
    source = dl.datasets.load("intphys", root=intphys)
    for scene, original in zip(labelled_pairs(source), source, strict=True):
        assert scene.crossed and scene.breaks == original.breaks and scene.id == original.id
        assert all(np.array_equal(x.frames, y.frames) for x, y in zip(scene.clips, original.clips, strict=True))


def test_pairs_of_quadruplets_beside_single_pairs_keep_their_own_breaks() -> None:
    """A quadruplet beside a scene of one pair: three pairs, each with the breaks of its match."""

    def clip(role: str, possible: bool, scene: str) -> Clip:
        return Clip(f"{scene}/{role}", noise(4, ord(role)), possible, scene, role, "p")

    four = Scene("q", tuple(clip(r, r in "AB", "q") for r in ROLES), ((0, 2), (1, 3)), ((1,), (2,)), True, "e")
    two = Scene("s", (clip("x", False, "s"), clip("y", True, "s")), ((1, 0),), ((3,),))

    class Source(list):
        def outline(self, index: int) -> Outline:
            scene = self[index]
            return Outline(scene.id, "p", tuple(c.possible for c in scene.clips), scene.matches)

    pairs = labelled_pairs(Source([four, two]))
    assert [scene.id for scene in pairs] == ["q#0", "q#1", "s"] and pairs.groups == ["q", "q", "s"]
    assert [scene.breaks for scene in pairs] == [((1,),), ((2,),), ((3,),)]
    assert [[c.factors["data_role"] for c in scene.clips] for scene in pairs] == [["A", "C"], ["B", "D"], ["y", "x"]]
    assert not any(scene.crossed for scene in pairs) and {scene.event for scene in pairs} == {"e", ""}


# Choosing.


def test_frames_are_read_when_a_scene_is_asked_for() -> None:
    source = listed({"a": 4, "b": 4}, pairs=2)
    pairs = labelled_pairs(source)
    first, second = divide(pairs.first(8), 0.5)
    assert len(first) + len(second) == 8 and pairs.properties == ["a"] * 8 + ["b"] * 8
    with pytest.raises(AssertionError, match="read a frame"):
        pairs[0]


def test_scenes_without_labels_have_no_part(tmp_path: Path) -> None:
    source = Listed(
        [
            Outline("x", "a", (True, None), ((0, 1),)),
            Outline("y", "a", (None, None), ((0, 1),)),
            Outline("z", "a", (True, False), ((0, 1),)),
            Outline("v", "b", (True,)),
        ]
    )
    assert [outline.id for outline in labelled_pairs(source).outlines] == ["z"]
    assert [outline.id for outline in labelled_clips(source).outlines] == ["x", "z", "v"]
    assert [outline.id for outline in all_scenes(source).outlines] == ["x", "y", "z", "v"]
    assert [outline.id for outline in all_scenes(source, ["b"]).outlines] == ["v"]
    with pytest.raises(ValueError, match="got 1 scenes without a labelled pair"):
        labelled_pairs(source, ["b"])
    with pytest.raises(ValueError, match="got 1 scenes without labels ·"):
        labelled_clips(Listed(source.outlines[1:2]))
    with pytest.raises(ValueError, match=r"got property 'bb' · expected one of a, b; did you mean 'b'\?"):
        all_scenes(source, ["bb"])


def test_two_scenes_of_one_id_are_refused_with_their_places() -> None:
    source = Listed([Outline(name, "a", (True, False), ((0, 1),)) for name in ("x", "y", "x")])
    for kind in (labelled_pairs, labelled_clips, all_scenes):
        with pytest.raises(ValueError, match=r"two scenes with the id x, items 0 and 2 of the data set · .* · rename"):
            kind(source)
    assert len(all_scenes(Listed(source.outlines[:2]))) == 2


def test_a_part_of_the_scenes_is_at_even_distances_and_of_all_properties() -> None:
    pairs = labelled_pairs(listed(dict.fromkeys(PROPERTIES, 5)))
    assert set(pairs.first(len(PROPERTIES)).properties) == set(PROPERTIES) and len(pairs.first(1000)) == len(pairs)
    assert pairs.at([3, 1]).groups == [pairs.groups[3], pairs.groups[1]]


def test_scenes_of_scenes_keep_their_groups() -> None:
    pairs = labelled_pairs(listed({"a": 3}, pairs=2))
    again = all_scenes(pairs)
    assert again.groups == pairs.groups and [o.id for o in again.outlines] == [o.id for o in pairs.outlines]


# Dividing.

WORLDS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1).filter(lambda w: sum(w.values()) > 1)


@given(world=WORLDS, pairs=st.integers(1, 3), share=st.floats(0.05, 0.95), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_groups_stay_on_one_side_and_every_property_has_its_share(
    world: dict[str, int], pairs: int, share: float, seed: int
) -> None:
    chosen = labelled_pairs(listed(world, pairs))
    alone = sum(count == 1 for count in world.values())
    if not any(count > 1 for count in world.values()) and alone < 2:
        return
    fit, test = divide(chosen, share, seed)
    assert not set(fit.groups) & set(test.groups) and len(fit) + len(test) == len(chosen)
    assert sorted([o.id for o in fit.outlines] + [o.id for o in test.outlines]) == sorted(o.id for o in chosen.outlines)
    for prop, count in world.items():
        if count > 1:
            part = len({g for g, p in zip(fit.groups, fit.properties, strict=True) if p == prop})
            assert part == np.clip(round(share * count), 1, count - 1)


@given(world=WORLDS, share=st.floats(0.05, 0.95), seed=st.integers(0, 9), shuffle=st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_who_is_on_which_side_does_not_depend_on_the_order_of_scenes_and_properties(
    world: dict[str, int], share: float, seed: int, shuffle
) -> None:
    source = listed(world)
    shuffled = Listed(shuffle.sample(source.outlines, len(source)))
    parts = []
    for each in (source, source, shuffled):
        try:
            parts.append([set(part.groups) for part in divide(labelled_pairs(each), share, seed)])
        except ValueError:
            parts.append([])
    assert parts[0] == parts[1] == parts[2]


def test_a_property_is_divided_as_it_is_alone_and_seeds_differ() -> None:
    whole, part = (labelled_pairs(listed(world)) for world in ({"a": 8, "b": 6}, {"a": 8}))
    fit = {group for group in divide(whole, 0.5)[0].groups if group.startswith("a/")}
    assert fit == set(divide(part, 0.5)[0].groups)
    assert len({frozenset(divide(part, 0.5, seed)[0].groups) for seed in range(6)}) > 1


def test_properties_of_one_scene_each_are_divided_together() -> None:
    fit, test = divide(labelled_pairs(listed(dict.fromkeys("abcd", 1))), 0.5)
    assert len(fit) == len(test) == 2


def test_a_single_group_and_an_impossible_share_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"got 1 independent scenes to divide, . of them to fit probes on .* use more scenes"
    ):
        divide(labelled_pairs(listed({"a": 1}, pairs=3)), 0.6)
    with pytest.raises(ValueError, match=r"got share=70 of scenes"):
        divide(labelled_pairs(listed({"a": 4})), 70)


# Breaks of videos that were compressed.


def grasp(root: Path, videos: dict[str, np.ndarray], quality: str) -> Path:
    import av

    for side, frames in videos.items():
        path = root / "level2" / f"{side}_Collision" / "000.mp4"
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=50, options={"crf": quality, "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return root


def test_breaks_of_compressed_films_are_seen_to_a_tolerance_that_is_on_record(tmp_path: Path) -> None:
    """A square that moves over a lawn stands still from frame 12 on; the encoder looks ahead, and
    frames before that are not the same to the bit.
    """
    pytest.importorskip("av")
    lawn = np.asarray(Image.fromarray(noise(1, 5, 24, 32)[0] // 3).resize((128, 96)))
    moving = np.repeat(lawn[None], 24, 0)
    for time, frame in enumerate(moving):
        frame[40:60, 4 * time : 4 * time + 20] = (250, 240, 40)
    still = moving.copy()
    still[12:] = moving[11]
    root = grasp(tmp_path, {"P": moving, "IP": still}, "18")
    exact, near = (labelled_pairs(dl.datasets.load("grasp", root=root, tolerance=t))[0] for t in (0.0, 8.0))
    assert exact.splice < 12 and near.breaks == ((12,),)
    for pair, tolerance in ((exact, 0.0), (near, 8.0)):
        assert {clip.factors["break_tolerance"] for clip in pair.clips} == {tolerance}
    assert dl.datasets.load("grasp", root=root, tolerance=300.0)[0].breaks == ((),)  # no break is seen
    with pytest.raises(ValueError, match=r"got tolerance=-2"):
        dl.datasets.load("grasp", root=root, tolerance=-2.0)
    (root / "level2/P_Collision/000.mp4").write_bytes((root / "level2/IP_Collision/000.mp4").read_bytes())
    with pytest.raises(ValueError, match=r"000/P and .*000/IP, which are equal in all 24 frames that are used"):
        dl.datasets.load("grasp", root=root)[0]


def test_the_module_hands_out_sequences() -> None:
    chosen = all_scenes(MiniPhys("test", 3, ("shape",)))
    assert (
        isinstance(chosen, Scenes)
        and len(chosen[1:]) == 2
        and [scene.id for scene in chosen[:2]] == [outline.id for outline in chosen.outlines[:2]]
    )
    assert chosen[-1].id == chosen.outlines[-1].id and scenes.PAIR == ("A", "C")
