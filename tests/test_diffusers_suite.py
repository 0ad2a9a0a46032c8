"""The suite of diffusers' tests counts a call as hooked only where hooks acted, and what a lens breaks as broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from small_pipelines import CALL, text, wan

from benchmarks.diffusers_suite import plugin
from benchmarks.diffusers_suite.__main__ import Compared, Ran


@pytest.fixture(autouse=True)
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(plugin.REPORT, str(tmp_path / "report.jsonl"))
    return tmp_path / "report.jsonl"


def call(pipeline: Any, run: Any, seed: int = 0, **more: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    drawn = {"generator": torch.Generator().manual_seed(seed), "num_inference_steps": 2, "guidance_scale": 1.0}
    output, line = run(type(pipeline).__call__, pipeline, (), {"prompt_embeds": text(), **CALL, **drawn, **more})
    return output.frames, line


def test_a_hooked_call_puts_out_what_the_stock_one_does() -> None:
    pipeline = wan()
    plain, _ = call(pipeline, plugin.stock)
    hooked, line = call(pipeline, plugin.with_lens)
    assert line == {"hooked": True} and torch.equal(hooked, plain)
    reseeded, _ = call(pipeline, plugin.stock, seed=1)
    assert not torch.equal(reseeded, plain)


def test_a_refused_call_runs_without_hooks_from_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = wan()
    call(pipeline, plugin.with_lens)  # the lens is made before the cache
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(0.1))
    plain, _ = call(pipeline, plugin.stock)
    refused, line = call(pipeline, plugin.with_lens)
    assert "step caching" in line["refused"] and "hooked" not in line and torch.equal(refused, plain)
    pipeline.transformer.disable_cache()

    def look(x: torch.Tensor, hook: Any) -> None:
        raise ValueError("got an evaluation · expected none · a refusal that comes when noise was drawn")

    plain, _ = call(pipeline, plugin.stock)
    monkeypatch.setattr(plugin, "look", look)
    refused, line = call(pipeline, plugin.with_lens)
    assert "noise was drawn" in line["refused"] and torch.equal(refused, plain)


def test_a_pipeline_s_own_error_is_no_refusal() -> None:
    with pytest.raises(ValueError, match="height"):
        call(wan(), plugin.with_lens, height=7)


def ran(path: Path, *lines: dict[str, Any]) -> Ran:
    path.write_text("".join(json.dumps(line | {"test": "a"}) + "\n" for line in lines))
    return Ran.of(path)


def test_what_fails_only_with_a_lens_is_broken_and_what_differs_is_not_equal(report: Path) -> None:
    called = {"pipeline": "P", "digest": "1"}
    passed, failed = {"outcome": "passed", "why": ""}, {"outcome": "failed", "why": "because"}
    stock = ran(report, called, called, called, passed)
    hooked = called | {"hooked": True}
    lens = ran(report, hooked, called | {"refused": "no"}, hooked | {"digest": "2"}, passed)
    good = Compared("wan", stock, lens)
    assert good.row() == ("wan", 1, 1, 0, 0, 3, 2, 1, 1) and not good.broken
    assert good.refused == {("P", "no"): 1}
    assert Compared("wan", stock, ran(report, failed)).broken == {"a": "because"}
    assert Compared("wan", stock, Ran()).broken == {"a": "was not run"}
    both = Compared("wan", ran(report, failed), ran(report, failed))
    assert both.row()[:4] == ("wan", 0, 0, 1) and not both.broken
