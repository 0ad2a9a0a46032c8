"""What may have been done to a stock transformer that its hook points would not survive: refused by name, at load.

What they do survive is left alone, and the laws vouch for it: whole-model CPU offload, a device map, attention
backends, float8 storage (`enable_layerwise_casting`), and adapters that are merged or sit on no layer of `BY_WEIGHT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

# Layers whose weights are read, to tell what each head writes and what the last layer makes of the stream.
BY_WEIGHT = ("to_out.0", "to_add_out", "proj_out")
# Diffusers' own hooks, by how their names begin: what they are of, and the remedy.
UNCACHED, UNGUIDED = "transformer.disable_cache()", "load the transformer without a guider's hooks"
WHOLE = "pipeline.enable_model_cpu_offload() moves the transformer as a whole"
HOOKS = {
    "faster_cache": ("step caching (FasterCache)", UNCACHED),
    "fbc_": ("step caching (FirstBlockCache)", UNCACHED),
    "mag_cache": ("step caching (MagCache)", UNCACHED),
    "pyramid_attention_broadcast": ("step caching (PyramidAttentionBroadcast)", UNCACHED),
    "sea_cache": ("step caching (SeaCache)", UNCACHED),
    "taylorseer_cache": ("step caching (TaylorSeer)", UNCACHED),
    "text_kv_cache": ("step caching (TextKVCache)", UNCACHED),
    "group_offloading": ("group offloading", WHOLE),
    "layer_execution_tracker": ("group offloading", WHOLE),
    "lazy_prefetch": ("group offloading", WHOLE),
    "cp_": ("context parallelism", "load the transformer in one process"),
    "layer_skip": ("layers that are skipped (a guider's)", UNGUIDED),
    "smoothed_energy": ("smoothed attention (a guider's)", UNGUIDED),
}
HARMLESS = ("layerwise_casting", "peft_autocast_disable")


@dataclass(frozen=True)
class Alteration:
    """What was done, at which module, and how to undo it."""

    what: str
    path: str
    remedy: str


def check(transformer: nn.Module) -> None:
    """Raises TypeError where a transformer is compiled, fused, quantised, cached, offloaded by parts or adapted."""
    for find in (_compiled, _quantised, _hooked, _offloaded, _fused, _adapted):
        for found in find(transformer):
            at = f" at {found.path}" if found.path else ""
            raise TypeError(f"got {found.what}{at} · expected the stock transformer as it is loaded · {found.remedy}")


def _compiled(transformer: nn.Module) -> Iterator[Alteration]:
    for path, module in transformer.named_modules():
        if "_orig_mod" in module._modules:
            yield Alteration("a module compiled by torch.compile", path, "give the one inside it, its `_orig_mod`")
        if module._compiled_call_impl is not None:
            undo = "compile it after the lens is done, or set its `_compiled_call_impl` to None"
            yield Alteration("a module compiled in place", path, undo)


def _quantised(transformer: Any) -> Iterator[Alteration]:
    undo = "load it without quantization_config, in bfloat16"
    quantizer: Any = getattr(transformer, "hf_quantizer", None)
    told = transformer.config.get("quantization_config") or getattr(quantizer, "quantization_config", None)
    if told or quantizer:
        method = told.get("quant_method") if isinstance(told, Mapping) else getattr(told, "quant_method", told)
        yield Alteration(f"weights quantised by {getattr(method, 'value', method)}", "", undo)
    for path, parameter in transformer.named_parameters():
        if not parameter.is_floating_point():
            yield Alteration(f"weights of {parameter.dtype}", path, undo)


def _hooked(transformer: Any) -> Iterator[Alteration]:
    if config := getattr(transformer, "_cache_config", None):
        yield Alteration(f"step caching ({type(config).__name__.removesuffix('Config')})", "", UNCACHED)
    if getattr(transformer, "_parallel_config", None) is not None:
        yield Alteration(HOOKS["cp_"][0], "", HOOKS["cp_"][1])
    for path, module in transformer.named_modules():
        registry: Any = module.__dict__.get("_diffusers_hook")
        for name in registry.hooks if registry else ():
            if name not in HARMLESS:
                unknown = f"the diffusers hook {name!r}", "remove it (HookRegistry.remove_hook)"
                what, undo = next((HOOKS[prefix] for prefix in HOOKS if name.startswith(prefix)), unknown)
                yield Alteration(what, path, undo)


def _offloaded(transformer: nn.Module) -> Iterator[Alteration]:
    for path, module in transformer.named_modules():
        hook: Any = module.__dict__.get("_hf_hook")
        if any(getattr(one, "offload", False) for one in getattr(hook, "hooks", [hook])):
            yield Alteration("weights offloaded layer by layer (sequential or disk offload)", path, WHOLE)


def _fused(transformer: nn.Module) -> Iterator[Alteration]:
    undo = "transformer.unfuse_qkv_projections()"
    for path, module in transformer.named_modules():
        processor = type(getattr(module, "processor", None)).__name__
        # An `Attention` stays marked when it is unfused; the processor tells.
        marked = getattr(module, "fused_projections", False) and not isinstance(module, Attention)
        if marked or processor.startswith("Fused"):
            yield Alteration("fused query, key and value projections", path, undo)


def _adapted(transformer: nn.Module) -> Iterator[Alteration]:
    for path, module in transformer.named_modules():
        layer: Any = module
        tuned = any(kind.__name__ == "BaseTunerLayer" for kind in type(module).__mro__)
        if tuned and path.endswith(BY_WEIGHT) and not (layer.merged or layer.disable_adapters):
            undo = "pipeline.fuse_lora() makes it part of the weights"
            yield Alteration("an adapter that is not merged into the weights", path, undo)
