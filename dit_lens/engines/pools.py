"""A pool of workers, whatever they run on: orders go in, outcomes come out, and dead workers are replaced."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

STARTS = 3  # workers in a row that may die before they are ready

Job = Callable[[Any], Any]
Setup = Callable[[], Job]


@dataclass(frozen=True)
class Outcome:
    """What became of an order.

    Attributes:
        value: what the job returned.
        error: what it raised; None otherwise.
        died: how the worker ended in the middle of it, such as "exit code -9"; empty otherwise.
    """

    order: Any
    value: Any = None
    error: Exception | None = None
    died: str = ""


@dataclass(frozen=True)
class Event:
    """News of a worker: the end of its setup or of an order, or its death."""

    worker: Any
    value: Any = None
    error: Exception | None = None
    died: str = ""


class Pool(ABC):
    """Workers with one order each at a time; as a context, which ends them.

    Args:
        workers: how many run at once; no more are started than there are orders.
    """

    def __init__(self, workers: int):
        self.size = workers
        self._waiting: deque[Any] = deque()
        self._orders: dict[Any, Any] = {}  # by busy worker
        self._starting: set[Any] = set()
        self._idle: list[Any] = []
        self._lost_starts = 0

    @abstractmethod
    def _start(self) -> Any:
        """A new worker, which begins with the setup."""

    @abstractmethod
    def _send(self, worker: Any, order: Any) -> None:
        """Gives an order to a worker, which may be dead by now: that is then its next event."""

    @abstractmethod
    def _event(self) -> Event:
        """Waits for the next event of a worker."""

    @abstractmethod
    def _end(self) -> None:
        """Ends all workers at once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pending(self) -> int:
        """The number of orders without an outcome."""
        return len(self._waiting) + len(self._orders)

    def submit(self, order: Any) -> None:
        """Queues an order."""
        self._waiting.append(order)

    def outcome(self) -> Outcome:
        """Waits for the next outcome.

        Raises:
            Exception: what the setup raised. ChildProcessError: workers die before they are ready.
        """
        while True:
            self._hand_out()
            event = self._event()
            if event.worker in self._starting:
                self._started(event)
                continue
            order = self._orders.pop(event.worker, None)
            if event.died and event.worker in self._idle:
                self._idle.remove(event.worker)
                continue
            if not event.died:
                self._idle.append(event.worker)
            return Outcome(order, event.value, event.error, event.died)

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            worker = self._idle.pop()
            self._orders[worker] = self._waiting.popleft()
            self._send(worker, self._orders[worker])
        needed = min(self.size - len(self._orders) - len(self._idle), len(self._waiting))
        while len(self._starting) < needed:
            self._starting.add(self._start())

    def _started(self, event: Event) -> None:
        self._starting.remove(event.worker)
        if event.error is not None:
            raise event.error
        if not event.died:
            self._lost_starts = 0
            self._idle.append(event.worker)
            return
        self._lost_starts += 1
        if self._lost_starts >= STARTS:
            raise ChildProcessError(
                f"got {STARTS} workers that ended before they were ready ({event.died}) · expected them to load the"
                " model · check the memory of the machine, and that a script of your own starts its work under if"
                " __name__ == '__main__'"
            )


def sendable(error: Exception) -> Exception:
    """An error as another process can receive it: itself, or its text where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
