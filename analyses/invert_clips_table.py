"""What `analyses.invert_clips` prints: solvers, verdicts, prompts, and what fidelity knows of labels."""

from __future__ import annotations

import xarray as xr

from dit_lens import fidelity


def table(result: xr.Dataset) -> str:
    """The table of solvers, the verdicts, prompts, and what fidelity knows of labels."""
    return "\n".join([*_solvers(result), *_verdicts(result), *_prompts(result), *_labels(result)])


def _solvers(result: xr.Dataset) -> list[str]:
    clips = int(result.table_probe_clips)
    lines = [
        "solver, steps                evaluations  s/clip  round trip (mean, at data)   PSNR to autoencoder  to source"
        f"  exact noise  known noise (latent, video)  solved   bf16 drift  probe (n = {clips})"
    ]
    ceiling = float("nan")
    for solver in result.solver.values:
        for n in result.levels.values:
            row = result.sel(solver=solver, levels=n)
            psnr = {str(pair): float(row.table_psnr.sel(pair=pair)) for pair in row.pair.values}
            known = [float(row.table_known.sel({"from": start})) for start in fidelity.STARTS]
            ceiling = psnr[fidelity.CEILING]
            lines.append(
                f"{solver!s:22s} {n:4d}  {float(row.table_evaluations):11.0f}  {float(row.table_seconds):6.2f}"
                f"  {float(row.table_error):11.1e} {float(row.table_error_at_data):11.1e}"
                f"    {psnr[fidelity.TO_CEILING]:14.1f} dB   {psnr[fidelity.TO_SOURCE]:8.1f}"
                f"  {float(row.table_to_exact):11.1e}  {known[0]:10.1e} {known[1]:12.1e}"
                f"  {float(row.table_converged):10.0%}   {float(row.table_drift):10.1e}"
                f"  {float(row.table_probe):.2f} in {float(row.table_probe_seconds):.0f} s"
            )
    return [*lines, f"ceiling: the autoencoder alone has {ceiling:.1f} dB to the source"]


def _verdicts(result: xr.Dataset) -> list[str]:
    lines: list[str] = []
    for model in result.model.values:
        for data in result.data.values:
            cell = result.sel(model=model, data=data)
            lines += ["", f"{model}, {data} (n = {int(cell.n)})", *(f"  {s}" for s in cell.verdict.values)]
    return lines


def _prompts(result: xr.Dataset) -> list[str]:
    between = float(result.prompt_between)
    lines = ["", f"recovered noise under another prompt than the empty one (two clips' are {between:.0%} apart)"]
    for prompt in result.prompt.values:
        row = result.sel(prompt=prompt)
        lines.append(
            f"  {prompt!s:30s} moves by {float(row.prompt_noise):.1%}; round trip {float(row.prompt_round_trip):.1%};"
            f" noise of the empty prompt, sampled under it: {float(row.prompt_crossed):.1%} off at the data"
        )
    return lines


def _labels(result: xr.Dataset) -> list[str]:
    lines = ["", f"AUROC for possible, {int(result.label_clips)} clips; of the probe's being right"]
    for predictor in result.predictor.values:
        row = result.sel(predictor=predictor)
        interval = f"[{float(row.label_low):.2f}, {float(row.label_high):.2f}]"
        ordered = f"pairs in order {float(row.label_pairwise):.2f}; right {float(row.label_right):.2f}"
        lines.append(f"  {predictor!s:24s} {float(row.label_auroc):.2f} {interval}  {ordered}")
    return [*lines, label_verdict(result)]


def label_verdict(result: xr.Dataset) -> str:
    """One sentence on what fidelity knows."""
    knowing = (result.label_low > 0.5) | (result.label_high < 0.5)
    found = [str(name) for name in result.predictor.values[knowing.values] if not str(name).startswith("probe")]
    if not found:
        return "Labels: no measure of fidelity tells possible from impossible (every interval holds 0.5)."
    reach = float(abs(result.label_auroc.sel(predictor=found) - 0.5).max())
    return (
        f"Labels: {', '.join(found)} TELL possible from impossible, by an AUROC at most {reach:.2f} from 0.5;"
        " a probe must beat them."
    )
