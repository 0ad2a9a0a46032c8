"""Figures from the command line: the newest result by default, a file where asked for, one line where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from dit_lens import plots, results
from figures import output


def draw(result: xr.Dataset, path: Path | None = None) -> Path:
    figure, axes = plt.subplots()
    axes.set_title(str(result.made.item()))
    return output.save(figure, "some", path)


def write(path: Path, value: int, second: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    results.save(xr.Dataset({"made": value}, attrs={"provenance": results.provenance()}), path)
    os.utime(path, (second, second))


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(output, "DATA", tmp_path / "data")
    monkeypatch.setattr(output, "OUT", tmp_path / "out")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["some", *arguments])
    output.main("some", draw)


def test_the_newest_result_of_that_name_is_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for second, name in enumerate(("some-ab12.nc", "some.nc", "some-cd34.nc", "somewhat.nc")):
        write(data / name, second, second)
    assert output.newest("some") == data / "some-cd34.nc"
    call(monkeypatch)
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "some.pdf")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"some.pdf", "some.png"}


def test_a_result_and_a_file_can_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "else.nc", 1, 1)
    call(monkeypatch, str(tmp_path / "else.nc"), "--out", str(tmp_path / "here" / "one.svg"))
    assert (tmp_path / "here" / "one.svg").read_text().startswith("<?xml") and not (tmp_path / "out").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, str(tmp_path / "else.nc"), "--out", str(tmp_path / "one.doc"))
    assert ended.value.code == 2 and "ending in one of" in capsys.readouterr().err


def test_without_a_result_one_line_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith("error: got no result of some") and "analyses.some" in printed


def test_several_series_stand_beside_each_other_in_each_row() -> None:
    figure, axes = plt.subplots()
    first, second = np.array([1.0, 2.0]), np.array([3.0, np.nan])
    series = [
        plots.Series("a", first, first - 1, first + 1),
        plots.Series("b", second, second, second),
        plots.Series("b", first, first, first),
    ]
    plots.grouped_intervals(axes, ["top", "bottom"], series)
    assert axes.get_legend_handles_labels()[1] == ["a", "b"]  # a label that comes again has no second entry
    heights = [container.lines[0].get_ydata() for container in axes.containers]
    assert all(0.5 < float(y[0]) < 1.5 and -0.5 < float(y[1]) < 0.5 for y in heights)
    assert len({float(y[0]) for y in heights}) == 3 and [tick.get_text() for tick in axes.get_yticklabels()] == [
        "top",
        "bottom",
    ]
    plt.close(figure)
