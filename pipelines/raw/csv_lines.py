"""Splits CSV text line by line, so that a stray quote costs its own line and none of those after it.

Python's and Arrow's parsers both take an opened quote for the start of a cell that goes on until the next
quote, over as many lines as it takes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.schema import PreparedError

UNSPLIT = "a quote is not closed, or a cell is too long"


def csv_rows(lines: Iterable[str], *, file: str, reject: Callable[..., None]) -> Iterator[tuple[int, list[str]]]:
    """Yield `(row, cells)` of each line that is not blank; no cell may go on in the next line.

    Args:
        lines: the lines of a comma-separated file, its header among them.
        file: its name, for `reject`.
        reject: called with `file, row, field, value, reason` for every line that cannot be split.
    """
    for row, line in enumerate(lines, start=1):
        cells, _ = split_record([line])
        if cells is None:
            reject(file=file, row=row, field="", value=line.rstrip("\r\n"), reason=UNSPLIT)
        elif cells:
            yield row, cells


def split_record(lines: Sequence[str], delimiter: str = ",") -> tuple[list[str] | None, int]:
    """Split the record that starts with the first of `lines` into its cells.

    Args:
        lines: the line it starts with, and those it may go on in, each with its line end.
        delimiter: one character.

    Returns:
        Its cells (none for a blank line) and how many lines they took; `(None, 1)` where a quote is still open
        after the last of `lines`, or a cell is longer than `csv.field_size_limit()`.
    """
    reader = csv.reader([*lines, ""], delimiter=delimiter)  # it asks for the line too many if a quote is open
    try:
        cells = next(reader)
    except csv.Error:
        return None, 1
    return (cells, reader.line_num) if reader.line_num <= len(lines) else (None, 1)


def decode_utf8(data: bytes, file: Path, *, first_row: int = 1) -> str:
    """Decode the bytes of `file` that start with its row `first_row`.

    Raises:
        PreparedError: they are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = first_row + data.count(b"\n", 0, error.start)
        raise PreparedError(
            f"{file}: row {row} is not UTF-8; convert the file, e.g. one in Latin-1 with "
            f"`iconv -f LATIN1 -t UTF-8 {file.name} > converted.csv`"
        ) from error
