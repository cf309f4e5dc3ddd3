"""The image store: resized JPEG bytes end to end in `images.bin`, found by key through `images.parquet`."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schema import IMAGE_COLUMNS, PreparedError

BYTES_FILE = "images.bin"
INDEX_FILE = "images.parquet"


class ImageWriter:
    """Appends encoded photos to a store. Call it from one thread; the files appear at the first photo."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file: BinaryIO | None = None
        self._rows: dict[str, tuple[int, int]] = {}  # key -> offset, length
        self._end = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def add(self, key: str, jpeg_bytes: bytes) -> None:
        """Append one photo.

        Args:
            key: unique, non-empty; items refer to the photo by it.
            jpeg_bytes: the encoded photo, as it is to be read back.

        Raises:
            PreparedError: the key is empty or already stored, or there are no bytes.
        """
        if not isinstance(key, str) or not key:
            raise PreparedError(f"images: key {key!r} is not a non-empty string")
        if key in self._rows:
            raise PreparedError(f"images: key {key!r} is stored already; give every photo its own key")
        if not jpeg_bytes:
            raise PreparedError(f"images: photo {key!r} has no bytes; leave it out of its item's `images` instead")
        if self._file is None:
            self._file = open(self._folder / BYTES_FILE, "wb", buffering=1 << 20)  # noqa: SIM115 (closed in `close`)
        self._file.write(jpeg_bytes)
        self._rows[key] = (self._end, len(jpeg_bytes))
        self._end += len(jpeg_bytes)

    def close(self) -> None:
        """Flush the bytes and write the index (nothing is written when no photo was added)."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        places = np.array(list(self._rows.values()), dtype=np.int64)
        columns = [list(self._rows), places[:, 0], places[:, 1].astype(np.int32)]
        arrays = [pa.array(column, type=kind) for column, kind in zip(columns, IMAGE_COLUMNS.values())]
        pq.write_table(pa.table(arrays, names=list(IMAGE_COLUMNS)), self._folder / INDEX_FILE)


class ImageStore:
    """Random access to a prepared dataset's photos; memory-mapped, safe to read from many threads.

    Attributes:
        keys: every key, in the order in which the photos were stored.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        index = pq.read_table(self._folder / INDEX_FILE)
        self.keys: list[str] = index["key"].to_pylist()
        self._offset = index["offset"].to_numpy()
        self._length = index["length"].to_numpy()
        self._row = {key: row for row, key in enumerate(self.keys)}
        with open(self._folder / BYTES_FILE, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self.keys) and (self._offset + self._length).max() > len(self._bytes):
            raise PreparedError(
                f"{self._folder / INDEX_FILE} points past the end of {BYTES_FILE}; prepare the data again"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._row

    def read(self, key: str) -> bytes:
        """Return the JPEG bytes stored under `key`.

        Raises:
            KeyError: no photo has this key.
        """
        try:
            row = self._row[key]
        except KeyError:
            raise KeyError(f"no photo {key!r} in {self._folder}; its keys are the values of items.images") from None
        start = int(self._offset[row])
        return self._bytes[start : start + int(self._length[row])]
