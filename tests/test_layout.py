"""The house plan holds: imports run downward and in no circle, the package is light, nnsight is in one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from dit_lens.axes import TokenGrid

ROOT = Path(__file__).parent.parent
FLOORS = {
    "arguments": 1, "atomic_files": 1, "axes": 1, "choices": 1, "stats": 1,
    "clips": 2, "conditioning": 2, "hook_points": 2, "edits": 2, "flow": 2, "video": 2, "plots": 2, "metrics": 2,
    "reading": 2, "results": 2, "tensor_file": 2,
    "families": 3, "tracing": 3, "cache": 3, "trajectory": 3, "datasets": 3, "models": 3, "engines": 3,
    "reductions": 3, "store": 3, "toy.miniphys": 4, "toy.mini_wan": 4, "toy.mini_vae": 4, "toy.content": 5,
    "running": 4, "probing": 4, "toy.tracker": 5,
    "laws": 5, "inversion": 5, "measures": 5,
    "fidelity": 6, "continuation": 6,
    "lens": 7, "toy.training": 7,
    "interventions": 8, "attention": 8, "capture": 8, "baselines": 8, "steering": 8,
    "patching": 9, "ablation": 9, "attribution": 9, "toy.behaviour": 9,
    "circuits": 9, "toy.truth": 9,
    "studies": 10, "toy.views": 9, "toy.view_probes": 10, "__main__": 11,
}  # fmt: skip
HEAVY = ("torch", "diffusers", "nnsight")
# On floor 1, axes check places; on floor 2, edits read the vocabulary: a hook function is what an edit is.
ALLOWED = {("axes", "arguments"), ("edits", "hook_points")}


def modules() -> list[Path]:
    return sorted(
        path
        for path in (ROOT / "dit_lens").rglob("*.py")
        if path.name != "__init__.py" or path.parent.name not in ("dit_lens", "toy")
    )


def room(path: Path) -> str:
    return _room(path.relative_to(ROOT / "dit_lens").with_suffix("").parts)


def _room(parts: Sequence[str]) -> str:
    """The parts of the small world have floors of their own."""
    return ".".join(parts[:2]) if parts[0] == "toy" else parts[0]


def imported(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in ("dit_lens", "dit_lens.toy"):
            below = node.module.split(".")[1:]
            rooms |= {_room([*below, alias.name]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dit_lens."):
            rooms.add(_room((node.module or "").split(".")[1:]))
    return rooms


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    here = room(path)
    for module in imported(path) - {here}:
        assert FLOORS[module] < FLOORS[here] or (here, module) in ALLOWED, f"{here} imports {module}"


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in modules()} == set(FLOORS)


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """Every (module, name) that a file imports, in functions too; what is for type checkers alone is left out."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        todo += ast.iter_child_nodes(node)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def graph_of(*folders: str) -> dict[str, set[str]]:
    """Which modules of these folders import which."""
    files = {name_of(path): path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        named = {f"{module}.{what}" if f"{module}.{what}" in files else module for module, what in imports_of(path)}
        graph[name] = {module for module in named if module in files} - {name}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or through others."""
    reached = {name: set(others) for name, others in graph.items()}
    for _ in graph:
        grown = {name: others.union(*(reached[module] for module in others)) for name, others in reached.items()}
        if grown == reached:
            break
        reached = grown
    return [
        [name, *sorted(o for o in others if name in reached[o])] for name, others in reached.items() if name in others
    ]


def test_no_module_imports_itself_through_others() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "b", "c"], ["c", "b", "c"]]
    assert circles(graph_of("dit_lens", "analyses", "figures")) == []


def test_measures_take_results_and_figures_take_measures() -> None:
    graph = graph_of("dit_lens", "analyses", "figures")
    below = ("dit_lens.measures", "dit_lens.stats", "dit_lens.results", "dit_lens.probing.scoring")
    for name, others in graph.items():
        if name.startswith(("dit_lens.measures", "figures.")):
            allowed = (*below, "dit_lens.plots", "figures.") if name.startswith("figures.") else below
            assert not {module for module in others if not module.startswith(allowed)}, name


def test_measures_and_figures_are_light() -> None:
    """What is said of a result, and drawn, loads no model: no torch, not even through others."""
    names = [name for name in graph_of("dit_lens/measures", "figures") if not name.endswith("__init__")]
    code = f"import sys, {', '.join(names)}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_only_tracing_imports_nnsight() -> None:
    matches = {
        room(path) for path in modules() if "import nnsight" in path.read_text() or "from nnsight" in path.read_text()
    }
    assert matches == {"tracing"}


@pytest.mark.parametrize(("first", "works"), [("dit_lens.tracing", True), ("nnsight", False)])
def test_anyio_can_be_imported_after_us(first: str, works: bool) -> None:
    """Web servers and clients need it; after nnsight alone (the control) its classes are refused."""
    code = f"import {first}, anyio.streams.tls; from anyio.abc import SocketAttribute"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode == 0) == works, done.stderr


def test_importing_the_package_is_light() -> None:
    code = f"import sys, dit_lens; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_shapes_in_signatures_are_checked_while_testing() -> None:
    with pytest.raises(TypeCheckError):
        TokenGrid(1, 2, 3).unflatten(torch.zeros(6))  # one axis where (b, n, ...) is due
