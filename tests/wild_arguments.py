"""Wild arguments, for `fuzzing`: numbers of all libraries and of none, collections, tensors, names."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import strategies as st

from dit_lens.axes import TokenGrid

Z, STREAM, PATTERN = "blocks.1.attn.hook_z", "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern"
GRID, HEADS = TokenGrid(2, 3, 2), 2
SHAPES = {Z: (2, 12, HEADS, 4), STREAM: (2, 12, 8), PATTERN: (2, HEADS, 12, 12)}
AXES = {Z: "b n k e", STREAM: "b n d", PATTERN: "b k n n"}

WHOLE = st.sampled_from([0, 1, 2, 3, -1, -2, -3, 10**6, -(10**6), np.int64(1), torch.tensor(1)])
SCALAR = WHOLE | st.sampled_from([
    0.5, 1.0, math.nan, math.inf, True, False, "1", "", None, b"x", 1j, np.float32(0.5), np.bool_(True),
    torch.tensor(0.5), torch.tensor(True), object(),
])  # fmt: skip
MANY = st.lists(SCALAR, max_size=3) | st.sampled_from([
    [0], [1], [0, 1], (1,), np.array([1]), torch.tensor([0, 1]), {}, {1: 2}, set(), range(2), range(0),
    np.zeros((2, 2)), torch.ones(2, dtype=torch.bool), np.array([0.5]),
])  # fmt: skip
ENDS = st.sampled_from([None, 0, 1, -1, 5, -5, 10**9, 0.5, "a", np.int64(1)])
WILD = SCALAR | MANY | st.builds(slice, ENDS, ENDS, ENDS)
PART = st.sampled_from([0, 1, -1, slice(None), slice(0, 1), [0, 1]])
TOKENS = st.tuples(PART, PART, PART) | st.tuples(PART | WILD, PART, PART | WILD) | WILD
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
SIZES = [*SHAPES.values(), (8,), (4,), (12,), (1,), (), (2, 4), (12, HEADS, 4), (3, 12, 8), (0,)]
TENSOR = st.builds(lambda shape, dtype: torch.randn(shape).to(dtype), st.sampled_from(SIZES), DTYPES)
VALUE = TENSOR | st.sampled_from([torch.full((8,), math.nan), np.ones(8), [1.0] * 8, {0: torch.ones(8)}]) | WILD
NAME = st.sampled_from([Z, STREAM, "blocks.*.attn.hook_z", "blocks.9.attn.hook_z", "hook_", "*", ""]) | WILD
TEXT = st.lists(
    st.sampled_from(["mean", "space_mean", "coarse", "tokens", "region", "random", "moments", "direction", "none", "0",
                     "1", "-1", "*", "1-0", "2-9", ".", ":", ":", "x"]), max_size=6,
).map("".join)  # fmt: skip


def mostly(value: st.SearchStrategy, otherwise: st.SearchStrategy) -> st.SearchStrategy:
    """The one in four of five cases."""
    return st.integers(0, 4).flatmap(lambda place: value if place else otherwise)
