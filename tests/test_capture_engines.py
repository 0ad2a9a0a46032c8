"""A store made by workers is the store made in this process, to the byte; what kills a worker is redone or named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from stores import names, shards

from dit_lens import datasets, edits
from dit_lens.capture import NoisePath, Recipe, Share, StoreFolder, Take, capture, fill, survey
from dit_lens.capture.distributing import Make, Try, _Course, carried_out, setup_of
from dit_lens.capture.storing import Run
from dit_lens.clips import Scene
from dit_lens.engines import Engine, Outcome
from dit_lens.lens import DiTLens
from dit_lens.store import StoreWriter, merge, open_store

SPLIT = datasets.load("miniphys", split="test", quadruplets=5)
RECIPE = Recipe((Take.parse("blocks.*.hook_resid_post=mean"),), (1, 2), NoisePath(sampler_steps=3), batch_size=2)
LOCAL = Engine("processes", 2)
ITEMS = range(5)


@pytest.fixture(scope="module")
def loaded() -> DiTLens:
    """A lens that workers can load too."""
    return DiTLens.from_pretrained("mini-wan-random", verify=False)


@pytest.fixture(scope="module")
def whole(loaded: DiTLens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store made in this process."""
    return stored(loaded, tmp_path_factory.mktemp("whole") / "store")


def stored(lens: DiTLens, folder: Path, scenes: Sequence[Scene] = SPLIT, **options: Any) -> Path:
    plan, _ = survey(lens, scenes, RECIPE, {"made": "up"})
    fill(lens, scenes, RECIPE, StoreWriter(folder, plan, "{}"), **options)
    return folder


class Fatal(Sequence[Scene]):
    """A data set whose items kill the process that reads them: some always, others as often as a folder allows."""

    def __init__(self, folder: Path, always: frozenset[int] = frozenset(), once: frozenset[int] = frozenset()):
        self.folder, self.always, self.once, self.home = folder, always, once, os.getpid()

    def __len__(self) -> int:
        return len(SPLIT)

    def __getitem__(self, number: int) -> Scene:  # pyright: ignore[reportIncompatibleMethodOverride]
        mark = self.folder / f"{number}"
        if os.getpid() != self.home and (number in self.always or (number in self.once and not mark.exists())):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return SPLIT[number]


class Fake:
    """A pool in this process, whose workers "die" at orders that a function names."""

    def __init__(self, run: Run, dies: Callable[[Make | Try], bool]):
        self.run, self.dies, self.orders, self.carried = run, dies, list[Make | Try](), list[Make | Try]()

    @property
    def pending(self) -> int:
        return len(self.orders)

    def submit(self, order: Make | Try) -> None:
        self.orders.append(order)

    def outcome(self) -> Outcome:
        order = self.orders.pop(0)
        self.carried.append(order)
        return Outcome(order, died="exit code -9") if self.dies(order) else Outcome(order, carried_out(self.run, order))


def course(lens: DiTLens, folder: Path, dies: Callable[[Make | Try], bool], skips: bool = True) -> Fake:
    """A run whose workers die at some orders."""
    plan, _ = survey(lens, SPLIT, RECIPE, {"made": "up"})
    writer = StoreWriter(folder, plan, "{}")
    writer.begin()
    workers = Fake(Run(lens, SPLIT, RECIPE, writer, skips), dies)
    batches: Any = _Course(workers.run, workers).batches(writer.todo())  # pyright: ignore[reportArgumentType]
    list(batches)
    return workers


def test_workers_make_the_store_of_one_process_though_one_is_killed(
    loaded: DiTLens, whole: Path, tmp_path: Path
) -> None:
    deadly = Fatal(tmp_path, once=frozenset({3}))
    with pytest.warns(UserWarning, match=r"worker that died \(exit code -9\) in batch 1"):
        out = stored(loaded, tmp_path / "store", deadly, engine=LOCAL)
    assert shards(out) == shards(whole) and names(out) == names(whole)
    assert len((out / "index.jsonl").read_text().splitlines()) == 3
    assert open_store(out, verify=True).clips.id.tolist() == open_store(whole).clips.id.tolist()


