"""Workers as local processes: spawned, with a pipe each; a worker ends when the process that started it does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from dit_lens.engines.pools import Event, Pool, sendable

DONE, FAILED = "done", "failed"
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Processes(Pool):
    """Local processes, each with its own copy of what the setup loads.

    Args:
        setup: pickled; see `pool`.
        gpus: whether to let each see one GPU only, in turn.
    """

    def __init__(self, setup: bytes, workers: int, *, gpus: bool = False):
        super().__init__(workers)
        self.setup = setup
        self.processes: dict[Connection, Any] = {}  # by the driver's end of the pipe, which stands for the worker
        self._gpus = _visible_gpus() if gpus else []
        self._begun = 0

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        pipe, other_end = context.Pipe()
        gpu = self._gpus[self._begun % len(self._gpus)] if self._gpus else None
        process = context.Process(target=serve, args=(other_end, self.setup, gpu), daemon=True)
        process.start()
        other_end.close()  # so that the pipe ends when the worker does
        self.processes[pipe] = process
        self._begun += 1
        return pipe

    def _send(self, worker: Connection, order: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # of a dead worker, whose death is its next event
            worker.send(order)

    def _event(self) -> Event:
        pipe: Any = wait(list(self.processes))[0]
        try:
            what, content = pipe.recv()
        except (EOFError, ConnectionResetError):
            return Event(pipe, died=f"exit code {self._buried(pipe)}")
        if what == FAILED:
            return Event(pipe, error=content)
        return Event(pipe, value=content)

    def _buried(self, pipe: Connection) -> int | None:
        process = self.processes.pop(pipe)
        process.join()
        pipe.close()
        return process.exitcode

    def _end(self) -> None:
        for pipe, process in self.processes.items():
            if pipe in self._idle:
                pipe.close()  # it ends by itself
            else:
                process.kill()
        for process in self.processes.values():
            process.join()


def serve(pipe: Connection, setup: bytes, gpu: str | None) -> None:
    """The life of a worker: sets up, then runs one order after the other until it is killed."""
    if gpu is not None:
        os.environ[VISIBLE] = gpu  # before anything imports CUDA
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job = pickle.loads(setup)()
    except Exception as error:
        pipe.send((FAILED, sendable(error)))
        return
    pipe.send((DONE, None))
    while True:
        try:
            answer = (DONE, job(pipe.recv()))
        except EOFError:
            return
        except Exception as error:
            answer = (FAILED, sendable(error))
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _visible_gpus() -> list[str]:
    """The GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    return named or [str(i) for i in range(torch.cuda.device_count())]
