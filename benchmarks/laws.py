"""How far the laws of the hook points are from holding: `python -m benchmarks.laws` prints a table in Markdown.

Over the small random models of the tests, of the stock diffusers classes, in three dtypes. A model comes by its dtype
through `from_pretrained`, which keeps in float32 what must stay so (`.to(bfloat16)` would not). Deviations are the
largest of a model, relative to the largest value of the tensor they concern; of idle and identity they are absolute,
and 0 is to the bit. So it is of between, but for positions that are added to an embedding. Stock classes compute in
float32 in places, whatever they are loaded in.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dit_lens import laws
from dit_lens.running import HookedTransformer
from tests.small_models import SMALL, build

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
LAWS = ("sum", "heads", "attention", "idle", "identity", "between")


def loaded(transformer: Any, dtype: torch.dtype) -> Any:
    """The transformer as it is loaded from a folder in a dtype."""
    with TemporaryDirectory() as folder:
        transformer.save_pretrained(folder)
        return type(transformer).from_pretrained(folder, torch_dtype=dtype)


def row(name: str, dtype: torch.dtype) -> tuple[int, dict[str, float], float]:
    """Number of hook points, largest deviation by law, and what is allowed of it."""
    model = HookedTransformer(loaded(build(name), dtype), f"small {name}")
    findings = laws.findings(model)
    worst = {law: max(finding.deviation for finding in findings if finding.law == law) for law in LAWS}
    return len(model.table.points), worst, max(finding.tolerance for finding in findings)


def table(names: Sequence[str] = tuple(SMALL), dtypes: Sequence[torch.dtype] = DTYPES) -> Iterator[str]:
    """The lines of the table."""
    yield f"| model | hook points | dtype | {' | '.join(LAWS)} | allowed (sum, heads, attention) |"
    yield f"|{'---|' * (4 + len(LAWS))}"
    for name in names:
        for dtype in dtypes:
            points, worst, allowed = row(name, dtype)
            deviations = " | ".join(f"{worst[law]:.0e}" if worst[law] else "0" for law in LAWS)
            yield f"| {name} | {points} | {str(dtype).removeprefix('torch.')} | {deviations} | {allowed:.0e} |"


def main() -> None:
    """Prints the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for line in table():
        print(line, flush=True)


if __name__ == "__main__":
    main()
