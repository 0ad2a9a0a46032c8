"""Tables of clips: CSV files in UTF-8, with a name for each line in error messages and cells stripped of blanks."""

from __future__ import annotations

import csv
from pathlib import Path

Row = dict[str, str]


def read_table(table: Path, delimiter: str = ",") -> tuple[list[str], list[tuple[str, Row]]]:
    """The columns of a table, and its lines by name.

    Raises:
        ValueError: the table cannot be read, has a column twice, or a line with too many or too few cells; names it.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            columns = list(reader.fieldnames or ())
            rows = [(f"{table}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"got {table}, which cannot be read ({error}) · expected a CSV file in UTF-8") from error
    if len(set(columns)) < len(columns):
        raise ValueError(f"got {table} with columns {columns} · expected each column once")
    for line, row in rows:
        if None in row or None in row.values():
            raise ValueError(f"got {line}, with more or fewer cells than the header · expected {len(columns)} cells")
    return columns, [(line, {key: cell.strip() for key, cell in row.items()}) for line, row in rows]
