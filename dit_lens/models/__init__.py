"""Bundled models: where they lie, and how a small one is put together.

`locate("mini-wan")` is a diffusers folder. In plain diffusers it opens, after `import dit_lens.models.codec`, by
`DiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)`: it has no text encoder.
"""

from __future__ import annotations

from pathlib import Path

BUNDLED_FOLDER = Path(__file__).parent / "weights"
BUNDLED = ("mini-wan", "mini-wan-null")
RANDOM_INIT = "mini-wan-random"
NAMES = (*BUNDLED, RANDOM_INIT)
EMPTY_PROMPT = "empty_prompt.safetensors"
CHECKSUMS = "SHA256SUMS"


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
