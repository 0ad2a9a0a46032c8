"""Checkpoints of one run: rows in the order of training, measures that scenes allow, and models without checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyses import command
from analyses.follow_training import Config, errors
from dit_lens import results
from dit_lens.lens import DiTLens
from dit_lens.studies import Study
from dit_lens.studies.velocity_errors import velocity_errors

TINY = [
    "--checkpoints", "500", "--sampler-steps", "2", "--read-at", "1", "--sigmas", "0.6", "--train", "10", "--test", "6",
]  # fmt: skip


def config(*arguments: str) -> Config:
    """Options, checked."""
    return command.parse(Config, "follow_training", [*TINY, *arguments], "")


def test_rows_are_in_the_order_of_training_and_the_loss_falls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config().models() == ["mini-wan-random", "mini-wan@step500", "mini-wan"]
    command.call("follow_training", [*TINY, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    (path,) = tmp_path.glob("follow_training-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000 and "\n500 " in said and "n = 6 test scenes" in said
    result = results.open_result(path)
    assert result.checkpoint.values.tolist() == [0, 500, 8000]
    assert list(result.measure.values) == ["loss", "surprise", "inversion", "continuation"]
    loss = result.value.sel(measure="loss", bound="estimate").values
    assert loss[0] > loss[1] > loss[2] > 0


def test_errors_are_those_of_possible_clips_and_of_the_last_condition(lens: DiTLens) -> None:
    small = config()
    values, test = errors(lens, small.scenes("test"), small), small.scenes("test")
    error = velocity_errors(lens, test, (0.6,)).astype(float).mean(("sigma", "frame"))
    assert values["loss"][0] == pytest.approx(float(error[0].sel(role=["A", "B"]).mean()), rel=1e-5)
    crossed = error[-1].isel(scene=np.flatnonzero(error.crossed.values))
    possible, impossible = crossed.sel(role=["A", "B"]).mean(), crossed.sel(role=["C", "D"]).mean()
    assert values["surprise"][0] == pytest.approx(float(100 * (impossible - possible) / possible), rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--checkpoints", "501"], "got step 501 of mini-wan"),
        (["--controls", "mini-wan-random", "mini-wan-null"], "expected the initialisation"),
        (["--sigmas", "0"], "above 0 and up to 1"),
        (["--model", "somebody/something"], "no checkpoints of the model's training"),
        (
            ["--data", "inflevel=.", "--fit-on", "inflevel=.", "--also", "continuation"],
            "do not share their first frames",
        ),
    ],
)
def test_what_cannot_be_followed_is_told_at_once(arguments: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(*arguments)


def test_pairs_that_do_not_begin_alike_are_followed_without_continuations() -> None:
    assert config().also == ("continuation",) and isinstance(config(), Study)
    assert config("--data", "inflevel=.", "--fit-on", "inflevel=.").also == ()
