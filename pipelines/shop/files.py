"""A shop's files before they are read: which columns they have, and which of them stands for which of our names."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.prepared_writer import PreparedWriter
from pipelines.raw.raw_csv import CsvLayout, RawCsv, read_header
from pipelines.raw.raw_parquet import RawParquet, is_parquet, read_names
from pipelines.raw.raw_table import RawTable
from pipelines.schema import PreparedError
from pipelines.shop.names import ITEM_NAMES, PURCHASE_NAMES


@dataclass(frozen=True)
class ShopFile:
    """One of the shop's files.

    Attributes:
        path: where it is.
        name: what it is called in the account of rows; no two files share it.
        layout: how its rows are laid out, if it is a CSV file.
        header: the names of its columns.
        column: our name -> the column that stands for it, for the names it has.
    """

    path: Path
    name: str
    layout: CsvLayout
    header: list[str]
    column: dict[str, str]

    @property
    def others(self) -> list[str]:
        """The columns that stand for none of our names."""
        return [name for name in self.header if name not in self.column.values()]

    def open(self, columns: Iterable[str], writer: PreparedWriter, *, quoted_newlines: bool = False) -> RawTable:
        """Open the file to read some of its columns.

        Args:
            columns: their names in the file.
            writer: where rejected rows go.
            quoted_newlines: whether a quoted cell of a CSV file may hold line breaks (it is then read at once).
        """
        columns = list(dict.fromkeys(columns))
        for column in columns:
            if self.header.count(column) > 1:
                raise PreparedError(f"{self.path}: two columns are called {column!r}; rename one of them")
        if is_parquet(self.path):
            return RawParquet(self.path, columns, writer=writer, name=self.name)
        return RawCsv(
            self.path,
            columns,
            writer=writer,
            layout=self.layout,
            quoted_newlines=quoted_newlines,
            name=self.name,
        )


@dataclass(frozen=True)
class ShopFiles:
    """All of a shop's files."""

    items: ShopFile
    purchases: list[ShopFile]
    customers: ShopFile | None


def find_files(args: argparse.Namespace) -> ShopFiles:
    """Look into the files that the options name.

    Args:
        args: the options of `pipelines.shop.add_arguments`.

    Raises:
        PreparedError: a file is missing or given twice, it lacks a column, or `--columns` names one that no file has.
    """
    paths = [args.items, *args.purchases, *([args.customers] if args.customers else [])]
    for path in paths:
        if not path.is_file():
            raise PreparedError(f"{path} is not a file; name the shop's tables by --items, --purchases and --customers")
    places = Counter(path.resolve() for path in paths)
    if places.most_common(1)[0][1] > 1:
        raise PreparedError(f"{places.most_common(1)[0][0]} is given twice; its rows would count twice")
    shared = {name for name, number in Counter(path.name for path in paths).items() if number > 1}

    def look(path: Path, needed: Sequence[str], names: Sequence[str]) -> ShopFile:
        name = str(path) if path.name in shared else path.name
        return _look_into(path, needed, names, name=name, args=args)

    files = ShopFiles(
        look(args.items, ["item_id"], ITEM_NAMES),
        [look(path, PURCHASE_NAMES, PURCHASE_NAMES) for path in args.purchases],
        look(args.customers, ["customer_id"], ["customer_id"]) if args.customers else None,
    )
    found = [files.items, *files.purchases, *([files.customers] if files.customers else [])]
    for name, column in args.columns:
        if all(file.column.get(name) != column for file in found):
            headers = "; ".join(f"{file.name} has {', '.join(file.header)}" for file in found)
            raise PreparedError(f"--columns {name}={column}: no file has that column for {name!r}: {headers}")
    return files


def _look_into(
    path: Path, needed: Sequence[str], names: Sequence[str], *, name: str, args: argparse.Namespace
) -> ShopFile:
    """Read a file's header and find the columns that stand for `names`."""
    layout = CsvLayout(args.separator)
    header = read_names(path) if is_parquet(path) else read_header(path, layout)[0]
    column = {}
    for ours in names:
        wanted = [own for renamed, own in args.columns if renamed == ours] + [ours]
        present = [own for own in wanted if own in header]
        if present:
            column[ours] = present[0]
        elif ours in needed:
            hint = "; fields may be apart by another --separator" if len(header) == 1 else ""
            raise PreparedError(
                f"{path}: column {wanted[0]!r} is missing; it has {', '.join(header) or 'none'}. "
                f"If one of these is it, say so: --columns {ours}=COLUMN{hint}"
            )
    return ShopFile(path, name, layout, header, column)
