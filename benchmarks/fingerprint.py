"""What it costs to ask before every evaluation whether a transformer was altered: `python -m benchmarks.fingerprint`.

A Wan of the number of modules and weights of Wan 2.1 1.3B, in tiny widths: the fingerprint does not look at values. CPU
time, which answers less to what else runs on the machine. Measured on one core of a small virtual machine:

    858 modules, 825 weights: 0.79 ms; the whole list of alterations (only where it changed) 6 ms
"""

from __future__ import annotations

import time
from collections.abc import Callable

from diffusers import WanTransformer3DModel

from dit_lens.families import alterations
from dit_lens.families.fingerprint import fingerprint
from dit_lens.running import HookedTransformer


def milliseconds(way: Callable[[], object], rounds: int = 50) -> float:
    """CPU time of one call, the mean over rounds."""
    start = time.process_time()
    for _ in range(rounds):
        way()
    return (time.process_time() - start) / rounds * 1000


def main() -> None:
    """Prints one line."""
    transformer = WanTransformer3DModel(
        num_layers=30, num_attention_heads=2, attention_head_dim=12, ffn_dim=32, freq_dim=32, text_dim=16,
        in_channels=4, out_channels=4,
    )  # fmt: skip
    HookedTransformer(transformer, "wan 1.3B in small")
    known = fingerprint(transformer)
    asked = milliseconds(lambda: fingerprint(transformer) == known)
    whole = milliseconds(lambda: alterations.check(transformer), 10)
    print(
        f"{len(list(transformer.modules()))} modules, {len(list(transformer.parameters()))} weights: {asked:.2f} ms;"
        f" the whole list of alterations (only where it changed) {whole:.0f} ms"
    )


if __name__ == "__main__":
    main()
