"""What must hold inside a model for its hook points to mean what they say; checked when a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dit_lens.cache import Anatomy
from dit_lens.cache.decomposition import write_of_heads
from dit_lens.conditioning import Conditioning
from dit_lens.families.parts import upcast
from dit_lens.hook_points import Hook, HookPoint
from dit_lens.running import Evaluation, HookedTransformer, Request

# Largest deviation allowed, relative to the largest value of the tensor it concerns.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
WRITE, STREAM = "_out", "hook_resid_"
EVERY = "every point"


@dataclass(frozen=True)
class Finding:
    """How far a law is from holding: the largest deviation, relative to the largest value, and what is allowed."""

    law: str
    point: str
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is allowed (not a number never is)."""
        return self.deviation <= self.tolerance


@torch.no_grad()
def findings(model: HookedTransformer, seed: int = 0) -> list[Finding]:
    """Every law on a tiny random input.

    - sum: the stream after writes is the stream before plus the writes, gates included, in the model's dtype;
    - heads: what attention adds to the stream is gate · (Σ_k W_k z_k + bias), with the gate of that name;
    - attention: softmax(q k) v = z, and the heads' results and the bias make the projection's output;
    - idle: a model that is read everywhere puts out what it does unread, to the bit;
    - identity: writing back what was read, everywhere at once, changes no bit.
    """
    evaluation = example(model, seed)
    dtype = model.family.input_dtype(model.transformer)
    plain, _ = model.run(evaluation)
    read, cache = model.run_with(evaluation, {}, Request("*"))
    found = [_exact("idle", EVERY, plain, read)]
    writable = [name for name, point in model.table.points.items() if point.write is not None]
    written, _ = model.run_with(evaluation, {name: [_same] for name in writable}, Request())
    found.append(_exact("identity", EVERY, plain, written))
    for before, names, after in streams(list(model.table.points)):
        total = sum((upcast(cache[name]) for name in names), upcast(cache[before]))
        found.append(_close("sum", after, total.type_as(cache[after]), cache[after], dtype))
    for name, write in Anatomy.of(model.transformer, model.table).heads.items():
        found.append(_close("heads", name, write_of_heads(cache, write), cache[name], dtype))
    found += [_close("attention", law.name, pair[0], pair[1], dtype) for law, pair in _pairs(model, evaluation)]
    return found


def verify(model: HookedTransformer, seed: int = 0) -> list[Finding]:
    """The findings, all of which hold.

    Raises:
        ValueError: a law is broken; names the point and the deviation.
    """
    found = findings(model, seed)
    broken = [finding for finding in found if not finding.holds]
    if broken:
        worst = max(broken, key=lambda finding: (finding.point != EVERY, finding.deviation))
        raise ValueError(
            f"got {worst.point} of {model.name} off by {worst.deviation:.1e} ({worst.law}; {len(broken)} of"
            f" {len(found)} laws broken) · expected at most {worst.tolerance:.1e} · the transformer differs from the"
            f" stock {type(model.transformer).__name__} of family {model.family.NAME} · verify=False skips this"
        )
    return found


def example(model: HookedTransformer, seed: int = 0) -> Evaluation:
    """An evaluation of a tiny random latent in the middle of the noise levels."""
    latent, tensors = model.family.example(model.transformer, torch.Generator().manual_seed(seed))
    return model.evaluation(latent, model.family.to_timestep(0.5), Conditioning(tensors), sigma=0.5)


def streams(names: list[str]) -> Iterator[tuple[str, list[str], str]]:
    """(stream before, writes in between, stream after) for every stretch of every stream, from names in order."""
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


def _pairs(model: HookedTransformer, evaluation: Evaluation) -> Iterator[tuple[HookPoint, Tensor]]:
    """Both sides of each law that a family states itself."""
    kept: list[tuple[HookPoint, Tensor]] = []

    def visit(point: HookPoint, value: Tensor) -> Tensor:
        kept.append((point, value))
        return value

    model.traced.run(evaluation.inputs, model.table.laws, visit)
    yield from kept


def _same(x: Tensor, hook: Hook) -> Tensor:
    return x.clone()


def _exact(law: str, point: str, one: Tensor | None, other: Tensor | None) -> Finding:
    assert one is not None and other is not None
    return Finding(law, point, _difference(one, other), 0.0)


def _close(law: str, point: str, one: Tensor, other: Tensor, dtype: torch.dtype) -> Finding:
    scale = float(other.abs().max()) or 1.0
    return Finding(law, point, _difference(one, other) / scale, TOLERANCES[dtype])


def _difference(one: Tensor, other: Tensor) -> float:
    return float((upcast(one) - upcast(other)).abs().max())
