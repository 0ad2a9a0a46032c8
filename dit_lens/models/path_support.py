"""Which paths each family supports: may the frames of a clip have separate noise levels, and was it trained so?

"inversion" and "noising" use one level for all frames and suit every family. "continuation" keeps the first frames
clean and noises the others, each frame at its own level.
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_lens.choices import check_choice

PATHS = ("inversion", "noising", "continuation")
# Families by what has a noise level: the whole clip, or each frame or token.
SCALED = ("cogvideox", "allegro")
ONE_TIME = {"mochi": "Mochi", "hunyuan": "HunyuanVideo", "hunyuan15": "HunyuanVideo 1.5"}
BY_FRAME = ("wan", "skyreels", "ltx", "ltx2", "cosmos")


@dataclass(frozen=True)
class PathSupport:
    """Whether a path suits a model.

    Attributes:
        possible: the path can be computed.
        trained: the model was trained on such inputs.
        reason: why not, in one phrase; empty if both are true.
    """

    possible: bool
    trained: bool
    reason: str = ""

    def check(self, name: str, path: str) -> None:
        """Checks that the path is possible.

        Raises:
            ValueError: the path is not possible; says why.
        """
        if not self.possible:
            raise ValueError(f"got path {path!r} on {name} · expected inversion or noising · {self.reason}")


def path_support(path: str, family: str, by_frame: bool = False, scaled: bool = False) -> PathSupport:
    """Whether a path suits a family.

    Args:
        family: its name, such as "wan".
        by_frame: whether the model was trained with a level for each frame (see `facts.trained_by_frame`).
        scaled: whether its latent is scaled by the level (Cosmos Predict 1), as in all of CogVideoX and Allegro.

    Raises:
        ValueError: unknown path.
    """
    if check_choice(path, PATHS, "path") != "continuation":
        return PathSupport(True, True)
    if scaled or family in SCALED:
        return PathSupport(False, False, f"{family} scales the whole latent by one noise level")
    if family in ONE_TIME:
        return PathSupport(False, False, f"{ONE_TIME[family]} takes one noise level for the whole clip")
    if family not in BY_FRAME:
        return PathSupport(False, False, f"it is not known whether {family} takes a noise level for each frame")
    if by_frame:
        return PathSupport(True, True)
    return PathSupport(True, False, "it works, but the model was not trained with a noise level for each frame")
