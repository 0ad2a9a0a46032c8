"""`python -m benchmarks.diffusers_suite CHECKOUT [--family NAME ...]`; see the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from benchmarks.diffusers_suite import stand_ins
from benchmarks.diffusers_suite.plugin import LENS, REPORT

REPOSITORY = Path(__file__).parents[2]
FOLDERS = {
    "wan": "wan", "skyreels": "skyreels_v2", "cogvideox": "cogvideo", "ltx": "ltx", "ltx2": "ltx2", "mochi": "mochi",
    "allegro": "allegro", "hunyuan": "hunyuan_video", "hunyuan15": "hunyuan_video1_5", "cosmos": "cosmos",
}  # fmt: skip
COLUMNS = "family", "passed", "with lens", "failed in both", "skipped", "calls", "hooked", "equal", "refused"


@dataclass
class Ran:
    """What a run of the tests came to.

    Attributes:
        outcome: by test; the worst of its phases and subtests.
        why: of those that failed, by test.
        calls: of pipelines, by test in order.
    """

    outcome: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    calls: dict[str, list[dict]] = field(default_factory=dict)

    @classmethod
    def of(cls, report: Path) -> Ran:
        """As the plugin wrote it down."""
        ran = cls()
        for line in map(json.loads, report.read_text().splitlines() if report.exists() else []):
            if "pipeline" in line:
                ran.calls.setdefault(line["test"], []).append(line)
            elif ran.outcome.get(line["test"]) != "failed":
                ran.outcome[line["test"]] = line["outcome"]
                ran.why[line["test"]] = line["why"]
        return ran

    def count(self, outcome: str) -> int:
        """How many tests ended so."""
        return sum(each == outcome for each in self.outcome.values())


@dataclass(frozen=True)
class Compared:
    """The tests of a family without a lens and with it."""

    family: str
    stock: Ran
    lens: Ran

    @property
    def broken(self) -> dict[str, str]:
        """Tests that passed without a lens and do not with it, and why."""
        passed = [test for test, outcome in self.stock.outcome.items() if outcome == "passed"]
        failing = [test for test in passed if self.lens.outcome.get(test) != "passed"]
        return {test: self.lens.why.get(test, "was not run") for test in failing}

    @property
    def refused(self) -> Counter[tuple[str, str]]:
        """Calls of pipelines that the lens does not take, by class and reason."""
        calls = [call for calls in self.lens.calls.values() for call in calls]
        return Counter((call["pipeline"], call["refused"]) for call in calls if "refused" in call)

    def row(self) -> tuple[str | int, ...]:
        """What is printed of it, see `COLUMNS`."""
        both = [
            test for test, outcome in self.stock.outcome.items() if outcome == "failed" == self.lens.outcome.get(test)
        ]
        hooked, equal = 0, 0
        for test, calls in self.lens.calls.items():
            for call, before in zip(calls, self.stock.calls.get(test, []), strict=False):
                hooked += "hooked" in call
                equal += "hooked" in call and call["digest"] == before["digest"]
        calls = sum(map(len, self.stock.calls.values()))
        counts = self.stock.count("passed"), self.lens.count("passed"), len(both), self.stock.count("skipped")
        return self.family, *counts, calls, hooked, equal, sum(self.refused.values())


def run(checkout: Path, family: str, folder: Path, lens: bool, match: str | None = None) -> Ran:
    """The tests of a family, in a process of their own.

    Args:
        folder: with the stand-ins; tests run in it.
        match: which tests, as pytest's -k takes it.
    """
    report = folder / f"{family}-{'lens' if lens else 'stock'}.jsonl"
    report.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != LENS}
    environment |= {REPORT: str(report), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    environment |= {LENS: "1"} if lens else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.diffusers_suite.plugin", "-p", "no:xdist",
               "-p", "no:cacheprovider", "--tb=line", f"--rootdir={checkout}",
               str(checkout / "tests" / "pipelines" / FOLDERS[family])]  # fmt: skip
    command += ["-k", match] if match else []
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    ran = Ran.of(report)
    if not ran.outcome:
        raise RuntimeError(
            f"got no test of {family} in {checkout} · pytest said: {(done.stdout + done.stderr)[-2000:]}"
        )
    return ran


def main(
    checkout: tyro.conf.Positional[Path],
    family: tuple[str, ...] = tuple(FOLDERS),
    keep: Path | None = None,
    match: str | None = None,
) -> None:
    """Tests of diffusers' pipelines, without a lens and with one on every pipeline.

    Args:
        checkout: of diffusers, at the tag of the version that is installed or near it; its folder `tests` is enough.
        family: which ones.
        keep: a folder for the reports; a temporary one unless given.
        match: which tests, as pytest's -k takes it; all unless given.
    """
    unknown = [name for name in family if name not in FOLDERS]
    if unknown or not (checkout / "tests" / "pipelines").is_dir():
        sys.exit(f"got {checkout} and families {', '.join(family)} · expected a checkout of diffusers with"
                 f" tests/pipelines, and families of {', '.join(FOLDERS)}")  # fmt: skip
    broken = {}
    print(_line(COLUMNS), _line(["---"] * len(COLUMNS)), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        stand_ins.write(folder)
        for name in family:
            compared = Compared(name, *(run(checkout.resolve(), name, folder, lens, match) for lens in (False, True)))
            print(_line(compared.row()), flush=True)
            for (kind, reason), calls in compared.refused.items():
                print(f"    refused {calls} calls of {kind}: {reason}")
            for test, why in compared.broken.items():
                print(f"    broken {test}: {why}")
            broken |= compared.broken
    sys.exit(1 if broken else 0)


def _line(cells: Iterable[str | int]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    tyro.cli(main)
