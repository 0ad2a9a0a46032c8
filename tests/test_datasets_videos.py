"""InfLevel, IntPhys 2, GRASP, LikePhys and PhyWorld, from folders with the names and keys of their releases."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from video_files import noise, write_mp4

import dit_lens as dl
from dit_lens.datasets import Framing, inflevel, intphys2, recordings

pytest.importorskip("av")


def videos(root: Path, names: dict[str, int], fps: int = 30) -> Path:
    """Videos of so many frames under their names, each with what macOS leaves beside it."""
    for seed, (name, count) in enumerate(names.items()):
        path = write_mp4(root / name, noise(count, seed), fps)
        path.with_name(f"._{path.name}").write_bytes(b"what macOS leaves")
    return root


@pytest.fixture(autouse=True)
def untold() -> None:
    recordings.tell_once.cache_clear()


# InfLevel.

CONTINUITY = "inflevel_lab/continuity/center__continuity__darkbluecup__blueclover__{}__LR.mp4"
GRAVITY = "inflevel_lab/gravity/center__gravity__bigbluecup__blackcrayon__{}.mp4"
SIM = "inflevel_sim/continuity/center__continuity__AlarmClock_1f0ef200__Bowl_Container_7b5a3edb__{}.mp4"
PRIMING = {"continuity": 3, "gravity": 2}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole group of continuity, one of gravity, one of sim, and one of gravity that lacks a trial."""
    names = {CONTINUITY.format(trial): 9 + i for i, trial in enumerate(("ii", "iv", "vi", "vv"))}
    names |= {GRAVITY.format(trial): 7 for trial in ("ci", "cv", "ui", "uv")}
    names |= {GRAVITY.format(trial).replace("crayon", "pen"): 7 for trial in ("ci", "ui", "uv")}
    names |= {SIM.format(trial): 5 for trial in ("ii", "iv", "vi", "vv")}
    return videos(tmp_path_factory.mktemp("inflevel"), names)


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_inflevel_groups_have_four_trials_possible_ones_first(lab: Path) -> None:
    continuity, gravity = dl.datasets.load("inflevel", root=lab, priming=PRIMING)
    assert [clip.role for clip in continuity.clips] == ["vv", "ii", "vi", "iv"]
    assert [clip.role for clip in gravity.clips] == ["cv", "ui", "ci", "uv"]
    for group in (continuity, gravity):
        assert [clip.possible for clip in group.clips] == [True, True, False, False]
        assert all(group.clips[i].role[0] == group.clips[j].role[0] for i, j in group.matches)
        assert all(group.clips[i].possible and not group.clips[j].possible for i, j in group.matches)
    assert continuity.id == "inflevel/lab/continuity/center__darkbluecup__blueclover__LR"
    factors = continuity.clips[0].factors
    assert (factors["cover"], factors["object"], factors["direction"]) == ("darkbluecup", "blueclover", "LR")


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_inflevel_priming_is_trimmed_and_lengths_are_made_alike_in_front(lab: Path) -> None:
    group = dl.datasets.load("inflevel", root=lab, priming=PRIMING)[0]
    used = {clip.role: clip.factors["frame_indices"] for clip in group.clips}
    assert used == {"ii": (*range(3, 9),), "iv": (*range(4, 10),), "vi": (*range(5, 11),), "vv": (*range(6, 12),)}
    (apart,) = dl.datasets.load("inflevel", root=lab, properties=["continuity"], priming=PRIMING, aligned=False)
    assert [len(clip.frames) for clip in apart.clips] == [9, 6, 8, 7]
    with pytest.raises(ValueError, match=r"vv__LR\.mp4 with 12 frames · expected more than the 330 that are trimmed"):
        dl.datasets.load("inflevel", root=lab, properties=["continuity"])[0]


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_inflevel_incomplete_groups_are_left_out_and_listed(lab: Path) -> None:
    loaded = inflevel.InfLevel(lab, properties=["gravity"])
    assert len(loaded) == 1 and loaded.left_out == {"inflevel/lab/gravity/center__bigbluecup__blackpen": ("cv",)}


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation")
def test_inflevel_sim_names_the_object_before_the_cover(lab: Path) -> None:
    (group,) = dl.datasets.load("inflevel", root=lab, split="sim", priming={})
    factors = group.clips[0].factors
    assert (factors["object"], factors["cover"]) == ("AlarmClock_1f0ef200", "Bowl_Container_7b5a3edb")
    assert len(group.clips[0].frames) == 5
    with pytest.raises(ValueError, match="no priming for InfLevel sim"):
        dl.datasets.load("inflevel", root=lab, split="sim")


