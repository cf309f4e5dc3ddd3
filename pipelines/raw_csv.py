"""Streams a raw CSV file in blocks of strings, and keeps account of its rows: each is kept or rejected."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from pipelines.csv_lines import UNSPLIT, decode_utf8, split_record
from pipelines.prepared_writer import PreparedWriter
from pipelines.progress import Progress
from pipelines.schema import PreparedError

BLOCK_BYTES = 4 << 20  # larger blocks fall out of the processor's cache
LONGEST_RECORD = 20  # lines; where cells may hold line breaks, a quote still open after that many is a stray one
WRONG_COUNT = "wrong number of fields"
BLANK = "blank"  # such a line is passed over, and counts as a row of the file all the same
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


@dataclass(frozen=True)
class _Malformed:
    """A row that has no cells to speak of: its 1-based row in the file, its text, and why it is rejected."""

    row: int
    text: str
    reason: str


class RawCsv:
    """One raw CSV file. Iterating yields blocks of string columns, in the file's order.

    Rows with a wrong number of fields, or with a quote that is never closed, are rejected here; all other faults
    are the reader's to `reject`.

    Args:
        path: the file, in UTF-8.
        columns: the columns to read; others are skipped.
        writer: where rejected rows go.
        layout: how its rows are laid out; comma-separated with a header by default.
        quoted_newlines: whether a quoted field may hold line breaks (the file is then read as one block).

    Attributes:
        rows: data rows met so far, malformed ones included.
        rejected: how many of them were rejected so far.

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
    ):
        self.path, self.columns, self.layout = path, list(columns), layout
        self.rows, self.rejected = 0, 0
        self._writer, self._quoted_newlines = writer, quoted_newlines
        self._yielded = 0  # well-formed rows in all blocks handed out
        self._block_start = 0
        self._parsed = 0  # rows of all blocks parsed so far, malformed ones included
        self._malformed: list[_Malformed] = []
        self._reported = 0  # of the malformed rows
        self._blank = 0  # of those
        self._rejected_rows: list[np.ndarray] = []  # the other rejected ones
        self._names, self._data_start = self._read_header()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        size = self.path.stat().st_size
        with Progress(self.path.name, size, unit="B") as progress:
            for batch in self._batches():
                self._block_start = self._yielded
                self._yielded += len(batch)
                self._report_malformed()
                yield batch
                progress.update(min(BLOCK_BYTES, size))
                size -= min(BLOCK_BYTES, size)
        self._report_malformed()

    def read(self) -> pa.RecordBatch:
        """Return the whole file as one block."""
        blocks = list(self)
        self._block_start = 0
        schema = pa.schema({name: pa.string() for name in self.columns})
        return pa.concat_batches(blocks) if blocks else pa.RecordBatch.from_pylist([], schema)

    def reject(self, mask: np.ndarray, field: str, values: pa.Array, reason: str) -> None:
        """Reject rows of the block at hand.

        Args:
            mask: `[rows of the block]` bool, True = rejected.
            field: the column at fault.
            values: the block's column.
            reason: a fixed phrase; the manifest counts by it.
        """
        at = np.flatnonzero(mask)
        if len(at):
            self.rejected += len(at)
            malformed = np.array([row.row for row in self._malformed], np.int64)  # these are in no block
            rows = self._rows_without(self._block_start + at, malformed)
            shown = values.take(pa.array(at)).to_pylist()
            self._writer.reject_rows(file=self.path.name, rows=rows, field=field, values=shown, reason=reason)
            self._rejected_rows.append(rows)

    def settle(self, max_rejected: float) -> None:
        """Write the file's account to the manifest, and refuse a file of which too much was rejected.

        Raises:
            PreparedError: no row is usable, or more than the share `max_rejected` of them was rejected.
        """
        account = {"rows": self.rows, "kept": self.rows - self.rejected, "rejected": self.rejected}
        self._writer.notes.setdefault("raw_rows", {})[self.path.name] = account
        if not self.rows:
            raise PreparedError(f"{self.path} has no rows below its header")
        if self.rejected > max_rejected * self.rows:
            raise PreparedError(
                f"{self.path}: {self.rejected:,} of {self.rows:,} rows were rejected, more than "
                f"--max-rejected {max_rejected:g} allows; reasons so far: {self._writer.rejected}"
            )
        if self.rejected == self.rows:
            raise PreparedError(f"{self.path}: none of its {self.rows:,} rows is usable: {self._writer.rejected}")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Parse one block ahead, on a thread of our own: Arrow's own threads would lose the rows' numbers."""
        with closing(self._parse_blocks()) as blocks, ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(next, blocks, None)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(next, blocks, None)
                yield batch

    def _parse_blocks(self) -> Generator[pa.RecordBatch, None, None]:
        """Parse blocks of whole lines, so that no quote reaches from one block into the next."""
        with open(self.path, "rb") as file:
            file.seek(self._data_start)
            while data := file.read(-1 if self._quoted_newlines else BLOCK_BYTES):
                data += file.readline()
                first_row = self.layout.first_row + self._parsed
                if not data.isascii():
                    decode_utf8(data, self.path, first_row=first_row)  # Arrow would not name the row
                batch, malformed = self._parse(data, first_row)
                if self._has_other_lines(data, len(batch) + len(malformed)):
                    batch, malformed = self._parse_by_line(data, first_row)
                self._parsed += len(batch) + len(malformed)
                self._malformed += malformed
                yield batch

    def _parse(self, data: bytes, first_row: int) -> tuple[pa.RecordBatch, list[_Malformed]]:
        malformed = []

        def skip(row: pacsv.InvalidRow) -> str:
            malformed.append(_Malformed(first_row + row.number - 1, row.text, WRONG_COUNT))
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

    def _parse_by_line(self, data: bytes, first_row: int) -> tuple[pa.RecordBatch, list[_Malformed]]:
        """Parse a block with blank lines or an open quote: slowly, but rows keep their numbers, and a quote costs one."""
        lines = list(io.StringIO(decode_utf8(data, self.path, first_row=first_row), newline=""))
        most = LONGEST_RECORD if self._quoted_newlines else 1
        kept: list[list[str]] = []
        malformed: list[_Malformed] = []
        at = 0
        while at < len(lines):
            cells, used = self._split(lines[at : at + most])
            row, text = first_row + len(kept) + len(malformed), lines[at].rstrip("\r\n")
            if cells is None or (used > 1 and len(cells) != len(self._names)):
                malformed.append(_Malformed(row, text, UNSPLIT))
                used = 1  # the lines after it are rows of their own
            elif len(cells) == len(self._names):
                kept.append(cells)
            else:
                malformed.append(_Malformed(row, text, WRONG_COUNT if cells else BLANK))
            at += used
        columns = {name: pa.array([cells[at] for cells in kept], pa.string()) for at, name in enumerate(self._names)}
        return pa.RecordBatch.from_pydict({name: columns[name] for name in self.columns}), malformed

    def _split(self, lines: list[str]) -> tuple[list[str] | None, int]:
        """See `split_record`; where nothing is quoted, a quote is a letter like any other."""
        if self.layout.quoted:
            return split_record(lines, self.layout.delimiter)
        line = lines[0].rstrip("\r\n")
        return line.split(self.layout.delimiter) if line else [], 1

    def _report_malformed(self) -> None:
        """Reject the malformed rows met since the last block (on this thread, as the writer has no lock)."""
        for malformed in self._malformed[self._reported :]:
            self._reported += 1
            if malformed.reason == BLANK:
                self._blank += 1
                continue
            self._writer.reject(
                file=self.path.name, row=malformed.row, field="", value=malformed.text, reason=malformed.reason
            )
            self.rejected += 1
        self.rows = self._yielded + self._reported - self._blank

    def rows_of_kept(self, positions: np.ndarray) -> np.ndarray:
        """Return the 1-based rows in the file of kept rows, given their places among the kept ones, `[n]` int64."""
        rejected = np.concatenate([*self._rejected_rows, [row.row for row in self._malformed]])
        return self._rows_without(positions, np.sort(rejected.astype(np.int64)))

    def _rows_without(self, positions: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Return the 1-based rows at places that do not count the header and the rows `absent`, sorted."""
        first = self.layout.first_row
        before = np.searchsorted(absent - first - np.arange(len(absent)), positions, side="right")
        return positions + before + first

    def _read_header(self) -> tuple[list[str], int]:
        """Return the names of all columns, and the byte at which the data begin."""
        if not self.path.is_file():
            packed = self.path.with_name(self.path.name + ".zip")
            hint = f"unpack {packed} first" if packed.is_file() else "check --raw"
            raise PreparedError(f"{self.path} is missing; {hint}")
        with open(self.path, "rb") as file:
            line = b"" if self.layout.names else file.readline()
        cells, _ = split_record([line.decode("utf-8-sig", errors="replace")], self.layout.delimiter)
        header = list(self.layout.names or cells or [])
        for column in self.columns:
            if column not in header:
                raise PreparedError(
                    f"{self.path}: column {column!r} is missing (found {', '.join(header)}); "
                    "restore it from the original file, or add it with empty values where they are unknown"
                )
        return header, len(line)


def as_mask(booleans: pa.BooleanArray) -> np.ndarray:
    """Return Arrow's packed booleans as a NumPy mask."""
    return booleans.to_numpy(zero_copy_only=False)
