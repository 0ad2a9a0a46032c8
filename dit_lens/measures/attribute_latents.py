"""Measures of `analyses.attribute_latents`: the frames of the noised latent that the probe's logit depends on."""

from __future__ import annotations

import xarray as xr

from dit_lens.measures import attributed_frames
from dit_lens.measures.attributed_frames import by_frame, heading, lines_of, of_logit, short_table


def profiles(here: xr.Dataset) -> dict[str, xr.DataArray]:
    """Label effects (scene, frame) of one baseline: the probe in all models, random directions in the first."""
    effect = by_frame(here)
    models, (_, *random) = [str(model) for model in effect.model.values], effect.direction.values
    named = {model: effect.sel(model=model, direction="probe") for model in models}
    return named | {f"{models[0]}, {name}": effect.sel(model=models[0], direction=name) for name in random}


def verdict(result: xr.Dataset) -> str:
    """How much of the label effect is attributed from the splice on."""
    return attributed_frames.verdict(result.sel(direction="probe"), "the noised latent")


def table(result: xr.Dataset, full: bool = False) -> str:
    """Per model and baseline: label effects in all, before the splice and from there on; in full by direction."""
    lines = [
        f"{result.sizes['scene']} test scenes; label effects of attributions over x_sigma in probe SDs (the path to"
        " noise is held fixed), [95% interval over scenes]"
    ]
    if not full:
        return "\n".join([*lines, *short_table(result.sel(direction="probe"))])
    for model in result.model.values:
        of_model = result.sel(model=model)
        lines += ["", heading(of_model)]
        for direction in of_model.direction.values[of_model.logit.notnull().any(["scene", "role"])]:
            lines += _lines(of_model.sel(direction=direction))
    return "\n".join(lines)


def _lines(result: xr.Dataset) -> list[str]:
    effect, noise = (of_logit(result[name], result.probe_spread) for name in ("logit", "noise_logit"))
    return [
        f"  {result.direction.values}: label effect of the logit {effect}, of the noise alone {noise}",
        *lines_of(result),
    ]
