"""Views of an object: latent frames of lawful clips in which it is in sight or hidden, with features and true states.

Only for data that know the truth (`Clip.tracks`), which is miniphys; lengths are in units of its world.

Worked example (17 frames, 5 latent frames of 1, 4, 4, 4, 4 frames): latent frame 2 holds frames 5 to 8. Where the
object is in the picture and not occluded in frames 5 and 6, and behind the occluder in 7 and 8, it is a view with the
object in sight, whose truth is that of frames 5 and 6. Latent frame 0 is never a view: one frame shows no velocity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dit_lens.capture import NoisePath, batches, clips_of, encode, evaluations, latent_frame
from dit_lens.clips import Clip, Scene, Track, stack_frames
from dit_lens.lens import DiTLens
from dit_lens.measures.probe_state import FED
from dit_lens.running import Evaluation, Request, some
from dit_lens.toy.miniphys.scenes import WORLD
from dit_lens.video import to_tensor

JUMP = (
    1.0  # change of velocity (lengths/frame) from one frame to the next that only a contact makes; gravity is below .5
)

Moment = tuple[int, Int[np.ndarray, " frames"], bool]  # latent frame, frames of it, whether the object is hidden
Read = Callable[[Sequence[Scene]], Mapping[str, Float[Tensor, "b f n d"]]]


@dataclass(frozen=True, eq=False)
class Views:
    """Latent frames of clips in which the object is either in sight or hidden, one row each.

    Attributes:
        features: by place ("x_σ", "0", "1", ...), all tokens side by side and their mean.
        truth: by variable, numbers (NaN where a view has none) or one name.
        group: each view's scene; frame: its latent frame; hidden: whether the object is.
    """

    features: Mapping[str, tuple[Float[np.ndarray, "v nd"], Float[np.ndarray, "v d"]]]
    truth: Mapping[str, np.ndarray]
    group: np.ndarray
    frame: np.ndarray
    hidden: Bool[np.ndarray, " v"]

    def showing(self, variable: str, hidden: bool) -> np.ndarray:
        """Indices of the views that have this variable, with the object hidden or not."""
        truth = self.truth[variable]
        return np.flatnonzero((self.hidden == hidden) & np.isfinite(truth).all(1) & (truth.shape[1] > 0))

    def only(self, variable: str, columns: np.ndarray) -> Views:
        """The views with only these components of a variable."""
        return replace(self, truth={**self.truth, variable: self.truth[variable][:, columns]})


@torch.no_grad()
def views(
    scenes: Sequence[Scene],
    read: Read,
    moments: Callable[[Clip, int], Iterator[Moment]],
    truth: Callable[[Clip, np.ndarray], Mapping[str, np.ndarray | str]],
    batch_size: int,
    progress: str,
) -> Views:
    """Features and truth of the views of all lawful clips.

    Args:
        read: scenes -> features by place of their lawful clips, in the order of `lawful`.
        moments: clip, number of latent frames -> its views (see `in_sight`, `seen_and_hidden`).
        truth: clip, frames -> the object's state by variable.
    """
    features: dict[str, list[Tensor]] = {}
    clip_moments: list[tuple[Clip, Moment]] = []
    for batch in batches(scenes, batch_size, progress):
        values = read(batch)
        latents = next(iter(values.values())).shape[1]
        clips = [clips_of(batch)[row] for row in lawful(batch)]
        in_batch = [(i, moment) for i, clip in enumerate(clips) for moment in moments(clip, latents)]
        for place, tokens in values.items():
            features.setdefault(place, []).append(
                tokens.cpu().float()[[i for i, _ in in_batch], [m[0] for _, m in in_batch]]
            )
        clip_moments += [(clips[i], moment) for i, moment in in_batch]
    truths = [truth(clip, frames) for clip, (_, frames, _) in clip_moments]
    return Views(
        {place: _pooled(torch.cat(rows)) for place, rows in features.items()},
        {variable: np.stack([np.asarray(row[variable]) for row in truths]) for variable in truths[0]},
        np.array([clip.group for clip, _ in clip_moments]),
        np.array([frame for _, (frame, _, _) in clip_moments]),
        np.array([hidden for _, (_, _, hidden) in clip_moments]),
    )


def _pooled(tokens: Float[Tensor, "v n d"]) -> tuple[np.ndarray, np.ndarray]:
    return tokens.flatten(1).numpy(), tokens.mean(1).numpy()


# Readers of features.


def lawful(scenes: Sequence[Scene]) -> list[int]:
    """The indices of the possible clips in `clips_of(scenes)`."""
    return [i for i, clip in enumerate(clips_of(scenes)) if clip.possible]


def states(lens: DiTLens, path: NoisePath, step: int, blocks: Sequence[int]) -> Read:
    """A reader of the tokens of each latent frame, at the input ("x_σ") and after blocks, of one evaluation."""
    points = {str(block): f"blocks.{block}.hook_resid_post" for block in blocks}

    def read(batch: Sequence[Scene]) -> dict[str, Float[Tensor, "b f n d"]]:
        evaluation = lawful_evaluation(lens, batch, path, step)
        names = ["hook_latent", *points.values()]
        _, cache = lens.model.run(evaluation, Request(names, stop_at=points[str(max(blocks))]))
        frames = lens.model.grid(evaluation).frames
        after = {name: cache[point].unflatten(1, (frames, -1)) for name, point in points.items()}
        return {FED: by_frame(cache["hook_latent"]), **after}

    return read


def lawful_evaluation(lens: DiTLens, batch: Sequence[Scene], path: NoisePath, step: int) -> Evaluation:
    """The evaluation of the possible clips of scenes; impossible ones only set which frames are given clean."""
    if path.kind == "continuation":
        return some(evaluations(lens, batch, [step], path)[step], lawful(batch))
    possible = [
        replace(scene, clips=tuple(c for c in scene.clips if c.possible), matches=(), breaks=(), crossed=False)
        for scene in batch
    ]
    return evaluations(lens, possible, [step], path)[step]


def latents(lens: DiTLens) -> Read:
    """A reader of the autoencoder's latents, frame by frame."""
    return lambda batch: {FED: by_frame(encode(lens.encode, batch)[lawful(batch)])}


