"""Train here, test there: what is shared carries over, what is a domain's own does not, and no scene on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dit_lens.probing import Features, Grid, carry, estimator
from dit_lens.probing.controls import GRID
from dit_lens.probing.transfer import transfer

QUADS, WIDTH = 48, 5
GROUP = np.repeat(np.arange(QUADS), 4)
POSSIBLE = np.tile([True, True, False, False], QUADS)
SIGN = np.where(POSSIBLE, 1.0, -1.0)
EVERY = np.ones_like(POSSIBLE)
DOMAIN = np.array(["one", "two"])[GROUP % 2]
FEW = replace(GRID, folds=3, inner=2)


def clips(seed: int = 0, shared: float = 0.0, specific: float = 0.0) -> Features:
    """Noise in two cells; in the second a direction that both domains share, and one that each has to itself."""
    rng = np.random.default_rng(seed)
    noise, informative = (rng.normal(size=(len(GROUP), WIDTH)) for _ in range(2))
    informative[:, 0] += shared * SIGN
    informative[:, 1] += specific * SIGN * (DOMAIN == "one")
    informative[:, 2] += specific * SIGN * (DOMAIN == "two")
    return Features.of_arrays({"noise": noise, "informative": informative}, POSSIBLE, GROUP, ("source",), DOMAIN)


def reached(logits: np.ndarray, there: np.ndarray) -> float:
    return float(((logits > 0) == POSSIBLE)[there].mean())


def test_the_carried_probe_is_the_plain_one_of_the_cell_that_training_chooses() -> None:
    train, test = clips(0, shared=1.5), clips(1, shared=1.5)
    carried = carry(train, test)
    assert carried.cell == ("informative",) and carried.inside > 0.85
    plain = estimator().fit(train.cell("informative"), POSSIBLE).decision_function(test.cell("informative"))
    assert carried.logits == pytest.approx(plain, abs=1e-3)
    assert reached(carried.logits, EVERY) > 0.85


def test_the_choice_looks_at_training_clips_alone() -> None:
    train, test = clips(0, shared=1.5), clips(1)
    cells = {("noise",): test.cell("informative") + 3 * SIGN[:, None], ("informative",): test.cell("noise")}
    swapped = replace(test, cells=cells)
    assert carry(train, swapped).cell == ("informative",)
    assert reached(carry(train, swapped).logits, EVERY) < 0.65


@pytest.mark.parametrize(("shared", "specific"), [(1.5, 0.0), (0.0, 1.5)])
def test_what_domains_share_carries_over_and_what_is_their_own_does_not(shared: float, specific: float) -> None:
    by_domain = transfer(clips(2, shared, specific), DOMAIN, FEW)
    assert set(by_domain) == {"one", "two"}
    for name, logits in by_domain.items():
        own_domain = np.isin(DOMAIN, [str(name)])
        within, across = reached(logits, own_domain), reached(logits, ~own_domain)
        assert within > 0.8
        assert across > 0.8 if shared else 0.3 < across < 0.65


def test_no_scene_is_on_both_sides_even_where_domains_have_the_same_scenes() -> None:
    """Two seeds of a model see the same scenes, each of which is known by its own mark and by nothing else."""
    rng = np.random.default_rng(0)
    marks = rng.normal(size=(QUADS, 60))
    seeds, groups = np.repeat(["seed 0", "seed 1"], QUADS), np.tile(np.arange(QUADS), 2)
    labels = np.tile(rng.permutation(QUADS) % 2 == 0, 2)  # one label for each scene
    twice = {0: np.tile(marks, (2, 1))}
    strong = replace(FEW, strengths=(10.0,))

    def across(groups: np.ndarray) -> float:
        by_seed = transfer(Features.of_arrays(twice, labels, groups, ("cell",)), seeds, strong)
        return float(np.mean([((logits > 0) == labels)[seeds != name].mean() for name, logits in by_seed.items()]))

    assert 0.3 < across(groups) < 0.7
    # Split by clip, who remembers scenes knows them under the other seed.
    assert across(rng.permutation(2 * QUADS)) > 0.75


def test_other_cells_and_too_few_groups_are_refused() -> None:
    train = clips()
    with pytest.raises(ValueError, match="same model and pooling"):
        carry(train, train.select(source="noise"))
    with pytest.raises(ValueError, match="same model and pooling"):
        carry(train, replace(train, cells={key: x[:, :3] for key, x in train.cells.items()}))
    with pytest.raises(ValueError, match="got 2 groups · expected at least"):
        carry(train.at(np.arange(8)), train)
    with pytest.raises(ValueError, match="groups · expected at least"):
        transfer(train, np.where(GROUP < 2, "few", "many"), Grid((0.02,), folds=4, inner=3, progress=False))


def test_a_column_names_the_domains() -> None:
    mixed = clips(2, 1.5)
    by_name, by_array = transfer(mixed, "property", FEW), transfer(mixed, DOMAIN, FEW)
    assert list(by_name) == ["one", "two"]
    assert all(np.array_equal(by_name[name], by_array[name]) for name in by_name)
