"""Architecture and size of a model, read from its configs and weight headers, without torch or diffusers.

`describe("Wan-AI/Wan2.1-T2V-1.3B-Diffusers").check_frames(16)` raises before any of the 30 GB is read.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from dit_lens import models
from dit_lens.choices import nearest
from dit_lens.models.path_support import PathSupport, path_support
from dit_lens.models.sizes import Sizes, sizes_of

# Transformer classes: the family, and the layers, heads and head width that an old config leaves out.
TRANSFORMERS = {
    "WanTransformer3DModel": ("wan", 40, 40, 128),
    "LTXVideoTransformer3DModel": ("ltx", 28, 32, 64),
    "LTX2VideoTransformer3DModel": ("ltx2", 48, 32, 128),
    "HunyuanVideoTransformer3DModel": ("hunyuan", 20, 24, 128),
    "HunyuanVideo15Transformer3DModel": ("hunyuan15", 54, 16, 128),
    "CogVideoXTransformer3DModel": ("cogvideox", 30, 30, 64),
    "MochiTransformer3DModel": ("mochi", 48, 24, 128),
    "CosmosTransformer3DModel": ("cosmos", 28, 32, 128),
    "AllegroTransformer3DModel": ("allegro", 32, 24, 96),
    "SkyReelsV2Transformer3DModel": ("skyreels", 32, 16, 128),
}
SINGLE_LAYERS = {"HunyuanVideoTransformer3DModel": 40}  # after the dual-stream blocks
INDEX = "model_index.json"
CONFIGS = (INDEX, "*/*.json")  # of a hub repository, some kilobytes
Header = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelFacts:
    """Architecture and size of a model.

    Attributes:
        name: as the caller wrote it.
        folder: where its files are.
        pipeline, transformer, autoencoder: names of diffusers classes; no autoencoder where the folder has none.
        family: such as "wan".
        parameters: of the transformer, or of both if there are two; None if the weight files are missing.
        layers, heads, width: transformer blocks, attention heads per block, and model width.
        sizes: the frames and sizes that it accepts without cropping; None for an unknown autoencoder.
        text_encoders: names of the parts that encode prompts.
        by_frame: whether it was trained with a separate noise level for each frame.
        scaled: whether its latent is scaled by the noise level.
    """

    name: str
    folder: Path | None
    pipeline: str
    transformer: str
    autoencoder: str | None
    family: str
    parameters: int | None
    layers: int
    heads: int
    width: int
    sizes: Sizes | None = field(repr=False)
    text_encoders: tuple[str, ...] = ()
    by_frame: bool = False
    scaled: bool = False

    @property
    def temporal(self) -> int | None:
        """Frames per latent frame, after the first."""
        return self.sizes and self.sizes.temporal

    @property
    def spatial(self) -> int | None:
        """Pixels per row or column of the latent."""
        return self.sizes and self.sizes.spatial

    @property
    def frame_rule(self) -> str:
        """The numbers of frames that the model accepts, such as "4k+1"."""
        return "any" if self.sizes is None else str(self.sizes.frames)

    @property
    def spatial_multiple(self) -> tuple[int, int] | None:
        """The numbers that height and width of a video must be multiples of."""
        return self.sizes and (self.sizes.height.step, self.sizes.width.step)

    def check_frames(self, frames: int) -> None:
        """Raises ValueError for a number of frames of which the autoencoder would drop some; names the nearest."""
        if self.sizes is not None:
            self.sizes.check_frames(frames)

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for a size in pixels that would be cropped; names the nearest."""
        if self.sizes is not None:
            self.sizes.check_size(height, width)

    def supports(self, path: str) -> PathSupport:
        """Whether a path ("inversion", "noising", "continuation") suits the model, and if not why."""
        return path_support(path, self.family, self.by_frame, self.scaled)


def describe(name: str | Path, revision: str | None = None) -> ModelFacts:
    """Architecture and size of a bundled model, a folder or a hub id; of an uncached hub id only configs are fetched.

    Args:
        name: as for `DiTLens.from_pretrained`; "NAME@step500" and "NAME@random" have the description of NAME.
        revision: of a hub id.

    Raises:
        ValueError: unknown name; a file that is missing or not JSON; or a pipeline without a supported transformer.
        FileNotFoundError: the hub id is neither in the cache nor reachable.
    """
    name = str(name)
    return describe_folder(name, folder_of(name, revision) or fetch(models.split_name(name).base, revision, CONFIGS))


def describe_folder(name: str, folder: Path) -> ModelFacts:
    """Architecture and size of the model in a folder; see `describe`."""
    index = read_json(folder / INDEX)
    present = [part for part in ("transformer", "transformer_2") if is_there(index, part)]
    if not present or index[present[0]][1] not in TRANSFORMERS:
        raise ValueError(
            f"got {name}, a {index.get('_class_name')}, without a supported video transformer · expected one of"
            f" {', '.join(TRANSFORMERS)}"
        )
    kind, config = index[present[0]][1], read_json(folder / present[0] / "config.json")
    vae_kind = index["vae"][1] if is_there(index, "vae") else None
    vae = read_json(folder / "vae" / "config.json") if vae_kind else {}
    family, layers, heads, head_width = TRANSFORMERS[kind]
    heads, head_width = config.get("num_attention_heads", heads), config.get("attention_head_dim", head_width)
    single = config.get("num_single_layers", SINGLE_LAYERS.get(kind, 0)) if kind in SINGLE_LAYERS else 0
    return ModelFacts(
        name, folder, index.get("_class_name", ""), kind, vae_kind, family, _parameters(folder, present),
        config.get("num_layers", layers) + single, heads, heads * head_width,
        sizes_of(vae_kind, vae, kind, config) if vae_kind else None,
        tuple(part for part in index if part.startswith("text_encoder") and is_there(index, part)),
        trained_by_frame(index, folder), config.get("extra_pos_embed_type") == "learnable",
    )  # fmt: skip


