"""Export: the layout of IntPhys on disk, and everything that went out comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_lens.clips import Clip, Scene, quadruplet
from dit_lens.datasets import export
from dit_lens.datasets.export import BLOCKS, Config, export_intphys, main, run
from dit_lens.toy.miniphys import PROPERTIES, SPLICE, MiniPhys

INTPHYS = {"permanence": "O1", "shape": "O2", "continuity": "O3"}


@pytest.fixture(scope="module")
def quadruplets() -> MiniPhys:
    """Four: O1, O2, O3, O1."""
    return MiniPhys("test", 4, tuple(INTPHYS))


@pytest.fixture(scope="module")
def written(quadruplets: MiniPhys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_intphys(quadruplets, tmp_path_factory.mktemp("out"), shuffle=1)


def read(folder: Path) -> np.ndarray:
    images = [Image.open(path) for path in sorted((folder / "scene").glob("scene_*.png"))]
    assert {image.mode for image in images} == {"RGB"}
    return np.stack([np.asarray(image) for image in images])


def possible(folder: Path) -> bool:
    return json.loads((folder / "status.json").read_text())["header"]["is_possible"]


def metadata(split: Path) -> dict:
    return json.loads((split.parent / f"{split.name}_metadata.json").read_text())


def origins(split: Path, quadruplets: MiniPhys) -> list[tuple[Path, Clip]]:
    """Each clip's folder and the clip that it should hold."""
    clips = {clip.id: clip for q in quadruplets for clip in q.clips}
    scenes = metadata(split)["scenes"].items()
    return [(split / scene / number, clips[name]) for scene, of in scenes for number, name in of["clips"].items()]


def pairs(scene: Path) -> list[set[str]]:
    """Pairing by the breaking point, as readers of IntPhys do: the partner of 1 is what differs from it last."""
    clips = {folder.name: read(folder) for folder in sorted(scene.iterdir())}
    differs = {name: (clips["1"] != clip).any(axis=(1, 2, 3)) for name, clip in clips.items() if name != "1"}
    breaks = {name: int(np.argmax(d)) if d.any() else len(d) for name, d in differs.items()}
    partner = max(breaks, key=lambda name: breaks[name])
    return [{"1", partner}, set(breaks) - {partner}]


# Layout.


def test_the_layout_is_that_of_intphys(written: Path) -> None:
    assert sorted(str(path.relative_to(written)) for path in written.glob("*/*")) == [
        "O1/01",
        "O1/02",
        "O2/01",
        "O3/01",
    ]
    for scene in written.glob("*/*"):
        assert sorted(path.name for path in scene.iterdir()) == ["1", "2", "3", "4"]
        for clip in scene.iterdir():
            assert sorted(path.name for path in clip.iterdir()) == ["scene", "status.json"]
            names = sorted(path.name for path in (clip / "scene").iterdir())
            assert names == [f"scene_{i:03}.png" for i in range(1, 18)]
    assert sorted(path.name for path in written.parent.iterdir()) == ["dev", "dev_metadata.json"]


def test_a_status_has_the_true_part_of_the_full_form(written: Path) -> None:
    for path in written.glob("*/*/*/status.json"):
        status = json.loads(path.read_text())
        assert set(status) == {"header"}
        label = status["header"].pop("is_possible")
        assert isinstance(label, bool)
        assert status["header"] == {"block_name": path.parts[-4], "block_type": "test"}


def test_numbers_have_the_digits_of_the_number_of_all_scenes(tmp_path: Path) -> None:
    class Hundred(MiniPhys):
        """Says that it has a hundred and hands out one."""

        def __iter__(self) -> Iterator[Scene]:
            return iter([self[0]])

    target = export_intphys(Hundred("test", 100, tuple(INTPHYS)), tmp_path)
    assert [path.name for path in target.glob("*/*")] == ["001"]


def test_every_property_of_miniphys_has_a_block_of_its_own() -> None:
    assert set(BLOCKS) == set(PROPERTIES)
    assert len(set(BLOCKS.values())) == len(BLOCKS)
    assert INTPHYS.items() <= BLOCKS.items()


def test_properties_may_share_a_block(quadruplets: MiniPhys, tmp_path: Path) -> None:
    target = export_intphys(quadruplets, tmp_path, blocks=dict.fromkeys(INTPHYS, "O1"))
    assert sorted(str(path.relative_to(target)) for path in target.glob("*/*")) == [f"O1/0{i}" for i in (1, 2, 3, 4)]


# What goes out comes back.


def test_pixels_and_labels_come_back_as_they_were(written: Path, quadruplets: MiniPhys) -> None:
    originals = origins(written, quadruplets)
    assert len(originals) == 16 and len({clip.id for _, clip in originals}) == 16
    for folder, clip in originals:
        frames = read(folder)
        assert frames.dtype == np.uint8 and np.array_equal(frames, clip.frames)
        assert possible(folder) == clip.possible


def test_the_metadata_tell_where_a_scene_came_from(written: Path, quadruplets: MiniPhys) -> None:
    facts = metadata(written)
    assert facts["shuffle"] == 1 and facts["blocks"] == BLOCKS
    for scene, q in zip(["O1/01", "O2/01", "O3/01", "O1/02"], quadruplets, strict=True):
        of = facts["scenes"][scene]
        assert (of["group"], of["property"], of["splice"], of["fps"]) == (q.id, q.property, SPLICE, 15.0)


