"""A digest that is remembered is that of the file as it is now."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from dit_lens import models
from dit_lens.models import digests
from dit_lens.models.digests import CACHE, remembered_sha256, sha256
from dit_lens.models.loading import fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -1.0)  # files of a test are new
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is read to be hashed, in turn."""
    files: list[Path] = []
    monkeypatch.setattr(digests, "sha256", lambda file: files.append(Path(file)) or sha256(file))
    return files


def test_a_file_is_hashed_once_for_as_long_as_it_stays_as_it_is(tmp_path: Path, hashed: list[Path]) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one" * 1000)
    first = remembered_sha256(file)
    assert remembered_sha256(file) == first == sha256(file) and hashed == [file]


def same_size_and_time(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"two" * 1000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_file(file: Path) -> None:
    before = file.stat()
    replacement = file.with_suffix(".other")
    replacement.write_bytes(b"two" * 1000)
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.replace(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"two" * 1000),
        lambda file: file.write_bytes(b"longer" * 1000),
        same_size_and_time,
        another_file,
    ],
)
def test_whatever_changes_a_file_changes_its_digest(tmp_path: Path, change, hashed: list[Path]) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one" * 1000)
    first = remembered_sha256(file)
    time.sleep(0.02)  # file systems count time in steps
    change(file)
    assert remembered_sha256(file) == sha256(file) != first and len(hashed) == 2


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path, hashed: list[Path], monkeypatch) -> None:
    monkeypatch.setattr(digests, "SETTLED", 100.0)
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    assert remembered_sha256(file) == remembered_sha256(file) and len(hashed) == 2


def test_a_damaged_note_is_not_believed(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    remembered_sha256(file)
    (note,) = (cache / "digests").iterdir()
    for content in ("", "[]", '{"state": 3}', note.read_text()[:-20]):
        note.write_text(content)
        assert remembered_sha256(file) == sha256(file)


def test_without_a_cache_folder_files_are_hashed_and_the_user_is_told_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    monkeypatch.setattr(digests, "_warned", set())
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    with pytest.warns(UserWarning, match="which cannot be written") as warned:
        assert remembered_sha256(file) == remembered_sha256(file) == sha256(file)
    assert len(warned) == 1


def test_a_fingerprint_reads_no_file_twice_and_sees_every_change(tmp_path: Path, hashed: list[Path]) -> None:
    folder = Path(shutil.copytree(models.locate("mini-wan"), tmp_path / "model"))
    first = fingerprint(folder)
    count = len(hashed)
    assert count > 3 and fingerprint(folder) == first and len(hashed) == count
    twin = fingerprint(f"{folder}@random")
    assert twin != first
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert fingerprint(folder) != first and fingerprint(f"{folder}@random") == twin  # it has no use for them
    assert fingerprint(f"{folder}@step500") not in (first, fingerprint(folder))
    assert fingerprint("owner/never-fetched") == "owner/never-fetched"
