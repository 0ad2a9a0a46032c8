"""`python -m analyses.store_activations`: said first, agreed to where large, killed and resumed, verified, found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import shards

from analyses import command, store_activations
from dit_lens.capture import stores
from dit_lens.datasets.export import export_intphys
from dit_lens.store import open_store
from dit_lens.studies import Study, price
from dit_lens.studies.readers import features
from dit_lens.toy.miniphys import MiniPhys

ROOT = Path(__file__).parent.parent
TINY = ["--model", "mini-wan-random", "--sampler-steps", "3", "--read-at", "1", "2", "--batch-size", "1", "--test", "6"]


def call(arguments: list[str]) -> None:
    """What the command does."""
    with command.endings():
        config = command.parse(store_activations.Config, "store_activations", arguments, "")
    command.answer_in_words(config, store_activations.run)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six scenes, in a folder of stores."""
    folder = tmp_path_factory.mktemp("stores") / "filled"
    call(["--out", str(folder), *TINY, "--takes", "blocks.*.hook_resid_post=mean,space_mean"])
    return folder


def test_a_store_is_estimated_filled_resumed_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "store"
    call(["--out", str(out), *TINY])
    said = capsys.readouterr()
    assert said.out.index("estimate  24 clips") < said.out.index("complete") and "clip/s" in said.err
    assert "resid_post.mean (clip, step, block 6, feature 128) float32" in said.out
    facts = open_store(out).provenance
    assert facts["dataset"] == "miniphys" and facts["lens"]["model"] == "mini-wan-random"
    assert facts["config"]["sampler_steps"] == 3
    whole = shards(out)
    (out / "shard-000002.h5").unlink()
    call(["--out", str(out), *TINY])
    assert "estimate  4 clips" in capsys.readouterr().out and shards(out) == whole
    call(["--out", str(out), "--verify"])
    assert "every byte unchanged" in capsys.readouterr().out
    data = whole["shard-000001.h5"]
    (out / "shard-000001.h5").write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    with pytest.raises(SystemExit) as ended:
        call(["--out", str(out), "--verify"])
    assert ended.value.code == 2 and "shard-000001.h5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--takes", "blocks.*.hook_resid_pots=mean"], "did you mean"),
        (["--takes", "blocks.*.hook_resid_post=maen"], "did you mean 'mean'"),
        (["--read-at", "4"], "expected a step from 0 (data) to 3 (noise)"),
        (["--verify"], "store.json"),
        (["--dtype", "as_made"], "got --dtype 'as_made'"),
        (["--store", "x"], "expected --out, the folder of the new store"),
        (["--controls", "mini-wan"], "expected one model and one data set per store"),
    ],
)
def test_bad_input_ends_with_one_line_and_nothing_written(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(["--out", str(tmp_path / "store"), *TINY, *arguments])
    errors = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(errors) == 1 and says in errors[0]
    assert not (tmp_path / "store").exists()


def test_what_is_large_takes_consent_and_other_options_another_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(price, "GIGABYTES", 1e-6)
    few = ["--out", str(tmp_path / "store"), *TINY[:-1], "1"]
    with pytest.raises(SystemExit):
        call(few)
    assert "confirm with --yes" in capsys.readouterr().err and not (tmp_path / "store").exists()
    call([*few, "--yes"])
    assert len(open_store(tmp_path / "store").clips) == 4
    with pytest.raises(SystemExit):
        call([*few, "--yes", "--seed", "1"])


def test_a_question_reads_what_was_captured_and_captures_nothing(
    filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = {"model": "mini-wan-random", "path": "inversion", "sampler_steps": 3, "read_at": (2,), "train": 0}
    study = Study(controls=(), test=4, batch_size=3, properties=(), **shared).resolved()
    lens = study.lens()
    captured = features(study, lens, study.scenes("test"), "test")
    kept = replace(study, store=str(filled.parent))
    with monkeypatch.context() as patched:
        patched.setattr(stores, "fill", lambda *_, **__: pytest.fail("captured again"))
        read = features(kept, lens, kept.scenes("test"), "test")
        for different in (replace(kept, seed=1), replace(kept, path="noising"), replace(kept, test=7)):
            with pytest.raises(pytest.fail.Exception, match="captured again"):
                features(different, lens, different.scenes("test"), "test")
    assert read.clips.id.tolist() == captured.clips.id.tolist() and read.parts == captured.parts == 5
    for key, values in captured.cells.items():
        assert np.allclose(read.cells[key], values, atol=1e-4)


def test_a_pair_of_a_scene_is_not_mistaken_for_the_scene(filled: Path) -> None:
    store, scenes = open_store(filled), Study(test=4).resolved().scenes("test")
    assert stores.holds(store, scenes) and stores.holds(store, list(scenes))
    first = scenes[0]
    turned = replace(first, clips=(first.clips[2], first.clips[1], first.clips[0], first.clips[3]))
    pair = replace(first, clips=(first.clips[0], first.clips[2]), matches=((0, 1),), breaks=first.breaks[:1])
    assert not stores.holds(store, [turned]) and not stores.holds(store, [pair])


def test_clips_without_labels_are_stored_along_any_path(tmp_path: Path) -> None:
    hidden = [
        replace(scene, clips=tuple(replace(clip, possible=None) for clip in scene.clips))
        for scene in MiniPhys("test", 2)
    ]
    root = export_intphys(hidden, tmp_path / "data", "test").parent
    call(["--out", str(tmp_path / "store"), "--data", f"intphys:test={root}", "--path", "continuation", *TINY[:-2]])
    store = open_store(tmp_path / "store")
    assert set(store.clips.possible) == {None} and len(store.clips) == 8
    assert store.plan.asked["path"]["kind"] == "continuation"


def test_killed_from_outside_and_started_again_it_is_the_same_to_the_byte(tmp_path: Path) -> None:
    out, few = tmp_path / "killed", [*TINY[:-1], "4"]
    command_line = [sys.executable, "-m", "analyses.store_activations", "--out", str(out), *few]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    running = subprocess.Popen(
        command_line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not (out / "shard-000001.h5").is_file() and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors.decode()
    assert 0 < len(open_store(out, partial=True, verify=True).shards) < 4
    call(["--out", str(out), *few])
    call(["--out", str(tmp_path / "unkilled"), *few])
    assert shards(out) == shards(tmp_path / "unkilled")
    assert open_store(out, verify=True).clips.equals(open_store(tmp_path / "unkilled").clips)
