"""The options of the retrieval system."""

from dataclasses import dataclass, field
from typing import Literal

from tfrec.config import AttributeConfig, ImageConfig, RunConfig, TextConfig, TrainingConfig


@dataclass
class FusionConfig:
    """Cross-attention between photo and text.

    Args:
        dim: token width of both sides.
        layers: bidirectional cross-attention blocks.
        heads: attention heads.
        ratio: feed-forward width over `dim`.
        dropout: dropout rate.
        modality_dropout: probability that a training item loses its photo, and the probability that it loses its text.
    """

    dim: int = 768
    layers: int = 4
    heads: int = 12
    ratio: float = 4.0
    dropout: float = 0.1
    modality_dropout: float = 0.1


@dataclass
class ItemConfig:
    """The candidate side.

    Args:
        dim: width of candidate and query vectors.
        id_embedding: add a vector of its own to every item sold in training.
        id_dropout: probability that an item loses that vector in a training step, so that content must do without.
        bias: learn a popularity bias per item, served as one more dimension.
        normalize: compare by cosine (divided by the temperature) instead of inner product.
        deep: encode photo, text and attributes and fuse them by cross-attention.
        shallow: also sum up attributes and words without attention, afresh wherever an item is read.
        tie: the history reads the candidate vectors themselves instead of tables of its own.
    """

    dim: int = 512
    id_embedding: bool = True
    id_dropout: float = 0.3
    bias: bool = False
    normalize: bool = True
    deep: bool = True
    shallow: bool = True
    tie: bool = False


@dataclass
class QueryConfig:
    """The query side.

    Args:
        kind: `history` reads the last purchases with a causal transformer; `user` looks the customer up.
        length: purchases read.
        layers: transformer blocks.
        heads: attention heads.
        ratio: feed-forward width over the vector's width.
        positions: how the order of purchases is told.
        time_gaps: embed the days from each purchase to the next one (the last: to now).
        user_fields: embed the customer's fields (age group, club status ...).
        shortcut: add the mean of the purchases' candidate vectors to the decoder's output.
        repeats: learn, by the days since, what a candidate gains or loses for having been bought before.
        variants: what every purchase adds to the items of its product (the same in other colours), itself included and
            the 15 others that sell best, in logits; nothing where items name no product. It is set, not learned: of
            purchases that a model was trained on, its vectors explain too much.
        followers: what the last purchases add to the items that other customers bought soon after them, in logits a unit
            of a cosine; set likewise.
        companions: what every purchase adds to the items that the same customers bought, before it or after, in logits a
            unit of a regression's coefficient; set likewise.
        dropout: dropout rate.
    """

    kind: Literal["history", "user"] = "history"
    length: int = 20
    layers: int = 2
    heads: int = 8
    ratio: float = 4.0
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"
    time_gaps: bool = True
    user_fields: bool = True
    shortcut: bool = True
    repeats: bool = True
    variants: float = 0.0
    followers: float = 0.0
    companions: float = 0.0
    dropout: float = 0.2


@dataclass
class ModelConfig:
    """Two towers and what they are made of."""

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    attributes: AttributeConfig = field(default_factory=AttributeConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    item: ItemConfig = field(default_factory=ItemConfig)
    query: QueryConfig = field(default_factory=QueryConfig)


@dataclass
class RetrievalTask:
    """The objective of retrieval.

    Args:
        candidates: what each purchase is told apart from: the items of the batch, or the whole catalogue.
        temperature: divides the cosine.
        logq: subtract the log of the probability that sampling picks a candidate (Yi et al. 2019).
        negatives: further candidates, drawn uniformly from the catalogue, with `in_batch`.
        hard_negatives: keep only so many of the highest-scoring negatives of each example; 0 keeps all.
        mask_own: the customer's other purchases that are not counted as negatives (of histories: a user tower's example is
            one purchase, which names no other).
        label_smoothing: share of the target spread over all candidates.
        encode_items: items encoded afresh, with gradient, in each step; the others are read from the bank.
        recency_days: an example's weight halves with every so many days before the end of training; 0: no weights.
        target_days: only purchases of the last so many days of training are predicted, older ones are read in histories
            alone; 0: all are predicted.
        collapse_repeats: read a customer's further purchases of an item as one with the first: not at all, within a
            day, or for ever; `auto`: for ever where the split holds out each customer's last new item, so that nothing
            is ever asked for twice, and within a day where it holds out days, in which people buy things again.
        shuffle: order purchases at random in each epoch: `ties`, those of one moment, as a log by days does not know their
            order; `days`, those of one day whatever their times; `none`.
    """

    candidates: Literal["in_batch", "catalogue"] = "in_batch"
    temperature: float = 0.07
    logq: bool = True
    negatives: int = 0
    hard_negatives: int = 0
    mask_own: Literal["none", "future", "all"] = "future"
    label_smoothing: float = 0.0
    encode_items: int = 256
    recency_days: float = 0.0
    target_days: int = 0
    collapse_repeats: Literal["auto", "never", "day", "always"] = "auto"
    shuffle: Literal["none", "ties", "days"] = "none"


@dataclass
class RetrievalTrainingConfig(TrainingConfig):
    """How the weights of a retrieval model are found.

    Args:
        min_steps: take at least so many, in more epochs: a few customers fill only a few steps an epoch.
        encoder_rate: the photo and text encoders learn at this multiple of the learning rate.
        max_eval_users: validation customers (a seeded sample); 0: all.
        final: train on the validation interactions as well, with no early stopping.
        calibration_users: correct what repeats are worth by the validation interactions of so many customers, after the
            training and without a change to anything else; a tenth of the customers at most with `final`, which does
            not train on these then. 0: repeats count as learned. Nothing is corrected where repeats are never
            recommended (`evaluation.seen_filter`, splits that hold out new items).
    """

    min_steps: int = 0
    encoder_rate: float = 1.0
    max_eval_users: int = 5000
    final: bool = False
    calibration_users: int = 500


@dataclass
class EvaluationConfig:
    """How the model is evaluated.

    Args:
        k: cut-offs of the ranking metrics.
        seen_filter: leave out items that the customer bought before.
        min_rating: an interaction rated lower neither counts as a target nor is left out as seen; 0: all do.
        max_users: customers evaluated on the test split (a seeded sample); 0: all.
    """

    k: list[int] = field(default_factory=lambda: [5, 10, 12, 20, 50])
    seen_filter: bool = False
    min_rating: float = 0.0
    max_users: int = 0


@dataclass
class RetrievalConfig(RunConfig):
    """Retrieval: the customer's history finds items of the catalogue.

    Args:
        features: what `python -m tfrec.encode` wrote of the dataset: the item tower reads it instead of running the
            encoders that are stored with it.
    """

    features: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    task: RetrievalTask = field(default_factory=RetrievalTask)
    training: RetrievalTrainingConfig = field(default_factory=RetrievalTrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def monitors(self) -> list[str]:
        names = ("precision", "recall", "hit_rate", "ndcg", "map")
        return [*(f"{name}@{k}" for k in self.evaluation.k for name in names), "mrr"]

    @property
    def history_min_rating(self) -> float:
        """The lowest rating of what histories hold; 0: they hold everything."""
        return 0.0
