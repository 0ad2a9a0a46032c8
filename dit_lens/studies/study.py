"""A study: the options that all questions share, and the models, scenes and features that they select.

Light: heavy imports happen in the methods that need them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from dit_lens.datasets.spec import MINIPHYS, TRACKS
from dit_lens.studies.options import FOLDS, LAWS, STRENGTH, Options, Size

if TYPE_CHECKING:
    from dit_lens.datasets.scenes import Scenes
    from dit_lens.lens import DiTLens
    from dit_lens.probing import Features


@dataclass(frozen=True)
class Study(Options):
    """Options of every question, and what they select: `lenses()`, `scenes(split)`, `features(lens, split)`."""

    def models(self) -> list[str]:
        """Names of the models to load, the model in question first."""
        from dit_lens.studies.lenses import names

        return names(self)

    def lenses(self) -> Iterator[tuple[str, DiTLens]]:
        """Each model in turn, by name; the cost of the study is printed once the first is loaded."""
        from dit_lens.studies.price import each

        return each(self, self.models())

    def lens(self, name: str = "") -> DiTLens:
        """A lens on one of the models; the one in question unless named."""
        from dit_lens.studies.lenses import load

        return load(self, name or self.model)

    def scenes(self, split: Literal["train", "test"]) -> Scenes:
        """The scenes to fit on, or to test on."""
        from dit_lens.studies.scenes import scenes

        return scenes(self, split)

    def features(self, lens: DiTLens, split: Literal["train", "test"] = "train", **options: Any) -> Features:
        """Token means of block outputs of every clip: cells (step, block).

        Args:
            **options: point and pooling, see `dit_lens.capture.features`.
        """
        from dit_lens.studies.readers import features

        return features(self, lens, self.scenes(split), split, **options)


@dataclass(frozen=True)
class PatchStudy(Study):
    """Options of every patching question."""

    DEMO: ClassVar[Mapping[str, Any]] = {"properties": LAWS}

    directions: int = 4
    """Number of random directions, as long as the probe's, that are measured as a control."""

    def places(self, size: Size) -> int:
        """The number of places that are patched at each step."""
        return size.blocks

    def per_test_scene(self, size: Size) -> float:
        """Half a forward for each place and pair."""
        pairs = 11 if size.clips == 4 else 3
        return pairs * size.steps * (1 + 0.5 * self.places(size))


@dataclass(frozen=True)
class ProbeStudy(Study):
    """Options of the questions that probe a model's states and score the probe's logits: what it reads, and how."""

    READOUTS: ClassVar[tuple[str, ...]] = ("blocks", "interaction")

    pooling: Literal["frames", "tokens", "moments"] = "frames"
    """Means over the tokens of each latent frame (concatenated), one mean over all tokens, or mean and SD by frame."""
    joined_blocks: int = 1
    """Number of consecutive blocks whose states a probe reads side by side, as one cell named by the last of them."""
    strengths: tuple[float, ...] = (STRENGTH,)
    """Inverse penalties of the probe (C); among several, grouped cross-validation chooses, together with the cell."""

    def check(self) -> None:
        """Checks options as for every study.

        Raises:
            ValueError: see `Study.check`; strengths that are not positive, or no block to read.
        """
        super().check()
        if self.joined_blocks < 1 or not self.strengths or min(self.strengths) <= 0:
            raise ValueError(
                f"got --joined-blocks {self.joined_blocks} --strengths {' '.join(map(str, self.strengths))} · expected"
                " 1 or more blocks, and one or more positive strengths"
            )

    @property
    def fitting(self) -> dict[str, Any]:
        """How probes are fitted and their cell is chosen: options of `probing.fit`."""
        return {"rule": self.cell_rule, "strengths": self.strengths}

    @property
    def pooling_of_frames(self) -> Literal["frames", "tokens"]:
        """The pooling of encoders of frames, which have no moments by frame: means by frame (or tubelet) instead."""
        return "tokens" if self.pooling == "tokens" else "frames"


@dataclass(frozen=True)
class EncoderStudy(ProbeStudy):
    """Options of the questions that compare a model's states with other encoders, on physics and on other labels."""

    DEMO: ClassVar[Mapping[str, Any]] = {"sampler_steps": 10, "read_at": (4, 6, 7), "train": 110, "test": 66}
    ALSO: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = ((), ())  # for the bundled models on miniphys; and else

    also: tuple[Literal["inversion", "noising", "continuation"], ...] | None = None
    """Further paths on which the model in question is read; control models and altered clips use --path only."""
    tinted: int = 33
    """Maximum number of training scenes, and of test scenes, that are also read with a tint."""

    def resolved(self) -> Self:
        """With every unset option filled in."""
        study = super().resolved()
        if study.tinted < FOLDS:
            raise ValueError(f"got --tinted {study.tinted} · expected at least {FOLDS}, one for each fold of a probe")
        demo, otherwise = type(self).ALSO
        if study.also is None:
            also = demo if study.bundled and study.spec.name == MINIPHYS else otherwise
            study = replace(study, also=also)
        for kind in study.also or ():
            replace(study, path=kind).check()
        return study

    def per_test_scene(self, size: Size) -> float:
        """Evaluations of all scenes on the further paths, and of some twice in other light."""
        readings = len(self.also or ()) + 2 * min(1, self.tinted / max(1, size.test))
        return self.reading(size) * readings

    def reading(self, size: Size) -> float:
        """Evaluations to read all scenes once, divided by the number of test scenes."""
        on_the_way = (self.sampler_steps or 0) * (self.path == "inversion")
        return (size.train / max(1, size.test) + 1) * size.clips * (size.steps + on_the_way)


@dataclass(frozen=True)
class ContinuationStudy(Study):
    """Options of the questions about a model's continuation of the first frames of a clip, scored on true objects.

    First frames are given clean beside noised ones: the model must take a noise level for each frame.
    """

    NEEDS: ClassVar[tuple[str, ...]] = (TRACKS,)

    def resolved(self) -> Self:
        """With every unset option filled in; the path is continuation."""
        study = replace(self, path=self.path or "continuation")
        return super(ContinuationStudy, study).resolved()

    def check(self) -> None:
        """Checks options as for every study.

        Raises:
            ValueError: see `Study.check`; or another path.
        """
        super().check()
        if self.path != "continuation":
            raise ValueError(
                f"got --path {self.path} · expected continuation, which keeps the first frames clean · leave --path out"
            )
