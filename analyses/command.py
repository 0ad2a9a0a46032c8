"""What every analysis shares: options, reuse of results, atomic writing, verdict, table, figure.

An analysis begins with its `Config` and the line `CONFIG = asked(Config, __name__)`, before its heavy imports: options,
data and needs are checked, and `--help` is shown, within a second.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from dit_lens.choices import check_choice, nearest
from dit_lens.studies import Study

if TYPE_CHECKING:
    import xarray as xr

Config = TypeVar("Config", bound=Study)
HERE = Path(__file__).parent
SHARED = ("__init__", "__main__", "command")  # files that are no question
PARTS = ("What", "Why", "How", "Controls", "Cost")  # of the docstring of an analysis, after its question
FLAGS = {
    "--full": "print the whole table, not only its headline rows",
    "--figure": "file of the figure, instead of the default place",
}
# Options of the first edition, and what they are called now.
RENAMED = {
    "dataset": "data", "levels": "sampler-steps", "steps": "read-at", "step": "read-at", "quadruplets": "test",
    "paths": "path", "routes": "path", "models": "model, --controls", "groups": "test", "split": "data NAME:SPLIT",
}  # fmt: skip


def asked(config_type: type[Config], module: str) -> Config | None:
    """The options of an analysis that is run as a command, checked; None where it is only imported.

    Bad input ends the program with status 2 and one line.
    """
    if module != "__main__":
        return None
    source = sys.modules["__main__"]
    with endings():
        return parse(config_type, Path(str(source.__file__)).stem, sys.argv[1:], source.__doc__)


def parse(config_type: type[Config], name: str, arguments: Sequence[str], description: str | None) -> Config:
    """The options that arguments give, with all that follows from them.

    Raises:
        ValueError, FileNotFoundError: an unknown option or value, or options that do not go together.
    """
    remaining, _ = _flags(arguments)
    _check_arguments(config_type, remaining)
    flags = "\n".join(f"{flag}: {meaning}." for flag, meaning in FLAGS.items())
    config = tyro.cli(
        config_type,
        prog=f"python -m analyses.{name}",
        description=f"{_paragraphs(description or '')}\n\n{flags}",
        args=remaining,
    )
    return config.resolved()


def _paragraphs(docstring: str) -> str:
    """A docstring for the terminal: its question and each of its parts a paragraph, whose lines are joined."""
    parts = re.split(rf"\n\n|\n(?=(?:{'|'.join(PARTS)}): )", docstring.strip())
    return "\n\n".join(" ".join(part.split()) for part in parts)


def answer(config: Config, run: Callable[[Config], xr.Dataset]) -> None:
    """Answers the question that the running command asks; see `answered`."""
    with endings():
        answered(Path(str(sys.modules["__main__"].__file__)).stem, config, run, sys.argv[1:])


def answer_in_words(config: Config, run: Callable[[Config], str]) -> None:
    """Runs an analysis whose result is a folder, and prints a summary of it."""
    with endings("every file on disk is complete; run the same command to continue"):
        print(run(config))


def call(name: str, arguments: Sequence[str]) -> None:
    """What `python -m analyses.NAME ARGUMENTS` does, in this process."""
    module = importlib.import_module(f"analyses.{name}")
    with endings():
        if not (HERE.parent / "figures" / f"{name}.py").is_file():
            print(module.run(parse(module.Config, name, arguments, module.__doc__)))
            return
        answered(name, parse(module.Config, name, arguments, module.__doc__), module.run, arguments)


def answered(
    name: str, config: Config, run: Callable[[Config], xr.Dataset], arguments: Sequence[str]
) -> tuple[Path, Path]:
    """Runs an analysis, or shows the result that is up to date; prints verdict, table and files.

    What follows from a result is in `dit_lens.measures.NAME` (`verdict`, `table`); `figures.NAME` draws it. The result
    is NAME-<digest of the options and weights>.nc: other options never replace it.
    """
    from dit_lens import results
    from dit_lens.studies import outcome

    measures, figure = (importlib.import_module(f"{room}.{name}") for room in ("dit_lens.measures", "figures"))
    request, (_, flags) = outcome.asked(config, name), _flags(arguments)
    path = outcome.location(config, name, request)
    result, reason = outcome.up_to_date(path, request)
    if result is None:
        outcome.writable(path)
        if reason:
            print(f"{path}: {reason}; recomputing\n", file=sys.stderr)
        result = run(config)
        result.attrs = {"provenance": results.provenance(**request, **result.attrs)}
        results.save(result, path)
    else:
        print(f"{path} is up to date; delete it to recompute\n")
    drawing = Path(flags["--figure"]) if "--figure" in flags else outcome.drawing(config, path)
    print(f"{measures.verdict(result)}\n\n{measures.table(result, '--full' in flags)}")
    print(f"\nresult  {path}\nfigure  {figure.draw(result, drawing)}")
    return path, drawing


@contextmanager
def endings(after_interrupt: str = "files that were written are complete") -> Iterator[None]:
    """Ends the program with one line: on bad input with status 2, on Ctrl-C with status 130."""
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, OSError, ArithmeticError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nstopped; {after_interrupt}", file=sys.stderr)
        sys.exit(130)


def questions() -> list[str]:
    """The analyses, by name."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SHARED and _asks(path))


