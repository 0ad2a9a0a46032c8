"""The table of "The Invisible Hand of Physics" (arXiv 2606.05328): what was published beside what is measured here.

Method: states of every block at some steps of the Euler inversion, averaged over all tokens; encoders' states and
controls averaged likewise. One linear probe for each cell, under the three protocols that the paper was published with
(`dit_lens.probing.protocols`): two of them report the best cell of the very clips that chose it. Beside them "nested":
every clip scored by a probe whose cell and penalty were chosen inside the other folds, groups never split, with the
95% interval of a bootstrap over groups. "Other data" is a probe that one data set chose and fitted, on another.

As shipped it runs on miniphys with mini-wan, its null twin and a random initialisation. Real rows are switched on:
    --data intphys=ROOT inflevel=ROOT --frames 97 --size 256 --fit crop --models wan=FOLDER cogvideox=FOLDER ltx=FOLDER
    --encoders flow resnet=FOLDER vjepa2=FOLDER videomae=FOLDER --levels 100 --steps 0 10 20 ... --groups 1000
A name before "=" says which published row it is; a data set is NAME=ROOT or NAME:SPLIT=ROOT. What could not run for
want of weights or data is listed with the reason. Sets for evaluation only (InfLevel, IntPhys 2) forbid training a
probe on them: they are scored by probes of other data, unless --train-on-evaluation says otherwise, as the paper did.

Output: figures/data/reproduce_invisible_hand.nc with scores by row, protocol and seed, transfers, and what was not run.
Cost: about four minutes of one core with the defaults; data that changed on disk are not noticed: delete the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from analyses import sources
from analyses.command import main
from analyses.published import AVERAGE, EXAMPLES, NUMBERS, REGRESSION, UNWEIGHED, WEIGHED, number
from analyses.readers import Reader, Seen, look, matched_noise, named, of_frames, states
from dit_lens import baselines
from dit_lens.datasets.framing import Framing
from dit_lens.datasets.lines import Line, Some
from dit_lens.lens import DiTLens
from dit_lens.probing import PROTOCOLS, Grid, carry, pairs_in_order, score

POLICY = "eval-only"
GRID = Grid((1e-3, 1e-2, 1e-1), progress=False)
NESTED = ("accuracy", "low", "high", "d_prime", "pairwise", "auroc", "chance", "clips", "groups")


@dataclass(frozen=True)
class Config:
    """Options of the analysis."""

    models: tuple[str, ...] = ("mini-wan", "mini-wan-null", "mini-wan-random")
    """Models, as NAME=FOLDER (or =HUB_ID) with NAME such as wan, cogvideox or ltx, or bundled ones by name; latents
    and matched noise are of the first."""
    encoders: tuple[str, ...] = ("pixels", "flow", "resnet=random")
    """Other readers: pixels, flow, or resnet, videomae, vjepa2 with =FOLDER, =HUB_ID or =random."""
    data: tuple[str, ...] = ("miniphys", "miniphys:unseen")
    """Data sets, as NAME=ROOT or NAME:SPLIT=ROOT; miniphys needs no root."""
    groups: int = 44
    """Groups (quadruplets) of each data set at most, at even distances."""
    protocols: tuple[Literal["paper-v1", "released-code", "website"], ...] = ("paper-v1", "released-code", "website")
    """Published protocols."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the protocols' splits and training."""
    steps: tuple[int, ...] = (3, 5, 7)
    """Steps to read at, counted from data (0) to noise."""
    levels: int = 10
    """Steps of the sampler between data and noise (Euler)."""
    frames: int = 0
    """Frames of a clip, resampled at even distances, 4k+1 for Wan and CogVideoX, 8k+1 for LTX; 0 for all there are."""
    size: int = 0
    """Height and width that frames are fitted to; 0 for their own."""
    fit: Literal["crop", "letterbox"] = "crop"
    """How frames are fitted."""
    train_on_evaluation: bool = False
    """Also fit probes on data sets whose makers allow evaluation only."""
    batch_size: int = 8
    """Groups to a batch."""
    device: str = "cpu"
    """Where models and encoders go."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the models."""
    seed: int = 0
    """Seed of miniphys, of random initialisations and of matched noise."""

    @property
    def model(self) -> str:
        """The first model's folder, hub id or name."""
        return named(self.models[0])[1] if self.models else "none"

    @property
    def controls(self) -> tuple[str, ...]:
        """What else weights come from."""
        encoders = (named(line)[1] for line in self.encoders if "=" in line)
        return tuple(named(line)[1] for line in self.models[1:]) + tuple(encoders)


