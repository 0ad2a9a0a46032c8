"""Loads a model by name (bundled, a folder, or a hub id); safetensors only, checked before they are read."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_loading_utils import simple_get_class_obj
from diffusers.utils import logging
from safetensors.torch import load_file
from torch import nn

from dit_lens import models
from dit_lens.choices import check_choice, nearest
from dit_lens.conditioning import EMPTY, Conditioning
from dit_lens.models import codec  # noqa: F401  (diffusers only finds a component's module where it was imported)
from dit_lens.models.checking import check_checkpoint, check_read, check_tensors
from dit_lens.models.digests import cache_folder, sha256
from dit_lens.models.facts import describe_folder, read_header, read_json, weight_files
from dit_lens.models.fresh import fresh_transformer
from dit_lens.models.parts import KEEP, ON_DEMAND, Parts
from dit_lens.models.placing import Residency, check_device, check_offload
from dit_lens.models.source import ENCODERS, HUB, TEXT, Source, fingerprint
from dit_lens.models.text_keys import prompt_file
from dit_lens.models.tokenizers import mend_tokenizers

__all__ = ["Loading", "check_checkpoint", "fingerprint", "load_pipeline", "open_model", "sha256"]

TRANSFORMERS = "transformer", "transformer_2"
LARGE = 1_000_000_000  # parameters from which on weights are bfloat16 unless a dtype is given
WEIGHTS = "trained", "random"
STOCK = "device_map", "quantization_config", "custom_pipeline"  # options that need diffusers to read everything itself
READING = "low_cpu_mem_usage", "disable_mmap"
# The other options of `DiffusionPipeline.from_pretrained`, which ignores unknown ones silently.
KNOWN = (
    *STOCK, *READING, *HUB, "max_memory", "offload_folder", "offload_state_dict", "custom_revision",
    "trust_remote_code", "load_connected_pipeline", "provider", "sess_options", "provider_options",
)  # fmt: skip


@dataclass(frozen=True)
class Loading:
    """Options for loading a model.

    Attributes:
        dtype: of the transformer and the text encoders, a name or a `torch.dtype`; the autoencoder stays float32. Or
            a dtype per part, {"transformer": ..., "vae": ..., "default": ...}. By default a transformer below a
            billion parameters is float32 and a larger one bfloat16, likewise a text encoder.
        device: where the model runs.
        offload: "model" keeps one part at a time on the device (see `placing.Residency`).
        text_encoder: "on demand", "keep", None (see `parts.Parts`), or a text encoder.
        weights: "trained", or "random" for an untrained transformer of the same class and config (see `fresh`); the
            trained weights are then not read.
        seed: of random weights.
        options: further options of `DiffusionPipeline.from_pretrained`: `revision`, `variant`, `device_map`, parts, ...

    Raises:
        ValueError: an unknown dtype, device, offload or kind of weights.
    """

    dtype: Any = None
    device: str | torch.device | None = None
    offload: str | None = None
    text_encoder: Any = ON_DEMAND
    weights: str = WEIGHTS[0]
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        parse_dtype(self.dtype)
        check_choice(self.weights, WEIGHTS, "weights")
        if isinstance(self.text_encoder, str):
            check_choice(self.text_encoder, (ON_DEMAND, KEEP), "text_encoder")
        if self.options.get("device_map") is not None and (self.device or self.offload):
            raise ValueError(
                f"got device_map={self.options['device_map']!r} together with device= or offload= · expected only one"
                " of them, because a device map places every part itself"
            )

    def dtype_of(self, part: str, parameters: int) -> torch.dtype:
        """The dtype in which a part with this many parameters is read."""
        dtype = parse_dtype(self.dtype)
        if isinstance(dtype, dict):
            return dtype.get(part, dtype.get("default", torch.float32))
        if part.startswith("vae"):
            return torch.float32
        return dtype or (torch.bfloat16 if parameters >= LARGE else torch.float32)


def parse_dtype(dtype: Any) -> Any:
    """A dtype as a `torch.dtype`: from its name or from itself; None stays None, a dict is parsed part by part.

    Raises:
        ValueError: not a floating-point dtype.
    """
    if isinstance(dtype, Mapping):
        return {part: floating(value) for part, value in dtype.items()}
    return floating(dtype)


def floating(dtype: Any) -> torch.dtype | None:
    """A floating-point `torch.dtype`, from its name or itself; None stays None.

    Raises:
        ValueError: something else.
    """
    if dtype is None:
        return None
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point:
        raise ValueError(
            f"got dtype {dtype!r} · expected 'bfloat16', 'float16', 'float32', or one of these as a torch.dtype"
        )
    return parsed


def load_pipeline(name: str | Path, seed: int = 0, **options: Any) -> tuple[DiffusionPipeline, Conditioning | None]:
    """The whole pipeline, and its empty-prompt embedding if the folder has one.

    Raises:
        ValueError: unknown name, or a damaged checkpoint (names the file).
    """
    named = {option: options.pop(option) for option in ("dtype", "device", "text_encoder") if option in options}
    parts = open_model(name, Loading(seed=seed, options=options, **{"text_encoder": KEEP} | named))
    with parts.text_encoders():  # reads and keeps them
        pass
    return parts.whole, empty_prompt(parts)


def empty_prompt(parts: Parts) -> Conditioning | None:
    """The embedding of the empty prompt in a model's folder; None if the folder has none."""
    file = parts.source and parts.source.folder / models.EMPTY_PROMPT
    if file is None or not file.is_file():
        return None
    return Conditioning({"encoder_hidden_states": load_file(file)["prompt_embeds"]}, prompt="")


