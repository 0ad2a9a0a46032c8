"""Results: `xarray.Dataset`s with their provenance, written whole or not at all."""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xarray as xr

from dit_lens.atomic_files import remedy, replace_atomically

PACKAGES = ("dit-lens", "torch", "diffusers", "nnsight", "scikit-learn", "xarray", "numpy")


def provenance(**facts: Any) -> str:
    """One JSON string: the facts, with versions, command line and numerics (netCDF takes no nested values)."""
    import torch  # the numerics are torch's; results are read without it

    environment = {
        "command": " ".join(sys.argv),
        "versions": versions(),
        "commit": _commit(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return json.dumps(environment | facts, default=str)


def versions() -> dict[str, str]:
    """Versions of this package and of those that results depend on."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def code_digest(module: str) -> str:
    """Digest of the code that a module runs: of itself and all that it imports, directly or indirectly.

    Comments and docstrings are left out: what a sentence says changes no result.
    """
    digest = hashlib.sha256()
    for name, path in sorted(closure(module).items()):
        digest.update(name.encode() + ast.dump(_bare(path)).encode())
    return digest.hexdigest()[:16]


def closure(module: str) -> dict[str, Path]:
    """The modules of this checkout's packages that a module imports, directly or indirectly, itself included."""
    root, sources, waiting = Path(__file__).parent.parent, dict[str, Path](), [module]
    while waiting:
        name = waiting.pop()
        path = _source(root, name)
        if path is None or name in sources:
            continue
        sources[name] = path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [*_imports(path, package), name.rpartition(".")[0]]
    return sources


def _source(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    options = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in options if name and path.is_file()), None)


def _imports(path: Path, package: str) -> Iterator[str]:
    """Modules, or names in them, that a file imports at run time."""
    for node in ast.walk(_without_type_checking(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            yield from (home, *(f"{home}.{alias.name}" for alias in node.names))


def _without_type_checking(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


def _bare(path: Path) -> ast.Module:
    """A file's syntax without docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]  # type: ignore[attr-defined]
    return tree


def canonical(value: Any) -> str:
    """The canonical JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _commit() -> str:
    """The commit of the checkout that the package is run from; empty where there is none."""
    root = Path(__file__).parent.parent
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    if not (root / ".git").exists():
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def save(result: xr.Dataset, path: Path) -> Path:
    """Writes netCDF to a temporary file and renames it when complete."""
    with replace_atomically(path) as aside:
        result.to_netcdf(aside, engine="h5netcdf")
    return Path(path)


def open_result(path: Path) -> xr.Dataset:
    """The result in memory, its file closed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a readable result (truncated or foreign); names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"got {path} · expected a result file · run the analysis that writes it")
    try:
        result = xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"got {path}, which cannot be read ({error}) · expected a netCDF result · {remedy(error, 'run it again')}"
        ) from error
    if "provenance" not in result.attrs:
        raise ValueError(
            f"got {path} without provenance · expected a result written by dit_lens · run the analysis again"
        )
    return result


def facts(result: xr.Dataset) -> Mapping[str, Any]:
    """The provenance as a mapping."""
    return json.loads(result.attrs["provenance"])
