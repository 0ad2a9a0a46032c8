"""From a name to a loaded pipeline: bundled, a folder, or a hub id; safetensors only, checked before they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from dit_lens import models
from dit_lens.choices import nearest
from dit_lens.conditioning import Conditioning
from dit_lens.models import codec  # noqa: F401  (diffusers only finds a component's module where it was imported)


def load_pipeline(name: str | Path, seed: int = 0, **options: Any) -> tuple[DiffusionPipeline, Conditioning | None]:
    """The pipeline, and its empty-prompt embedding where the folder holds one.

    Raises:
        ValueError: unknown name, or a damaged checkpoint (names the file).
    """
    name, step = models.split_step(str(name))
    if str(name) in models.NAMES:
        source: str | Path = models.locate(str(name))
    elif Path(name).is_dir():
        source = Path(name)
    elif str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        source = str(name)
    else:
        raise ValueError(
            f"got model {str(name)!r} · expected one of {', '.join(models.NAMES)}, a diffusers folder,"
            f" or a hub id owner/name{nearest(str(name), models.NAMES)}"
        )
    if isinstance(source, Path):
        check_checkpoint(source)
    # diffusers wants to be told of parts that a pipeline is saved without, such as a text encoder.
    absent = dict.fromkeys(_saved_without(source))
    with _without_chatter(of=(Path(source) / models.EMPTY_PROMPT).is_file()):
        pipeline = DiffusionPipeline.from_pretrained(source, use_safetensors=True, **(absent | options))
    if str(name) == models.RANDOM_INIT:
        from dit_lens.models.mini_wan import new_transformer

        pipeline.transformer.load_state_dict(new_transformer(seed).state_dict())  # into the dtype that was asked for
    if step is not None:
        weights = load_file(models.checkpoint(Path(source), step))
        pipeline.transformer.load_state_dict({key: value.float() for key, value in weights.items()})
    prompt = Path(source) / models.EMPTY_PROMPT
    if not prompt.is_file():
        return pipeline, None
    return pipeline, Conditioning({"encoder_hidden_states": load_file(prompt)["prompt_embeds"]}, prompt="")


@contextmanager
def _without_chatter(of: bool) -> Iterator[None]:
    """No progress bar over three small files, and no word on our codec not being AutoencoderKLWan."""
    if not of:
        yield
        return
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def _saved_without(source: str | Path) -> list[str]:
    if not isinstance(source, Path):
        return []
    try:
        index = json.loads((source / "model_index.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"got {source / 'model_index.json'}, which is no JSON ({error}) · fetch it again") from error
    return [part for part, made_by in index.items() if made_by == [None, None]]


def check_checkpoint(folder: Path) -> None:
    """Reads the header of every safetensors file, and the sha256 of every file that the folder lists.

    Raises:
        ValueError: a file is missing, truncated or changed; names it.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"got folder {folder} · expected a diffusers pipeline with model_index.json")
    sums = folder / models.CHECKSUMS
    lines = sums.read_text().splitlines() if sums.is_file() else []
    expected = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
    for file in sorted({*folder.rglob("*.safetensors"), *(folder / name for name in expected)}):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"got {file}, which is missing or damaged ({error}) · expected safetensors · fetch or train it again"
            ) from error
        name = file.relative_to(folder).as_posix()
        if name in expected and (not file.is_file() or sha256(file) != expected[name]):
            raise ValueError(
                f"got {file}, whose sha256 is not the one in {models.CHECKSUMS} · expected the file as it was saved"
                " · fetch or train it again"
            )


def fingerprint(name: str | Path) -> str:
    """Tells one set of weights from another: a digest of the parts of its folder, or the hub id itself."""
    name, step = models.split_step(str(name))
    source = models.locate(str(name)) if str(name) in models.NAMES else Path(name)
    if not source.is_dir():
        return str(name)
    parts = [file for part in sorted(source.iterdir()) if part.is_dir() for file in sorted(part.rglob("*.*"))]
    parts += [] if step is None else [models.checkpoint(source, step)]
    digests = [sha256(file) for file in parts if file.suffix in (".safetensors", ".json")]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
