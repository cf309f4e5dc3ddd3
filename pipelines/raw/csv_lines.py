"""Splits CSV text line by line, so that a stray quote costs its own line and none of those after it.

Python's and Arrow's parsers both take an opened quote for the start of a cell that goes on until the next
quote, over as many lines as it takes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.schema import PreparedError

UNSPLIT = "a quote is not closed"
# Arrow's parser, which reads what needs no care, has no limit: a row must not be kept by one and rejected by the other.
csv.field_size_limit(2**31 - 1)


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
        after the last of `lines`.
    """
    reader = csv.reader([*lines, ""], delimiter=delimiter)  # it asks for the line too many if a quote is open
    try:
        cells = next(reader)
    except csv.Error:
        return None, 1
    return (cells, reader.line_num) if reader.line_num <= len(lines) else (None, 1)


class OpenQuotes:
    """Says where the records of a file end whose quote is still open at the end of their first line.

    A record goes on until its quote is closed before a delimiter or a line's end. A quote anywhere else is the start of
    a later row's cell: then the one that is open is a stray one. Each line is looked into once, as it does not matter to
    a line that starts within a cell where that cell began.

    Args:
        lines: all of the file's lines, each with its line end.
        fields: of a row.
        delimiter: one character.
    """

    def __init__(self, lines: Sequence[str], fields: int, delimiter: str = ","):
        self._lines, self._fields, self._delimiter = lines, fields, delimiter
        self._first, self._closed = 0, False  # of the lines looked into last, which all start within a cell
        self._more: list[int] = [0]  # fields that begin in those lines, from the first one on
        self._rows: list[int] | None = None  # how many of those lines look like rows of their own, likewise

    def end(self, at: int) -> tuple[int, int] | None:
        """Where the record that starts with line `at` ends, which is not that line.

        Returns:
            How many lines it has, and how many fields; None where its quote is a stray one.
        """
        start = self._fields_of(self._lines[at])
        if start is None or not start[1]:
            return None
        if not self._first <= at + 1 < self._last:
            self._look(at + 1)
        if not self._closed or at + 1 >= self._last:
            return None
        return self._last - at, start[0] + self._more[-1] - self._more[at + 1 - self._first]

    def swallows_rows(self, at: int) -> bool:
        """Whether a record that a lenient parser makes of many lines is a row with a stray quote and the rows after it."""
        return self.end(at) is None and self._first <= at + 1 < self._last and self.holds_rows(at)

    def holds_rows(self, at: int) -> bool:
        """Whether at least half of the lines that the record goes on in have the fields of a row; `end` was asked for it."""
        if self._rows is None:
            self._rows = [0]
            for line in self._lines[self._first : self._last]:
                cells, _ = split_record([line], self._delimiter)
                self._rows.append(self._rows[-1] + (cells is not None and len(cells) == self._fields))
        rows = self._rows[-1] - self._rows[at + 1 - self._first]
        return 2 * rows >= self._last - at - 1

    @property
    def _last(self) -> int:
        """The line after those looked into last."""
        return self._first + len(self._more) - 1

    def _look(self, first: int) -> None:
        """Look into the lines from `first` on, which starts within a cell, until the cell's record ends."""
        self._first, self._closed, self._more, self._rows = first, False, [0], None
        for at in range(first, len(self._lines)):
            found = self._fields_of('"' + self._lines[at])
            self._more.append(self._more[-1] + (found[0] - 1 if found else 0))
            if found is None or not found[1]:
                self._closed = found is not None
                return

    def _fields_of(self, line: str) -> tuple[int, bool] | None:
        """How many fields a line has, and whether the last of them is still open; None where a quote is misplaced."""
        reader = csv.reader([line, '"'], delimiter=self._delimiter, strict=True)
        try:
            return len(next(reader)), reader.line_num > 1
        except csv.Error:
            return None


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
