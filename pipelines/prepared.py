"""The prepared dataset: the one contract between raw data and everything else.

A folder of parquet tables, an image store and a manifest (`docs/architecture.md` lists them), written whole
or not at all, and opened with clear errors when it is broken.

    with PreparedWriter("out", dataset="shop") as writer:
        writer.items(items_frame)
        writer.users(users_frame)
        writer.events(events_frame)
    data = open_prepared("out")
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.photos.image_store import BYTES_FILE, ImageStore, ImageWriter
from pipelines.prepared_writer import PreparedWriter
from pipelines.remote import local_copy
from pipelines.schema import (
    ATTRIBUTE_PREFIX,
    EVENT_COLUMNS,
    FORMAT,
    ITEM_COLUMNS,
    SCHEMA_VERSION,
    USER_COLUMNS,
)
from pipelines.schema import PreparedError as PreparedError  # the public name lives here

__all__ = ["ImageStore", "ImageWriter", "Prepared", "PreparedError", "PreparedWriter", "open_prepared"]

TABLES = {"items": ITEM_COLUMNS, "users": USER_COLUMNS, "events": EVENT_COLUMNS}
PREPARE_AGAIN = "prepare the data again (python -m pipelines DATASET --raw DIR --out PREPARED --overwrite)"


class Prepared:
    """An opened prepared dataset; tables are read when first asked for. Make one with `open_prepared`.

    Attributes:
        path: the folder.
        manifest: the parsed `manifest.json`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row an item; the row number is the item's index. List columns hold sequences of strings."""
        return pd.read_parquet(self.path / "items.parquet")

    @cached_property
    def users(self) -> pd.DataFrame:
        """One row a user; the row number is the user's index. Missing attributes are null."""
        return pd.read_parquet(self.path / "users.parquet")

    def events(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Read the interactions, sorted by user, then time, then source order.

        Args:
            columns: the columns to read; all of them by default.
        """
        return pd.read_parquet(self.path / "events.parquet", columns=columns)

    @cached_property
    def event_columns(self) -> list[str]:
        """The columns of the interactions; `rating`, `price` and `channel` are there where the source has them."""
        return pq.read_schema(self.path / "events.parquet").names

    @cached_property
    def fields(self) -> list[str]:
        """The item attribute fields, without the `attr.` prefix."""
        return _attribute_fields(self.path / "items.parquet")

    @cached_property
    def user_fields(self) -> list[str]:
        """The user attribute fields, without the `attr.` prefix."""
        return _attribute_fields(self.path / "users.parquet")

    @property
    def holds_out_new_items(self) -> bool:
        """Whether each customer's last *new* item is held out, so that no target was bought before."""
        split = self.manifest["split"]
        return split.get("kind") == "leave-last-out" and split.get("held_out") != "last interaction"

    @cached_property
    def content(self) -> frozenset[str]:
        """Of `photos` and `texts`, what at least one item has; two columns are read, not the whole table."""
        columns = pq.read_table(self.path / "items.parquet", columns=["images", "text"])
        has = {
            "photos": pc.greater(pc.list_value_length(columns["images"]), 0),
            "texts": pc.not_equal(columns["text"], ""),
        }
        return frozenset(name for name, rows in has.items() if pc.any(rows).as_py())

    @cached_property
    def images(self) -> ImageStore | None:
        """The photos, or None when the dataset has none."""
        return ImageStore(self.path) if BYTES_FILE in self.manifest["files"] else None


def open_prepared(path: str | Path, *, verify: bool = False) -> Prepared:
    """Open a prepared dataset after checking that it is whole.

    Args:
        path: the folder that `python -m pipelines` wrote, or its address (`pipelines.remote`).
        verify: also compare every file's SHA-256 with the manifest (reads every byte).

    Returns:
        The dataset; its tables are read lazily.

    Raises:
        PreparedError: the folder is absent, has no or a broken manifest, is of another schema version, or a
            file is missing, of another size, of other columns, or (with `verify`) of other bytes.
        RemoteError: an address cannot be read.
    """
    path = local_copy(path)
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        _check_file(path / name, entry, verify=verify)
    for name, columns in TABLES.items():
        _check_table(path / f"{name}.parquet", columns, manifest["counts"][name])
    return Prepared(path, manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise PreparedError(f"{path} is not a folder; prepare the data first (python -m pipelines --help)")
    file = path / "manifest.json"
    if not file.is_file():
        raise PreparedError(
            f"{path} has no manifest.json, so it is not a prepared dataset or was copied in part; "
            "give the folder that `python -m pipelines DATASET --out` wrote"
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PreparedError(f"{file} is not valid JSON ({error}); {PREPARE_AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise PreparedError(f"{file} is not the manifest of a prepared dataset (its 'format' is not {FORMAT!r})")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise PreparedError(
            f"{file} has schema_version {manifest.get('schema_version')!r}, this tfrec reads "
            f"{SCHEMA_VERSION}; {PREPARE_AGAIN}"
        )
    if not _is_complete(manifest.get("files"), manifest.get("counts")):
        raise PreparedError(f"{file} has no or malformed entries under 'files' or 'counts'; {PREPARE_AGAIN}")
    return manifest


def _is_complete(files: Any, counts: Any) -> bool:
    """Whether the manifest lists every table, and only plain files of its own folder."""
    if not isinstance(files, dict) or not isinstance(counts, dict):
        return False
    if not all(f"{name}.parquet" in files and isinstance(counts.get(name), int) for name in TABLES):
        return False
    return all(Path(name).name == name and isinstance(entry, dict) for name, entry in files.items())


def _check_file(file: Path, entry: dict[str, Any], *, verify: bool) -> None:
    if not file.is_file():
        raise PreparedError(
            f"{file} is missing although the manifest lists it; copy the whole folder or {PREPARE_AGAIN}"
        )
    size = file.stat().st_size
    if size != entry.get("bytes"):
        raise PreparedError(
            f"{file} has {size} bytes, the manifest says {entry.get('bytes')}; copy the whole folder or {PREPARE_AGAIN}"
        )
    if verify:
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != entry.get("sha256"):
            raise PreparedError(
                f"{file} has SHA-256 {digest}, the manifest says {entry.get('sha256')}; {PREPARE_AGAIN}"
            )


def _check_table(file: Path, columns: dict[str, pa.DataType], rows: int) -> None:
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise PreparedError(f"{file} is not a readable parquet file ({error}); {PREPARE_AGAIN}") from error
    schema = metadata.schema.to_arrow_schema()
    for column, kind in columns.items():
        found = schema.field(column).type if column in schema.names else None
        if found != kind:
            raise PreparedError(f"{file}: column {column!r} is {found or 'absent'}, expected {kind}; {PREPARE_AGAIN}")
    if metadata.num_rows != rows:
        raise PreparedError(f"{file} has {metadata.num_rows} rows, the manifest says {rows}; {PREPARE_AGAIN}")


def _attribute_fields(file: Path) -> list[str]:
    names = pq.read_schema(file).names
    return [name.removeprefix(ATTRIBUTE_PREFIX) for name in names if name.startswith(ATTRIBUTE_PREFIX)]
