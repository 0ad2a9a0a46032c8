"""Evaluations of a transformer, with hooks, a cache, a skipped prefix or an early stop: what `DiTLens` runs on.

- `evaluation`: what one call is, and what is asked of it;
- `hooked`: one transformer, whose named activations can be read and written;
- `experts`: two of them that share the noise levels;
- `active`: hooks by step, guidance branch and expert;
- `calls`: calls that others make, such as a pipeline;
- `branches`: the guidance branches that such a call is for;
- `generation`: a pipeline's own call, with activations kept on the way.
"""

from dit_lens.running.active import Where
from dit_lens.running.evaluation import Evaluation, Reduce, Request, Tokens, count, keeping, reduction, repeat, some
from dit_lens.running.experts import Experts, of_pipeline
from dit_lens.running.generation import Generation, Recorder
from dit_lens.running.hooked import HookedTransformer

__all__ = [
    "Evaluation",
    "Experts",
    "Generation",
    "HookedTransformer",
    "Recorder",
    "Reduce",
    "Request",
    "Tokens",
    "Where",
    "count",
    "keeping",
    "of_pipeline",
    "reduction",
    "repeat",
    "some",
]
