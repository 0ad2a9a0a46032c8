"""Conditioning: what a transformer gets beside latent and time, such as an encoded prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dit_lens.arguments import number
from dit_lens.atomic_files import replace_atomically
from dit_lens.choices import check_choice

BRANCHES = ("cond", "uncond")  # of guidance, as pipelines name them
EMPTY, NEUTRAL = "", "a video"  # prompts that say nothing of a clip


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the transformer gets beside latent and time, of batch 1 or b.

    Raises:
        TypeError: something else than tensors with an axis of clips, by name.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    prompt: str = ""

    def __post_init__(self):
        if not isinstance(self.tensors, Mapping):
            raise TypeError(
                f"got a {type(self.tensors).__name__} as conditioning · expected tensors by name, in a dict"
            )
        for name, tensor in self.tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.ndim or not isinstance(name, str):
                raise TypeError(
                    f"got a {type(tensor).__name__} as {name} · expected a tensor of batch 1 or b, by its name"
                )

    def of_clips(self, clips: slice) -> Conditioning:
        """The part that belongs to some of the clips; a batch of 1 serves them all."""
        parts = {name: tensor if len(tensor) == 1 else tensor[clips] for name, tensor in self.tensors.items()}
        return Conditioning(parts, self.prompt)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Conditioning:
        """On a device, in a dtype; masks and other integers keep theirs."""
        moved = {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in self.tensors.items()}
        return Conditioning(moved, self.prompt)

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the sha256 over the tensors."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].float().cpu()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> Path:
        """Writes safetensors, whole or not at all."""
        with replace_atomically(Path(path)) as aside:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
            save_file(tensors, aside, metadata={"prompt": self.prompt})
        return Path(path)

    @classmethod
    def open(cls, path: str | Path) -> Conditioning:
        """What `save` wrote, on the CPU.

        Raises:
            ValueError: the file is missing or damaged; names it.
        """
        try:
            with safe_open(path, "pt") as file:
                return cls({name: file.get_tensor(name) for name in file.keys()}, file.metadata()["prompt"])  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"got {path}, which cannot be read ({error}) · expected conditioning saved whole · delete it"
            ) from error


@dataclass(frozen=True, eq=False)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022): away from the prediction under a negative prompt.

    Attributes:
        scale: as the model's own pipeline counts it; 1 is no guidance.
        negative: conditioning of the branch "uncond"; tensors that it does not name are those of the branch "cond".

    Raises:
        ValueError: a scale below 1.
    """

    scale: float
    negative: Conditioning

    def __post_init__(self):
        if number(self.scale, "guidance") < 1:
            raise ValueError(f"got guidance {self.scale} · expected at least 1, which is none")


@dataclass(frozen=True, eq=False)
class Conditions:
    """The conditioning of an evaluation in each of its guidance branches.

    Attributes:
        guidance: None where there is one branch only.
    """

    conditioning: Conditioning
    guidance: Guidance | None = None

    def of_clips(self, clips: slice) -> Conditions:
        """The part that belongs to some of the clips."""
        if self.guidance is None:
            return Conditions(self.conditioning.of_clips(clips))
        guidance = Guidance(self.guidance.scale, self.guidance.negative.of_clips(clips))
        return Conditions(self.conditioning.of_clips(clips), guidance)

    def branch(self, name: str) -> Conditioning:
        """The conditioning of one of `BRANCHES`.

        Raises:
            ValueError: no such branch, or "uncond" without guidance.
        """
        if check_choice(name, BRANCHES, "guidance branch") == BRANCHES[0]:
            return self.conditioning
        if self.guidance is None:
            raise ValueError("got branch 'uncond' of a path without guidance · expected 'cond' · guidance= makes both")
        negative = self.guidance.negative
        return Conditioning({**self.conditioning.tensors, **negative.tensors}, negative.prompt)

    @property
    def facts(self) -> dict[str, str]:
        """What a result records of it: prompts, their hashes, and the scale of guidance."""
        facts = {"prompt": self.conditioning.prompt, "prompt_hash": self.conditioning.hash}
        if self.guidance is None:
            return facts
        negative = self.guidance.negative
        facts |= {"negative_prompt": negative.prompt, "negative_hash": negative.hash}
        return facts | {"guidance": f"{self.guidance.scale:g}"}
