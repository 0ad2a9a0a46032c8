"""What is captured, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dit_lens.capture.feeding import NoisePath
from dit_lens.reductions import Reduction, parse

INTERACTION = "interaction:"


@dataclass(frozen=True)
class Take:
    """Hook points, by a glob, and the reductions to keep of each.

    Attributes:
        interaction: whether to reduce what attention across a scene's break adds to the activation, instead of the
            activation itself (see `capture.interaction`).
    """

    points: str
    reductions: tuple[Reduction, ...]
    interaction: bool = False

    @classmethod
    def parse(cls, text: str) -> Take:
        """A take from "GLOB=REDUCTION,REDUCTION", such as "blocks.*.hook_resid_post=mean,moments.space_mean".

        "interaction:GLOB=REDUCTION" takes the interaction.

        Raises:
            ValueError: no reduction, or an unknown one.
        """
        points, sign, reductions = text.removeprefix(INTERACTION).partition("=")
        if not sign:
            raise ValueError(f"got {text!r} · expected POINTS=REDUCTION, such as 'blocks.*.hook_resid_post=mean'")
        steps = tuple(parse(reduction) for reduction in reductions.split(","))
        return cls(points, steps, text.startswith(INTERACTION))

    def __str__(self) -> str:
        return f"{INTERACTION * self.interaction}{self.points}={','.join(map(str, self.reductions))}"


@dataclass(frozen=True)
class Recipe:
    """What is captured, and how.

    Attributes:
        steps: of the path, counted from data.
        batch_size: scenes to a batch, and so to a shard.
        dtype: "as_made", or the one that all values are converted to; they must not overflow it.
        compression: see `dit_lens.store.Plan`.
    """

    takes: tuple[Take, ...]
    steps: tuple[int, ...]
    path: NoisePath
    batch_size: int = 8
    dtype: Literal["as_made", "float16", "bfloat16", "float32", "float64"] = "as_made"
    compression: Literal["auto", "none"] = "auto"

    def __post_init__(self) -> None:
        if not self.takes or not self.steps or len({*self.steps}) < len(self.steps) or self.batch_size < 1:
            raise ValueError(
                f"got {len(self.takes)} takes, steps {self.steps}, batches of {self.batch_size} · expected at least one"
                " take and one step, no repeated step, and a batch size of 1 or more"
            )
