"""The options of retrieval and rating together."""

from dataclasses import dataclass, field
from typing import Literal

from tfrec.retrieval.config import RetrievalConfig


@dataclass
class RatingTask:
    """Predicting the rating that a user gives an item, beside retrieval.

    Args:
        weight: of the mean squared error of the ratings in the loss.
        retrieval_weight: of the retrieval objective in the loss.
        liked: ratings from here on are targets of retrieval; lower ones are predicted only.
        history: what histories hold: everything rated (`all`) or what was `liked`.
        factors: width of the user and item factors of the rating.
        hidden: width of the perceptron that reads query and candidate.
        dropout: dropout rate of the perceptron.
        penalty: weight of the squared biases and factors of each rating (L2, as in matrix factorisation).
    """

    weight: float = 1.0
    retrieval_weight: float = 1.0
    liked: float = 4.0
    history: Literal["all", "liked"] = "all"
    factors: int = 32
    hidden: int = 64
    dropout: float = 0.3
    penalty: float = 0.02


@dataclass
class RatingsConfig(RetrievalConfig):
    """Retrieval and rating together: a history finds items, and a ranking head says how they would be rated."""

    rating: RatingTask = field(default_factory=RatingTask)

    @property
    def history_min_rating(self) -> float:
        liked_alone = self.rating.history == "liked" and self.model.query.kind == "history"
        return self.rating.liked if liked_alone else 0.0
