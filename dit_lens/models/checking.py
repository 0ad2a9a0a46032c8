"""Checks that a model's folder is complete: every file in its index exists and holds the right tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dit_lens import models
from dit_lens.models.digests import remembered_sha256
from dit_lens.models.facts import INDEX, is_there, read_header, read_json, weight_files

SHOWN = 3  # names in a message
VOCABULARIES = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
# Parts that hold no weights, by how their names begin, and the file that each is read from.
SMALL = {
    "tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json", "guider": "guider_config.json",
    "image_processor": "preprocessor_config.json", "feature_extractor": "preprocessor_config.json",
    "processor": "preprocessor_config.json",
}  # fmt: skip
WORDLESS = ("ByT5Tokenizer",)  # bytes are its words


def check_checkpoint(
    folder: Path, without: Collection[str] = (), weightless: Collection[str] = (), variant: str | None = None
) -> None:
    """Checks that every file that is going to be read exists and is complete; tensors are not read.

    Checked are, for every part in `model_index.json`, its config, its index with every shard in it, and the tokenizer's
    files; for every safetensors file its header and length; for every file in `SHA256SUMS` its digest.

    Args:
        without: parts that are not going to be read.
        weightless: parts of which only the config is going to be read.
        variant: of weights, such as "fp16".

    Raises:
        ValueError: a file is missing, cut short or changed; names it.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise ValueError(f"got folder {folder} · expected a diffusers pipeline with {INDEX}")
    index = read_json(folder / INDEX)
    for part in index:
        if is_there(index, part) and part not in without:
            _check_part(folder / part, index[part], part in weightless, variant)
    for file in sorted(folder.glob("*.safetensors")):
        read_header(file)
    skipped = (*(f"{part}/" for part in without), *(f"{part}/" for part in weightless))
    for file, digest in _listed(folder):
        if file.relative_to(folder).as_posix().startswith(skipped):
            continue
        if file.suffix == ".safetensors":
            read_header(file)
        if not file.is_file() or remembered_sha256(file) != digest:
            raise ValueError(
                f"got {file}, whose sha256 is not the one in {models.CHECKSUMS} · expected the file as it was saved"
                " · fetch or train it again"
            )


def _check_part(part: Path, made_by: Sequence[str], weightless: bool, variant: str | None) -> None:
    """Checks the files of one part, whose library and class are `made_by`."""
    library, kind = made_by
    small = next((file for name, file in SMALL.items() if part.name.startswith(name)), None)
    if part.name == "safety_checker" and not part.is_dir():  # Cosmos fetches its own from elsewhere
        return
    _check_present(part / (small or "config.json"))
    words = any((part / name).is_file() for name in VOCABULARIES) or kind in WORDLESS
    if part.name.startswith("tokenizer") and not words:
        raise ValueError(
            f"got {part} without a vocabulary file · expected one of {', '.join(VOCABULARIES)} · fetch the folder again"
        )
    if small or weightless:
        return
    files = weight_files(part, variant)
    if not files:
        name = "model.safetensors" if library == "transformers" else "diffusion_pytorch_model.safetensors"
        files = [part / name]
    for file in files:
        read_header(file)


def _check_present(file: Path) -> None:
    if not file.is_file():
        raise ValueError(
            f"got no file {file}, which {INDEX} names · expected every part that it names · fetch the folder again, or"
            f" load without this part: {file.parent.name}=None"
        )


def _listed(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files in `SHA256SUMS` and their digests."""
    sums = folder / models.CHECKSUMS
    for line in sums.read_text().splitlines() if sums.is_file() else ():
        digest, name = line.split(maxsplit=1)
        yield folder / name, digest


def check_tensors(skeleton: nn.Module, files: Sequence[Path], what: str, exactly: bool = True) -> None:
    """Checks that files hold the weights of a model, by names and shapes; no tensor is read.

    Args:
        skeleton: the model, whose own tensors may be on the meta device.
        files: safetensors.
        what: what an error message calls the model.
        exactly: whether tensors that the model does not have are an error too.

    Raises:
        ValueError: some are missing, of another shape, or not the model's; names the first few.
    """
    present = {name: shape for file in files for name, shape in read_header(file).items()}
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    ignored: Any = getattr(skeleton, "_keys_to_ignore_on_load_unexpected", None) or ()
    problems = {
        "missing": [name for name in expected if name not in present],
        "of another shape": [name for name in expected if name in present and present[name] != expected[name]],
        "not the model's": [
            name
            for name in present
            if name not in expected and not any(re.search(pattern, name) for pattern in ignored)
        ]
        if exactly
        else [],
    }
    _refuse(problems, what)


def check_read(found: Mapping[str, Any], what: str) -> None:
    """Checks that a library found every tensor of a model that it has read.

    Args:
        found: the library's loading info.

    Raises:
        ValueError: some tensors were missing, and are random now; names the first few.
    """
    _refuse({"missing": sorted(found.get("missing_keys", ()))}, what)


def _refuse(problems: Mapping[str, Sequence[str]], what: str) -> None:
    counts = [
        f"{len(names)} tensors {problem} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for problem, names in problems.items()
        if names
    ]
    if counts:
        raise ValueError(
            f"got weights of {what} with {' and '.join(counts)} · expected exactly the parameters of its config.json ·"
            " fetch the folder again"
        )
