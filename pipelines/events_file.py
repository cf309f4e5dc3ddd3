"""Writes `events.parquet` chunk by chunk: checked on the caller's thread, encoded on another."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema

FEW_VALUES = ["time", "split", "rating", "price", "channel"]  # columns that a dictionary makes shorter


class EventsFile:
    """Context manager that appends frames of events, sorted by user, then time, also across frames.

    Args:
        path: the file to make.

    Attributes:
        last_user: largest user of all events so far, or -1.
        last_item: largest item of all events so far, or -1.
        by_split: `[3]` events of each split.
    """

    def __init__(self, path: Path):
        self.last_user = self.last_item = -1
        self.by_split = np.zeros(len(schema.SPLIT_CODES), np.int64)
        self._path = path
        self._last: tuple[int, int] | None = None  # user and time of the last event
        self._writer: pq.ParquetWriter | None = None
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._writing: Future | None = None

    def __enter__(self) -> EventsFile:
        return self

    def add(self, frame: pd.DataFrame) -> None:
        """Check and append a frame (see `schema.events_table`); it is encoded while the next one is made."""
        table = schema.events_table(frame, self._last)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, use_dictionary=FEW_VALUES)
        if len(table):
            self._last = (table["user"][-1].as_py(), table["time"][-1].as_py())
            self.last_user = self._last[0]
            self.last_item = max(self.last_item, pc.max(table["item"]).as_py())
            self.by_split += np.bincount(table["split"].to_numpy(), minlength=len(self.by_split))
        self._wait()
        self._writing = self._pool.submit(self._writer.write_table, table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()
            if self._writer is not None:
                self._writer.close()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
