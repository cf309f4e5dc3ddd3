"""Options of metric learning: an encoder of photos, views to fuse, a loss over class-balanced batches."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tfrec.config import RunConfig, TrainingConfig

# These losses want a weight matrix with one column a training class; the others compare pairs of photos.
CLASSIFYING = frozenset({"arcface", "cross_entropy"})


@dataclass
class PhotoEncoderConfig:
    """The encoder that every view goes through.

    Args:
        kind: `vit` (Dosovitskiy et al. 2020), `clip` (CLIP's photo tower: normalised before its blocks, quick GELU, its
            own colour statistics), or `resnet` with bottleneck blocks (ResNet-50 by its default depths and width).
        weights: published weights (a folder, `hf://ORG/NAME`, or `keras://resnet50`) or a run of recipe pretrain; they
            bring kind, patch, dim, layers and heads along, and a stem. None: random weights.
        size: height and width that photos are resized to, in pixels.
        patch: side of a square patch in pixels.
        stem_convolutions: of a ViT from random weights: convolutions of stride 2 before the patches, which learn faster
            from few photos; at most as many as `patch` can be halved.
        stem_pooling: let them see every pixel and pool, for more work; learns better.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
        pooling: from tokens to one vector: the class token, the mean of the patches, or both end to end; weights with a
            projection behind it (CLIP, a run of pretrain) must be pooled as they were. A ResNet takes the mean.
        depths: blocks of each stage of a ResNet.
        width: channels of a ResNet's stem; its stages have 4, 8, 16 and 32 times as many.
        keep_layers: keep only the first so many blocks of published weights; None: all.
        train_blocks: blocks that train, from the last one back; 0 freezes the encoder, `all` trains it whole.
        lora_rank: rank of trained updates to the attention (all else frozen; LoRA, Hu et al. 2021); 0: none.
    """

    kind: Literal["vit", "clip", "resnet"] = "vit"
    weights: str | None = None
    size: tuple[int, int] = (224, 224)
    patch: int = 32
    stem_convolutions: int = 0
    stem_pooling: bool = False
    dim: int = 768
    layers: int = 12
    heads: int = 12
    pooling: Literal["class", "mean", "class_mean"] = "class"
    depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    width: int = 64
    keep_layers: int | None = None
    train_blocks: int | Literal["all"] = "all"
    lora_rank: int = 0


@dataclass
class PixelPartConfig:
    """A fixed part of the embedding that compares photos by their pixels, for classes that training never sees.

    Args:
        weight: its length beside the learned part's, which has length 1; 0: there is no such part.
        side: photos are made small to this length of their longer side, in pixels.
        components: principal components of the training photos that are kept, as far as there are so many.
        whiten: 0: components weigh as much as they vary; 1: all weigh the same.
    """

    weight: float = 0.0
    side: int = 24
    components: int = 128
    whiten: float = 0.25


@dataclass
class MetricModelConfig:
    """From the photos of an item to its embedding.

    Args:
        encoder: shared by all views.
        views: the views that are read, by the names in the dataset (`[front, rear]`); empty: each item's first photo.
        fusion: how the views' vectors become one; a missing view is masked.
        heads: attention heads of the fusion by attention.
        neck: normalise the fused vectors over the batch before the head (BNNeck, Luo et al. 2019): those of an encoder
            with random weights are nearly equal, where losses over pairs have hardly a direction to go.
        embedding: width of the learned embedding.
        pixels: a fixed part beside it; the loss does not see it.
    """

    encoder: PhotoEncoderConfig = field(default_factory=PhotoEncoderConfig)
    views: list[str] = field(default_factory=list)
    fusion: Literal["concat", "mean", "attention"] = "concat"
    heads: int = 4
    neck: bool = False
    embedding: int = 128
    pixels: PixelPartConfig = field(default_factory=PixelPartConfig)


@dataclass
class AugmentConfig:
    """What training photos go through, inside tf.data.

    Args:
        box_play: where photos carry boxes to crop to, move each side of a box by up to this share of its length.
        flip: mirror half of the photos.
        shift: move by up to this share of the side, both ways.
        zoom: crop to a random share of the area, not less than this, and back to size; 1: never.
        operations: RandAugment's operations a photo (Cubuk et al. 2019); 0: none.
        magnitude: their strength, 0 to 1.
    """

    box_play: float = 0.0
    flip: bool = True
    shift: float = 0.0
    zoom: float = 1.0
    operations: int = 0
    magnitude: float = 0.3


@dataclass
class MetricTask:
    """The objective.

    Args:
        loss: see `tfrec.metric_learning.losses`.
        options: arguments of losses by their names, such as `{triplet: {margin: 0.3}}`; those of other losses than the
            chosen one are not read, and what is left out has the loss's default.
        per_class: photos of each class in a batch (K), at least 2 for losses over pairs; `training.batch_size` / K classes
            are drawn (P).
        label: the column that says which class an item is of: `label`, or an attribute field.
    """

    loss: Literal["arcface", "contrastive", "cross_entropy", "multi_similarity", "ntxent", "supcon", "triplet"] = (
        "arcface"
    )
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_class: int = 4
    label: str = "label"

    @property
    def classifies(self) -> bool:
        """Whether the loss tells classes apart by weights of their own, and not by pairs of photos."""
        return self.loss in CLASSIFYING


@dataclass
class MetricEvaluation:
    """How embeddings are evaluated.

    Args:
        k: cut-offs of recall.
        neighbors: voters of the k-NN accuracy.
        max_rows: queries and clustered items at most (a seeded sample).
    """

    k: list[int] = field(default_factory=lambda: [1, 5, 10])
    neighbors: int = 5
    max_rows: int = 10_000


@dataclass
class MetricTrainingConfig(TrainingConfig):
    """How the weights are found.

    Args:
        encoder_rate: the photo encoder learns at this multiple of the learning rate.
    """

    encoder_rate: float = 1.0


@dataclass
class MetricLearningConfig(RunConfig):
    """Metric learning: photos of one class come to lie side by side."""

    model: MetricModelConfig = field(default_factory=MetricModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    task: MetricTask = field(default_factory=MetricTask)
    training: MetricTrainingConfig = field(
        default_factory=lambda: MetricTrainingConfig(batch_size=64, monitor="knn_accuracy")
    )
    evaluation: MetricEvaluation = field(default_factory=MetricEvaluation)

    def monitors(self) -> list[str]:
        return [*(f"recall@{k}" for k in self.evaluation.k), "map@r", "r_precision", "knn_accuracy"]
