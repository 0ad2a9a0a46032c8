"""Every analysis as a command: options checked at once, results named by what was asked, nothing half-written."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import pytest
import xarray as xr

from analyses import command
from dit_lens import results
from dit_lens.studies import Study, outcome

ROOT = Path(__file__).parent.parent
TINY = [
    "--sampler-steps", "3", "--read-at", "2", "--train", "10", "--test", "4", "--properties", "inertia", "gravity",
    "--controls",
]  # fmt: skip


def refused(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on which a command ends."""
    with pytest.raises(SystemExit) as stopped:
        command.call(name, arguments)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("error: got")
    return last


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a result."""
    folder = tmp_path_factory.mktemp("first")
    command.call("patch_residual", [*TINY, "--out", str(folder)])
    return folder


def test_a_command_writes_its_result_and_figure_and_does_not_repeat_itself(
    first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = first.glob("patch_residual-*.nc")
    assert path.with_suffix(".pdf").stat().st_size > 5000 and path.with_suffix(".png").is_file()
    facts = results.facts(results.open_result(path))
    assert facts["config"]["test"] == 4 and facts["config"]["path"] == "continuation" and facts["weights"]["mini-wan"]

    from analyses import patch_residual

    monkeypatch.setattr(patch_residual, "run", lambda config: pytest.fail("ran again"))
    command.call("patch_residual", [*TINY, "--out", str(first)])
    text = capsys.readouterr().out
    assert f"{path} is up to date; delete it to recompute" in text and f"result  {path}" in text
    with pytest.raises(pytest.fail.Exception, match="ran again"):
        command.call("patch_residual", [*TINY, "--seed", "1", "--out", str(first)])
    command.call("patch_residual", [*TINY, "--out", str(first), "--batch-size", "3", "--yes"])  # no other question


def test_the_verdict_comes_first_and_the_whole_table_when_it_is_asked_for(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.call("patch_residual", [*TINY, "--out", str(first)])
    short = capsys.readouterr().out
    command.call("patch_residual", [*TINY, "--out", str(first), "--full"])
    whole = capsys.readouterr().out
    assert short.split("\n\n")[1] in whole and len(whole) > len(short)
    assert "mini-wan" in short.split("\n\n")[1] and "n = 4" in short.split("\n\n")[1]


def test_other_options_never_replace_a_result(first: Path) -> None:
    (path,) = first.glob("patch_residual-*.nc")
    before = path.read_bytes()
    command.call("patch_residual", [*TINY, "--directions", "1", "--out", str(first)])
    assert path.read_bytes() == before and len(list(first.glob("patch_residual-*.nc"))) == 2


def test_ctrl_c_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    from analyses import patch_residual

    monkeypatch.setattr(patch_residual, "run", lambda config: xr.Dataset())
    monkeypatch.setattr(xr.Dataset, "to_netcdf", interrupted)
    with pytest.raises(SystemExit) as stopped:
        command.call("patch_residual", [*TINY, "--out", str(tmp_path)])
    assert stopped.value.code == 130 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "mini-wam"], "did you mean 'mini-wan'"),
        (["--controls", "nobody"], "got model 'nobody'"),
        (["--data", "miniphyz"], "did you mean 'miniphys'"),
        (["--data", "intphys"], "got --data intphys without a root"),
        (["--data", "intphys=/nowhere"], "got root /nowhere of intphys"),
        (["--data", "miniphys=/tmp"], "expected no root"),
        (["--data", "miniphys:tset"], "did you mean 'test'"),
        (["--properties", "gravty"], "gravity"),
        (["--read-at", "25"], "expected a step from 0 (data) to 20 (noise)"),
        (["--read-at", "1.5"], "a noise level in [0, 1]"),
        (["--read-at"], "expected one or more places"),
        (["--train", "3"], "got 3 training scenes · expected at least 5"),
        (["--test", "1"], "got 1 test scenes · expected at least 2"),
        (["--frames", "16"], "17"),
        (["--size", "33"], "32"),
        (["--dtype", "float8"], "got --dtype 'float8' · expected one of auto, float32"),
        (["--path", "inversoin"], "did you mean 'inversion'"),
        (["--device", "gpu"], "device"),
        (["--dataset", "miniphys"], "got --dataset · expected --data, its new name"),
        (["--levels", "4"], "expected --sampler-steps"),
        (["--steps", "2"], "expected --read-at"),
        (["--modle", "x"], "unknown option --modle; did you mean 'model'"),
        (["--block", "9", "--train", "10", "--test", "2", "--controls"], "got --block 9"),
        (["--out", "/proc/nowhere"], "/proc/nowhere, which cannot be written"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    assert says in refused("patch_residual", [*arguments, *out], capsys)
    assert not list(tmp_path.rglob("*.nc"))


@pytest.mark.parametrize("name", command.questions())
def test_help_lists_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config, description = command.header(name)
    with pytest.raises(SystemExit) as ended:
        command.parse(config, name, ["--help"], description)
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)  # without the box and its line breaks
    assert ended.value.code == 0
    for option in fields(config):
        assert "--" + option.name.replace("_", "-") in text
    # Every option has a sentence: text between its name and the next option or the end of the box.
    assert len(re.findall(r"\(default: ", text)) == len(fields(config))


@pytest.mark.parametrize("name", command.questions())
def test_a_question_adds_few_options_and_declares_what_it_needs(name: str) -> None:
    config, description = command.header(name)
    added = {field.name for field in fields(config)} - {field.name for field in fields(Study)}
    assert issubclass(config, Study) and len(added) <= 8, added
    assert description.splitlines()[0].endswith(("?", ".")) and isinstance(config.NEEDS, tuple)


@pytest.mark.parametrize("name", command.questions())
def test_a_question_opens_with_what_why_how_controls_and_cost(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In about ten lines; `--help` prints each part as a paragraph, none of them cut."""
    config, docstring = command.header(name)
    question, *parts = re.split(rf"\n+(?=(?:{'|'.join(command.PARTS)}): )", docstring)
    assert len(docstring.splitlines()) <= 12 and len(question.splitlines()) == 1
    assert tuple(part.partition(":")[0] for part in parts) == command.PARTS
    with pytest.raises(SystemExit):
        command.parse(config, name, ["--help"], docstring)
    text = re.sub(r" *\n(?!\n)", " ", capsys.readouterr().out)  # as wrapped to the terminal
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n")]
    assert all(" ".join(part.split()) in paragraphs for part in (question, *parts))


