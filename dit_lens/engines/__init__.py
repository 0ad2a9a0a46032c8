"""Engines: where the batches of a long job run, in this process, in local processes, or on a Ray cluster.

`Engine` says where; `pool(engine, setup)` gives a pool of workers. Each worker calls `setup()` once, which loads what
it needs (such as the weights) and returns the job; then it runs the job on one order after the other. A worker that
dies is replaced, and its order comes back as an outcome of its own, so that the caller decides how often to try again.

Worked example, two workers and the orders 0, 1, 2, where order 1 kills its worker once:

    submit(0), submit(1), submit(2)
    outcome() -> Outcome(0, value)            worker 1 is free, takes order 2
    outcome() -> Outcome(1, died="exit code -9")    worker 3 replaces worker 2
    submit(1); outcome() -> Outcome(2, value); outcome() -> Outcome(1, value)
"""

from __future__ import annotations

from dit_lens.engines.engine import ENGINES, Engine
from dit_lens.engines.pools import Outcome, Pool
from dit_lens.engines.starting import pool

__all__ = ["ENGINES", "Engine", "Outcome", "Pool", "pool"]
