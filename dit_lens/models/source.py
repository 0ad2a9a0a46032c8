"""Where a model's files come from: a bundled folder, a folder, or a hub repository, downloaded part by part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dit_lens import models
from dit_lens.models.checking import check_checkpoint
from dit_lens.models.digests import cache_folder, is_kept, keep, remembered_sha256
from dit_lens.models.facts import CONFIGS, INDEX, fetch, folder_of, is_there, read_json

TEXT = ("text_encoder", "tokenizer", "connectors")  # prefixes of the parts that encode prompts
ENCODERS = ("text_encoder", "connectors")  # prefixes of those that hold weights
READ = (".json", ".safetensors", ".model", ".txt", ".jinja")
OTHERS = "*.bin", "*.msgpack", "*.ckpt", "*.onnx", "*.h5"  # weights that are not read
VARIANTS = "*.fp16*", "*.bf16*", "*.non_ema*"
HUB = ("cache_dir", "token", "local_files_only", "force_download", "proxies")  # options of a download


@dataclass(frozen=True)
class Source:
    """A model's files.

    Attributes:
        name: of the model, as the caller wrote it.
        folder: where the files are; for a hub repository the folder of one commit in the hub's cache.
        repository: the hub id; None for a folder.
        variant: of weights, such as "fp16".
        download: options for the hub.
    """

    name: models.ModelName
    folder: Path
    repository: str | None = None
    variant: str | None = None
    download: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, name: str, revision: str | None, variant: str | None, download: Mapping[str, Any]) -> Source:
        """The source of a model; for a hub repository the configs are downloaded.

        Raises:
            ValueError: no model has this name, or a folder without `model_index.json`.
            FileNotFoundError: bundled weights were not installed, or the repository is not reachable.
        """
        parsed = models.split_name(name)
        folder = None if _is_repository(parsed.base) else folder_of(parsed.base)
        if folder is not None:
            if not (folder / INDEX).is_file():
                raise ValueError(f"got folder {folder} · expected a diffusers pipeline with {INDEX}")
            return cls(parsed, folder, variant=variant)
        folder_of(parsed.base)  # raises if it is not a name
        return cls(parsed, fetch(parsed.base, revision, CONFIGS, **download), parsed.base, variant, download)

    @property
    def revision(self) -> str | None:
        """The commit of a hub repository."""
        return None if self.repository is None else self.folder.name

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of `model_index.json`."""
        return read_json(self.folder / INDEX)

    def parts(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the parts that the pipeline was saved with, by the prefixes of their names."""
        return tuple(part for part in self.index if part.startswith(kinds) and is_there(self.index, part))

    def need(self, without: tuple[str, ...] = (), weightless: tuple[str, ...] = ()) -> None:
        """Checks that all parts except those named are on disk; a hub repository is downloaded first.

        Args:
            weightless: parts of which the config is enough.

        Raises:
            ValueError: a file is missing or damaged; names it.
        """
        if self.repository is not None:
            parts = [part for part in self.index if is_there(self.index, part) and part not in without]
            patterns = [f"{part}/*" for part in parts if part not in weightless]
            skipped = OTHERS if self.variant else (*OTHERS, *VARIANTS)
            fetch(self.repository, self.revision, patterns, skipped, **self.download)
        check_checkpoint(self.folder, without, weightless, self.variant)

    def text_key(self, *also: str) -> str | None:
        """A digest of all files that decide how prompts are encoded.

        For a commit of a hub repository the key is cached, so that cached prompts can be used without downloading the
        text encoder.

        Args:
            also: further settings that matter, such as the dtype.

        Returns:
            None if there is no text encoder, or its weights are not on disk.
        """
        if not self.parts(("text_encoder",)):
            return None
        note = self._note(also)
        if note is not None and is_kept(note):
            return note.read_text().strip()
        if not all(any((self.folder / part).glob("*.safetensors")) for part in self.parts(ENCODERS)):
            return None
        files = [file for part in self.parts(TEXT) for file in sorted((self.folder / part).rglob("*"))]
        digests = {str(file.relative_to(self.folder)): remembered_sha256(file) for file in files if file.suffix in READ}
        key = _digest("files", self.index.get("_class_name", ""), json.dumps(digests), *also)
        if note is not None:
            keep(note, key)
        return key

    def _note(self, also: tuple[str, ...]) -> Path | None:
        """The file that caches the key of a commit; None for a folder."""
        if self.repository is None:
            return None
        return cache_folder() / "prompts" / f"{_digest(self.repository, self.folder.name, *also)}.key"


def fingerprint(name: str | Path, revision: str | None = None) -> str:
    """An identifier of a set of weights: a digest of the parts of a folder, or a hub id and its commit.

    Files are hashed once and the digests cached (see `digests`). For random weights only the files that are used count.

    Args:
        revision: of a hub id.
    """
    parsed = models.split_name(str(name))
    source = folder_of(parsed.base, revision) if _is_name(parsed.base) else None
    if _is_repository(parsed.base) or source is None:
        commit = source.name if source is not None else revision
        return f"{name}@{commit}" if commit else str(name)
    parts = [file for part in sorted(source.iterdir()) if part.is_dir() for file in sorted(part.rglob("*.*"))]
    parts = [file for file in parts if file.suffix in (".safetensors", ".json")]
    if parsed.random:
        parts = [file for file in parts if file.suffix == ".json" or not _is_transformer(file, source)]
    digests = [remembered_sha256(file) for file in parts]
    if parsed.step is not None:
        digests.append(remembered_sha256(models.checkpoint(source, parsed.step)))
    return hashlib.sha256("".join([*digests, "random" * parsed.random]).encode()).hexdigest()[:16]


def _is_transformer(file: Path, folder: Path) -> bool:
    return file.relative_to(folder).parts[0].startswith(("transformer", "checkpoints"))


def _is_name(base: str) -> bool:
    return base in models.NAMES or Path(base).is_dir() or _is_repository(base)


def _is_repository(base: str) -> bool:
    bundled = base in models.NAMES or Path(base).is_dir()
    return not bundled and base.count("/") == 1 and not base.startswith((".", "/"))


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
