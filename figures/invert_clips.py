"""Solvers, the path step by step, known noise, and AUROC of fidelity for labels: `python -m figures.invert_clips`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from dit_lens import plots, results
from dit_lens.measures.invert_clips import ENCODED, EXTREME, TO_CEILING
from figures.output import caption, main, save

# Euler in grey; then implicit Euler, midpoint, Heun and others.
COLOURS = (*(plots.COLOURS[i] for i in (3, 5, 4, 0, 1, 2)), "#56b4e9")
MARKERS = f"{plots.MARKERS}X"
TONES = ("#0072b2", "#8fc4e2", "0.4", "0.75", "#d55e00", "#f0b48f")  # of models, dark and light for data sets


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    """Above, solvers by cost; below, one of them: prompts, known noise, noise statistics and labels."""
    plots.use_style()
    figure, panels = plt.subplot_mosaic("ABC;DEF;GHI", figsize=(7.2, 7.8))
    _cost(panels["A"], result, result.table_error_at_data, "round trip: error of\nthe latent, |x̂ - x| / |x|")
    _cost(panels["B"], result, result.table_to_exact, "recovered noise: distance to\nthat of a fine ODE solution")
    _cost(
        panels["C"],
        result,
        result.table_psnr.sel(pair=TO_CEILING),
        "round trip: PSNR (dB) to\nthe autoencoder alone",
        log=False,
    )
    figure.legend(
        *panels["A"].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=7
    )
    n = int(result.table_probe_clips)
    _cost(panels["D"], result, result.table_probe, f"probe fitted and tested on\ninverted states (n = {n})", log=False)
    panels["D"].set_ylim(0.25, 1)
    panels["D"].axhline(0.5, color="0.6", linewidth=0.8, linestyle="--")
    _cost(
        panels["E"],
        result,
        result.table_drift,
        "recovered noise: distance to\nthat of the model in bfloat16",
        log=False,
    )
    _prompts(panels["F"], result) if "prompt_noise" in result else panels["F"].axis("off")
    _known_noise(panels["G"], result)
    _noise(panels["H"], result)
    _labels(panels["I"], result)
    clips = ", ".join(f"{d}: {int(result.n.isel(model=0).sel(data=d))} clips" for d in result.data.values)
    config = results.facts(result)["config"]
    below = (
        f"below: {config['solver']}, {config['sampler_steps']} steps; {clips}; AUROC: {int(result.label_clips)} clips"
    )
    note = f"{config['model']}; {below}"
    figure.supxlabel(caption(result, note), fontsize=6, color="0.35")
    return save(figure, "invert_clips", path)


def _cost(axes: Axes, result: xr.Dataset, values: xr.DataArray, label: str, log: bool = True) -> None:
    for i, solver in enumerate(result.solver.values):
        row = {"color": COLOURS[i % len(COLOURS)], "markersize": 3.5, "linewidth": 1, "label": str(solver)}
        axes.plot(
            result.table_evaluations.sel(solver=solver),
            values.sel(solver=solver),
            MARKERS[i % len(MARKERS)] + "-",
            **row,
        )
    axes.set_xscale("log")
    axes.set_xlabel("evaluations one way")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_title(label)
    if log:
        axes.set_yscale("log")


def _known_noise(axes: Axes, result: xr.Dataset) -> None:
    """Along the path of known noise, from the encoded video: every measure relative to its distance between clips."""
    first = result.isel(model=0, data=0)
    ratio = (first.known_error.sel(start=ENCODED) / first.known_between).dropna("step", how="any")
    measures = [str(name) for name in ratio.measure.values]
    streams = [name for name in measures if name.startswith("resid_post")]
    patterns = [name for name in measures if name.startswith("pattern")]
    groups = {"latent": ["latent"], "streams": streams, "attention patterns": patterns, "probe logit": ["logit"]}
    for i, (name, members) in enumerate(groups.items()):
        values = ratio.sel(measure=[m for m in members if m in measures])
        if values.size:
            low, high, mean = values.min("measure"), values.max("measure"), values.mean("measure")
            axes.fill_between(ratio.sigma, low, high, color=COLOURS[i + 2], alpha=0.15, linewidth=0)
            axes.plot(ratio.sigma, mean, MARKERS[i] + "-", color=COLOURS[i + 2], markersize=3, linewidth=1, label=name)
    axes.set_ylim(0, None)
    axes.set_xlabel("noise level σ")
    axes.set_title("known noise, from encoded video:\nerror / distance of two clips")
    axes.legend(frameon=False, fontsize=6, loc="upper left")


def _prompts(axes: Axes, result: xr.Dataset) -> None:
    """How far the recovered noise moves under other prompts, beside the distance of two clips'."""
    if "prompt" not in result.sizes:
        axes.axis("off")
        return
    names = [*(str(name) for name in result.prompt.values), "another clip"]
    values = 100 * np.array([*result.prompt_noise.values, float(result.prompt_between)])
    rows = np.arange(len(names))[::-1]
    axes.barh(rows, values, 0.6, color=[COLOURS[3]] * (len(names) - 1) + ["0.75"])
    for row, value in zip(rows, values, strict=True):
        axes.annotate(
            f"{value:.0f}%" if value >= 10 else f"{value:.1f}%",
            (value, row),
            (2, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
        )
    axes.set_yticks(rows, [name if len(name) < 20 else name.replace(" by ", "\nby ") for name in names])
    axes.set_xlim(0, 1.25 * values.max())
    axes.set_title("recovered noise: change under\nanother prompt (% of its norm)")


def _noise(axes: Axes, result: xr.Dataset) -> None:
    """How many channels of the recovered noise are not Gaussian, by statistic."""
    rows = np.arange(result.sizes["statistic"])[::-1]
    sources = [(m, d) for m in result.model.values for d in result.data.values]
    height = 0.8 / len(sources)
    for i, (model, data) in enumerate(sources):
        share = 100 * result.noise_away.sel(model=model, data=data)
        axes.barh(rows + 0.4 - height * (i + 0.5), share, height, color=TONES[i % 6], label=f"{model}, {data}")
    axes.set_yticks(rows, [str(name) for name in result.statistic.values])
    axes.set_title(f"recovered noise: channels over\n{EXTREME:g} sd from Gaussian (%)")
    axes.set_xlim(0, 100)
    axes.legend(frameon=False, fontsize=6, loc="upper center", bbox_to_anchor=(0.4, -0.1))


def _labels(axes: Axes, result: xr.Dataset) -> None:
    names = [str(name).replace(" (for comparison)", "") for name in result.predictor.values]
    plots.intervals(
        axes, names, result.label_auroc.values, result.label_low.values, result.label_high.values, chance=0.5
    )
    axes.set_xlim(0.25, 1)
    axes.set_title("AUROC for possible\n(0.5: no information)")


if __name__ == "__main__":
    main("invert_clips", draw)
