"""The sha256 of a file, computed once and cached until the file changes."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from pathlib import Path
from tempfile import gettempdir

from dit_lens.atomic_files import replace_atomically

CACHE = "DIT_LENS_CACHE"  # the environment variable that names the folder
# A file that changed less than this many seconds ago may change again within one time stamp: its digest is not cached.
SETTLED = 2.0
_warned: set[str] = set()


def cache_folder() -> Path:
    """The folder for cached results that are slow to compute: that in DIT_LENS_CACHE, or ~/.cache/dit_lens.

    For a user without a home folder (a container's user id without a name) it is a temporary folder.
    """
    if named := os.environ.get(CACHE):
        return Path(named)
    try:
        return Path.home() / ".cache" / "dit_lens"
    except RuntimeError:
        return Path(gettempdir()) / f"dit_lens-{os.getuid()}"


def is_kept(file: Path) -> bool:
    """Whether a file is in the cache folder; False where the folder cannot be read."""
    try:
        return file.is_file()
    except OSError:
        return False


def warn_unwritable(error: Exception) -> None:
    """Warns, once for each folder, that it cannot be written; the run continues without a cache."""
    folder = str(cache_folder())
    if folder not in _warned:
        _warned.add(folder)
        reason = getattr(error, "strerror", None) or error
        warnings.warn(
            f"got cache folder {folder}, which cannot be written ({reason}) · continuing without a cache · set"
            f" {CACHE}=/another/folder to use another one",
            stacklevel=3,
        )


def sha256(file: Path) -> str:
    """The sha256 of a file's content, as hex digits."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_sha256(file: Path) -> str:
    """The sha256 of a file, from the cache while the file has the same size, inode and modification times.

    Example:
        The first call reads 3 GB (some seconds), later calls in any process read a cached note of 200 bytes. Writing to
        the file changes its times, and replacing it also changes the inode: then it is read again.
    """
    file = Path(file).absolute()
    status = file.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    note = cache_folder() / "digests" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:32]}.json"
    try:
        saved = json.loads(note.read_text())
        if saved["state"] == state and saved["file"] == str(file):
            return saved["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or an incomplete one
    digest = sha256(file)
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED:
        keep(note, json.dumps({"file": str(file), "state": state, "sha256": digest}))
    return digest


def keep(note: Path, content: str) -> None:
    """Writes a file into the cache folder atomically; warns where the folder cannot be written."""
    try:
        with replace_atomically(note) as aside:
            aside.write_text(content)
    except OSError as error:
        warn_unwritable(error)
