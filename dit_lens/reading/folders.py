"""What is in a folder, and its images in the order of their numbers."""

from __future__ import annotations

import re
from pathlib import Path

STILL = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def list_visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files (macOS leaves `._name` beside each `name`).

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"got no folder {folder} · expected it · check the root and the split")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """The images of a folder by name, without hidden files."""
    return [file for file in list_visible(folder) if file.suffix.lower() in STILL]


def list_frames(folder: Path) -> list[Path]:
    """The images of a folder in the order of their numbers: one run, such as 1.png, 2.png ... 10.png or scene_001.png.

    Their names differ in the last number alone. A single image needs no number.

    Raises:
        FileNotFoundError: no such folder. ValueError: an image of no number or of another name, or a number that is
            missing or there twice; names the files.
    """
    files = list_images(folder)
    if len(files) < 2:
        return files
    expected = "expected one numbered run of frames, such as frame_001.png, frame_002.png"
    names: set[tuple[str, str]] = set()
    numbered: dict[int, Path] = {}
    for file in files:
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", file.name)  # the last number of the name
        if not match:
            raise ValueError(f"got {file}, without a number in its name · {expected} · move it elsewhere")
        names.add((match[1], match[3]))
        if len(names) > 1:
            raise ValueError(f"got {file} beside {files[0].name} · {expected} · keep each sequence in its own folder")
        number = int(match[2])
        if number in numbered:
            raise ValueError(f"got {file} and {numbered[number].name}, both with number {number} · {expected}")
        numbered[number] = file
    lowest, highest = min(numbered), max(numbered)
    missing = next((number for number in range(lowest, highest) if number not in numbered), None)
    if missing is not None:
        raise ValueError(
            f"got {folder} without number {missing}, between {numbered[lowest].name} and {numbered[highest].name}"
            f" · {expected} · unpack it again, or number the frames without gaps"
        )
    return [numbered[number] for number in sorted(numbered)]
