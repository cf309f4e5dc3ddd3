"""The attribute encoder: a table per field, the mean of a field's values, and their vocabulary."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from pipelines.schema import ATTRIBUTE_PREFIX
from tfrec.attention import ResumableDropout

log = logging.getLogger("tfrec")

if TYPE_CHECKING:
    import pandas as pd

MISSING, UNKNOWN, FIRST = 0, 1, 2


@tf.keras.utils.register_keras_serializable("tfrec")
class AttributeEncoder(tf.keras.layers.Layer):
    """Attribute ids to one token per field, or to one unit vector when used alone.

    The tables of all fields stand in one variable, one after the other: one gather instead of one per field.

    Args:
        sizes: Vocabulary size of each field, ids 0 (missing) and 1 (unknown) included.
        dim: Width of the tokens (D).
        alone: Return one L2-normalised vector per row instead of tokens: the fields' tokens end to end
            through a 2-layer MLP.
        hidden_dim: Hidden width of that MLP.
        output_dim: Width of the vector when used alone.
        dropout: Dropout rate on the MLP's hidden layer.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        *,
        alone: bool = False,
        hidden_dim: int = 512,
        output_dim: int = 512,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not sizes or min(sizes) < FIRST:
            raise ValueError(f"sizes={list(sizes)}: every field needs at least {FIRST} ids (missing and unknown).")
        self.sizes, self.dim = [int(size) for size in sizes], dim
        self.alone, self.hidden_dim, self.output_dim, self.dropout = alone, hidden_dim, output_dim, dropout
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int32)
        initializer = tf.keras.initializers.RandomNormal(stddev=dim**-0.5)
        self.table = tf.keras.layers.Embedding(
            sum(self.sizes), dim, embeddings_initializer=initializer, dtype=self.dtype_policy, name="table"
        )
        if alone:
            self.hidden = tf.keras.layers.Dense(hidden_dim, "gelu", dtype=self.dtype_policy, name="hidden")
            self.hidden_dropout = ResumableDropout(dropout, dtype=self.dtype_policy, name="hidden_dropout")
            self.output_dense = tf.keras.layers.Dense(output_dim, dtype=self.dtype_policy, name="output")

    def build(self, input_shape: tf.TensorShape) -> None:
        """Create the table and the layers of the MLP."""
        self.table.build(None)
        if self.alone:
            self.hidden.build((None, len(self.sizes) * self.dim))
            self.output_dense.build((None, self.hidden_dim))
        super().build(input_shape)

    def call(self, values: tf.Tensor, training: bool | None = None) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Encode attribute values.

        Args:
            values: `[B, F, V]` int32; 0 stands for padding, a field of nothing but 0 is missing.
            training: Whether dropout applies.

        Returns:
            Tokens `[B, F, D]` and their mask `[B, F]`; a missing field has a token of its own and a false mask.
            With `alone`, one float32 unit vector `[B, output_dim]`.
        """
        present = tf.not_equal(values, MISSING)
        known = tf.reduce_any(present, axis=2)  # (B, F)
        rows = self.table(values + self.offsets[:, None])  # (B, F, V, D)
        # A missing field takes its own row 0, which is learned: zeros would look like data to the MLP.
        taken = tf.concat([present[..., :1] | ~known[..., None], present[..., 1:]], axis=2)
        weights = tf.cast(taken, rows.dtype)
        tokens = tf.einsum("bfvd,bfv->bfd", rows, weights) / tf.reduce_sum(weights, axis=2)[..., None]
        if not self.alone:
            return tokens, known
        flat = tf.reshape(tokens, [-1, len(self.sizes) * self.dim])
        hidden = self.hidden_dropout(self.hidden(flat), training=training)
        # The norm is taken in float32: half precision overflows or loses digits when squares are summed.
        return tf.math.l2_normalize(tf.cast(self.output_dense(hidden), tf.float32), axis=-1)

    def clear_absent(self, values: np.ndarray) -> None:
        """Let ids that none of the `values` int32 `[N, F, V]` of a whole catalogue has say nothing, in place of the noise
        that they start from: an unknown value, for example, where all of its values are known.
        """
        missing = (values == MISSING).all(2)
        taken = np.where(values == MISSING, -1, values + self.offsets[:, None])
        named = np.concatenate([taken[taken >= 0], np.broadcast_to(self.offsets, missing.shape)[missing]])
        read = np.bincount(named, minlength=sum(self.sizes)) > 0
        table = self.table.embeddings
        table.assign(table * read.astype(table.dtype.as_numpy_dtype)[:, None])

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        names = ("sizes", "dim", "alone", "hidden_dim", "output_dim", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


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
        cls, frame: pd.DataFrame, fields: Sequence[str], *, min_count: int = 1, max_values: int = 8
    ) -> AttributeVocabulary:
        """Collect the vocabulary from the `attr.<field>` columns of a table of items or users.

        Args:
            frame: DataFrame whose columns hold lists of strings, or single strings (missing: None or empty).
            fields: Field names, without the `attr.` prefix; their order is the order of the encoder's fields.
            min_count: A value must occur this often to get an id of its own; rarer ones are unknown.
            max_values: Most values of one field that a row keeps; how many are dropped is logged.
        """
        known, longest = {}, 1
        for field in fields:
            rows = _rows(frame, field)
            counts = Counter(value for row in rows for value in row)
            frequent = [value for value, count in counts.items() if count >= min_count]
            known[field] = sorted(frequent, key=lambda value: (-counts[value], value))
            longest = max(longest, max(map(len, rows), default=1))
            if dropped := sum(max(0, len(row) - max_values) for row in rows):
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
                self._fill(ids[:, number], _rows(frame, field), self._ids[field])
        return ids

    def _fill(self, ids: np.ndarray, rows: list[Sequence[str]], known: dict[str, int]) -> None:
        """Write the ids of one field's values into `ids` `[N, V]`."""
        lengths = np.fromiter((min(len(row), self.max_values) for row in rows), np.int64, len(rows))
        flat = [known.get(value, UNKNOWN) for row in rows for value in row[: self.max_values]]
        ids[np.arange(self.max_values) < lengths[:, None]] = flat

    def to_json(self, path: str | Path) -> None:
        """Write the vocabulary to a JSON file."""
        content = {"max_values": self.max_values, "values": self.values}
        Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> AttributeVocabulary:
        """Read a vocabulary that `to_json` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(content["values"], max_values=content["max_values"])


def _rows(frame: pd.DataFrame, field: str) -> list[Sequence[str]]:
    """Return the values of each row of the column `attr.<field>` as a sequence, empty where missing.

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
    return [_as_values(cell) for cell in frame[ATTRIBUTE_PREFIX + field]]


def _as_values(cell: Any) -> Sequence[str]:
    """Return one cell as its values: a list as it is, a string as one value, nothing for None, NaN and ''."""
    if isinstance(cell, str):
        return (cell,) if cell else ()
    if isinstance(cell, Iterable):
        return [value for value in cell if isinstance(value, str) and value]
    return ()
