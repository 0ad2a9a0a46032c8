"""Published accuracies of probes on video diffusion models ("The Invisible Hand of Physics", arXiv 2606.05328).

Accuracies per video, as fractions; where a source gives a range, both ends. The paper's own table is of its first
version, the rest of its website; none came with an interval, and the best cell was chosen on the clips reported.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

PAPER, SITE = "paper v1", "website"
AVERAGE = "intphys + inflevel"


@dataclass(frozen=True)
class Published:
    """A published accuracy per video, from `low` to `high`, and its source.

    Attributes:
        low: None where only an upper bound was published.
    """

    low: float | None
    high: float
    source: str

    @property
    def ends(self) -> tuple[float, float]:
        """`low` and `high`, NaN where there is none."""
        return math.nan if self.low is None else self.low, self.high

    def __str__(self) -> str:
        if self.low is None:
            return f"< {self.high:.2f} ({self.source})"
        return (f"{self.low:.2f}–{self.high:.2f}" if self.low < self.high else f"{self.low:.4g}") + f" ({self.source})"


def _readers(low: float | None, high: float, source: str, *readers: str) -> Mapping[str, Published]:
    return dict.fromkeys(readers, Published(low, high, source))


WEIGHED = ("wan", "cogvideox", "ltx", "vjepa2", "videomae")
ALWAYS = ("latent", "noise")  # read with every model
UNWEIGHED = ("latent", "flow", "resnet", "noise")
CONTROLS = {**_readers(0.48, 0.53, SITE, "latent"), **_readers(None, 0.55, SITE, "flow", "resnet", "noise")}
NUMBERS: dict[str, Mapping[str, Published]] = {
    "intphys": {
        **_readers(0.90, 0.90, SITE, "wan"),
        **_readers(0.77, 0.77, SITE, "cogvideox"),
        **_readers(0.83, 0.83, SITE, "ltx"),
        **_readers(0.63, 0.71, SITE, "vjepa2", "videomae"),
        **CONTROLS,
    },
    "inflevel": {**_readers(0.66, 0.72, SITE, *WEIGHED), **CONTROLS},
    AVERAGE: {**_readers(0.8127, 0.8127, PAPER, "wan"), **_readers(0.7136, 0.7136, PAPER, "vjepa2")},
}
REGRESSION = {"phyworld": "R² of x0 1.00 of all, of v0 .88 (wan) to .99 (website): a state, no label; see probe_state"}
EXAMPLES = {
    "wan": "Wan2.1-T2V-1.3B-Diffusers",
    "cogvideox": "CogVideoX-2b",
    "ltx": "LTX-Video",
    "vjepa2": "vjepa2-vitl-fpc64-256",
    "videomae": "videomae-large",
    "resnet": "resnet-50",
}


def number(data: str, reader: str) -> Published | None:
    """The published accuracy of a reader on a data set, if there is one."""
    return NUMBERS.get(data, {}).get(reader)


def not_run(
    data_sets: Container[str], readers: Container[str], known: Container[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Published rows that a run does not have, (data set, reader), and the options that would add them.

    Args:
        data_sets, readers: of the run; latents and noise of a model are in every run.
        known: rows whose reason is known already; "all" stands for every data set, or every reader.
    """
    absent: dict[tuple[str, str], str] = {}
    for data in (name for name in NUMBERS if name != AVERAGE):
        for reader in (*WEIGHED, *UNWEIGHED):
            folder = EXAMPLES.get(reader, "")
            model = f"--model {folder} --published {reader}"
            option = model if reader in WEIGHED[:3] else f"--encoders {reader}{f'={folder}' if folder else ''}"
            missing = [f"no data (--also {data}=ROOT)"] * (data not in data_sets)
            there = reader in readers or reader in ALWAYS
            missing += [f"{'no weights' if folder else 'not asked for'} ({option})"] * (not there)
            if missing and not any(row in known for row in ((data, reader), ("all", reader), (data, "all"))):
                absent[data, reader] = f"{' and '.join(missing)}; published {number(data, reader)}"
    return absent | {
        (data, "all"): f"not given; {reason}" for data, reason in REGRESSION.items() if data not in data_sets
    }
