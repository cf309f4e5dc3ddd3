"""The models: towers, an objective, and nothing of files."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec.attention import resumable_dropout
from tfrec.losses import own_items, sampling_log_probability, softmax_loss
from tfrec.towers import HistoryTower, ItemTower, UserTower, normal

SHORT_PART = 4  # histories up to T / SHORT_PART purchases are read apart from longer ones


class ItemVectors(tf.keras.layers.Layer):
    """Every item's vectors: the bank of content vectors, and the tables of item ids.

    The bank holds each item's content vector as of the last time it was encoded (cross-batch memory, Wang et al. 2020,
    https://arxiv.org/abs/1912.06798). A step encodes a few items afresh; wherever one of them is read in that step, its
    fresh vector is used, and gradient flows into the towers.

    Args:
        items: size of the catalogue N.
        dim: width D.
        content: whether items have content vectors (a bank).
        id_embedding: whether items have vectors of their own.
        id_dropout: chance that an item loses that vector in a training step.
        bias: whether items have a popularity bias, carried as one more dimension.
        normalize: L2-normalise candidate vectors.
        tie: histories read candidate vectors instead of a projection and a table of their own.
    """

    def __init__(
        self,
        items,
        dim,
        *,
        content,
        id_embedding,
        id_dropout=0.0,
        bias=False,
        normalize=True,
        tie=False,
        **kw,
    ):
        super().__init__(dtype="float32", **kw)
        if not content and not id_embedding:
            raise ValueError("items need content (photo, text or attributes) or an id embedding; both are switched off")
        self.items, self.dim, self.content, self.id_embedding = items, dim, content, id_embedding
        self.id_dropout, self.has_bias, self.normalize, self.tie = id_dropout, bias, normalize, tie
        self.dropout = resumable_dropout(id_dropout)
        self.history_in = tf.keras.layers.Dense(dim, name="history_in", dtype="float32")

        self.build(None)  # it is read through methods, never called as a whole

    def build(self, input_shape):
        """Create the bank and the tables."""
        init = normal(0.05 if self.content else self.dim**-0.5)
        if self.content:
            self.bank = self.add_weight(name="bank", shape=(self.items, self.dim), initializer="zeros", trainable=False)
        if self.id_embedding:
            self.item_ids = self.add_weight(name="item_ids", shape=(self.items, self.dim), initializer=init())
            if not self.tie:
                self.history_ids = self.add_weight(name="history_ids", shape=(self.items, self.dim), initializer=init())
        # An item that training never sold has an untrained id vector: it counts as 0.
        self.warm = self.add_weight(name="warm", shape=(self.items,), initializer="ones", trainable=False)
        if self.has_bias:
            self.bias = self.add_weight(name="bias", shape=(self.items,), initializer="zeros")
        super().build(input_shape)

    def slots(self, rows):
        """Where each item stands in `rows` `[E]`: int32 `[N]`, -1 for items that are not in it."""
        return tf.tensor_scatter_nd_update(tf.fill([self.items], -1), rows[:, None], tf.range(tf.shape(rows)[0]))

    def contents(self, rows, fresh=None, slots=None):
        """Content vectors of `rows` `[...]`: the fresh one where there is one, else the bank's. `[..., D]`."""
        stored = tf.stop_gradient(tf.gather(self.bank, rows))
        if fresh is None:
            return stored
        slot = tf.gather(slots, rows)
        return tf.where((slot >= 0)[..., None], tf.gather(fresh, tf.maximum(slot, 0)), stored)

    def candidates(self, rows, contents=None, training=False):
        """Candidate vectors of `rows` `[C]` with their `contents` `[C, D]`: `[C, D]`, or `[C, D + 1]` with a bias."""
        vectors = contents if self.content else 0.0
        if self.id_embedding:
            ids = tf.gather(self.item_ids, rows) * tf.gather(self.warm, rows)[:, None]
            if training and self.id_dropout and self.content:
                kept = (
                    self.dropout(tf.ones_like(ids[:, :1]), training=True) > 0
                )  # no rescaling: serving adds them whole
                ids *= tf.cast(kept, ids.dtype)
            vectors += ids
        return self.finish(vectors, tf.gather(self.bias, rows) if self.has_bias else None)

    def finish(self, vectors, bias=None):
        """Normalise vectors `[C, D]` as candidates are, and append the bias `[C]` (zeros where None) if items have one."""
        if self.normalize:
            vectors = tf.math.l2_normalize(vectors, -1)
        if self.has_bias:
            bias = tf.zeros_like(vectors[:, 0]) if bias is None else bias
            vectors = tf.concat([vectors, bias[:, None]], -1)
        return vectors

    def history(self, rows, contents=None):
        """Vectors of purchases for the history tower. `rows` `[B, T]`, `contents` `[B, T, D]` -> `[B, T, D]`."""
        warm = tf.gather(self.warm, rows)[..., None]
        if self.tie:
            vectors = (contents if self.content else 0.0) + (
                tf.gather(self.item_ids, rows) * warm if self.id_embedding else 0.0
            )
            return tf.math.l2_normalize(vectors, -1) if self.normalize else vectors
        vectors = self.history_in(tf.math.l2_normalize(contents, -1)) if self.content else 0.0
        return vectors + (tf.gather(self.history_ids, rows) * warm if self.id_embedding else 0.0)


