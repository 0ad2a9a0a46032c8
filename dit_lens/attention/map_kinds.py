"""Maps of attention: functions of `Heads` that give labelled arrays, from masses on groups of keys or from some rows.

`frames`, `regions`, `from_tokens`, `to_tokens`, `words` and `top_keys` make one; `attention.maps` runs it on a model.
Means are over queries that attend to anything: padded ones are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dit_lens.arguments import integer, integers, triple
from dit_lens.attention.heads import VIDEO, Heads
from dit_lens.attention.masses import AxisMasses, axis_columns
from dit_lens.axes import Region
from dit_lens.choices import nearest
from dit_lens.reductions import GRID, Named

Tokens = Region | Tensor | str
Map = Callable[[Heads], Mapping[str, Named]]
TEXT_KEYS = "text"


def frames() -> Map:
    """`mass` (head, frame, key_frame): mean over the queries of a frame of the mass on a frame's keys.

    In joint attention the rest to 1 is on text, as in the reduction `frame_mass`.
    """

    def look(heads: Heads) -> Mapping[str, Named]:
        check_video(heads, "frames")
        masses, _ = heads.mixed(axis_columns(heads)[None])
        return {"mass": Named(AxisMasses.of(masses, heads).frame, ("head", "frame", "key_frame"))}

    return look


def regions(queries: Mapping[str, Tokens], keys: Mapping[str, Tokens] | None = None) -> Map:
    """`mass` (head, region, key_region): mean over a region's queries of the mass on another region's keys.

    Args:
        queries: by name, (frame, row, column) of the grid, or truth values (n,), such as an object's tokens.
        keys: likewise; also "text" for all text keys. The same as the queries unless given.
    """
    chosen, of_keys = _named(queries, "queries"), _named(queries if keys is None else keys, "keys")

    def look(heads: Heads) -> Mapping[str, Named]:
        columns = torch.stack([keys_of(heads, part) for part in of_keys.values()], -1).to(heads.k)
        masses, _ = heads.mixed(columns[None])
        rows = [_mean_of(masses, queries_of(heads, part), heads) for part in chosen.values()]
        labels = {"region": tuple(chosen), "key_region": tuple(of_keys)}
        return {"mass": Named(torch.stack(rows, 1), ("head", "region", "key_region"), labels)}

    return look


def from_tokens(tokens: Tokens) -> Map:
    """`mass` (head, frame, row, column): where some queries look, the mean of their rows; the rest to 1 is on text.

    Args:
        tokens: (frame, row, column), or truth values over the queries, such as an object's tokens.
    """

    def look(heads: Heads) -> Mapping[str, Named]:
        check_video(heads, "keys on the grid", queries=False)
        chosen = queries_of(heads, tokens)
        rows = [pattern.sum(1) for _, pattern in heads.rows(chosen.nonzero().flatten())]
        count = (heads.valid & chosen).sum(-1)
        total = torch.stack(rows).sum(0) / count[:, None]
        return {"mass": _on_grid(total[:, : heads.video_keys], heads)}

    return look


def to_tokens(tokens: Tokens) -> Map:
    """`mass` (head, frame, row, column): how much each video query looks at some keys, in all.

    Args:
        tokens: (frame, row, column), truth values over video keys or over all keys, or "text".
    """

    def look(heads: Heads) -> Mapping[str, Named]:
        check_video(heads, "queries on the grid", keys=False)
        masses, _ = heads.mixed(keys_of(heads, tokens).to(heads.k)[None, :, None])
        return {"mass": _on_grid(masses[..., 0], heads)}

    return look


def words(places: Mapping[str, Sequence[int]]) -> Map:
    """`mass` (head, word, frame, row, column) between words and the grid.

    Where queries are video, it is how much each looks at a word's tokens in all; where they are text (the layer
    "text.attn" of joint attention), where a word's tokens look, on average.

    Args:
        places: the text tokens of each word, from `attention.words_of`, or by hand: {"ball": [2, 3]}.

    Raises:
        TypeError: no mapping from words to indices. ValueError: (when run) a token that is not there.
    """
    spelled = {str(word): integers(part, f"tokens of {word!r}") for word, part in dict(places).items()}

    def look(heads: Heads) -> Mapping[str, Named]:
        of_text = heads.queries != VIDEO
        text = heads.q.shape[1] if of_text else heads.text_keys
        for word, part in spelled.items():
            if not part or not 0 <= min(part) <= max(part) < text:
                raise ValueError(
                    f"got {word!r} at text tokens {part} · expected some of 0 to {text - 1}"
                    f" · words meet the grid in cross_attn, or in attn and text.attn of joint attention"
                )
        maps = [_of_word(heads, part, of_text) for part in spelled.values()]
        return {"mass": Named(torch.stack(maps, 1), ("head", "word", *GRID), {"word": tuple(spelled)})}

    return look


def top_keys(count: int = 8, tokens: Tokens | None = None) -> Map:
    """`key` and `mass` (head, query, rank): the keys that a query looks at most, as indices, and the mass on each.

    Video keys come first, in the order of the grid; then text.

    Args:
        count: how many keys.
        tokens: of which queries; all unless given.
    """
    count = integer(count, "count", 1)

    def look(heads: Heads) -> Mapping[str, Named]:
        chosen = torch.arange(heads.q.shape[1], device=heads.q.device)
        if tokens is not None:
            chosen = queries_of(heads, tokens).nonzero().flatten()
        most = [pattern.topk(min(count, pattern.shape[-1])) for _, pattern in heads.rows(chosen)]
        axes, labels = ("head", "query", "rank"), {"query": tuple(chosen.tolist())}
        masses, keys = (torch.cat(parts, 1) for parts in zip(*most, strict=True))
        return {"mass": Named(masses, axes, labels), "key": Named(keys, axes, labels)}

    return look


def check_video(heads: Heads, what: str, queries: bool = True, keys: bool = True) -> None:
    """Checks that queries and keys of an attention lie on the video grid.

    Raises:
        ValueError: they do not.
    """
    if (queries and heads.queries != VIDEO) or (keys and not heads.video_keys):
        raise ValueError(
            f"got attention from {heads.queries} to {heads.keys} for a map of {what} · expected tokens of video (n)"
            " · choose another layer, such as attn"
        )


def _of_word(heads: Heads, places: Sequence[int], of_text: bool) -> Tensor:
    """(h, frame, row, column) of one word."""
    if of_text:
        chosen = torch.zeros(heads.q.shape[1], dtype=torch.bool)
        chosen[places] = True
        return from_tokens(chosen)(heads)["mass"].values
    keys = torch.zeros(heads.k.shape[1], dtype=torch.bool)
    keys[[heads.video_keys + place for place in places]] = True
    return to_tokens(keys)(heads)["mass"].values


def _named(parts: Any, what: str) -> dict[str, Tokens]:
    if not isinstance(parts, Mapping) or not parts:
        raise TypeError(f"got {what} {parts!r} · expected regions by name, such as {{'start': (0, slice(None), 3)}}")
    return {str(name): part for name, part in parts.items()}


def queries_of(heads: Heads, part: Tokens) -> Tensor:
    """Truth values over the queries.

    Raises:
        ValueError: none of them is chosen, or another number of truth values.
    """
    chosen = _chosen(heads, part, heads.q.shape[1], heads.queries == VIDEO, "queries")
    if not (heads.valid & chosen).any():
        raise ValueError("got a region without a query that attends to anything · expected at least one")
    return chosen


def keys_of(heads: Heads, part: Tokens) -> Tensor:
    """Truth values over the keys; those over video alone do not choose text."""
    size, chosen = heads.k.shape[1], torch.zeros(heads.k.shape[1], dtype=torch.bool, device=heads.k.device)
    if isinstance(part, str):
        if part != TEXT_KEYS or not heads.text_keys:
            hint = nearest(part, [TEXT_KEYS])
            raise ValueError(
                f"got keys {part!r} of {heads.keys}{hint} · expected a region, or 'text' where it is a key"
            )
        chosen[heads.video_keys :] = True
        return chosen
    if isinstance(part, Tensor) and part.shape == (size,):
        return _chosen(heads, part, size, False, "keys")
    video = _chosen(heads, part, heads.video_keys, bool(heads.video_keys), "video keys")
    chosen[: heads.video_keys] = video
    return chosen


def _chosen(heads: Heads, part: Any, size: int, on_grid: bool, what: str) -> Tensor:
    if isinstance(part, Tensor):
        if part.dtype != torch.bool or part.shape != (size,):
            raise ValueError(
                f"got {part.dtype} of shape {tuple(part.shape)} as {what} · expected {size} truth values, or"
                " (frame, row, column)"
            )
        return part.to(heads.q.device)
    if not on_grid:
        raise ValueError(f"got a region {part!r} of {what} that are not video · expected {size} truth values")
    return heads.grid.mask(*triple(part, what)).to(heads.q.device)


def _mean_of(masses: Tensor, chosen: Tensor, heads: Heads) -> Tensor:
    """Mean over some queries of (h, n, c)."""
    weights = (heads.valid & chosen).to(masses)
    return (masses * weights[..., None]).sum(1) / weights.sum(-1)[:, None]


def _on_grid(values: Tensor, heads: Heads) -> Named:
    grid = heads.grid
    return Named(values.unflatten(-1, (grid.frames, grid.rows, grid.columns)), ("head", *GRID))
