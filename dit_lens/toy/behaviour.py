"""Showing: of two outcomes that begin alike, does a model's continuation show the possible one?

A pair of clips shares its first half (`quadruplet.pairs("first")`). A model's continuation of it is compared with
both second halves and gets a margin: 1 where it shows the possible outcome, -1 where it shows the impossible one, 0
where it is as far from one as from the other. It is measured
- by the tracker, on decoded frames: how many objects are there and where, and, where the two outcomes differ in colours
  or shapes, of which. Frame by frame, detected and true objects are paired so that distances add up to
  least; an object too many or too few counts like one out of reach (OSPA of order 1, Schuhmacher et al. 2008). Objects
  of which less than half is seen, and distractors, may be missed;
- in pixels (against both outcomes through the autoencoder), in latents, and by an encoder of frames that is
  independent of every model's autoencoder (mini-vae): (|x - impossible|² - |x - possible|²) / |possible - impossible|²,
  the projection of x on the line between the two.

None of them uses the model's states. What follows from the second half alone cannot win: over A and B of
a crossed quadruplet, the margins of a continuation that knows nothing of the first half add up to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dit_lens.capture import encode, latent_splice, spliced_noise
from dit_lens.clips import Clip, Pair, Scene
from dit_lens.continuation import Context, continue_frames, frame_velocity
from dit_lens.families import conventions
from dit_lens.lens import DiTLens
from dit_lens.models import AUTOENCODER, locate_autoencoder
from dit_lens.toy import tracker
from dit_lens.toy.miniphys.scenes import COLOURS, SHAPES
from dit_lens.toy.tracker import Detection
from dit_lens.toy.tracker.scoring import NEAR, visible_shares
from dit_lens.video import to_frames

MEASURES = ("tracker", "pixels", "latent", "encoder")
IN_SIGHT = 0.5  # share of an object that must be seen for its absence to count


class Thing(NamedTuple):
    """An object in a frame; its detection is optional where it is not `clear`."""

    position: tuple[float, float]
    colour: str
    shape: str
    clear: bool = True


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Both second halves of a pair, as a tracker that makes no mistake would see them.

    Attributes:
        possible, impossible: things in each frame from the splice on.
        differs_in: attributes, besides place and number, in which the two differ: "colour", "shape", both or neither.
    """

    possible: tuple[tuple[Thing, ...], ...]
    impossible: tuple[tuple[Thing, ...], ...]
    differs_in: tuple[str, ...]

    @classmethod
    def of(cls, pair: Pair) -> Outcomes:
        """The outcomes of a pair that shares its first half.

        Raises:
            ValueError: it shares the other half, is not of miniphys, or has colours or shapes that no model was
                trained on.
        """
        if pair.shares != "first":
            raise ValueError(
                f"got a pair that shares its {pair.shares} half · expected two continuations of one first half"
                ' · quadruplet.pairs("first")'
            )
        return cls(_things(pair.possible), _things(pair.impossible), _differing(pair))

    @cached_property
    def apart(self) -> float:
        """The distance between the two outcomes, in things out of reach, summed over frames."""
        return self._far(self.possible, self.impossible)

    def margin(self, detections: Sequence[Sequence[Detection]]) -> float:
        """The margin of detections in each frame from the splice on; smaller if outcomes differ by less than a thing.

        Raises:
            ValueError: another number of frames.
        """
        if len(detections) != len(self.possible):
            raise ValueError(
                f"got detections in {len(detections)} frames · expected {len(self.possible)}, those from the splice on"
            )
        things = tuple(
            tuple(Thing(detection.position, detection.colour, detection.shape) for detection in frame)
            for frame in detections
        )
        nearer = self._far(things, self.impossible) - self._far(things, self.possible)
        return float(np.clip(nearer / max(self.apart, 1), -1, 1))

    def _far(self, first: tuple[tuple[Thing, ...], ...], second: tuple[tuple[Thing, ...], ...]) -> float:
        return sum(distance(*frames, self.differs_in) for frames in zip(first, second, strict=True))


