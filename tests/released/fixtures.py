"""What `released` writes, once per test session and only where it is asked for.

Loaded by `pytest_plugins = ("released.fixtures",)`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from released import checkpoints, intphys, videos


def _write_intphys(folder: Path) -> Path:
    intphys.write_intphys(folder)
    intphys.write_intphys_pairs_csv(folder)
    return folder


def _write_lossy_intphys(folder: Path) -> Path:
    return intphys.write_intphys(folder, size=32, lossy=True)


TREES: dict[str, Callable[[Path], Path]] = {
    "intphys": _write_intphys,
    "intphys_lossy": _write_lossy_intphys,
    "inflevel": videos.write_inflevel,
    "folder": videos.write_folder,
    "grasp": videos.write_grasp,
    "likephys": videos.write_likephys,
    "intphys2": videos.write_intphys2,
}


@pytest.fixture(scope="session")
def released_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a checkpoint of `checkpoints.WRITERS` or of a data set of `TREES`, written when first named."""
    home, writers = tmp_path_factory.mktemp("released"), checkpoints.WRITERS | TREES

    def folder(name: str) -> Path:
        return home / name if (home / name).exists() else writers[name](home / name)

    return folder


@pytest.fixture(scope="session", params=checkpoints.WRITERS)
def checkpoint(request: pytest.FixtureRequest, released_folder: Callable[[str], Path]) -> tuple[str, Path]:
    """The name and folder of each checkpoint in turn."""
    return request.param, released_folder(request.param)


def _root(name: str) -> Any:
    @pytest.fixture(scope="session", name=f"{name}_root")
    def root(released_folder: Callable[[str], Path]) -> Path:
        return released_folder(name)

    return root


intphys_root, intphys_lossy_root, inflevel_root = _root("intphys"), _root("intphys_lossy"), _root("inflevel")
folder_root, grasp_root, likephys_root, intphys2_root = map(_root, ("folder", "grasp", "likephys", "intphys2"))
