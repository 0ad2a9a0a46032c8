"""Checks, when a model is loaded, that its hook points have the meaning that their names say.

A law compares two tensors that must be equal, such as the stream after a write and the stream before plus the write.
Its deviation is the largest difference, relative to the largest value of the second tensor. Example in bfloat16: the
stream after a write is [2.0, -4.0], the computed sum [2.0, -3.96875]. The deviation 0.03125 / 4 = 0.0078 is below
`TOLERANCES[torch.bfloat16]` = 0.03, so the law holds. In float32, where at most 0.00001 is allowed, it would be broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit_lens.cache import Anatomy
from dit_lens.cache.decomposition import write_of_heads
from dit_lens.conditioning import Conditioning
from dit_lens.families.parts import upcast
from dit_lens.hook_points import Hook, HookPoint, Table
from dit_lens.running import Evaluation, HookedTransformer, Request
from dit_lens.running.shortened import shortened

# The largest deviation allowed for each dtype, relative to the largest value of the tensor.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
WRITE, STREAM = "_out", "hook_resid_"
EVERY = "every point"


@dataclass(frozen=True)
class Finding:
    """The result of checking one law: its largest relative deviation, and the tolerance for it."""

    law: str
    point: str
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is within the tolerance; NaN never is."""
        return self.deviation <= self.tolerance


@torch.no_grad()
def findings(model: HookedTransformer, seed: int = 0) -> list[Finding]:
    """The results of all laws on a tiny random input.

    - sum: the stream after writes is the stream before plus the writes, gates included, in the model's dtype;
    - between: the output of a block is the input of the next, to the bit; the embedding, plus positions where they are
      added, is the input of the first, and the output of the last is the input of the final norm;
    - heads: the write of attention is gate · (Σ_k W_k z_k + bias), with the gate of that name;
    - attention: softmax(q k) v = z, and the heads' results plus the bias are the projection's output;
    - idle: reading at every hook point changes no bit of the output;
    - identity: writing back what was read, at every hook point at once, changes no bit of the output.
    """
    evaluation = example(model, seed)
    dtype = model.family.input_dtype(model.transformer)
    plain, _ = model.run(evaluation)
    read, cache = model.run_with(evaluation, {}, Request("*"))
    results = [_exact("idle", EVERY, plain, read)]
    writable = [name for name, point in model.table.points.items() if point.write is not None]
    written, _ = model.run_with(evaluation, {name: [_same] for name in writable}, Request())
    results.append(_exact("identity", EVERY, plain, written))
    for before, names, after in streams(list(model.table.points)):
        results.append(_close("sum", after, _sum(cache, before, names, cache[after]), cache[after], dtype))
    results += _between(model, cache)
    for name, write in Anatomy.of(model.transformer, model.table).heads.items():
        results.append(_close("heads", name, write_of_heads(cache, write), cache[name], dtype))
    pairs = _pairs(model, evaluation, model.table.laws)
    results += [_close("attention", law.name, pair[0], pair[1], dtype) for law, pair in pairs]
    return results + _closing(model, evaluation)


@torch.no_grad()
def between_blocks(model: HookedTransformer, seed: int = 0) -> list[Finding]:
    """The results of the law "between" for all blocks, from one evaluation that caches only the streams."""
    evaluation = example(model, seed)
    names = {name for before, added, after in joints(model.table) for name in (before, *added, after)}
    _, cache = model.run_with(evaluation, {}, Request(sorted(names)))
    return _between(model, cache) + _closing(model, evaluation)


def verify(model: HookedTransformer, seed: int = 0, every_block: bool = True) -> list[Finding]:
    """The results of all laws, if every law holds.

    Args:
        every_block: check all blocks. If False, check a shortened model with only the first, middle and last block of
            each kind, a tenth of the work for Wan 1.3B; the other blocks are built like one of these (see
            `running.shortened`).

    Raises:
        ValueError: a law is broken; the message names the hook point and the deviation.
    """
    short, block_indices = (model, []) if every_block else shortened(model)
    results = [
        replace(finding, point=_original_name(finding.point, block_indices)) for finding in findings(short, seed)
    ]
    if short is not model:  # what a model adds between blocks may depend on the number of blocks
        results += between_blocks(model, seed)
    broken = [finding for finding in results if not finding.holds]
    if broken:
        worst = max(broken, key=lambda finding: (finding.point != EVERY, finding.deviation))
        raise ValueError(
            f"got {worst.point} of {model.name} off by {worst.deviation:.1e} ({worst.law}; {len(broken)} of"
            f" {len(results)} laws broken) · expected at most {worst.tolerance:.1e} · the transformer differs from the"
            f" stock {type(model.transformer).__name__} of family {model.family.name} · verify=False skips this"
        )
    return results


