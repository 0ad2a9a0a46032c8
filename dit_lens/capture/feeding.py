"""From clips to the inputs of the transformer at each noise level: the three paths to noise, scene by scene.

A result never depends on batch mates: splices, noise and given frames belong to each scene.

Worked example (continuation, 17 frames, 5 latent frames of 1, 4, 4, 4, 4 frames): a scene that breaks at frame 9 has
3 latent frames before its break (frames 0 to 8), one that breaks at frame 13 has 4. In one batch the first gets 3
clean latent frames and 2 noised ones, the second 4 and 1, as each would be alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm import tqdm

from dit_lens.choices import check_choice
from dit_lens.clips import ROLES, Clip, Scene, clip_ids
from dit_lens.conditioning import Conditioning
from dit_lens.inversion import model_input
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, count, some
from dit_lens.trajectory import Schedule, Trajectory

PATHS = ("inversion", "noising", "continuation")
CROSSINGS = ("pixels", "latent")
CAPTION = "caption"
Latents = Float[torch.Tensor, "b c f h w"]
Encoder = Callable[[Sequence[Clip]], Latents]


@dataclass(frozen=True)
class NoisePath:
    """The path of clips from data to noise.

    Attributes:
        kind: "inversion" of the sampler; "noising", the straight path to random noise (the baseline); or
            "continuation", noising of the frames from each scene's break on, while earlier ones are given clean
            (timestep 0).
        sampler_steps: steps of the sampler between data and noise.
        solver: see `flow.SOLVERS`.
        seed: of the noise that "noising" and "continuation" add (see `spliced_noise`).
        crossing: see `encode`.
        prompt: the text to condition on; "caption" takes each clip's `factors["caption"]`, None keeps the lens's
            conditioning.
        guidance: scale of classifier-free guidance along an inversion; 1 is none.
    """

    kind: Literal["inversion", "noising", "continuation"] = "inversion"
    sampler_steps: int = 20
    solver: str = "euler"
    seed: int = 0
    crossing: Literal["pixels", "latent"] = "pixels"
    prompt: str | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self.kind, PATHS, "path")
        check_choice(self.crossing, CROSSINGS, "crossing")


# The order of clips, and of scenes in batches.


def clips_of(scenes: Sequence[Scene]) -> list[Clip]:
    """The clips of scenes, role by role (A A A ... B B B ...); scene by scene where their roles differ."""
    if len({scene.roles for scene in scenes}) > 1:
        return [clip for scene in scenes for clip in scene.clips]
    return [scene.clips[i] for i in range(len(scenes[0].clips)) for scene in scenes]


def by_scene(scenes: Sequence[Scene]) -> list[int]:
    """The place in `clips_of` of each clip, counted scene by scene."""
    size = len(scenes)
    if len({scene.roles for scene in scenes}) > 1:
        return list(range(sum(len(scene.clips) for scene in scenes)))
    return [size * role + number for number in range(size) for role in range(len(scenes[0].clips))]


def batches(scenes: Sequence[Scene], size: int, progress: str | None = None) -> Iterator[list[Scene]]:
    """Consecutive groups of at most `size` scenes, with a progress bar where it has a name."""
    starts = range(0, len(scenes), size)
    for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
        yield list(scenes[start : start + size])


def alike(scenes: Sequence[Scene], size: int, latents: int, progress: str | None = None) -> Iterator[list[Scene]]:
    """Batches of at most `size` scenes that break at the same latent frames, so that one region serves them all.

    Scenes come in the order in which their batches fill, which differs from the input's where breaks differ: select by
    scene afterwards.
    """
    waiting: dict[tuple[bytes, ...], list[Scene]] = {}
    for scene in tqdm(scenes, desc=progress, unit="scene", disable=progress is None):
        key = tuple(differing(scene, match, latents).tobytes() for match in range(len(scene.matches)))
        waiting.setdefault(key, []).append(scene)
        if len(waiting[key]) == size:
            yield waiting.pop(key)
    yield from waiting.values()


def of_role(evaluation: Evaluation, role: str, roles: Sequence[str] = ROLES) -> Evaluation:
    """The clips of one role of an evaluation whose clips lie role by role."""
    size = count(evaluation) // len(roles)
    start = list(roles).index(check_choice(role, roles, "role")) * size
    return some(evaluation, slice(start, start + size))


# Frames and latent frames.


def latent_frame(frame: int, frames: int, latents: int) -> int:
    """The latent frame that holds a frame: frame 0 alone in the first and an equal number in each later one, or in all.

    Args:
        frame: from 0; `frames` itself stands for the end.
        frames, latents: of the whole clip.

    Raises:
        ValueError: the frames do not lie in latent frames of one size.
    """
    after, remainder = divmod(frames - 1, max(1, latents - 1))
    # Autoencoders compress time by powers of two: 17 frames in 5 are 1 + 4 x 4, 8 frames in 2 are 2 x 4 and not 1 + 7.
    if latents > 1 and not remainder and after & (after - 1) == 0:
        return 0 if frame == 0 else 1 + (frame - 1) // after
    if frames % latents == 0:
        return frame // (frames // latents)
    raise ValueError(
        f"got {latents} latent frames from {frames} frames · expected a number of frames that the autoencoder keeps,"
        " such as 4k + 1"
    )


def differing(scene: Scene, match: int, latents: int) -> Bool[np.ndarray, " f"]:
    """Mask of the latent frames in which the two clips of a match differ; all where no shared frames are known."""
    breaks = scene.breaks[match] if scene.breaks else (0,)
    frames = len(scene.clips[0].frames)
    mask = np.zeros(latents, dtype=bool)
    for start, end in zip(breaks[::2], (*breaks[1::2], frames), strict=False):
        last = latent_frame(end - 1, frames, latents)
        mask[latent_frame(start, frames, latents) : last + 1] = True
    return mask


def given_frames(scene: Scene, latents: int) -> list[int]:
    """For each clip, the number of latent frames before the first in which it differs from its match.

    Raises:
        ValueError: clips that share no first frames, or none that fill a latent frame.
    """
    frames = len(scene.clips[0].frames)
    counts = [latent_frame(splice, frames, latents) for splice in scene.splices]
    if not all(counts):
        raise ValueError(
            f"got {scene.id}, whose clips differ from the first latent frame on · expected at least one shared latent"
            " frame, to be kept clean · use --path inversion or noising"
        )
    return counts


def begins_alike(scene: Scene, latents: int) -> bool:
    """Whether the clips of every match share their first latent frame, so that it can be given clean to both."""
    return bool(scene.breaks) and all(
        frames and not differing(scene, match, latents)[0] for match, frames in enumerate(scene.breaks)
    )


def latent_splice(latent: Float[torch.Tensor, "*b c f h w"], scene: Scene) -> int:
    """The number of latent frames before the scene's break.

    Raises:
        ValueError: its pairs break at different latent frames, so that there is no single number.
    """
    counts = set(given_frames(scene, latent.shape[-3]))
    if len(counts) > 1:
        raise ValueError(
            f"got {scene.id}, whose pairs differ from latent frames {', '.join(map(str, sorted(counts)))} on · expected"
            " one such frame for all its clips · split the scene into its pairs"
        )
    return counts.pop()


# Latents and noise.


def encode(encoder: Encoder, scenes: Sequence[Scene], crossing: str = "pixels") -> Latents:
    """Latents of all clips, in the order of `clips_of`.

    Args:
        encoder: clips -> latents, such as `lens.encode`.
        crossing: "pixels" encodes C and D like any clip; "latent" splices them from the latents of A and B, so that
            the balance is exact also for an autoencoder that mixes frames. Scenes that are not crossed are encoded in
            either case.

    Raises:
        ValueError: unknown crossing.
    """
    latents = encoder(clips_of(scenes))
    if check_choice(crossing, CROSSINGS, "crossing") == "pixels":
        return latents
    latents, places = latents.clone(), iter(by_scene(scenes))
    for scene in scenes:
        rows = [next(places) for _ in scene.clips]
        if scene.crossed:
            latents[rows[2:]] = torch.stack(crossed(latents[rows[0]], latents[rows[1]], scene))
    return latents


def crossed(
    a: Float[torch.Tensor, "c f h w"], b: Float[torch.Tensor, "c f h w"], scene: Scene
) -> tuple[Float[torch.Tensor, "c f h w"], Float[torch.Tensor, "c f h w"]]:
    """C and D spliced from A and B: frames of the possible partner, and of the other clip where the pair differs."""
    masks = (torch.from_numpy(differing(scene, match, a.shape[1])).to(a.device)[:, None, None] for match in (0, 1))
    first, second = masks
    return torch.where(first, b, a), torch.where(second, a, b)


def spliced_noise(latents: Latents, scenes: Sequence[Scene], seed: int) -> Latents:
    """Gaussian noise for latents in the order of `clips_of`.

    A and B of a quadruplet have independent noise, C and D that of the frames that they share. The two clips of any
    other pair have the same, and clips without a partner independent noise. It depends on scene group and seed alone.

    Worked example: 5 latent frames, both breaks before latent frame 3, e and f independent draws:
        A e0 e1 e2 e3 e4      B f0 f1 f2 f3 f4      C e0 e1 e2 f3 f4      D f0 f1 f2 e3 e4
    In every half the noise of the impossible clips (C, D) is that of the possible ones (A, B), so a probe that is
    linear over frames cannot tell C and D from A and B by their noise.
    """
    shape = tuple(latents.shape[1:])
    drawn = [noise for scene in scenes for noise in _noise(scene, shape, seed)]
    places = by_scene(scenes)
    noise = torch.empty((len(places), *shape))
    noise[places] = torch.stack(drawn)
    return noise.to(latents)


def generator_of(scene: Scene, seed: int) -> torch.Generator:
    """A random generator for a scene, which depends on its group and the seed alone."""
    words = np.frombuffer(scene.group.encode(), dtype=np.uint8).tolist()
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, *words]).generate_state(1)[0]))


def _noise(scene: Scene, shape: tuple[int, ...], seed: int) -> list[Float[torch.Tensor, "c f h w"]]:
    """Noise of each clip of a scene."""
    generator = generator_of(scene, seed)
    partner = {impossible: possible for possible, impossible in scene.matches}
    alone = [i for i in range(len(scene.clips)) if i not in partner]
    drawn = dict(zip(alone, torch.randn((len(alone), *shape), generator=generator), strict=True))
    if scene.roles == ROLES:
        return [drawn[0], drawn[1], *crossed(drawn[0], drawn[1], scene)]
    return [drawn[partner.get(i, i)] for i in range(len(scene.clips))]


def partly_noised(
    lens: DiTLens, clean: Latents, noise: Latents, sigma: float, clean_frames: int | Sequence[int]
) -> dict[str, Any]:
    """`latent` and `timestep` with all frames at `sigma` but the first `clean_frames`, which are at timestep 0.

    The timestep is that of each token, (b, n), where frames are clean, and one for all otherwise.

    Args:
        clean_frames: the number of clean latent frames, of all clips or of each.

    Raises:
        ValueError: frames are given to a model whose latents are scaled by their level.
    """
    counts = torch.as_tensor(clean_frames).expand(len(clean))
    before = torch.arange(clean.shape[2]) < counts[:, None]
    levels = torch.where(before, 0.0, sigma).to(clean)[:, None, :, None, None]
    latent, time = (1 - levels) * clean + levels * noise, torch.tensor(lens.family.to_timestep(sigma))
    if not counts.any():
        return {"latent": model_input(lens, latent, float(time)), "timestep": time}
    check_levels_by_frame(lens)
    grid = lens.model.grid(lens.model.evaluation(latent, time, lens.conditioning))
    clear = torch.stack([grid.mask(frame=slice(int(number))) for number in counts])
    return {"latent": latent, "timestep": torch.where(clear, lens.family.to_timestep(0.0), time)}


def takes_levels_by_frame(lens: DiTLens) -> bool:
    """Whether a model takes a noise level for each frame, by a timestep for each token."""
    return lens.family.time_by_token


def check_levels_by_frame(lens: DiTLens) -> None:
    """Checks that a model takes a noise level for each frame.

    Raises:
        ValueError: it takes one timestep for a clip.
    """
    if not takes_levels_by_frame(lens):
        raise ValueError(
            f"got frames to keep clean for {lens.name} · expected a model that takes a timestep for each token"
            f" ({lens.family.name} takes one for the whole clip) · use --path inversion or noising"
        )


# From data to noise.


def conditioning_of(lens: DiTLens, scenes: Sequence[Scene], path: NoisePath) -> Conditioning:
    """The conditioning of the model: the path's prompt, each clip's caption, or the conditioning of the lens.

    Raises:
        ValueError: a clip has no caption.
    """
    if path.prompt is None:
        return lens.conditioning
    if path.prompt != CAPTION:
        return lens.encode_prompt(path.prompt)
    clips = clips_of(scenes)
    for clip in clips:
        if not isinstance(clip.factors.get(CAPTION), str):
            raise ValueError(f"got {clip.id} without a caption · expected one for every clip · pass a text as --prompt")
    encoded = [lens.encode_prompt(str(clip.factors[CAPTION])) for clip in clips]
    names = encoded[0].tensors
    return Conditioning(
        {name: torch.cat([conditioning.tensors[name] for conditioning in encoded]) for name in names}, prompt=CAPTION
    )


def trajectory_of(lens: DiTLens, scenes: Sequence[Scene], path: NoisePath, until: int | None = None) -> Trajectory:
    """The trajectory of all clips of the scenes, in the order of `clips_of`.

    Raises:
        ValueError: a path on which frames do not share their noise level.
    """
    check_choice(path.kind, PATHS[:2], "path (one noise level for all frames)")
    latents, conditioning = encode(lens.encode, scenes, path.crossing), conditioning_of(lens, scenes, path)
    if path.kind == "inversion":
        trajectory = lens.invert(
            latents, path.sampler_steps, path.solver, until=until, prompt=conditioning,
            guidance=path.guidance if path.guidance != 1 else None,
        )  # fmt: skip
    else:
        trajectory = lens.noising(latents, spliced_noise(latents, scenes, path.seed), path.sampler_steps)
        trajectory = replace(trajectory, conditioning=conditioning)
    return replace(trajectory, clip_ids=clip_ids(clips_of(scenes)))


@torch.no_grad()
def evaluations(lens: DiTLens, scenes: Sequence[Scene], steps: Sequence[int], path: NoisePath) -> dict[int, Evaluation]:
    """The evaluation of all clips of the scenes, in the order of `clips_of`, at each of the steps of a path.

    Raises:
        IndexError: a step that the path does not have.
        ValueError: "continuation" of scenes that share no first frames, or by a model without levels by frame.
    """
    if path.kind != "continuation":
        trajectory = trajectory_of(lens, scenes, path, until=max(steps))
        return {step: lens.evaluation(trajectory, step) for step in steps}
    clean, conditioning = encode(lens.encode, scenes, path.crossing), conditioning_of(lens, scenes, path)
    noise, clean_counts = spliced_noise(clean, scenes, path.seed), clean_frames(scenes, clean.shape[2])
    schedule = schedule_of(lens, path, clean)
    sigmas = {step: schedule.sigmas[schedule.check_step(step)] for step in steps}
    return {
        step: lens.model.evaluation(
            **partly_noised(lens, clean, noise, sigma, clean_counts), conditioning=conditioning, step=step, sigma=sigma
        )
        for step, sigma in sigmas.items()
    }


def clean_frames(scenes: Sequence[Scene], latents: int) -> list[int]:
    """The number of latent frames that are given clean, for each clip in the order of `clips_of`."""
    counts = [number for scene in scenes for number in given_frames(scene, latents)]
    ordered = dict(zip(by_scene(scenes), counts, strict=True))
    return [ordered[place] for place in range(len(counts))]


def schedule_of(lens: DiTLens, path: NoisePath, latent: Latents) -> Schedule:
    """The noise levels of a path, for latents of this size."""
    return lens.schedule(path.sampler_steps, latent[:1])
