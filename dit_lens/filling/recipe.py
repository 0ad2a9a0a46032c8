"""What is captured, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dit_lens.capture import Route
from dit_lens.reductions import Reduction, parse


@dataclass(frozen=True)
class Take:
    """Hook points, by a glob, and what is kept of each."""

    points: str
    reductions: tuple[Reduction, ...]

    @classmethod
    def parse(cls, text: str) -> Take:
        """Of "GLOB=REDUCTION,REDUCTION", such as "blocks.*.hook_resid_post=mean,moments.space_mean".

        Raises:
            ValueError: no reduction, or an unknown one.
        """
        points, sign, told = text.partition("=")
        if not sign:
            raise ValueError(f"got {text!r} · expected POINTS=REDUCTION, such as 'blocks.*.hook_resid_post=mean'")
        return cls(points, tuple(parse(reduction) for reduction in told.split(",")))

    def __str__(self) -> str:
        return f"{self.points}={','.join(map(str, self.reductions))}"


@dataclass(frozen=True)
class Recipe:
    """What is captured, and how.

    Attributes:
        steps: of the route, counted from data.
        batch_size: quadruplets to a batch, and so to a shard.
        dtype: "as_made", or the one that all values are converted to; they must not overflow it.
        compression: see `dit_lens.store.Plan`.
    """

    takes: tuple[Take, ...]
    steps: tuple[int, ...]
    route: Route
    batch_size: int = 8
    dtype: Literal["as_made", "float16", "bfloat16", "float32", "float64"] = "as_made"
    compression: Literal["auto", "none"] = "auto"

    def __post_init__(self) -> None:
        if not self.takes or not self.steps or len({*self.steps}) < len(self.steps) or self.batch_size < 1:
            raise ValueError(
                f"got {len(self.takes)} takes, steps {self.steps}, batches of {self.batch_size}"
                " · expected at least one take and one step, no step twice, and batches of 1 or more"
            )