def trained_by_frame(index: Mapping[str, Any], folder: Path | None = None) -> bool:
    """Whether a pipeline's model was trained with a separate noise level for each frame.

    Wan 2.2 TI2V (`expand_timesteps`) and SkyReels-V2 under diffusion forcing were; for models trained here,
    `training.json` gives the share of clips with a level for each frame.
    """
    if index.get("expand_timesteps") or "DiffusionForcing" in index.get("_class_name", ""):
        return True
    if folder is None:
        return False
    if (folder / models.PLANTED).is_file():
        return True  # a planted model is derived from one trained here
    notes = folder / models.TRAINING
    return notes.is_file() and read_json(notes).get("per_frame", 0) > 0


def is_there(index: Mapping[str, Any], part: str) -> bool:
    """Whether a pipeline was saved with this part."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and entry[0] is not None


def folder_of(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model's files; None for a hub id that is not in the hub's cache.

    Raises:
        ValueError: no model has this name.
        FileNotFoundError: the package was installed without its weights.
    """
    base = models.split_name(name).base
    if base in models.NAMES:
        return models.locate(base)
    if Path(base).is_dir():
        return Path(base)
    if base.count("/") == 1 and not base.startswith((".", "/")):
        return _snapshot(base, revision)
    raise ValueError(
        f"got model {base!r} · expected one of {', '.join(models.NAMES)}, a diffusers folder,"
        f" or a hub id owner/name{nearest(base, models.NAMES)}"
    )


def read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file.

    Raises:
        ValueError: the file is missing or not JSON; names it.
    """
    try:
        return json.loads(file.read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"got no file {file} · expected it beside the other files of the model · fetch the model again"
        ) from error
    except ValueError as error:
        raise ValueError(f"got {file}, which is not JSON ({error}) · expected JSON · fetch the model again") from error


def read_header(file: Path) -> Header:
    """Names and shapes of the tensors in a safetensors file; the tensors are not read.

    Raises:
        ValueError: the file is missing, truncated or not safetensors; names it.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        if end != file.stat().st_size:
            raise ValueError(f"{file.stat().st_size} bytes of {end}")
        return {name: tuple(entry["shape"]) for name, entry in tensors.items()}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"got {file}, which is missing or damaged ({error}) · expected safetensors · fetch or train it again"
        ) from error


def weight_files(part: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a pipeline's part, from its index if it has one; the files may be missing.

    Raises:
        ValueError: the index is not JSON.
    """
    suffix = f".{variant}" if variant else ""
    for stem in ("diffusion_pytorch_model", "model"):
        index = part / f"{stem}.safetensors.index{suffix}.json"
        if index.is_file():
            return [part / shard for shard in sorted(set(read_json(index).get("weight_map", {}).values()))]
        if (part / f"{stem}{suffix}.safetensors").is_file():
            return [part / f"{stem}{suffix}.safetensors"]
    if variant:
        return weight_files(part)
    shards = sorted(part.glob("*-of-*.safetensors"))
    if shards:  # some shards and no index
        return [part / f"{shards[0].name.rsplit('-', 3)[0]}.safetensors.index.json"]
    return sorted(part.glob("*.safetensors"))


def _parameters(folder: Path, parts: list[str]) -> int | None:
    files = [file for part in parts for file in weight_files(folder / part)]
    if not files or not all(file.is_file() for file in files):
        return None
    return sum(prod(shape) for file in files for shape in read_header(file).values())


def _snapshot(repository: str, revision: str | None) -> Path | None:
    """The snapshot folder of a hub repository in the hub's cache; None if it is not there."""
    for root in _hub_caches():
        home = root / f"models--{repository.replace('/', '--')}"
        reference = home / "refs" / (revision or "main")
        commit = reference.read_text().strip() if reference.is_file() else revision
        folder = home / "snapshots" / (commit or "")
        if commit and (folder / INDEX).is_file():
            return folder
    return None


def _hub_caches() -> Iterator[Path]:
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    yield Path(cache or Path(home) / "hub").expanduser()


def fetch(
    repository: str, revision: str | None, wanted: Sequence[str], skipped: Sequence[str] = (), **options: Any
) -> Path:
    """The folder of one commit of a hub repository, with the requested files downloaded.

    Args:
        wanted, skipped: file name patterns to download and to skip.
        **options: for `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: the repository is neither in the hub's cache nor reachable.
    """
    from huggingface_hub import snapshot_download

    patterns: Any = {"allow_patterns": list(wanted), "ignore_patterns": list(skipped)}
    try:
        return Path(snapshot_download(repository, revision=revision, **patterns, **options))
    except Exception as error:  # of many kinds: no network, no such repository, no access
        raise FileNotFoundError(
            f"got model {repository!r}, which is not in the hub's cache and cannot be downloaded"
            f" ({type(error).__name__}) · expected a repository of that name, or a folder · run huggingface-cli"
            f" download {repository}"
        ) from error
