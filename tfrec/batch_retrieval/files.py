"""Files of recommendations: parts while they are made, and the finished parquet, CSV or Kaggle submission.

What has its name is whole, here (`pipelines/publish.py`) or at an address (`pipelines/remote.py`).
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipelines.remote import is_remote, remove_folder, written_or_sent
from tfrec.runs.lock import LOCK, only_writer

SCHEMA = pa.schema({"user_id": pa.string(), "item_ids": pa.list_(pa.string()), "scores": pa.list_(pa.float32())})
FORMATS = ("parquet", "csv", "submission")
# A spreadsheet takes a cell that starts so for a formula; a quote before it makes it text.
FORMULA = r"^([=+\-@\t\r])"


class RecommendationFileError(ValueError):
    """An output that cannot be written, or parts that belong to other recommendations."""


def format_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        RecommendationFileError: it asks for none.
    """
    if path.suffix == ".csv":
        return "submission" if path.name.startswith("submission") else "csv"
    if path.suffix == ".parquet":
        return "parquet"
    raise RecommendationFileError(f"--out {path} must end in .parquet or .csv, or say --format one of {FORMATS}")


def check_submission(item_ids: Iterable[str]) -> None:
    """Refuse to write ids that a submission cannot hold, before hours of work are done.

    Raises:
        RecommendationFileError: an id holds a space.
    """
    spaced = next((name for name in item_ids if re.search(r"\s", name)), None)
    if spaced is not None:
        raise RecommendationFileError(
            f"item id {spaced!r} holds a space, which separates ids in a submission; write --format csv"
        )


def recommendation_table(ids: pa.Array, rows: np.ndarray, scores: np.ndarray, item_ids: pa.Array) -> pa.Table:
    """Recommendations of `U` customers as a table.

    Args:
        ids: `U` customer ids.
        rows: int32 `[U, k]` item rows, -1 at the end of a row that has fewer.
        scores: float32 `[U, k]`.
        item_ids: the id of every row.
    """
    kept = rows >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32))
    items = pa.ListArray.from_arrays(offsets, item_ids.take(pa.array(rows[kept])))
    return pa.table([ids, items, pa.ListArray.from_arrays(offsets, pa.array(scores[kept]))], schema=SCHEMA)


