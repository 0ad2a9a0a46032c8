"""Bundled models: where they lie, and how a small one is put together.

`locate("mini-wan")` is a diffusers folder; "mini-wan@step500" names the weights it had after 500 steps of training. In
plain diffusers it opens, after `import dit_lens.models.codec`, by
`DiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)`: it has no text encoder.
"""

from __future__ import annotations

import re
from pathlib import Path

BUNDLED_FOLDER = Path(__file__).parent / "weights"
BUNDLED = ("mini-wan", "mini-wan-null", "mini-wan-swap", "mini-wan-planted")
RANDOM_INIT = "mini-wan-random"
AUTOENCODER = "mini-vae"
NAMES = (*BUNDLED, RANDOM_INIT)
EMPTY_PROMPT = "empty_prompt.safetensors"
CHECKSUMS = "SHA256SUMS"


def locate_autoencoder(name: str) -> Path:
    """The folder of the bundled "mini-vae", or the folder of that name.

    Raises:
        FileNotFoundError: there is no such autoencoder.
    """
    folder = BUNDLED_FOLDER / name if name == AUTOENCODER else Path(name)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"got autoencoder {name!r} · expected {AUTOENCODER!r} or a folder with config.json")
    return folder


def split_step(name: str) -> tuple[str, int | None]:
    """A model's name or folder, and the training step asked for: "mini-wan@step500" is ("mini-wan", 500)."""
    base, at, step = name.rpartition("@step")
    return (base, int(step)) if at and re.fullmatch(r"\d+", step) else (name, None)


def checkpoint(folder: Path, step: int) -> Path:
    """The weights that a model had after a number of training steps.

    Raises:
        ValueError: they were not kept; lists those that were.
    """
    file = folder / "checkpoints" / f"step-{step:06d}.safetensors"
    if not file.is_file():
        kept = ", ".join(str(int(other.stem[5:])) for other in sorted(file.parent.glob("step-*.safetensors")))
        raise ValueError(f"got step {step} of {folder.name} · expected one that was kept: {kept or 'none was'}")
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
            f" python -m dit_lens.training --model {name} --out {folder}"
        )
    return folder
