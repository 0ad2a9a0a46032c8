"""DiTLens: load a video DiT, invert clips through its sampler, run it with hooks, read what it thinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
import xarray as xr
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from dit_lens import fidelity, laws
from dit_lens.cache import Anatomy, Estimate, clock
from dit_lens.conditioning import Conditioning
from dit_lens.hook_points import Hook, NamesFilter
from dit_lens.inversion import Input
from dit_lens.lens.running import Place, Running
from dit_lens.models.loading import load_pipeline
from dit_lens.running import Experts, HookedTransformer, Reduce, of_pipeline, reduction
from dit_lens.trajectory import Trajectory


class DiTLens(Running):
    """A lens on the transformer of a stock diffusers video pipeline, or on a transformer alone.

    Args:
        pipeline: a loaded pipeline; its transformer is put in evaluation mode and its parameters are frozen.
        name: how results call the model.
        conditioning: what to feed beside latent and time; the pipeline's empty prompt unless given.
        transformer: instead of a pipeline; it can be traced and hooked, but not invert, sample, encode or decode.
        verify: check the laws of the hook points on a tiny input (see `dit_lens.laws`).

    Raises:
        TypeError: no family knows the transformer, the pipeline has parts that the family does not handle, or neither
            or both of pipeline and transformer were given.
        ValueError: no conditioning was given and the pipeline has no text encoder; or a law is broken.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline | None = None,
        name: str | None = None,
        conditioning: Conditioning | None = None,
        *,
        transformer: nn.Module | None = None,
        verify: bool = True,
    ):
        if (pipeline is None) == (transformer is None):
            raise TypeError("got no single model · expected a pipeline, or transformer= alone")
        self._pipeline = pipeline
        source: Any = transformer if pipeline is None else pipeline
        self.name = name or source.config.get("_name_or_path") or type(source).__name__
        self.model = HookedTransformer(source, self.name) if pipeline is None else of_pipeline(pipeline, self.name)
        self.transformer: Any = self.model.members[0].transformer
        self.family, self.table = self.model.family, self.model.table
        if pipeline is not None:
            conditioning = conditioning or self._empty_prompt()
        given = conditioning or Conditioning({})
        self.conditioning = given.to(self.transformer.device, self.family.input_dtype(self.transformer))
        if verify:
            self.verify()

    def verify(self) -> pd.DataFrame:
        """How far every law of the hook points is from holding on a tiny random input: law, point, deviation.

        Of a model of experts both are verified, and a column says which.

        Raises:
            ValueError: a law is broken; names the point and the deviation.
        """
        found = [pd.DataFrame(laws.verify(member)).assign(expert=member.expert) for member in self.model.members]
        table = pd.concat(found, ignore_index=True)
        return table if isinstance(self.model, Experts) else table.drop(columns="expert")

    @classmethod
    def from_pretrained(cls, name: str | Path, seed: int = 0, verify: bool = True, **options: Any) -> DiTLens:
        """A lens on a bundled model, a diffusers folder, or a hub id. Only safetensors are read.

        Args:
            name: "mini-wan", "mini-wan-null", "-swap", "-planted", "-random", a folder, or "owner/name"; "@step500"
                behind the name of one that was trained here is what it was after that many steps.
            seed: of the initialisation of "mini-wan-random" (0 is where the training of mini-wan began).
            verify: check the laws of the hook points on a tiny input.
            **options: for `DiffusionPipeline.from_pretrained`: dtype, device_map, revision, ...

        Raises:
            ValueError: unknown name, or a damaged checkpoint (names the file).
        """
        pipeline, conditioning = load_pipeline(name, seed, **options)
        return cls(pipeline, str(name), conditioning, verify=verify)

    def __repr__(self) -> str:
        return (
            f"DiTLens({self.name!r}, {self.blocks} blocks x {self.heads} heads, {len(self.table.points)} hook points)"
        )

    @property
    def heads(self) -> int:
        """Number of attention heads in a block."""
        return self.transformer.config.num_attention_heads

    def block(self, index: int) -> Any:
        """The nnsight envoy of a block, for use inside `trace`; negative indices count from the end.

        Raises:
            IndexError: there is no such block.
        """
        if not -self.blocks <= index < self.blocks:
            raise IndexError(f"got block {index} · expected {-self.blocks} to {self.blocks - 1}")
        running = [member for member in self.model.members if member.traced.running]
        return (running or self.model.members)[0].traced.module(self.table.blocks[index])

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
        """What a result says of its model: name, class, dtype, scheduler, prompt and its hash."""
        return {
            "model": self.name,
            "transformer": type(self.transformer).__name__,
            "dtype": str(self.family.input_dtype(self.transformer)).removeprefix("torch."),
            "scheduler": type(self.pipeline.scheduler).__name__ if self._pipeline else "none",
            "prompt": self.conditioning.prompt,
            "prompt_hash": self.conditioning.hash,
            **self._expert_facts(),
        }

    def _expert_facts(self) -> dict[str, str]:
        if not isinstance(self.model, Experts):
            return {}
        names = ", ".join(str(member.expert) for member in self.model.members)
        return {"experts": f"{names}; boundary {self.model.boundary}"}

    @property
    def anatomy(self) -> Anatomy:
        """How the streams are put together, for a cache from a file: `ActivationCache.open(path, lens.anatomy)`.

        Of a model of several experts it is that of the first.
        """
        first = self.model.members[0]
        return Anatomy.of(first.transformer, first.table)

    @torch.no_grad()
    def estimate(
        self,
        latent: Float[Tensor, "b c f h w"],
        names_filter: NamesFilter = "*",
        steps: int = 1,
        reduce: Reduce | None = None,
        **told: Tensor,
    ) -> Estimate:
        """Bytes and seconds of a cache before it is made, told by one timed evaluation of the first clip.

        Args:
            latent: what will be run, of all clips.
            names_filter, reduce: as for `run_with_cache`.
            steps: how many.
            **told: conditioning beside the lens's own.
        """
        sizes: dict[str, tuple[int, int]] = {}
        reduced = reduction(reduce)

        def measure(x: Tensor, hook: Hook) -> None:
            sizes[hook.name] = x.nbytes, reduced(x, hook).nbytes

        time = torch.as_tensor(self.family.to_timestep(self.model.middle))
        first = {name: tensor[:1] for name, tensor in told.items()}
        (evaluation,) = self._evaluations(Place(), {"latent": latent[:1], "timestep": time, **first})
        with self.hooks([(names_filter, measure)]):
            start = clock(latent.device)
            self.model.velocity(evaluation)
            seconds = clock(latent.device) - start
        return Estimate(sizes, seconds, len(latent), steps, reduce is not None)

    def fidelity(self, trajectory: Trajectory, clips: Input | None = None, **options: Any) -> xr.Dataset:
        """How faithful an inversion is, as `fidelity.report` tells it; `fidelity.verdict` says it in sentences.

        Args:
            clips: what was inverted, to compare pixels with.
            **options: `watch` and `seed` of `fidelity.report`.
        """
        return fidelity.report(self, trajectory, clips, **options)