def _original_name(point: str, block_indices: Sequence[int]) -> str:
    """The name in the whole model of a hook point of a shortened one, from the indices of the blocks that it has.

    With block_indices (0, 15, 29), blocks.1.hook_attn_out of the short model is blocks.15.hook_attn_out of the whole.
    """
    if not block_indices:
        return point
    return re.sub(r"^blocks\.(\d+)", lambda match: f"blocks.{block_indices[int(match[1])]}", point)


def example(model: HookedTransformer, seed: int = 0) -> Evaluation:
    """An evaluation of a tiny random latent at noise level 0.5."""
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(seed))
    return model.evaluation(latent, model.family.to_timestep(0.5), Conditioning(tensors), sigma=0.5)


def streams(names: list[str]) -> Iterator[tuple[str, list[str], str]]:
    """(stream before, writes in between, stream after) for all consecutive points of every stream, in forward order."""
    before: dict[str, str] = {}
    writes: dict[str, list[str]] = {}
    for name in names:
        home, _, short = name.rpartition(".")
        if short.startswith(STREAM):
            if short != f"{STREAM}pre":
                yield before[home], writes[home], name
            before[home], writes[home] = name, []
        elif home in before and short.startswith("hook_") and short.endswith(WRITE):
            writes[home].append(name)


def joints(table: Table) -> Iterator[tuple[str, list[str], str]]:
    """(output of the block before, hook points added to it, input) for each block and stream."""
    for first in table.entering(0):
        home, _, short = first.removeprefix("blocks.0.").rpartition("hook_")
        if (embed := f"{home}hook_embed") in table.points:
            yield embed, [name for name in (f"{home}hook_pos_embed",) if name in table.points], first
        for block in range(1, len(table.blocks)):
            output, entry = f"blocks.{block - 1}.{home}{STREAM}post", f"blocks.{block}.{home}hook_{short}"
            yield output, [], entry


def _sum(cache: Mapping[str, Tensor], before: str, names: list[str], after: Tensor) -> Tensor:
    """The stream plus writes, in the dtype and on the device of the tensor it is compared with."""
    return sum((upcast(cache[name]) for name in names), upcast(cache[before])).to(after)


def _between(model: HookedTransformer, cache: Mapping[str, Tensor]) -> list[Finding]:
    """Results of comparing the output of each block with the input of the next."""
    dtype, results = model.family.input_dtype(model.transformer), []
    for before, names, after in joints(model.table):
        joined = _close("between", after, _sum(cache, before, names, cache[after]), cache[after], dtype)
        results.append(joined if names else replace(joined, tolerance=0.0))
    return results


def _closing(model: HookedTransformer, evaluation: Evaluation) -> list[Finding]:
    """Results of comparing the output of the last block with the input of the final norm."""
    dtype = model.family.input_dtype(model.transformer)
    laws = () if model.table.closing is None else (model.table.closing,)
    pairs = _pairs(model, evaluation, laws) if laws else ()
    return [replace(_close("between", law.name, pair[0], pair[1], dtype), tolerance=0.0) for law, pair in pairs]


def _pairs(
    model: HookedTransformer, evaluation: Evaluation, laws: Sequence[HookPoint]
) -> Iterator[tuple[HookPoint, Tensor]]:
    """The two sides of each law, stacked: (law, pair)."""
    pairs: list[tuple[HookPoint, Tensor]] = []

    def visit(point: HookPoint, value: Tensor) -> Tensor:
        pairs.append((point, value))
        return value

    model.traced.run(evaluation.inputs, tuple(laws), visit)
    yield from pairs


def _same(x: Tensor, hook: Hook) -> Tensor:
    return x.clone()


def _exact(law: str, point: str, actual: Tensor | None, expected: Tensor | None) -> Finding:
    assert actual is not None and expected is not None
    return Finding(law, point, _difference(actual, expected), 0.0)


def _close(law: str, point: str, actual: Tensor, expected: Tensor, dtype: torch.dtype) -> Finding:
    scale = float(expected.abs().max()) or 1.0
    return Finding(law, point, _difference(actual, expected) / scale, TOLERANCES[dtype])


def _difference(actual: Tensor, expected: Tensor) -> float:
    return float((upcast(actual) - upcast(expected)).abs().max())
