"""The models: towers, an objective, and nothing of files."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipelines.batches import Batch
from tfrec.attention import ResumableDropout
from tfrec.losses import candidate_losses, own_items, sampling_log_probability, weighted_mean
from tfrec.repeats import RepeatScores, scores_of_purchases
from tfrec.towers import HistoryTower, ItemTower, ShallowTower, UserTower, normal
from tfrec.trainable import Trainable

SHORT_PART = 4  # histories up to T / SHORT_PART purchases are read apart from longer ones
CATALOGUE_PART = 8192  # items whose vectors are made at once


class Candidates(NamedTuple):
    """The items that a step's softmax is over, and that its histories are read from.

    Attributes:
        rows: distinct item rows int32 `[R]`.
        vectors: theirs, before they are normalised, `[R, D]`.
        slots: where each item of the catalogue stands among them, int32 `[N]`, -1: nowhere.
    """

    rows: tf.Tensor
    vectors: tf.Tensor
    slots: tf.Tensor


class Examples(NamedTuple):
    """The P predictions of a batch.

    Attributes:
        queries: `[P, D]`.
        labels: the column of each one's target among the C candidates, int32 `[P]`.
        weights: float32 `[P]`.
        bonus: what earlier purchases add to logits (`candidate_losses`); None: nothing.
        masked: the customer's other purchases, which are no negatives, bool `[P, C]`; None without `mask_own`.
    """

    queries: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor
    bonus: tuple[tf.Tensor, tf.Tensor] | None
    masked: tf.Tensor | None


class ItemVectors(tf.keras.layers.Layer):
    """Every item's vectors: the bank of content vectors, what is cheap to compute anew, and the tables of item ids.

    The bank holds each item's content vector as of the last time it was encoded (cross-batch memory, Wang et al. 2020,
    https://arxiv.org/abs/1912.06798). A step encodes a few items afresh; wherever one of them is read in that step, its
    fresh vector is used, and gradient flows into the towers. The shallow tower is cheap enough to be fresh everywhere.

    Args:
        items: size of the catalogue N.
        dim: width D.
        content: whether items have content vectors (a bank).
        shallow: attributes and words of items in a few operations; None where there are neither.
        inputs: what the shallow tower reads of every item, name -> `[N, ...]`.
        id_embedding: whether items have vectors of their own.
        id_dropout: probability that an item loses that vector in a training step.
        bias: whether items have a popularity bias, carried as one more dimension.
        normalize: L2-normalise candidate vectors.
        tie: histories read the items' vectors themselves instead of a projection and a table of their own.
    """

    def __init__(
        self,
        items: int,
        dim: int,
        *,
        content: bool,
        id_embedding: bool,
        shallow: ShallowTower | None = None,
        inputs: dict | None = None,
        id_dropout: float = 0.0,
        bias: bool = False,
        normalize: bool = True,
        tie: bool = False,
        **kwargs: Any,
    ):
        super().__init__(dtype="float32", **kwargs)
        if not (content or shallow or id_embedding):
            raise ValueError("items need content (photo, text or attributes) or an id embedding; both are switched off")
        self.items, self.dim, self.content, self.id_embedding = items, dim, content, id_embedding
        self.id_dropout, self.has_bias, self.normalize, self.tie = id_dropout, bias, normalize, tie
        self.shallow = shallow
        self._inputs = {name: tf.constant(array) for name, array in (inputs or {}).items()}
        self.dropout = ResumableDropout(id_dropout, alike=True)
        self.history_in = tf.keras.layers.Dense(dim, name="history_in", dtype="float32")
        self.build(None)  # it is read through methods, never called as a whole

    def build(self, input_shape: None) -> None:
        """Create the bank and the tables."""
        init = normal(0.05 if self.content else self.dim**-0.5)
        shape = (self.items, self.dim)
        if self.content:
            self.bank = self.add_weight(name="bank", shape=shape, initializer="zeros", trainable=False)
        if self.id_embedding:
            self.item_ids = self.add_weight(name="item_ids", shape=shape, initializer=init())
            if not self.tie:
                self.history_ids = self.add_weight(name="history_ids", shape=shape, initializer=init())
        # An item that training never sold has an untrained id vector: it counts as 0.
        self.warm = self.add_weight(name="warm", shape=(self.items,), initializer="ones", trainable=False)
        if self.has_bias:
            self.bias = self.add_weight(name="bias", shape=(self.items,), initializer="zeros")
        super().build(input_shape)

    def clear_unread(self, rows: np.ndarray) -> None:
        """Let items that are not among `rows` `[R]`, what training reads, say nothing in a history, instead of noise."""
        if self.id_embedding and not self.tie:
            read = np.bincount(rows, minlength=self.items) > 0
            self.history_ids.assign(self.history_ids * read.astype(np.float32)[:, None])

    def slots(self, rows: tf.Tensor) -> tf.Tensor:
        """Where each item stands in `rows` `[R]`: int32 `[N]`, -1 for items that are not in it."""
        return tf.tensor_scatter_nd_update(tf.fill([self.items], -1), rows[:, None], tf.range(tf.shape(rows)[0]))

    def vectors(
        self,
        rows: tf.Tensor,
        fresh: tf.Tensor | None = None,
        fresh_slots: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """What items are, before normalisation: content, shallow features and id, summed.

        Args:
            rows: distinct item rows `[R]`.
            fresh: content vectors `[E, D]` encoded in this step; None: the bank alone.
            fresh_slots: where each item has one, int32 `[N]`, -1: nowhere.

        Returns:
            `[R, D]`.
        """
        vectors = tf.zeros([tf.shape(rows)[0], self.dim])
        if self.content:
            vectors += self._contents(rows, fresh, fresh_slots)
        if self.shallow is not None:
            vectors += self.shallow({name: tf.gather(array, rows) for name, array in self._inputs.items()})
        if self.id_embedding:
            ids = tf.gather(self.item_ids, rows) * tf.gather(self.warm, rows)[:, None]
            if training and self.id_dropout and (self.content or self.shallow is not None):
                # What is kept is not scaled up, as dropout does: serving adds them whole.
                kept = self.dropout(tf.ones_like(ids[:, :1]), training=True) > 0
                ids *= tf.cast(kept, ids.dtype)
            vectors += ids
        return vectors

    def _contents(self, rows: tf.Tensor, fresh: tf.Tensor | None, slots: tf.Tensor | None) -> tf.Tensor:
        """Content vectors of `rows` `[R]`: the fresh one where there is one, else the bank's. `[R, D]`."""
        stored = tf.stop_gradient(tf.gather(self.bank, rows))
        if fresh is None:
            return stored
        slot = tf.gather(slots, rows)
        return tf.where((slot >= 0)[:, None], tf.gather(fresh, tf.maximum(slot, 0)), stored)

    def new_vectors(self, contents: tf.Tensor | None, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Vectors of items that training never saw, from their content `[R, D]` (None: not encoded) and the shallow
        tower's inputs: `[R, D]`."""
        parts = [contents, None if self.shallow is None else self.shallow(inputs)]
        return tf.add_n([part for part in parts if part is not None])

    def finish(self, vectors: tf.Tensor, rows: tf.Tensor | None = None) -> tf.Tensor:
        """Candidate vectors `[R, D]`, or `[R, D + 1]` with the bias of `rows` `[R]` (0 where None)."""
        if self.normalize:
            vectors = tf.math.l2_normalize(vectors, -1)
        if self.has_bias:
            bias = tf.zeros_like(vectors[:, 0]) if rows is None else tf.gather(self.bias, rows)
            vectors = tf.concat([vectors, bias[:, None]], -1)
        return vectors

    def history(self, rows: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Purchases as the history tower reads them: `rows` `[B, T]` with their `vectors` `[B, T, D]` -> `[B, T, D]`."""
        read = tf.math.l2_normalize(vectors, -1) if self.normalize else vectors
        if self.tie:
            return read
        read = self.history_in(read)
        if self.id_embedding:
            read += tf.gather(self.history_ids, rows) * tf.gather(self.warm, rows)[..., None]
        return read


class TwoTower(Trainable):
    """The two-tower retrieval model: a query tower over the customer, an item tower over photo, text and attributes.

    Args:
        vectors: the items' bank and tables.
        query_tower: `HistoryTower` or `UserTower`.
        item_tower: encodes items; None where items are ids alone.
        frequency: share that each item has of the purchases that batches name, `[N]`.
        temperature: divides the cosine.
        mean_purchases: purchases of a batch, on average: what logQ needs.
        candidates: `in_batch` or `catalogue`.
        negatives: uniform draws among the batch's candidates.
        shortcut: add the mean of the history's candidate vectors to the decoder's output.
        repeats: learn what a candidate gains or loses for having been bought before.
        logq, hard_negatives, mask_own, label_smoothing: see `tfrec.retrieval.config.RetrievalTask`.
    """

    def __init__(
        self,
        *,
        vectors: ItemVectors,
        query_tower: HistoryTower | UserTower,
        item_tower: ItemTower | None,
        frequency: np.ndarray,
        temperature: float = 0.07,
        mean_purchases: float = 1.0,
        candidates: str = "in_batch",
        negatives: int = 0,
        logq: bool = True,
        hard_negatives: int = 0,
        mask_own: str = "future",
        label_smoothing: float = 0.0,
        shortcut: bool = False,
        repeats: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.shortcut = shortcut and isinstance(query_tower, HistoryTower)
        self.repeats = RepeatScores(name="repeats") if repeats and isinstance(query_tower, HistoryTower) else None
        self.strength = tf.Variable(0.1, name="decoder_strength")
        self.vectors, self.query_tower, self.item_tower = vectors, query_tower, item_tower
        self.query_out = tf.keras.layers.Dense(vectors.dim, name="query_out", dtype="float32")
        self.temperature, self.candidate_kind, self.mask_own = temperature, candidates, mask_own
        self.hard_negatives, self.label_smoothing = hard_negatives, label_smoothing
        self.log_q = None
        if logq and candidates == "in_batch":
            self.log_q = sampling_log_probability(
                frequency, targets=mean_purchases, negatives=negatives, catalogue=vectors.items
            )
        # Graphs of what is run over the whole catalogue and all customers, traced once in the model's life.
        self.encode_graph = tf.function(self.encode, autograph=False, reduce_retracing=True)
        self.last_query_graph = tf.function(self.last_query, autograph=False, reduce_retracing=True)

    # -- towers ------------------------------------------------------------------------------------------------

    def encode(self, batch: Batch, training: bool = False) -> tf.Tensor | None:
        """Content vectors of the batch's items to encode: `[E, D]`, or None where items have no content."""
        if self.item_tower is None:
            return None
        return self.item_tower(batch["items"], training=training)

    def queries(
        self,
        batch: Batch,
        vectors: tf.Tensor | None,
        slots: tf.Tensor | None = None,
        training: bool = False,
        last: bool = False,
    ) -> tf.Tensor:
        """Query vectors at every place of the batch's histories.

        Args:
            batch: `history` int32 `[B, T]` (-1 padded on the left), `gaps` float32 `[B, T]` days, `user_fields` int32
                `[B, G]`; with a user tower `user` int32 `[B]`.
            vectors: items' vectors, as `ItemVectors.vectors` gives them, `[R, D]`, or as `finish` does, whose bias is passed
                over; None with a user tower, which reads none.
            slots: where each item stands among them `[N]`; None where they are all items in order.
            last: the query of the next purchase alone; the start token's of an empty history.

        Returns:
            `[B, T + 1, D]` (`[B, 1, D]` with a user tower or `last`), normalised where items are, with the 1 that reads a
            bias.
        """
        if isinstance(self.query_tower, UserTower):
            return self._finish(self.query_out(self.query_tower(batch["user"], batch["user_fields"])[:, None]))
        mask, rows = batch["history"] >= 0, tf.maximum(batch["history"], 0)
        bought = tf.gather(vectors, rows if slots is None else tf.maximum(tf.gather(slots, rows), 0))
        bought = bought[..., : self.vectors.dim]
        items = tf.cast(self.vectors.history(rows, bought), self.query_tower.compute_dtype)
        states = self.query_tower(items, mask, batch["gaps"], batch["user_fields"], training=training, last=last)
        queries = self.query_out(tf.cast(states, tf.float32))
        if self.shortcut:
            means = self._mean_of_history(bought, mask)
            means = means[:, -1:] if last else means  # of an empty history they are zeros at any place
            queries = self.strength * queries + means
        return self._finish(queries)

    def _finish(self, queries: tf.Tensor) -> tf.Tensor:
        if self.vectors.normalize:
            queries = tf.math.l2_normalize(queries, -1) / self.temperature
        if self.vectors.has_bias:
            queries = tf.concat([queries, tf.ones_like(queries[..., :1])], -1)
        return queries

    def _mean_of_history(self, bought: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Mean candidate vector of the purchases `[B, T, D]` read so far: `[B, T + 1, D]`, zeros at the start token.

        It makes "more like what was bought" the starting point, from which the decoder learns to differ.
        """
        vectors = tf.math.l2_normalize(bought, -1) if self.vectors.normalize else bought
        weight = tf.cast(mask, tf.float32)[..., None]
        mean = tf.cumsum(vectors * weight, 1) / tf.maximum(tf.cumsum(weight, 1), 1.0)
        return tf.pad(mean, [[0, 0], [1, 0], [0, 0]])

    def all_vectors(self) -> tf.Tensor:
        """Vectors of all items, from the bank as it is: `[N, D]`. Made in parts: the words of all items at once would be
        gigabytes.
        """
        rows = tf.range(self.vectors.items)
        starts = range(0, self.vectors.items, CATALOGUE_PART)
        return tf.concat([self.vectors.vectors(rows[start : start + CATALOGUE_PART]) for start in starts], 0)

    def last_query(self, batch: Batch, vectors: tf.Tensor | None) -> tf.Tensor:
        """The query that predicts the next purchase, given all items' `vectors` (see `queries`): `[B, D]`."""
        return self.queries(batch, vectors, last=True)[:, 0]

    def training_tables(self) -> list[tf.Variable]:
        """The tables `[N, D]` that queries and new items do not read, where the candidates' vectors are at hand."""
        return [getattr(self.vectors, name) for name in ("bank", "item_ids") if hasattr(self.vectors, name)]

    # -- objective ---------------------------------------------------------------------------------------------

    def compute_loss(self, inputs: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """Softmax loss over all places of the batch that have a target.

        Args:
            inputs: a batch of `pipelines.batches`: what `queries` reads, and `targets` int32 `[B, T + 1]` (-1: none),
                `weights` float32 `[B, T + 1]`, `rows` int32 `[R]`, the distinct items of histories and targets and those
                drawn; `encode_rows` int32 `[E]` and `items` (their content); where histories leave purchases out,
                `target_places` int32 `[B, T + 1]`, the place whose prediction each target is.
            fresh: content vectors `[E, D]` of `encode_rows`; encoded here where None.
        """
        candidates = self.read_items(inputs, training, fresh)
        return self.retrieval_loss(self.read_histories(inputs, candidates, training), candidates)

    def read_items(self, inputs: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> Candidates:
        """The candidates of a batch."""
        fresh_slots = None
        if self.vectors.content:
            fresh = self.encode(inputs, training) if fresh is None else fresh
            fresh_slots = self.vectors.slots(inputs["encode_rows"])
        rows = inputs["rows"] if self.candidate_kind == "in_batch" else tf.range(self.vectors.items)
        return Candidates(rows, self.vectors.vectors(rows, fresh, fresh_slots, training), self.vectors.slots(rows))

    def read_histories(
        self, inputs: Batch, candidates: Candidates, training: bool = False
    ) -> list[tuple[Batch, tf.Tensor]]:
        """The batch in parts by length of history, each with the query of every target `[B, T + 1, D]`."""
        _, vectors, slots = candidates
        read = [(part, self.queries(part, vectors, slots, training)) for part in self._parts(inputs)]
        return [
            (part, tf.gather(q, part["target_places"], batch_dims=1) if "target_places" in part else q)
            for part, q in read
        ]

    def retrieval_loss(self, parts: list[tuple[Batch, tf.Tensor]], candidates: Candidates) -> tf.Tensor:
        """The softmax loss of what `read_histories` returned among the candidates."""
        rows, vectors, slots = candidates
        finished = self.vectors.finish(vectors, rows)
        log_q, losses, weights = None if self.log_q is None else tf.gather(self.log_q, rows), [], []
        for part, queries in parts:  # whose logits are never put together: they are by far the largest arrays of a step
            examples = self._examples(part, queries, tf.shape(rows)[0], slots)
            weights.append(examples.weights)
            losses.append(
                candidate_losses(
                    examples.queries,
                    finished,
                    examples.labels,
                    log_q=log_q,
                    bonus=examples.bonus,
                    masked=examples.masked,
                    hard_negatives=self.hard_negatives,
                    label_smoothing=self.label_smoothing,
                    compute=tf.bfloat16 if self.compute_dtype == "bfloat16" else tf.float32,
                )
            )
        return weighted_mean(tf.concat(losses, 0), tf.concat(weights, 0))

    def _parts(self, inputs: Batch) -> list[Batch]:
        """The batch by length of history; whole where it has none."""
        return by_length(inputs) if "history" in inputs else [inputs]

    def _examples(self, inputs: Batch, queries: tf.Tensor, count: tf.Tensor, columns: tf.Tensor) -> Examples:
        """The places of a batch that have a target, each told apart from `count` candidates, whose `columns` `[N]` are."""
        examples = inputs["targets"] >= 0
        places = tf.cast(tf.where(examples), tf.int32)
        if "target_places" in inputs:
            places = tf.stack([places[:, 0], tf.gather_nd(inputs["target_places"], places)], 1)
        bonus = None
        if self.repeats is not None:
            bonus = scores_of_purchases(self.repeats, columns, inputs, places)
        labels = tf.gather(columns, tf.boolean_mask(inputs["targets"], examples))
        weights = tf.boolean_mask(inputs["weights"], examples)
        queries = tf.boolean_mask(queries, examples)
        if self.mask_own == "none":
            return Examples(queries, labels, weights, bonus, None)
        row, position = tf.unstack(places, axis=1)
        # A window that goes on from an earlier one has its first purchase in the history alone.
        windows = [inputs[name] for name in ("history", "targets") if name in inputs]
        owned = tf.gather(own_items(tf.concat(windows, 1), columns, count), row)
        if self.mask_own == "future" and "history" in inputs:
            # Items bought before stay negatives: the model must learn not to repeat them, unless customers do.
            owned &= ~bought_before(inputs["history"], columns, count, row, position)
        return Examples(queries, labels, weights, bonus, owned)

    def remember(self, batch: Batch, fresh: tf.Tensor | None) -> None:
        """Write the fresh content vectors `[E, D]` of a step's items into the bank."""
        if fresh is not None:
            self.vectors.bank.scatter_nd_update(batch["encode_rows"][:, None], tf.stop_gradient(fresh))


def bought_before(
    history: tf.Tensor, columns: tf.Tensor, count: tf.Tensor, rows: tf.Tensor, position: tf.Tensor
) -> tf.Tensor:
    """Which candidates stand in the history at or before each example's position.

    Args:
        history: `[B, T]` item rows; example (row b, position t) has read `history[b, :t]`.
        columns: candidate column of every item `[N]`.
        count: number of candidates C.
        rows, position: of the examples, `[P]`.

    Returns:
        bool `[P, C]`.
    """
    windows = tf.gather(history, rows)  # (P, T)
    read = tf.range(tf.shape(history)[1])[None] < position[:, None]
    return own_items(tf.where(read, windows, -1), columns, count)


def by_length(inputs: Batch) -> list[Batch]:
    """Cut a batch whose histories are sorted by length into its short ones, without most of their padding, and the others.

    Most customers have few purchases: padding would be most of the decoder's work.
    """
    if inputs["history"].shape[1] < SHORT_PART * 2:
        return [inputs]
    short = inputs["history"].shape[1] // SHORT_PART
    count = tf.reduce_sum(tf.cast(tf.reduce_sum(tf.cast(inputs["history"] >= 0, tf.int32), 1) <= short, tf.int32))
    of_targets = [name for name in ("targets", "weights", "ratings", "target_places") if name in inputs]
    names = ("history", "gaps", "user", "user_fields", *of_targets)
    few = {name: inputs[name][:count] for name in names}
    few |= {name: few[name][:, -short:] for name in ("history", "gaps")}
    if "target_places" in few:  # a short history may have many targets: those that it does not hold
        few["target_places"] = tf.maximum(few["target_places"] - (inputs["history"].shape[1] - short), 0)
    else:  # the start token's target stands at place 0, the others' are counted from the right
        few |= {name: tf.concat([few[name][:, :1], few[name][:, -short:]], 1) for name in of_targets}
    return [few, {name: inputs[name][count:] for name in names}]