def test_the_licence_is_told_once_and_kept_on_record(lab: Path) -> None:
    with pytest.warns(UserWarning, match="allow no training or fine-tuning"):
        dl.datasets.load("inflevel", root=lab)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = dl.datasets.load("inflevel", root=lab, priming=PRIMING)[0]
    assert {clip.factors["policy"] for clip in group.clips} == {"eval-only"}
    assert {clip.factors["licence"] for clip in group.clips} == {inflevel.NOTICE}


@pytest.mark.parametrize(
    "name", ["a__continuity__b__c__vv.mp4", "a__gravity__b__c__vv__LR.mp4", "a__continuity__b__c__xv__LR.mp4"]
)
def test_inflevel_files_of_other_names_are_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / "inflevel_lab" / "continuity" / name
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(ValueError, match=rf"{name}"):
        dl.datasets.load("inflevel", root=tmp_path)


# IntPhys 2.

COLUMNS = [
    "SceneIndex",
    "name",
    "file_name",
    "game_name",
    "condition",
    "env",
    "type",
    "occluder",
    "Difficulty",
    "Camera",
]


def table(folder: Path, rows: list[list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder.parent


def line(scene: int, name: str, kind: str) -> list[str]:
    return [str(scene), name, f"Videos/{name}.mp4", "game", "permanence", "SaltFlats", kind, "wall", "Medium", "Fixed"]


@pytest.mark.filterwarnings("ignore:IntPhys 2 is")
def test_intphys2_matches_the_two_films_of_a_number(tmp_path: Path) -> None:
    kinds = ["2_Impossible", "1_Possible", "2_Possible", "1_Impossible"]
    root = table(tmp_path / "Main", [line(7, f"v{i}", kind) for i, kind in enumerate(kinds)])
    videos(root / "Main" / "Videos", {f"v{i}.mp4": 6 for i in range(4)}, fps=60)
    (group,) = dl.datasets.load("intphys2", root=root, framing=Framing(step=2))
    assert {clip.role: clip.possible for clip in group.clips} == {kind: kind.endswith("_Possible") for kind in kinds}
    matched = [(group.clips[i].role, group.clips[j].role) for i, j in group.matches]
    assert matched == [("1_Possible", "1_Impossible"), ("2_Possible", "2_Impossible")]
    assert group.property == "permanence" and group.id == "intphys2/Main/7" and group.clips[0].fps == 30
    for clip in group.clips:
        assert np.array_equal(clip.frames, noise(6, int(clip.factors["name"][1:]))[::2])
        assert clip.factors["Camera"] == "Fixed" and clip.factors["policy"] == "eval-only"


@pytest.mark.filterwarnings("ignore:IntPhys 2 is")
def test_intphys2_held_out_films_have_no_label_and_others_must(tmp_path: Path) -> None:
    rows = [line(1, f"v{i}", "") for i in range(4)]
    for split in ("HeldOut", "Main"):
        table(tmp_path / split, rows)
        videos(tmp_path / split / "Videos", {f"v{i}.mp4": 3 for i in range(4)})
    (group,) = dl.datasets.load("intphys2", root=tmp_path, split="HeldOut")
    assert {clip.possible for clip in group.clips} == {None} and group.matches == ()
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2, type ''"):
        dl.datasets.load("intphys2", root=tmp_path, split="Main")
    (tmp_path / "HeldOut" / "Videos" / "v2.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"v2\.mp4"):
        dl.datasets.load("intphys2", root=tmp_path, split="HeldOut")
    assert intphys2.POLICY == "eval-only"


@pytest.mark.filterwarnings("ignore:IntPhys 2 is")
def test_intphys2_refuses_one_film_on_two_lines(tmp_path: Path) -> None:
    kinds = ["1_Possible", "1_Impossible", "2_Possible", "2_Impossible"]
    rows = [line(1, f"v{place}", kind) for place, kind in enumerate(kinds)]
    videos(tmp_path / "Main" / "Videos", {f"v{place}.mp4": 3 for place in range(4)})
    table(tmp_path / "Main", [*rows[:3], line(2, "v0", "2_Impossible")])
    with pytest.raises(ValueError, match=r"line 5 and .*line 2 for the same video · expected one line for each video"):
        dl.datasets.load("intphys2", root=tmp_path)
    table(tmp_path / "Main", rows)
    assert len(dl.datasets.load("intphys2", root=tmp_path)) == 1


# GRASP.


def test_grasp_pairs_are_of_one_number(tmp_path: Path) -> None:
    names = [
        f"level2/{side}_{prop}/00{i}.mp4" for prop in ("Collision", "Inertia2") for side in ("P", "IP") for i in (0, 1)
    ]
    videos(tmp_path, dict.fromkeys(names, 5), fps=50)
    groups = dl.datasets.load("grasp", root=tmp_path)
    assert [group.id for group in groups] == [
        f"grasp/level2/{p}/00{i}" for p in ("Collision", "Inertia2") for i in (0, 1)
    ]
    possible, impossible = groups[3].clips
    assert possible.possible is True and impossible.possible is False and groups[3].matches == ((0, 1),)
    assert np.array_equal(possible.frames, noise(5, 5)) and np.array_equal(impossible.frames, noise(5, 7))
    assert possible.fps == 50 and groups[3].property == "Inertia2"
    (tmp_path / "level2/IP_Collision/001.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"IP_Collision/001\.mp4"):
        dl.datasets.load("grasp", root=tmp_path)
    assert len(dl.datasets.load("grasp", root=tmp_path, properties=["Inertia2"])) == 2


# LikePhys.


def test_likephys_matches_the_valid_film_with_violations_of_physics_alone(tmp_path: Path) -> None:
    names = ("valid", "bounce_higher", "temporal_disorder", "color_change", "pass_through")
    videos(tmp_path / "data/ball_drop_videos/subgroup_000", {f"{name}_00.mp4": 4 for name in names})
    (group,) = dl.datasets.load("likephys", root=tmp_path)
    assert [(clip.role, clip.possible) for clip in group.clips] == [
        ("valid_00", True),
        ("bounce_higher_00", False),
        ("pass_through_00", False),
    ]
    assert group.matches == ((0, 1), (0, 2)) and group.property == "ball_drop"
    (whole,) = dl.datasets.load("likephys", root=tmp_path, controls=True)
    unknown = {clip.factors["violation"] for clip in whole.clips if clip.possible is None}
    assert unknown == {"temporal_disorder", "color_change"}
    assert [whole.clips[j].role for _, j in whole.matches] == ["bounce_higher_00", "pass_through_00"]
    (tmp_path / "data/ball_drop_videos/subgroup_000/valid_00.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"subgroup_000/valid_00\.mp4"):
        dl.datasets.load("likephys", root=tmp_path)
    (tmp_path / "data/ball_drop_videos/subgroup_000/preview.mp4").touch()
    with pytest.raises(ValueError, match=r"preview\.mp4 · expected a name such as valid_00"):
        dl.datasets.load("likephys", root=tmp_path)


# PhyWorld.


@pytest.fixture
def phyworld(tmp_path: Path) -> Path:
    path = tmp_path / "id_ood_data" / "parabola_eval.hdf5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for stream, count in {"00000": 3, "00001": 2}.items():
            videos = [write_mp4(tmp_path / "video.mp4", noise(32, seed)).read_bytes() for seed in range(count)]
            blobs = np.empty(count, dtype=object)
            blobs[:] = [np.frombuffer(video, np.uint8) for video in videos]
            file.create_dataset(f"video_streams/{stream}", data=blobs, dtype=h5py.vlen_dtype(np.uint8))
            file[f"position_streams/{stream}"] = np.arange(count * 64, dtype=np.float32).reshape(count, 32, 2)
            file[f"init_streams/{stream}"] = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    return tmp_path


def test_phyworld_has_true_positions_at_the_frames_that_are_used_and_no_prompt(phyworld: Path) -> None:
    framing = Framing(multiple=8, policy="drop-tail")
    groups = dl.datasets.load("phyworld", root=phyworld, framing=framing)
    (clip,) = groups[2].clips
    assert len(groups) == 3 and np.array_equal(clip.frames, noise(32, 2)[:25])
    assert clip.tracks[0].position[:, 1].tolist() == list(range(129, 129 + 50, 2))
    assert np.isnan(clip.tracks[0].velocity).all()
    assert (clip.factors["prompt"], clip.factors["x0"], clip.factors["v0"]) == ("", 4, 5) and clip.possible is None
    assert len(dl.datasets.load("phyworld", root=phyworld, split="ood")) == 2


def test_phyworld_says_which_file_and_stream_is_at_fault(phyworld: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"collision_eval\.hdf5"):
        dl.datasets.load("phyworld", root=phyworld, motion="collision")
    with h5py.File(phyworld / "id_ood_data" / "parabola_eval.hdf5", "a") as file:
        file["video_streams/00000"][1] = file["video_streams/00000"][1][:500]
        del file["init_streams/00001"]
    groups = dl.datasets.load("phyworld", root=phyworld)
    assert len(groups[0].clips[0].frames) == 32
    with pytest.raises(ValueError, match=r"parabola_eval\.hdf5:video_streams/00000\[1\], which cannot be read"):
        groups[1]
    with pytest.raises(ValueError, match="without init_streams/00001"):
        dl.datasets.load("phyworld", root=phyworld, split="ood")
