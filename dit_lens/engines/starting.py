"""The pool of workers of an engine."""

from __future__ import annotations

import pickle

from dit_lens.engines.engine import Engine
from dit_lens.engines.pools import Pool, Setup
from dit_lens.engines.processes import Processes


def pool(engine: Engine, setup: Setup, *, threads: int = 1, gpus: bool = False) -> Pool:
    """The workers of an engine.

    Args:
        setup: called once in each worker; returns the job. It must be picklable.
        threads: processor cores that Ray reserves for each worker.
        gpus: whether each worker needs a GPU. Ray reserves one; local processes take turns on those that are visible.

    Raises:
        ValueError: the setup cannot be pickled; or see `on_ray.Actors`.
    """
    packed = pack(setup)
    if engine.kind == "ray":
        from dit_lens.engines.on_ray import Actors

        return Actors(packed, engine, threads=threads, gpus=gpus)
    return Processes(packed, engine.workers, gpus=gpus)


def pack(setup: Setup) -> bytes:
    """A setup as bytes.

    Raises:
        ValueError: it cannot be pickled; says what cannot.
    """
    try:
        return pickle.dumps(setup)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"got inputs that cannot be sent to another process ({error}) · expected a data set and model that can ·"
            " use engine here"
        ) from error
