"""A trained run as export sees it: towers that can be traced, the items' vectors, and what goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

    from tfrec.encoders.attributes import AttributeVocabulary


class RunError(ValueError):
    """A run folder that is absent, unfinished or broken."""


class Towers(Protocol):
    """The trained towers, as a `tf.Module` or Keras model. Every method can be traced and keeps no state.

    A model offers `query` or `user_query` by its `Run.query_kind`, and of the content methods those that its
    `Run.modalities` name.
    """

    def query(self, history: tf.Tensor, days_ago: tf.Tensor, user_fields: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of purchases int32 `[B, T]` (item rows, -1 = padding, most recent last), the
        days since each float32 `[B, T]`, and customer fields int32 `[B, G]`."""

    def user_query(self, user: tf.Tensor, user_fields: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of known customers int32 `[B]` (rows of `Run.users`, -1 = unknown)."""

    def similar_query(self, vectors: tf.Tensor) -> tf.Tensor:
        """Candidate vectors `[B, D]` as queries for similar items: without the popularity bias, if they carry
        one.
        """

    def item(
        self, photos: tf.Tensor, has_photo: tf.Tensor, tokens: tf.Tensor, attributes: tf.Tensor
    ) -> tf.Tensor:
        """Candidate vectors `[B, D]` from content alone: uint8 `[B, H, W, 3]`, bool `[B]`, int32 `[B, T]`
        (all padding = no text), int32 `[B, F, V]` (0 = missing)."""

    def photo_query(self, photos: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of photos alone."""

    def text_query(self, tokens: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of texts alone."""

    def pixels(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Image file bytes `[B]` to uint8 `[B, H, W, 3]` and whether each could be read, bool `[B]`, exactly
        as in training."""

    def tokens(self, texts: tf.Tensor) -> tf.Tensor:
        """Texts `[B]` to token ids int32 `[B, T]`, exactly as in training."""


@dataclass
class UserTable:
    """Known customers, for recommendations by customer id.

    Attributes:
        ids: `U` customer ids.
        history: int32 `[U, L]` item rows, -1 padded on the left, most recent last.
        days_ago: float32 `[U, L]`, days from each purchase to the end of the data.
        fields: int32 `[U, G]`, encoded customer fields.
    """

    ids: list[str]
    history: np.ndarray
    days_ago: np.ndarray
    fields: np.ndarray


@dataclass
class Run:
    """A trained run.

    Attributes:
        name: of the run.
        towers: the trained towers.
        item_ids: `N` item ids; an item's position is its row.
        item_vectors: candidate vectors float32 `[N, D]`.
        popularity: recent sales float32 `[N]`: what customers without a history are shown.
        history_length: most purchases that the query tower reads, L.
        config: the run's configuration, kept in the manifest.
        query_kind: whether queries are made of a purchase history or looked up by customer.
        modalities: of `photo`, `text` and `attributes`, those that items are encoded from.
        item_attributes: field -> the values of each of the `N` items; what answers can be filtered by.
        attributes: encodes item attributes as in training; None where the model reads none.
        user_vocabulary: encodes customer fields as in training; None where the model reads none.
        users: known customers, where the run keeps them.
        sample_queries: query vectors of held-out customers float32 `[Q, D]`, to tune the index with.
        readable_items: how many items, from row 0, the query tower can read in a history; all of them where
            None. Items that were added after training can be recommended, but not read yet.
    """

    name: str
    towers: Towers
    item_ids: list[str]
    item_vectors: np.ndarray
    popularity: np.ndarray
    history_length: int
    config: dict[str, Any]
    query_kind: Literal["history", "user"] = "history"
    modalities: frozenset[str] = frozenset()
    item_attributes: dict[str, list[list[str]]] = field(default_factory=dict)
    attributes: AttributeVocabulary | None = None
    user_vocabulary: AttributeVocabulary | None = None
    users: UserTable | None = None
    sample_queries: np.ndarray | None = None
    readable_items: int | None = None

    @property
    def user_fields(self) -> int:
        """Number of customer fields that the query tower reads, G."""
        return len(self.user_vocabulary.fields) if self.user_vocabulary else 0
