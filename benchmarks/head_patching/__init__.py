"""One question by every way to ask it: what each head's z from a clean run does to a readout of a corrupted run.

Every way is a function (task) -> run; `run()` is what is timed, from nothing but the task to the effects (block, head)
of every head up to the readout: it makes its own cache of the clean run. What can be set up once for a model (wrapping
it, instrumenting it) is done before. All effects are patched - corrupted logits; nothing is brought to the CPU until
the end.

- exact: `dit_lens.patching.patch_heads`;
- screened: `interventions.sweep(method="screened")`, all heads by one gradient, the first ten of them exactly (others
  are NaN);
- nnsight: one trace for each head, stopped behind the readout;
- baukit: one TraceDict for each head, stopped behind the readout. It edits outputs and z is the input of `to_out`, so
  the difference that the head makes is added to the output: (clean z - z) by the head's columns of the weights;
- pyvene: an intervention of constant source for each block, whose subspace is the head. It cannot stop;
- plain hooks: one full forward for each head, as TransformerLens' activation patching does;
- floor: two forwards up to the readout, then, for every block, one batch of a copy for each head through the plain
  blocks from there to the readout, without any hook, edit or reference: what no exact sweep of whole blocks goes below.
  Ours leaves out self-attention of the edited block, and pays for that with one unchanged copy to a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.head_patching.libraries import by_baukit, by_nnsight, by_pyvene
from benchmarks.head_patching.ours import TOP, by_lens, by_screening
from benchmarks.head_patching.plain import by_floor, by_plain_hooks
from benchmarks.head_patching.task import Runner, Task

__all__ = ["NEEDS", "TOP", "WAYS", "Runner", "Task"]

WAYS: Mapping[str, Callable[[Task], Runner]] = {
    "floor": by_floor,
    "dit_lens, exact": by_lens,
    "dit_lens, screened": by_screening,
    "nnsight, stopped": by_nnsight,
    "baukit, stopped": by_baukit,
    "pyvene": by_pyvene,
    "plain hooks": by_plain_hooks,
}
NEEDS = {"baukit, stopped": "baukit", "pyvene": "pyvene"}
