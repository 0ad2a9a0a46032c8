"""Attention mass between latent frames, from a pattern, or from queries and keys in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor

from dit_lens.choices import check_choice
from dit_lens.hook_points import Hook, Table
from dit_lens.reductions.named import GRID, Named

WEIGHTS = 2**26  # attention weights in memory at once: 256 MiB in float32
VIDEO_ALONE = "b k n n2"
OPERANDS = ("v", "rot_q", "rot_k", "z")
REMEDY = "take hook_pattern, reduced by frame_mass"
ROWS = 8  # rows that are checked; they may be off by the square root of the dtype's precision


@dataclass(frozen=True)
class FrameMass:
    """The attention mass of a pattern between frames: summed over the keys of a frame, averaged over queries.

    With 2 frames of one token each and pattern rows (0.9, 0.1) and (0.4, 0.6), the mass is the pattern itself; with two
    tokens per frame and rows (0.5, 0.3, 0.1, 0.1) and (0.2, 0.4, 0.2, 0.2), frame 0 has mass (0.7, 0.3).
    """

    def __str__(self) -> str:
        return "frame_mass"

    def __call__(self, x: Named) -> Named:
        """The pattern by "frame" (of queries) and "key_frame"; in joint attention, the rest of 1 goes to text."""
        first, keys = x.dim("frame"), x.dim("key")
        if x.axes[first : first + 3] != GRID or keys != first + 3:
            raise ValueError(f"got axes {', '.join(x.axes)} · expected those of a pattern, as it is made")
        frames, rows, columns = x.values.shape[first:keys]
        video = x.values.narrow(keys, 0, frames * rows * columns)  # video keys come before text keys
        by_frame = video.unflatten(keys, (frames, rows * columns))
        mass = by_frame.sum(-1, dtype=x.precise().dtype).mean((first + 1, first + 2))
        labels = {key: value for key, value in x.labels.items() if key not in GRID}
        return Named(mass, (*x.axes[:first], "frame", "key_frame"), labels)


def frame_mass(
    q: Float[Tensor, "b n k e"], k: Float[Tensor, "b n k e"], frames: int, weights: int = WEIGHTS
) -> Float[Tensor, "b k f f2"]:
    """Mean over queries of frame f of softmax(q kᵀ / sqrt(e)), summed over keys of frame f2; in float32 or better.

    Args:
        weights: how many of the b k n² attention weights are in memory at once.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = (x.to(wide).unflatten(1, (frames, -1)) for x in (q / q.shape[-1] ** 0.5, k))
    batch, _, places, heads, _ = q.shape
    rows = max(1, weights // (batch * heads * frames * places))
    mass = q.new_zeros(batch, heads, frames, frames)
    for frame in range(frames):
        for chunk in q[:, frame].split(rows, dim=1):
            logits = einsum(chunk, k, "b r k e, b f p k e -> b k r f p")
            paid = logits.flatten(3).softmax(-1).unflatten(3, (frames, places))
            mass[:, :, frame] += reduce(paid, "b k r f p -> b k f", "sum")
    return mass / places


class FrameMasses:
    """A hook function on `points` that computes the attention mass between frames by block, without a whole pattern.

    The result equals the reduction `frame_mass` of `blocks.*.attn.hook_pattern`, for videos whose pattern is too large.
    On some rows it checks that softmax(q k) v is the model's own z, so that no mask or gate is missed.

    Attributes:
        points: values, queries, keys and z of every block's self-attention.
        taken: the masses (b, k, f, f2) of the last evaluation, by block.

    Raises:
        ValueError: text takes part in the self-attention; or, when called, a mask or a gate does.
    """

    def __init__(self, table: Table):
        self.taken: dict[int, Float[Tensor, "b k f f2"]] = {}
        self.points: list[str] = []
        self._collected: dict[str, Float[Tensor, "b n k e"]] = {}
        for block in range(len(table.blocks)):
            home = f"blocks.{block}.attn.hook"
            pattern = table.points[check_choice(f"{home}_pattern", table.points, "hook point")]
            if pattern.axes != VIDEO_ALONE:
                raise ValueError(
                    f"got {pattern.name} of axes {pattern.axes} · expected {VIDEO_ALONE}, video alone · {REMEDY}"
                )
            self.points += [f"{home}_{operand}" for operand in OPERANDS]

    def __call__(self, x: Tensor, hook: Hook) -> None:
        """Collects v, q, k and z of a block, and computes its masses when all four are there."""
        self._collected[hook.name.split("hook_")[1]] = x
        if len(self._collected) == len(OPERANDS):
            v, q, k, z = (self._collected[operand] for operand in OPERANDS)
            self._collected = {}
            _check_rows(q, k, v, z, hook.name)
            self.taken[int(hook.name.split(".")[1])] = frame_mass(q, k, hook.grid.frames)


def _check_rows(q: Tensor, k: Tensor, v: Tensor, z: Tensor, name: str) -> None:
    """Checks that z is softmax(q kᵀ / sqrt(e)) v, on ROWS of its rows.

    Raises:
        ValueError: it is not; the message names the point.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    rows = torch.linspace(0, q.shape[1] - 1, ROWS, device=q.device).round().long()
    logits = einsum(q[:, rows].to(wide), k.to(wide), "b r k e, b n k e -> b k r n") / q.shape[-1] ** 0.5
    off = einsum(logits.softmax(-1), v.to(wide), "b k r n, b n k e -> b r k e") - z[:, rows]
    share = float(off.abs().max() / z.abs().max())
    if share > torch.finfo(q.dtype).eps ** 0.5:
        raise ValueError(f"got {name} off by {share:.1e} of itself · expected no mask and no gate · {REMEDY}")
