"""Shared fixtures: a few quadruplets, a codec fitted on them, and a lens on the mini-wan architecture untrained."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one thread to a worker

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lens.clips import Scene
from dit_lens.conditioning import Conditioning
from dit_lens.inversion.prompts import CACHE
from dit_lens.lens import DiTLens
from dit_lens.models.codec import AutoencoderPatchPCA, fit_patch_pca
from dit_lens.toy.mini_wan import assemble, empty_prompt, new_transformer
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.video import to_tensor

pytest_plugins = ("released.fixtures",)


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test encodes ends in the user's cache, or comes from it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def quadruplets() -> list[Scene]:
    """Ten of the test split, two of each property."""
    return MiniPhys("test", quadruplets=10)[:]


@pytest.fixture(scope="session")
def videos() -> Tensor:
    """The clips that the codec is fitted on, (64, 3, 17, 32, 32) in [-1, 1]."""
    clips = [clip for quadruplet in MiniPhys("pretrain", quadruplets=16) for clip in quadruplet.clips]
    return to_tensor(np.stack([clip.frames for clip in clips]))


@pytest.fixture(scope="session")
def codec(videos: Tensor) -> AutoencoderPatchPCA:
    """The codec of mini-wan, fitted on `videos` in two batches."""
    return fit_patch_pca(videos.split(32))


@pytest.fixture(scope="session")
def lens(codec: AutoencoderPatchPCA) -> DiTLens:
    """A lens on mini-wan at random initialisation (its proj_out included, so that its velocity is not zero)."""
    pipeline = assemble(new_transformer(0), codec)
    return DiTLens(pipeline, "mini-wan-untrained", Conditioning({"encoder_hidden_states": empty_prompt()}))


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers of a test's own."""
    return torch.Generator().manual_seed(0)
