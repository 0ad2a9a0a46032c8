"""Results of a study: one table of all models, in a file named by the request, reused where nothing changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from dit_lens import results
from dit_lens.clips import Scene
from dit_lens.lens import DiTLens
from dit_lens.studies.lenses import fingerprints
from dit_lens.studies.options import FREE, Options, options_of
from dit_lens.studies.scenes import scenes

DATA, FIGURES = Path("figures/data"), Path("figures/out")


def by_model(
    parts: Mapping[str, xr.Dataset], join: Literal["exact", "outer"] = "exact", dim: str = "model"
) -> xr.Dataset:
    """Tables of several models as one, along `model`.

    Args:
        join: "outer" where some models lack coordinates that others have, and get NaN there.
    """
    rows: list[xr.Dataset] = [table.expand_dims({dim: [name]}) for name, table in parts.items()]
    return xr.concat(rows, dim, data_vars="all", join=join, coords="minimal", compat="override")


def with_scenes(table: xr.Dataset, study: Options) -> xr.Dataset:
    """A table over test scenes, ordered as the scenes are, with their property and group as coordinates."""
    test = scenes(study, "test")
    ids = [outline.id for outline in test.outlines]
    ordered = table.sel(scene=[name for name in ids if name in table.scene.values])
    place = {name: i for i, name in enumerate(ids)}
    rows = [place[name] for name in ordered.scene.values]
    coords = {"property": [test.properties[i] for i in rows], "group": [test.groups[i] for i in rows]}
    return ordered.assign_coords({key: ("scene", values) for key, values in coords.items()})


def finished(table: xr.Dataset, study: Options, lens: DiTLens, **facts: Any) -> xr.Dataset:
    """A result with provenance as attributes.

    Args:
        lens: of the model in question.
        **facts: further ones.
    """
    split = study.spec.split or ("test" if study.spec.name == "miniphys" else "divided by scene")
    attributes = {
        "dataset": str(study.spec), "split": split, "path": study.path, "seed": study.seed, "lens": lens.facts(),
        "path_note": study.facts.supports(study.path or "inversion").reason,
    }  # fmt: skip
    return table.assign_attrs({**attributes, **facts})


def asked(study: Options, name: str) -> dict[str, Any]:
    """The inputs that determine a result: the options, the weights of the models, and the code that runs."""
    return {
        "config": options_of(study, FREE),
        "weights": fingerprints(study),
        "code": results.code_digest(f"analyses.{name}"),
    }


def location(study: Options, name: str, wanted: Mapping[str, Any]) -> Path:
    """The file of a requested result: NAME-<digest>.nc, in figures/data or --out."""
    text = results.canonical({key: wanted[key] for key in ("config", "weights")})
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return (Path(study.out) if study.out else DATA) / f"{name}-{digest}.nc"


def drawing(study: Options, result: Path) -> Path:
    """The file of a result's figure."""
    return (result.parent if study.out else FIGURES) / f"{result.stem}.pdf"


def up_to_date(path: Path, wanted: Mapping[str, Any]) -> tuple[xr.Dataset | None, str]:
    """The result at a path if options, weights, code and versions are the same; otherwise None and the reason."""
    try:
        result = results.open_result(path)
    except FileNotFoundError:
        return None, ""
    except ValueError as error:
        return None, str(error)
    facts = results.facts(result)
    expected = {**wanted, "versions": results.versions()}
    changed = [key for key, value in expected.items() if results.canonical(facts.get(key)) != results.canonical(value)]
    return (None, f"{', '.join(changed)} changed since") if changed else (result, "")


def writable(path: Path) -> None:
    """Checks that a result can be written, before hours are spent on it.

    Raises:
        OSError: it cannot be written; names the folder and the remedy.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with results.replace_atomically(path.with_suffix(".probe")) as aside:
            aside.touch()
        path.with_suffix(".probe").unlink()
    except OSError as error:
        raise OSError(
            f"got {path.parent}, which cannot be written ({error.strerror}) · expected a folder that you may write to ·"
            " pass --out FOLDER"
        ) from error


def concatenated(parts: Sequence[xr.Dataset], dim: str = "scene") -> xr.Dataset:
    """Tables of several batches as one."""
    return xr.concat(list(parts), dim, coords="minimal", compat="override", data_vars="minimal")


def by_role(table: xr.Dataset, batch: Sequence[Scene]) -> xr.Dataset:
    """A table over the clips of a batch, in the order of `capture.clips_of`, as one over (role, scene)."""
    roles, ids = list(batch[0].roles), [scene.id for scene in batch]
    table = table.assign_coords(role=("clip", np.repeat(roles, len(ids))), scene=("clip", ids * len(roles)))
    return table.set_index(clip=["role", "scene"]).unstack("clip").sel(role=roles, scene=ids)
