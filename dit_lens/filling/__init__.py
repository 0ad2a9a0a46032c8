"""Capture to disk: activations of a data set, reduced in the hook, written while the next ones are made.

`survey` says beforehand what a store will hold, its size and about how long it will take; `fill` makes it, and goes on
where an earlier run was stopped or killed. Batches are the same whoever makes them and whenever, so that values are.
"""

from __future__ import annotations

from dit_lens.filling.batches import ON_ERROR, fill
from dit_lens.filling.recipe import Recipe, Take
from dit_lens.filling.surveying import Estimate, survey

__all__ = ["ON_ERROR", "Estimate", "Recipe", "Take", "fill", "survey"]
