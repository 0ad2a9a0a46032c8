"""What heads, layers and biases add to a stream, a readout and the velocity: the sums are exact in every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from small_models import SMALL, build
from small_pipelines import CALL, experts, lens_on, noise, text
from torch import Tensor

from dit_lens import At, DiTLens, edits
from dit_lens.axes import TokenGrid
from dit_lens.cache import ActivationCache, Anatomy
from dit_lens.cache.anatomy import HeadWrite, is_stream, layer_of, stream_of
from dit_lens.hook_points import Hook
from dit_lens.lens.requests import evaluations_of
from dit_lens.probing import Probe, Reads

CLOSE = 1e-5
NORMED = ("mochi",)


@dataclass(frozen=True, eq=False)
class Case:
    """A small model, two clips, and what is told beside."""

    name: str
    lens: DiTLens
    inputs: dict[str, Any]

    def cached(self, names: Any = "*", **inputs: Any) -> ActivationCache:
        return self.lens.run_with_cache(names_filter=names, **self.inputs | inputs)[1]


def case(name: str, **inputs: Any) -> Case:
    """No parameter is left where it was initialised: norms have weights and biases of their own."""
    transformer, generator = build(name), torch.Generator().manual_seed(0)
    for parameter in transformer.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    lens = DiTLens(transformer=transformer, verify=False)
    latent, conditioning = lens.family.example(transformer, generator)
    clips = torch.cat([latent[:1], latent[:1] + torch.randn(latent[:1].shape, generator=generator)])
    return Case(name, lens, {"latent": clips, "timestep": lens.family.to_timestep(0.4), **conditioning, **inputs})


@pytest.fixture(scope="module", params=list(SMALL))
def small(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


@pytest.fixture(scope="module")
def cache(small: Case) -> ActivationCache:
    return small.cached()


def direction_for(values: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(values.shape[-1], generator=torch.Generator().manual_seed(seed)).to(values)


def scale(table: xr.Dataset) -> xr.DataArray:
    """The largest of the readout and its parts, clip by clip: a readout can be small where its parts cancel."""
    summed = [dim for dim in table.embedding.dims if dim not in ("step", "clip")]
    parts = abs(table.attribution).sum(summed).max(["block", "component"])
    return xr.concat([abs(table.readout), abs(table.constant), abs(table.embedding).sum(summed), parts], "part").max(
        "part"
    )


def assert_exact(table: xr.Dataset) -> None:
    """Parts add up to the readout."""
    total = table.constant + table.embedding.sum([d for d in table.embedding.dims if d not in ("step", "clip")])
    total = total + table.attribution.sum([d for d in table.attribution.dims if d not in ("step", "clip")])
    assert (abs(total - table.readout) <= CLOSE * scale(table)).all()
    np.testing.assert_allclose(table.unexplained, table.readout - total, atol=1e-9)


def last_streams(anatomy: Anatomy) -> list[str]:
    """The last point of each stream, and one inside a block."""
    streams = {stream_of(name): name for name in anatomy.points if is_stream(name)}
    return [
        *streams.values(),
        next(name for name in anatomy.points if "resid_mid" in name or "1.hook_resid_pre" in name),
    ]


def test_writes_add_up_to_every_stream(small: Case, cache: ActivationCache) -> None:
    for point in last_streams(small.lens.anatomy):
        values, labels = cache.decompose_resid(point)
        assert labels[0] == "embed" and len(labels) == len(values) == len(set(labels))
        torch.testing.assert_close(values.sum(0), cache[point], atol=1e-5, rtol=1e-5)
        for index in range(len(values)):  # a part left out is missed
            rest = values.sum(0) - values[index]
            assert (rest - cache[point]).abs().max() > 1e-4, labels[index]


def test_the_accumulated_stream_starts_with_the_embedding_and_grows_write_by_write(cache: ActivationCache) -> None:
    values, labels = cache.accumulated_resid()
    assert labels[0] == "0_pre" and labels[-1] == f"{cache.blocks - 1}_post"
    assert torch.equal(values[0], cache["resid_pre", 0]) and torch.equal(values[-1], cache["resid_post", -1])
    pre, _ = cache.accumulated_resid(mid=False)
    assert len(pre) == cache.blocks + 1
    assert any("_mid_" in label for label in labels) or cache.blocks + 1 == len(values)
    parts, named = cache.decompose_resid()
    grown = dict(zip(labels, values, strict=True))
    for index, label in enumerate(named):
        if f"{label.removesuffix('_out').replace('_', '_mid_', 1)}" in grown:
            there = grown[label.removesuffix("_out").replace("_", "_mid_", 1)]
            torch.testing.assert_close(parts[: index + 1].sum(0), there, atol=1e-5, rtol=1e-5)


def test_parts_add_up_to_the_logit_of_a_probe(small: Case, cache: ActivationCache) -> None:
    for point in last_streams(small.lens.anatomy):
        probe = Probe(direction_for(cache[point]), 0.7, 1.0, Reads(point, 0, 0.0, small.name))
        table = cache.attribute_to(probe)
        logit = probe.of_activation(cache[point])
        torch.testing.assert_close(torch.from_numpy(table.readout.values).float(), logit, rtol=CLOSE, atol=1e-6)
        total = table.constant + table.embedding + table.attribution.sum(["block", "component"])
        assert_exact(table)
        assert table.constant.values == pytest.approx(0.7)
        rest = total - abs(table.attribution).max("component").max("block")  # a part left out is missed
        assert (abs(rest - table.readout) > 100 * CLOSE * scale(table)).all()


def test_a_write_is_split_into_its_heads_and_bias(small: Case, cache: ActivationCache) -> None:
    for name, write in small.lens.anatomy.heads.items():
        table = cache.attribute_to(direction_for(cache[name]), point=name)
        assert_exact(table)
        assert not table.embedding.any() and set(table.layer.values) == {layer_of(name)}
        heads = cache[write.z[""]].shape[2]
        assert set(table["head"].values) == {*range(heads), -1}


def test_a_head_is_the_exact_effect_of_zeroing_it(small: Case, cache: ActivationCache) -> None:
    """Its gated write is what a linear readout right behind the write loses without it."""
    if small.name in NORMED:
        pytest.skip("a norm before the gate: see the next test")
    for name in (name for name in small.lens.anatomy.heads if name.startswith("blocks.1.")):
        write, direction = small.lens.anatomy.heads[name], direction_for(cache[name])
        table = cache.attribute_to(direction, point=name)
        for head in range(cache[write.z[""]].shape[2]):
            with small.lens.hooks([(z, edits.zero(heads=[head])) for z in write.z.values()]):
                without = small.cached(name)[name]
            effect = (cache[name] - without).mean(1) @ direction
            said = torch.from_numpy(table.attribution.where(table["head"] == head, drop=True).sum("component").values)
            torch.testing.assert_close(said[:, 0].float(), effect, atol=1e-6, rtol=1e-4)
            assert effect.abs().max() > 1e-4, name


@pytest.mark.parametrize("name", NORMED)
def test_a_norm_before_the_gate_is_frozen(name: str) -> None:
    """A head's share is the write times its part of the raw output; zeroing it would change the norm as well."""
    small = case(name)
    cache = small.cached(["*", "blocks.1.attn.hook_result"])
    direction = direction_for(cache["attn_out", 1])
    frozen = cache["attn_out", 1] / cache["raw_out", 1]
    expected = (frozen.unsqueeze(2) * cache["result", 1] @ direction).mean(1)
    table = cache.attribute_to(direction, point=("attn_out", 1))
    torch.testing.assert_close(
        torch.from_numpy(table.attribution.sel(block=1).values).float()[:, :-1], expected, atol=1e-6, rtol=1e-4
    )
    with small.lens.hooks([("blocks.1.attn.hook_z", edits.zero(heads=[0]))]):
        without = small.cached("blocks.1.hook_attn_out")["attn_out", 1]
    effect = (cache["attn_out", 1] - without).mean(1) @ direction
    assert (effect - expected[:, 0]).abs().max() > 1e-3 * expected.abs().max()


