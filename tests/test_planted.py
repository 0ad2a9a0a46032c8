"""A planted head: nothing else changes, it learns, and what is written down says where to find it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dit_lens import edits
from dit_lens.lens import DiTLens
from dit_lens.models.codec import AutoencoderPatchPCA
from dit_lens.toy.mini_wan import assemble, new_transformer, save
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.training.flow_matching import encode_pairs
from dit_lens.toy.training.planted import Config, Planted, draw, run, teach

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
POINT = "blocks.3.hook_resid_mid_attn"


@pytest.fixture(scope="module")
def base(codec: AutoencoderPatchPCA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the untrained mini-wan."""
    folder = tmp_path_factory.mktemp("base")
    save(assemble(new_transformer(0), codec), folder)
    return folder


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on head 2 of block 3."""
    out = tmp_path_factory.mktemp("planted")
    return run(Config(str(base), out, block=3, head=2, quadruplets=6, held_out=3, steps=2, batch_size=2))


@pytest.fixture(scope="module")
def pairs(codec: AutoencoderPatchPCA) -> torch.Tensor:
    return encode_pairs(codec, MiniPhys("pretrain", 4, ["colour"])).unflatten(0, (-1, 2))


def test_nothing_but_the_head_changes(base: Path, folder: Path) -> None:
    before, after = load_file(base / WEIGHTS), load_file(folder / WEIGHTS)
    moved = {name: before[name] != after[name] for name in before if not torch.equal(before[name], after[name])}
    parts = [f"to_{letter}.{kind}" for letter in "qkv" for kind in ("weight", "bias")]
    assert set(moved) == {f"blocks.3.attn1.{part}" for part in (*parts, "to_out.0.weight")}
    for name, where in moved.items():
        inside = where[:, 64:96] if "to_out" in name else where[64:96]
        assert inside.any() and inside.sum() == where.sum(), name


def test_a_lens_reads_the_planted_logit_and_silences_the_head(folder: Path, pairs: torch.Tensor) -> None:
    facts, u = (
        json.loads((folder / "planted.json").read_text()),
        load_file(folder / "direction.safetensors")["direction"],
    )
    assert (facts["block"], facts["head"], facts["point"], facts["seed"]) == (3, 2, POINT, 0)
    assert float(u.norm()) == pytest.approx(1)
    lens = DiTLens.from_pretrained(folder)
    noisy, _, levels = draw(pairs, 0.0, torch.Generator().manual_seed(0))
    _, cache = lens.run_with_cache(latent=noisy, timestep=0.0, names_filter=POINT)
    with lens.hooks([("blocks.3.attn.hook_z", edits.zero(heads=[2]))]):
        _, silent = lens.run_with_cache(latent=noisy, timestep=0.0, names_filter=POINT)
    planted = Planted(lens.transformer, Config(block=3, head=2))
    with torch.no_grad():
        whole, _ = planted(noisy, levels)
        planted.slices[0].zero_()
        without, _ = planted(noisy, levels)
    assert torch.equal(planted.direction, u)
    torch.testing.assert_close(cache[POINT].mean(1) @ u, whole)
    torch.testing.assert_close(silent[POINT].mean(1) @ u, without)
    assert not torch.allclose(whole, without)


def test_the_card_tells_what_was_measured(folder: Path) -> None:
    measured = json.loads((folder / "planted.json").read_text())["measured"]
    assert list(measured) == ["base", "planted", "planted, z of the head zero"]
    card = (folder / "README.md").read_text()
    for row in measured.values():
        assert list(row) == ["accuracy", "permanence", "colour", "inertia", "d'", "flow-matching loss"]
        assert f"{row['flow-matching loss']:.4f}" in card
    assert "--block 3 --head 2" in card


def test_a_batch_holds_the_crossings_of_its_clips(pairs: torch.Tensor) -> None:
    noisy, velocity, levels = draw(pairs, 0.8, torch.Generator().manual_seed(0))
    assert levels.shape == (16, 5) and (levels.unflatten(0, (4, 4)) == levels[::4, None]).all()
    for x in (noisy, velocity):
        a, b, c, d = x.unflatten(0, (4, 4)).unbind(1)
        assert torch.equal(c[:, :, :3], a[:, :, :3]) and torch.equal(c[:, :, 3:], b[:, :, 3:])
        assert torch.equal(d[:, :, :3], b[:, :, :3]) and torch.equal(d[:, :, 3:], a[:, :, 3:])


def test_the_head_learns_a_few_quadruplets_by_heart(pairs: torch.Tensor) -> None:
    config = Config(block=3, head=2, steps=60, batch_size=4, sigma_max=0.0, flow_weight=0.0)
    planted = Planted(new_transformer(0), config)
    component, _ = planted.measure(pairs, config)
    planted.offset, planted.scale = float(component.mean()), float(component.std())
    losses = teach(planted, pairs, config)
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"properties": ("incline",)}, "crossed property"), ({"block": 6}, "blocks below 6"), ({"head": 4}, "below 4")],
)
def test_bad_options_are_told(base: Path, tmp_path: Path, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run(Config(str(base), tmp_path, **options))
