"""Caches of activations, and exact decompositions of streams, readouts and velocities into heads and layers.

`activations` has the cache itself, `names` its short names, `files` its file format, `anatomy` the weights that a
decomposition needs, `decomposition` the sums, `split` their tables, and `estimate` the size and time of a cache.
"""

from dit_lens.cache.activations import ActivationCache, Stack
from dit_lens.cache.anatomy import Anatomy
from dit_lens.cache.estimate import CacheCost, clock

__all__ = ["ActivationCache", "Anatomy", "CacheCost", "Stack", "clock"]
