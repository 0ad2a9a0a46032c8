"""The numbers and maps of `dit_lens.attention` from the whole matrix of weights, written out query by query."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dit_lens.axes import TokenGrid

Matrix = np.ndarray  # (queries, keys) of one head


def live(matrix: Matrix) -> np.ndarray:
    """Queries that attend to anything."""
    return np.flatnonzero(matrix.sum(1) > 0.5)


def entropy(matrix: Matrix) -> float:
    rows = []
    for query in live(matrix):
        some = matrix[query][matrix[query] > 0]
        rows.append(-(some * np.log(some)).sum() / np.log(max(2, len(some))))
    return float(np.mean(rows))


def stripe(matrix: Matrix) -> float:
    return float(0.5 * np.abs(matrix[live(matrix)].mean(0) - 1 / matrix.shape[1]).sum())


def weighted(matrix: Matrix, norms: np.ndarray) -> Matrix:
    scaled = matrix * norms
    total = scaled.sum(1, keepdims=True)
    return np.divide(scaled, total, out=np.zeros_like(scaled), where=total > 0)


def place(token: int, grid: TokenGrid) -> tuple[int, int, int]:
    return token // (grid.rows * grid.columns), token // grid.columns % grid.rows, token % grid.columns


def of_video(matrix: Matrix, grid: TokenGrid) -> dict[str, float]:
    """Every number that is a mass or a distance of masses, of queries of video."""
    queries, keys = live(matrix), range(grid.tokens)
    apart = np.array(
        [[[b - a for a, b in zip(place(i, grid), place(j, grid), strict=True)] for j in keys] for i in queries]
    )
    video, frame = matrix[queries][:, : grid.tokens], np.array([place(i, grid)[0] for i in queries])
    near = (np.abs(apart[..., 1]) <= 1) & (np.abs(apart[..., 2]) <= 1)
    same, own = (apart[..., 1] == 0) & (apart[..., 2] == 0), apart[..., 0] == 0
    by_frame = frames(matrix, grid)

    def mass(chosen: np.ndarray) -> float:
        return float((video * chosen).sum(1).mean())

    computed = {
        "same_place_0": mass(same & ~own),
        "same_place_1": mass(near & ~own),
        "text": float(matrix[queries][:, grid.tokens :].sum(1).mean()) if matrix.shape[1] > grid.tokens else np.nan,
    }
    groups = [0, 1, 2, 4, 8, 16, 32]
    for low, high in pairwise(groups):
        if low < grid.frames:
            chosen = (np.abs(apart[..., 0]) >= low) & (np.abs(apart[..., 0]) < high)
            computed[f"dt_{low}"] = float(
                np.mean([(video * chosen)[frame == f].sum(1).mean() for f in range(grid.frames)])
            )
    for name, axis, size in (("t", 0, grid.frames), ("y", 1, grid.rows), ("x", 2, grid.columns)):
        at = np.array([place(i, grid)[axis] for i in queries])
        moved = [(video * np.abs(apart[..., axis]))[at == index].sum(1).mean() for index in range(size)]
        whole = [video[at == index].sum(1).mean() for index in range(size)]
        computed[f"distance_{name}"] = float(np.sum(moved) / np.sum(whole))
    first = by_frame[1:, 0].mean() if grid.frames > 1 else np.nan
    others = (
        [np.mean([by_frame[f, g] for g in range(1, grid.frames) if g != f]) for f in range(1, grid.frames)]
        if grid.frames > 2
        else [np.nan]
    )
    even = np.array([[near[row, j] for j in keys] for row in range(len(queries))])
    shares = [(even & own).sum(1).mean() / matrix.shape[1], (even & ~own).sum(1).mean() / matrix.shape[1]]
    computed |= {"first_frame": float(first), "sink": float(first - np.mean(others))}
    for name, chosen, share in (("diagonal", near & own, shares[0]), ("multi_diagonal", near & ~own, shares[1])):
        computed[name] = (mass(chosen) - share) / (1 - share) if share < 1 else np.nan
    return computed


def frames(matrix: Matrix, grid: TokenGrid) -> np.ndarray:
    """(frame, key_frame)."""
    size, alive = grid.rows * grid.columns, live(matrix)
    table = np.zeros((grid.frames, grid.frames))
    for f in range(grid.frames):
        mine = [i for i in alive if i // size == f]
        for g in range(grid.frames):
            table[f, g] = matrix[mine, g * size : (g + 1) * size].sum(1).mean()
    return table


def band_errors(
    matrix: Matrix, values: np.ndarray, grid: TokenGrid, width: float, rows: np.ndarray
) -> dict[str, float]:
    """Energy lost under a band of neighbouring frames and under one of a place in all frames, relative."""
    size, whole = grid.rows * grid.columns, matrix[rows] @ values
    orders = {"spatial": lambda t: t, "temporal": lambda t: t % size * grid.frames + t // size}
    lost = {}
    for name, order in orders.items():
        part = np.zeros_like(whole)
        for number, i in enumerate(rows):
            kept = [j for j in range(matrix.shape[1]) if j >= grid.tokens or abs(order(i) - order(j)) < width * size]
            part[number] = matrix[i, kept] @ values[kept] / matrix[i, kept].sum()
        lost[name] = float(((part - whole) ** 2).sum() / (whole**2).sum())
    return lost
