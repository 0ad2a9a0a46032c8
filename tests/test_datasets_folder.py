"""Clips of one's own: found by name, or grouped and labelled by a table; nothing is guessed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import noise

import dit_lens as dl
from dit_lens.datasets import Framing

REAL = Path(__file__).parents[2] / "shared" / "clips" / "intphys"


def frames_folder(folder: Path, frames: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:04}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders one, two and three of 6, 7 and 8 frames, and an animated image."""
    for seed, name in enumerate(("one", "two", "three")):
        frames_folder(tmp_path / name, noise(6 + seed, seed))
    first, *others = map(Image.fromarray, noise(4))
    first.save(tmp_path / "four.gif", save_all=True, append_images=others, duration=40)
    (tmp_path / "._four.gif").write_bytes(b"what macOS leaves")
    (tmp_path / "notes").mkdir()
    return tmp_path


def write_table(root: Path, *lines: str) -> Path:
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return root


def test_without_a_table_each_clip_is_by_itself_and_unlabelled(root: Path) -> None:
    groups = {g.clips[0].factors["path"]: g for g in dl.datasets.load("folder", root=root, fps=12)}
    assert set(groups) == {"four.gif", "one", "two", "three"}
    assert {(len(g.clips), g.clips[0].possible) for g in groups.values()} == {(1, None)}
    assert np.array_equal(groups["two"].clips[0].frames, noise(7, 1))
    assert (groups["two"].clips[0].fps, groups["four.gif"].clips[0].fps) == (12, 25)
    assert len({g.id for g in groups.values()}) == 4


def test_frames_without_a_rate_are_told(root: Path) -> None:
    with pytest.raises(ValueError, match=r"one, which states no frame rate .* pass fps"):
        dl.datasets.load("folder", root=root)[1]


def test_a_table_groups_labels_and_matches(root: Path) -> None:
    lines = ["one,Impossible,g,fall,5,x", "two,1,g,fall,6,y", "three,0,g,fall,7,z", "four.gif,unknown,h,,,w"]
    write_table(root, "path,label,group,property,fps,note", *lines)
    g, h = dl.datasets.load("folder", root=root)
    assert [clip.possible for clip in g.clips] == [False, True, False] and g.matches == ((1, 0), (1, 2))
    assert [clip.fps for clip in g.clips] == [5, 6, 7] and g.property == "fall"
    assert [clip.factors["note"] for clip in g.clips] == ["x", "y", "z"] and len({clip.id for clip in g.clips}) == 3
    assert h.clips[0].possible is None and h.clips[0].fps == 25 and h.matches == ()


