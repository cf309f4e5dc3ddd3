"""Losses of metric learning as pure functions: `loss(embeddings [B, D], labels [B], **options) -> scalar`.

All compute in float32 whatever they are given (mixed precision included), accept unnormalised embeddings, and
stay finite, value and gradient, for single-sample classes, equal embeddings and huge inputs. Their values and
gradients are those of pytorch-metric-learning 2.9 with the same options; where its default differs from the
paper, the docstring says so.
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrec.metric_learning.config import CLASSIFYING
from tfrec.metric_learning.miners import EXCLUDED, multi_similarity_pairs, pair_masks, triplet_mask


def normalize(embeddings: tf.Tensor) -> tf.Tensor:
    """L2-normalise rows in float32; a zero row stays zero and gets no gradient.

    Args:
        embeddings: `[B, D]`, any float type. Rows up to the type's largest value do not overflow.

    Returns:
        float32 `[B, D]`.
    """
    x = tf.cast(embeddings, tf.float32)
    largest = tf.reduce_max(tf.abs(x), axis=-1, keepdims=True)
    # Unit vectors do not depend on the row's scale, so dividing by a constant changes neither value nor
    # gradient.
    x = x / tf.stop_gradient(tf.where(largest > 0.0, largest, 1.0))
    squared = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
    return x * tf.where(squared > 0.0, tf.math.rsqrt(tf.where(squared > 0.0, squared, 1.0)), 0.0)


def contrastive(
    embeddings: tf.Tensor, labels: tf.Tensor, *, pos_margin: float = 0.0, neg_margin: float = 1.0
) -> tf.Tensor:
    """Pull pairs of one class within `pos_margin`, push others beyond `neg_margin` (Euclidean, on unit
    vectors).

    Paper: Hadsell, Chopra, LeCun, Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006;
    distances are not squared, and each side is averaged over its violating pairs.

    Args:
        embeddings: `[B, D]`.
        labels: `[B]`.
        pos_margin: distance below which a positive pair costs nothing.
        neg_margin: distance above which a negative pair costs nothing.

    Returns:
        Scalar.
    """
    distances = _distances(normalize(embeddings))
    positives, negatives = pair_masks(labels)
    pull = tf.nn.relu(distances - pos_margin)
    push = tf.nn.relu(neg_margin - distances)
    return _mean_nonzero(pull, positives) + _mean_nonzero(push, negatives)


def triplet(embeddings: tf.Tensor, labels: tf.Tensor, *, margin: float = 0.2, mining: str = "semihard") -> tf.Tensor:
    """Make negatives farther than positives by `margin`, over mined triplets of the batch.

    Papers: Schroff et al., FaceNet, CVPR 2015 (semi-hard); Hermans et al., 2017 (batch-hard). Mean over the
    triplets that violate the margin. Needs memory for B^3 booleans: 16 MB at B = 256.

    Args:
        embeddings: `[B, D]`.
        labels: `[B]`.
        margin: wanted gap of Euclidean distances between unit vectors (0 to 2).
        mining: `semihard`, `hard`, `batch_hard` or `all`, see `tfrec.metric_learning.miners.triplet_mask`.

    Returns:
        Scalar; 0 where the batch holds no such triplet.
    """
    distances = _distances(normalize(embeddings))
    positives, negatives = pair_masks(labels)
    chosen = triplet_mask(distances, positives, negatives, mining=mining, margin=margin)
    violation = distances[:, :, None] - distances[:, None, :] + margin  # (B, B, B)
    return _mean_nonzero(tf.nn.relu(violation), chosen)


def multi_similarity(
    embeddings: tf.Tensor,
    labels: tf.Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = 0.1,
) -> tf.Tensor:
    """Weigh pairs by their own and their neighbours' similarity, after mining the informative ones.

    Paper: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019
    (its experiments use base 1; 0.5 is its published code's and pytorch-metric-learning's).

    Args:
        embeddings: `[B, D]`.
        labels: `[B]`.
        alpha: sharpness of the positive side.
        beta: sharpness of the negative side.
        base: the cosine that separates easy from hard.
        epsilon: slack of the miner; None learns from all pairs.

    Returns:
        Scalar, mean over the batch.
    """
    unit = normalize(embeddings)
    similarities = tf.matmul(unit, unit, transpose_b=True)
    positives, negatives = pair_masks(labels)
    if epsilon is not None:
        positives, negatives = multi_similarity_pairs(similarities, positives, negatives, epsilon)
    pull = _logsumexp_with_one(alpha * (base - similarities), positives) / alpha
    push = _logsumexp_with_one(beta * (similarities - base), negatives) / beta
    return tf.reduce_mean(pull + push)


def ntxent(embeddings: tf.Tensor, labels: tf.Tensor, *, temperature: float = 0.07) -> tf.Tensor:
    """Softmax of each positive pair against all negatives of its anchor (normalised temperature-scaled
    cross-entropy).

    Papers: Sohn, N-pair loss, NeurIPS 2016; Chen et al., SimCLR, ICML 2020.

    Args:
        embeddings: `[B, D]`; two augmentations of one photo, or all photos of one class, share a label.
        labels: `[B]`.
        temperature: divides the cosines.

    Returns:
        Scalar, mean over positive pairs; 0 where there are none.
    """
    unit = normalize(embeddings)
    logits = tf.matmul(unit, unit, transpose_b=True) / temperature
    positives, negatives = pair_masks(labels)
    against = _masked_logsumexp(logits, negatives)
    losses = tf.nn.softplus(against[:, None] - logits)  # -log(e^p / (e^p + sum e^n))
    return _masked_mean(losses, positives)


def supervised_contrastive(embeddings: tf.Tensor, labels: tf.Tensor, *, temperature: float = 0.1) -> tf.Tensor:
    """Softmax over all other rows of the batch, averaged over each anchor's positives (L_out of the paper).

    Paper: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020.

    Args:
        embeddings: `[B, D]`.
        labels: `[B]`.
        temperature: divides the cosines.

    Returns:
        Scalar, mean over the anchors that have positives; 0 in a batch without positives or without
        negatives.
    """
    unit = normalize(embeddings)
    logits = tf.matmul(unit, unit, transpose_b=True) / temperature
    positives, negatives = pair_masks(labels)
    losses = _masked_logsumexp(logits, positives | negatives)[:, None] - logits
    per_anchor = _masked_mean(losses, positives, axis=1)
    useful = tf.reduce_any(positives, axis=1) & tf.reduce_any(negatives)
    return _mean_nonzero(per_anchor, useful)


def arcface(
    embeddings: tf.Tensor, labels: tf.Tensor, *, weights: tf.Tensor, margin: float = 0.5, scale: float = 64.0
) -> tf.Tensor:
    """Cross-entropy over the cosines to one learned centre a class, the target's angle enlarged by `margin`.

    Paper: Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019. Beyond pi
    - margin the target's logit continues as `cos - margin * sin(margin)`, so that it keeps falling.

    Args:
        embeddings: `[B, D]`.
        labels: `[B]` in 0..C-1.
        weights: `[D, C]` class centres, normalised here.
        margin: radians (pytorch-metric-learning's 28.6 degrees is 0.499).
        scale: multiplies the cosines.

    Returns:
        Scalar, mean over the batch.
    """
    cosines = tf.matmul(normalize(embeddings), normalize(tf.transpose(weights)), transpose_b=True)  # (B, C)
    target = tf.clip_by_value(tf.gather(cosines, labels, axis=1, batch_dims=1), -1.0, 1.0)
    sine = tf.sqrt(tf.maximum(1.0 - tf.square(target), 1e-12))  # bounded away from 0: its gradient is 1/sine
    widened = target * math.cos(margin) - sine * math.sin(margin)
    widened = tf.where(target >= -math.cos(margin), widened, target - margin * math.sin(margin))
    is_target = tf.one_hot(labels, tf.shape(weights)[1], on_value=True, off_value=False, dtype=tf.bool)
    logits = scale * tf.where(is_target, widened[:, None], cosines)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def cross_entropy(
    embeddings: tf.Tensor, labels: tf.Tensor, *, weights: tf.Tensor, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """Plain classification through a linear layer.

    Args:
        embeddings: `[B, D]`.
        labels: `[B]` in 0..C-1.
        weights: `[D, C]`.
        bias: `[C]`, or None.

    Returns:
        Scalar, mean over the batch.
    """
    logits = tf.matmul(tf.cast(embeddings, tf.float32), tf.cast(weights, tf.float32))
    if bias is not None:
        logits = logits + tf.cast(bias, tf.float32)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "arcface": arcface,
    "contrastive": contrastive,
    "cross_entropy": cross_entropy,
    "multi_similarity": multi_similarity,
    "ntxent": ntxent,
    "supcon": supervised_contrastive,
    "triplet": triplet,
}


class MetricLoss(tf.keras.layers.Layer):
    """A loss of `LOSSES` with the class weights it needs, as one layer whose variables train with the model.

    Args:
        loss: a name of `LOSSES`.
        num_classes: training classes; needed by `arcface` and `cross_entropy` only.
        options: further keyword arguments of the loss function.

    Raises:
        ValueError: an unknown loss, or a classifying loss without `num_classes`.
    """

    def __init__(self, loss: str, *, num_classes: int | None = None, options: dict | None = None, **kwargs: Any):
        # float32 whatever the policy: class weights and logits lose the margin in half precision.
        kwargs.update(dtype="float32", autocast=False)
        super().__init__(**kwargs)
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is unknown; use one of {sorted(LOSSES)}")
        if loss in CLASSIFYING and not num_classes:
            raise ValueError(f"loss={loss!r} needs num_classes, the number of training classes; got {num_classes!r}")
        self.loss = loss
        self.num_classes = num_classes
        self.options = dict(options or {})

    def build(self, input_shape: tf.TensorShape) -> None:
        if self.loss in CLASSIFYING:
            self.kernel = self.add_weight(
                name="class_weights", shape=(input_shape[-1], self.num_classes), initializer="glorot_uniform"
            )
        if self.loss == "cross_entropy":
            self.bias = self.add_weight(name="class_bias", shape=(self.num_classes,), initializer="zeros")
        super().build(input_shape)

    def call(self, embeddings: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Shapes: `[B, D]`, `[B]` -> scalar."""
        weights = {}
        if self.loss in CLASSIFYING:
            weights["weights"] = self.kernel
        if self.loss == "cross_entropy":
            weights["bias"] = self.bias
        return LOSSES[self.loss](embeddings, labels, **weights, **self.options)

    def get_config(self) -> dict:
        own = {"loss": self.loss, "num_classes": self.num_classes, "options": self.options}
        return {**super().get_config(), **own}


def _distances(unit: tf.Tensor) -> tf.Tensor:
    """Euclidean distances `[B, B]` between unit rows; equal rows have distance and gradient 0 (sqrt's is
    infinite).
    """
    squared = 2.0 - 2.0 * tf.matmul(unit, unit, transpose_b=True)
    apart = squared > 0.0
    return tf.where(apart, tf.sqrt(tf.where(apart, squared, 1.0)), 0.0)


def _mean_nonzero(losses: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean over the masked losses above zero: satisfied pairs would only water the gradient down."""
    return _masked_mean(losses, mask & (losses > 0.0))


def _masked_mean(losses: tf.Tensor, mask: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """Mean of `losses` where `mask`, over `axis` or everything; 0 where nothing is left."""
    total = tf.reduce_sum(tf.where(mask, losses, 0.0), axis=axis)
    return total / tf.maximum(tf.reduce_sum(tf.cast(mask, tf.float32), axis=axis), 1.0)


def _masked_logsumexp(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Row-wise log-sum-exp over the masked entries `[B]`; about -1e30 in a row without any."""
    return tf.reduce_logsumexp(tf.where(mask, logits, EXCLUDED), axis=1)


def _logsumexp_with_one(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Row-wise log(1 + sum exp) over the masked entries `[B]`; 0 in a row without any."""
    return tf.nn.softplus(_masked_logsumexp(logits, mask))