def distance(first: Sequence[Thing], second: Sequence[Thing], differs_in: Sequence[str] = ()) -> float:
    """The distance between two sets of things, in things out of reach (more than 4 world pixels) of each other.

    Things are paired at the least cost; a pair costs its distance in units of 4 world pixels, at most 1, and 1 where
    a name of `differs_in` differs; what is left over costs 1, or nothing if it is not clear.
    """
    costs = np.zeros((len(first) + len(second),) * 2)
    costs[: len(first), len(second) :] = np.array([thing.clear for thing in first])[:, None]
    costs[len(first) :, : len(second)] = [thing.clear for thing in second]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            same = all(getattr(a, name) == getattr(b, name) for name in differs_in)
            costs[i, j] = min(float(np.hypot(*np.subtract(a.position, b.position))) / NEAR, 1.0) if same else 1.0
    return float(costs[linear_sum_assignment(costs)].sum())


def _things(clip: Clip) -> tuple[tuple[Thing, ...], ...]:
    """The visible objects of a clip in each frame from the splice on; distractors may be missed."""
    shares, splice = visible_shares(clip), clip.factors["splice"]
    main = len(clip.tracks) - len(clip.factors["scene"]["distractors"])
    frames = [
        tuple(
            Thing(
                (float(track.position[frame, 0]), float(track.position[frame, 1])),
                str(track.colour[frame]),
                str(track.shape[frame]),
                bool(k < main and shares[k, frame] >= IN_SIGHT),
            )
            for k, track in enumerate(clip.tracks)
            if shares[k, frame] > 0
        )
        for frame in range(splice, len(clip.frames))
    ]
    for thing in (thing for frame in frames for thing in frame):
        if thing.colour not in COLOURS or thing.shape not in SHAPES:
            raise ValueError(
                f"got a {thing.colour} {thing.shape} in {clip.id} · expected colours and shapes that models were"
                " trained on · take split='test'"
            )
    return tuple(frames)


def _differing(pair: Pair) -> tuple[str, ...]:
    """The attributes, colour or shape, in which an object differs between the outcomes."""
    splice = pair.possible.factors["splice"]
    both = [
        (a, b, a.present & b.present & (np.arange(len(a.present)) >= splice))
        for a, b in zip(pair.possible.tracks, pair.impossible.tracks, strict=True)
    ]
    return tuple(
        name
        for name in ("colour", "shape")
        if any((getattr(a, name) != getattr(b, name))[rows].any() for a, b, rows in both)
    )


@dataclass(frozen=True, eq=False)
class FirstHalves:
    """First halves of A and of B, and their two outcomes each; clips in the order A A A ... B B B ...

    Attributes:
        pairs: (A, C) of every quadruplet, then (B, D).
        possible, impossible: latents of the pairs' clips; up to frame `cut` they are the same.
        possible_video, impossible_video: the same decoded, from the splice on.
        noise: where a continuation begins; the same for every model.
        cut: latent frame at which the second half begins.
        outcomes: as the tracker would see them.
    """

    pairs: tuple[Pair, ...]
    possible: Float[Tensor, "b c f h w"]
    impossible: Float[Tensor, "b c f h w"]
    possible_video: Float[Tensor, "b 3 F H W"]
    impossible_video: Float[Tensor, "b 3 F H W"]
    noise: Float[Tensor, "b c f h w"]
    cut: int
    outcomes: tuple[Outcomes, ...]

    @classmethod
    def of(cls, lens: DiTLens, quadruplets: Sequence[Scene], seed: int = 0) -> FirstHalves:
        """The first halves of quadruplets, with their outcomes.

        Args:
            seed: of the noise; a quadruplet's depends on its id and this alone.

        Raises:
            ValueError: none, or see `Outcomes.of`.
        """
        if not quadruplets:
            raise ValueError("got no quadruplets · expected at least one")
        splices = {scene.splice for scene in quadruplets}
        if len(splices) > 1:
            raise ValueError(
                f"got scenes that break at frames {', '.join(map(str, sorted(splices)))} · expected one break for all"
                " · take them in batches of one break"
            )
        clean = encode(lens.encode, quadruplets)
        pairs = tuple(quadruplet.pairs("first")[i] for i in (0, 1) for quadruplet in quadruplets)
        outcomes = tuple(Outcomes.of(pair) for pair in pairs)
        noise = spliced_noise(clean, quadruplets, seed)[: len(pairs)]
        possible, impossible = clean[: len(pairs)], clean[len(pairs) :]
        videos = tuple(second_halves(lens, end, quadruplets[0].splice) for end in (possible, impossible))
        cut = latent_splice(clean, quadruplets[0])
        return cls(pairs, possible, impossible, videos[0], videos[1], noise, cut, outcomes)

    @property
    def splice(self) -> int:
        """The frame at which the second half begins."""
        return self.pairs[0].possible.factors["splice"]


