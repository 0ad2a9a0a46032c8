"""Pools: every order has one outcome, whatever happens to the workers. With real processes, killed by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from engine_jobs import Squares, raises_what_cannot_be_sent, refuses

from dit_lens.engines import Engine, Outcome, pool

LOCAL = Engine("processes", 2)


def outcomes(setup: Squares, orders: Iterable[int], engine: Engine = LOCAL) -> list[Outcome]:
    """What becomes of orders; those that killed a worker are tried once more."""
    results: list[Outcome] = []
    with pool(engine, setup) as workers:
        for order in orders:
            workers.submit(order)
        while workers.pending:
            results.append(workers.outcome())
            if results[-1].died and sum(r.order == results[-1].order for r in results) < 2:
                workers.submit(results[-1].order)
    return results


def pids(folder: Path, mark: str) -> set[str]:
    return {path.name.rpartition("-")[2] for path in folder.glob(f"{mark}*")}


def test_every_order_has_one_outcome_and_each_worker_sets_up_once(tmp_path: Path) -> None:
    results = outcomes(Squares(tmp_path), range(6))
    assert {r.order: r.value for r in results} == {i: i * i for i in range(6)} and len(results) == 6
    assert len(pids(tmp_path, "setup-")) == 2 and pids(tmp_path, "begun-") <= pids(tmp_path, "setup-")
    assert str(os.getpid()) not in pids(tmp_path, "setup-")


def test_no_more_workers_are_started_than_there_are_orders(tmp_path: Path) -> None:
    assert [r.value for r in outcomes(Squares(tmp_path), [3], Engine("processes", 4))] == [9]
    assert len(pids(tmp_path, "setup-")) == 1


def test_a_dead_worker_is_replaced_and_its_order_comes_back(tmp_path: Path) -> None:
    results = outcomes(Squares(tmp_path, once=(2,), fatal=(4,)), range(6))
    died = [r.order for r in results if r.died]
    assert sorted(died) == [2, 4, 4] and all(r.died == "exit code -9" for r in results if r.died)
    assert {r.order: r.value for r in results if not r.died} == {i: i * i for i in range(6) if i != 4}


def test_errors_come_back_as_they_are(tmp_path: Path) -> None:
    results = {r.order: r for r in outcomes(Squares(tmp_path, wrong=(1,)), range(3))}
    assert isinstance(results[1].error, OSError) and results[1].error.errno == 28 and results[2].value == 4
    with pool(Engine("processes", 1), raises_what_cannot_be_sent) as workers:
        workers.submit(0)
        assert "Unsendable" in str(workers.outcome().error)


def test_what_fails_before_the_first_order_ends_the_pool(tmp_path: Path) -> None:
    with pool(LOCAL, refuses) as workers, pytest.raises(ValueError, match="got no weights"):
        workers.submit(0)
        workers.outcome()
    with pytest.raises(ChildProcessError, match=r"got 3 workers that ended before they were ready \(exit code -9\)"):
        outcomes(Squares(tmp_path, unready=9), range(2), Engine("processes", 1))
    assert len(pids(tmp_path, "setup-")) == 3
    (tmp_path / "some").mkdir()
    assert [r.value for r in outcomes(Squares(tmp_path / "some", unready=2), [5], Engine("processes", 1))] == [25]


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        pool(LOCAL, lambda: len)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "rya"}, "did you mean 'ray'"),
        ({"workers": 0}, "got 0 workers"),
        ({"address": "10.0.0.1"}, "expected local, auto, or ray://HOST:PORT"),
    ],
)
def test_engines_that_are_none_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Engine(**options)


def test_ray_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dit_lens.engines.engine.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'dit-lens\[ray\]'"):
        Engine("ray")


def test_workers_end_when_their_driver_is_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import time; from engine_jobs import Squares; from dit_lens.engines import *\n"
        "if __name__ == '__main__':\n"
        f"    with pool(Engine('processes', 1), Squares(Path({str(tmp_path)!r}))) as workers:\n"
        "        workers.submit(1); workers.outcome(); print('ready', flush=True); time.sleep(600)\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    driver = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert driver.stdout is not None and driver.stdout.readline() == b"ready\n"
    (worker,) = pids(tmp_path, "setup-")
    assert Path(f"/proc/{worker}").exists()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    for _ in range(1000):
        if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the worker lives on")
