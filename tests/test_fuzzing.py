"""Wild arguments end in a value or in an error of the house's form; where an error is bare, the fuzzing says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fuzzing
import pytest

ROOT = Path(__file__).parent.parent


def fuzzed(examples: int) -> str:
    """What is printed, by a process in which no type checker stands before our own checks."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, str(ROOT / "tests" / "fuzzing.py"), "--examples", str(examples)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def test_every_outcome_is_a_value_or_says_what_was_got_and_what_is_expected() -> None:
    assert "inputs tried, 0 kinds of wrong outcomes" in fuzzed(12)


@pytest.mark.slow
def test_so_it_is_of_many_inputs() -> None:
    assert "inputs tried, 0 kinds of wrong outcomes" in fuzzed(150)


def test_a_bare_error_is_noticed() -> None:
    def bare(draw: object) -> None:
        raise TypeError("'int' object is not iterable")

    outcomes: Counter[str] = Counter()
    bad: dict[str, str] = {}
    fuzzing.tried(bare, 3, outcomes, bad, seed=None)
    assert outcomes["bad"] and bad and not outcomes["refused"]