class Parts:
    """Finished parts of a long job in a folder beside its output; a killed job goes on from them.

    A job begins with `start_afresh` or `resume`, and has the folder to itself until it is `close`d; at an address, where
    there are no locks, that is left to those who start jobs.

    Args:
        out: the output that they will become.
    """

    def __init__(self, out: Path):
        self._out, self._held = out, ExitStack()
        self.folder = out.with_name(out.name + ".parts")
        self._job = self.folder / "job.json"  # written before any part: parts without it are what a removal left

    @classmethod
    def start_afresh(cls, out: Path, job: dict[str, Any]) -> Parts:
        """No parts yet: those that are there are removed, whatever job they are of.

        Args:
            out: the output that they will become.
            job: what they are parts of, as JSON can hold it.

        Raises:
            FolderInUseError: another process makes them.
        """
        parts = cls(out)
        parts._hold()
        parts._begin(job)
        return parts

    @classmethod
    def resume(cls, out: Path, job: dict[str, Any], *, joins: bool = False) -> Parts:
        """The parts that a stopped run of the same job left; afresh where there are none.

        Args:
            out: the output that they will become.
            job: as it was given to `start_afresh`. Parts of other jobs are not mixed with them.
            joins: make some of the parts for the process that has the folder.

        Raises:
            RecommendationFileError: the parts that are there belong to another job.
            FolderInUseError: another process makes them.
        """
        parts = cls(out)
        if not joins:
            parts._hold()
        try:
            parts._take_up(job, joins=joins)
        except BaseException:
            parts.close()
            raise
        return parts

    def close(self) -> None:
        """Leave the folder to others."""
        self._held.close()

    def _hold(self) -> None:
        if is_remote(self.folder):
            return
        told = f"--out {self._out}: another process makes it, in {self.folder}; wait for it or end it, or name another file"
        self._held.enter_context(only_writer(self.folder, told=told))

    def _begin(self, job: dict[str, Any]) -> None:
        if not is_remote(self.folder):
            self._job.unlink(missing_ok=True)  # first: what is left without it are no parts
            for file in self.folder.iterdir():
                if file.name != LOCK:
                    file.unlink()
        elif self.folder.exists():
            remove_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_or_sent(self._job) as stream:
            stream.write((json.dumps(job, indent=1, sort_keys=True) + "\n").encode())

    def _take_up(self, job: dict[str, Any], *, joins: bool) -> None:
        if not self._job.exists():
            if joins:  # it is there where the job began: to begin it again would remove others' parts
                raise RecommendationFileError(f"{self.folder} is not to be seen here; all workers must share its place")
            self._begin(job)
            return
        before = json.loads(self._job.read_text(encoding="utf-8"))
        differs = sorted(key for key in job.keys() | before.keys() if job.get(key) != before.get(key))
        if differs:
            raise RecommendationFileError(
                f"{self.folder} holds parts made with another {', '.join(differs)}; "
                "run with the same options, or without --resume to start afresh"
            )

    def path(self, number: int) -> Path:
        """Where a part is, or will be."""
        return self.folder / f"part-{number:05d}.parquet"

    def done(self, number: int) -> bool:
        """Whether a part is finished."""
        return self.path(number).exists()

    def write(self, number: int, table: pa.Table) -> None:
        """Write a part, whole or not at all."""
        with written_or_sent(self.path(number), shared=True) as stream:
            pq.write_table(table, stream)

    def write_lines(self, number: int, lines: list[str]) -> None:
        """Write the lines that go with a part, before the part itself."""
        with written_or_sent(self.path(number).with_suffix(".jsonl"), shared=True) as stream:
            stream.write("".join(f"{line}\n" for line in lines).encode())

    def finish(self, count: int, out: Path, kind: str, lines: Path | None = None) -> None:
        """Put all parts together as the output, and their lines as the file `lines`, and remove them."""
        if lines is not None:
            with written_or_sent(lines) as stream:
                for number in range(count):
                    stream.write(self.path(number).with_suffix(".jsonl").read_bytes())
        tables = map(self._table, range(count))
        with written_or_sent(out) as stream:
            WRITERS[kind](tables, stream)
        try:
            remove_folder(self.folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # else another process begins there: the lock went with the rest
                raise
        self.close()

    def _table(self, number: int) -> pa.Table:
        with self.path(number).open("rb") as stream:
            return pq.read_table(stream, schema=SCHEMA)


def _write_parquet(tables: Iterator[pa.Table], stream: IO[bytes]) -> None:
    with pq.ParquetWriter(stream, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)


def _write_csv(tables: Iterator[pa.Table], stream: IO[bytes]) -> None:
    """One line a recommendation: `user_id,rank,item_id,score`, ranks from 1, best first."""
    stream.write(b"user_id,rank,item_id,score\n")
    for table in tables:
        items, scores = table["item_ids"].combine_chunks(), table["scores"].combine_chunks()
        lengths = pc.list_value_length(items).to_numpy()
        parent = np.repeat(np.arange(len(table)), lengths)
        rank = np.arange(len(parent)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
        users = safe_cells(table["user_id"].combine_chunks()).take(pa.array(parent))
        columns = [users, pa.array(rank, pa.int32()), safe_cells(items.flatten()), scores.flatten()]
        _append_csv(stream, pa.table(columns, names=["user_id", "rank", "item_id", "score"]))


def _write_submission(tables: Iterator[pa.Table], stream: IO[bytes]) -> None:
    """Kaggle's format: `customer_id,prediction`, the items of a customer separated by spaces."""
    stream.write(b"customer_id,prediction\n")
    for table in tables:
        columns = [table["user_id"], pc.binary_join(table["item_ids"].combine_chunks(), " ")]
        _append_csv(stream, pa.table(columns, names=["customer_id", "prediction"]))


WRITERS: dict[str, Callable[[Iterator[pa.Table], IO[bytes]], None]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "submission": _write_submission,
}


def safe_cells(values: pa.Array) -> pa.Array:
    """Ids as a spreadsheet may open them: `=1+1` as `'=1+1`."""
    return pc.replace_substring_regex(values, FORMULA, r"'\1")


def _append_csv(stream: IO[bytes], table: pa.Table) -> None:
    """Append rows without a header; cells are quoted only where the table holds any that need it."""
    special = re.compile(r'[",\r\n]').pattern
    texts = [column for column in table.columns if pa.types.is_string(column.type)]
    plain = not any(pc.any(pc.match_substring_regex(text, special)).as_py() for text in texts)
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none" if plain else "needed")
    pa_csv.write_csv(table, stream, options)