def continued(lens: DiTLens, halves: FirstHalves, steps: int = 12) -> Float[Tensor, "b c f h w"]:
    """Continuations of the first halves, given at sigma 0; the rest is sampled by Euler, and hooks act on it."""
    clean = torch.arange(halves.possible.shape[2]) < halves.cut
    sigmas = lens.schedule(steps, halves.possible[:1]).sigmas[::-1]
    return continue_frames(frame_velocity(lens), Context(halves.possible, clean), halves.noise, sigmas)


def margins(lens: DiTLens, halves: FirstHalves, latents: Float[Tensor, "b c f h w"]) -> Float[np.ndarray, "b measure"]:
    """Margins of latents by each of `MEASURES`; only second halves count.

    Raises:
        ValueError: other than one latent for each first half.
    """
    if latents.shape != halves.possible.shape:
        raise ValueError(
            f"got latents of shape {tuple(latents.shape)} · expected {tuple(halves.possible.shape)}, one for each of"
            f" {len(halves.pairs)} first halves"
        )
    video = second_halves(lens, latents, halves.splice)
    continuations = (latent[:, :, halves.cut :] for latent in (latents, halves.possible, halves.impossible))
    videos = (video, halves.possible_video, halves.impossible_video)
    encoded = (encoded_apart(frames) for frames in videos)
    return np.stack(
        [tracked(video, halves.outcomes), _along(*videos), _along(*continuations), _along(*encoded)], axis=1
    )


@torch.no_grad()
def second_halves(lens: DiTLens, latent: Float[Tensor, "b c f h w"], splice: int) -> Float[Tensor, "b 3 F H W"]:
    """Latents decoded, on the CPU, from frame `splice` on."""
    return lens.family.decode(lens.vae, latent)[:, :, splice:].cpu()


def shown(margin: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """1 where the possible outcome is nearer, 0 where the impossible one is, and one half where neither is."""
    return (1 + np.sign(margin)) / 2


def tracked(video: Float[Tensor, "b 3 F H W"], outcomes: Sequence[Outcomes]) -> Float[np.ndarray, " b"]:
    """Margins by the tracker of videos in [-1, 1] that begin at the splice.

    Raises:
        ValueError: another number of videos than of outcomes, or of frames.
    """
    names = {"colours": tuple(COLOURS), "shapes": SHAPES}
    pairs = zip(to_frames(video), outcomes, strict=True)
    return np.array([outcome.margin(tracker.track(frames, **names)) for frames, outcome in pairs])


@torch.no_grad()
def encoded_apart(video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b c f h w"]:
    """Latents by mini-vae of videos in [-1, 1]; the first frame is repeated where it takes 4k + 1 frames."""
    vae = _mini_vae()
    missing = (1 - video.shape[2]) % vae.config["scale_factor_temporal"]
    return conventions.encode(vae, torch.cat([video[:, :, :1].expand(-1, -1, missing, -1, -1), video], dim=2))


@lru_cache(maxsize=1)
def _mini_vae() -> Any:
    return AutoencoderKLWan.from_pretrained(locate_autoencoder(AUTOENCODER)).eval()


def _along(x: Tensor, possible: Tensor, impossible: Tensor) -> Float[np.ndarray, " b"]:
    """Position of x on the line from impossible (-1) to possible (1)."""

    def squared(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).double().square().flatten(1).sum(1)

    position = (squared(x, impossible) - squared(x, possible)) / squared(possible, impossible)
    return position.cpu().numpy()
