"""A raw table in blocks of strings, and the account of its rows: each is kept or rejected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.prepared_writer import PreparedWriter
from pipelines.printable import printable
from pipelines.progress import Progress
from pipelines.raw.csv_lines import UNSPLIT
from pipelines.schema import PreparedError

BLANK = "blank"  # such a line is passed over, and counts as a row of the file all the same


@dataclass(frozen=True)
class Malformed:
    """A row that has no cells to speak of: its 1-based row in the file, its text, and why it is rejected."""

    row: int
    text: str
    reason: str


class RawTable(ABC):
    """One raw file. Iterating yields blocks of string columns, in the file's order.

    Args:
        path: the file.
        columns: the columns to read; others are skipped.
        writer: where rejected rows go.
        first_row: the 1-based row in the file at which the data begin.
        name: what the file is called in the account of its rows; its own name where None.

    Attributes:
        rows: data rows met so far, malformed ones included.
        rejected: how many of them were rejected so far.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], *, writer: PreparedWriter, first_row: int, name: str | None = None
    ):
        self.path, self.columns, self.name = path, list(columns), name or path.name
        self.rows, self.rejected = 0, 0
        self._writer, self._first_row = writer, first_row
        self._yielded = 0  # well-formed rows in all blocks handed out
        self._block_start = 0
        self._malformed: deque[Malformed] = deque()  # met, and not yet in the account
        self._unsplit = False  # whether a row was among them in which a quote is open
        self._reported = array("q")  # the malformed rows that are in the account
        self._blank = 0  # of those
        self._reasons: Counter[str] = Counter()
        self._first = ""  # where and what the first rejection was
        self._rejected_rows: list[np.ndarray] = []  # the other rejected ones

    @abstractmethod
    def _blocks(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield each block and its size in units of `_size`; malformed rows are left out and told to `_malformed`."""

    @abstractmethod
    def _size(self) -> tuple[int | None, str]:
        """How large the whole file is, None where that is not known, and in what unit."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        total, unit = self._size()
        with Progress(self.name, total, unit=unit) as progress:
            for batch, size in self._blocks():
                self._block_start = self._yielded
                self._yielded += len(batch)
                self._report_malformed()
                yield batch
                progress.update(size)
        self._report_malformed()

    def read(self) -> pa.RecordBatch:
        """Return the whole file as one block."""
        blocks = list(self)
        self._block_start = 0
        schema = pa.schema({name: pa.string() for name in self.columns})
        try:
            return pa.concat_batches(blocks) if blocks else pa.RecordBatch.from_pylist([], schema)
        except pa.ArrowInvalid as error:  # an offset overflows
            raise PreparedError(
                f"{self.path}: a column of {self.columns} holds 2 GiB of text or more, and is read whole; leave out what is "
                f"not needed ({error})"
            ) from error

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
            malformed = np.array(self._reported)  # these are in no block
            rows = self._rows_without(self._block_start + at, malformed)
            shown = values.take(pa.array(at)).to_pylist()
            self._count(len(at), rows[0], field, shown[0], reason)
            self._writer.reject_rows(file=self.name, rows=rows, field=field, values=shown, reason=reason)
            self._rejected_rows.append(rows)

    def settle_ids(
        self,
        ids: pa.Array,
        proper: np.ndarray,
        field: str,
        shown: pa.Array,
        *,
        name: str,
        why: str,
        max_rejected: float,
    ) -> np.ndarray:
        """Reject the rows of a table read whole whose id is improper or stands in an earlier row, then `settle`.

        Args:
            ids: `[n]` strings.
            proper: `[n]` bool, which of them can be ids.
            field: the ids' column in the file.
            shown: that column, as the rejections show it.
            name: what an id is called.
            why: the reason for those that are not proper.
            max_rejected: see `settle`.

        Returns:
            Which rows stay, `[n]` bool.
        """
        repeated = proper & ids.to_pandas().where(proper).duplicated().to_numpy()
        self.reject(~proper, field, shown, why)
        self.reject(repeated, field, shown, f"duplicate {name}")
        self.settle(max_rejected)
        return proper & ~repeated

    def settle(self, max_rejected: float, *, may_be_empty: bool = False, one_of_many: bool = False) -> None:
        """Write the file's account to the manifest, and refuse a file of which too much was rejected.

        Args:
            max_rejected: largest share of its rows that may be rejected.
            may_be_empty: whether it may have no rows.
            one_of_many: whether others may hold what it lacks: where the share is 1, none of its rows need be usable.

        Raises:
            PreparedError: no row is usable, or more than the share of them was rejected.
        """
        account = {"rows": self.rows, "kept": self.rows - self.rejected, "rejected": self.rejected}
        self._writer.notes.setdefault("raw_rows", {})[self.name] = account
        if not self.rows and may_be_empty:
            return
        if not self.rows:
            raise PreparedError(f"{self.path} has no rows below its header; give a file that has some")
        told = f"{dict(sorted(self._reasons.items()))}; first {self._first}{self._advice()}"
        if self.rejected == self.rows and not (one_of_many and max_rejected >= 1.0):
            raise PreparedError(f"{self.path}: none of its {self.rows:,} rows is usable: {told}")
        if self.rejected > max_rejected * self.rows:
            raise PreparedError(
                f"{self.path}: {self.rejected:,} of {self.rows:,} rows were rejected, more than "
                f"--max-rejected {max_rejected:g} allows: {told}. With --max-rejected 1 they are left out and listed in "
                "rejected.parquet"
            )

    def _count(self, rows: int, first: int, field: str, value: str | None, reason: str) -> None:
        """Count rejected rows by their reason, and keep where and what the first of the table was."""
        self.rejected += rows
        self._reasons[reason] += rows
        if not self._first:
            column = f", column {field!r}" if field else ""
            self._first = f"row {first}{column}: {printable(value)[:80]!r} ({reason})"

    def _advice(self) -> str:
        """What may help where too many rows were rejected, for the end of the message."""
        return ""

    def rows_of_kept(self, positions: np.ndarray) -> np.ndarray:
        """Return the 1-based rows in the file of kept rows, given their places among the kept ones, `[n]` int64."""
        rejected = np.concatenate([*self._rejected_rows, np.array(self._reported)])
        return self._rows_without(positions, np.sort(rejected))

    def _report_malformed(self) -> None:
        """Reject the malformed rows met since the last block (on this thread, as the writer has no lock)."""
        while self._malformed:
            malformed = self._malformed.popleft()
            self._unsplit |= malformed.reason == UNSPLIT
            self._reported.append(malformed.row)
            if malformed.reason == BLANK:
                self._blank += 1
                continue
            self._writer.reject(
                file=self.name, row=malformed.row, field="", value=malformed.text, reason=malformed.reason
            )
            self._count(1, malformed.row, "", malformed.text, malformed.reason)
        self.rows = self._yielded + len(self._reported) - self._blank

    def _rows_without(self, positions: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Return the 1-based rows at places that do not count the header and the rows `absent`, sorted."""
        before = np.searchsorted(absent - self._first_row - np.arange(len(absent)), positions, side="right")
        return positions + before + self._first_row


def as_mask(booleans: pa.BooleanArray) -> np.ndarray:
    """Return Arrow's packed booleans as a NumPy mask."""
    return booleans.to_numpy(zero_copy_only=False)
