"""The models of a study: the one in question and its controls, each loaded as the options say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dit_lens import models
from dit_lens.lens import DiTLens
from dit_lens.models.loading import fingerprint
from dit_lens.studies.options import RANDOM, Options


def names(study: Options) -> list[str]:
    """Names to load: the model in question, then its controls ("random" is that model with fresh weights)."""
    controls = [random_twin(study.model) if name == RANDOM else name for name in study.controls or ()]
    return list(dict.fromkeys([study.model, *controls]))


def random_twin(model: str) -> str:
    """The name under which a model is loaded with fresh weights."""
    base = models.split_name(model).base
    return models.RANDOM_INIT if base in models.NAMES else f"{base}@{RANDOM}"


def load(study: Options, name: str) -> DiTLens:
    """A lens on one of the study's models, conditioned on its prompt.

    Raises:
        ValueError: see `DiTLens.from_pretrained`.
    """
    options: dict[str, Any] = {"seed": study.seed}
    if study.dtype != "auto":
        options["dtype"] = study.dtype
    if study.device_map:
        options["device_map"] = study.device_map
    elif study.device != "cpu":
        options["device"] = study.device
    if study.revision and name.removesuffix(f"@{RANDOM}") == study.model:
        options["revision"] = study.revision
    if study.offload != "none":
        options["offload"] = study.offload
    lens = DiTLens.from_pretrained(name, **options)
    lens.name = labels(study).get(name, name)
    if study.prompt and study.prompt != "caption":
        lens.conditioning = lens.encode_prompt(study.prompt)
    return lens


def labels(study: Options) -> dict[str, str]:
    """The label of each model in results: `--name` for the one in question, a folder's last part, or its name.

    Paths stay whole where two labels would be equal.
    """
    loaded = names(study)
    short = [
        study.name + name[len(study.model) :] if study.name and name.startswith(study.model) else name
        for name in loaded
    ]
    last = [Path(name).name if Path(models.split_name(name).base).is_dir() else name for name in short]
    return dict(zip(loaded, last if len(set(last)) == len(last) else short, strict=True))


def original_name(study: Options, lens: DiTLens) -> str:
    """The name that a lens was loaded by, whatever its label in results."""
    return {label: name for name, label in labels(study).items()}.get(lens.name, lens.name)


def fingerprints(study: Options) -> dict[str, str]:
    """Fingerprint of the weights of each model."""
    return {name: fingerprint(name) for name in names(study)}
