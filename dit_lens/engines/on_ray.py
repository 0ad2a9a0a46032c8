"""Workers as actors of a Ray cluster (Ray Core). Needs the extra `ray`.

A cluster that is started here listens on the loopback interface only, without a dashboard, and sends no usage reports.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayActorError, RayTaskError

from dit_lens.engines.engine import Engine
from dit_lens.engines.pools import Event, Pool, sendable

LOOPBACK = "127.0.0.1"
# Where it is off, every process of a cluster takes the loopback address; on Linux it is on, whatever `ray.init` gets.
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class Worker:
    """An actor: sets up once, then runs one order after the other. Returns (value, error)."""

    # nnsight adds a method `save` to every object. Ray would send it along with this class, and load nnsight in the
    # worker before `dit_lens.tracing` has imported what fails after it.
    save = None

    def __init__(self) -> None:
        self.job: Any = None

    def begin(self, setup: bytes) -> tuple[None, Exception | None]:
        """Calls the setup."""
        try:
            self.job = pickle.loads(setup)()
        except Exception as error:
            return None, sendable(error)
        return None, None

    def run(self, order: Any) -> tuple[Any, Exception | None]:
        """Runs the job on an order."""
        try:
            return self.job(order), None
        except Exception as error:
            return None, sendable(error)


class Actors(Pool):
    """Actors, placed by Ray: `threads` cores each, and a GPU each where they need one.

    A connection that the process has already is used, and left open.

    Raises:
        ValueError: the cluster has no room for a single worker. ConnectionError: no cluster at the address.
    """

    def __init__(self, setup: bytes, engine: Engine, *, threads: int = 1, gpus: bool = False):
        super().__init__(engine.workers)
        self._connected = ray.is_initialized()
        if not self._connected:
            connect(engine, threads)
        try:
            _check_room(threads, gpus)
            self._setup = ray.put(setup)
        except BaseException:
            self._end()
            raise
        self._kind: Any = ray.remote(
            num_cpus=threads, num_gpus=int(gpus), max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )(Worker)
        self._answers: dict[Any, Any] = {}  # worker by future
        self._handles: dict[int, Any] = {}
        self._begun = 0

    def _start(self) -> int:
        self._begun += 1
        self._handles[self._begun] = self._kind.remote()
        self._answers[self._handles[self._begun].begin.remote(self._setup)] = self._begun
        return self._begun

    def _send(self, worker: int, order: Any) -> None:
        self._answers[self._handles[worker].run.remote(order)] = worker

    def _event(self) -> Event:
        (future,), _ = ray.wait(list(self._answers), num_returns=1)
        worker = self._answers.pop(future)
        try:
            value, error = ray.get(future)
        except (RayActorError, RayTaskError) as lost:
            del self._handles[worker]
            return Event(worker, died=str(lost).strip().splitlines()[0])
        return Event(worker, value=value, error=error)

    def _end(self) -> None:
        for handle in getattr(self, "_handles", {}).values():
            ray.kill(handle)
        if not self._connected:
            ray.shutdown()


def connect(engine: Engine, threads: int) -> None:
    """Connects this process to the cluster of an engine, which is started where its address is "local".

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR}
    if engine.address == "local":
        options |= {"num_cpus": engine.workers * threads, "include_dashboard": False, "_node_ip_address": LOOPBACK}
    try:
        with _loopback_only() if engine.address == "local" else nullcontext():
            ray.init(engine.address, **options)
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"got no Ray cluster at {engine.address} ({str(error).splitlines()[0]}) · expected one · start it with ray"
            " start, or use --address local"
        ) from error


@contextmanager
def _loopback_only() -> Iterator[None]:
    """A context in which a cluster that is started binds to the loopback interface."""
    before, enabled = os.environ.get(CLUSTERS), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[CLUSTERS], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # for its processes, and for this one  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[CLUSTERS]
        else:
            os.environ[CLUSTERS] = before


def _check_room(threads: int, gpus: bool) -> None:
    total = ray.cluster_resources()
    for name, needed in (("CPU", threads), ("GPU", int(gpus))):
        if total.get(name, 0) < needed:
            raise ValueError(
                f"got a Ray cluster with {total.get(name, 0):g} {name} · expected at least {needed} for a worker · add"
                " nodes, or use --device cpu or more --workers with fewer threads each"
            )
