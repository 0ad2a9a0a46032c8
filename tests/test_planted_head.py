"""A head that is known to carry a signal is ranked first by ablation, patching, direct attribution and gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from head_patches import head_patches
from safetensors.torch import load_file
from torch import Tensor

from dit_lens import ablation, interventions
from dit_lens.attribution import (
    Integral,
    Smoothing,
    conductance,
    gradient_times_difference,
    integrated_gradients,
    smooth_gradients,
)
from dit_lens.cache import ActivationCache
from dit_lens.capture import NoisePath, evaluations, of_role
from dit_lens.circuits import READOUT, screen_paths
from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.patching import patch_heads
from dit_lens.probing import Probe, Reads
from dit_lens.running import Evaluation, Request
from dit_lens.toy.mini_wan import assemble, empty_prompt, new_transformer
from dit_lens.toy.miniphys import MiniPhys

STEP, LEVELS = 3, 10
HEAD = 2, 1  # block and head
POINTS = "blocks.*.attn.hook_z"


@dataclass(frozen=True, eq=False)
class Case:
    """A model in which one head carries what a probe reads.

    Attributes:
        pairs: clean and corrupted clips, which differ in it.
        score: effects (b, block, head) -> how much each head does.
    """

    lens: DiTLens
    probe: Probe
    pairs: Sequence[tuple[Evaluation, Evaluation]]
    score: Callable[[Tensor], Tensor]


def clips(lens: DiTLens, properties: tuple[str, ...], count: int) -> Sequence[tuple[Evaluation, Evaluation]]:
    """All possible clips of a few quadruplets with all impossible ones, pair by pair."""
    (fed,) = evaluations(lens, MiniPhys("test", count, properties)[:], (STEP,), NoisePath("noising", LEVELS)).values()
    return [(of_role(fed, pair[0]), of_role(fed, pair[1])) for pair in ("AC", "BD", "AD", "BC")]


def by_hand(codec: Any, strength: float) -> Case:
    """Random weights; the head writes what it mixes along the probe, so many times as much as the others write."""
    transformer: Any = new_transformer(1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, generator=generator)
    update = torch.outer(weight, torch.randn(32, generator=generator)) * strength
    with torch.no_grad():
        transformer.blocks[HEAD[0]].attn1.to_out[0].weight[:, HEAD[1] * 32 : (HEAD[1] + 1) * 32] += update
    lens = DiTLens(assemble(transformer, codec), "by hand", Conditioning({"encoder_hidden_states": empty_prompt()}))
    probe = Probe(weight, 0.0, 1.0, Reads("blocks.3.hook_resid_post", STEP, 0.3, "by hand"))
    # What it carries differs from clip to clip: its size counts.
    return Case(lens, probe, clips(lens, ("inertia",), 2)[:1], lambda effect: effect.abs().mean(0))


def taught() -> Case:
    """The bundled model in which the head alone was taught to tell possible clips from impossible ones."""
    lens = DiTLens.from_pretrained("mini-wan-planted")
    folder = Path(str(files("dit_lens.toy") / "weights" / "mini-wan-planted"))
    facts, u = json.loads((folder / "planted.json").read_text()), load_file(folder / "direction.safetensors")
    assert (facts["block"], facts["head"]) == HEAD
    weight, bias = u["direction"] / facts["scale"], -facts["offset"] / facts["scale"]
    probe = Probe(weight, bias, 1.0, Reads(facts["point"], STEP, 0.3, lens.name))
    # What it carries is the label: over all pairs of a quadruplet, content cancels in the mean.
    return Case(lens, probe, clips(lens, ("inertia", "colour"), 6), lambda effect: effect.mean(0).abs())


@pytest.fixture(scope="module", params=["by hand", "taught"])
def case(request: pytest.FixtureRequest, codec: Any) -> Case:
    return by_hand(codec, 3.0) if request.param == "by hand" else taught()


# Every method tells (b, block, head) of a pair: what a head does to the difference between its clips.


def ablated(case: Case, clean: Evaluation, corrupted: Evaluation, replacement: ablation.Replacement) -> Tensor:
    """How much of the difference is lost without the head."""
    effects = [
        ablation.ablate_heads(
            case.lens, {STEP: evaluation}, [STEP], case.probe.logit, replacement=replacement
        ).effect.values[:, 0]
        for evaluation in (clean, corrupted)
    ]
    return torch.from_numpy(effects[1] - effects[0])


def zero(case: Case, clean: Evaluation, corrupted: Evaluation) -> Tensor:
    return ablated(case, clean, corrupted, ablation.zero)


def mean(case: Case, clean: Evaluation, corrupted: Evaluation) -> Tensor:
    with torch.no_grad():
        both = [case.lens.model.run(evaluation, Request(POINTS))[1] for evaluation in (clean, corrupted)]
    means = {name: {STEP: torch.cat([cache[name] for cache in both]).mean(0)} for name in both[0]}
    return ablated(case, clean, corrupted, ablation.mean_of(means))


def patching(case: Case, clean: Evaluation, corrupted: Evaluation) -> Tensor:
    table = patch_heads(case.lens, {STEP: clean}, {STEP: corrupted}, [STEP], case.probe.logit)
    return torch.from_numpy(table.effect.values[:, 0])


def direct(case: Case, clean: Evaluation, corrupted: Evaluation) -> Tensor:
    """What the head itself writes along the probe."""
    anatomy, point = case.lens.anatomy, case.probe.reads.point
    attributions = []
    for evaluation in (clean, corrupted):
        _, kept = case.lens.model.run(evaluation, Request(anatomy.needs(point), stop_at=point))
        cache = ActivationCache(kept, case.lens.model.grid(evaluation), case.lens.blocks, anatomy=anatomy)
        heads = [f"attn.{head}" for head in range(case.lens.heads)]
        attributions.append(cache.attribute_to(case.probe).attribution.sel(component=heads))
    return torch.from_numpy((attributions[0] - attributions[1]).transpose("clip", "block", "component").values)


def attribution_patching(case: Case, clean: Evaluation, corrupted: Evaluation) -> Tensor:
    scores = interventions.screen(case.lens, corrupted, head_patches(case.lens, clean), case.probe.logit)
    return scores.unflatten(1, (case.lens.blocks, case.lens.heads))


def edge_attribution_patching(case: Case, clean: Evaluation, corrupted: Evaluation) -> Tensor:
    """From the head directly to the readout."""
    names = [f"{block}.{head}" for block in range(HEAD[0] + 1) for head in range(case.lens.heads)]
    scores = screen_paths(case.lens, {STEP: clean}, {STEP: corrupted}, [STEP], case.probe.logit, names, [READOUT])
    return torch.from_numpy(scores.values[:, 0, :, 0]).unflatten(1, (-1, case.lens.heads))


def by_gradients(method: Callable[..., Any], **options: Any) -> Callable[[Case, Evaluation, Evaluation], Tensor]:
    def tell(case: Case, clean: Evaluation, corrupted: Evaluation) -> Tensor:
        attributions = method(case.lens, clean, corrupted, POINTS, case.probe.logit, **options)
        return torch.stack([attribution.over("b k") for attribution in attributions.values()], 1)

    return tell


METHODS = {
    "ablation, zero": zero,
    "ablation, mean": mean,
    "patching": patching,
    "direct attribution": direct,
    "attribution patching": attribution_patching,
    "edge attribution patching": edge_attribution_patching,
    "integrated gradients": by_gradients(integrated_gradients, integral=Integral(steps=4, unit=1.0)),
    "gradient x difference": by_gradients(gradient_times_difference),
    "smooth gradients": by_gradients(smooth_gradients, smoothing=Smoothing(samples=2)),
    "conductance": by_gradients(conductance, steps=2),
}


def lead(case: Case, method: str) -> float:
    """How many times as much as any other head the head does."""
    with torch.set_grad_enabled("gradient" in method or "conductance" in method):
        effect = torch.cat([METHODS[method](case, *pair).detach() for pair in case.pairs])
    score = case.score(effect).nan_to_num(0.0)
    of_head = float(score[HEAD])
    score[HEAD] = 0
    return of_head / float(score.max())


@pytest.mark.parametrize("method", METHODS)
def test_the_head_that_carries_the_signal_is_ranked_first(case: Case, method: str) -> None:
    assert lead(case, method) > 2


@pytest.mark.parametrize("method", ["ablation, zero", "patching", "direct attribution", "integrated gradients"])
def test_where_nothing_is_planted_the_head_does_not_lead(codec: Any, method: str) -> None:
    assert lead(by_hand(codec, 0.0), method) < 1