def run(config: Config) -> xr.Dataset:
    """Scores by row (data set and reader), transfers between data sets, and what was not run.

    Raises:
        ValueError: no data set of those given can train a probe.
    """
    absent: dict[tuple[str, str], str] = {}
    data, facts = load(config, absent), {}
    rows: list[xr.Dataset] = []
    carried: list[xr.Dataset] = []
    for i, reader in enumerate(every_reader(config, absent, facts)):
        seen = [look(reader, line, items, config.batch_size) for line, items in data.items()]
        asked = [(reader, seen)]
        if i == 0 and config.models:
            asked.append(matched_noise(reader, seen, config.seed))
        for one, sets in asked:
            rows += [scored(one, some, config) for some in sets if may_train(some, config)]
            carried += [transferred(one, *two) for two in permutations(sets, 2) if may_train(two[0], config)]
            for some in (some for some in sets if not may_train(some, config)):
                told = number(some.line.name, one.kind)
                absent[str(some.line), one.kind] = "for evaluation only: no probe may be trained on it" + (
                    f"; published {told}" if told else ""
                )
    if not rows:
        raise ValueError(f"got {', '.join(config.data) or 'no data'} · expected a data set to train a probe on")
    absent |= unpublished(config, absent)
    parts = [xr.concat(part, name, data_vars="all") for name, part in (("row", rows), ("transfer", carried)) if part]
    result = xr.merge(parts, compat="override", join="exact")
    result["not_run"] = "absent", [f"{name} × {reader}: {why}" for (name, reader), why in absent.items()]
    names = ", ".join(str(line) for line in data)
    return result.assign_attrs(dataset=names, split="as named", seed=config.seed, **facts)


def may_train(seen: Seen, config: Config) -> bool:
    """Whether a probe may be fitted on a data set."""
    return seen.policy != POLICY or config.train_on_evaluation


def load(config: Config, absent: dict[tuple[str, str], str]) -> dict[Line, Some]:
    """The data sets that have labels; of the others, the reason goes to `absent`."""
    framing = Framing(
        count=config.frames or None,
        policy="resample" if config.frames else None,
        size=(config.size, config.size) if config.size else None,
        fit=config.fit if config.size else None,
    )
    lines = {line: line.load(config.groups, framing, config.seed) for line in map(Line.parse, config.data)}
    for line in list(lines):
        if not any(clip.possible is not None for clip in lines[line][0].clips):
            absent[str(line), "all"] = REGRESSION.get(line.name, "its labels are hidden")
            del lines[line]
    return lines


def every_reader(config: Config, absent: dict[tuple[str, str], str], facts: dict[str, Any]) -> Iterator[Reader]:
    """Every reader that there is, a model at a time; what the first model is goes to `facts`."""
    for i, line in enumerate(config.models):
        kind, weights = named(line)
        options: dict[str, Any] = {"dtype": getattr(torch, config.dtype)} if config.dtype != "float32" else {}
        options |= {"device_map": config.device} if config.device != "cpu" else {}
        lens = DiTLens.from_pretrained(weights, seed=config.seed, **options)
        facts.setdefault("lens", lens.facts())
        yield states(lens, kind, config.steps, config.levels)
        if i == 0:
            yield replace(of_frames(sources.latents(lens, "tokens"), "latent"), name=f"latent of {kind}")
    for line in config.encoders:
        kind, weights = named(line)
        try:
            made = baselines.load(line, "tokens", config.seed, config.device)
        except baselines.NotRunError as error:
            absent["all", kind] = str(error)
            continue
        yield of_frames(made, f"{kind}, random" if weights.startswith("random") else kind)


def scored(reader: Reader, seen: Seen, config: Config) -> xr.Dataset:
    """A row: reported accuracy and pairwise accuracy by protocol and seed, and the nested scores."""
    clips, shape = seen.clips, (len(config.protocols), len(config.seeds))
    reported, pairwise = np.empty(shape), np.empty(shape)
    reported_clips = np.empty(shape[0], int)
    for at in np.ndindex(shape):
        outcome = PROTOCOLS[config.protocols[at[0]]].run(clips.cells, clips.labels, clips.groups, config.seeds[at[1]])
        logits = outcome.logits[outcome.cells.index(outcome.best)]
        reported[at], reported_clips[at[0]] = outcome.reported, len(outcome.clips)
        pairwise[at] = pairs_in_order(logits, clips.labels[outcome.clips], clips.groups[outcome.clips])
    nested = score(GRID.nested(clips.cells, clips.labels, clips.groups).outputs, clips.labels, clips.groups)
    found = number(seen.line.name, reader.kind)
    ends = (np.nan, np.nan) if found is None else (found.low if found.low is not None else np.nan, found.high)
    row = xr.Dataset(
        {
            "reported": (("protocol", "split_seed"), reported),
            "reported_pairwise": (("protocol", "split_seed"), pairwise),
            "reported_clips": ("protocol", reported_clips),
            "published": "—" if found is None else str(found),
            "published_low": ends[0],
            "published_high": ends[1],
            "weights": reader.weights,
            **{name: float(getattr(nested, name)) for name in NESTED},
        },
        {"protocol": list(config.protocols), "split_seed": list(config.seeds)},
    )
    told = {"data": str(seen.line), "reader": reader.name, "kind": reader.kind}
    return row.expand_dims("row").assign_coords({key: ("row", [value]) for key, value in told.items()})


