"""Writes a split of quadruplets to disk in the layout of IntPhys 2019 (Riochet et al., intphys.cognitive-ml.fr).

    OUT/dev/O1/01/1/scene/scene_001.png ...    frames, 8-bit RGB, lossless
    OUT/dev/O1/01/1/status.json                {"header": {"block_name", "block_type", "is_possible"}}
    OUT/dev/O1/01/2 ... 4, 02 ..., O2 ...
    OUT/dev_metadata.json                      the source of each clip, and the seed of the shuffling

The four clips of a scene are in shuffled order, so that labels come from status.json alone. A clip whose label is
unknown has no status.json, like IntPhys' own test set. There are no depth images and no masks.

    python -m dit_lens.datasets.export --dataset miniphys --split test --quadruplets 100 --out DIR

O1 is object permanence, O2 shape constancy and O3 continuity as in IntPhys. The other properties of miniphys follow as
O4 (colour), O5 (inertia), O6 (gravity), O7 (solidity), O8 (incline), O9 (exchange), O10 (collision) and O11 (gate);
readers that know three blocks are served by `--blocks permanence O1 shape O2 continuity O3`, which writes these alone.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from dit_lens import datasets
from dit_lens.atomic_files import folder_atomically, replace_atomically
from dit_lens.choices import check_choice
from dit_lens.clips import Clip, Scene

BLOCKS = {
    "permanence": "O1",
    "shape": "O2",
    "continuity": "O3",
    "colour": "O4",
    "inertia": "O5",
    "gravity": "O6",
    "solidity": "O7",
    "incline": "O8",
    "exchange": "O9",
    "collision": "O10",
    "gate": "O11",
}
SPLITS = ("dev", "test")


@dataclass(frozen=True)
class Config:
    """What is written, and where."""

    out: Path
    """Folder to write to; the split becomes a folder of it."""
    dataset: str = "miniphys"
    """Which data set."""
    split: str = "test"
    """Split of that data set."""
    quadruplets: int = 100
    """How many scenes (four clips each)."""
    size: int = 32
    """Height and width of the frames in pixels."""
    seed: int = 0
    """Seed of the data set."""
    name: str = "dev"
    """What the split is called on disk: dev or test."""
    blocks: dict[str, str] | None = None
    """Properties that are written and the block of each, such as: permanence O1 shape O2 (by default all)."""
    shuffle: int = 0
    """Seed of the order of the four clips."""


def export_intphys(
    quadruplets: Sequence[Scene],
    folder: Path,
    split: str = "dev",
    blocks: Mapping[str, str] = BLOCKS,
    shuffle: int = 0,
) -> Path:
    """Writes quadruplets as an IntPhys split; returns its folder, `folder / split`.

    Scenes are numbered from 1 in each block. Numbers have as many digits as the number of all scenes, as in IntPhys,
    and at least two; those of frames have at least three. A scene is written completely or not at all.

    Args:
        quadruplets: the scenes to write, of any properties in any order.
        folder: may exist; `folder / split` must be empty or not exist.
        split: "dev" or "test".
        blocks: block of each property.
        shuffle: seed of the order of the four clips; scene i depends on (shuffle, i) alone.

    Raises:
        ValueError: another split, or a property without a block.
        FileExistsError: `folder / split` is not empty.
    """
    target = Path(folder) / check_choice(split, SPLITS, "IntPhys split")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(
            f"got {target}, which is not empty · expected a new folder · pass another one, or delete it"
        )
    target.mkdir(parents=True, exist_ok=True)
    digits, scenes, numbers = max(2, len(str(len(quadruplets)))), {}, Counter()
    for index, quadruplet in enumerate(tqdm(quadruplets, desc="scenes", unit="scene", disable=None)):
        block = blocks[check_choice(quadruplet.property, blocks, "property without a block:")]
        numbers[block] += 1
        scene = f"{block}/{numbers[block]:0{digits}}"
        order = np.random.default_rng([shuffle, index]).permutation(4)
        clips = [quadruplet.clips[i] for i in order]
        with folder_atomically(target / scene) as aside:
            for number, clip in enumerate(clips, start=1):
                _write_clip(clip, aside / str(number), block)
        scenes[scene] = _origin(quadruplet, clips)
    with replace_atomically(Path(folder) / f"{split}_metadata.json") as aside:
        aside.write_text(json.dumps({"shuffle": shuffle, "blocks": dict(blocks), "scenes": scenes}, indent=1))
    return target


def _write_clip(clip: Clip, folder: Path, block: str) -> None:
    (folder / "scene").mkdir(parents=True)
    digits = max(3, len(str(len(clip.frames))))
    for number, frame in enumerate(clip.frames, start=1):
        Image.fromarray(frame).save(folder / "scene" / f"scene_{number:0{digits}}.png", format="PNG")
    if clip.possible is not None:
        header = {"block_name": block, "block_type": "test", "is_possible": clip.possible}
        (folder / "status.json").write_text(json.dumps({"header": header}, indent=4))


def _origin(quadruplet: Scene, clips: Sequence[Clip]) -> dict[str, Any]:
    """The metadata that the layout cannot hold: the quadruplet, and the clip of each sub-directory."""
    return {
        "group": quadruplet.id,
        "property": quadruplet.property,
        "event": quadruplet.event,
        "splice": quadruplet.splice,
        "crossed": quadruplet.crossed,
        "fps": quadruplet["A"].fps,
        "clips": {str(number): clip.id for number, clip in enumerate(clips, start=1)},
    }


def run(config: Config) -> Path:
    """Loads the split and writes it; returns its folder."""
    blocks = config.blocks or BLOCKS
    options: dict[str, Any] = {"seed": config.seed, "size": config.size, "properties": tuple(blocks)}
    loaded = datasets.load(config.dataset, split=config.split, quadruplets=config.quadruplets, **options)
    return export_intphys(loaded, config.out, config.name, blocks, config.shuffle)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes a split from the command line; bad input ends with status 2 and one line, Ctrl-C with status 130."""
    config = tyro.cli(Config, args=arguments, prog="python -m dit_lens.datasets.export", description=__doc__)
    try:
        print("wrote", run(config))
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the scenes that were written are complete", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
