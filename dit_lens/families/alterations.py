"""Refusal of changes to a stock transformer that break its hook points, with the name of each and how to undo it.

Other changes are allowed, and the laws (`dit_lens.laws`) check them: whole-model CPU offload, a device map, attention
backends, float8 storage (`enable_layerwise_casting`), and adapters that are merged or sit on no layer of `BY_WEIGHT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dit_lens.families.fingerprint import by_layer

# Layers whose weights are read, to compute what each head writes and how the last layer maps the stream to velocity.
BY_WEIGHT = ("to_out.0", "to_add_out", "proj_out")
# Diffusers' own hooks, by the prefix of their names: (the feature that they belong to, the remedy).
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
PLAIN = (nn.Parameter, Tensor)
# Packages that may replace a module's forward: their changes are checked by the other functions here.
WRAPPERS = ("nnsight", "accelerate", "diffusers", "dit_lens")


@dataclass(frozen=True)
class Alteration:
    """A change to the model: what it is, at which module, and how to undo it."""

    what: str
    path: str
    remedy: str


def check(transformer: nn.Module) -> None:
    """Raises TypeError if a transformer is compiled, fused, quantised, cached, offloaded by parts or adapted.

    Also if a forward was replaced, as TeaCache and similar methods do.
    """
    for find in (_compiled, _quantised, _hooked, _offloaded, _fused, _processed, _adapted, _replaced):
        for alteration in find(transformer):
            at = f" at {alteration.path}" if alteration.path else ""
            raise TypeError(
                f"got {alteration.what}{at} · expected the stock transformer as it is loaded · {alteration.remedy}"
            )


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
    config = transformer.config.get("quantization_config") or getattr(quantizer, "quantization_config", None)
    if config or quantizer:
        method = config.get("quant_method") if isinstance(config, Mapping) else getattr(config, "quant_method", config)
        yield Alteration(f"weights quantised by {getattr(method, 'value', method)}", "", undo)
    for path, parameter in transformer.named_parameters():
        if type(parameter) not in PLAIN:  # tensors of torchao and other libraries hold integers and report float32
            library = type(parameter).__module__.partition(".")[0]
            yield Alteration(f"weights held as {library}'s {type(parameter).__name__}", path, undo)
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
        if by_layer(module.__dict__.get("_hf_hook")):
            yield Alteration("weights offloaded layer by layer (sequential or disk offload)", path, WHOLE)


def _fused(transformer: nn.Module) -> Iterator[Alteration]:
    undo = "transformer.unfuse_qkv_projections()"
    for path, module in transformer.named_modules():
        processor = type(getattr(module, "processor", None)).__name__
        # An `Attention` keeps its mark after it is unfused, so for it the processor decides.
        marked = getattr(module, "fused_projections", False) and not isinstance(module, Attention)
        if marked or processor.startswith("Fused"):
            yield Alteration("fused query, key and value projections", path, undo)


def _processed(transformer: nn.Module) -> Iterator[Alteration]:
    for path, module in transformer.named_modules():
        kind = type(module.__dict__.get("processor"))
        if kind is not type(None) and not kind.__module__.startswith("diffusers."):
            undo = "transformer.set_attn_processor with the stock one, or load the model again"
            yield Alteration(f"an attention processor that is not diffusers' ({kind.__name__})", path, undo)


def _adapted(transformer: nn.Module) -> Iterator[Alteration]:
    for path, module in transformer.named_modules():
        layer: Any = module
        tuned = any(kind.__name__ == "BaseTunerLayer" for kind in type(module).__mro__)
        if tuned and path.endswith(BY_WEIGHT) and not (layer.merged or layer.disable_adapters):
            undo = "pipeline.fuse_lora() makes it part of the weights"
            yield Alteration("an adapter that is not merged into the weights", path, undo)


def _replaced(transformer: nn.Module) -> Iterator[Alteration]:
    undo = "load the model again without the patch (TeaCache and its kin)"
    for kind in {type(module) for module in transformer.modules()}:
        home = next(base for base in kind.__mro__ if "forward" in vars(base))
        if home.__module__.startswith("diffusers.") and home.forward.__module__ != home.__module__:
            yield Alteration(f"a {home.__name__} whose forward was replaced in its class", "", undo)
    for path, module in transformer.named_modules():
        forward: Any = module.__dict__.get("forward")
        unchanged = getattr(forward, "__func__", None) is type(module).forward
        if forward is not None and not unchanged and not _by_wrapper(forward):
            yield Alteration("a forward that was replaced", path, undo)


def _by_wrapper(forward: Any) -> bool:
    """Whether a forward was set by one of `WRAPPERS`, perhaps through `functools.partial`."""
    while isinstance(forward, partial):
        forward = forward.func
    code = getattr(
        forward, "__globals__", None
    )  # a wrapper copies the other attributes of the function it wraps, but not these
    where = code["__name__"] if code else type(forward).__module__
    return where.partition(".")[0] in WRAPPERS
