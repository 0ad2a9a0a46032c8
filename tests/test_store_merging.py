"""Parts of one plan are put together, and nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from stores import is_whole, names, plan, shards, write_batch, write_store

from dit_lens.store import Failure, StoreWriter, merge, open_store
from dit_lens.store.__main__ import main

BATCHES = 4


def part(folder: Path, batches: Sequence[int], **options: object) -> Path:
    """A store with some of the batches."""
    writer = StoreWriter(folder, plan(batches=BATCHES, **options), '{"made": "up"}')
    writer.begin()
    for batch in batches:
        write_batch(writer, batch)
    return folder


def test_parts_are_the_store_that_one_writer_makes(tmp_path: Path) -> None:
    write_store(tmp_path / "whole", plan(batches=BATCHES))
    first, second = part(tmp_path / "1", [0, 2]), part(tmp_path / "2", [1, 2])
    store = merge(tmp_path / "out", [first, second])
    assert store.missing == [3] and shards(tmp_path / "out") == {
        name: data for name, data in shards(tmp_path / "whole").items() if "3" not in name
    }
    assert merge(tmp_path / "out", [part(tmp_path / "3", [3])]).missing == []
    assert shards(tmp_path / "out") == shards(tmp_path / "whole") and names(tmp_path / "out") == names(
        tmp_path / "whole"
    )
    merged = open_store(tmp_path / "out", verify=True)
    assert is_whole(merged) and merged.provenance == {"made": "up"}


def test_a_batch_without_clips_keeps_its_failures(tmp_path: Path) -> None:
    folder = part(tmp_path / "1", [0])
    writer = StoreWriter(folder, plan(batches=BATCHES), "{}")
    writer.note(1, [Failure(3, "", "unreadable")], done=True)
    writer.note(2, [Failure(6, "", "stopped here")], done=False)
    store = merge(tmp_path / "out", [folder])
    assert store.missing == [2, 3] and store.errors.item.tolist() == [3]


def test_other_plans_other_content_and_damage_are_refused_before_anything_is_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = part(tmp_path / "1", [0, 1])
    different = part(tmp_path / "other", [2], asked={"model": "another"})
    with pytest.raises(ValueError, match="other model than"):
        merge(tmp_path / "out", [first, different])
    damaged = part(tmp_path / "damaged", [2])
    shard = damaged / "shard-000002.h5"
    data = shard.read_bytes()
    shard.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(ValueError, match=r"shard-000002\.h5, whose sha256"):
        merge(tmp_path / "out", [first, damaged])
    twin = part(tmp_path / "twin", [2])
    StoreWriter(twin, plan(batches=BATCHES), "{}").note(1, [Failure(3, "", "unreadable")], done=True)
    assert main(["merge", str(tmp_path / "out"), str(first), str(twin)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "got batch 1 with one content in" in error[0]
    assert main(["merge", str(tmp_path / "out"), str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "out").exists()


def test_the_command_merges_and_explains_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [str(part(tmp_path / f"{i}", [i, 3])) for i in range(3)]
    assert main(["merge", str(tmp_path / "out"), *parts]) == 0
    assert "complete" in capsys.readouterr().out and is_whole(open_store(tmp_path / "out", verify=True))
    assert json.loads((tmp_path / "out/store.json").read_text())["plan"]["batches"] == BATCHES
    shown = subprocess.run([sys.executable, "-m", "dit_lens.store", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "merge" in shown.stdout
