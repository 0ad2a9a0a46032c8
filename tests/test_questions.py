"""Every question on a model and data laid out as released: it is answered, or refused by the need that it declares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from released.intphys import write_intphys

from analyses import command
from dit_lens.datasets.spec import DataSpec
from dit_lens.studies.options import CHECKPOINTS

# Options that make a question small, beside the shared ones or in place of them.
SMALL: dict[str, list[str]] = {
    "ablate_blocks": ["--replacements", "zero", "--writes", "all"],
    "ablate_heads": ["--replacements", "zero", "random write"],
    "attribute_heads": ["--nodes", "3", "--limit", "9"],
    "attribute_latents": ["--nodes", "3", "--limit", "9", "--directions", "0"],
    "attribute_pixels": ["--nodes", "3", "--limit", "9"],
    "compare_encoders": ["--encoders", "pixels", "--tinted", "5"],
    "compare_methods": ["--nodes", "3", "--limit", "9", "--train", "6", "--test", "12"],
    "invert_clips": ["--step-counts", "2", "--fine", "3", "--shift", "1", "--shown", "1", "--probe-scenes", "5"],
    "patch_attention": ["--parts", "z"],
    "patch_heads": ["--regions", "shared"],
    "patch_paths": ["--train", "6", "--test", "12", "--draws", "3"],
    "probe_controls": ["--baselines", "pixels", "--tinted", "5"],
    "reproduce_invisible_hand": [
        "--train", "0", "--test", "12", "--protocols", "released-code", "--seeds", "0", "--encoders", "pixels",
    ],
    "store_activations": ["--train", "0"],
}  # fmt: skip
OTHERS = ("wan22_ti2v", "cogvideox_2b", "cogvideox_5b", "ltx", "hunyuan")
THREE = ("patch_residual", "probe_blocks", "surprise")
# Frames and size that each autoencoder holds, few of them.
SIZES = {"ltx": (17, 64), "wan22_ti2v": (17, 64), "cogvideox_2b": (17, 32), "cogvideox_5b": (17, 32)}


@pytest.fixture(scope="session")
def intphys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree in the layout of IntPhys, whose scenes break at different frames."""
    return write_intphys(tmp_path_factory.mktemp("small") / "intphys", scenes_per_block=6, frames=17, size=32)


def tiny(model: Path, data: Path, out: Path, frames: int = 17, size: int = 32) -> list[str]:
    return [
        "--model", str(model), "--data", f"intphys:dev={data}", "--frames", str(frames), "--size", str(size),
        "--sampler-steps", "2", "--read-at", "1", "--train", "10", "--test", "4", "--batch-size", "2",
        "--controls", "--yes", "--out", str(out),
    ]  # fmt: skip


def answered(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints, or the line on which it refuses."""
    try:
        command.call(name, merged(arguments, SMALL.get(name, [])))
    except SystemExit as stopped:
        assert stopped.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]
    return capsys.readouterr().out


def merged(*parts: list[str]) -> list[str]:
    """Arguments one after the other; where an option comes twice the later counts."""
    options: dict[str, list[str]] = {}
    for word in (word for part in parts for word in part):
        if word.startswith("--"):
            options[word] = []
            last = word
        else:
            options[last].append(word)
    return [word for option, values in options.items() for word in (option, *values)]


@pytest.mark.parametrize("name", command.questions())
def test_every_question_is_asked_of_wan_and_intphys(
    name: str,
    released_folder: Callable[[str], Path],
    intphys: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, _ = command.header(name)
    missing = [need for need in config.NEEDS if need == CHECKPOINTS or need not in DataSpec("intphys").gives]
    text = answered(name, tiny(released_folder("wan21"), intphys, tmp_path), capsys)
    if missing:
        assert text.startswith("error: got ") and " · expected " in text
        assert not list(tmp_path.rglob("*.nc"))
        return
    assert not text.startswith("error"), text
    if name != "store_activations":
        (result,) = tmp_path.glob(f"{name}-*.nc")
        assert result.with_suffix(".pdf").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("name", THREE)
def test_three_questions_are_asked_of_each_other_family(
    name: str,
    family: str,
    released_folder: Callable[[str], Path],
    intphys: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames, size = SIZES.get(family, (17, 32))
    text = answered(name, tiny(released_folder(family), intphys, tmp_path, frames, size), capsys)
    assert not text.startswith("error"), text
    assert list(tmp_path.glob(f"{name}-*.nc"))


def test_a_path_that_does_not_suit_a_family_is_refused_before_weights_are_read(
    released_folder: Callable[[str], Path], intphys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny(released_folder("cogvideox_2b"), intphys, tmp_path)
    text = answered("patch_residual", [*arguments, "--path", "continuation"], capsys)
    assert text.startswith("error: got") and "continuation" in text and "inversion" in text


def test_frames_that_the_autoencoder_cannot_hold_are_refused_with_the_nearest(
    released_folder: Callable[[str], Path], intphys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = answered("patch_residual", tiny(released_folder("wan21"), intphys, tmp_path, frames=16), capsys)
    assert "got 16 frames" in text and "13" in text and "17" in text


@pytest.mark.filterwarnings("ignore:InfLevel is for evaluation only")
@pytest.mark.parametrize("tree", ["inflevel", "grasp", "likephys", "folder"])
def test_other_data_sets_are_asked(
    tree: str,
    released_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = released_folder(tree)
    arguments = tiny(released_folder("wan21"), root, tmp_path)
    arguments[arguments.index(f"intphys:dev={root}")] = f"{tree}={root}"
    del arguments[arguments.index("--train") : arguments.index("--batch-size")]
    arguments += ["--path", "inversion", *(["--fit-on", f"{tree}={root}"] if tree == "inflevel" else [])]
    text = answered("patch_residual", arguments, capsys)
    assert not text.startswith("error") or "expected at least" in text, text


def test_the_threads_of_a_worker_are_one() -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1" and torch.get_num_threads() == 1
