"""`python -m analyses.store_activations`: estimate first, consent above a limit, killed and resumed, verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stores import shards

from analyses import store_activations
from dit_lens.store import open_store

ROOT = Path(__file__).parent.parent
TINY = ["--model", "mini-wan-random", "--levels", "3", "--steps", "1", "2", "--batch-size", "1", "--quadruplets", "6"]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["store_activations", *arguments])
    store_activations.main()


def test_a_store_is_estimated_filled_resumed_and_verified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    call(["--out", str(out), *TINY], monkeypatch)
    told = capsys.readouterr()
    assert told.out.index("estimate  24 clips") < told.out.index("complete") and "clip/s" in told.err
    assert "resid_post.mean (clip, step, block 6, feature 128) float32" in told.out
    made = open_store(out).provenance
    assert (
        made["dataset"] == "miniphys" and made["lens"]["model"] == "mini-wan-random" and made["config"]["levels"] == 3
    )
    whole = shards(out)
    (out / "shard-000002.h5").unlink()
    call(["--out", str(out), *TINY], monkeypatch)
    assert "estimate  4 clips" in capsys.readouterr().out and shards(out) == whole
    call(["--out", str(out), "--verify"], monkeypatch)
    assert "every byte as it was written" in capsys.readouterr().out
    data = whole["shard-000001.h5"]
    (out / "shard-000001.h5").write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    with pytest.raises(SystemExit) as ended:
        call(["--out", str(out), "--verify"], monkeypatch)
    assert ended.value.code == 2 and "shard-000001.h5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ask-above-gb", "1e-6"], "say --yes"),
        (["--ask-above-minutes", "0"], "say --yes"),
        (["--takes", "blocks.*.hook_resid_pots=mean"], "did you mean"),
        (["--takes", "blocks.*.hook_resid_post=maen"], "did you mean 'mean'"),
        (["--steps", "4"], "step 4"),
        (["--verify"], "store.json"),
    ],
)
def test_bad_input_ends_with_one_line_and_nothing_written(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(["--out", str(tmp_path / "store"), *TINY, *arguments], monkeypatch)
    errors = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(errors) == 1 and told in errors[0]
    assert not (tmp_path / "store").exists()


def test_with_consent_the_limit_is_passed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = [*TINY[:-1], "1"]
    call(["--out", str(tmp_path / "store"), *few, "--ask-above-gb", "1e-6", "--yes"], monkeypatch)
    assert len(open_store(tmp_path / "store").clips) == 4
    with pytest.raises(SystemExit):
        call(["--out", str(tmp_path / "store"), *few, "--seed", "1"], monkeypatch)


def test_killed_from_outside_and_started_again_it_is_the_same_to_the_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "analyses.store_activations", "--out", str(out), *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (out / "shard-000001.h5").is_file() and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors.decode()
    assert 0 < len(open_store(out, partial=True, verify=True).shards) < 6
    call(["--out", str(out), *TINY], monkeypatch)
    call(["--out", str(tmp_path / "unkilled"), *TINY], monkeypatch)
    assert shards(out) == shards(tmp_path / "unkilled")
    assert open_store(out, verify=True).clips.equals(open_store(tmp_path / "unkilled").clips)
