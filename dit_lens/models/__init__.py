"""Bundled models: where their files are, and how a small one is assembled.

`locate("mini-wan")` is a diffusers folder; "mini-wan@step500" names the weights it had after 500 steps of training. In
plain diffusers it opens, after `import dit_lens.models.codec`, by
`DiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)`: it has no text encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BUNDLED_FOLDER = Path(__file__).parent.parent / "toy" / "weights"
BUNDLED = ("mini-wan", "mini-wan-null", "mini-wan-swap", "mini-wan-planted")
RANDOM_INIT = "mini-wan-random"
AUTOENCODER = "mini-vae"
NAMES = (*BUNDLED, RANDOM_INIT)
EMPTY_PROMPT = "empty_prompt.safetensors"
CHECKSUMS = "SHA256SUMS"
TRAINING, PLANTED = "training.json", "planted.json"  # how a model was trained here, and what was planted in one
RANDOM = "@random"


@dataclass(frozen=True)
class ModelName:
    """A model's name in its parts: "mini-wan@step500" are the weights after 500 steps, "NAME@random" random weights.

    Attributes:
        base: a bundled name, a folder or a hub id.
        step: of training; the last unless given.
        random: whether the transformer's weights are random.
    """

    base: str
    step: int | None = None
    random: bool = False


def locate_autoencoder(name: str) -> Path:
    """The folder of the bundled "mini-vae", or the folder of that name.

    Raises:
        FileNotFoundError: there is no such autoencoder.
    """
    folder = BUNDLED_FOLDER / name if name == AUTOENCODER else Path(name)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"got autoencoder {name!r} · expected {AUTOENCODER!r} or a folder with config.json")
    return folder


def split_name(name: str) -> ModelName:
    """The parts of a model's name or folder: "mini-wan@step500" is "mini-wan" at step 500.

    A folder whose own name has this form is that folder. "mini-wan-random" is the random twin of "mini-wan".
    """
    base, at, step = name.rpartition("@step")
    if Path(name).is_dir():
        return ModelName(name)
    if at and re.fullmatch(r"\d+", step):
        return ModelName(base, int(step))
    if name == RANDOM_INIT or name.endswith(RANDOM):
        base = BUNDLED[0] if name == RANDOM_INIT else name.removesuffix(RANDOM)
        return ModelName(BUNDLED[0] if base == RANDOM_INIT else base, random=True)
    return ModelName(name)


def checkpoint(folder: Path, step: int) -> Path:
    """The file of the weights that a model had after a number of training steps.

    Raises:
        ValueError: these weights were not saved; lists the steps that were.
    """
    file = folder / "checkpoints" / f"step-{step:06d}.safetensors"
    if not file.is_file():
        steps = ", ".join(str(int(saved.stem[5:])) for saved in sorted(file.parent.glob("step-*.safetensors")))
        raise ValueError(f"got step {step} of {folder.name} · expected a saved checkpoint: {steps or 'none was saved'}")
    return file


def locate(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    folder = BUNDLED_FOLDER / ("mini-wan" if name == RANDOM_INIT else name)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"got no weights at {folder} · expected the bundled {name} · reinstall dit-lens, or train it:"
            f" python -m dit_lens.toy.training --model {name} --out {folder}"
        )
    return folder
