"""How fast miniphys makes clips: `python -m benchmarks.miniphys` prints clips per second on one core."""

from __future__ import annotations

import time

from dit_lens import datasets

QUADRUPLETS = 500


def main() -> None:
    """Makes quadruplets of every property and prints the rate, the first batch left out."""
    list(datasets.load("miniphys", split="pretrain", quadruplets=10))
    start = time.perf_counter()
    for _ in datasets.load("miniphys", split="pretrain", quadruplets=QUADRUPLETS):
        pass
    seconds = time.perf_counter() - start
    print(f"{4 * QUADRUPLETS / seconds:.0f} clips/s on one core ({QUADRUPLETS} quadruplets in {seconds:.2f} s)")


if __name__ == "__main__":
    main()
