"""How well the tracker reads miniphys: `python -m benchmarks.tracker` prints its accuracies and its speed.

On frames as rendered (with their sensor noise) at 32 and 64 pixels, in the test and the unseen split, and on round
trips through a patch-PCA codec, which is as good as a frame that mini-wan makes can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from dit_lens.models.codec import fit_patch_pca
from dit_lens.toy import tracker
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.miniphys.scenes import COLOURS, SHAPES
from dit_lens.video import psnr, to_frames, to_tensor

QUADRUPLETS = 132  # twelve of each property
CODEC_SAMPLE = 220
MAIN = 2.35  # radius from which on an object is no distractor
SEEN = {"colours": tuple(COLOURS), "shapes": SHAPES}

Spoil = Callable[[np.ndarray], np.ndarray]


def round_trip(size: int) -> Spoil:
    """A codec's decoding of its encoding of frames; the codec is fitted on the pretrain split."""
    sample = MiniPhys("pretrain", CODEC_SAMPLE, size=size)
    codec = fit_patch_pca(to_tensor(np.stack([q["A"].frames, q["B"].frames])) for q in sample)

    @torch.no_grad()
    def spoil(frames: np.ndarray) -> np.ndarray:
        latents = codec.encode(to_tensor(frames[None]), return_dict=False)[0].mode()
        return to_frames(codec.decode(latents, return_dict=False)[0])[0]

    return spoil


def report(name: str, split: str, size: int, options: dict, spoil: Spoil) -> None:
    """Two rows, of main objects and of distractors, and what else there is to say of a split."""
    matches, seconds, frames, likeness = [], 0.0, 0, []
    for quadruplet in MiniPhys(split, QUADRUPLETS, size=size):
        for clip in (quadruplet["A"], quadruplet["B"]):
            shown = spoil(clip.frames)
            likeness.append(float(psnr(to_tensor(shown), to_tensor(clip.frames))))
            start = time.process_time()
            detections = tracker.track(shown, **options)
            seconds += time.process_time() - start
            frames += len(shown)
            matches += tracker.compare(detections, clip)
    rows = {
        "main": [m for m in matches if m.radius >= MAIN],
        "main, taken to be whole": [m for m in matches if m.radius >= MAIN and m.found and m.found.whole],
        "distractors": [m for m in matches if m.radius < MAIN],
    }
    precision = tracker.summarise(matches)["precision"]
    noise = f", {np.mean(likeness):.1f} dB" if np.isfinite(likeness).all() else ""
    print(
        f"{name}, {split}, {size} px{noise}: precision {precision:.2%}, {frames / seconds:.0f} frames/s (n = {frames})"
    )
    for row, of in rows.items():
        summary = tracker.summarise(of)
        rest = "  ".join(
            f"{key} {summary[key]:.2%}" for key in ("recall", "within_0.3", "colour", "shape", "whole", "part_whole")
        )
        print(f"  {row:<24} n = {summary['objects']:<5.0f} median error {summary['error']:.3f}  {rest}")


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    for size in (32, 64):
        report("rendered", "test", size, SEEN, lambda frames: frames)
        report("rendered", "unseen", size, {}, lambda frames: frames)
        report("through the codec", "test", size, SEEN, round_trip(size))


if __name__ == "__main__":
    main()
