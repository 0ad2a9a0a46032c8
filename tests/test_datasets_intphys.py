"""IntPhys: what miniphys exports comes back, and what the release looks like is read as it is."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import noise

import dit_lens as dl
from dit_lens.clips import ROLES
from dit_lens.datasets import Framing
from dit_lens.datasets.export import export_intphys
from dit_lens.datasets.intphys import IntPhys, write_submission
from dit_lens.toy.miniphys import PROPERTIES, SPLICE, MiniPhys

WORLD = MiniPhys("test", len(PROPERTIES))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of each property, its clips in another order."""
    return export_intphys(WORLD, tmp_path_factory.mktemp("out"), shuffle=3).parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scenes of O1 in the order C, A, D, B and A, B, C, D, as the release has them."""
    for scene, roles in {"01": "CADB", "02": "ABCD"}.items():
        for number, role in enumerate(roles, start=1):
            write_clip(tmp_path / "dev" / "O1" / scene / str(number), quartet(int(scene))[role], role in "AB")
    return tmp_path


def quartet(seed: int, count: int = 10, splice: int = 6) -> dict[str, np.ndarray]:
    """Four videos of 8 x 8: A and B share two frames and part; C and D cross them."""
    a, b = noise(count, 2 * seed, 8, 8), noise(count, 2 * seed + 1, 8, 8)
    b[:2] = a[:2]
    cross = {"C": np.concatenate([a[:splice], b[splice:]]), "D": np.concatenate([b[:splice], a[splice:]])}
    return {"A": a, "B": b} | cross


def write_clip(folder: Path, frames: np.ndarray, possible: bool | None, mode: str = "RGBA") -> None:
    for part in ("scene", "depth", "masks"):
        (folder / part).mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).convert(mode).save(folder / "scene" / f"scene_{number:03}.png")
        Image.new("L", (8, 8)).save(folder / "depth" / f"depth_{number:03}.png")
        (folder / "scene" / f"._scene_{number:03}.png").write_bytes(b"what macOS leaves")
    if possible is not None:
        header = {"block_name": "O1_test", "block_type": "test", "is_possible": possible, "camera": {"x": 1.0}}
        status = {"header": header, "frames": [{"masks": {"floor": 255}}] * len(frames)}
        (folder / "status.json").write_text(json.dumps(status))


# The round trip.


def test_miniphys_comes_back_to_the_bit_through_its_export(exported: Path) -> None:
    loaded = {q.property: q for q in dl.datasets.load("intphys", root=exported, split="dev")}
    assert set(loaded) == set(PROPERTIES)
    for original in WORLD:
        again = loaded[original.property]
        swapped = not np.array_equal(again["A"].frames, original["A"].frames)  # which of the two is A is not on disk
        roles = "BADC" if swapped else "ABCD"
        assert [clip.role for clip in again.clips] == list("ABCD")
        for clip, role in zip(again.clips, roles, strict=True):
            source = original.clips["ABCD".index(role)]
            assert np.array_equal(clip.frames, source.frames) and clip.possible == source.possible
            assert clip.fps == source.fps
        assert (again.splice, again.crossed) == (SPLICE, original.crossed)


def test_pairs_of_the_round_trip_break_where_those_of_miniphys_do(exported: Path) -> None:
    loaded = {q.property: q for q in dl.datasets.load("intphys", root=exported)}
    for original in WORLD:
        for shares in ("first", "second"):
            pairs, again = original.pairs(shares), loaded[original.property].pairs(shares)
            expected = sorted((p.first_difference, p.last_difference) for p in pairs)
            assert sorted((p.first_difference, p.last_difference) for p in again) == expected


def test_clips_without_a_label_come_back_without_one(tmp_path: Path) -> None:
    original = MiniPhys("pretrain", 2, ("shape",), law="lawless")
    loaded = dl.datasets.load("intphys", root=export_intphys(original, tmp_path, "test").parent, split="test")
    for before, after in zip(original, loaded, strict=True):
        assert after.roles != ROLES and {clip.possible for clip in after.clips} == {None}
        assert {c.frames.tobytes() for c in after.clips} == {c.frames.tobytes() for c in before.clips}
        halves = [
            after.clips[i].frames[:SPLICE].tobytes() == after.clips[j].frames[:SPLICE].tobytes()
            for i, j in after.matches
        ]
        assert halves == [True, True]


# The release's own layout.


def test_shuffled_sub_directories_are_paired_by_their_frames_and_labelled_by_their_status(root: Path) -> None:
    first, second = dl.datasets.load("intphys", root=root)
    assert first.roles == ROLES and first.crossed and first.splice == 6
    assert [clip.factors["video"][-1] for clip in first.clips] == ["2", "4", "1", "3"]
    assert [clip.factors["video"] for clip in second.clips] == [f"O1/02/{i}" for i in (1, 2, 3, 4)]
    for role, clip in zip("ABCD", first.clips, strict=True):
        assert np.array_equal(clip.frames, quartet(1)[role]) and clip.factors["break_frames"] == (6,)
    assert first.id == "intphys/dev/O1/01" and first["C"].id == "intphys/dev/O1/01/C" and first.property == "permanence"


def test_clips_that_are_no_crossing_to_the_bit_are_not_called_one(root: Path) -> None:
    path = root / "dev/O1/02/3/scene/scene_010.png"
    frame = np.asarray(Image.open(path)).copy()
    frame[0, 0, 0] ^= 1
    Image.fromarray(frame).save(path)
    crossed = {q.id: q.crossed for q in dl.datasets.load("intphys", root=root)}
    assert crossed == {"intphys/dev/O1/01": True, "intphys/dev/O1/02": False}


def test_train_has_one_possible_clip_a_group(tmp_path: Path) -> None:
    frames = noise(5, 0, 8, 8)
    write_clip(tmp_path / "train" / "00001", frames, True, "RGB")
    (group,) = dl.datasets.load("intphys", root=tmp_path, split="train")
    assert group.id == "intphys/train/00001" and group.matches == ()
    assert group.clips[0].possible is True and np.array_equal(group.clips[0].frames, frames)


def test_the_frames_that_are_used_are_on_record(root: Path) -> None:
    framing = Framing(multiple=4, policy="resample", size=(4, 4), fit="crop")
    quadruplet = dl.datasets.load("intphys", root=root, framing=framing)[0]
    factors = quadruplet["A"].factors
    assert factors["frame_indices"] == (0, 1, 2, 3, 4, 6, 7, 8, 9)
    assert (factors["frame_policy"], factors["fit"], factors["source_frames"]) == ("resample", "crop", 10)
    assert factors["source_size"] == (8, 8) and quadruplet["A"].frames.shape == (9, 4, 4, 3)
    assert quadruplet.splice == sum(i < 6 for i in factors["frame_indices"]) and quadruplet.crossed
    assert quadruplet["A"].fps == pytest.approx(15 * 8 / 9)


def test_nothing_is_read_before_it_is_asked_for(root: Path) -> None:
    shutil.rmtree(root / "dev/O1/02/4/scene")
    loaded = dl.datasets.load("intphys", root=root)
    assert len(loaded) == 2 and loaded[0].splice == 6
    with pytest.raises(FileNotFoundError, match=r"O1/02/4/scene"):
        loaded[1]


# What is missing.


def test_a_missing_frame_is_told_by_its_name(root: Path) -> None:
    (root / "dev/O1/01/2/scene/scene_004.png").unlink()
    (root / "dev/O1/02/1/scene/scene_010.png").unlink()  # the last: only the status and the other clips tell
    loaded = dl.datasets.load("intphys", root=root)
    with pytest.raises(FileNotFoundError, match=r"O1/01/2/scene/scene_004\.png"):
        loaded[0]
    with pytest.raises(FileNotFoundError, match=r"O1/02/1/scene/scene_010\.png"):
        loaded[1]


def test_a_clip_shorter_than_its_like_is_told(root: Path) -> None:
    for number in (1, 2, 3, 4):
        path = root / f"dev/O1/01/{number}/status.json"
        path.write_text(json.dumps({"header": json.loads(path.read_text())["header"]}))
    assert len(dl.datasets.load("intphys", root=root)[0]["A"].frames) == 10
    (root / "dev/O1/01/3/scene/scene_010.png").unlink()
    with pytest.raises(ValueError, match=r"O1/01/3/scene with frames \(9, 8, 8\) · expected \(10, 8, 8\)"):
        dl.datasets.load("intphys", root=root)[0]


def test_a_frame_that_cannot_be_read_is_told_by_its_name(root: Path) -> None:
    path = root / "dev/O1/01/1/scene/scene_003.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"O1/01/1/scene/scene_003\.png, which cannot be read"):
        dl.datasets.load("intphys", root=root)[0]


@pytest.mark.parametrize("text", ["{}", '{"header": {}}', '{"header": {"is_possible": "true"}}', "[]", "{"])
def test_a_status_without_a_label_is_told_by_its_name(root: Path, text: str) -> None:
    (root / "dev/O1/01/1/status.json").write_text(text)
    with pytest.raises(ValueError, match=r"O1/01/1/status\.json"):
        dl.datasets.load("intphys", root=root)[0]


def test_a_missing_label_is_an_error_where_one_is_due_or_others_are_there(root: Path) -> None:
    (root / "dev/O1/01/1/status.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"O1/01/1/status\.json"):
        dl.datasets.load("intphys", root=root)[0]
    (root / "dev").rename(root / "test")
    loaded = dl.datasets.load("intphys", root=root, split="test")
    assert loaded[1].roles == ROLES
    for read in (loaded.__getitem__, loaded.outline):
        with pytest.raises(FileNotFoundError, match=r"O1/01/1/status\.json · expected a label for each of the four"):
            read(0)


def test_labels_that_the_frames_contradict_are_told(root: Path) -> None:
    for number, possible in {1: False, 2: False, 3: True, 4: True}.items():
        (root / f"dev/O1/01/{number}/status.json").write_text(json.dumps({"header": {"is_possible": possible}}))
    with pytest.raises(
        ValueError, match=r"dev/O1/01, whose clips 1 and 2 share their first frames and are both impossible · unpack"
    ):
        dl.datasets.load("intphys", root=root)[0]


def test_a_scene_without_its_four_clips_is_told_when_it_is_listed(root: Path) -> None:
    shutil.rmtree(root / "dev/O1/02/3")
    with pytest.raises(ValueError, match=r"O1/02 with clips 1, 2, 4 · expected 1, 2, 3, 4"):
        dl.datasets.load("intphys", root=root)


def test_unknown_splits_and_blocks_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"got IntPhys split 'dve' .* did you mean 'dev'"):
        dl.datasets.load("intphys", root=root, split="dve")
    with pytest.raises(FileNotFoundError, match="train"):
        dl.datasets.load("intphys", root=root, split="train")
    with pytest.raises(ValueError, match="got IntPhys block 'O2' · expected one of O1"):
        dl.datasets.load("intphys", root=root, blocks=("O2",))


# The submission.


def test_a_submission_has_a_line_for_each_clip(root: Path) -> None:
    split = IntPhys(root)
    scores = {f"O1/{scene}/{i}": i / 4 for scene in ("01", "02") for i in (1, 2, 3, 4)}
    path = write_submission(scores, split, root / "answer.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["answer.txt"]
        assert archive.read("answer.txt").decode().splitlines()[:2] == ["O1/01/1 0.25", "O1/01/2 0.5"]
    with pytest.raises(ValueError, match="see O1/02/4"):
        write_submission({k: v for k, v in scores.items() if k != "O1/02/4"}, split, path)
    with pytest.raises(ValueError, match=r"got plausibility 1.5 for O1/01/3"):
        write_submission(scores | {"O1/01/3": 1.5}, split, path)
    with pytest.raises(ValueError, match=r"got plausibility nan for O1/01/3"):
        write_submission(scores | {"O1/01/3": float("nan")}, split, path)