def pixels(latents: int) -> Read:
    """A reader of the pixels of each latent frame; one of fewer frames than others repeats its first.

    Args:
        latents: the number of latent frames.
    """

    def read(batch: Sequence[Scene]) -> dict[str, Float[Tensor, "b f n d"]]:
        video = to_tensor(stack_frames([clips_of(batch)[row] for row in lawful(batch)]))
        frames_held = [frames_of(latent, video.shape[2], latents) for latent in range(latents)]
        longest = max(map(len, frames_held))
        chosen = np.stack([np.pad(frames, (longest - len(frames), 0), mode="edge") for frames in frames_held])
        return {FED: rearrange(video[:, :, torch.from_numpy(chosen)], "b c f p h w -> b f (h w) (p c)")}

    return read


def by_frame(latent: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b f n c"]:
    """A latent as a sequence of places in each frame."""
    return rearrange(latent, "b c f h w -> b f (h w) c")


# Where the object is in sight, and where it is hidden.


def frames_of(latent: int, frames: int, latents: int) -> Int[np.ndarray, " held"]:
    """The frames that a latent frame holds."""
    return np.array([frame for frame in range(frames) if latent_frame(frame, frames, latents) == latent])


def in_sight(clip: Clip, latents: int) -> Iterator[Moment]:
    """The latent frames in half of whose frames or more the first object's centre is in the picture and not occluded.

    With them those frames. A latent frame that holds a single frame is left out: it shows no velocity.
    """
    track = clip.tracks[0]
    centre, width = clip.factors["scene"]["occluder"]
    x, y = np.nan_to_num(track.position, nan=-WORLD).T
    inside = (np.minimum(x, y) > 0) & (np.maximum(x, y) < WORLD) & (np.abs(x - centre) > width / 2)
    for latent in range(latents):
        held = frames_of(latent, len(x), latents)
        if len(held) > 1 and 2 * inside[held].sum() >= len(held):
            yield latent, held[inside[held]], False


def seen_and_hidden(clip: Clip, latents: int) -> Iterator[Moment]:
    """The latent frames in which the object is in sight, and those in all of whose frames it is hidden."""
    yield from in_sight(clip, latents)
    for latent in range(latents):
        held = frames_of(latent, len(clip.frames), latents)
        if len(held) > 1 and clip.tracks[0].hidden[held].all():
            yield latent, held, True


# The object's true state.


def truth(clip: Clip, frames: np.ndarray) -> dict[str, Float[np.ndarray, " t"]]:
    """The first object's state over these frames, by variable; NaN where there is none such."""
    track, scene, nothing = clip.tracks[0], clip.factors["scene"], np.nan
    contact_times = contacts(track)
    without_contact = not ((contact_times > frames[0]) & (contact_times < frames[-1])).any()
    change = (track.velocity[frames[-1]] - track.velocity[frames[0]]) / (frames[-1] - frames[0])
    later = contact_times[contact_times > frames[-1]]
    return {
        "position": track.position[frames].mean(0),
        "velocity": track.velocity[frames].mean(0),
        "acceleration": np.array([np.linalg.norm(change) if scene["gravity"] and without_contact else nothing]),
        "incline": np.array([nothing if scene["ramp"] is None else clip.factors["first"]["slope"]]),
        "contact": np.array([later[0] - frames.mean() if len(later) else nothing]),
    }


def contacts(track: Track) -> Float[np.ndarray, " times"]:
    """The times (in frames) at which the object is thrown back; a contact lies between two frames."""
    return np.flatnonzero(np.linalg.norm(np.diff(track.velocity, axis=0), axis=1) > JUMP) + 0.5
