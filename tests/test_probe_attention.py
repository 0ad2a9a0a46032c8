"""Attention as features: rows are the clips', cells are found where a label is planted and nowhere else; figure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import build
from spliced import crossed_at

import analyses.command
from analyses.probe_attention import Config, looked, run, scored
from dit_lens.capture import encode, partly_noised, spliced_noise
from dit_lens.clips import ROLES, Scene
from dit_lens.lens import DiTLens
from dit_lens.measures.probe_attention import ALL, STATES, accuracies, chosen
from dit_lens.probing import Features
from dit_lens.running import HookedTransformer

SMALL = Config(read_at=(2,), sampler_steps=4, batch_size=2, controls=()).resolved()


def test_rows_are_the_clips_in_order_and_cells_what_the_pattern_says(lens: DiTLens, quadruplets: list[Scene]) -> None:
    some = [crossed_at(quadruplets[0], (9,)), crossed_at(quadruplets[1], (5,)), quadruplets[2]]  # two batches
    features = looked(SMALL, lens, some)
    assert features.groups.tolist() == [scene.id for scene in some for _ in ROLES]
    assert features.labels.tolist() == [True, True, False, False] * len(some)
    clean, sigma = encode(lens.encode, some), lens.schedule(4).sigmas[2]
    counts = [3, 2, some[2].splice // 4 + 1] * len(ROLES)
    fed = partly_noised(lens, clean, spliced_noise(clean, some, SMALL.seed), sigma, counts)
    _, cache = lens.run_with_cache(**fed, names_filter=["blocks.1.attn.hook_pattern", "blocks.1.hook_resid_post"])
    by_frame = cache["blocks.1.attn.hook_pattern"].unflatten(3, (5, -1)).sum(4).unflatten(2, (5, -1)).mean(3)
    by_hand = by_frame.unflatten(0, (len(ROLES), len(some))).transpose(0, 1).flatten(0, 1)
    masses = torch.from_numpy(features.cell(1, ALL)).unflatten(1, by_hand.shape[1:])
    torch.testing.assert_close(masses, by_hand, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(masses[:1], masses[1:], atol=1e-4)
    for head in range(lens.heads):
        np.testing.assert_array_equal(features.cell(1, str(head)), masses[:, head].flatten(1).numpy())
    states = cache.grid("resid_post", 1).mean((2, 3)).flatten(1)
    states = states.unflatten(0, (len(ROLES), len(some))).transpose(0, 1).flatten(0, 1)
    np.testing.assert_allclose(features.cell(1, STATES), states, atol=1e-4)


def test_attention_over_text_and_video_is_refused_in_one_line() -> None:
    joint: Any = SimpleNamespace(table=HookedTransformer(build("hunyuan"), "hunyuan").table)
    with pytest.raises(ValueError, match="video alone") as refused:
        looked(SMALL, joint, [])
    assert "\n" not in str(refused.value)


def planted(scenes: int, there: bool, seed: int) -> Features:
    """Noise everywhere, and possibility in block 1, head 0, if it is there."""
    rng = np.random.default_rng(seed)
    possible = np.tile([True, True, False, False], scenes)
    cells = {
        (block, name): rng.standard_normal((len(possible), 4)) for block in (0, 1) for name in ("0", "1", ALL, STATES)
    }
    if there:
        cells[1, "0"][:, 2] += 6 * possible
    groups = np.repeat([f"scene {i}" for i in range(scenes)], len(ROLES))
    features = Features.of_arrays(cells, possible, groups, ("block", "feature"))
    return Features(features.cells, features.clips.assign(role=list(ROLES) * scenes), features.dims)


@pytest.mark.parametrize("there", [True, False])
def test_a_planted_label_is_found_where_it_is_and_noise_is_not(there: bool) -> None:
    table = scored(planted(40, there, 0), planted(40, there, 1), Config(permutations=39)).expand_dims(source=["x"])
    best, reached = chosen(table).sel(source="x"), accuracies(table).sel(source="x")
    head = best.sel(kind="one head")
    assert (float(head.accuracy) > 0.95) == there and (float(table.p[0]) < 0.05) == there
    elsewhere = [float(best.accuracy.sel(kind=kind)) for kind in (ALL, STATES)]
    assert all(accuracy < 0.65 for accuracy in elsewhere)
    if there:
        assert (int(head.cell_block), head.cell_feature.item()) == (1, "0") and float(head.low) > 0.9
        assert float(reached.sel(block=1, feature="0")) == float(reached.max()) == float(head.accuracy)


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--controls", "mini-wan-random", "--train", "6", "--test", "4", "--sampler-steps", "4", "--read-at", "2"]
    arguments = [*few, "--permutations", "5", "--out", str(tmp_path), "--full"]
    path, figure = analyses.command.answered(
        "probe_attention", analyses.command.parse(Config, "probe_attention", arguments, None), run, arguments
    )
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("mini-wan-random", "one head", ALL, STATES, "too few labellings"))
    assert path.is_file() and figure.stat().st_size > 5000
