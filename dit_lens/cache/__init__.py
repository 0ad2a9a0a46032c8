"""Activations in memory, and what adds up to what in them.

`activations` is the cache itself, `names` its short names, `files` it on disk, `anatomy` what a decomposition needs of
the model, `decomposition` the sums, `split` the tables they come in, and `estimate` what a cache will take before it is
made.
"""

from dit_lens.cache.activations import ActivationCache, Stack
from dit_lens.cache.anatomy import Anatomy
from dit_lens.cache.estimate import Estimate, clock

__all__ = ["ActivationCache", "Anatomy", "Estimate", "Stack", "clock"]