@torch.inference_mode(False)  # weights that are made inside have no gradients anywhere
def open_model(name: str | Path, loading: Loading, conditioned: bool = False) -> Parts:
    """A model whose transformer is loaded now and whose other large parts are loaded when they are needed.

    Args:
        conditioned: whether the caller provides the conditioning, so that no prompt has to be encoded.

    Raises:
        ValueError: unknown name; a device that does not exist; a damaged or incomplete checkpoint (names the file), or
            one whose tensors are not those of its config. All of this is checked before any weight is read.
        FileNotFoundError: a hub repository that is neither cached nor reachable.
    """
    device = check_device(loading.device)
    offload = check_offload(loading.offload, device)
    options = dict(loading.options)
    hub = {option: options.pop(option) for option in HUB if option in options}
    source = Source.find(str(name), options.pop("revision", None), options.pop("variant", None), hub)
    if source.name.random:
        loading = replace(loading, weights="random")
    if source.name.step is not None and loading.weights == "random":
        raise ValueError(
            f"got random weights together with @step{source.name.step} · expected random weights or a checkpoint, not"
            " both"
        )
    reader = PartsLoader(source, replace(loading, options=options), device, Residency(offload))
    if not conditioned:
        reader.check_prompt(str(name))
    with torch.random.fork_rng(devices=[]):  # classes draw weights before others are read into them
        return reader.parts()


