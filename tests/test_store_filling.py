"""Capture to disk: what the lens gives is stored; failures are named; killed and started again it is the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import in_child, kill, names, shards
from torch import Tensor

from dit_lens import datasets, edits
from dit_lens.capture import CaptureCost, NoisePath, Recipe, Take, features, fill, survey
from dit_lens.capture.collecting import Collector, settle
from dit_lens.clips import Scene
from dit_lens.hook_points import Hook
from dit_lens.lens import DiTLens
from dit_lens.reductions import Named
from dit_lens.store import StoreWriter, open_store

SPLIT = datasets.load("miniphys", split="test", quadruplets=5)
TAKES = (
    Take.parse("blocks.*.hook_resid_post=mean,moments.space_mean"),
    Take.parse("blocks.[14].attn.hook_z=none"),
    Take.parse("hook_velocity=none"),
)
RECIPE = Recipe(TAKES, (1, 2), NoisePath(sampler_steps=3), batch_size=2)


def store_of(lens: DiTLens, split: Sequence[Scene], folder: Path, recipe: Recipe = RECIPE, **options: str):
    plan, _ = survey(lens, split, recipe)
    fill(lens, split, recipe, StoreWriter(folder, plan, "{}"), **options)
    return open_store(folder, verify=True)


@pytest.fixture(scope="module")
def whole(lens: DiTLens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all five items, made in one go."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    store_of(lens, SPLIT, folder)
    return folder


class Broken(Sequence[Scene]):
    """A data set of which some items cannot be read."""

    def __init__(self, unreadable: set[int]):
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(SPLIT)

    def __getitem__(self, number: int) -> Scene:  # pyright: ignore[reportIncompatibleMethodOverride]
        if number in self.unreadable:
            raise OSError(f"cannot decode clip{number}.mp4")
        return SPLIT[number]


def test_what_is_stored_is_what_the_lens_gives(lens: DiTLens, whole: Path) -> None:
    store = open_store(whole)
    clips = [clip for item in (SPLIT[2], SPLIT[3]) for clip in item.clips]
    by_role = [clip for role in range(4) for clip in clips[role::4]]
    path = lens.invert(by_role, steps=3, solver="euler", until=2)
    velocity, cache = lens.run_with_cache(path, step=2)
    order = [by_role.index(clip) for clip in clips]
    z = store.tensor("attn.z.none", clip=slice(8, 16), step=1, block=1)
    assert store["attn.z.none"].block.values.tolist() == [1, 4]
    assert torch.equal(z.flatten(1, 3), cache["z", 4][order])
    assert not torch.equal(z.flatten(1, 3), cache["z", 3][order])
    assert torch.equal(store.tensor("velocity.none", clip=slice(8, 16), step=1), velocity[order])
    mean = store["resid_post.mean"].sel(step=2, block=5, clip=[clip.id for clip in clips]).values
    torch.testing.assert_close(torch.from_numpy(mean), cache["resid_post", 5].mean(1)[order])


def test_the_store_agrees_with_the_features_in_memory(lens: DiTLens, whole: Path) -> None:
    memory = features(lens, SPLIT, [1, 2], NoisePath(sampler_steps=3), pooling="tokens", batch_size=2)
    stored = open_store(whole)["resid_post.mean"]
    assert stored["clip"].values.tolist() == memory.clips.id.tolist()
    assert stored.group.values.tolist() == memory.clips.group.tolist()
    for (step, block), values in memory.cells.items():
        np.testing.assert_allclose(stored.sel(step=step, block=block).values, values, rtol=0, atol=2e-6)
    assert np.array_equal(stored.possible.values, memory.labels)
    assert dict(zip(stored.step.values, stored.sigma.values, strict=True)) == pytest.approx(memory.sigmas)


def test_an_intervention_around_the_capture_is_captured(lens: DiTLens, whole: Path, tmp_path: Path) -> None:
    with lens.hooks([("blocks.2.attn.hook_z", edits.zero())]):
        ablated = store_of(lens, SPLIT[:2], tmp_path / "store")
    before, after = (store["resid_post.mean"] for store in (open_store(whole), ablated))
    assert (after[:, 0, 2].values != before[: len(after["clip"]), 0, 2].values).any()


def test_the_estimate_is_what_comes_true(lens: DiTLens, tmp_path: Path) -> None:
    recipe = replace(RECIPE, compression="none", path=NoisePath(sampler_steps=3, solver="heun"))
    calls = []
    plan, estimate = survey(lens, SPLIT, recipe)
    handle = lens.transformer.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        fill(lens, SPLIT, recipe, StoreWriter(tmp_path / "store", plan, "{}"))
    finally:
        handle.remove()
    store = open_store(tmp_path / "store")
    assert estimate.forwards == len(calls) == 3 * (2 * 2 + 2) and estimate.clips == 20
    held = sum(store.tensor(name).nbytes for name in store)
    assert held == estimate.bytes and held < store.bytes < 1.2 * held
    assert estimate.share(0.5).bytes == held // 2 and "20 clips" in str(estimate)
    assert isinstance(estimate, CaptureCost) and estimate.seconds > 0


def test_an_item_that_cannot_be_read_is_named_and_nothing_takes_its_place(
    lens: DiTLens, whole: Path, tmp_path: Path
) -> None:
    broken = Broken({1, 4})
    with pytest.raises(ValueError, match=r"item 1, .*clip1\.mp4"):
        store_of(lens, broken, tmp_path / "stopped")
    stopped = open_store(tmp_path / "stopped", partial=True)
    assert stopped.errors.item.tolist() == [1] and stopped.missing == [0, 1, 2]
    skipped = store_of(lens, broken, tmp_path / "skipped", on_error="skip")
    assert skipped.errors.item.tolist() == [1, 4] and "clip4.mp4" in skipped.errors.error[1]
    assert skipped.clips.group.unique().tolist() == [SPLIT[number].id for number in (0, 2, 3)]
    kept, full = (store["resid_post.mean"] for store in (skipped, open_store(whole)))
    np.testing.assert_allclose(kept.values, full.sel(clip=kept["clip"]).values, rtol=0, atol=2e-6)
    assert np.array_equal(kept[4:].values, full[8:16].values)  # of an unharmed batch


def test_a_run_that_stopped_goes_on_when_the_item_is_mended(lens: DiTLens, whole: Path, tmp_path: Path) -> None:
    broken = Broken({3})
    with pytest.raises(ValueError, match="item 3"):
        store_of(lens, broken, tmp_path / "store")
    broken.unreadable.clear()
    store = store_of(lens, broken, tmp_path / "store")
    assert shards(tmp_path / "store") == shards(whole) and not len(store.errors)


def test_an_item_of_values_that_are_not_finite_is_named(
    lens: DiTLens, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned, encode = SPLIT[3]["C"].id, lens.encode

    def encoding(clips):
        latents = encode(clips)
        if not isinstance(clips, Tensor):
            latents[[clip.id == poisoned for clip in clips]] = torch.nan
        return latents

    plan, _ = survey(lens, SPLIT, RECIPE)
    monkeypatch.setattr(lens, "encode", encoding)
    for path in ("inversion", "noising"):
        recipe = replace(RECIPE, path=NoisePath(path, 3))
        poor = replace(plan, asked={"path": path})
        with pytest.raises(ValueError, match=rf"item 3 \({SPLIT[3].id}\), .*not all of them finite floats"):
            fill(lens, SPLIT, recipe, StoreWriter(tmp_path / path, poor, "{}"))
        fill(lens, SPLIT, recipe, StoreWriter(tmp_path / path, poor, "{}"), on_error="skip")
        store = open_store(tmp_path / path)
        assert store.errors[["item", "id"]].to_numpy().tolist() == [[3, SPLIT[3].id]]
        assert store.clips.group.unique().tolist() == [SPLIT[number].id for number in (0, 1, 2, 4)]
        assert all(store.tensor(name).isfinite().all() for name in store)
    assert "clips 2 of the batch" in store.errors.error[0]  # the third of the scene


def test_an_item_of_another_size_is_named(lens: DiTLens, tmp_path: Path) -> None:
    larger = datasets.load("miniphys", split="test", quadruplets=4, size=64)
    split = [*SPLIT[:3], larger[3]]
    with pytest.raises(ValueError, match=r"item 3 .*one shape"):
        store_of(lens, split, tmp_path / "store")
    assert open_store(tmp_path / "store", partial=True).missing == [1]


def test_values_too_large_for_the_dtype_stop_the_run(lens: DiTLens, tmp_path: Path) -> None:
    recipe = replace(RECIPE, takes=TAKES[:1], dtype="float16")
    with lens.hooks([("blocks.5.hook_resid_post", lambda x, hook: x + 1e5)]), pytest.raises(OverflowError) as raised:
        store_of(lens, SPLIT[:1], tmp_path / "over", recipe)
    assert "resid_post.mean" in str(raised.value) and "6.55e+04" in str(raised.value)
    store = store_of(lens, SPLIT[:1], tmp_path / "under", recipe)
    assert store.tensor("resid_post.mean").dtype == torch.float16


def test_bfloat16_is_stored_to_the_bit() -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    place = ("x.none", None)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    settled = settle({place: Named(x, ("clip", "feature"))}, "as_made", [str(i) for i in range(8)], order)[place]
    assert settled.dtype == torch.bfloat16 and torch.equal(settled, x[order])


def test_the_hook_leaves_the_model_as_it_was(lens: DiTLens) -> None:
    path = lens.invert(SPLIT[0].clips, steps=2)
    plain, _ = lens.run_with_cache(path, step=1, names_filter=())
    collector = Collector(lens, TAKES)
    with lens.hooks([(collector.points, collector)]):
        hooked, _ = lens.run_with_cache(path, step=1, names_filter=())
    assert torch.equal(plain, hooked) and len(collector.taken) == 6 + 6 + 2 + 1


def test_what_is_asked_twice_is_kept_once(lens: DiTLens) -> None:
    takes = (Take.parse("blocks.*.hook_resid_post=mean"), Take.parse("blocks.3.hook_resid_post=mean,none"))
    collector = Collector(lens, takes)
    assert collector.blocks == {"resid_post.mean": [0, 1, 2, 3, 4, 5], "resid_post.none": [3]}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("blocks.*.hook_resid_post", ValueError, "POINTS=REDUCTION"),
        ("blocks.*.hook_resid_pots=mean", KeyError, "did you mean"),
        ("blocks.*.hook_resid_post=maen", ValueError, "did you mean 'mean'"),
        ("hook_time_embed=mean", ValueError, "hook_time_embed"),
    ],
)
def test_what_cannot_be_taken_is_refused_before_anything_is_run(
    lens: DiTLens, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        survey(lens, SPLIT, Recipe((Take.parse(text),), (1,), NoisePath(sampler_steps=3)))


@pytest.mark.parametrize("change", [{"steps": ()}, {"steps": (1, 1)}, {"takes": ()}, {"batch_size": 0}])
def test_a_recipe_of_nothing_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(RECIPE, **change)


@pytest.mark.filterwarnings("ignore:got .* left half written:UserWarning")
def test_killed_while_capturing_and_started_again_it_is_the_same_to_the_byte(
    lens: DiTLens, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the hook, at calls drawn over the length of a run, twice each store; then once to the end."""
    plan, _ = survey(lens, SPLIT, RECIPE)
    points, evaluations = len(Collector(lens, TAKES).points), plan.batches * len(plan.steps)
    rng, kills, original = np.random.default_rng(4), 0, Collector.__call__
    for number in range(4):
        folder = tmp_path / f"{number}"
        for call in rng.integers(1, points * evaluations * 2 // 3, 2).tolist():
            calls = iter(range(call))

            def hook(self: Collector, x: Tensor, at: Hook, calls: Iterator[int] = calls) -> None:
                if next(calls, None) is None:
                    kill()
                original(self, x, at)

            with monkeypatch.context() as patched:
                patched.setattr(Collector, "__call__", hook)
                ended = in_child(lambda folder=folder: fill(lens, SPLIT, RECIPE, StoreWriter(folder, plan, "{}")))
            kills += ended == signal.SIGKILL
        fill(lens, SPLIT, RECIPE, StoreWriter(folder, plan, "{}"))
        assert shards(folder) == shards(whole) and names(folder) == names(whole)
    assert kills >= 4


def test_a_batch_that_another_writer_has_is_left_to_it(lens: DiTLens, whole: Path, tmp_path: Path) -> None:
    plan, _ = survey(lens, SPLIT, RECIPE)
    writer = StoreWriter(tmp_path / "store", plan, "{}")
    writer.begin()
    with writer.claim(0):
        fill(lens, SPLIT, RECIPE, StoreWriter(tmp_path / "store", plan, "{}"))
        assert open_store(tmp_path / "store", partial=True).missing == [0]
    fill(lens, SPLIT, RECIPE, writer)
    assert shards(tmp_path / "store") == shards(whole)


def test_a_batch_that_is_let_go_while_others_are_made_is_made_too(
    lens: DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = survey(lens, SPLIT, RECIPE)
    writer = StoreWriter(tmp_path / "store", plan, "{}")
    writer.begin()
    held, original = writer.claim(0), StoreWriter.claim
    held.__enter__()
    claimed: list[int] = []

    def claim(self: StoreWriter, batch: int):
        claimed.append(batch)
        if batch == plan.batches - 1:
            held.__exit__(None, None, None)
        return original(self, batch)

    monkeypatch.setattr(StoreWriter, "claim", claim)
    fill(lens, SPLIT, RECIPE, writer)
    assert claimed == [0, 1, 2, 0] and open_store(tmp_path / "store").missing == []
