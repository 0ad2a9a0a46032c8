"""Baselines by name, for tables that take a list of them, and encoders that have no maintained loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dit_lens.baselines.baseline import Baseline, Pooling
from dit_lens.baselines.changes import shuffled, still
from dit_lens.baselines.grids import pixels
from dit_lens.baselines.moments import moments
from dit_lens.baselines.optical_flow import optical_flow
from dit_lens.baselines.texture import resnet
from dit_lens.baselines.videomae import videomae, videomae_surprise
from dit_lens.baselines.vjepa2 import vjepa2, vjepa2_surprise
from dit_lens.baselines.weights import RANDOM
from dit_lens.choices import check_choice

PLAIN: dict[str, Callable[[Pooling], Baseline]] = {"pixels": pixels, "flow": optical_flow}
ENCODERS: dict[str, Callable[..., Baseline]] = {"resnet": resnet, "videomae": videomae, "vjepa2": vjepa2}
SURPRISES: dict[str, Callable[..., Baseline]] = {"videomae": videomae_surprise, "vjepa2": vjepa2_surprise}
CHANGES: dict[str, Callable[[Baseline, int], Baseline]] = {
    "moments": lambda baseline, seed: moments(baseline),
    "still": lambda baseline, seed: baseline.after(still(), "last frame only"),
    "shuffled": lambda baseline, seed: baseline.after(shuffled(seed), f"frames shuffled (seed {seed})"),
}
HUB_IDS = {
    "resnet": "microsoft/resnet-50",
    "videomae": "MCG-NJU/videomae-base",
    "vjepa2": "facebook/vjepa2-vitl-fpc64-256",
}
NO_LOADER = {
    "V-JEPA": "transformers has no V-JEPA 1; its own code is research code under CC BY-NC",
    "V-JEPA 2.1": "transformers has V-JEPA 2 only",
    "VideoMAE V2": "transformers has VideoMAE only; checkpoints on the hub bring code of their own, which is not run",
}


def load(spec: str, pooling: Pooling = "frames", seed: int = 0, device: str = "cpu") -> Baseline:
    """The baseline for a specification such as "pixels", "flow", "videomae=random" or "resnet=random+moments".

    Args:
        spec: KIND, or KIND=WEIGHTS for an encoder; and +CHANGE: "moments" over time, the last frame alone ("still"), or
            frames "shuffled".
        pooling: see `Baseline`.
        seed: of random weights and of the shuffle.
        device: of encoders.

    Raises:
        ValueError: an unknown kind or change, or an encoder without weights.
        NotRunError: its weights or a package are not available.
    """
    line, plus, change = spec.rpartition("+")
    if plus and "/" not in change:
        return CHANGES[check_choice(change, CHANGES, "change")](load(line, pooling, seed, device), seed)
    if spec in PLAIN:
        return PLAIN[spec](pooling)
    kind, weights = _parts(spec, (*PLAIN, *ENCODERS))
    return ENCODERS[kind](weights, pooling=pooling, seed=seed, device=device)


def load_surprise(spec: str, seed: int = 0, device: str = "cpu") -> Baseline:
    """The surprise score for a specification such as "vjepa2=random" or "videomae=FOLDER" (see `load`)."""
    kind, weights = _parts(spec, SURPRISES)
    return SURPRISES[kind](weights, seed=seed, device=device)


def not_run(specs: Iterable[str]) -> dict[str, str]:
    """Encoders whose trained weights are not in `specs`, and those without a loader: name and reason."""
    real = {spec.partition("=")[0] for spec in specs if spec.partition("=")[2].split("+")[0] != RANDOM}
    left = {
        hub: f"no weights were given; --encoders {kind}=FOLDER" for kind, hub in HUB_IDS.items() if kind not in real
    }
    return left | NO_LOADER


def _parts(spec: str, kinds: Iterable[str]) -> tuple[str, str]:
    """Kind and weights of a specification."""
    kind, _, weights = spec.partition("=")
    check_choice(kind, tuple(kinds), "baseline")
    if not weights or kind in PLAIN:
        raise ValueError(
            f"got baseline {spec!r} · expected {kind}{'' if kind in PLAIN else '=FOLDER, =HUB_ID or =random'}"
        )
    return kind, weights