class PartsLoader:
    """Loads the parts of one model.

    Args:
        device: of the parts that are not offloaded.
    """

    def __init__(self, source: Source, loading: Loading, device: torch.device | None, residency: Residency):
        self.source, self.loading, self.device, self.residency = source, loading, device, residency
        self.passed = {part: options for part, options in loading.options.items() if part in source.index}
        if loading.text_encoder is None or isinstance(loading.text_encoder, nn.Module):
            self.passed["text_encoder"] = loading.text_encoder
        if loading.text_encoder is None:
            self.passed |= dict.fromkeys(source.parts(TEXT))
        self.options = {name: value for name, value in loading.options.items() if name not in self.passed}
        self.random = loading.weights == "random"
        self._check_options()

    def _check_options(self) -> None:
        """Raises TypeError for an unknown option."""
        kind = getattr(diffusers, self.source.index.get("_class_name", ""), DiffusionPipeline)
        accepted = [*KNOWN, *self.source.index, *inspect.signature(kind.__init__).parameters]
        if "custom_pipeline" in self.options:
            return
        if unknown := [name for name in self.options if name not in accepted]:
            raise TypeError(
                f"got unknown option {unknown[0]!r} · expected dtype, device, offload, text_encoder, conditioning,"
                " weights, a part of the pipeline, or an option of DiffusionPipeline.from_pretrained"
                f"{nearest(unknown[0], ['device', 'dtype', 'offload', 'conditioning', 'weights', 'verify', *accepted])}"
            )

    def check_prompt(self, name: str) -> None:
        """Checks that the empty prompt is cached or can be encoded.

        Raises:
            ValueError: the text encoder is not loaded, and the prompt was never encoded.
        """
        needs_no_encoder = (self.source.folder / models.EMPTY_PROMPT).is_file() or not self.source.parts(
            ("text_encoder",)
        )
        if self.loading.text_encoder is not None or needs_no_encoder:
            return
        key = self.source.text_key(describe_folder(name, self.source.folder).family, str(self.text_dtype()))
        if key is None or not prompt_file(key, EMPTY).is_file():
            raise ValueError(
                f"got text_encoder=None for {name}, whose empty prompt is not in the cache · expected it in"
                f" {cache_folder() / 'prompts'}, or conditioning= · load the model once with its text encoder"
            )

    def parts(self) -> Parts:
        """The loaded model, after all checks."""
        trained = [part for part in self.source.parts(("transformer",)) if part not in self.passed]
        later = self.source.parts(ENCODERS) if self.source.repository else ()  # downloaded when they are needed
        self.source.need(tuple(self.passed), (*later, *trained) if self.random else later)
        skeletons = {part: self.skeleton(part) for part in trained}
        if not self.random:
            for part, skeleton in skeletons.items():
                self.check(part, skeleton)
        stock = any(self.options.get(option) is not None for option in STOCK)
        model = self.stock(skeletons) if stock else self.on_demand(skeletons)
        if self.source.name.step is not None:
            weights = load_file(models.checkpoint(self.source.folder, self.source.name.step))
            model.pipeline.transformer.load_state_dict({key: value.float() for key, value in weights.items()})
        return model

    def on_demand(self, skeletons: Mapping[str, nn.Module]) -> Parts:
        """The model with its transformers and small parts; autoencoder and text encoders are loaded later."""
        outline = self.outline()
        large = {part: self.read_transformer(part, skeleton) for part, skeleton in skeletons.items()}
        encoders = dict.fromkeys(part for part in self.source.parts(TEXT) if not part.startswith("tokenizer"))
        components = {**encoders, **self.passed, **large, "vae": outline}
        default = next((self.loading.dtype_of(part, _count(s)) for part, s in skeletons.items()), torch.float32)
        pipeline = self.assemble(components, {"default": default})
        if self.device is not None and self.residency.device is None:
            for part in pipeline.components.values():
                if isinstance(part, nn.Module) and part is not outline:
                    part.to(self.device)
        text = self.loading.text_encoder
        text = text if text is None or isinstance(text, str) else KEEP
        parts = Parts(pipeline, self.source, self.read, text, self.residency, self.text_dtype())
        parts.keyed_by_files = not any(self.passed.get(part) is not None for part in self.source.parts(TEXT))
        if "vae" in self.passed and self.passed["vae"] is None:
            parts.refuse_vae = (
                "got a model without an autoencoder (loaded with vae=None) · expected one, to encode or decode · load"
                " the model without vae=None"
            )
        return parts

    def outline(self) -> Any:
        """The autoencoder on the meta device, or the one that the caller passed; None if the model has none."""
        if self.passed.get("vae") is not None:
            return self.passed["vae"]
        left_out = "vae" in self.passed and not (self.source.folder / "vae" / "config.json").is_file()
        if left_out or not self.source.parts(("vae",)):
            return None
        outline = self.skeleton("vae")
        if "vae" not in self.passed:
            self.check("vae", outline, exactly=False)
        return outline

    def stock(self, skeletons: Mapping[str, nn.Module]) -> Parts:
        """The whole model at once, as diffusers loads and places it."""
        large = {part: self.read_transformer(part, skeleton) for part, skeleton in skeletons.items() if self.random}
        dtypes = {part: self.loading.dtype_of(part, _count(skeleton)) for part, skeleton in skeletons.items()}
        default = next(iter(dtypes.values()), torch.float32)
        pipeline = self.assemble({**self.passed, **large}, {"default": default, "vae": torch.float32, **dtypes})
        return Parts(pipeline, self.source, None, KEEP, None, default)

    def assemble(self, loaded: Mapping[str, Any], dtypes: dict[str, torch.dtype]) -> Any:
        """The pipeline of the parts in `loaded` and of the others, which diffusers loads."""
        dtype = parse_dtype(self.loading.dtype)
        # diffusers needs None for each part that a pipeline is saved without, such as a text encoder.
        absent = {part: None for part, entry in self.source.index.items() if entry == [None, None]}
        quiet = (self.source.folder / models.EMPTY_PROMPT).is_file()
        # By the pipeline's own class: `DiffusionPipeline` reads optional parts (Wan's transformer) even if passed.
        kind = getattr(diffusers, self.source.index.get("_class_name", ""), DiffusionPipeline)
        with _without_chatter(quiet):
            pipeline = kind.from_pretrained(
                self.source.folder, use_safetensors=True, variant=self.source.variant,
                dtype=dtype if isinstance(dtype, dict) else dtypes, **(absent | dict(loaded) | self.options),
            )  # fmt: skip
            mend_tokenizers(pipeline, self.source.folder, self.passed)
            return pipeline

    @torch.inference_mode(False)
    def read(self, part: str) -> Any:
        """Loads an autoencoder or text encoder onto its device."""
        skipped = tuple(name for name in self.source.index if name != part)
        self.source.need(skipped)
        library, kind = self.source.index[part]
        quiet = (self.source.folder / models.EMPTY_PROMPT).is_file()
        with torch.random.fork_rng(devices=[]), _without_chatter(quiet):
            read, info = simple_get_class_obj(library, kind).from_pretrained(
                self.source.folder, subfolder=part, use_safetensors=True, output_loading_info=True,
                dtype=torch.float32 if part == "vae" and not isinstance(self.loading.dtype, Mapping)
                else self.text_dtype(part), **self._variant(part),
            )  # fmt: skip
        check_read(info, f"{self.source.folder / part}")
        device = self.residency.device or self.device
        return (read if device is None else read.to(device)).eval().requires_grad_(False)

    def text_dtype(self, part: str = "text_encoder") -> torch.dtype:
        """The dtype of a text encoder, by its number of parameters, from the headers of its files."""
        files = weight_files(self.source.folder / part, self.source.variant)
        sizes = [torch.Size(shape).numel() for file in files if file.is_file() for shape in read_header(file).values()]
        return self.loading.dtype_of(part, sum(sizes))

    def read_transformer(self, part: str, skeleton: Any) -> Any:
        """Loads a transformer in its dtype, with trained or random weights."""
        dtype = self.loading.dtype_of(part, _count(skeleton))
        if self.random:
            seed = self.loading.seed + TRANSFORMERS.index(part)
            config = read_json(self.source.folder / part / "config.json")
            return fresh_transformer(type(skeleton), config, seed, dtype)
        reading = {name: self.options[name] for name in READING if name in self.options}
        with _without_chatter((self.source.folder / models.EMPTY_PROMPT).is_file()):
            return type(skeleton).from_pretrained(
                self.source.folder, subfolder=part, dtype=dtype, use_safetensors=True, **self._variant(part), **reading
            )

    def skeleton(self, part: str) -> Any:
        """A part built from its config alone, with its parameters on the meta device."""
        library, kind = self.source.index[part]
        config = read_json(self.source.folder / part / "config.json")
        with _without_chatter(True), init_empty_weights():
            return simple_get_class_obj(library, kind).from_config(config)

    def check(self, part: str, skeleton: nn.Module, exactly: bool = True) -> None:
        """Raises ValueError where files hold other tensors than the part has; quantised parts are refused elsewhere."""
        config = read_json(self.source.folder / part / "config.json")
        if not config.get("quantization_config"):
            files = weight_files(self.source.folder / part, self.source.variant)
            check_tensors(skeleton, files, str(self.source.folder / part), exactly)

    def _variant(self, part: str) -> dict[str, str]:
        variant = self.source.variant
        has_files = variant and any((self.source.folder / part).glob(f"*.{variant}*"))
        return {"variant": variant} if variant and has_files else {}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _without_chatter(quiet: bool) -> Iterator[None]:
    """Silences diffusers: no progress bar for three small files, no warning that our codec is not AutoencoderKLWan."""
    if not quiet:
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
