"""Retrieval and rating trained together: the model's pieces, and how well its ratings are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from pipelines.batches import Purchases
from pipelines.schema import SPLIT_CODES
from tfrec.config import ConfigError
from tfrec.evaluation.bootstrap import bootstrap_means
from tfrec.evaluation.protocol import Protocol, build_protocol
from tfrec.ratings.config import RatingsConfig
from tfrec.ratings.model import RatingHead, RatingTwoTower
from tfrec.retrieval.assembly import RetrievalAssembly

if TYPE_CHECKING:
    import pandas as pd

EVALUATE_BATCH = 512  # users whose ratings are predicted at a time


class RatingAssembly(RetrievalAssembly):
    """A two-tower model with a ranking head, and its dataset with ratings."""

    config: RatingsConfig
    model: RatingTwoTower
    event_values = ("rating",)

    def _training_purchases(self) -> tuple[Purchases, np.ndarray]:
        if "rating" not in self.prepared.event_columns:
            raise ConfigError(
                f"{self.prepared.path} has no ratings; recipe {self.config.recipe} needs them "
                "(python -m pipelines movielens --raw DIR --out PREPARED)"
            )
        return super()._training_purchases()

    @property
    def ratings(self) -> np.ndarray:
        """The training ratings, float32 `[n]`."""
        assert self.purchases.rating is not None  # `_training_purchases` has read them
        return self.purchases.rating

    @property
    def wanted(self) -> Purchases:
        """The training ratings from `rating.liked` on."""
        return self.purchases.where(self.ratings >= self.config.rating.liked)

    @property
    def in_history(self) -> np.ndarray | None:
        least = self.config.history_min_rating
        return self.ratings >= least if least else None

    def _two_tower(self, **parts: Any) -> RatingTwoTower:
        options = self.config.rating
        head = RatingHead(
            len(self.prepared.users),
            len(self.prepared.items),
            mean=float(self.ratings.mean()),
            low=float(self.ratings.min()),
            high=float(self.ratings.max()),
            factors=options.factors,
            hidden=options.hidden,
            dropout=options.dropout,
            name="rating_head",
        )
        return RatingTwoTower(head=head, options=options, **parts)

    def _model(self) -> RatingTwoTower:
        model = super()._model()
        assert isinstance(model, RatingTwoTower)
        user, item, prepared = self.purchases.user, self.purchases.item, self.prepared
        users, items = len(prepared.users), len(prepared.items)
        _, of_user, of_item = biases(user, item, self.ratings, users, items)
        rating, rated = np.bincount(user, minlength=users) > 0, np.bincount(item, minlength=items) > 0
        model.head.start_from(of_user, of_item, rating, rated)
        return model

    def further_metrics(self, split: str, queries_of: Callable[[Protocol], np.ndarray]) -> tuple[dict, dict]:
        """Errors of the predicted ratings of a split's events, and those of simple rules, with intervals over events."""
        events = self.prepared.events(columns=["user", "item", "time", "rating", "split"])
        held = events[events["split"] == SPLIT_CODES[split]]
        known = events[events["split"] < SPLIT_CODES[split]]
        given = held["rating"].to_numpy()
        predicted = self.predict_ratings(held["user"].to_numpy(), held["item"].to_numpy(), split, queries_of)
        rules = rating_rules(known, held, len(self.prepared.users), len(self.prepared.items))
        seed = self.config.seed
        return rating_errors(predicted, given, seed), {
            name: rating_errors(rule, given, seed) for name, rule in rules.items()
        }

    def predict_ratings(
        self, user: np.ndarray, item: np.ndarray, split: str, queries_of: Callable[[Protocol], np.ndarray]
    ) -> np.ndarray:
        """Ratings `[E]` of a split's events int32 `[E]`, sorted by user, each user known by the events before them."""
        protocol = build_protocol(
            self.prepared, split, cold_users=True, history_min_rating=self.config.history_min_rating
        )
        queries = queries_of(protocol)
        place = np.searchsorted(protocol.users, user)
        trained = np.isin(user, self.purchases.user)  # a user without any training event has no bias to speak of
        vectors, rate = self.model.all_vectors(), tf.function(self.model.rate, autograph=False, reduce_retracing=True)
        parts = []
        for start in range(0, len(user), EVALUATE_BATCH):
            part = slice(start, start + EVALUATE_BATCH)
            users = np.where(trained[part], user[part], -1).astype(np.int32)
            parts.append(rate(queries[place[part]], users, item[part, None].astype(np.int32), vectors).numpy()[:, 0])
        return self.model.head.bounded(np.concatenate(parts)).numpy()


def rating_errors(predicted: np.ndarray, given: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """`rating_rmse` and `rating_mae` of predictions `[E]`, with 95 % bootstrap intervals over events."""
    error = predicted.astype(np.float64) - given
    means = bootstrap_means({"mse": error**2, "mae": np.abs(error)}, seed=seed)
    return {
        "rating_rmse": {name: float(np.sqrt(value)) for name, value in means["mse"].items()},
        "rating_mae": means["mae"],
    }


def rating_rules(
    known: pd.DataFrame, held: pd.DataFrame, users: int, items: int, *, strength: float = 10.0
) -> dict[str, np.ndarray]:
    """What simple rules predict for the held-out events `[E]`: the mean, and the mean with biases of item and user."""
    user, item, rating = (known[name].to_numpy() for name in ("user", "item", "rating"))
    mean, of_user, of_item = biases(user, item, rating, users, items, strength=strength)
    biased = mean + of_item[held["item"].to_numpy()] + of_user[held["user"].to_numpy()]
    return {"mean_rating": np.full(len(held), mean), "rating_biases": np.clip(biased, rating.min(), rating.max())}


def biases(
    user: np.ndarray, item: np.ndarray, rating: np.ndarray, users: int, items: int, *, strength: float = 10.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean of ratings `[n]`, and by how much users `[users]` and items `[items]` are above it.

    Biases are means of what is left, shrunk by `strength` ratings of 0 (Koren 2010, https://doi.org/10.1145/1644873.1644874).
    """
    mean = float(rating.mean(dtype=np.float64))
    rest = rating.astype(np.float64) - mean
    of_item = _shrunk(item, rest, items, strength)
    return mean, _shrunk(user, rest - of_item[item], users, strength), of_item


def _shrunk(rows: np.ndarray, values: np.ndarray, count: int, strength: float) -> np.ndarray:
    sums = np.bincount(rows, weights=values, minlength=count)
    return sums / (np.bincount(rows, minlength=count) + strength)
