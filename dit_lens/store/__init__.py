"""Activations on disk: one HDF5 shard per batch of clips, an index with checksums, and a lazy array over all shards.

A store is a folder:

================== ===========================================================================================
`store.json`       the plan (variables, steps, batches, options, weights, code) and the provenance, with a digest
`index.jsonl`      a line for every finished batch: its shard's size and sha256, its clips, its failures
`shard-*.h5`       activations/NAME (clip, step, block, ...), one chunk for each hook point and step, with the clips'
                   ids, groups, roles, properties and labels, steps, sigmas and timesteps
================== ===========================================================================================

A shard is written under a temporary name, flushed, renamed when complete, and indexed last; a kill at any moment costs
at most the current batch. Values keep their bits, bfloat16 too (see `dit_lens.tensor_file`).
"""

from __future__ import annotations

from dit_lens.store.index import Failure
from dit_lens.store.merging import merge
from dit_lens.store.plan import COMPRESSIONS, STORED, Place, Plan, Variable
from dit_lens.store.reading import Store, open_store
from dit_lens.store.writing import StoreWriter

__all__ = [
    "COMPRESSIONS",
    "STORED",
    "Failure",
    "Place",
    "Plan",
    "Store",
    "StoreWriter",
    "Variable",
    "merge",
    "open_store",
]
