"""DiTLens: load a video DiT, invert clips through its sampler, run it with hooks, read its activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch
import xarray as xr
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

import dit_lens.lens.generating as generating
import dit_lens.lens.running as running
from dit_lens import fidelity, inversion, laws
from dit_lens.arguments import integer
from dit_lens.cache import Anatomy
from dit_lens.choices import check_choice
from dit_lens.conditioning import EMPTY, Conditioning
from dit_lens.hook_points import Table
from dit_lens.inversion import Input, Prompts
from dit_lens.inversion.interface import pipeline_of
from dit_lens.lens.requests import At, Keep
from dit_lens.models import split_name
from dit_lens.models.loading import Loading, empty_prompt, open_model
from dit_lens.models.parts import ON_DEMAND, Parts
from dit_lens.models.sizes import Sizes
from dit_lens.running import model_of
from dit_lens.trajectory import Trajectory

__all__ = ["At", "DiTLens", "Keep"]
EVERY_BLOCK = "all"


class DiTLens:
    """A lens on the transformer of a stock diffusers video pipeline, or on a transformer alone.

    Args:
        pipeline: a loaded pipeline, or its transformer alone; the transformer is put in evaluation mode and its
            parameters are frozen.
        name: how results call the model.
        conditioning: what to feed beside latent and time; the pipeline's empty prompt unless given.
        transformer: instead of a pipeline; it can be traced and hooked, but not invert, sample, encode or decode.
        verify: check the laws of the hook points on a tiny input (see `dit_lens.laws`): of the first, middle and last
            block of each kind, of "all" blocks, or not at all (False).
        parts: instead of a pipeline, one whose parts are read when they are needed, as `from_pretrained` makes it.

    Attributes:
        name: how results call the model.
        model: the transformer or the experts, whose named activations are read and written.
        transformer: the diffusers transformer; of experts the first.
        family: the conventions of its architecture.
        parts: the pipeline, whose autoencoder and text encoders are loaded when they are first needed.
        prompts: encodes prompts, and caches them on disk.
        conditioning: what the transformer gets beside latent and time unless something else is passed.
        source: name and options with which `from_pretrained` made it, and can make it again in another process; None
            for a lens on weights in memory.

    Raises:
        TypeError: no family knows the transformer, the pipeline has parts that the family does not handle, or not
            exactly one of pipeline, transformer and parts was given.
        ValueError: no conditioning was given and the pipeline has no text encoder; or a law is broken.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline | nn.Module | None = None,
        name: str | None = None,
        conditioning: Conditioning | None = None,
        *,
        transformer: nn.Module | None = None,
        verify: bool | str = True,
        parts: Parts | None = None,
    ):
        if (pipeline is not None) + (transformer is not None) + (parts is not None) != 1:
            raise TypeError("got no single model · expected a pipeline, or transformer= alone")
        if isinstance(pipeline, nn.Module):
            pipeline, transformer = None, pipeline
        self.source: tuple[str, dict[str, Any]] | None = None
        self.parts = parts or Parts(_pipeline(pipeline, transformer))
        source: Any = self.parts.pipeline or transformer
        self.name: str = name or source.config.get("_name_or_path") or type(source).__name__
        self.model = model_of(source, self.name)
        for member in self.model.members:
            member.residency = self.parts.residency
        self.family = self.model.family
        self.transformer: Any = self.model.members[0].transformer
        self.prompts = Prompts(self.parts, self.family, self.name)
        if self.parts.pipeline and conditioning is None:
            conditioning = self.prompts.encode(EMPTY)
        if conditioning is not None and not isinstance(conditioning, Conditioning):
            raise TypeError(
                f"got a {type(conditioning).__name__} as conditioning= · expected a Conditioning"
                " · Conditioning({'encoder_hidden_states': ...}), or prompt= where clips are inverted"
            )
        conditioning = conditioning or Conditioning({})
        self.conditioning = conditioning.to(self.model.device, self.family.input_dtype(self.transformer))
        self.prompts.conditioning = self.conditioning
        if isinstance(verify, str):
            check_choice(verify, (EVERY_BLOCK,), "verify")
        if verify:
            self.verify(every_block=verify == EVERY_BLOCK)
            for member in self.model.members:
                member.verify = laws.verify

    def __reduce__(self) -> NoReturn:
        """A lens is neither copied nor pickled: what it traces with belongs to one model in one process.

        Raises:
            TypeError: always; says what to do.
        """
        raise TypeError(
            f"got a lens on {self.name} to copy or pickle · expected one lens for each model, made where it is used"
            " · DiTLens(copy.deepcopy(lens.pipeline)), or DiTLens.from_pretrained in the other process"
        )

    def verify(self, every_block: bool = True) -> pd.DataFrame:
        """How far every law of the hook points is from holding on a tiny random input: law, point, deviation.

        Of a model of experts both are verified, and a column says which.

        Args:
            every_block: else the first, middle and last of each kind, as when a model is loaded.

        Raises:
            ValueError: a law is broken; names the point and the deviation.
        """
        tables = [
            pd.DataFrame(laws.verify(member, every_block=every_block)).assign(expert=member.expert)
            for member in self.model.members
        ]
        table = pd.concat(tables, ignore_index=True)
        return table if self.model.boundary is not None else table.drop(columns="expert")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        seed: int = 0,
        verify: bool | str = True,
        *,
        dtype: Any = None,
        device: str | torch.device | None = None,
        offload: str | None = None,
        text_encoder: Any = ON_DEMAND,
        conditioning: Conditioning | None = None,
        weights: str = "trained",
        **options: Any,
    ) -> DiTLens:
        """A lens on a bundled model, a diffusers folder, or a hub id. Only safetensors are read.

        The folder is checked before any weight is read. The transformer is read at once, the autoencoder at the first
        clip that is encoded or decoded, and the text encoder for a prompt that is not in the cache, after which it is
        dropped. Latents and solvers are in float32 whatever the dtype of the model.

        Args:
            name: "mini-wan", "mini-wan-null", "-swap", "-planted", "-random", a folder, or "owner/name"; "@step500"
                behind the name of one that was trained here is what it was after that many steps, and "@random"
                behind any name is its random twin.
            seed: of random weights (0 is where the training of mini-wan began).
            verify: check the laws of the hook points on a tiny input, of some blocks, "all", or not at all (False).
            dtype: of the transformer and the text encoders, such as "bfloat16"; the autoencoder stays float32. Or one
                by part, {"transformer": ..., "vae": ...}. Unless given float32 below a billion parameters, and
                bfloat16 above. (`torch_dtype` is the same.)
            device: where the model runs, such as "cuda"; the CPU unless given.
            offload: "model" has only the part on the device that runs: transformer, autoencoder or text encoder.
            text_encoder: "on demand", or "keep" to keep it in memory once it is read, or None never to read it: then
                prompts come from the cache or from `conditioning`.
            conditioning: what to feed beside latent and time; the empty prompt unless given.
            weights: "random" for the same class and config with weights that learned nothing (see `models.fresh`);
                the transformer's own are not read. The lens is then called "NAME@random".
            **options: for `DiffusionPipeline.from_pretrained`: revision, variant, device_map, parts by name, ...

        Raises:
            ValueError: unknown name, dtype or device; a folder that is not whole, or a damaged file (names it).
            FileNotFoundError: a hub id that is neither cached nor to be reached.
        """
        if not isinstance(name, str | Path):
            if options or (dtype, device, offload, weights) != (None, None, None, "trained"):
                raise TypeError(
                    f"got a {type(name).__name__} with options of loading · expected a name or folder with them, or"
                    " a loaded pipeline alone · DiTLens(pipeline)"
                )
            return cls(name, None, conditioning, verify=verify)
        alias = options.pop("torch_dtype", None)
        if dtype is not None and alias is not None and dtype != alias:
            raise ValueError(f"got dtype={dtype} and torch_dtype={alias} · expected one of them")
        seed = integer(seed, "seed", 0)
        loading = Loading(alias if dtype is None else dtype, device, offload, text_encoder, weights, seed, options)
        parts = open_model(name, loading, conditioning is not None)
        twin = weights == "random" and not split_name(str(name)).random
        called = f"{name}@random" if twin else str(name)
        lens = cls(None, called, conditioning or empty_prompt(parts), verify=verify, parts=parts)
        named = {"dtype": loading.dtype, "device": device, "offload": offload, "text_encoder": text_encoder}
        lens.source = str(name), {"seed": seed, **named, "conditioning": conditioning, "weights": weights, **options}
        return lens

    def __repr__(self) -> str:
        return (
            f"DiTLens({self.name!r}, {self.blocks} blocks x {self.heads} heads, {len(self.table.points)} hook points)"
        )

    # Paths between data and noise: see `dit_lens.inversion`.

    encode, decode = inversion.encode, inversion.decode
    schedule, latent_shape, supports = inversion.schedule, inversion.latent_shape, inversion.supports
    invert, sample, noising = inversion.invert, inversion.sample, inversion.noising
    evaluation = inversion.evaluation

    # Running the model: see `dit_lens.lens.running`.

    run_with_cache, run_with_hooks = running.run_with_cache, running.run_with_hooks
    hooks, trace, estimate = running.hooks, running.trace, running.estimate
    generate = generating.generate

    def encode_prompt(self, prompt: str) -> Conditioning:
        """The conditioning of a prompt, cached on disk; see `Prompts.encode`."""
        return self.prompts.encode(prompt)

    @property
    def pipeline(self) -> Any:
        """The pipeline, with its autoencoder; text encoders are in it only where they are kept.

        Under offload="model" call it by `generate`, which puts all its parts on the device.

        Raises:
            TypeError: the lens was made from a transformer alone.
        """
        return pipeline_of(self) and self.parts.whole

    @property
    def vae(self) -> Any:
        """The pipeline's autoencoder, loaded at its first use, on the device.

        Raises:
            TypeError: the lens was made from a transformer alone. ValueError: the pipeline has no autoencoder.
        """
        if pipeline_of(self).vae is None:
            raise ValueError(
                f"got {self.name} without an autoencoder · expected one, to encode or decode"
                " · load the pipeline with its vae, or work on latents"
            )
        return self.parts.vae

    @property
    def sizes(self) -> Sizes | None:
        """Frames and pixels that the model takes whole; None where its autoencoder is not known."""
        return inversion.sizes(self)

    # The model's structure.

    @property
    def table(self) -> Table:
        """The model's hook points."""
        return self.model.table

    @property
    def blocks(self) -> int:
        """Number of transformer blocks."""
        return self.model.blocks

    @property
    def heads(self) -> int:
        """Number of attention heads in a block."""
        return self.transformer.config.num_attention_heads

    def block(self, index: int) -> Any:
        """The nnsight envoy of a block, for use inside `trace`; negative indices count from the end.

        Raises:
            IndexError: there is no such block. TypeError: no whole number.
        """
        index = integer(index, "block")
        if not -self.blocks <= index < self.blocks:
            raise IndexError(f"got block {index} · expected {-self.blocks} to {self.blocks - 1}")
        tracing = [member for member in self.model.members if member.traced.running]
        return (tracing or self.model.members)[0].traced.module(self.table.blocks[index])

    def hook_points(self, latent: Float[Tensor, "b c f h w"] | None = None) -> pd.DataFrame:
        """Every hook point: name, axes, where in the model it is found, its access, and for an absent one the reason.

        Args:
            latent: with one, its shapes too (by one evaluation).
        """
        table = pd.DataFrame(
            [
                (point.name, point.axes, str(point.sites[-1]), "read, write" if point.write else "read")
                for point in self.table.points.values()
            ],
            columns=["name", "axes", "found at", "access"],
        )
        if latent is not None:
            with torch.no_grad():
                time, names = self.family.to_timestep(self.model.middle), list(self.table.points)
                _, cache = self.run_with_cache(latent=latent, timestep=time, names_filter=names)
            table["shape"] = [tuple(cache[name].shape) for name in table.name]
        absent = pd.DataFrame({"name": list(self.table.absent), "absent because": list(self.table.absent.values())})
        return pd.concat([table, absent], ignore_index=True).fillna("")

    def facts(self) -> dict[str, str]:
        """What a result records of its model: name, class, dtype, scheduler, prompt with its hash, experts."""
        experts = ", ".join(str(member.expert) for member in self.model.members)
        by_experts = {"experts": f"{experts}; boundary {self.model.boundary}"}
        return {
            "model": self.name,
            "transformer": type(self.transformer).__name__,
            "dtype": str(self.family.input_dtype(self.transformer)).removeprefix("torch."),
            "scheduler": type(self.parts.pipeline.scheduler).__name__ if self.parts.pipeline else "none",
            "prompt": self.conditioning.prompt,
            "prompt_hash": self.conditioning.hash,
            **({} if self.model.boundary is None else by_experts),
        }

    @property
    def anatomy(self) -> Anatomy:
        """How the streams are put together, for a cache from a file: `ActivationCache.open(path, lens.anatomy)`.

        Of a model of several experts it is that of the first.
        """
        first = self.model.members[0]
        return Anatomy.of(first.transformer, first.table)

    def fidelity(self, trajectory: Trajectory, clips: Input | None = None, **options: Any) -> xr.Dataset:
        """How faithful an inversion is, as `fidelity.report` tells it; `fidelity.verdict` says it in sentences.

        Args:
            clips: what was inverted, to compare pixels with.
            **options: `watch`, `seed` and `progress` of `fidelity.report`.
        """
        return fidelity.report(self, trajectory, clips, **options)


def _pipeline(pipeline: Any, transformer: Any) -> Any:
    """The pipeline; None where a transformer was given.

    Raises:
        TypeError: neither is what it should be; says what to call.
    """
    if isinstance(pipeline, str | Path):
        raise TypeError(
            f"got {str(pipeline)!r}, the name of a model · expected a loaded pipeline"
            f" · DiTLens.from_pretrained({str(pipeline)!r})"
        )
    if pipeline is not None and not isinstance(pipeline, DiffusionPipeline):
        raise TypeError(f"got a {type(pipeline).__name__} · expected a diffusers pipeline, or a transformer")
    if transformer is not None and not isinstance(transformer, nn.Module):
        raise TypeError(f"got a {type(transformer).__name__} as transformer= · expected a diffusers model")
    return pipeline
