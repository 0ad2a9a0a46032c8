"""A fingerprint that changes if a transformer is altered after its hook points were made; checked at every evaluation.

It covers modules, their classes and forwards, attention processors, diffusers' and accelerate's hooks, compilation,
adapters and their state, classes and dtypes of weights. It does not cover the values of weights, which do not change
what hook points mean. It costs 0.8 ms at the size of Wan 1.3B (`benchmarks.fingerprint`).
"""

from __future__ import annotations

from typing import Any

from torch import nn

OF_THE_WHOLE = "_cache_config", "_parallel_config"
ADAPTED = "merged_adapters", "_disable_adapters", "_active_adapter"  # PEFT's


def fingerprint(transformer: nn.Module) -> list[Any]:
    """The facts that hook points depend on, to be compared by `==`.

    It holds the objects themselves and not their ids, which Python may reuse. The forward of the transformer itself
    is left out, because hooks and offloading pipelines replace it temporarily.
    """
    facts: list[Any] = [[vars(transformer).get(name) for name in OF_THE_WHOLE]]
    kinds: set[type] = set()
    waiting = [transformer]
    while waiting:
        module = waiting.pop()
        attributes: Any = module.__dict__
        kinds.add(module.__class__)
        facts += (module, module.__class__, attributes.get("processor"), attributes.get("_compiled_call_impl"))
        if "forward" in attributes and module is not transformer:
            facts.append(attributes["forward"])
        if "processor" in attributes:
            facts.append(attributes.get("fused_projections"))
        if "_diffusers_hook" in attributes:
            facts += attributes["_diffusers_hook"].hooks
        if "_hf_hook" in attributes and by_layer(attributes["_hf_hook"]):
            facts.append("by layer")
        if "merged_adapters" in attributes:
            facts += [str(attributes.get(name)) for name in ADAPTED]
        if attributes["_parameters"]:
            facts += [(x.__class__, x.dtype) for x in attributes["_parameters"].values() if x is not None]
        if attributes["_modules"]:
            waiting += [child for child in attributes["_modules"].values() if child is not None]
    facts.append({kind: kind.forward for kind in kinds})
    return facts


def by_layer(hook: Any) -> bool:
    """Whether a hook of accelerate loads a module's weights for each call and offloads them afterwards."""
    return any(getattr(part, "offload", False) for part in getattr(hook, "hooks", [hook]))