def header(name: str) -> tuple[type[Study], str]:
    """The `Config` of an analysis and its docstring, without the heavy imports that follow them."""
    path = HERE / f"{name}.py"
    tree = ast.parse(path.read_text())
    last = next(i for i, node in enumerate(tree.body) if _is_asked(node))
    head = ast.Module(tree.body[:last], [])
    module = type(sys)(f"analyses.{name}.header")
    module.__file__ = str(path)  # where the docstrings of options are looked up
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(head, str(path), "exec"), module.__dict__)
    return module.Config, ast.get_docstring(tree) or ""


def _asks(path: Path) -> bool:
    return any(_is_asked(node) for node in ast.parse(path.read_text()).body)


def _is_asked(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "CONFIG"


def _flags(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments without the flags that decide what is printed and drawn, and those flags."""
    remaining: list[str] = []
    flags: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--full":
            flags[argument] = ""
        elif argument == "--figure":
            if not waiting or waiting[0].startswith("--"):
                raise ValueError("got --figure without a file · expected --figure FILE.pdf")
            flags[argument] = waiting.pop(0)
        else:
            remaining.append(argument)
    return remaining, flags


def _check_arguments(config_type: type[Study], arguments: Sequence[str]) -> None:
    """Checks that every option exists and every value of a fixed choice is allowed.

    Raises:
        ValueError: names the nearest option, or the new name of an old one.
    """
    hints, known = get_type_hints(config_type), [field.name.replace("_", "-") for field in fields(config_type)]
    for place, argument in enumerate(arguments):
        if not argument.startswith("--") or argument == "--help":
            continue
        name, _, value = argument[2:].partition("=")
        name = name.replace("_", "-")
        if name not in known:
            if name in RENAMED:
                raise ValueError(f"got --{name} · expected --{RENAMED[name]}, its new name")
            raise ValueError(f"got unknown option --{name}{nearest(name, known)} · --help lists all options")
        following = [*arguments[place + 1 :], "--"]
        values = [value] if value else following[: next(i for i, a in enumerate(following) if a.startswith("--"))]
        for choices in _literals(hints[name.replace("-", "_")]):
            for choice in values:
                check_choice(choice, choices, f"--{name}")


def _literals(hint: Any) -> Iterator[tuple[str, ...]]:
    """The fixed choices (`Literal`) of a type, at any depth."""
    if get_origin(hint) is Literal:
        yield tuple(map(str, get_args(hint)))
    for part in get_args(hint):
        yield from _literals(part)
