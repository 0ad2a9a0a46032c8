"""Jobs without a model, for the pools of `dit_lens.engines`: importable by workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Squares:
    """A setup: the job squares a number, notes in a folder that it was begun, and fails where it is asked to.

    Attributes:
        fatal: orders that kill their worker every time; once: those that do so the first time.
        wrong: orders that raise an error.
        unready: how many workers die in their setup.
    """

    folder: Path
    fatal: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()
    unready: int = 0

    def __call__(self) -> Callable[[int], int]:
        marks = len(list(self.folder.glob("setup-*")))
        (self.folder / f"setup-{os.getpid()}").touch()
        if marks < self.unready:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.square

    def square(self, number: int) -> int:
        """The job."""
        first = not list(self.folder.glob(f"begun-{number}-*"))
        (self.folder / f"begun-{number}-{os.getpid()}").touch()
        if number in self.fatal or (number in self.once and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.wrong:
            raise OSError(28, "No space left on device")
        time.sleep(0.01)
        return number * number


@dataclass(frozen=True)
class Unsendable(Exception):  # noqa: N818
    """An error that cannot be pickled."""

    cause: Callable[[], None]


def raises_what_cannot_be_sent() -> Callable[[int], int]:
    """A setup whose job raises such an error."""

    def job(number: int) -> int:
        raise Unsendable(lambda: None)

    return job


def refuses() -> Callable[[int], int]:
    """A setup that refuses."""
    raise ValueError("got no weights · expected some")
