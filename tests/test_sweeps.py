"""The fast sweep equals one full forward per head, its nulls are exactly zero, and a planted head is found."""

from __future__ import annotations

import pytest
import torch

from dit_lens import datasets
from dit_lens.conditioning import Conditioning
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout, VelocityProjection
from dit_lens.models.mini_wan import assemble, empty_prompt, new_transformer
from dit_lens.patching import patch_heads
from dit_lens.probing import Probe, Reads
from dit_lens.sweeps import patch_each_head, patch_each_head_literally
from dit_lens.trajectory import Trajectory

STEP = 3
READOUT = 3


@pytest.fixture(scope="module")
def paths(lens: DiTLens) -> dict[str, Trajectory]:
    quadruplets = list(datasets.load("miniphys", split="test", quadruplets=3))
    return {role: lens.invert([getattr(q, role) for q in quadruplets], steps=4, solver="euler") for role in "abcd"}


@pytest.fixture(scope="module")
def probe() -> Probe:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    return Probe(weight, 0.3, 1.0, Reads(f"blocks.{READOUT}.hook_resid_post", STEP, 0.8, "random"))


def test_fast_equals_literal(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    metrics = {"logit": probe.logit, "velocity": VelocityProjection()}
    fast = patch_each_head(lens, paths["a"], paths["c"], STEP, metrics)
    slow = patch_each_head_literally(lens, paths["a"], paths["c"], STEP, metrics)
    for name in metrics:
        torch.testing.assert_close(fast.effect[name], slow.effect[name], rtol=0, atol=1e-5, equal_nan=True)
        assert slow.effect[name].nan_to_num().abs().max() > 1e-3


def test_blocks_behind_the_readout_are_nan_and_no_others(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    effect = patch_each_head(lens, paths["a"], paths["c"], STEP, {"logit": probe.logit}).effect["logit"]
    assert effect[:, READOUT + 1 :].isnan().all() and not effect[:, : READOUT + 1].isnan().any()


def test_a_clip_patched_with_itself_gives_exactly_zero(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    metrics = {"logit": probe.logit, "velocity": Readout(lambda velocity, cache: velocity.flatten(1).sum(1), ())}
    null = patch_each_head(lens, paths["b"], paths["b"], STEP, metrics)
    for name in metrics:
        assert null.effect[name].nan_to_num().abs().max() == 0 and null.total[name].abs().max() == 0


def test_all_velocity_of_the_clean_run_is_the_length_of_the_difference(
    lens: DiTLens, paths: dict[str, Trajectory]
) -> None:
    effects = patch_each_head(lens, paths["a"], paths["d"], STEP, {"velocity": VelocityProjection()})
    clean, corrupted = (lens.run_with_cache(paths[r], step=STEP, names_filter="hook_velocity")[0] for r in "ad")
    torch.testing.assert_close(effects.total["velocity"], (clean - corrupted).flatten(1).norm(dim=1))
    assert effects.corrupted["velocity"].abs().max() == 0


def test_a_planted_head_is_found_first(codec, paths: dict[str, Trajectory]) -> None:
    """Every head's write is cut but one's; only that head can have an effect on the readout of its own block."""
    transformer = new_transformer(1)
    with torch.no_grad():
        for block in transformer.blocks:
            block.attn1.to_out[0].weight.zero_()
        transformer.blocks[2].attn1.to_out[0].weight[:, 32:64] = torch.randn(128, 32)
    lens = DiTLens(assemble(transformer, codec), "planted", Conditioning({"encoder_hidden_states": empty_prompt()}))
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    probe = Probe(weight, 0.0, 1.0, Reads("blocks.4.hook_resid_post", STEP, 0.8, "planted"))
    effect = patch_each_head(lens, paths["a"], paths["c"], STEP, {"logit": probe.logit}).effect["logit"][:, :5].abs()
    assert (effect.flatten(1).argmax(1) == 2 * 4 + 1).all()
    others = effect.flatten(1).clone()
    others[:, 2 * 4 + 1] = 0
    assert others.max() == 0


def test_the_table_names_its_dimensions(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    result = patch_heads(lens, paths["a"], paths["c"], [2, STEP], {"logit": probe.logit})
    assert dict(result.effect_logit.sizes) == {"clip": 3, "step": 2, "block": 6, "head": 4}
    assert list(result.donor.values) == list(paths["a"].clip_ids)
    assert result.sigma.values == pytest.approx([paths["a"].schedule.sigmas[s] for s in (2, STEP)])


@pytest.mark.parametrize(
    "points",
    [
        ("blocks.1.hook_resid_post", "blocks.4.hook_resid_post"),
        ("blocks.3.hook_resid_pre",),
        ("blocks.3.attn.hook_q",),
        ("blocks.2.attn.hook_z", "hook_embed"),
    ],
    ids="-".join,
)
def test_any_readout_is_swept_as_by_full_forwards(
    lens: DiTLens, paths: dict[str, Trajectory], points: tuple[str, ...]
) -> None:
    metrics = {"means": Readout(lambda v, cache: sum(cache[p].flatten(1)[:, ::7].mean(1) for p in points), points)}
    fast, slow = (f(lens, paths["b"], paths["d"], STEP, metrics) for f in (patch_each_head, patch_each_head_literally))
    torch.testing.assert_close(fast.effect["means"], slow.effect["means"], rtol=0, atol=1e-6, equal_nan=True)
    assert slow.effect["means"].nan_to_num().abs().max() > 1e-5


def test_a_single_metric_needs_no_name(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    result = patch_heads(lens, paths["a"], paths["c"], steps=[STEP], metric=probe.logit)
    assert set(result.data_vars) == {"effect", "total", "corrupted"}


def test_a_sweep_inside_hooks_is_refused(lens: DiTLens, paths: dict[str, Trajectory], probe: Probe) -> None:
    with lens.hooks([("hook_velocity", lambda x, hook: None)]):
        with pytest.raises(RuntimeError, match="active hooks"):
            patch_heads(lens, paths["a"], paths["c"], steps=[STEP], metric=probe.logit)
        lens.run_with_cache(paths["a"], step=STEP)


def test_trajectories_that_do_not_pair_up_are_refused(
    lens: DiTLens, paths: dict[str, Trajectory], probe: Probe
) -> None:
    with pytest.raises(ValueError, match="clean"):
        patch_each_head(lens, paths["a"][:2], paths["c"], STEP, {"logit": probe.logit})
