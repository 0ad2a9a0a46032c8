"""The interaction readout: what attention across a scene's break adds to an activation.

    interaction = activation - the same activation with attention between the two parts of the clip cut,
                  in its own block and in all blocks before

The two parts of a clip are the latent frames that it shares with the clip it is compared with, and those in which the
two differ. Worked example: C of a crossed scene shares latent frames 0 to 2 with A and has frames 3 and 4 of B. With
attention cut between {0, 1, 2} and {3, 4} the model computes the first as it does in A, the second as it does in B. So
what either part shows by itself (objects, colours, positions, noise) is the same in both runs and cancels; what is left
is what the model computes from the two together. At the model's input, and for a model that looks at no other frame, it
is zero.

In joint attention frames also meet in the text tokens, which read all of them and are read by all. There two cut runs
are made: in one the text reads only the first part of the clip, and this part's activations are taken from it, in the
other only the second part. Either part then sees itself and a text that has seen this part alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from dit_lens.capture.feeding import by_scene, differing
from dit_lens.clips import Scene
from dit_lens.edits.changes import rescaled
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.running import Evaluation, Request, some

TOLERANCE = 1e-3  # of a stream that must not change, relative to the change in the other part


def parts_of(scenes: Sequence[Scene], latents: int) -> Bool[Tensor, "b f"]:
    """Mask of the latent frames in which each clip differs from its partner, in the order of `clips_of`.

    Raises:
        ValueError: a clip without a partner or without a known break, whose partners differ from it in several ways,
            or that shares no latent frame with its partner.
    """
    rows = [row for scene in scenes for row in _parts_of_scene(scene, latents)]
    ordered = dict(zip(by_scene(scenes), rows, strict=True))
    return torch.stack([ordered[place] for place in range(len(rows))])


def _parts_of_scene(scene: Scene, latents: int) -> list[Bool[Tensor, " f"]]:
    masks: dict[int, Tensor] = {}
    remedy = "expected pairs that share some of their frames · --readout blocks"
    if not scene.breaks:
        raise ValueError(f"got {scene.id}, whose clips are not known to share frames · {remedy}")
    for number, match in enumerate(scene.matches):
        mask = torch.from_numpy(differing(scene, number, latents))
        if mask.all() or not mask.any():
            raise ValueError(f"got {scene.id}, whose pairs share no latent frame, or all · {remedy}")
        for clip in match:
            if clip in masks and not torch.equal(masks[clip], mask):
                raise ValueError(
                    f"got {scene.id}, a clip of which breaks elsewhere in each of its pairs · expected one break for"
                    " every clip · take the pairs one by one, or --readout blocks"
                )
            masks[clip] = mask
    if alone := [clip for clip in range(len(scene.clips)) if clip not in masks]:
        raise ValueError(f"got {scene.id}, whose clip {alone[0]} is compared with none · {remedy}")
    return [masks[clip] for clip in range(len(scene.clips))]


def cut_between(parts: Bool[Tensor, "b f"], text_reads: bool = False) -> Callable[[Tensor, Hook], Tensor]:
    """A hook for patterns: no attention between the two parts of a clip; the rest is scaled to 1.

    Args:
        text_reads: which part text tokens read, where they read the video: True for that in which clips differ.
    """

    def cut(x: Tensor, hook: Hook) -> Tensor:
        inside = parts.to(x.device).repeat_interleave(hook.grid.rows * hook.grid.columns, dim=1)
        of_text = hook.axes.split()[2] == "m"
        allowed = (
            (inside == text_reads)[:, None, None] if of_text else inside[:, None, :, None] == inside[:, None, None]
        )
        video = x.shape[-1] - hook.grid.tokens  # keys beyond the video's: text, in joint attention
        if video:
            allowed = torch.nn.functional.pad(allowed, (0, video), value=True)
        return rescaled(x * allowed)

    return cut


def of_parts(runs: Sequence[Tensor], parts: Bool[Tensor, "b f"], hook: Hook) -> Tensor:
    """The activation of each part from its own cut run: the first part's from the first, the second's from the last.

    Raises:
        ValueError: there are two runs, and the point is not of video tokens, which alone have a part.
    """
    if len(runs) == 1:
        return runs[0]
    letters = hook.axes.split()
    each = {"f": 1, "n": hook.grid.rows * hook.grid.columns}
    axis = next((letter for letter in letters if letter in each), None)
    if axis is None:
        raise ValueError(
            f"got {hook.name} with axes {hook.axes} · expected a point of video tokens, since text tokens belong to"
            " neither part of a clip · take interactions of such a point"
        )
    mask = parts.to(runs[0].device).repeat_interleave(each[axis], dim=1)
    shape = [len(mask)] + [mask.shape[1] if letter == axis else 1 for letter in letters[1:]]
    return torch.where(mask.view(shape), runs[-1], runs[0])


def patterns(lens: DiTLens) -> list[str]:
    """The attention patterns over the video's tokens, of all blocks, and those of text tokens that read the video.

    Raises:
        KeyError: the model has none that can be read, or some block has none; says why.
    """
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(lens.blocks)]
    names += text_patterns(lens)
    return [point.name for point in lens.table.select(names, lens.name)]


def text_patterns(lens: DiTLens) -> list[str]:
    """The patterns of text tokens in joint attention."""
    names = (f"blocks.{block}.text.attn.hook_pattern" for block in range(lens.blocks))
    return [name for name in names if name in lens.table.points]


def cut_runs(lens: DiTLens) -> int:
    """How many cut runs an interaction needs: one, or two where text tokens read the video."""
    return 2 if text_patterns(lens) else 1


@torch.no_grad()
def check_separated(lens: DiTLens, evaluation: Evaluation, parts: Bool[Tensor, "b f"]) -> None:
    """Checks on one clip that, with attention cut, neither part of it depends on the other.

    The latent is changed in one part; after the last block the other part must be as before.

    Raises:
        ValueError: something else carries information between frames, such as the audio tokens of LTX-2.
    """
    single = some(evaluation, slice(0, 1))
    for changed in (parts[:1], ~parts[:1]):
        moved = _moved(lens, single, changed)
        here = changed[0].to(moved.device)
        if moved[~here].max() > TOLERANCE * moved[here].max():
            raise ValueError(
                f"got {lens.name}, in which frames depend on each other by more than attention over video and text"
                " tokens (such as audio tokens) · expected a model without such a way, such as Wan, LTX or CogVideoX ·"
                " --readout blocks"
            )


def _moved(lens: DiTLens, single: Evaluation, changed: Bool[Tensor, "1 f"]) -> Tensor:
    """How far each frame's tokens move after the last block where the latent is changed in one part, (f,)."""
    last = f"blocks.{lens.blocks - 1}.hook_resid_post"

    def stream(by: float) -> Tensor:
        def change(x: Tensor, hook: Hook) -> Tensor:
            return x + by * changed.to(x)[:, None, :, None, None]

        # The text reads the part that is not changed.
        with lens.hooks([("hook_latent", change), (patterns(lens), cut_between(changed, text_reads=False))]):
            _, kept = lens.model.run(single, Request(last))
        grid = lens.model.grid(single)
        return kept[last][:, : grid.tokens].unflatten(1, (grid.frames, -1)).double()

    return (stream(1.0) - stream(0.0)).norm(dim=(-1, -2))[0]