def test_head_results_are_projected_first(small: Case, cache: ActivationCache, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {layer_of(name) for name in small.lens.anatomy.heads if stream_of(name) == ""}
    whole = {layer: cache.stack_head_results(layer) for layer in layers}
    monkeypatch.setattr("dit_lens.cache.activations.head_writes", None)  # nothing is written out at full width
    for layer, (values, labels) in whole.items():
        direction = direction_for(values)
        reached, same = cache.stack_head_results(layer, project=direction)
        assert same == labels and labels[0] == "L0H0" and reached.shape == values.shape[:-1]
        torch.testing.assert_close(values @ direction, reached, atol=1e-5, rtol=1e-4)


def test_parts_add_up_to_the_velocity_along_a_direction(small: Case, cache: ActivationCache) -> None:
    velocity = cache["hook_velocity"]
    direction = torch.randn(velocity.shape, generator=torch.Generator().manual_seed(1))
    table = cache.velocity_attrs(direction)
    along = (velocity.double() * direction.double()).flatten(1).sum(1)
    torch.testing.assert_close(torch.from_numpy(table.readout.values), along, rtol=CLOSE, atol=1e-6)
    assert_exact(table)
    for part in (table.constant, table.embedding, abs(table.attribution).max(["block", "component"])):
        assert (abs(part) > 10 * CLOSE * scale(table)).all()  # none is idle
    by_token = cache.velocity_attrs(direction, pool=False).attribution.sum(["frame", "row", "column"])
    torch.testing.assert_close(by_token.values, table.attribution.values, rtol=1e-9, atol=1e-9)


def test_a_patch_of_the_velocity_is_made_by_its_token_alone(small: Case, cache: ActivationCache) -> None:
    grid, shape = cache.grid_shape, cache["hook_velocity"].shape
    patch = [size // tokens for size, tokens in zip(shape[2:], (grid.frames, grid.rows, grid.columns), strict=True)]
    place = grid.frames - 1, 1, grid.columns - 1
    direction = torch.zeros(shape[1:])
    direction[(slice(None), *(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True)))] = 1
    table = cache.velocity_attrs(direction, pool=False)
    attribution = table.attribution.values.copy()
    assert abs(attribution[..., *place]).max() > 1e-5
    attribution[..., *place] = 0
    assert not attribution.any()
    assert_exact(table)


def test_a_stack_through_the_last_norm_adds_up_to_what_the_last_layer_is_given(small: Case) -> None:
    inputs: list[Tensor] = []
    projection = small.lens.transformer.get_submodule(small.lens.table.final.projection)
    handle = projection.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    cache = small.cached()
    handle.remove()
    parts = cache.apply_ln_to_stack(cache.decompose_resid().values)
    constant = cache._frozen().constant()
    torch.testing.assert_close(parts.sum(0) + constant, inputs[0], atol=2e-5, rtol=1e-4)
    assert (parts.sum(0) - inputs[0]).abs().max() > 1e-3


def test_what_is_said_to_be_needed_is_enough_and_not_too_much(small: Case, cache: ActivationCache) -> None:
    anatomy, last = small.lens.anatomy, cache.name(("resid_post", -1))
    direction, ahead = direction_for(cache[last]), torch.randn(cache["hook_velocity"].shape[1:])
    asked: list[tuple[list[str], Callable[[ActivationCache], Any]]] = [
        (anatomy.needs(last), lambda cache: cache.attribute_to(direction)),
        (anatomy.needs_of_velocity(), lambda cache: cache.velocity_attrs(ahead)),
    ]
    for names, ask in asked:
        assert ask(small.cached(names)).identical(ask(cache))
        for name in names:
            held = {kept: cache[kept] for kept in names if kept != name}
            with pytest.raises(KeyError, match="widen names_filter"):
                ask(replace(cache, tensors=held))


def test_a_write_that_a_hook_has_changed_is_not_explained(small: Case, cache: ActivationCache) -> None:
    name = next(name for name in small.lens.anatomy.heads if name.startswith("blocks.1."))
    direction = direction_for(cache[name])
    with small.lens.hooks([(name, edits.zero())]):
        edited = small.cached()
    table = edited.attribute_to(direction, point=name)
    assert not table.readout.any()
    torch.testing.assert_close(table.unexplained.values, -table.attribution.sum(["block", "component"]).values)


@pytest.mark.parametrize("name", ["wan", "ltx", "ltx2_gated", "cosmos", "skyreels"])
def test_sums_are_exact_where_every_token_has_its_own_time(name: str) -> None:
    small = case(name)
    (evaluation,) = evaluations_of(small.lens, None, At(), small.inputs)
    grid = small.lens.model.grid(evaluation)
    count = grid.frames if name in ("cosmos", "skyreels") else grid.tokens
    sigmas = torch.linspace(0.2, 0.8, count).repeat(2, 1)
    cache = small.cached(timestep=sigmas * small.lens.family.to_timestep(1.0))
    assert cache["final.mod.hook_scale"].ndim == 3
    for table in (cache.attribute_to(direction_for(cache["resid_post", -1])), cache.velocity_attrs(torch.ones(1))):
        assert_exact(table)


def test_in_bfloat16_what_is_unexplained_is_rounding() -> None:
    small = case("ltx")
    small.lens.transformer.to(torch.bfloat16)
    cache = small.cached()
    assert cache["resid_post", -1].dtype == torch.bfloat16
    for table in (
        cache.attribute_to(direction_for(cache["resid_post", -1].float())),
        cache.velocity_attrs(torch.randn(4, 1, 1, 1, generator=torch.Generator().manual_seed(0))),
    ):
        assert 0 < abs(table.unexplained).max() < 0.02 * abs(table.attribution).sum(["block", "component"]).max()


def test_a_cache_over_steps_is_attributed_step_by_step(lens: DiTLens, generator: torch.Generator) -> None:
    latent = torch.randn(2, 16, 5, 8, 8, generator=generator)
    path = lens.noising(latent, torch.randn(latent.shape, generator=generator), steps=10)
    _, cache = lens.run_with_cache(path, steps=[3, 7])
    direction, ahead = torch.randn(128, generator=generator), torch.randn(16, 5, 8, 8, generator=generator)
    assert cache.stack_activation("z").shape[:3] == (2, 6, 2)
    assert torch.equal(cache.stack_activation("z", "cross_attn")[:, 4], cache["z", 4, "cross_attn"])
    for index, step in enumerate([3, 7]):
        _, single = lens.run_with_cache(path, step=step)
        for all_steps, alone in (
            (cache.attribute_to(direction), single.attribute_to(direction)),
            (cache.velocity_attrs(ahead, pool=False), single.velocity_attrs(ahead, pool=False)),
        ):
            assert all_steps.attribution.dims[:2] == ("step", "clip") and alone.attribution.dims[0] == "clip"
            at = all_steps.sel(step=step)
            for name in ("attribution", "embedding", "readout", "constant"):
                torch.testing.assert_close(at[name].values, alone[name].values, rtol=1e-4, atol=1e-5)
        for stacked, unstacked in (
            (cache.decompose_resid(), single.decompose_resid()),
            (cache.accumulated_resid(), single.accumulated_resid()),
            (cache.stack_head_results(project=direction), single.stack_head_results(project=direction)),
        ):
            assert stacked.labels == unstacked.labels
            torch.testing.assert_close(stacked.values[index], unstacked.values)
        parts = cache.apply_ln_to_stack(cache.decompose_resid().values)
        torch.testing.assert_close(parts[index], single.apply_ln_to_stack(single.decompose_resid().values))


# One head worked out by hand.


def handmade(**changes: Any) -> ActivationCache:
    """Head 0 writes along (1, 0) and head 1 along (0, 1), times a gate of (2, 10)."""
    write = HeadWrite(
        {"": "blocks.0.attn.hook_z"}, "blocks.0.mod.hook_gate_attn", None, 0.0, torch.eye(2), torch.ones(2)
    )
    written, after = "blocks.0.hook_attn_out", "blocks.0.hook_resid_post"
    anatomy = Anatomy(("blocks.0.hook_resid_pre", written, after), {written: write}, None, {})
    z = torch.tensor([[[[3.0], [4.0]]]])
    tensors = {
        "blocks.0.hook_resid_pre": torch.tensor([[[5.0, 7.0]]]),
        "blocks.0.attn.hook_z": z,
        "blocks.0.mod.hook_gate_attn": torch.tensor([[2.0, 10.0]]),
        after: torch.tensor([[[5.0 + 2 * 4, 7.0 + 10 * 5]]]),
        **changes,
    }
    return ActivationCache(tensors, TokenGrid(1, 1, 1), 1, anatomy=anatomy)


def test_by_hand() -> None:
    table = handmade().attribute_to(torch.tensor([1.0, -1.0]))
    by_component = {
        name: float(value) for name, value in zip(table.component.values, table.attribution.values.ravel(), strict=True)
    }
    assert by_component == {"attn.0": 2 * 3, "attn.1": -10 * 4, "attn.bias": 2 - 10}
    assert table.embedding.item() == 5 - 7 and table.readout.item() == 13 - 57 and not table.unexplained.any()
    values, labels = handmade().stack_head_results()
    assert labels == ("L0H0", "L0H1")
    assert values.flatten(1).tolist() == [[6.0, 0.0], [0.0, 40.0]]


def test_what_is_missing_or_reduced_is_refused() -> None:
    direction, cache = torch.ones(2), handmade()
    with pytest.raises(ValueError, match=r"without weights · expected .* · ActivationCache.open\(path, lens.anatomy\)"):
        replace(cache, anatomy=None).attribute_to(direction)
    assert cache.anatomy is not None
    (name, write), *_ = cache.anatomy.heads.items()
    away = replace(cache.anatomy, heads={name: replace(write, weight=write.weight.to("meta"))})
    with pytest.raises(ValueError, match="sequential offload"):
        replace(cache, anatomy=away).attribute_to(direction)
    with pytest.raises(ValueError, match="does not state its last layer"):
        cache.velocity_attrs(direction)
    with pytest.raises(ValueError, match=r"got a direction of \(3,\) · expected \(2,\), or that for each"):
        cache.attribute_to(torch.ones(3))
    with pytest.raises(KeyError, match="is no sum"):
        cache.attribute_to(direction, point="blocks.0.attn.hook_z")
    with pytest.raises(ValueError, match="without `reduce`"):
        handmade(**{"blocks.0.attn.hook_z": torch.ones(1, 2, 1)}).attribute_to(direction)
    with pytest.raises(KeyError, match="got layer 'cross_attn'"):
        cache.stack_head_results("cross_attn")
    with pytest.raises(KeyError, match="expected a stream"):
        cache.accumulated_resid("blocks.0.attn.hook_z")


def test_a_direction_of_another_shape_is_refused() -> None:
    small = case("ltx")
    cache = small.cached(small.lens.anatomy.needs_of_velocity())
    with pytest.raises(ValueError, match=r"got a direction of \(5,\) · expected what broadcasts to \(2, 4, 2, 3, 2\)"):
        cache.velocity_attrs(torch.ones(5))


def test_text_has_no_grid() -> None:
    small = case("hunyuan15")
    cache = small.cached()
    text = ("resid_post", -1, "text")
    assert cache.attribute_to(direction_for(cache[text]), point=text).sizes["component"] == 4
    with pytest.raises(ValueError, match="not on the grid"):
        cache.attribute_to(direction_for(cache[text]), point=text, pool=False)


def test_hooks_that_only_look_change_nothing(small: Case, cache: ActivationCache) -> None:
    def look(x: Tensor, hook: Hook) -> None:
        assert torch.isfinite(x).all()

    with small.lens.hooks([("final.*", look)]):
        again = small.cached("hook_velocity")
    assert torch.equal(again["hook_velocity"], cache["hook_velocity"])


# Caches of a pipeline's own call, and of several experts.


def test_what_a_generation_kept_is_attributed_with_the_weights_of_the_expert_that_was_called() -> None:
    lens = lens_on(experts())
    names = lens.anatomy.needs(f"blocks.{lens.blocks - 1}.hook_resid_post")
    generation = lens.generate(
        names_filter=names, **CALL, prompt_embeds=text(), negative_prompt_embeds=text(7), num_inference_steps=3
    )
    assert len({kept.expert for kept in generation}) == 2
    for kept in generation:
        assert_exact(kept.cache.attribute_to(direction_for(kept.cache["resid_post", -1])))
    high = next(kept.cache for kept in generation if kept.expert == "high_noise")
    low = next(kept.cache for kept in generation if kept.expert == "low_noise")
    assert high.anatomy is not None and low.anatomy is not None
    mistaken = replace(high, anatomy=low.anatomy).attribute_to(direction_for(high["resid_post", -1]))
    assert (abs(mistaken.unexplained) > 100 * CLOSE * scale(mistaken)).all()


def test_a_cache_over_steps_of_several_experts_has_no_weights() -> None:
    lens = lens_on(experts())
    clean = noise()
    path = lens.noising(clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)), steps=10)
    _, low = lens.run_with_cache(path, steps=[9, 10])
    _, both = lens.run_with_cache(path, steps=[1, 10])
    assert_exact(low.attribute_to(direction_for(low["resid_post", -1])))
    with pytest.raises(ValueError, match="got a cache without weights"):
        both.attribute_to(direction_for(both["resid_post", -1]))