def test_help_and_bad_input_import_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['patch_heads', '--help']; import runpy, contextlib, io\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    runpy.run_module('analyses.patch_heads', run_name='__main__', alter_sys=True)\n"
        "print([m for m in ('torch', 'xarray', 'diffusers', 'sklearn', 'nnsight') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_all_questions_are_listed_with_their_needs() -> None:
    begun = time.process_time()
    done = subprocess.run([sys.executable, "-m", "analyses"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert time.process_time() - begun < 60
    for name in command.questions():
        assert f"\n{name} " in done.stdout
    assert "pairs of a possible and an impossible clip" in done.stdout and "intphys" in done.stdout


def test_the_code_of_an_analysis_is_all_that_it_imports() -> None:
    names = results.closure("analyses.patch_heads")
    assert {"analyses.patch_heads", "dit_lens.studies.exchanges", "dit_lens.interventions.exact"} <= {*names}
    assert "analyses.surprise" not in names and "figures.patch_heads" not in names


def test_a_docstring_changes_no_code(tmp_path: Path) -> None:
    original, reworded, changed = (tmp_path / f"{i}.py" for i in range(3))
    original.write_text('"""This."""\ndef f():\n    """What."""\n    return 1\n')
    reworded.write_text('"""That."""\ndef f():\n    """Else."""  # and why\n    return 1\n')
    changed.write_text('"""This."""\ndef f():\n    """What."""\n    return 2\n')
    import ast

    bare = [ast.dump(results._bare(path)) for path in (original, reworded, changed)]
    assert bare[0] == bare[1] != bare[2]


class Plain(Study):
    """A question without options of its own."""

    NEEDS: ClassVar[tuple[str, ...]] = ("pairs",)


def test_defaults_follow_the_model_and_the_data(tmp_path: Path, released_folder: Callable[[str], Path]) -> None:
    demo = Plain().resolved()
    assert (demo.path, demo.read_at, demo.controls) == ("continuation", (14,), ("mini-wan-null", "mini-wan-random"))
    model = released_folder("wan21")
    real = Plain(model=str(model), data=f"intphys={tmp_path}").resolved()
    assert (real.path, real.controls, real.train) == ("inversion", ("random",), None)
    assert real.read_at == pytest.approx((1 / 3, 1 / 2, 2 / 3)) and real.properties == ()
    assert Plain(data=f"grasp={tmp_path}").resolved().path == "continuation"
    with pytest.raises(ValueError, match="evaluation only"):
        Plain(data=f"inflevel={tmp_path}").resolved()
    fitted = Plain(data=f"inflevel={tmp_path}", fit_on=f"intphys={tmp_path}").resolved()
    assert fitted.path == "inversion"


def test_what_was_asked_names_the_result() -> None:
    wanted = {"config": {"seed": 0}, "weights": {"mini-wan": "a"}, "code": "1"}
    here = outcome.location(Plain(), "surprise", wanted)
    assert here == outcome.location(Plain(), "surprise", wanted | {"code": "2"})
    assert here != outcome.location(Plain(), "surprise", wanted | {"config": {"seed": 1}})
    assert here != outcome.location(Plain(), "surprise", wanted | {"weights": {"mini-wan": "b"}})
    assert here.parent == Path("figures/data") and re.fullmatch(r"surprise-[0-9a-f]{10}\.nc", here.name)
