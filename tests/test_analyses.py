"""Each analysis from the command line: table and figure, reuse, bad input, and nothing half-written after Ctrl-C."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyses.command
import figures.output
from analyses import patch_heads, probe_blocks
from dit_lens import results
from figures import patch_heads as patch_heads_figure
from figures import probe_blocks as probe_blocks_figure

ROOT = Path(__file__).parent.parent
FEW = ["--controls", "mini-wan-random", "--levels", "4", "--train", "10", "--test", "10"]
TINY = {
    "patch_heads": [*FEW, "--steps", "2", "3"],
    "probe_blocks": [*FEW, "--unseen", "3", "--autoencoder", "", "--steps", "1", "3"],
}
MODULES = {
    "patch_heads": (patch_heads, patch_heads_figure),
    "probe_blocks": (probe_blocks, probe_blocks_figure),
}


def call(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    analysis, figure = MODULES[name]
    monkeypatch.setattr(analyses.command, "DATA", folder / "data")
    monkeypatch.setattr(figures.output, "OUT", folder / "out")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    analyses.command.main(analysis.Config, analysis.run, analysis.table, figure.draw, name, analysis.__doc__)


@pytest.mark.parametrize("name", list(TINY))
def test_an_analysis_writes_its_table_and_figure_and_does_not_repeat_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(name, TINY[name], monkeypatch, tmp_path)
    first = capsys.readouterr().out
    assert "mini-wan-random" in first and (tmp_path / "out" / f"{name}.pdf").stat().st_size > 5000
    made = results.facts(results.open_result(tmp_path / "data" / f"{name}.nc"))
    assert made["config"]["train"] == 10 and made["weights"]["mini-wan"] and made["dataset"] == "miniphys"

    def again(config: object) -> xr.Dataset:
        raise AssertionError("ran again")

    monkeypatch.setattr(MODULES[name][0], "run", again)
    call(name, TINY[name], monkeypatch, tmp_path)
    assert first.strip() in capsys.readouterr().out
    with pytest.raises(AssertionError, match="ran again"):
        call(name, [*TINY[name], "--seed", "1"], monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "mini-wam"], "did you mean 'mini-wan'"),
        (["--dataset", "miniphyz"], "miniphys"),
        (["--steps", "25"], "step 25"),
        (["--train", "3"], "at least 10"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call("patch_heads", ["--train", "10", "--test", "10", *arguments], monkeypatch, tmp_path)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("error: got") and says in last
    assert not (tmp_path / "data").exists()


def test_ctrl_c_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", interrupted)
    with pytest.raises(SystemExit) as stopped:
        call("patch_heads", [*TINY["patch_heads"], "--controls"], monkeypatch, tmp_path)
    assert stopped.value.code == 130
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", list(TINY))
def test_help_tells_of_every_option(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"analyses.{name}", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    for option in MODULES[name][0].Config.__dataclass_fields__:
        assert "--" + option.replace("_", "-") in done.stdout
    # Every option has a sentence: text between its name and the next option or the end of the box.
    assert len(re.findall(r"\(default: ", done.stdout)) == len(MODULES[name][0].Config.__dataclass_fields__)


def planted(signs: dict[str, int]) -> xr.Dataset:
    """Effects by hand: a pair's effect is label x 2 + content x 3, the content turning over with A and B."""
    side = {"A→C": 1, "B→D": -1, "A→D": 1, "B→C": -1, "C→A": 1, "D→B": -1, "D→A": 1, "C→B": -1}
    names = ("pair", "quadruplet", "model", "step")
    effect = np.array([2.0 * sign + 3.0 * side.get(pair, 0) for pair, sign in signs.items()])
    total = np.array([4.0 * sign for sign in signs.values()])
    ones = np.ones((len(signs), 4, 1, 1))
    return xr.Dataset(
        {
            "effect_logit": ((*names, "block", "head"), (effect[:, None, None, None] * ones)[..., None, None]),
            "total_logit": (names, total[:, None, None, None] * ones),
            "probe_spread": (("model", "step"), np.full((1, 1), 2.0)),
        },
        coords={"pair": list(signs), "sign": ("pair", list(signs.values()))},
    )


def test_label_and_content_are_told_apart_by_hand() -> None:
    result = planted(patch_heads.PAIRS)
    assert patch_heads.label_odd(result).values == pytest.approx(1.0)
    assert patch_heads.content(result).values == pytest.approx(1.5)
    estimate, low, high = patch_heads.recovery(result)
    assert estimate == pytest.approx(0.5) and low == pytest.approx(0.5) and high == pytest.approx(0.5)
