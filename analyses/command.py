"""What every analysis does around its question: options, reuse, writing whole or not at all, table, figure."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import tyro
import xarray as xr

from dit_lens import results
from dit_lens.models.loading import fingerprint

Config = TypeVar("Config")
DATA = Path("figures/data")
IMPORT = re.compile(r"^from analyses(?:\.(\w+))? import (.*)$", re.MULTILINE)


def main(
    config_type: type[Config],
    run: Callable[[Config], xr.Dataset],
    table: Callable[[xr.Dataset], str],
    draw: Callable[[xr.Dataset], Path],
    name: str,
    description: str | None,
) -> None:
    """Runs an analysis from the command line.

    The result goes to figures/data/NAME.nc (aside, then renamed). A result that lies there already and was made by
    the same options and version is shown instead of made again. Bad input ends with status 2 and one line, Ctrl-C
    with status 130 and nothing half-written.
    """
    config = tyro.cli(config_type, prog=f"python -m analyses.{name}", description=description)
    path = DATA / f"{name}.nc"
    with endings("whatever was written is whole"):
        asked = _asked(config, name)
        result = _same(path, asked)
        if result is None:
            if path.is_file():
                print(f"{path} was made otherwise and will be replaced\n", file=sys.stderr)
            result = run(config)
            result.attrs = {"provenance": results.provenance(**asked, **result.attrs)}
            results.save(result, path)
        else:
            print(f"{path} was made by these options already; delete it to make it anew\n")
        print(table(result))
        print(f"\nresult  {path}\nfigure  {draw(result)}")


@contextmanager
def endings(after_interrupt: str) -> Iterator[None]:
    """Bad input ends the program with status 2 and one line, Ctrl-C with status 130 and a word on what is left."""
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, OSError, ArithmeticError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nstopped; {after_interrupt}", file=sys.stderr)
        sys.exit(130)


def _asked(config: Any, name: str) -> dict[str, Any]:
    """What decides a result: the options, the weights they stand for, and the code."""
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    weights = {model: fingerprint(model) for model in (config.model, *config.controls)}
    return {"config": options, "weights": weights, "code": results.source_digest(*sources_of(name))}


def sources_of(name: str) -> list[Path]:
    """The files of an analysis: its own and those of `analyses` that it imports, directly or through others."""
    found: dict[str, Path] = {}
    todo = [name]
    while todo:
        path = Path(__file__).parent / f"{(module := todo.pop())}.py"
        if module not in found:
            found[module] = path
            for inside, names in IMPORT.findall(path.read_text()):
                todo += [inside] if inside else names.split(", ")
    return [found[module] for module in sorted(found)]


def _same(path: Path, asked: dict[str, Any]) -> xr.Dataset | None:
    """The result at `path` where the same options, weights and versions made it."""
    try:
        result = results.open_result(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(f"{error}; making it anew\n", file=sys.stderr)
        return None
    made = results.facts(result)
    wanted = {**asked, "versions": results.versions()}
    return result if all(made.get(key) == value for key, value in wanted.items()) else None
