"""A data set as one word of a command: what it means, what it has, and what is refused before anything is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_lens import datasets
from dit_lens.datasets import Framing
from dit_lens.datasets.export import export_intphys
from dit_lens.datasets.spec import CROSSED, GIVES, LABELS, PAIRS, SPLICES, TRACKS, DataSpec
from dit_lens.toy.miniphys import MiniPhys


@pytest.mark.parametrize(
    ("text", "name", "split", "root"),
    [
        ("miniphys", "miniphys", "", ""),
        ("miniphys:unseen", "miniphys", "unseen", ""),
        ("intphys=/data/intphys", "intphys", "", "/data/intphys"),
        ("intphys:test=/data/intphys", "intphys", "test", "/data/intphys"),
        ("folder=C:/clips", "folder", "", "C:/clips"),
        ("folder=/data/a=b:c", "folder", "", "/data/a=b:c"),
    ],
)
def test_a_word_is_a_name_a_split_and_a_root(text: str, name: str, split: str, root: str) -> None:
    assert DataSpec.parse(text) == DataSpec(name, split, root)


def test_miniphys_has_difficulties_before_its_splits() -> None:
    clean = DataSpec.parse("miniphys:clean:unseen")
    assert clean == DataSpec("miniphys", "unseen", options={"difficulty": "clean"})
    assert str(clean) == "miniphys:clean:unseen" and str(DataSpec.parse("miniphys:hard")) == "miniphys:hard"
    (scene,) = clean.load(quadruplets=1)
    assert scene.id.startswith("miniphys-clean/unseen/")
    with pytest.raises(ValueError, match="got miniphys split 'claen'"):
        DataSpec.parse("miniphys:claen").load(quadruplets=1)


def test_options_are_keys_with_values() -> None:
    spec = DataSpec.parse("intphys=/x", ["tolerance=4", "pairs=/a=b.csv"])
    assert spec.options == {"tolerance": "4", "pairs": "/a=b.csv"} and str(spec) == "intphys"
    assert str(DataSpec.parse("intphys:test=/x")) == "intphys:test"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("minphys", (), r"got data set 'minphys' · expected one of .* did you mean 'miniphys'\?"),
        ("intphis=/x", (), r"did you mean 'intphys'\?"),
        ("intphys", (), r"got --data intphys without a root · .* · --data intphys=/path/to/intphys"),
        ("intphys:test", (), r"--data intphys:test=/path/to/intphys"),
        ("miniphys=/x", (), r"expected no root, because miniphys is generated · leave out =/x"),
        ("intphys=/x", ("tolerance",), r"got data option 'tolerance' · expected KEY=VALUE"),
        ("intphys=/x", ("=4",), r"got data option '=4' · expected KEY=VALUE"),
        (
            "intphys=/x",
            ("root=/y",),
            r"got data option root=/y · expected root as an option of its own · use --data NAME=ROOT",
        ),
        ("intphys=/x", ("split=test",), r"expected split as an option of its own · use --data NAME:SPLIT"),
        ("intphys=/x", ("tolerance=4", "tolerance=5"), r"tolerance twice, 4 and 5 · expected it once"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_read(text: str, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSpec.parse(text, options)


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match=rf"got root {root} of intphys · expected the folder"):
            DataSpec.parse(f"intphys={root}").load()
    DataSpec.parse(f"intphys={tmp_path}").check_root()
    DataSpec.parse("miniphys").check_root()


def test_what_a_data_set_has_is_known_without_it() -> None:
    assert set(GIVES) == set(datasets.NAMES)
    assert DataSpec.parse("miniphys").gives == (LABELS, PAIRS, SPLICES, CROSSED, TRACKS)
    for text, gives in {
        "intphys:dev=/x": (LABELS, PAIRS, SPLICES, CROSSED),
        "intphys:test=/x": (SPLICES, CROSSED),
        "intphys:train=/x": (LABELS,),
        "intphys2=/x": (LABELS, PAIRS),
        "intphys2:HeldOut=/x": (),
        "phyworld=/x": (),
    }.items():
        assert DataSpec.parse(text).gives == gives
    assert DataSpec.parse("intphys=/x", ["tolerance=0.0"]).gives == (LABELS, PAIRS, SPLICES, CROSSED)
    assert DataSpec.parse("intphys=/x", ["tolerance=0.5"]).gives == (LABELS, PAIRS, SPLICES)  # compressed: not exact


def test_what_it_has_is_what_is_read(tmp_path: Path) -> None:
    root = export_intphys(MiniPhys("test", 2, ("shape",)), tmp_path).parent
    for spec in (DataSpec.parse("miniphys:test"), DataSpec.parse(f"intphys:dev={root}")):
        scene = spec.load(**({"quadruplets": 1} if spec.name == "miniphys" else {}))[0]
        assert (CROSSED in spec.gives) == scene.crossed and (SPLICES in spec.gives) == bool(scene.breaks)
        assert (TRACKS in spec.gives) == bool(scene.clips[0].tracks) and (PAIRS in spec.gives) == bool(scene.matches)


def test_loading_hands_on_split_framing_and_options_in_their_types(tmp_path: Path) -> None:
    world = MiniPhys("test", 3, ("shape", "permanence"))
    root = export_intphys(world, tmp_path, "test").parent
    framing = Framing(count=9, policy="resample")
    loaded = DataSpec.parse(f"intphys:test={root}", ["blocks=O2", "tolerance=0.5"]).load(framing)
    assert {scene.property for scene in loaded} == {"shape"} and len(loaded) == 2
    assert loaded[0].clips[0].frames.shape[0] == 9 and loaded[0].clips[0].factors["break_tolerance"] == 0.5
    small = DataSpec.parse("miniphys:train", ["quadruplets=2", "properties=colour,shape", "seed=3"]).load()
    assert [scene.id for scene in small] == [scene.id for scene in MiniPhys("train", 2, ("colour", "shape"), 3)]
    assert np.array_equal(small[0]["A"].frames, MiniPhys("train", 2, ("colour", "shape"), 3)[0]["A"].frames)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("tolerence=4", r"got option of intphys 'tolerence' · .* did you mean 'tolerance'\?"),
        ("tolerance=four", r"got data option tolerance=four · expected a value of type float"),
        ("blocks=O2", r"got IntPhys block 'O2' · expected one of O1"),
    ],
)
def test_a_bad_option_is_refused_when_the_data_are_listed(tmp_path: Path, option: str, message: str) -> None:
    root = export_intphys(MiniPhys("test", 1, ("permanence",)), tmp_path).parent
    with pytest.raises(ValueError, match=message):
        DataSpec.parse(f"intphys={root}", [option]).load()


def test_switches_and_numbers_by_name_are_read(tmp_path: Path) -> None:
    assert DataSpec("inflevel", options={"aligned": "false", "priming": ""})._typed() == {
        "aligned": False,
        "priming": {},
    }
    priming = DataSpec("inflevel", options={"priming": "continuity:330, gravity:175"})._typed()["priming"]
    assert priming == {"continuity": 330, "gravity": 175}
    assert DataSpec("folder", options={"fps": "12.5"})._typed() == {"fps": 12.5}
    with pytest.raises(ValueError, match=r"aligned=maybe · expected a value of type bool"):
        DataSpec("inflevel", options={"aligned": "maybe"})._typed()
    with pytest.raises(
        ValueError, match=r"priming=gravity · expected numbers by name, such as continuity:330,gravity:175"
    ):
        DataSpec("inflevel", options={"priming": "gravity"})._typed()


def test_a_split_that_a_data_set_has_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "0.png")
    with pytest.raises(ValueError, match=r"got IntPhys split 'dve' .* did you mean 'dev'"):
        DataSpec.parse(f"intphys:dve={tmp_path}").load()
    assert len(DataSpec.parse(f"folder={tmp_path}", ["fps=5"]).load()) == 1


def test_the_module_is_light() -> None:
    """A command that is only parsed imports none of what data sets need."""
    heavy = ("torch", "numpy", "xarray", "pandas", "scipy", "PIL", "h5py", "matplotlib", "jaxtyping")
    code = (
        "import sys; from dit_lens.datasets.spec import DataSpec;"
        "spec = DataSpec.parse('intphys:dev=/x', ['tolerance=4']); spec.gives, str(spec);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
