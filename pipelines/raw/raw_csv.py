"""Streams a raw CSV file in blocks of strings."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from pipelines.prepared_writer import PreparedWriter
from pipelines.raw.csv_lines import UNSPLIT, OpenQuotes, csv_rows, decode_utf8, split_record
from pipelines.raw.raw_table import BLANK, Malformed, RawTable
from pipelines.schema import PreparedError

BLOCK_BYTES = 4 << 20  # larger blocks fall out of the processor's cache
MOST_BYTES = 1 << 31  # that Arrow parses as one block
CARELESS_LINES = 20  # a record of more must be quoted by the rules, lest a stray quote swallow the rows after it
WRONG_COUNT = "wrong number of fields"
GZIP = b"\x1f\x8b"  # how such a file begins
ZIP = b"PK\x03\x04"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PEEK_BYTES = 1 << 16
NEWLINE = ord("\n")


@dataclass(frozen=True)
class CsvLayout:
    """How a file's rows are laid out.

    Attributes:
        delimiter: one character.
        names: the columns of a file without a header row; None where the first row names them.
        quoted: whether fields may be quoted.
    """

    delimiter: str = ","
    names: tuple[str, ...] | None = None
    quoted: bool = True

    @property
    def first_row(self) -> int:
        """The 1-based row in the file at which the data begin."""
        return 1 if self.names else 2


class RawCsv(RawTable):
    """One raw CSV file, plain or packed by gzip. Iterating yields blocks of string columns, in the file's order.

    Rows with a wrong number of fields, or with a quote that is never closed, are rejected here; all other faults
    are the reader's to `reject`.

    Args:
        path: the file, in UTF-8.
        columns: the columns to read; others are skipped.
        writer: where rejected rows go.
        layout: how its rows are laid out; comma-separated with a header by default.
        quoted_newlines: whether a quoted field may hold line breaks (the file is then read as one block).
        name: what the file is called in the account of its rows; its own name where None.
        may_be_empty: the columns that may have empty cells; the message about a missing one says so.

    Raises:
        PreparedError: the file or one of its columns is missing, or it is not UTF-8.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        *,
        writer: PreparedWriter,
        layout: CsvLayout = CsvLayout(),
        quoted_newlines: bool = False,
        name: str | None = None,
        may_be_empty: Collection[str] = (),
    ):
        super().__init__(path, columns, writer=writer, first_row=layout.first_row, name=name)
        self.layout = layout
        self._quoted_newlines = quoted_newlines
        self._parsed = 0  # rows of all blocks parsed so far, malformed ones included
        self._names, self._data_start = read_header(path, layout)
        for column in self.columns:
            if column not in self._names:
                cure = "restore it from the original file"
                if column in may_be_empty:
                    cure += ", or add it with empty values where they are unknown"
                elif not may_be_empty:
                    cure = f"it is required, as are {', '.join(self.columns)}: {cure}"
                else:
                    cure = f"it is required: {cure}"
                found = ", ".join(self._names) or "none"
                raise PreparedError(f"{path}: column {column!r} is missing (found {found}); {cure}")

    def _size(self) -> tuple[int | None, str]:
        return (None if is_packed(self.path) else self.path.stat().st_size), "B"

    def _advice(self) -> str:
        if self._quoted_newlines or not self._unsplit:
            return ""
        return (
            f". The cells of {self.name} may hold no line breaks, not even in a column that is not used: "
            "write the file again without that column, or with blanks for the line breaks"
        )

    def _blocks(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Parse one block ahead, on a thread of our own: Arrow's own threads would lose the rows' numbers."""
        with closing(self._parse_blocks()) as blocks, ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(next, blocks, None)
            while (block := ahead.result()) is not None:
                ahead = pool.submit(next, blocks, None)
                yield block

    def _parse_blocks(self) -> Generator[tuple[pa.RecordBatch, int], None, None]:
        """Parse blocks of whole lines, so that no quote reaches from one block into the next."""
        with open_bytes(self.path) as file:
            file.seek(self._data_start)
            while data := file.read(-1 if self._quoted_newlines else BLOCK_BYTES):
                data += file.readline()
                if len(data) >= MOST_BYTES:
                    raise PreparedError(
                        f"{self.path} has {len(data):,} bytes, and a table whose cells may hold line breaks is read as one "
                        "block of at most 2 GiB: write it as Parquet, which `pipelines shop` reads"
                    )
                first_row = self.layout.first_row + self._parsed
                if not data.isascii():
                    decode_utf8(data, self.path, first_row=first_row)  # Arrow would not name the row
                batch, malformed = self._parse(data, first_row)
                if self._has_other_lines(data, len(batch) + len(malformed)):
                    batch, malformed = self._parse_by_line(data, first_row)
                self._parsed += len(batch) + len(malformed)
                self._malformed += malformed
                yield batch, len(data)

    def _parse(self, data: bytes, first_row: int) -> tuple[pa.RecordBatch, list[Malformed]]:
        malformed = []

        def skip(row: pacsv.InvalidRow) -> str:
            malformed.append(Malformed(first_row + row.number - 1, row.text, WRONG_COUNT))
            return "skip"

        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                read_options=pacsv.ReadOptions(block_size=len(data) + 1, use_threads=False, column_names=self._names),
                parse_options=pacsv.ParseOptions(
                    delimiter=self.layout.delimiter,
                    quote_char='"' if self.layout.quoted else False,
                    invalid_row_handler=skip,
                ),
                convert_options=pacsv.ConvertOptions(
                    include_columns=self.columns, column_types={name: pa.string() for name in self.columns}
                ),
            )
        except pa.ArrowInvalid as error:
            raise PreparedError(
                f"{self.path}: from row {first_row} on: {error}; mend or remove the row at fault"
            ) from error
        columns = [pa.concat_arrays(column.chunks) for column in table.columns]
        return pa.RecordBatch.from_arrays(columns, names=self.columns), malformed

    def _has_other_lines(self, data: bytes, rows: int) -> bool:
        """Whether some lines of a block may be no rows of their own: blank ones, and those that a quoted cell goes on in.

        Proper line breaks also make this true, which costs time only.
        """
        lines = np.count_nonzero(np.frombuffer(data, np.uint8) == NEWLINE) + (not data.endswith(b"\n"))
        if rows != lines or not self.layout.quoted or b'"' not in data:
            return rows != lines
        last = data[data.rfind(b"\n", 0, -1) + 1 :].decode(errors="replace")  # there is no row it could swallow
        return split_record([last], self.layout.delimiter)[0] is None

    def _parse_by_line(self, data: bytes, first_row: int) -> tuple[pa.RecordBatch, list[Malformed]]:
        """Parse a block with blank lines or an open quote: slowly, but rows keep their numbers, and a quote costs one."""
        lines = list(io.StringIO(decode_utf8(data, self.path, first_row=first_row), newline=""))
        most = CARELESS_LINES if self._quoted_newlines else 1
        fields = len(self._names)
        quotes = OpenQuotes(lines, fields, self.layout.delimiter) if self._quoted_newlines else None
        kept: list[list[str]] = []
        malformed: list[Malformed] = []
        at = 0
        while at < len(lines):
            cells, used = self._split(lines[at : at + most])
            reason = WRONG_COUNT if cells else BLANK
            if cells is None or (used > 1 and (len(cells) != fields or (quotes and quotes.swallows_rows(at)))):
                cells, used, reason = self._split_long(lines, at, quotes)
            if cells is not None and len(cells) == fields:
                kept.append(cells)
            else:
                malformed.append(Malformed(first_row + len(kept) + len(malformed), lines[at].rstrip("\r\n"), reason))
            at += used
        columns = {name: pa.array([cells[at] for cells in kept], pa.string()) for at, name in enumerate(self._names)}
        return pa.RecordBatch.from_pydict({name: columns[name] for name in self.columns}), malformed

    def _split_long(self, lines: list[str], at: int, quotes: OpenQuotes | None) -> tuple[list[str] | None, int, str]:
        """Split a record that goes on in many lines, or whose quote is a stray one: the lines after it are then rows.

        Returns:
            Its cells, None where it is to be rejected; the lines it took; why it would be rejected.
        """
        end = quotes.end(at) if quotes else None
        if quotes is None or end is None:
            return None, 1, UNSPLIT
        used, fields = end
        if fields == len(self._names):
            return self._split(lines[at : at + used])[0], used, UNSPLIT
        return (None, 1, UNSPLIT) if quotes.holds_rows(at) else (None, used, WRONG_COUNT)

    def _split(self, lines: list[str]) -> tuple[list[str] | None, int]:
        """See `split_record`; where nothing is quoted, a quote is a letter like any other."""
        if self.layout.quoted:
            return split_record(lines, self.layout.delimiter)
        line = lines[0].rstrip("\r\n")
        return line.split(self.layout.delimiter) if line else [], 1


def read_header(path: Path, layout: CsvLayout = CsvLayout()) -> tuple[list[str], int]:
    """Return the names of all columns of a CSV file, without blanks around them, and the byte at which the data begin.

    Raises:
        PreparedError: there is no such file, or it is no text in UTF-8.
    """
    if not path.is_file():
        packed = path.with_name(path.name + ".zip")
        hint = f"unpack {packed} first" if packed.is_file() else f"check --raw ({path.name}.gz would do as well)"
        raise PreparedError(f"{path} is missing; {hint}")
    check_text(path)
    if layout.names:
        return list(layout.names), 0
    with open_bytes(path) as file:
        line = file.readline()
    text = line.decode("utf-8-sig", errors="replace")
    cells = split_record([text], layout.delimiter)[0] if layout.quoted else text.split(layout.delimiter)
    if cells is None:
        raise PreparedError(f"{path}: row 1, the header, has a quote that is not closed; write the header in one line")
    return [name.strip() for name in cells], len(line)


def open_records(
    path: Path, columns: Sequence[str], *, reject: Callable[..., None]
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """A small CSV file, plain or gzipped, whose cells hold no line breaks: its header, and `(row, cells)` of its lines.

    Args:
        path: the file.
        columns: that its header must have.
        reject: called with `file, row, field, value, reason` for every line that cannot be split.

    Raises:
        PreparedError: it is no text in UTF-8, or a column is missing.
    """
    check_text(path)
    with open_bytes(path) as file:
        lines = io.StringIO(decode_utf8(file.read(), path), newline="")
    rows = csv_rows(lines, file=path.name, reject=reject)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    for name in columns:
        if name not in header:
            raise PreparedError(f"{path}: column {name!r} is missing from the header; found {header}")
    return header, rows


def check_text(path: Path) -> None:
    """Refuse files that are no lines of UTF-8, of which a parser would make garbage.

    Raises:
        PreparedError: what the file is, and how to convert it.
    """
    with open_bytes(path) as file:
        data = file.read(PEEK_BYTES)
    if data.startswith(ZIP):
        raise PreparedError(
            f"{path} is a zip archive or a spreadsheet (.xlsx); unpack the archive, or save the spreadsheet as CSV"
        )
    if data.startswith(UTF_16) or b"\0" in data[:2]:
        raise PreparedError(
            f"{path} is UTF-16; save it as CSV in UTF-8, or convert it: "
            f"`iconv -f UTF-16 -t UTF-8 {path.name} > converted.csv`"
        )
    if b"\r" in data[:-1] and b"\n" not in data:
        raise PreparedError(
            f"{path} ends its lines as old Macs do (CR alone); convert it: "
            f"`tr '\\r' '\\n' < {path.name} > converted.csv`"
        )


def or_gzipped(path: Path) -> Path:
    """The file itself, or where there is none its gzipped copy `path.gz`; where there is neither, the file."""
    packed = path.with_name(path.name + ".gz")
    return packed if not path.is_file() and packed.is_file() else path


def is_packed(path: Path) -> bool:
    """Whether a file is packed by gzip, whatever its name says."""
    with open(path, "rb") as file:
        return file.read(len(GZIP)) == GZIP


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for its bytes, unpacked where gzip packed it.

    Raises:
        PreparedError: what is packed turns out to be damaged.
    """
    try:
        with gzip.open(path) if is_packed(path) else open(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PreparedError(f"{path} is damaged or cut off ({error}); copy it again") from error
