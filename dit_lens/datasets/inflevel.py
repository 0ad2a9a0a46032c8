"""InfLevel (Weihs et al., TMLR 2022; allenai/inflevel), lab and sim: filmed magic tricks in matched groups of four.

    ROOT/inflevel_lab/continuity/<view>__continuity__<cover>__<object>__<vv|ii|vi|iv>__<LR|RL>.mp4
    ROOT/inflevel_lab/<gravity|solidity>/<view>__<property>__<cover>__<object>__<cv|ci|uv|ui>.mp4
    ROOT/inflevel_sim/<property>/<view>__<property>__<object>__<cover>__<trial>.mp4      the object before the cover

The authors do not allow training or fine-tuning on it, not even of a linear probe: the data are for evaluation only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dit_lens.choices import check_choice
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.recordings import Batch, Recording, Recordings, relative, tell_once
from dit_lens.reading import VideoFile, list_visible

SPLITS = ("lab", "sim")
# Possible trials first; the first letter says how a trial begins and the second how it ends, so that trials 0 and 2,
# and trials 1 and 3, begin alike.
TRIALS = {
    "continuity": ("vv", "ii", "vi", "iv"),
    "gravity": ("cv", "ui", "ci", "uv"),
    "solidity": ("cv", "ui", "ci", "uv"),
}
MATCHES = ((0, 2), (1, 3))
# Frames of the lab videos before the trial, in which the cover is shown; some videos of gravity and solidity have ten
# fewer.
PRIMING = {"continuity": 330, "gravity": 175, "solidity": 175}
POLICY = "eval-only"
NOTICE = (
    "InfLevel is for evaluation only: its authors allow no training or fine-tuning on it, not even of a linear probe."
    " Use scores without training, or probes trained on other data, and report which."
)


class InfLevel(Recordings):
    """Complete groups of a split of InfLevel, each of four clips that differ in how the trial begins and ends.

    Clips are in the order of `TRIALS`, possible ones first. Incomplete groups are left out, as by the authors, and
    listed in `left_out`. Factors name view, cover, object and direction, so that a split can hold out objects or
    covers. The licence notice is shown once and is in every clip's factors (`policy`, `licence`).

    Args:
        root: the folder that holds inflevel_lab and inflevel_sim.
        split: "lab" or "sim".
        properties: of continuity, gravity and solidity; by default all that have folders.
        priming: leading frames to trim, by property; by default as published for the lab videos; none are published
            for sim: pass {} to keep all.
        aligned: whether to trim further leading frames, until all four clips are as long as the shortest.
        framing: which frames, at what size.

    Raises:
        ValueError: unknown split or property, a file that is not named as above, no priming given for sim.
        FileNotFoundError: no such folder.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "lab",
        properties: Sequence[str] | None = None,
        priming: Mapping[str, int] | None = None,
        aligned: bool = True,
        framing: Framing | None = None,
    ):
        folder = Path(root) / f"inflevel_{check_choice(split, SPLITS, 'InfLevel split')}"
        if priming is None and split == "sim":
            raise ValueError(
                "got no priming for InfLevel sim · expected a number of frames for each property, or {} to keep all"
                " frames"
            )
        available = [path.name for path in list_visible(folder) if path.is_dir() and path.name in TRIALS]
        chosen = [
            check_choice(name, available, "InfLevel property")
            for name in (available if properties is None else properties)
        ]
        trimmed = PRIMING if priming is None else priming
        self.left_out: dict[str, tuple[str, ...]] = {}
        batches = [batch for prop in chosen for batch in self._batches(folder, prop, trimmed.get(prop, 0), aligned)]
        tell_once(NOTICE)
        super().__init__(batches, str(folder), framing)

    def _batches(self, folder: Path, prop: str, first: int, aligned: bool) -> list[Batch]:
        groups: dict[str, dict[str, Recording]] = {}
        for path in list_visible(folder / prop):
            if path.suffix.lower() == ".mp4":
                factors = _parse(path, prop, in_lab=folder.name == "inflevel_lab")
                trial = factors["trial"]
                factors |= {"policy": POLICY, "licence": NOTICE, "path": relative(path, folder), "priming": str(first)}
                key = "__".join(factors[name] for name in ("view", "cover", "object", "direction") if factors[name])
                possible = TRIALS[prop].index(trial) < 2
                groups.setdefault(key, {})[trial] = Recording(VideoFile(path), possible, trial, factors, None, first)
        batches = []
        for key, recordings in sorted(groups.items()):
            missing = tuple(trial for trial in TRIALS[prop] if trial not in recordings)
            name = f"inflevel/{folder.name.removeprefix('inflevel_')}/{prop}/{key}"
            if missing:
                self.left_out[name] = missing
                continue
            batches.append(Batch(name, prop, tuple(recordings[trial] for trial in TRIALS[prop]), MATCHES, aligned))
        return batches


def _parse(path: Path, prop: str, in_lab: bool) -> dict[str, str]:
    """View, property, cover, object, trial and direction from a file name."""
    names = ["view", "property", *(("cover", "object") if in_lab else ("object", "cover")), "trial"]
    if in_lab and prop == "continuity":
        names.append("direction")
    cells = path.stem.split("__")
    if len(cells) != len(names):
        raise ValueError(f"got {path} · expected a file name of {len(names)} parts: {'__'.join(names)}.mp4")
    named = dict(zip(names, cells, strict=True))
    check_choice(named["trial"], TRIALS[prop], f"in {path} the trial")
    if named["property"] != prop or named.get("direction", "LR") not in ("LR", "RL"):
        raise ValueError(f"got {path} · expected a file name with property {prop} and, if it has a direction, LR or RL")
    return {"direction": "", **named}
