"""A trained run as export sees it: towers that can be traced, the items' vectors, and what goes with them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from pipelines.time_bounds import DAY
from tfrec.neighbours import Neighbours, product_neighbours, products_of
from tfrec.popularity import POPULAR_DAYS, sales_scores
from tfrec.runs.finished import RunError

if TYPE_CHECKING:
    import tensorflow as tf

    from pipelines.prepared import Prepared
    from tfrec.attribute_vocabulary import AttributeVocabulary
    from tfrec.retrieval.assembly import RetrievalAssembly


log = logging.getLogger("tfrec")


class Towers(Protocol):
    """The trained towers, as a `tf.Module` or Keras model. Every method can be traced and keeps no state.

    A model offers `query` or `user_query` by its `Run.query_kind`, and of the content methods those that its
    `Run.modalities` name.
    """

    def query(self, history: tf.Tensor, days_ago: tf.Tensor, user_fields: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of purchases int32 `[B, T]` (item rows, -1 = padding, most recent last), the
        days since each float32 `[B, T]`, customer fields int32 `[B, G]`, and all candidates' vectors `[N, D]`, of which the
        index holds the only copy."""

    def user_query(self, user: tf.Tensor, user_fields: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of known customers int32 `[B]` (rows of `Run.users`, -1 = unknown)."""

    def repeat_scores(self, days_ago: tf.Tensor) -> tf.Tensor:
        """What purchases made `days_ago` float32 `[B, T]` add to their items' scores; offered where `Run.repeats`."""

    def rate(self, queries: tf.Tensor, user: tf.Tensor, items: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Ratings `[B, K]` of items int32 `[B, K]` by customers with query vectors `[B, D]`, known as int32 `[B]` (rows of
        `Run.users`, -1 = unknown), given all candidates' vectors `[N, D]`; offered where `Run.rates`.
        """

    def bounded_ratings(self, ratings: tf.Tensor) -> tf.Tensor:
        """Ratings of any shape within their scale, which what `rate` gives may leave; offered where `Run.rates`."""

    def attention(self, photos: tf.Tensor, has_photo: tf.Tensor, tokens: tf.Tensor, attributes: tf.Tensor) -> tf.Tensor:
        """Attention of words and attributes to the parts of photos `[B, h, w]`, each adding up to 1; offered where
        `Run.attends`.
        """

    def similar_query(self, vectors: tf.Tensor) -> tf.Tensor:
        """Candidate vectors `[B, D]` as queries for similar items: without the popularity bias, if they carry
        one.
        """

    def item(self, photos: tf.Tensor, has_photo: tf.Tensor, tokens: tf.Tensor, attributes: tf.Tensor) -> tf.Tensor:
        """Candidate vectors `[B, D]` from content alone: uint8 `[B, H, W, 3]`, bool `[B]`, int32 `[B, T]`
        (all padding = no text), int32 `[B, F, V]` (0 = missing)."""

    def photo_query(self, photos: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of photos alone."""

    def text_query(self, tokens: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of texts alone."""

    def pixels(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """JPEG or PNG bytes `[B]`, "" = none, to uint8 `[B, H, W, 3]`, as in training, and which are there, bool `[B]`."""

    def tokens(self, texts: tf.Tensor) -> tf.Tensor:
        """Texts `[B]` to token ids int32 `[B, T]`, exactly as in training."""


@dataclass
class UserTable:
    """Known customers, for recommendations by customer id.

    Attributes:
        ids: `U` customer ids.
        history: int32 `[U, L]` item rows, -1 padded on the left, most recent last; nothing of it, L = 0, where the model
            looks customers up.
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
        frequency: share of the purchases trained on float32 `[N]`: which variants of a product come first, as when the model
            was evaluated; the popularity where None.
        history_length: most purchases that the query tower reads, L.
        config: the run's configuration, kept in the manifest.
        query_kind: whether queries are made of a purchase history or looked up by customer.
        products: the product of each of the `N` items ("" = none).
        product_score: what a purchase adds to the scores of all items of its product; not negative.
        counted: items that gain from a purchase of another one because of what customers bought in training: followers,
            companions.
        rates: whether a ranking head predicts ratings.
        attends: whether photos are fused by an attention that can be shown.
        repeats: whether earlier purchases of an item count in its score.
        modalities: of `photo`, `text` and `attributes`, those that items are encoded from.
        item_attributes: field -> the values of each of the `N` items; what answers can be filtered by.
        attributes: encodes item attributes as in training; None where the model reads none.
        user_vocabulary: encodes customer fields as in training; None where the model reads none.
        users: known customers, where the run keeps them.
        history_min_rating: the lowest rating of the purchases that histories hold; 0: they hold all.
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
    repeats: bool = False
    frequency: np.ndarray | None = None
    products: list[str] = field(default_factory=list)
    product_score: float = 0.0
    counted: list[Neighbours] = field(default_factory=list)
    rates: bool = False
    attends: bool = False
    modalities: frozenset[str] = frozenset()
    item_attributes: dict[str, list[list[str]]] = field(default_factory=dict)
    attributes: AttributeVocabulary | None = None
    user_vocabulary: AttributeVocabulary | None = None
    users: UserTable | None = None
    history_min_rating: float = 0.0
    sample_queries: np.ndarray | None = None
    readable_items: int | None = None

    @property
    def user_fields(self) -> int:
        """Number of customer fields that the query tower reads, G."""
        return len(self.user_vocabulary.fields) if self.user_vocabulary else 0

    @property
    def neighbours(self) -> list[Neighbours]:
        """The items that gain from a purchase of another one."""
        tables = []
        if self.product_score:
            sales = self.popularity if self.frequency is None else self.frequency
            tables.append(product_neighbours(pd.Series(self.products), sales, self.product_score))
        return tables + [table.extended(len(self.item_ids)) for table in self.counted]


MAX_USER_TABLE = 200_000
SAMPLE_QUERIES = 2_000


def load_run(run_dir: Path, *, max_users: int = MAX_USER_TABLE) -> Run:
    """Load a finished run as export needs it.

    The dataset may have other events than in training, newer purchases as a rule: a warning says what is taken from them.

    Args:
        run_dir: the `--out` folder of a training.
        max_users: keep up to so many customers with their histories; a model that looks customers up keeps all.

    Raises:
        RunError: the folder holds no finished run of the retrieval system, or its weights are broken.
    """
    from tfrec.config import load_config, plain
    from tfrec.retrieval.config import RetrievalConfig
    from tfrec.runs.dataset import knows_content, knows_events

    if not (run_dir / "config.yaml").is_file():
        raise RunError(f"{run_dir}: no config.yaml there; name the --out folder of python -m tfrec.train")
    config = load_config(run_dir / "config.yaml")
    if not isinstance(config, RetrievalConfig):
        raise RunError(f"{run_dir}: recipe {config.recipe} trains no retrieval model; only those can be exported")
    from tfrec.retrieval.loading import load_assembly
    from tfrec.retrieval.ranking import candidate_vectors
    from tfrec.saved_model.towers import ServedTowers

    assembly = load_assembly(run_dir, other_events=True)
    towers, prepared, assets = ServedTowers(assembly), assembly.prepared, assembly.assets
    vectors = candidate_vectors(assembly)
    if not knows_events(run_dir, prepared):
        log.warning(
            "%s: its events or their split are not those that the run was trained on. Popular items, customers' histories "
            "and what follows an item are taken from them; all that was learned stays as it is.",
            prepared.path,
        )
    if not knows_content(run_dir, prepared):
        log.warning(
            "%s: texts, attributes or photos of its items are not those that the run was trained on. What its towers made "
            "of them stays; words and attributes that are read directly, filters and explanations take the new ones.",
            prepared.path,
        )
    return Run(
        name=run_dir.name,
        towers=towers,
        item_ids=list(prepared.items["item_id"]),
        item_vectors=vectors,
        popularity=recent_sales(prepared, config.evaluation.min_rating),
        frequency=assembly.frequency,
        history_length=config.model.query.length,
        config=plain(config),
        query_kind=towers.query_kind,
        repeats=assembly.model.repeats is not None,
        products=products_of(prepared.items),
        product_score=assembly.product_score,
        counted=assembly.counted,
        rates=towers.rates,
        attends=towers.attends,
        modalities=assembly.modalities,
        item_attributes={name: [list(v) for v in prepared.items[f"attr.{name}"]] for name in prepared.fields},
        attributes=assets.attributes,
        user_vocabulary=assets.users,
        users=user_table(assembly, max_users),
        history_min_rating=config.history_min_rating,
        sample_queries=sample_queries(assembly, vectors),
    )


def recent_sales(prepared: Prepared, min_rating: float = 0.0) -> np.ndarray:
    """How well each item sold in the last days of the data, float32 `[N]` (`sales_scores`); of what was rated, `min_rating`
    and more counts, as in evaluation.
    """
    events = _rated(prepared.events(columns=["item", "time", *["rating"] * bool(min_rating)]), min_rating)
    items, times = events["item"].to_numpy(), events["time"].to_numpy()
    return sales_scores(items, times > times.max(initial=0) - POPULAR_DAYS * DAY, len(prepared.items))


def user_table(assembly: RetrievalAssembly, most: int) -> UserTable | None:
    """Known customers with their last purchases; None where they are more than `most` and histories can be read instead."""
    from tfrec.histories import last_purchases

    prepared, ids = assembly.prepared, list(assembly.prepared.users["user_id"])
    if assembly.config.model.query.kind == "user":
        nothing = np.zeros((len(ids), 0), np.float32)
        return UserTable(ids, nothing.astype(np.int32), nothing, assembly.user_fields)
    if len(ids) > most:
        return None
    least = assembly.config.history_min_rating
    events = prepared.events(columns=["user", "item", "time", *["rating"] * bool(least)])
    now, events = events["time"].to_numpy().max(initial=0), _rated(events, least)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(events["user"], minlength=len(ids)))])
    items, times = events["item"].to_numpy(), events["time"].to_numpy()
    history, days_ago = last_purchases(items, times, offsets, length=assembly.config.model.query.length, now=now)
    return UserTable(ids, history, days_ago, assembly.user_fields)


def _rated(events: pd.DataFrame, least: float) -> pd.DataFrame:
    """The interactions rated `least` or more; all where it is 0."""
    return events[events["rating"] >= least] if least else events


def sample_queries(assembly: RetrievalAssembly, candidates: np.ndarray) -> np.ndarray | None:
    """Query vectors of held-out customers float32 `[Q, D]`, given all items' `[N, D]`; None where there are none."""
    from tfrec.evaluation.protocol import ProtocolError, build_protocol
    from tfrec.retrieval.ranking import protocol_queries

    try:
        config = assembly.config
        protocol = build_protocol(
            assembly.prepared,
            "test",
            history_min_rating=config.history_min_rating,
            max_users=SAMPLE_QUERIES,
            seed=config.seed,
        )
    except ProtocolError:
        return None
    return protocol_queries(assembly, protocol, candidates)[0]
