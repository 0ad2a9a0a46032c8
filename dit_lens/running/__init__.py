"""Evaluations of a transformer, with hooks, a cache, a skipped prefix or an early stop: what `DiTLens` runs on.

- `evaluation`: what one call is, and what is asked of it;
- `hooked`: one transformer, whose named activations can be read and written;
- `model`: one of them, or two experts that share the noise levels;
- `restarting`: a model run from a block on;
- `active`: hooks by step, guidance branch and expert;
- `calls`: calls that others make, such as a pipeline;
- `branches`: the guidance branches that such a call is for;
- `generation`: a pipeline's own call, with activations kept on the way.
"""

from dit_lens.running.active import Where
from dit_lens.running.evaluation import Evaluation, Reduce, Request, count, keeping, reduction, repeat, some
from dit_lens.running.generation import Generation, Recorder
from dit_lens.running.hooked import HookedTransformer
from dit_lens.running.model import Model, model_of

__all__ = [
    "Evaluation",
    "Generation",
    "HookedTransformer",
    "Model",
    "Recorder",
    "Reduce",
    "Request",
    "Where",
    "count",
    "keeping",
    "model_of",
    "reduction",
    "repeat",
    "some",
]
