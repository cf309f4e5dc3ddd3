"""Retrieval and rating together: two towers with a ranking head on top (the multitask model of TensorFlow Recommenders)."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from pipelines.batches import Batch
from tfrec.attention import ResumableDropout
from tfrec.losses import weighted_mean
from tfrec.models import Candidates, TwoTower
from tfrec.ratings.config import RatingTask
from tfrec.towers import normal

USER_SCALE = 10.0  # ratings a unit of weight: a user comes up a few times an epoch, an item in every step


class RatingHead(tf.keras.layers.Layer):
    """Predicts ratings: biases and factors of user and item, and what a perceptron reads from query and candidate.

    Biased matrix factorisation (Koren et al. 2009, https://doi.org/10.1109/MC.2009.263) is its first half, whose biases can
    start from given ones (`start_from`); the second half starts at zero and knows users and items by history and content,
    so that those without a rating have one, too.

    Args:
        users: known users U.
        items: size of the catalogue N.
        mean: mean rating of the training.
        low, high: the least and the largest of them, between which predictions lie outside of training. All three are kept
            with the weights, so that a run predicts the same beside newer ratings.
        factors: width of the factors.
        hidden: width of the perceptron.
        dropout: its dropout rate.
    """

    def __init__(
        self,
        users: int,
        items: int,
        *,
        mean: float,
        low: float = -math.inf,
        high: float = math.inf,
        factors: int = 32,
        hidden: int = 64,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**({"dtype": "float32"} | kwargs))
        self.users, self.items, self.mean, self.low, self.high = users, items, mean, low, high
        self.factors, self.hidden_dim, self.dropout_rate = factors, hidden, dropout
        self.dropout = ResumableDropout(dropout, dtype="float32")
        self.hidden = tf.keras.layers.Dense(hidden, activation="gelu", name="hidden", dtype="float32")
        self.out = tf.keras.layers.Dense(1, kernel_initializer="zeros", name="out", dtype="float32")

    def build(self, input_shape: dict[str, tf.TensorShape]) -> None:
        init = normal(0.1)
        # The last row stands for unknown users; it is never trained, so it adds nothing.
        self.user_bias = self.add_weight(name="user_bias", shape=(self.users + 1,), initializer="zeros")
        self.item_bias = self.add_weight(name="item_bias", shape=(self.items,), initializer="zeros")
        shape = (self.users + 1, self.factors)
        small = normal(0.1 / USER_SCALE)
        self.user_factors = self.add_weight(name="user_factors", shape=shape, initializer=small())
        self.item_factors = self.add_weight(name="item_factors", shape=(self.items, self.factors), initializer=init())
        told = tf.constant_initializer([self.mean, self.low, self.high])
        self.scale = self.add_weight(name="scale", shape=(3,), initializer=told, trainable=False)
        super().build(input_shape)

    def start_from(
        self, of_user: np.ndarray, of_item: np.ndarray, rating_users: np.ndarray, rated_items: np.ndarray
    ) -> None:
        """Begin with the biases `[U]` and `[N]`, so that what is to be learned is how people differ from them.

        Users and items outside of `rating_users` bool `[U]` and `rated_items` bool `[N]` have no factors: nothing would ever
        be learned of them.
        """
        self.user_factors.assign(self.user_factors * tf.pad(tf.cast(rating_users, tf.float32), [[0, 1]])[:, None])
        self.item_factors.assign(self.item_factors * tf.cast(rated_items, tf.float32)[:, None])
        self.user_bias.assign(tf.pad(tf.cast(of_user, tf.float32) / USER_SCALE, [[0, 1]]))
        self.item_bias.assign(tf.cast(of_item, tf.float32))

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Predict ratings.

        Args:
            inputs: `user` int32 `[P]` (-1: unknown), `item` int32 `[P]` (N and more: added since), `query` and `candidate`
                vectors `[P, D]`, which need not be normalised.

        Returns:
            Ratings `[P]`, which may lie beyond the scale (`bounded`), and the square of the biases and factors that each was
            made of, `[P]`.
        """
        user = tf.where(inputs["user"] < 0, self.users, inputs["user"])
        known = USER_SCALE * tf.cast(inputs["user"] >= 0, tf.float32)
        item, rated = tf.minimum(inputs["item"], self.items - 1), tf.cast(inputs["item"] < self.items, tf.float32)
        biases = tf.gather(self.user_bias, user) * known, tf.gather(self.item_bias, item) * rated
        factors = (
            tf.gather(self.user_factors, user) * known[:, None],
            tf.gather(self.item_factors, item) * rated[:, None],
        )
        query, candidate = tf.math.l2_normalize(inputs["query"], -1), tf.math.l2_normalize(inputs["candidate"], -1)
        read = self.hidden(tf.concat([query, candidate, query * candidate], -1))
        read = self.out(self.dropout(read, training=training))[:, 0]
        rating = self.scale[0] + tf.add_n(biases) + tf.reduce_sum(factors[0] * factors[1], 1) + read
        squares = [tf.square(bias) for bias in biases] + [tf.reduce_sum(tf.square(x), 1) for x in factors]
        return rating, tf.add_n(squares)

    def bounded(self, ratings: tf.Tensor) -> tf.Tensor:
        """Ratings of any shape within the scale: what is told of them. Those beyond its ends differ only before."""
        _, low, high = tf.unstack(self.scale)
        return tf.clip_by_value(ratings, low, high)

    def get_config(self) -> dict[str, Any]:
        names = ("users", "items", "mean", "low", "high", "factors")
        config = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **config, "hidden": self.hidden_dim, "dropout": self.dropout_rate}