def test_a_table_without_labels_leaves_them_unknown(root: Path) -> None:
    (group,) = dl.datasets.load("folder", root=write_table(root, "path", "one"), fps=8)
    assert group.clips[0].possible is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("path,label", "one,1", "two,"), r"clips\.csv, line 3, label ''"),
        (("path,label", "one,yes"), r"clips\.csv, line 2, label 'yes' · expected one of 1, true"),
        (("path,label", "one"), r"clips\.csv, line 2, with more or fewer cells than the header · expected 2 cells"),
        (("path,label", ",1"), r"clips\.csv, line 2, without a path"),
        (("path,label", "one,1,2"), r"clips\.csv, line 2, with more or fewer cells than the header"),
        (("file,label", "one,1"), r"clips\.csv with columns \['file', 'label'\]"),
        (("path,fps", "one,fast"), r"clips\.csv, line 2, fps 'fast'"),
        (("path,fps", "one,nan"), r"clips\.csv, line 2, fps 'nan'"),
        (("path,fps", "one,-5"), r"clips\.csv, line 2, fps '-5' · expected a positive number of frames per second"),
        (("path,group,property", "one,g,fall", "two,g,rise"), r"line 3\) with several .* · expected one property"),
        (("path,group,role", "one,g,A", "two,g,A"), r"a role of its own for each clip"),
        (("path",), r"got no clips in"),
    ],
)
def test_a_bad_line_is_told_by_its_number(root: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dl.datasets.load("folder", root=write_table(root, *lines))


def test_one_film_on_two_lines_is_refused_with_both(root: Path) -> None:
    for lines in (
        ("one,1,g", "two,0,g", "one,0,h"),  # both sides of a split
        ("one,1,g", "two,0,g", "one,0,g"),  # both labels
        ("one,1,g", "two,0,g", "./one,1,g"),
    ):
        table = write_table(root, "path,label,group", *lines)
        group, label = lines[2][-1], lines[2][-3]
        places = rf"line 4 \(group '{group}', label '{label}'\) and in .*clips\.csv, line 2 \(group 'g', label '1'\)"
        with pytest.raises(ValueError, match=rf"one twice, in .*clips\.csv, {places}"):
            dl.datasets.load("folder", root=table, fps=8)


def test_copies_of_one_film_in_two_groups_are_refused(root: Path) -> None:
    frames_folder(root / "again", noise(7, 1))
    shutil.copy(root / "four.gif", root / "five.gif")
    for original, copy in (("two", "again"), ("four.gif", "five.gif")):
        write_table(root, "path,group", "one,g", f"{original},g", f"{copy},h")
        with pytest.raises(
            ValueError, match=rf"{copy} in \S*/h and its copy \S*{original} in \S*/g · expected each video"
        ):
            dl.datasets.load("folder", root=root, fps=8)
        write_table(root, "path,group", "one,g", f"{original},h", f"{copy},h")
        assert len(dl.datasets.load("folder", root=root, fps=8)) == 2
    (root / "clips.csv").unlink()
    with pytest.raises(ValueError, match=r"and its copy"):
        dl.datasets.load("folder", root=root, fps=8)


def test_blanks_around_cells_do_not_count(root: Path) -> None:
    write_table(root, "path,label,group,note", " one , 1 ,g1,x ", "two,0,g1 ,y")
    (scene,) = dl.datasets.load("folder", root=root, fps=8)
    assert [clip.possible for clip in scene.clips] == [True, False] and scene.id.endswith("/g1")
    assert [clip.factors["note"] for clip in scene.clips] == ["x", "y"] and scene.clips[0].factors["path"] == "one"


@pytest.mark.parametrize("column", [" label", "Label", "labels", "lable", "group ", "propertey", "Path"])
def test_a_column_that_is_nearly_one_that_counts_is_refused(root: Path, column: str) -> None:
    with pytest.raises(
        ValueError, match=rf"clips\.csv with the column '{column}' · expected '\w+', which it resembles"
    ):
        dl.datasets.load("folder", root=write_table(root, f"path,{column}", "one,1"), fps=8)


def test_columns_of_other_names_are_factors(root: Path) -> None:
    write_table(root, "path,label,colour,camera,date", "one,1,red,left,today")
    (scene,) = dl.datasets.load("folder", root=root, fps=8)
    assert scene.clips[0].factors["colour"] == "red"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\none,m\xf6glich\n".encode("latin-1"), r"clips\.csv, which cannot be read .* UTF-8"),
        (b'path,label\n"one,1\n', r"clips\.csv, which cannot be read"),
        (b"path,label,label\none,1,0\n", r"clips\.csv with columns .* each column once"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_its_name(root: Path, content: bytes, message: str) -> None:
    (root / "clips.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        dl.datasets.load("folder", root=root, fps=8)


def test_a_listed_clip_that_is_not_there_is_told_before_anything_is_read(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got no .*five"):
        dl.datasets.load("folder", root=write_table(root, "path", "one", "five"), fps=8)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dl.datasets.load("folder", root=root / "nowhere")


@pytest.mark.skipif(not REAL.exists(), reason="the example clips of IntPhys are not at hand")
def test_real_intphys_clips_are_read_at_a_length_that_autoencoders_take() -> None:
    framing = Framing(multiple=4, policy="resample", size=(64, 64), fit="crop")
    groups = dl.datasets.load("folder", root=REAL, framing=framing)[:2]
    for group in groups:
        (clip,) = group.clips
        assert clip.frames.shape == (101, 64, 64, 3) and clip.possible is None
        assert clip.factors["source_frames"] == 102 and clip.factors["source_fps"] == 10
        assert clip.frames[50].std() > 5
