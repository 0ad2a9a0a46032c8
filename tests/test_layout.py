"""The house plan holds: imports run downward, the package is light, nnsight is imported in one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from dit_lens.axes import TokenGrid

ROOT = Path(__file__).parent.parent
FLOORS = {
    "axes": 1, "choices": 1, "results": 1, "stats": 1,
    "clips": 2, "conditioning": 2, "hook_points": 2, "edits": 2, "flow": 2, "video": 2, "plots": 2, "metrics": 2,
    "reading": 2, "tensor_file": 2,
    "families": 3, "tracing": 3, "cache": 3, "trajectory": 3, "datasets": 3, "models": 3,
    "reductions": 3, "store": 3,
    "running": 4, "probing": 4, "tracker": 4,
    "laws": 5, "inversion": 5,
    "fidelity": 6, "continuation": 6,
    "lens": 7, "training": 7,
    "sweeps": 8, "capture": 8, "baselines": 8, "steering": 8,
    "patching": 9, "ablation": 9, "attribution": 9, "behaviour": 9,
    "paths": 9, "filling": 9,
}  # fmt: skip
# On floor 2, edits read the vocabulary: a hook function is what an edit is.
ALLOWED = {("edits", "hook_points")}


def modules() -> list[Path]:
    return sorted(
        path
        for path in (ROOT / "dit_lens").rglob("*.py")
        if path.name != "__init__.py" or path.parent.name != "dit_lens"
    )


def room(path: Path) -> str:
    return path.relative_to(ROOT / "dit_lens").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dit_lens":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dit_lens."):
            rooms.add(node.module.split(".")[1])
    return rooms


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    here = room(path)
    for other in imported(path) - {here}:
        assert FLOORS[other] < FLOORS[here] or (here, other) in ALLOWED, f"{here} imports {other}"


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in modules()} == set(FLOORS)


def test_only_tracing_imports_nnsight() -> None:
    found = {
        room(path) for path in modules() if "import nnsight" in path.read_text() or "from nnsight" in path.read_text()
    }
    assert found == {"tracing"}


def test_importing_the_package_is_light() -> None:
    code = "import sys, dit_lens; print([m for m in ('torch', 'diffusers', 'nnsight') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_shapes_in_signatures_are_checked_while_testing() -> None:
    with pytest.raises(TypeCheckError):
        TokenGrid(1, 2, 3).unflatten(torch.zeros(6))  # one axis where (b, n, ...) is due
