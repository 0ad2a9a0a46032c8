"""Where a job runs, checked before it begins. Light: no torch and no ray are imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from dit_lens.choices import check_choice

ENGINES = ("here", "processes", "ray")
ADDRESSES = ("local", "auto")
CLIENT = "ray://"


@dataclass(frozen=True)
class Engine:
    """Where a job runs.

    Attributes:
        kind: "here" is this process, "processes" are local ones, "ray" are actors of a Ray cluster.
        workers: processes or actors, each with a copy of the model.
        address: of the Ray cluster: "local" starts one on this machine, "auto" takes the one that runs on it, and
            "ray://HOST:PORT" is a remote one.

    Raises:
        ValueError: an unknown kind or address, no workers, or ray is not installed.
    """

    kind: Literal["here", "processes", "ray"] = "here"
    workers: int = 2
    address: str = ADDRESSES[0]

    def __post_init__(self) -> None:
        check_choice(self.kind, ENGINES, "engine")
        if self.workers < 1:
            raise ValueError(f"got {self.workers} workers · expected 1 or more")
        if self.address not in ADDRESSES and not self.address.startswith(CLIENT):
            raise ValueError(f"got address {self.address!r} · expected local, auto, or ray://HOST:PORT")
        if self.kind == "ray" and find_spec("ray") is None:
            raise ValueError(
                "got engine ray, but the package ray is not installed · expected it · pip install 'dit-lens[ray]', or"
                " use engine processes"
            )

    @property
    def elsewhere(self) -> bool:
        """Whether the job runs outside this process."""
        return self.kind != "here"

    @contextmanager
    def shared_threads(self) -> Iterator[None]:
        """A context in which torch has the threads of one worker: an equal share of this process's threads.

        Their number decides the last bits of values, so a plan is made with the number that its workers will have.
        """
        if not self.elsewhere:
            yield
            return
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // self.workers))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
