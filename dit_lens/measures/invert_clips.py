"""Fidelity of inversions: the table of solvers, the verdict of each report, prompts, and AUROC for labels."""

from __future__ import annotations

import xarray as xr

from dit_lens.measures.columns import aligned, number
from dit_lens.measures.comparison import Estimate
from dit_lens.measures.text import interval, listed

# As in `dit_lens.fidelity`, which says what they are.
CEILING, TO_SOURCE, TO_CEILING = "autoencoder to source", "x̂ to source", "x̂ to autoencoder"
SAMPLED, ENCODED = "sampled latent", "encoded video"
EXTREME = 3.0  # standard deviations
HEADS = (
    "solver",
    "steps",
    "evaluations",
    "s/clip",
    "round trip (mean, at data)",
    "PSNR (dB) to autoencoder, to source",
    "to exact noise",
    "to known noise (latent, video)",
    "solved",
    "bf16 drift",
)
SHORT = (0, 1, 2, 4, 7, 10)  # columns of the short table


def verdict(result: xr.Dataset) -> str:
    """Round-trip error of an inversion, its recovery of known noise, and whether its error predicts labels."""
    first = result.isel(model=0, data=0)
    error, at_data = float(first.round_trip.mean()), float(first.round_trip[0])
    noise_error = first.known_error.sel(measure="latent", start=ENCODED)[-1]
    between = first.known_between.sel(measure="latent")[-1]
    control = ""
    if result.sizes["model"] > 1:
        second = result.isel(model=1, data=0)
        control_error = second.known_error.sel(measure="latent", start=ENCODED)[-1]
        control = (
            f" (control {second.model.item()}: {float(second.round_trip.mean()):.1%} and {float(control_error):.1%})"
        )
    return (
        f"Inverting {int(first.n)} clips of {first.data.item()} with {first.model.item()} and back loses {error:.1%} of"
        f" the latent's norm per step, {at_data:.1%} at the data, and recovers known noise to {float(noise_error):.1%}"
        f" from its encoded video, where two noises are {float(between):.0%} apart{control}. {label_verdict(result)}"
    )


def label_verdict(result: xr.Dataset) -> str:
    """One sentence on whether fidelity separates possible from impossible clips."""
    apart = (result.label_low > 0.5) | (result.label_high < 0.5)
    separating = [name for name in result.predictor.values[apart.values] if not str(name).startswith("probe")]
    if not separating:
        return "Labels: no measure of fidelity separates possible from impossible clips (every interval contains 0.5)."
    rows = [result.sel(predictor=name) for name in separating]
    named = [Estimate(str(row.predictor.item()), *_area(row)).text(digits=2) for row in rows]
    reach = max(abs(float(row.label_auroc) - 0.5) for row in rows)
    verb = "SEPARATES" if len(named) == 1 else "SEPARATE"
    return (
        f"Labels: {listed(named)} {verb} possible from impossible clips, by an AUROC at most {reach:.2f} from 0.5;"
        " a probe must beat that."
    )


def _area(row: xr.Dataset) -> tuple[float, float, float]:
    return float(row.label_auroc), float(row.label_low), float(row.label_high)


def table(result: xr.Dataset, full: bool = False) -> str:
    """The table of solvers; in full also the sentences of every report, prompts, and AUROC for labels."""
    if not full:
        return "\n".join([*_solvers(result, SHORT), "(--full: all columns, reports, prompts, labels)"])
    every = range(len(HEADS) + 1)
    return "\n".join([*_solvers(result, every), *_reports(result), *_prompts(result), *_labels(result)])


def _solvers(result: xr.Dataset, columns: tuple[int, ...] | range) -> list[str]:
    rows = [[*HEADS, f"probe (n = {int(result.table_probe_clips)})"]]
    ceiling = float("nan")
    for solver in result.solver.values:
        for count in result.sampler_steps.values:
            row = result.sel(solver=solver, sampler_steps=count)
            psnr = {str(pair): float(row.table_psnr.sel(pair=pair)) for pair in row.pair.values}
            noise_errors = " ".join(
                f"{float(row.table_known.sel({'from': start})):.1e}" for start in (SAMPLED, ENCODED)
            )
            ceiling = psnr[CEILING]
            rows.append(
                [
                    str(solver),
                    str(count),
                    f"{float(row.table_evaluations):.0f}",
                    f"{float(row.table_seconds):.2f}",
                    f"{float(row.table_error):.1e} {float(row.table_error_at_data):.1e}",
                    f"{psnr[TO_CEILING]:.1f} {psnr[TO_SOURCE]:.1f}",
                    f"{float(row.table_to_exact):.1e}",
                    noise_errors,
                    f"{float(row.table_converged):.0%}",
                    f"{float(row.table_drift):.1e}",
                    f"{float(row.table_probe):.2f} in {float(row.table_probe_seconds):.0f} s",
                ]
            )
    lines = aligned([[row[i] for i in columns] for row in rows])
    return [*lines, f"ceiling: the autoencoder alone reaches {ceiling:.1f} dB to the source"]


def _reports(result: xr.Dataset) -> list[str]:
    lines: list[str] = []
    for model in result.model.values:
        for data in result.data.values:
            cell = result.sel(model=model, data=data)
            lines += ["", f"{model}, {data} (n = {int(cell.n)})", *(f"  {s}" for s in cell.verdict.values)]
    return lines


def _prompts(result: xr.Dataset) -> list[str]:
    if "prompt_noise" not in result:
        return []
    between = float(result.prompt_between)
    lines = ["", f"recovered noise under another prompt than the model's own (two clips' are {between:.0%} apart)"]
    for prompt in result.prompt.values:
        row = result.sel(prompt=prompt)
        lines.append(
            f"  {prompt!s:30s} moves by {float(row.prompt_noise):.1%}; round trip {float(row.prompt_round_trip):.1%};"
            f" noise of its own, sampled under it: {float(row.prompt_crossed):.1%} off at the data"
        )
    return lines


def _labels(result: xr.Dataset) -> list[str]:
    rows = [["predictor", "AUROC for possible", "pairs in order", "AUROC for the probe being right"]]
    for predictor in result.predictor.values:
        row = result.sel(predictor=predictor)
        cells = [interval(*_area(row), digits=2), number(row.label_pairwise, ".2f"), number(row.label_right, ".2f")]
        rows.append([str(predictor), *cells])
    return [
        "",
        f"what fidelity reveals about labels, {int(result.label_clips)} clips",
        *aligned(rows),
        label_verdict(result),
    ]
