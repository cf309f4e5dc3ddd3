"""Streams a raw Parquet file in blocks of strings, so that readers need not know how a shop keeps its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.prepared_writer import PreparedWriter
from pipelines.raw.raw_table import RawTable
from pipelines.schema import PreparedError

MAGIC = b"PAR1"  # how such a file begins
BLOCK_ROWS = 1 << 17
LIST_SEPARATOR = "|"
LARGEST_WHOLE = 2.0**53  # beyond it, float64 does not hold every whole number


class RawParquet(RawTable):
    """One raw Parquet file. Iterating yields blocks of string columns, in the file's order; its first row is row 1.

    Missing values are empty strings, whole numbers have no decimal point even where they are kept as floats, moments are
    written in UTC, and the values of a list are joined by `|`.

    Args:
        path: the file.
        columns: the columns to read; others are skipped.
        writer: where rejected rows go.
        name: what the file is called in the account of its rows; its own name where None.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, writer: PreparedWriter, name: str | None = None):
        super().__init__(path, columns, writer=writer, first_row=1, name=name)

    def _size(self) -> tuple[int | None, str]:
        return pq.read_metadata(self.path).num_rows, " rows"

    def _blocks(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=self.columns):
                    columns = [self._as_text(batch, name) for name in self.columns]
                    yield pa.RecordBatch.from_arrays(columns, names=self.columns), len(batch)
        except (pa.ArrowInvalid, OSError) as error:
            raise PreparedError(f"{self.path} cannot be read as Parquet ({error}); write it again") from error

    def _as_text(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        try:
            return as_text(batch[name])
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            kind = batch.schema.field(name).type
            raise PreparedError(
                f"{self.path}: column {name!r} of type {kind} cannot be read as text ({error}); write it as strings"
            ) from error


def read_names(path: Path) -> list[str]:
    """Return the names of all columns of a Parquet file.

    Raises:
        PreparedError: it is none, or a damaged one.
    """
    try:
        return pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise PreparedError(f"{path} cannot be read as Parquet ({error}); write it again") from error


def is_parquet(path: Path) -> bool:
    """Whether a file is a Parquet file, whatever its name says."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def as_text(column: pa.Array) -> pa.Array:
    """Return a column of any plain type as strings, "" where it has no value."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_text(column.dictionary_decode())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        column = pc.fill_null(column, pa.scalar([], kind))  # a missing list reads as an empty one, also in a slice
        lists = pa.ListArray.from_arrays(column.offsets.cast(pa.int32()), as_text(column.values))
        return pc.fill_null(pc.binary_join(lists, LIST_SEPARATOR), "")
    if pa.types.is_floating(kind):
        return _numbers_as_text(column.cast(pa.float64()))
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us"), safe=False)  # a moment with a zone becomes that of UTC
    elif pa.types.is_date64(kind):
        column = column.cast(pa.date32())
    return pc.fill_null(column.cast(pa.string()), "")


def _numbers_as_text(column: pa.Array) -> pa.Array:
    """Write floats; tables with gaps keep ids and years as such, and `1234.0` is then the id 1234."""
    known = pc.and_kleene(pc.is_valid(column), pc.invert(pc.is_nan(column)))
    whole = pc.and_kleene(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), LARGEST_WHOLE))
    whole = pc.fill_null(pc.and_kleene(known, whole), False)
    integers = pc.if_else(whole, column, 0.0).cast(pa.int64()).cast(pa.string())
    return pc.if_else(pc.fill_null(known, False), pc.if_else(whole, integers, column.cast(pa.string())), "")