@pytest.mark.filterwarnings("ignore:got a worker that died")
def test_an_item_that_kills_every_worker_is_named_and_the_others_are_kept(loaded: DiTLens, tmp_path: Path) -> None:
    kills = lambda order: 3 in ({order.item} if isinstance(order, Try) else of(order))  # noqa: E731
    workers = course(loaded, tmp_path / "skipped", kills)
    store = open_store(tmp_path / "skipped", verify=True)
    assert store.errors.item.tolist() == [3] and "exit code -9" in store.errors.error[0]
    assert store.clips.group.unique().tolist() == [SPLIT[number].id for number in (0, 1, 2, 4)]
    assert sum(isinstance(order, Make) and order.batch == 1 for order in workers.carried) == 4
    assert sum(isinstance(order, Try) for order in workers.carried) == 3
    with pytest.raises(ValueError, match="got item 3, which cannot be captured"):
        course(loaded, tmp_path / "stopped", kills, skips=False)
    assert open_store(tmp_path / "stopped", partial=True).errors.item.tolist() == [3]


def of(order: Make) -> set[int]:
    """The items that an order reads."""
    return {*ITEMS[2 * order.batch : 2 * order.batch + 2]} - {failure.item for failure in order.dropped}


@pytest.mark.filterwarnings("ignore:got a worker that died")
def test_a_batch_that_kills_though_no_item_does_ends_the_run(loaded: DiTLens, tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=r"batch 1, which killed 3 workers .* --batch-size"):
        course(loaded, tmp_path / "store", lambda order: isinstance(order, Make) and order.batch == 1)
    assert open_store(tmp_path / "store", partial=True).missing == [1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:got a worker that died")
def test_with_real_workers_an_item_that_kills_is_named_too(loaded: DiTLens, whole: Path, tmp_path: Path) -> None:
    deadly = Fatal(tmp_path, always=frozenset({3}))
    store = open_store(stored(loaded, tmp_path / "store", deadly, on_error="skip", engine=LOCAL), verify=True)
    assert store.errors.item.tolist() == [3]
    data_of = shards(tmp_path / "store")
    assert {name: data for name, data in data_of.items() if "1" not in name} == {
        name: data for name, data in shards(whole).items() if "1" not in name
    }


def test_shares_together_are_the_whole(loaded: DiTLens, whole: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        stored(loaded, tmp_path / f"{number}", share=Share(number, 2))
    assert open_store(tmp_path / "1", partial=True).missing == [1]
    store = merge(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    assert store.missing == [] and shards(tmp_path / "merged") == shards(whole)
    assert [Share.parse(f"{i}/3").of(range(7)) for i in (1, 2, 3)] == [[0, 3, 6], [1, 4], [2, 5]]
    for text in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(ValueError, match="got shard"):
            Share.parse(text)


def test_a_lens_that_workers_cannot_load_is_refused(loaded: DiTLens, tmp_path: Path) -> None:
    in_memory = DiTLens(loaded.pipeline, "mine", loaded.conditioning, verify=False)
    with pytest.raises(ValueError, match="weights are in the memory of this process only"):
        stored(in_memory, tmp_path / "store", engine=LOCAL)
    with (
        loaded.hooks([("blocks.2.attn.hook_z", edits.zero())]),
        pytest.raises(ValueError, match="got hooks on mini-wan-random"),
    ):
        loaded.run_with_cache(loaded.invert(SPLIT[0].clips[:1], steps=3, until=1), step=1)
        stored(loaded, tmp_path / "store", engine=LOCAL)
    assert not (tmp_path / "store").exists()


def test_a_worker_that_differs_from_the_plan_is_refused(tmp_path: Path) -> None:
    lens = DiTLens.from_pretrained("mini-wan-random", verify=False)
    plan, _ = survey(lens, SPLIT, RECIPE, {"made": "up"})
    writer = StoreWriter(tmp_path / "store", plan, "{}")
    run = Run(lens, SPLIT, RECIPE, writer, skips=False)
    with pytest.raises(FileNotFoundError, match="expected a store"):
        setup_of(run)()
    writer.begin()
    setup_of(run)()
    with torch.no_grad():
        next(lens.transformer.blocks[3].parameters()).mul_(1.001)
    with pytest.raises(ValueError, match="worker with other weights"):
        setup_of(run)()


@pytest.mark.slow
def test_capture_goes_through_the_engine_of_its_folder(loaded: DiTLens, tmp_path: Path) -> None:
    here = capture(loaded, SPLIT, RECIPE, StoreFolder(tmp_path / "here", {}))
    apart = capture(loaded, SPLIT, RECIPE, StoreFolder(tmp_path / "apart", {}, Engine("processes", 1)))
    for key, values in here["resid_post.mean"].cells.items():
        assert (values == apart["resid_post.mean"].cells[key]).all()
