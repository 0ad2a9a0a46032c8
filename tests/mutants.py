"""Mutation testing: small changes of the code, one at a time, each of which some test should notice.

    make mutants ROOM=edits                    every mutant of `dit_lens.edits`
    make mutants ROOM="interventions cache" SAMPLE=50 SEED=1

mutmut makes the mutants and asks, for each, the tests that run the changed function. Those that survive are printed as
they differ; `tests/mutants.md` says of the known ones why nothing can notice them. `[tool.mutmut]` in pyproject.toml
lists the rooms and the test files. mutmut changes no decorated function and nothing outside of functions.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

MUTMUT = [sys.executable, "-m", "mutmut"]
SHARED = {"codec", "quadruplets"}  # fixtures of seconds, which every mutant would pay for again
SURVIVED, NO_TESTS = 0, 33  # how mutmut writes down that no test failed, and that no test runs the function


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """By-hand tests first, and none that need shared fixtures (mutmut loads this module as a plugin, `-p mutants`)."""
    slow = [item for item in items if SHARED & set(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=slow)
    items[:] = sorted((item for item in items if item not in slow), key=lambda item: "by_hand" not in item.nodeid)


def outcomes() -> dict[str, int | None]:
    """Every mutant by name, with pytest's exit status where it was tried."""
    files = sorted(Path("mutants").glob("dit_lens/**/*.meta"))
    return {name: code for file in files for name, code in json.loads(file.read_text())["exit_code_by_key"].items()}


def chosen(rooms: list[str], sample: int | None, seed: int) -> list[str]:
    """Names of the mutants of some rooms, or a random sample of them."""
    names = sorted(name for name in outcomes() if any(name.startswith(f"dit_lens.{room}.") for room in rooms))
    return names if sample is None else random.Random(seed).sample(names, min(sample, len(names)))


def main() -> None:
    """Tries mutants and prints how many were noticed, room by room, and those that were not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rooms", nargs="+")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    subprocess.run([*MUTMUT, "run", "dit_lens.choices.x_nearest__mutmut_1"], check=True)  # makes the mutants
    names = chosen(options.rooms, options.sample, options.seed)
    subprocess.run([*MUTMUT, "run", "--max-children", "1", *names], check=True, stdout=subprocess.DEVNULL)
    results = outcomes()
    for name in names:
        if results[name] in (SURVIVED, NO_TESTS):
            print(subprocess.run([*MUTMUT, "show", name], capture_output=True, text=True, check=True).stdout)
    for room in options.rooms:
        count = Counter(results[name] for name in names if name.startswith(f"dit_lens.{room}."))
        unnoticed = count[SURVIVED] + count[NO_TESTS]
        print(f"{room}: {count.total() - unnoticed} of {count.total()} noticed, {count[NO_TESTS]} without a test")


if __name__ == "__main__":
    main()
