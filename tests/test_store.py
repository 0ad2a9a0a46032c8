"""The store: what is written is read to the bit, lazily and by name; nothing is half there; two do not write one."""

from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import (
    CLIPS,
    MEAN,
    VELOCITY,
    cells,
    columns,
    expected,
    is_whole,
    names,
    plan,
    same_bits,
    write_batch,
    write_store,
)

from dit_lens import tensor_file
from dit_lens.store import STORED, Failure, StoreWriter, Variable, open_store
from dit_lens.store.reading import Store
from dit_lens.store.shards import flush

SIZES = st.lists(st.integers(1, 4), max_size=3)


@settings(deadline=None, max_examples=20)
@given(SIZES, st.sampled_from(sorted(STORED)), st.booleans(), st.sampled_from(["auto", "none"]))
def test_bits_come_back_whatever_their_shape_and_dtype(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], dtype: str, blocked: bool, compression: str
) -> None:
    dims = ("block", "frame", "row", "feature") if blocked else ("frame", "row", "feature", "channel")
    shape = ([2] if blocked else []) + sizes
    variable = Variable("x.none", dims[: len(shape)], tuple(shape), dtype)
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, plan([variable], batches=2, compression=compression))
    store = open_store(folder, verify=True)
    whole = torch.cat([expected(variable, batch) for batch in (0, 1)])
    assert same_bits(store.tensor("x.none"), whole)
    assert not same_bits(store.tensor("x.none"), whole.flip(0))
    np.testing.assert_array_equal(store["x.none"].values, whole.float().numpy() if dtype == "bfloat16" else whole)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished store of three batches."""
    write_store(tmp_path / "store")
    return tmp_path / "store"


def test_all_shards_read_as_one_array_with_their_coordinates(folder: Path) -> None:
    store = open_store(folder)
    array = store["resid_post.mean"]
    assert array.dims == ("clip", "step", "block", "feature") and array.shape == (9, 2, 2, 5)
    assert array["clip"].values.tolist() == [name for batch in range(3) for name in columns(batch)["id"]]
    assert array.possible.values.tolist() == [True, False, None] * 3
    assert array.property.values.tolist() == ["é"] * 9 and array.group.values[2] == "lone/0"
    assert (array.step.values.tolist(), array.sigma.values.tolist()) == ([2, 5], [0.25, 0.75])
    assert array.block.values.tolist() == [1, 4] and array.attrs["reduction"] == "mean"
    picked = array.sel(step=5, block=4, clip=["made/2/1", "made/0/0"])
    whole = torch.cat([expected(MEAN, batch) for batch in range(3)])
    np.testing.assert_array_equal(picked.values, whole[[7, 0], 1, 1].numpy())
    assert store.dataset().sizes["clip"] == 9 and json.loads(store.dataset().attrs["provenance"]) == {"made": "up"}


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_part_is_the_part_of_the_whole(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "parts"
    write_store(folder)
    array = open_store(folder)["resid_post.mean"]
    whole = xr.DataArray(torch.cat([expected(MEAN, batch) for batch in range(3)]).numpy(), dims=array.dims)
    key = {}
    for dim, size in array.sizes.items():
        position = st.integers(-size, size - 1)
        # xarray itself trips over an empty slice that runs backward
        slices = st.slices(size).filter(lambda s, size=size: len(range(size)[s]) or (s.step or 1) > 0)
        part = st.one_of(position, st.lists(position, max_size=4), slices)
        key[dim] = data.draw(part, label=str(dim))
    np.testing.assert_array_equal(array.isel(key).values, whole.isel(key).values)


def test_nothing_is_read_before_it_is_asked_for(folder: Path) -> None:
    store = open_store(folder)
    with patch.object(Store, "read", side_effect=AssertionError("read")):
        part = store["resid_post.mean"].sel(step=2).isel(clip=slice(3, 6))
        assert repr(part)
        with pytest.raises(AssertionError, match="read"):
            _ = part.values
    opened: list[str] = []
    original = h5py.File

    def opening(path: Path, *args: object) -> h5py.File:
        opened.append(Path(path).name)
        return original(path, *args)

    with patch.object(h5py, "File", opening):
        _ = part.values
    assert opened == ["shard-000001.h5"]


def test_a_shard_by_itself_says_what_it_is(folder: Path) -> None:
    with h5py.File(folder / "shard-000001.h5") as file:
        array = file["activations/velocity.none"]
        assert array.attrs["dtype"] == "bfloat16" and array.dtype == np.uint16
        assert [dim.label for dim in array.dims] == ["clip", "step", "row", "column"]
        assert array.chunks == (3, 1, 2, 3)
        assert [name.decode() for name in file["id"]] == columns(1)["id"]
        assert file["possible"][()].tolist() == [1, 0, -1] and file["sigma"][()].tolist() == [0.25, 0.75]
        assert json.loads(file["plan"][()])["asked"] == {"model": "made up"}


def test_bfloat16_is_kept_alike_in_a_store_and_in_a_file_of_tensors(folder: Path, tmp_path: Path) -> None:
    values = cells(VELOCITY, 1, 0)["velocity.none", None]
    tensor_file.write(tmp_path / "tensors.h5", "made up", {"x": values}, {})
    with h5py.File(tmp_path / "tensors.h5") as tensors, h5py.File(folder / "shard-000001.h5") as shard:
        alone, stored = tensors["x"], shard["activations/velocity.none"]
        assert alone.attrs["dtype"] == stored.attrs["dtype"] == "bfloat16" and alone.dtype == stored.dtype == np.uint16
        np.testing.assert_array_equal(alone[()], stored[:, 0])
        assert same_bits(tensor_file.to_tensor(stored[:, 0], "bfloat16"), values)


def test_a_hash_is_that_of_the_file_and_is_not_told_of_what_could_not_be_flushed(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(bytes(range(256)) * 5000)
    assert flush(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with patch("os.fsync", side_effect=OSError(5, "no such luck")), pytest.raises(OSError, match="no such luck"):
        flush(path)


def test_large_cells_have_a_chunk_for_each_clip(tmp_path: Path) -> None:
    with patch("dit_lens.store.shards.CHUNK", 60):
        write_store(tmp_path)
    with h5py.File(tmp_path / "shard-000000.h5") as file:
        assert file["activations/resid_post.mean"].chunks == (3, 1, 1, 5)  # 60 bytes: not above
        assert file["activations/velocity.none"].chunks == (3, 1, 2, 3)
    with patch("dit_lens.store.shards.CHUNK", 59):
        write_store(tmp_path / "smaller")
    with h5py.File(tmp_path / "smaller" / "shard-000000.h5") as file:
        assert file["activations/resid_post.mean"].chunks == (1, 1, 1, 5)
    assert is_whole(open_store(tmp_path / "smaller"))


def test_what_does_not_shrink_is_kept_as_it_is(tmp_path: Path) -> None:
    wide = Variable("x.none", ("block", "feature"), (2, 1000), "float32")
    sizes = {}
    for name, flat, compression in (("noise", False, "auto"), ("flat", True, "auto"), ("plain", True, "none")):
        writer = StoreWriter(tmp_path / name, plan([wide], 1, compression=compression), "{}")
        writer.begin()
        with writer.claim(0), writer.shard(0, columns(0)) as shard:
            for step in range(2):
                values = cells(wide, 0, step)
                shard.put(step, {place: torch.full_like(x, 0.1) if flat else x for place, x in values.items()})
        store = open_store(tmp_path / name)
        sizes[name] = store.bytes
        assert (store.tensor("x.none") == 0.1).all() if flat else is_whole(store)
    raw = 4 * 3 * 2 * 2 * 1000
    assert sizes["noise"] >= raw and sizes["plain"] >= raw and sizes["flat"] < raw / 3


def test_whole_shards_are_read_while_the_next_is_written(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, plan(), "{}")
    writer.begin()
    write_batch(writer, 0)
    with writer.claim(1), writer.shard(1, columns(1)) as shard:
        for step in range(2):
            store = open_store(tmp_path, partial=True)
            assert store.missing == [1, 2] and len(store.clips) == CLIPS and is_whole(store)
            with pytest.raises(ValueError, match=r"without 2 of 3 batches \(the first: 1\)"):
                open_store(tmp_path)
            shard.put(step, cells(MEAN, 1, step) | cells(VELOCITY, 1, step))
    assert open_store(tmp_path, partial=True).missing == [2]
    write_store(tmp_path)
    assert is_whole(open_store(tmp_path))


def test_a_shard_that_is_not_filled_as_planned_is_not_there(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, plan(batches=1), "{}")
    writer.begin()
    good = {step: cells(MEAN, 0, step) | cells(VELOCITY, 0, step) for step in range(2)}
    for puts, message in [
        ([(0, good[0])], "got no resid_post.mean at step 1"),
        ([(0, good[0]), (0, good[0])], "once"),
        ([(0, {("velocity.none", None): torch.zeros(3, 2, 3)})], "expected .*bfloat16"),
        ([(0, {("velocity.none", None): torch.zeros(3, 3, 2).bfloat16()})], "one shape"),
    ]:
        with pytest.raises(ValueError, match=message), writer.claim(0), writer.shard(0, columns(0)) as shard:
            for step, values in puts:
                shard.put(step, values)
    with pytest.raises(KeyboardInterrupt), writer.claim(0), writer.shard(0, columns(0)) as shard:
        shard.put(0, good[0])
        raise KeyboardInterrupt
    assert writer.todo() == [0] and names(tmp_path) == ["store.json"]
    write_store(tmp_path, writer.plan)
    assert is_whole(open_store(tmp_path))


def test_two_writers_do_not_share_a_shard(tmp_path: Path) -> None:
    first, second = (StoreWriter(tmp_path, plan(), "{}") for _ in range(2))
    first.begin()
    second.begin()
    with first.claim(1):
        with pytest.raises(BlockingIOError, match="shard-000001"), second.claim(1):
            pass
        write_batch(second, 0)
    write_batch(first, 1)
    with pytest.raises(BlockingIOError, match=r"shard-000001\.h5, which another writer has completed"), second.claim(1):
        pass
    write_batch(second, 2)
    assert first.todo() == [] and is_whole(open_store(tmp_path))


def test_a_store_goes_on_only_by_the_same_plan(folder: Path) -> None:
    with pytest.raises(ValueError, match="started with other model ·"):
        StoreWriter(folder, plan(asked={"model": "another"}), "{}")
    with pytest.raises(ValueError, match="started with other batches, clips ·"):
        StoreWriter(folder, plan(batches=4), "{}")
    assert StoreWriter(folder, plan(), "{}").todo() == []


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        StoreWriter(tmp_path, plan(), "{}").begin()
    assert names(tmp_path) == ["notes.txt"]


def test_a_full_disk_leaves_whole_shards_and_is_got_over(tmp_path: Path) -> None:
    large = plan([Variable("x.none", ("feature",), (30_000,), "float64")], compression="none")
    writer = StoreWriter(tmp_path / "store", large, "{}")
    writer.begin()
    write_batch(writer, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # a shard has 1.4 MB
    try:
        with pytest.raises(OSError, match="write"):
            write_batch(writer, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store = open_store(tmp_path / "store", partial=True, verify=True)
    assert store.missing == [1, 2] and is_whole(store)
    assert names(writer.folder) == ["index.jsonl", "shard-000000.h5", "store.json"]
    write_store(writer.folder, large)
    assert is_whole(open_store(writer.folder))


def test_what_failed_is_in_a_table(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, plan(), "{}")
    writer.begin()
    with writer.claim(0):
        writer.note(0, [Failure(1, "made/0/1", "ValueError: mend me")], done=False)
    assert writer.todo() == [0, 1, 2] and open_store(tmp_path, partial=True).errors.error.tolist() == [
        "ValueError: mend me"
    ]
    with writer.claim(1):
        writer.note(1, [Failure(4, "", "OSError: gone")], done=True)
    write_store(tmp_path)
    store = open_store(tmp_path)
    assert store.errors.to_dict("records") == [{"batch": 1, "item": 4, "id": "", "error": "OSError: gone"}]
    assert store.clips["id"].tolist() == columns(0)["id"] + columns(2)["id"] and is_whole(store)


def test_an_unknown_variable_is_told_with_the_nearest(folder: Path) -> None:
    with pytest.raises(KeyError, match=r"did you mean 'resid_post\.mean'"):
        open_store(folder)["resid_post.men"]


def test_variables_whose_dimensions_clash_are_not_put_side_by_side(tmp_path: Path) -> None:
    write_store(tmp_path, plan([MEAN, Variable("z.mean", ("block", "feature"), (2, 4), "float32")]))
    with pytest.raises(ValueError, match="feature"):
        open_store(tmp_path).dataset()
    assert open_store(tmp_path).dataset("z.mean").sizes["feature"] == 4