def transferred(reader: Reader, train: Seen, test: Seen) -> xr.Dataset:
    """Scores on one data set by a probe that another chose and fitted."""
    made = carry(train.clips, test.clips.cells, GRID)
    told = score(made.logits, test.clips.labels, test.clips.groups)
    values = {f"transfer_{name}": float(getattr(told, name)) for name in NESTED}
    named = {"train": str(train.line), "test": str(test.line), "transfer_reader": reader.name}
    coordinates = {key: ("transfer", [value]) for key, value in named.items()}
    return xr.Dataset(values).expand_dims("transfer").assign_coords(coordinates)


def unpublished(config: Config, known: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Published rows that were not asked for, and what would switch them on."""
    given = {Line.parse(text).name for text in config.data}
    models = {named(line)[0] for line in config.models}
    encoders = {named(line)[0] for line in config.encoders if not named(line)[1].startswith("random")}
    readers = models | encoders | {"latent", "noise"}
    found = {}
    for data in (name for name in NUMBERS if name != AVERAGE):
        for reader in (*WEIGHED, *UNWEIGHED):
            option = "--models" if reader in WEIGHED[:3] else "--encoders"
            folder = f"={EXAMPLES[reader]}" if reader in EXAMPLES else ""
            want = [f"no data (--data {data}=ROOT)"] * (data not in given)
            lacking = "no weights" if folder else "not asked for"
            want += [f"{lacking} ({option} {reader}{folder})"] * (reader not in readers)
            if want and not {(data, reader), ("all", reader), (data, "all")} & known.keys():
                found[data, reader] = f"{' and '.join(want)}; published {number(data, reader)}"
    return found | {(data, "all"): f"not given; {why}" for data, why in REGRESSION.items() if data not in given}


def averages(result: xr.Dataset) -> dict[str, tuple[float, str]]:
    """By reader, the mean nested accuracy over IntPhys and InfLevel where both were run, and what was published."""
    found = {}
    names = np.array([str(data).partition(":")[0] for data in result.data.values])
    for kind in dict.fromkeys(result.kind.values):
        values = [result.accuracy.values[(names == data) & (result.kind.values == kind)] for data in NUMBERS]
        if len(values[0]) and len(values[1]):
            found[str(kind)] = float(np.mean([values[0].mean(), values[1].mean()])), str(number(AVERAGE, kind) or "—")
    return found


def table(result: xr.Dataset) -> str:
    """A line per data set and reader: published, each protocol, nested; probes of other data; what was not run."""
    lines = _row_lines(result)
    lines += [f"{AVERAGE} × {kind}: {mean:.3f}, published {told}" for kind, (mean, told) in averages(result).items()]
    if "transfer" in result.sizes:
        lines.append("\nprobe of one data set on another: accuracy [95% interval], d', pairs in order, AUROC")
        lines += [_transfer_line(result.isel(transfer=i)) for i in range(result.sizes["transfer"])]
    return "\n".join([*lines, "\nnot run", *(str(line) for line in result.not_run.values)])


def _row_lines(result: xr.Dataset) -> list[str]:
    width = max(len(f"{d} × {r}") for d, r in zip(result.data.values, result.reader.values, strict=True))
    seeds, protocols = result.sizes["split_seed"], [str(name) for name in result.protocol.values]
    lines = [
        f"accuracy per clip; protocols: mean ± SD over {seeds} seeds of what they report (pairwise); nested: cell and"
        " penalty chosen inside the other folds [95% interval over groups]",
        f"{'data × reader':{width}s}  {'published':26s}"
        + "".join(f"{name:27s}" for name in protocols)
        + "nested                d'     pairwise  AUROC  clips, groups; weights",
    ]
    for i in range(result.sizes["row"]):
        row = result.isel(row=i)
        reports = (_report(row.sel(protocol=name)) for name in protocols)
        accuracy, low, high, d_prime, pairwise, auroc, _, clips, groups = (float(row[name]) for name in NESTED)
        lines.append(
            f"{f'{row.data.item()} × {row.reader.item()}':{width}s}  {row.published.item():26s}"
            + "".join(f"{report:27s}" for report in reports)
            + f"{accuracy:.3f} [{low:.3f}, {high:.3f}]  {d_prime:+.2f}  {pairwise:.3f}     {auroc:.3f}"
            f"  {clips:.0f}, {groups:.0f}; {row.weights.item()}"
        )
    return lines


def _report(row: xr.Dataset) -> str:
    values = row.reported.values
    spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread} ({float(row.reported_pairwise.mean()):.2f}, n {int(row.reported_clips)})"


def _transfer_line(row: xr.Dataset) -> str:
    accuracy, low, high, d_prime, pairwise, auroc, chance, clips, groups = (
        float(row[f"transfer_{name}"]) for name in NESTED
    )
    return (
        f"{row.transfer_reader.item():28s}  {row.train.item()} → {row.test.item()}  {accuracy:.3f} [{low:.3f},"
        f" {high:.3f}]  {d_prime:+.2f}  {pairwise:.3f}  {auroc:.3f}  (chance {chance:.3f}; {clips:.0f} clips,"
        f" {groups:.0f} groups)"
    )


if __name__ == "__main__":
    from figures.reproduce_invisible_hand import draw

    main(Config, run, table, draw, "reproduce_invisible_hand", __doc__)