class TwoTower(tfrs.Model):
    """The two-tower retrieval model: a query tower over the customer, an item tower over photo, text and attributes.

    Args:
        vectors: the items' bank and tables.
        query_tower: `HistoryTower` or `UserTower`.
        item_tower: encodes items; None where items are ids alone.
        frequency: share of the training purchases that each item has, `[N]`.
        temperature: divides the cosine.
        mean_targets: purchases of a batch, on average: what logQ needs.
        candidates: `in_batch` or `catalogue`.
        negatives: uniform draws among the batch's candidates.
        shortcut: add the mean of the history's candidate vectors to the decoder's output.
        logq, hard_negatives, mask_own, label_smoothing: see `tfrec.config.RetrievalTask`.
    """

    def __init__(
        self,
        *,
        vectors: ItemVectors,
        query_tower: HistoryTower | UserTower,
        item_tower: ItemTower | None,
        frequency,
        temperature: float = 0.07,
        mean_targets: float = 1.0,
        candidates: str = "in_batch",
        negatives: int = 0,
        logq: bool = True,
        hard_negatives: int = 0,
        mask_own: str = "future",
        label_smoothing: float = 0.0,
        shortcut: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shortcut = shortcut and isinstance(query_tower, HistoryTower)
        self.strength = tf.Variable(0.1, name="decoder_strength")
        self.vectors, self.query_tower, self.item_tower = vectors, query_tower, item_tower
        self.query_out = tf.keras.layers.Dense(vectors.dim, name="query_out", dtype="float32")
        self.temperature, self.candidate_kind, self.mask_own = temperature, candidates, mask_own
        self.hard_negatives, self.label_smoothing = hard_negatives, label_smoothing
        self.log_q = None
        if logq and candidates == "in_batch":
            self.log_q = sampling_log_probability(
                frequency, targets=mean_targets, negatives=negatives, catalogue=vectors.items
            )

    # -- towers ------------------------------------------------------------------------------------------------

    def encode(self, batch, training=False):
        """Content vectors of the batch's items to encode: `[E, D]`, or None where items have no content."""
        if self.item_tower is None:
            return None
        return self.item_tower(batch["items"], training=training)

    def queries(self, batch, fresh=None, slots=None, training=False):
        """Query vectors at every position of the batch's histories.

        Args:
            batch: `history` int32 `[B, T]` (-1 padded on the left), `gaps` float32 `[B, T]` days, `user_fields` int32
                `[B, G]`; with a user tower `user` int32 `[B]`.
            fresh, slots: fresh content vectors `[E, D]` and where each item has one `[N]`.

        Returns:
            `[B, T + 1, D]` (`[B, 1, D]` with a user tower), normalised where items are, with the 1 that reads a bias.
        """
        if isinstance(self.query_tower, UserTower):
            states = self.query_tower(batch["user"], batch["user_fields"])[:, None]
        else:
            mask = batch["history"] >= 0
            rows = tf.maximum(batch["history"], 0)
            contents = self.vectors.contents(rows, fresh, slots) if self.vectors.content else None
            items = tf.cast(self.vectors.history(rows, contents), self.query_tower.compute_dtype)
            states = self.query_tower(items, mask, batch["gaps"], batch["user_fields"], training=training)
        queries = self.query_out(tf.cast(states, tf.float32))
        if self.shortcut:
            queries = self.strength * queries + self._mean_of_history(rows, contents, mask, training)
        if self.vectors.normalize:
            queries = tf.math.l2_normalize(queries, -1) / self.temperature
        if self.vectors.has_bias:
            queries = tf.concat([queries, tf.ones_like(queries[..., :1])], -1)
        return queries

    def _mean_of_history(self, rows, contents, mask, training):
        """Mean candidate vector of the purchases read so far: `[B, T + 1, D]`, zeros at the start token.

        It makes "more like what was bought" the starting point, from which the decoder learns to differ.
        """
        shape = tf.shape(rows)
        flat = None if contents is None else tf.reshape(contents, [-1, self.vectors.dim])
        vectors = self.vectors.candidates(tf.reshape(rows, [-1]), flat, training)[:, : self.vectors.dim]
        weight = tf.cast(mask, tf.float32)[..., None]
        total = tf.cumsum(tf.reshape(vectors, [shape[0], shape[1], self.vectors.dim]) * weight, 1)
        mean = total / tf.maximum(tf.cumsum(weight, 1), 1.0)
        return tf.pad(mean, [[0, 0], [1, 0], [0, 0]])

    def last_query(self, batch):
        """The query that predicts the next purchase: `[B, D]`. An empty history is read at the start token."""
        queries = self.queries(batch)
        if isinstance(self.query_tower, UserTower):
            return queries[:, 0]
        known = tf.reduce_any(batch["history"] >= 0, 1)
        return tf.where(known[:, None], queries[:, -1], queries[:, 0])

    # -- objective ---------------------------------------------------------------------------------------------

    def compute_loss(self, inputs, training=False, fresh=None):
        """Softmax loss over all places of the batch that have a target.

        Args:
            inputs: a batch of `pipelines.batches`: what `queries` reads, and `targets` int32 `[B, T + 1]` (-1: none),
                `weights` float32 `[B, T + 1]`, `encode_rows` int32 `[E]`, `items` (their content), and with in-batch
                candidates `candidates` int32 `[C]`, distinct, holding every target.
            fresh: content vectors `[E, D]` of `encode_rows`; encoded here where None.
        """
        slots = None
        if self.vectors.content:
            fresh = self.encode(inputs, training) if fresh is None else fresh
            slots = self.vectors.slots(inputs["encode_rows"])
        rows = inputs["candidates"] if self.candidate_kind == "in_batch" else tf.range(self.vectors.items)
        contents = self.vectors.contents(rows, fresh, slots) if self.vectors.content else None
        candidates = self.vectors.candidates(rows, contents, training)
        columns = self.vectors.slots(rows)  # candidate column of every item
        parts = [
            self._examples(part, self.queries(part, fresh, slots, training), columns, tf.shape(rows)[0])
            for part in self._parts(inputs)
        ]
        queries, labels, weights, *masked = (tf.concat(piece, 0) for piece in zip(*parts, strict=True))
        return softmax_loss(
            tf.matmul(queries, candidates, transpose_b=True),
            labels,
            weights=weights,
            log_q=None if self.log_q is None else tf.gather(self.log_q, rows),
            masked=masked[0] if masked else None,
            hard_negatives=self.hard_negatives,
            label_smoothing=self.label_smoothing,
        )

    def _parts(self, inputs):
        """The batch by length of history; whole where that cannot be told or would move the rotary start token."""
        rotary = getattr(self.query_tower, "positions", "none") == "rotary"
        return [inputs] if rotary or "history" not in inputs else by_length(inputs)

    def _examples(self, inputs, queries, columns, count):
        """The places of a batch that have a target: queries `[P, D]`, labels `[P]`, weights `[P]`, and with `mask_own`
        the customer's other purchases among the `count` candidates, bool `[P, C]`."""
        examples = inputs["targets"] >= 0
        labels = tf.gather(columns, tf.boolean_mask(inputs["targets"], examples))
        parts = [tf.boolean_mask(queries, examples), labels, tf.boolean_mask(inputs["weights"], examples)]
        if self.mask_own == "none":
            return parts
        row, position = tf.unstack(tf.cast(tf.where(examples), tf.int32), axis=1)
        owned = tf.gather(own_items(inputs["targets"], columns, count), row)
        if self.mask_own == "future" and "history" in inputs:
            # Items bought before stay negatives: the model must learn not to repeat them, unless customers do.
            owned &= ~bought_before(inputs["history"], columns, count, row, position)
        return [*parts, owned]

    def remember(self, batch, fresh):
        """Write the fresh content vectors `[E, D]` of a step's items into the bank."""
        if fresh is not None:
            self.vectors.bank.scatter_nd_update(batch["encode_rows"][:, None], tf.stop_gradient(fresh))


def bought_before(history, columns, count, rows, position):
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


def by_length(inputs):
    """Cut a batch whose histories are sorted by length into its short ones, without most of their padding, and the others.

    Most customers have few purchases: padding would be most of the decoder's work.
    """
    if inputs["history"].shape[1] < SHORT_PART * 2:
        return [inputs]
    short = inputs["history"].shape[1] // SHORT_PART
    count = tf.reduce_sum(tf.cast(tf.reduce_sum(tf.cast(inputs["history"] >= 0, tf.int32), 1) <= short, tf.int32))
    names = ("history", "gaps", "targets", "weights", "user", "user_fields")
    few = {name: inputs[name][:count] for name in names}
    # The start token's target stands at place 0, the others' are counted from the right.
    few |= {name: few[name][:, -short:] for name in ("history", "gaps")}
    few |= {name: tf.concat([few[name][:, :1], few[name][:, -short:]], 1) for name in ("targets", "weights")}
    return [few, {name: inputs[name][count:] for name in names}]
