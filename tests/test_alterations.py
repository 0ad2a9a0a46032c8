"""What was done to a transformer before a lens was put on it: refused by name, or the laws hold all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook, dispatch_model
from diffusers import (
    BitsAndBytesConfig,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from small_models import SMALL, build
from torch import Tensor, nn

from dit_lens import DiTLens, laws
from dit_lens.families import alterations
from dit_lens.running import HookedTransformer, Request

CPU = torch.device("cpu")
CACHES = {
    "FirstBlockCache": FirstBlockCacheConfig(threshold=0.1),
    "MagCache": MagCacheConfig(num_inference_steps=4, mag_ratios=[1.0] * 4),
    "TaylorSeerCache": TaylorSeerCacheConfig(),
    "FasterCache": FasterCacheConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 681),
        current_timestep_callback=lambda: 500, attention_weight_callback=lambda _: 0.3,
    ),
    "PyramidAttentionBroadcast": PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(100, 800),
        current_timestep_callback=lambda: 500,
    ),
}  # fmt: skip


def refused(transformer: Any, what: str) -> None:
    with pytest.raises(TypeError, match=rf"got {what}.* · expected the stock transformer as it is loaded · "):
        DiTLens(transformer=transformer)


@pytest.mark.parametrize("name", CACHES)
def test_step_caching_is_refused_by_name_until_it_is_disabled(name: str) -> None:
    transformer = build("wan")
    transformer.enable_cache(CACHES[name])
    refused(transformer, rf"step caching \({name}\)")
    transformer.disable_cache()
    DiTLens(transformer=transformer)


def test_caching_is_known_by_its_hooks_where_the_model_does_not_say_so() -> None:
    transformer = build("cogvideox")
    transformer.enable_cache(CACHES["FirstBlockCache"])
    transformer._cache_config = None
    refused(transformer, r"step caching \(FirstBlockCache\) at transformer_blocks\.0")


@pytest.mark.parametrize("name", ["wan", "ltx", "cogvideox"])
def test_fused_projections_are_refused_until_they_are_unfused(name: str) -> None:
    transformer = build(name)
    transformer.fuse_qkv_projections()
    refused(transformer, r"fused query, key and value projections at .*attn1")
    transformer.unfuse_qkv_projections()
    DiTLens(transformer=transformer)


def test_compiled_models_are_refused() -> None:
    compiled: Any = torch.compile(build("wan"), backend="eager")
    refused(compiled, "a module compiled by torch.compile")
    DiTLens(transformer=compiled._orig_mod)
    in_place = build("wan")
    in_place.compile(backend="eager")
    refused(in_place, "a module compiled in place")
    by_block = build("wan")
    by_block.compile_repeated_blocks(backend="eager")
    refused(by_block, r"a module compiled in place at blocks\.0")
    for block in by_block.blocks:
        block._compiled_call_impl = None
    DiTLens(transformer=by_block)


def test_quantised_weights_are_refused() -> None:
    transformer = build("wan")
    for quantization in (BitsAndBytesConfig(load_in_8bit=True), {"quant_method": "bitsandbytes"}):
        transformer.register_to_config(quantization_config=quantization)
        refused(transformer, "weights quantised by bitsandbytes")
    packed = build("wan")
    weight = packed.blocks[0].ffn.net[2].weight
    packed.blocks[0].ffn.net[2].weight = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    refused(packed, r"weights of torch\.int8 at blocks\.0\.ffn\.net\.2\.weight")


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading_is_refused(kind: str) -> None:
    transformer = build("wan")
    transformer.enable_group_offload(CPU, CPU, offload_type=kind, num_blocks_per_group=1)
    refused(transformer, "group offloading")


def test_sequential_offload_is_refused() -> None:
    refused(cpu_offload(build("wan"), CPU), "weights offloaded layer by layer")


def test_a_parallel_model_is_refused() -> None:
    transformer = build("wan")
    transformer._parallel_config = object()  # what enable_parallelism sets; it needs several processes
    refused(transformer, "context parallelism")


def velocity_and_mixes(transformer: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model = HookedTransformer(transformer, "small")
    laws.verify(model)
    velocity, kept = model.run(laws.example(model), Request("blocks.*.attn.hook_z"))
    assert velocity is not None and kept
    return velocity, kept


@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_whole_model_offload_and_device_maps_change_nothing(name: str) -> None:
    plain, mixes = velocity_and_mixes(build(name))
    offloaded, _ = cpu_offload_with_hook(build(name), CPU)
    mapped = dispatch_model(build(name), {"": "cpu"}, force_hooks=True)
    for altered in (offloaded, mapped):
        velocity, kept = velocity_and_mixes(altered)
        assert torch.equal(velocity, plain) and all(torch.equal(kept[key], mixes[key]) for key in mixes)


@pytest.mark.parametrize("name", SMALL)
def test_the_laws_hold_over_weights_that_are_stored_in_float8(name: str) -> None:
    transformer = build(name)
    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(parameter.dtype == torch.float8_e4m3fn for parameter in transformer.parameters())
    DiTLens(transformer=transformer)


@pytest.mark.parametrize("backend", ["native", "_native_math"])
@pytest.mark.parametrize("name", SMALL)
def test_the_laws_hold_under_attention_backends(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A model's backend becomes that of all models: put back what was there.
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    plain, _ = velocity_and_mixes(build(name))
    transformer = build(name)
    transformer.set_attention_backend(backend)
    velocity, _ = velocity_and_mixes(transformer)
    torch.testing.assert_close(velocity, plain, atol=1e-5, rtol=1e-4)


# Adapters, as PEFT wraps a layer in one; it is known by the name of its class.


class BaseTunerLayer:
    """As peft's of the same name."""


class Lora(nn.Module, BaseTunerLayer):
    """A linear layer and a low-rank addition to it."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.base_layer, self.merged, self.disable_adapters = layer, False, False
        self.lora_A = nn.Linear(layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, layer.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    @torch.no_grad()
    def merge(self) -> None:
        self.base_layer.weight += self.lora_B.weight @ self.lora_A.weight
        self.merged = True

    def forward(self, x: Tensor) -> Tensor:
        idle = self.merged or self.disable_adapters
        return self.base_layer(x) if idle else self.base_layer(x) + self.lora_B(self.lora_A(x))


def adapted(*layers: str) -> Any:
    transformer = build("wan")
    for path in layers:
        home, _, name = path.rpartition(".")
        parent: Any = transformer.get_submodule(home)
        setattr(parent, name, Lora(getattr(parent, name)))
    return transformer.requires_grad_(False)


def test_an_adapter_on_projections_of_the_input_is_read_through() -> None:
    transformer = adapted("blocks.1.attn1.to_q", "blocks.1.attn1.to_k", "blocks.1.attn1.to_v")
    velocity, _ = velocity_and_mixes(transformer)
    plain, _ = velocity_and_mixes(build("wan"))
    assert not torch.equal(velocity, plain)


def test_an_adapter_on_the_output_s_projection_has_to_be_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "blocks.1.attn1.to_out.0"
    transformer = adapted(path)
    refused(transformer, rf"an adapter that is not merged into the weights at {path}")
    with monkeypatch.context() as patched:  # and for a reason: else a law is broken
        patched.setattr(alterations, "BY_WEIGHT", ("no layer",))
        with pytest.raises(ValueError, match=r"got blocks\.1\.attn: sum of results"):
            DiTLens(transformer=transformer)
    transformer.get_submodule(path).merge()
    DiTLens(transformer=transformer)
