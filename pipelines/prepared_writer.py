"""Writes a prepared dataset so that its folder appears whole on success and not at all on failure."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.events_file import EventsFile
from pipelines.photos.image_store import ImageWriter
from pipelines.printable import printable
from pipelines.publish import HiddenFolder, is_free, put_back
from pipelines.schema import PreparedError

MAX_REJECTED_ROWS = 100_000  # stored of each reason; every rejection is counted
OWN_FILES = {"manifest.json", "images.bin"} | {
    f"{name}.parquet" for name in ("items", "users", "events", "images", "rejected")
}
MAX_REJECTED_VALUE = 200  # characters


class PreparedWriter:
    """Context manager that collects tables and photos in a hidden folder and publishes it by one rename.

    Args:
        out: the folder to make. Its parent is created when absent.
        dataset: name of the pipeline, kept in the manifest.
        source: where the raw files came from, kept in the manifest.
        options: the options that shaped the result, kept in the manifest.
        overwrite: replace an existing prepared dataset at `out`.

    Attributes:
        images: the `ImageWriter` (`.add(key, jpeg_bytes)`).
        split: how events were split; set it before the block ends.
        notes: further counts worth keeping, written under `counts`.

    Raises:
        PreparedError: `out` exists and may not be replaced, or (from its methods and at the end of the block)
            the tables break the contract.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        dataset: str,
        source: Any = None,
        options: dict[str, Any] | None = None,
        overwrite: bool = False,
    ):
        self.out = Path(out).resolve()
        self.split: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self._dataset, self._source, self._options, self._overwrite = (
            dataset,
            source,
            options or {},
            overwrite,
        )
        self._counts: dict[str, Any] = {}
        self._rejected: Counter[str] = Counter()
        self._rejected_rows: dict[str, list] = {name: [] for name in schema.REJECTED_COLUMNS}
        self._images_of_items = pa.chunked_array([], type=pa.string())
        self._last_ids = {"users": -1, "items": -1}  # the largest that the events refer to
        put_back(self.out)
        self._refuse_existing()
        self._folder = HiddenFolder(self.out)
        self.images = ImageWriter(self._folder.path)

    def __enter__(self) -> PreparedWriter:
        return self

    def items(self, frame: pd.DataFrame) -> None:
        """Write the items, one row each; the row number becomes the item's index (`schema.items_table`)."""
        table = schema.items_table(frame)
        self._images_of_items = pc.list_flatten(table["images"])
        self._write("items", table)

    def users(self, frame: pd.DataFrame) -> None:
        """Write the users, one row each; the row number becomes the user's index (`schema.users_table`)."""
        self._write("users", schema.users_table(frame))

    def events(self, frames: pd.DataFrame | Iterable[pd.DataFrame]) -> None:
        """Write the interactions, sorted by user, then time, across all frames (`schema.events_table`).

        Args:
            frames: one frame, or an iterator of frames, so that the table never has to be whole in memory.
        """
        self._refuse_twice("events")
        no_events = pd.DataFrame({name: pd.Series([], dtype="int64") for name in schema.EVENT_COLUMNS})
        with EventsFile(self._folder.path / "events.parquet") as file:
            for frame in [frames] if isinstance(frames, pd.DataFrame) else frames:
                file.add(frame)
            if not file.by_split.any():
                file.add(no_events)
        self._counts["events"] = int(file.by_split.sum())
        self._counts["events_by_split"] = dict(zip(schema.SPLIT_CODES, file.by_split.tolist()))
        self._last_ids = {"users": file.last_user, "items": file.last_item}

    def extra(self, name: str, source: str | Path) -> None:
        """Keep a copy of a further file beside the tables; the manifest lists it like any other.

        Args:
            name: its plain file name in the dataset.
            source: the file to copy.
        """
        if Path(name).name != name or name in OWN_FILES or (self._folder.path / name).exists():
            raise PreparedError(f"extra file {name!r} is not a plain, unused file name; give one like 'oracle.npz'")
        shutil.copyfile(source, self._folder.path / name)

    def reject(self, *, file: str, row: int, field: str, value: object, reason: str) -> None:
        """Record one raw row or photo that was kept aside.

        Args:
            file: the raw file's name.
            row: 1-based row of the raw file, a header being row 1; 0 where rows make no sense (a photo).
            field: the column at fault.
            value: what stood there.
            reason: a fixed phrase; the manifest counts by it.
        """
        self.reject_rows(file=file, rows=[row], field=field, values=[value], reason=reason)

    def reject_rows(
        self,
        *,
        file: str,
        rows: Sequence[int] | np.ndarray,
        field: str,
        values: Sequence[object] | np.ndarray,
        reason: str,
    ) -> None:
        """Record many rejected rows of one file for one reason (see `reject`)."""
        if not len(rows):
            return
        room = max(0, MAX_REJECTED_ROWS - self._rejected[reason])
        self._rejected[reason] += len(rows)
        for row, value in zip(rows[:room], values[:room]):
            text = printable(value)[:MAX_REJECTED_VALUE]
            for name, cell in zip(schema.REJECTED_COLUMNS, (printable(file), int(row), field, text, reason)):
                self._rejected_rows[name].append(cell)

    @property
    def rejected(self) -> dict[str, int]:
        """How much was rejected so far, by reason."""
        return dict(sorted(self._rejected.items()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self._refuse_existing()  # another run may have been faster
                self._folder.publish()
        finally:
            self._folder.close()

    def _write(self, name: str, table: pa.Table) -> None:
        self._refuse_twice(name)
        pq.write_table(table, self._folder.path / f"{name}.parquet")
        self._counts[name] = len(table)

    def _refuse_twice(self, name: str) -> None:
        if name in self._counts:
            raise PreparedError(f"{name} were written already; call PreparedWriter.{name} once")

    def _refuse_existing(self) -> None:
        """Raise where `out` may not be replaced: `--overwrite` is off, or it is something else than ours."""
        if is_free(self.out):
            return
        if not self._overwrite:
            raise PreparedError(f"{self.out} exists; choose another --out or pass --overwrite to replace it")
        try:
            manifest = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))
            ours = manifest.get("format") == schema.FORMAT
        except (OSError, ValueError, AttributeError):
            ours = False
        if not ours:
            raise PreparedError(
                f"{self.out} is not a prepared dataset, so --overwrite leaves it alone; choose another --out"
            )

    def _finish(self) -> None:
        """Complete the files, check that they refer to each other correctly, and write the manifest."""
        self.images.close()
        self._fill_absent_tables()
        self._check_references()
        folder = self._folder.path
        rejected = [pa.array(self._rejected_rows[name], kind) for name, kind in schema.REJECTED_COLUMNS.items()]
        pq.write_table(pa.table(rejected, names=list(schema.REJECTED_COLUMNS)), folder / "rejected.parquet")
        files = sorted(folder.iterdir())
        with ThreadPoolExecutor() as pool:  # hashlib releases the interpreter lock
            entries = list(pool.map(_describe, files))
        manifest = {
            "format": schema.FORMAT,
            "schema_version": schema.SCHEMA_VERSION,
            "dataset": self._dataset,
            "counts": {**self._counts, "images": len(self.images), **self.notes},
            "split": self.split,
            "files": {path.name: entry for path, entry in zip(files, entries)},
            "rejected": self.rejected,
            "source": self._source,
            "options": self._options,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
        (folder / "manifest.json").write_text(printable(text), encoding="utf-8")

    def _fill_absent_tables(self) -> None:
        """Write empty tables for datasets without customers or purchases, so every reader finds all files."""
        if "items" not in self._counts:
            raise PreparedError("the dataset has no items; call PreparedWriter.items before the block ends")
        if "users" not in self._counts:
            self.users(pd.DataFrame({"user_id": pd.Series([], dtype=str)}))
        if "events" not in self._counts:
            self.events([])

    def _check_references(self) -> None:
        for name, last in self._last_ids.items():
            if last >= self._counts[name]:
                raise PreparedError(f"events refer to row {last} of {name}, which has {self._counts[name]} rows")
        for key in self._images_of_items.unique().to_pylist():
            if key not in self.images:
                raise PreparedError(f"an item refers to photo {key!r}, which is not stored; add it or leave it out")


def _describe(file: Path) -> dict[str, Any]:
    """A file's manifest entry."""
    with open(file, "rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
