"""On a real Ray cluster: the store of one process, though a node is killed; and nothing listens beyond loopback."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_jobs import Squares, refuses
from stores import names, shards

from dit_lens import datasets
from dit_lens.capture import NoisePath, Recipe, Take, fill, survey
from dit_lens.engines import Engine, pool
from dit_lens.lens import DiTLens
from dit_lens.store import StoreWriter, open_store

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SPLIT = datasets.load("miniphys", split="test", quadruplets=8)
RECIPE = Recipe((Take.parse("blocks.*.hook_resid_post=mean"),), (1, 2), NoisePath(sampler_steps=3), batch_size=1)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors import the package of this checkout, and the jobs of the tests."""
    here = Path(__file__).parent
    known = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, known)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core each."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(nodes.address, logging_level="ERROR", log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def listening() -> dict[int, str]:
    """Addresses of all sockets that listen, by inode, as /proc/net writes them."""
    rows = [line.split() for file in ("tcp", "tcp6") for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    return {int(row[9]): row[1].rpartition(":")[0] for row in rows if row[3] == "0A"}


def test_actors_set_up_once_errors_come_back_and_nothing_listens_beyond_loopback(tmp_path: Path) -> None:
    before = set(listening())
    with pool(Engine("ray", 2), Squares(tmp_path, once=(2,), wrong=(3,))) as workers:
        for order in range(5):
            workers.submit(order)
        results = {}
        while workers.pending:
            outcome = workers.outcome()
            if outcome.died:
                assert outcome.order == 2
                workers.submit(2)
            results[outcome.order] = outcome
        new = {address for inode, address in listening().items() if inode not in before}
    assert new and new <= {"0100007F", "0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F"}
    assert {r.order: r.value for r in results.values() if not r.error} == {0: 0, 1: 1, 2: 4, 4: 16}
    assert isinstance(results[3].error, OSError) and 2 <= len(list(tmp_path.glob("setup-*"))) <= 3
    assert not ray.is_initialized()
    with pytest.raises(ConnectionError, match="got no Ray cluster at auto"):
        pool(Engine("ray", 1, "auto"), Squares(tmp_path))


def test_a_setup_that_refuses_and_a_cluster_without_room_end_the_pool(cluster: Any, tmp_path: Path) -> None:
    with pool(Engine("ray", 1), refuses) as workers, pytest.raises(ValueError, match="got no weights"):
        workers.submit(0)
        workers.outcome()
    too_much: dict[str, dict[str, Any]] = {
        "2 CPU · expected at least 99": {"threads": 99},
        "0 GPU · expected": {"gpus": True},
    }
    for says, needs in too_much.items():
        with pytest.raises(ValueError, match=says):
            pool(Engine("ray", 1), Squares(tmp_path), **needs)
    assert ray.is_initialized()


def test_the_store_is_that_of_one_process_though_a_node_is_killed(cluster: Any, tmp_path: Path) -> None:
    lens = DiTLens.from_pretrained("mini-wan-random", verify=False)
    plan, _ = survey(lens, SPLIT, RECIPE)
    fill(lens, SPLIT, RECIPE, StoreWriter(tmp_path / "here", plan, "{}"))
    killed: list[int] = []

    def kill_when_begun() -> None:
        while not list((tmp_path / "ray").glob("shard-*.h5")):
            time.sleep(0.02)
        node = next(node for node in cluster.list_all_nodes() if not node.is_head())
        for group in node.all_processes.values():
            for process in group:
                killed.append(process.process.pid)
                os.kill(process.process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_begun, daemon=True)
    killer.start()
    fill(lens, SPLIT, RECIPE, StoreWriter(tmp_path / "ray", plan, "{}"), engine=Engine("ray", 2))
    killer.join()
    assert killed and shards(tmp_path / "ray") == shards(tmp_path / "here")
    assert names(tmp_path / "ray") == names(tmp_path / "here") and open_store(tmp_path / "ray", verify=True)
