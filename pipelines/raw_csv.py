"""Streams a raw CSV file in blocks of strings, and keeps account of its rows: each is kept or rejected."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from pipelines.prepared_writer import PreparedWriter
from pipelines.progress import Progress
from pipelines.schema import PreparedError

BLOCK_BYTES = 4 << 20  # larger blocks fall out of the processor's cache


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


class RawCsv:
    """One raw CSV file. Iterating yields blocks of string columns, in the file's order.

    Args:
        path: the file, in UTF-8.
        columns: the columns to read; others are skipped.
        writer: where rejected rows go.
        layout: how its rows are laid out; comma-separated with a header by default.
        quoted_newlines: whether a quoted field may hold a line break (slower).

    Attributes:
        rows: data rows met so far, malformed ones included.
        rejected: how many of them were rejected so far.

    Raises:
        PreparedError: the file or one of its columns is missing, or it cannot be parsed.
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
        self._malformed: list[tuple[int, str]] = []  # 1-based row and text of rows with a wrong number of fields
        self._reported = 0  # of the malformed rows
        self._rejected_rows: list[np.ndarray] = []  # the other rejected ones
        self._check_header()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        size = self.path.stat().st_size
        with Progress(self.path.name, size, unit="B") as progress:
            try:
                for batch in self._batches():
                    self._block_start = self._yielded
                    self._yielded += len(batch)
                    self._report_malformed()
                    yield batch
                    progress.update(min(BLOCK_BYTES, size))
                    size -= min(BLOCK_BYTES, size)
            except pa.ArrowInvalid as error:
                where = f"{self.path}: after row {self.rows + 1}"
                raise PreparedError(f"{where}: {error}; mend or remove the row at fault") from error
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
            malformed = np.array([number for number, _ in self._malformed], np.int64)  # these are in no block
            rows = _rows_without(self._block_start + at, malformed)
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
        reader = pacsv.open_csv(
            self.path,
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, column_names=self.layout.names),
            parse_options=pacsv.ParseOptions(
                delimiter=self.layout.delimiter,
                quote_char='"' if self.layout.quoted else False,
                newlines_in_values=self._quoted_newlines,
                invalid_row_handler=self._skip_malformed,
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=self.columns, column_types={name: pa.string() for name in self.columns}
            ),
        )
        with reader, ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(next, reader, None)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(next, reader, None)
                yield batch

    def _skip_malformed(self, row: pacsv.InvalidRow) -> str:
        self._malformed.append((row.number, row.text))
        return "skip"

    def _report_malformed(self) -> None:
        """Reject the malformed rows met since the last block (on this thread, as the writer has no lock)."""
        for number, text in self._malformed[self._reported :]:
            self._writer.reject(file=self.path.name, row=number, field="", value=text, reason="wrong number of fields")
            self._reported += 1
            self.rejected += 1
        self.rows = self._yielded + self._reported

    def rows_of_kept(self, positions: np.ndarray) -> np.ndarray:
        """Return the 1-based rows in the file of kept rows, given their places among the kept ones, `[n]` int64."""
        rejected = np.concatenate([*self._rejected_rows, [number for number, _ in self._malformed]])
        return _rows_without(positions, np.sort(rejected.astype(np.int64)))

    def _check_header(self) -> None:
        if not self.path.is_file():
            packed = self.path.with_name(self.path.name + ".zip")
            hint = f"unpack {packed} first" if packed.is_file() else "check --raw"
            raise PreparedError(f"{self.path} is missing; {hint}")
        with open(self.path, encoding="utf-8-sig", errors="replace", newline="") as file:
            header = self.layout.names or next(csv.reader(file, delimiter=self.layout.delimiter), [])
        for column in self.columns:
            if column not in header:
                raise PreparedError(
                    f"{self.path}: column {column!r} is missing (found {', '.join(header)}); "
                    "restore it from the original file, or add it with empty values where they are unknown"
                )


def _rows_without(positions: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Return the 1-based rows of a file at places that do not count the header and the rows `absent`, sorted."""
    before = np.searchsorted(absent - 2 - np.arange(len(absent)), positions, side="right")
    return positions + before + 2


def as_mask(booleans: pa.BooleanArray) -> np.ndarray:
    """Return Arrow's packed booleans as a NumPy mask."""
    return booleans.to_numpy(zero_copy_only=False)