class RatingTwoTower(TwoTower):
    """The two-tower model with a rating of every target: both tasks share towers and the step.

    Args:
        head: predicts ratings.
        options: weights of the tasks.
        **kwargs: of `TwoTower`.
    """

    def __init__(self, *, head: RatingHead, options: RatingTask, **kwargs: Any):
        super().__init__(**kwargs)
        self.head, self.options = head, options
        mean_of_all = tf.keras.losses.MeanSquaredError(reduction=tf.keras.losses.Reduction.NONE)
        self.ranking = tfrs.tasks.Ranking(loss=mean_of_all, name="ranking")

    def compute_loss(self, inputs: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """The weighted sum of both tasks' losses; `inputs` also hold `ratings` float32 `[B, T + 1]` of the targets."""
        candidates = self.read_items(inputs, training, fresh)
        parts = self.read_histories(inputs, candidates, training)
        liked = [(self._liked(part), queries) for part, queries in parts]
        loss = self.options.retrieval_weight * self.retrieval_loss(liked, candidates)
        return loss + self.options.weight * self._rating_loss(parts, candidates, training)

    def _liked(self, part: Batch) -> Batch:
        """The part with the targets of retrieval: what was not liked is not to be recommended."""
        return part | {"weights": part["weights"] * tf.cast(part["ratings"] >= self.options.liked, tf.float32)}

    def _rating_loss(self, parts: list[tuple[Batch, tf.Tensor]], candidates: Candidates, training: bool) -> tf.Tensor:
        examples = [self._rated(part, queries, candidates) for part, queries in parts]
        inputs = {name: tf.concat([example[name] for example in examples], 0) for name in examples[0]}
        ratings, squares = self.head(inputs, training=training)
        errors = self.ranking(labels=inputs["rating"][:, None], predictions=ratings[:, None], training=training)
        weights = tf.concat([tf.boolean_mask(part["weights"], part["targets"] >= 0) for part, _ in parts], 0)
        return weighted_mean(errors, weights) + self.options.penalty * weighted_mean(squares)

    def _rated(self, part: Batch, queries: tf.Tensor, candidates: Candidates) -> dict[str, tf.Tensor]:
        """What the head reads of a part's targets, and their ratings, `[P, ...]` each."""
        examples = part["targets"] >= 0
        item = tf.boolean_mask(part["targets"], examples)
        places = tf.shape(part["targets"])[1]
        return {
            "user": tf.boolean_mask(tf.repeat(part["user"][:, None], places, 1), examples),
            "item": item,
            "query": tf.boolean_mask(queries, examples)[:, : self.vectors.dim],  # without the 1 that reads a bias
            "candidate": tf.gather(candidates.vectors, tf.gather(candidates.slots, item)),
            "rating": tf.boolean_mask(part["ratings"], examples),
        }

    def rate(self, queries: tf.Tensor, user: tf.Tensor, items: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Ratings of items by users, which may lie beyond the scale (`RatingHead.bounded`).

        Args:
            queries: query vectors `[B, D]`.
            user: int32 `[B]`, -1: unknown.
            items: item rows int32 `[B, K]`.
            vectors: all items' vectors, as `TwoTower.queries` takes them.

        Returns:
            `[B, K]`.
        """
        shape = tf.shape(items)
        flat = tf.reshape(items, [-1])
        inputs = {
            "user": tf.repeat(user, shape[1]),
            "item": flat,
            "query": tf.repeat(queries[:, : self.vectors.dim], shape[1], axis=0),
            "candidate": tf.gather(vectors, flat)[:, : self.vectors.dim],
        }
        return tf.reshape(self.head(inputs)[0], shape)
