"""`python -m dit_lens` says what is installed, and where to start."""

from __future__ import annotations

import importlib.metadata as metadata
import subprocess
import sys

import pytest
import torch

import dit_lens as dl
from dit_lens import __main__ as main
from dit_lens.models import BUNDLED


def test_it_prints_versions_devices_extras_models_and_first_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "dit_lens"], capture_output=True, text=True, check=True)
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert lines["dit_lens"].startswith(f"{dl.__version__}, ")
    assert f"torch {torch.__version__}" in lines["packages"]
    assert lines["devices"].startswith("cpu") and ("cuda" in lines["devices"]) == torch.cuda.is_available()
    assert all(name in lines["models"] for name in BUNDLED)
    assert "python -m analyses.patch_heads" in done.stdout


def test_an_extra_lacks_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def without(package: str) -> str:
        if package == "av":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    assert main.extras()["video"] == []
    monkeypatch.setattr(metadata, "version", without)
    assert main.extras()["video"] == ["av"]