def test_half_of_each_scene_is_possible_and_the_breaking_point_pairs_it(written: Path) -> None:
    for scene in written.glob("*/*"):
        labels = {folder.name: possible(folder) for folder in scene.iterdir()}
        assert sum(labels.values()) == 2
        for pair in pairs(scene):
            assert len(pair) == 2 and sum(labels[name] for name in pair) == 1


def test_paired_clips_share_their_first_half(written: Path, quadruplets: MiniPhys) -> None:
    roles = {folder: clip.role for folder, clip in origins(written, quadruplets)}
    for scene in written.glob("*/*"):
        assert sorted("".join(sorted(roles[scene / name] for name in pair)) for pair in pairs(scene)) == ["AC", "BD"]


def test_an_unknown_label_is_written_without_a_status(tmp_path: Path) -> None:
    target = export_intphys(MiniPhys("pretrain", 2, law="lawless"), tmp_path, "test")
    assert len(list(target.glob("*/*/*/scene"))) == 8
    assert not list(target.rglob("status.json"))


# Order.


def order(split: Path) -> list[str]:
    return ["".join(name[-1] for name in of["clips"].values()) for of in metadata(split)["scenes"].values()]


def test_the_order_of_the_clips_depends_on_the_seed_and_the_scene_alone(tmp_path: Path) -> None:
    def ordered(name: str, count: int, shuffle: int) -> list[str]:
        return order(export_intphys(MiniPhys("test", count, ("shape",)), tmp_path / name, shuffle=shuffle))

    first, second = ordered("one", 6, 0), ordered("other", 6, 1)
    assert first == ordered("again", 8, 0)[:6] and first != second
    assert len(set(first)) > 2 and {"".join(sorted(roles)) for roles in first} == {"ABCD"}


# Errors.


def test_a_folder_that_holds_something_is_refused_and_left_alone(quadruplets: MiniPhys, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="dev, which is not empty · expected a new folder"):
        export_intphys(quadruplets, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["dev", "mine.txt"]
    assert export_intphys(quadruplets[:1], tmp_path, "test").is_dir()


def test_a_property_without_a_block_is_refused(quadruplets: MiniPhys, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"block: 'permanence' · expected one of shape, permanent; did you mean 'perm"):
        export_intphys(quadruplets, tmp_path, blocks={"shape": "O2", "permanent": "O1"})


def test_another_split_is_refused(quadruplets: MiniPhys, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got IntPhys split 'deb' · expected one of dev, test; did you mean 'dev'"):
        export_intphys(quadruplets, tmp_path, "deb")
    assert not list(tmp_path.iterdir())


def test_a_scene_that_fails_leaves_the_whole_ones_and_nothing_of_itself(
    quadruplets: MiniPhys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write_clip

    def fails(clip: Clip, folder: Path, block: str) -> None:
        if clip.role == "C" and block == "O2":
            raise OSError("disk full")
        write(clip, folder, block)

    monkeypatch.setattr(export, "_write_clip", fails)
    with pytest.raises(OSError, match="disk full"):
        export_intphys(quadruplets, tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("dev/*/*")) == ["dev/O1/01"]
    assert not list(tmp_path.glob("dev_metadata.json"))


# From the command line.


def test_the_command_writes_what_the_function_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [word for pair in INTPHYS.items() for word in pair]
    main(["--out", str(tmp_path), "--split", "train", "--quadruplets", "3", "--seed", "2", "--blocks", *blocks])
    assert capsys.readouterr().out == f"wrote {tmp_path / 'dev'}\n"
    for folder, clip in origins(tmp_path / "dev", MiniPhys("train", 3, tuple(INTPHYS), seed=2)):
        assert np.array_equal(read(folder), clip.frames)


def test_the_command_takes_all_properties_and_a_size(tmp_path: Path) -> None:
    target = run(Config(tmp_path, quadruplets=len(PROPERTIES), size=64, name="test"))
    assert {path.name for path in target.iterdir()} == set(BLOCKS.values())
    assert read(target / "O11" / "01" / "4").shape == (17, 64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "minphys"], "did you mean 'miniphys'"),
        (["--split", "tets"], "did you mean 'test'"),
        (["--blocks", "shap", "O2"], "did you mean 'shape'"),
        (["--size", "48"], "expected 32 or 64"),
        (["--name", "train"], "expected one of dev, test"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path), "--quadruplets", "1", *arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: got ") and printed.count("\n") == 1 and message in printed
    assert not list(tmp_path.iterdir())


def test_no_more_than_a_quadruplet_is_asked_of_a_data_set(tmp_path: Path) -> None:
    (q,) = MiniPhys("test", 1, ["shape"])
    bare = [Clip(clip.id, clip.frames, clip.possible, clip.group, clip.role, clip.property) for clip in q.clips]
    handmade = quadruplet(bare, ((SPLICE,), (SPLICE,)), q.event)
    assert len(list(export_intphys([handmade], tmp_path).glob("O2/01/*/scene/*.png"))) == 4 * 17
