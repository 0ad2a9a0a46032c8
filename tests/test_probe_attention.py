"""Attention as features: rows are the clips', cells are found where a label is planted and nowhere else; figure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import analyses.command
import figures.output
from analyses import probe_attention
from analyses.probe_attention import ALL, STATES, Config, Seen, accuracies, chosen, look, score
from dit_lens.capture import encode, partly_noised, spliced_noise
from dit_lens.clips import ROLES, Quadruplet
from dit_lens.lens import DiTLens
from figures import probe_attention as figure

SMALL = Config(step=2, levels=4, batch_size=2)


def test_rows_are_the_clips_in_order_and_cells_what_the_pattern_says(
    lens: DiTLens, quadruplets: list[Quadruplet]
) -> None:
    some = quadruplets[:3]  # a whole batch and a part of one
    seen = look(lens, some, SMALL)
    assert seen.group.tolist() == [q.id for q in some for _ in ROLES]
    assert seen.possible.tolist() == [True, True, False, False] * len(some)
    clean, sigma = encode(lens.encode, some), lens.schedule(SMALL.levels).sigmas[SMALL.step]
    fed = partly_noised(lens, clean, spliced_noise(clean, some, SMALL.seed), sigma, given=3)
    _, cache = lens.run_with_cache(**fed, names_filter="blocks.1.attn.hook_pattern")
    by_frame = cache["blocks.1.attn.hook_pattern"].unflatten(3, (5, -1)).sum(4).unflatten(2, (5, -1)).mean(3)
    by_hand = by_frame.unflatten(0, (len(ROLES), len(some))).transpose(0, 1).flatten(0, 1)
    found = torch.from_numpy(seen.cells[1, ALL]).unflatten(1, by_hand.shape[1:])
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[:1], found[1:], atol=1e-4)
    for head in range(lens.heads):
        np.testing.assert_array_equal(seen.cells[1, str(head)], found[:, head].flatten(1).numpy())


def planted(quadruplets: int, told: bool, seed: int) -> Seen:
    """Noise everywhere, and possibility in block 1, head 0, if it is told."""
    rng = np.random.default_rng(seed)
    possible = np.tile([True, True, False, False], quadruplets)
    cells = {
        (block, name): rng.standard_normal((len(possible), 4)) for block in (0, 1) for name in ("0", "1", ALL, STATES)
    }
    if told:
        cells[1, "0"][:, 2] += 6 * possible
    return Seen(cells, possible, np.repeat([f"scene {i}" for i in range(quadruplets)], len(ROLES)))


@pytest.mark.parametrize("told", [True, False])
def test_a_planted_label_is_found_where_it_is_and_noise_is_not(told: bool) -> None:
    made = score(planted(40, told, 0), planted(40, told, 1), Config(permutations=39)).expand_dims(source=["x"])
    best, reached = chosen(made).sel(source="x"), accuracies(made).sel(source="x")
    head = best.sel(kind="one head")
    assert (float(head.accuracy) > 0.95) == told and (float(made.p[0]) < 0.05) == told
    elsewhere = [float(best.accuracy.sel(kind=kind)) for kind in (ALL, STATES)]
    assert all(accuracy < 0.65 for accuracy in elsewhere)
    if told:
        assert (int(head.cell_block), head.cell_feature.item()) == (1, "0") and float(head.low) > 0.9
        assert float(reached.sel(block=1, feature="0")) == float(reached.max()) == float(head.accuracy)


def test_table_and_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--controls", "mini-wan-random", "--train", "10", "--test", "10", "--levels", "4", "--step", "2"]
    monkeypatch.setattr(analyses.command, "DATA", tmp_path / "data")
    monkeypatch.setattr(figures.output, "OUT", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["probe_attention", *few, "--permutations", "5"])
    analyses.command.main(
        Config, probe_attention.run, probe_attention.table, figure.draw, "probe_attention", probe_attention.__doc__
    )
    told = capsys.readouterr().out
    assert all(text in told for text in ("mini-wan-random", "one head", ALL, STATES, "labellings are too few"))
    assert (tmp_path / "out" / "probe_attention.pdf").stat().st_size > 5000
