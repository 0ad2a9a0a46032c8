"""What the first edition answered on miniphys, this one answers: each array's mean, spread and ends, as it wrote them.

The numbers of `first_edition.json` were written by the first edition's own commands before its code was moved; their
options are those of today's commands for the same question. The only kind of number left out is one that was changed on
purpose, which the changelog names.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from analyses import command

FIRST = json.loads((Path(__file__).parent / "first_edition.json").read_text())
TOLERANCE = 1e-4  # of an array's largest value; batches are put together in another order

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FIRST)
def test_a_question_is_answered_as_by_the_first_edition(name: str, tmp_path: Path) -> None:
    command.call(name, [*FIRST[name]["options"], "--yes", "--out", str(tmp_path)])
    (file,) = tmp_path.rglob(f"{name}-*.nc")
    with xr.open_dataset(file, engine="h5netcdf") as results:
        for variable, first in FIRST[name]["results"].items():
            values = results[variable].values.astype(float)
            values = values[np.isfinite(values)]
            assert values.size == first["count"], variable
            got = [values.mean(), values.std(), values.min(), values.max()]
            expected = [first["mean"], first["std"], first["min"], first["max"]]
            scale = max(abs(first["min"]), abs(first["max"]))
            np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * max(scale, 1e-6), err_msg=variable)
