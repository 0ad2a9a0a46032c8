"""Activations on disk: one HDF5 shard for each batch of clips, an index with checksums, one lazy array over all.

A store is a folder:

================== ===========================================================================================
`store.json`       the plan (variables, steps, batches, options, weights, code) and the provenance, with a digest
`index.jsonl`      a line for every batch that came to an end: its shard's size and sha256, its clips, its failures
`shard-*.h5`       activations/NAME (clip, step, block, ...), one chunk for each hook point and step, with the clips'
                   ids, groups, roles, properties and labels, steps, sigmas and timesteps
================== ===========================================================================================

A shard is written aside, flushed, renamed when whole, and indexed last; a kill at any moment costs at most the batch
under way. Values keep their bits, bfloat16 too (see `dit_lens.tensor_file`).
"""

from __future__ import annotations

from dit_lens.store.index import Failure
from dit_lens.store.plan import COMPRESSIONS, STORED, Place, Plan, Variable
from dit_lens.store.reading import Store, open_store
from dit_lens.store.writing import Filling

__all__ = ["COMPRESSIONS", "STORED", "Failure", "Filling", "Place", "Plan", "Store", "Variable", "open_store"]
