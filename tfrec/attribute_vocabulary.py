"""The known values of attributes and their ids; without TensorFlow, which batch retrieval imports late."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.schema import ATTRIBUTE_PREFIX

log = logging.getLogger("tfrec")

if TYPE_CHECKING:
    import pandas as pd

MISSING, UNKNOWN, FIRST = 0, 1, 2  # ids of a field: no value, one that training never saw, and the first known one


class AttributeVocabulary:
    """The known values of each field and their ids: 0 missing, 1 unknown, then by falling frequency.

    Args:
        values: The known values of each field; the first one gets id 2.
        max_values: Most values of one field that an item keeps (V); further ones are dropped.
    """

    def __init__(self, values: Mapping[str, Sequence[str]], *, max_values: int):
        self.values = {field: list(known) for field, known in values.items()}
        self.max_values = max_values
        self._ids = {
            field: {value: number for number, value in enumerate(known, FIRST)} for field, known in self.values.items()
        }

    @classmethod
    def build(
        cls,
        frame: pd.DataFrame,
        fields: Sequence[str],
        *,
        min_count: int = 1,
        max_values: int = 8,
        counted: np.ndarray | None = None,
    ) -> AttributeVocabulary:
        """Collect the vocabulary from the `attr.<field>` columns of a table of items or users.

        Args:
            frame: DataFrame whose columns hold lists of strings, or single strings (missing: None or empty).
            fields: Field names, without the `attr.` prefix; their order is the order of the encoder's fields.
            min_count: A value must occur this often to get an id of its own; rarer ones are unknown.
            max_values: Most values of one field that a row keeps; how many are dropped is logged.
            counted: Which rows' values are counted, bool `[N]`, as of training items; None: all. Of the others as many
                values are kept.
        """
        known, longest = {}, 1
        for field in fields:
            lengths, codes, values = _values(frame, field)
            learned = codes if counted is None else codes[np.repeat(counted, lengths)]
            counts = dict(zip(values, np.bincount(learned, minlength=len(values)).tolist(), strict=True))
            frequent = [value for value, count in counts.items() if count >= max(1, min_count)]
            known[field] = sorted(frequent, key=lambda value: (-counts[value], value))
            longest = max(longest, int(lengths.max(initial=1)))
            if dropped := int(np.maximum(lengths - max_values, 0).sum()):
                log.warning(
                    "attribute %s: %d values beyond the first %d of a row are not read (max_values)",
                    field,
                    dropped,
                    max_values,
                )
        return cls(known, max_values=min(longest, max_values))

    @property
    def fields(self) -> list[str]:
        """Field names in the encoder's order."""
        return list(self.values)

    @property
    def sizes(self) -> list[int]:
        """Number of ids of each field, missing and unknown included: the encoder's `sizes`."""
        return [len(known) + FIRST for known in self.values.values()]

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """Return ids `[N, F, V]` int32 of a table's `attr.<field>` columns; absent columns are missing."""
        ids = np.zeros((len(frame), len(self.values), self.max_values), np.int32)
        for number, field in enumerate(self.values):
            if ATTRIBUTE_PREFIX + field in frame:
                lengths, codes, values = _values(frame, field)
                row = np.repeat(np.arange(len(lengths)), lengths)
                place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
                kept = place < self.max_values
                id_of = np.array([self._ids[field].get(value, UNKNOWN) for value in values], np.int32)
                ids[row[kept], number, place[kept]] = id_of[codes[kept]]
        return ids

    def to_json(self, path: str | Path) -> None:
        """Write the vocabulary to a JSON file."""
        content = {"max_values": self.max_values, "values": self.values}
        Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> AttributeVocabulary:
        """Read a vocabulary that `to_json` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(content["values"], max_values=content["max_values"])


def _values(frame: pd.DataFrame, field: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The values of the column `attr.<field>`.

    Returns:
        How many each row has `[N]`, 0 where it is missing; the number of each one, in order; and the different values by
        their numbers.

    Raises:
        ValueError: The table has no such column.
    """
    if ATTRIBUTE_PREFIX + field not in frame:
        columns = sorted(
            name.removeprefix(ATTRIBUTE_PREFIX) for name in frame.columns if name.startswith(ATTRIBUTE_PREFIX)
        )
        raise ValueError(
            f"field {field!r} has no column {ATTRIBUTE_PREFIX + field!r} in the table; its fields are {columns}."
        )
    import pandas as pd

    cells = frame[ATTRIBUTE_PREFIX + field]
    if pd.api.types.infer_dtype(cells, skipna=True) in ("string", "empty"):  # millions of customers have one each
        codes, single = pd.factorize(cells.mask(cells == ""))
        return (codes >= 0).astype(np.int64), codes[codes >= 0], single.tolist()
    rows = [_as_values(cell) for cell in cells]
    codes, several = pd.factorize(np.array([value for row in rows for value in row], object))
    return np.fromiter(map(len, rows), np.int64, len(rows)), codes, several.tolist()


def _as_values(cell: Any) -> Sequence[str]:
    """Return one cell as its values: a list as it is, a string as one value, nothing for None, NaN and ''."""
    if isinstance(cell, str):
        return (cell,) if cell else ()
    if isinstance(cell, Iterable):
        return [value for value in cell if isinstance(value, str) and value]
    return ()
