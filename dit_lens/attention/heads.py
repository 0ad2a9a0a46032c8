"""Some heads of one clip's attention: their queries, keys and values, and what softmax makes of them without a matrix.

The attention function itself is the tool. Its output for a query i and values u is Σ_j A_ij u_j, so with

- u_j = 1 on a group of keys and 0 elsewhere it is the row's *mass* on that group;
- u_j = the key's frame, row or column it is the *mean place* that the row looks at;
- u = k it is E_i[k], and as log A_ij = s_ij - L_i with logits s_ij = q_i·k_j/√e (+ mask) and L_i = logsumexp_j s_ij,
  the row's *entropy* is -Σ_j A_ij log A_ij = L_i - q_i·E_i[k]/√e - E_i[mask].

Example: logits (0, log 3) give A = (1/4, 3/4), L = log 4, E[s] = 3/4 log 3, and L - E[s] = 1.386 - 0.824 = 0.562 nats.

The fused kernel needs values as wide as the heads, else torch computes the matrix. So columns of all kinds are put
side by side, and q and k are filled up with zeros, which changes no logit: memory O(n · width), never O(n²).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from dit_lens.axes import TokenGrid

WIDEST = 256  # columns of one call: (tokens x 256) numbers of each head in memory, four times
WEIGHTS = 2**22  # attention weights in memory at once, where rows are computed: 16 MiB in float32
MASKED = -1e4  # an additive mask of this or less takes a key out
VIDEO, TEXT = "n", "m"


@dataclass(frozen=True, eq=False)
class Heads:
    """Some heads of one clip, in float32 or float64.

    Attributes:
        q, k, v: (h, queries, e), (h, keys, e) and (h, keys, e).
        bias: the additive mask, -inf where there is no attention, of axes that broadcast to (h, queries, keys).
        grid: of the video tokens.
        queries, keys: what they are, in letters: "n" video, "m" text, "a" audio, "n+m" video and then text.
        projection: slices of the output projection (h, e, d); what value j adds to the stream is v_j times it.
        clip: the index of the clip.
        block: how many weights may be in memory at once, where rows of the pattern are computed.
    """

    q: Float[Tensor, "h n e"]
    k: Float[Tensor, "h m e"]
    v: Float[Tensor, "h m e"]
    bias: Tensor | None
    grid: TokenGrid
    queries: str = VIDEO
    keys: str = VIDEO
    projection: Tensor | None = None
    clip: int = 0
    block: int = WEIGHTS

    @property
    def scale(self) -> float:
        """The factor of the logits, 1/√e."""
        return self.q.shape[-1] ** -0.5

    @property
    def video_keys(self) -> int:
        """The number of keys that are video tokens; they come first."""
        return self.grid.tokens if self.keys.startswith(VIDEO) else 0

    @property
    def text_keys(self) -> int:
        """The number of keys that are no video tokens."""
        return self.k.shape[1] - self.video_keys

    @cached_property
    def valid(self) -> Bool[Tensor, "#h n"]:
        """True for queries that may attend to some key; padded ones, whose row is 0, are left out of means."""
        if self.bias is None:
            return self.q.new_ones((1, self.q.shape[1]), dtype=torch.bool)
        return (~self.bias.isneginf().all(-1)).expand(-1, self.q.shape[1])

    @cached_property
    def logsumexp(self) -> Float[Tensor, "h n"]:
        """Log Σ_j exp(s_ij) of each row."""
        return self.mixed(self.k)[1]

    def mixed(self, columns: Float[Tensor, "#h m c"]) -> tuple[Float[Tensor, "h n c"], Float[Tensor, "h n"]]:
        """Σ_j A_ij u_j for columns u of values, and logsumexp of each row. Rows without any key are 0."""
        parts = columns.expand(len(self.k), -1, -1).split(max(WIDEST, self.k.shape[-1]), -1)
        results = [_fused(self.q, self.k, part, self.bias, self.scale) for part in parts]
        return torch.cat([out for out, _ in results], -1), results[0][1]

    def rows(self, chosen: Int[Tensor, " r"]) -> Iterator[tuple[Tensor, Float[Tensor, "h r m"]]]:
        """The pattern's rows of some queries, a few at a time: their indices, and the rows."""
        step = max(1, self.block // (len(self.q) * self.k.shape[1]))
        for some in chosen.split(step):
            logits = (self.q[:, some] @ self.k.mT) * self.scale
            if self.bias is not None:
                logits = logits + (self.bias[:, some] if self.bias.shape[1] > 1 else self.bias)
            empty = logits.isneginf().all(-1, keepdim=True)
            yield some, logits.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)

    def logits(self, rows: Int[Tensor, " *p"], keys: Int[Tensor, " *p"]) -> Float[Tensor, "h *p"]:
        """The logits of some pairs of a query and a key, in two index tensors of one shape."""
        pairs = torch.linalg.vecdot(self.q[:, rows], self.k[:, keys]) * self.scale
        if self.bias is None:
            return pairs
        query = rows if self.bias.shape[1] > 1 else torch.zeros_like(rows)
        return pairs + self.bias[:, query, keys if self.bias.shape[2] > 1 else torch.zeros_like(keys)]

    @cached_property
    def value_norms(self) -> Float[Tensor, "h m"]:
        """|v_j W_O|, the length of what a value adds to the stream (before the gate, the same for all keys of a row).

        With G = W W^T (e, e) it is √(v G v^T): no vector of the stream's width is made.
        """
        assert self.projection is not None
        gram = self.projection @ self.projection.mT
        return (torch.linalg.vecdot(self.v @ gram, self.v)).clamp_min(0).sqrt()


def _fused(
    q: Tensor, k: Tensor, columns: Tensor, bias: Tensor | None, scale: float
) -> tuple[Float[Tensor, "h n c"], Float[Tensor, "h n"]]:
    """One call of the fused kernel, and logsumexp: on a CPU from the kernel, elsewhere in blocks of rows."""
    width = -(-max(q.shape[-1], columns.shape[-1]) // 16) * 16
    filled = [pad(x, (0, width - x.shape[-1]))[None] for x in (q, k, columns)]
    mask = None if bias is None else bias.expand(len(q), q.shape[1], k.shape[1])[None]
    if q.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, total = kernel(*filled, attn_mask=mask, scale=scale)
        total = total[0]
    else:
        out = scaled_dot_product_attention(*filled, attn_mask=mask, scale=scale)
        total = _logsumexp(q, k, bias, scale)
    out = out[0, ..., : columns.shape[-1]]
    if bias is not None:
        out = out.masked_fill(bias.isneginf().all(-1, keepdim=True), 0)
    return out, total


def _logsumexp(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Float[Tensor, "h n"]:
    """Logsumexp of each row in blocks of rows, without a fused kernel."""
    step, parts = max(1, WEIGHTS // (len(q) * k.shape[1])), []
    for start in range(0, q.shape[1], step):
        logits = (q[:, start : start + step] @ k.mT) * scale
        if bias is not None:
            logits = logits + (bias[:, start : start + step] if bias.shape[1] > 1 else bias)
        parts.append(logits.logsumexp(-1))
    return torch.cat(parts, 1)
