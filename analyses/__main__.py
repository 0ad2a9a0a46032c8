"""All questions, what each needs, and which data sets and families serve it: `python -m analyses`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

from analyses.command import header, questions
from dit_lens.datasets.spec import GIVES, SPLICES
from dit_lens.studies.options import CHECKPOINTS, NEEDS
from dit_lens.studies.study import ContinuationStudy, Study


def main() -> None:
    """Prints the table."""
    rows = [(name, *header(name)) for name in questions()]
    width = max(len(name) for name, _, _ in rows)
    print("python -m analyses.NAME --help shows the options of a question.\n")
    for name, config, description in rows:
        question = textwrap.shorten(description.splitlines()[0], 150)
        print(f"{name:{width}s}  {question}")
        print(f"{'':{width}s}    needs {_listed(NEEDS[need] for need in config.NEEDS) or 'clips'}")
        print(f"{'':{width}s}    data  {_listed(serving(config))}")
        print(f"{'':{width}s}    models {models(config)}\n")
    print(
        f"--path continuation also needs {NEEDS[SPLICES]}, and a model that takes a noise level for each frame: Wan,"
        " SkyReels, LTX and Cosmos Predict 2, but not CogVideoX, Allegro, HunyuanVideo or Mochi."
    )


def serving(config: type[Study]) -> list[str]:
    """The data sets that have what a question needs."""
    return [name for name, gives in GIVES.items() if {*config.NEEDS} - {CHECKPOINTS} <= {*gives}]


def models(config: type[Study]) -> str:
    """The models that a question runs on, in words."""
    if CHECKPOINTS in config.NEEDS:
        return "mini-wan and models trained by the same script, with checkpoints"
    if issubclass(config, ContinuationStudy):
        return "those that take a noise level for each frame (Wan, LTX, ...)"
    return "any"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


if __name__ == "__main__":
    sys.exit(main())
