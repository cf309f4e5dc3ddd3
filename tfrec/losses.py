"""Softmax objectives: of retrieval over a set of distinct candidates, with its corrections in a visible order, and of two
sides of the same items that are to find each other.

Candidates of retrieval are *distinct* items (those of the batch, drawn ones, or the whole catalogue), so an accidental hit,
the positive standing among the negatives a second time, cannot occur. Losses are float32, whatever the compute type, and so
is all that leads to them, except where `candidate_losses` is told otherwise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.distributed.workers import all_reduce_sum
from tfrec.graphs import on_cpu

MASKED = -1e9
LEAST_CHANCE = 1e-37  # of a positive; kernels take what is below float32's range for 0


def softmax_loss(
    logits: tf.Tensor, labels: tf.Tensor, *, weights: tf.Tensor | None = None, **options: Any
) -> tf.Tensor:
    """The mean of `softmax_losses`, by the examples' `weights` `[P]` (None: all 1); 0 where there is no example."""
    return weighted_mean(softmax_losses(logits, labels, **options), weights)


def softmax_losses(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    log_q: tf.Tensor | None = None,
    masked: tf.Tensor | None = None,
    hard_negatives: int = 0,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """Cross-entropy of each positive among the candidates.

    Order: logQ correction, masks, hard negatives, softmax.

    Args:
        logits: similarity over temperature `[P, C]`.
        labels: column of each example's positive, int32 `[P]`.
        log_q: log of the probability that sampling picks each candidate `[C]`, subtracted from positives and negatives alike
            (Yi et al. 2019, https://doi.org/10.1145/3298689.3346996); None: candidates are not a sample.
        masked: bool `[P, C]`, True where a candidate is no negative of the example; the positive always counts.
        hard_negatives: keep only so many of each example's highest-scoring negatives; 0 keeps all.
        label_smoothing: share of the target that is spread evenly over the candidates that count.

    Returns:
        float32 `[P]`.
    """
    logits = tf.cast(logits, tf.float32)
    if log_q is not None:
        logits -= log_q[None]
    logits = without_masked(logits, labels, masked)
    if hard_negatives:
        logits, labels = hardest(logits, labels, hard_negatives), tf.zeros_like(labels)
    return cross_entropy(logits, labels, label_smoothing)


def candidate_losses(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    labels: tf.Tensor,
    *,
    log_q: tf.Tensor | None = None,
    bonus: tuple[tf.Tensor, tf.Tensor] | None = None,
    masked: tf.Tensor | None = None,
    hard_negatives: int = 0,
    label_smoothing: float = 0.0,
    compute: tf.DType = tf.float32,
) -> tf.Tensor:
    """`softmax_losses` of the inner products of queries `[P, D]` and candidates `[C, D]`, both float32.

    On CPUs the logits, by far the largest array of a step, are passed over as seldom as can be. LogQ is a further dimension
    of the product, and the gradient is taken from the softmax itself: with p the probabilities, u the gradient of the losses
    and y the positive's row, that of queries is u (p V - V_y), that of candidates p^T (u Q) less u Q at each y.

    In bfloat16, p is rounded to eight bits like the logits it comes of, and the parts of the positives stay float32:
    gradients differ from those of float32 by about a hundredth of their length at most.

    Args:
        queries, candidates: their inner products are the logits.
        labels, log_q, masked, hard_negatives, label_smoothing: see `softmax_losses`.
        bonus: what is added to some of the logits: places int32 `[M, 2]`, example and candidate, and values float32 `[M]`;
            those of a place add up.
        compute: type of logits and probabilities, float32 or bfloat16. On GPUs, and with hard negatives or label smoothing,
            it is float32.

    Returns:
        float32 `[P]`.
    """
    if on_cpu() and not hard_negatives and not label_smoothing:
        labels = tf.convert_to_tensor(labels)
        return _candidate_losses_on_cpu(queries, candidates, labels, log_q, bonus, masked, compute)
    logits = tf.matmul(queries, candidates, transpose_b=True)
    if bonus is not None:
        logits = tf.tensor_scatter_nd_add(logits, *bonus)
    return softmax_losses(
        logits, labels, log_q=log_q, masked=masked, hard_negatives=hard_negatives, label_smoothing=label_smoothing
    )


def _candidate_losses_on_cpu(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    labels: tf.Tensor,
    log_q: tf.Tensor | None,
    bonus: tuple[tf.Tensor, tf.Tensor] | None,
    masked: tf.Tensor | None,
    compute: tf.DType,
) -> tf.Tensor:
    places, values = (None, tf.zeros([0])) if bonus is None else bonus

    @tf.custom_gradient
    def losses_of(
        queries: tf.Tensor, candidates: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        sought, offered = tf.cast(queries, compute), tf.cast(candidates, compute)
        logits = tf.matmul(*_with_log_q(sought, offered, log_q), transpose_b=True)
        if places is not None:
            logits = tf.tensor_scatter_nd_add(logits, places, tf.cast(values, compute))
        probabilities, losses = probabilities_and_losses(without_masked(logits, labels, masked), labels)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            weighted = queries * upstream[:, None]
            of_queries = tf.matmul(probabilities, offered)
            of_queries = tf.cast(of_queries, tf.float32) - tf.gather(candidates, labels)
            of_candidates = tf.matmul(probabilities, tf.cast(weighted, compute), transpose_a=True)
            of_candidates = tf.cast(of_candidates, tf.float32)
            of_values = tf.zeros_like(values)
            if places is not None:
                example, column = tf.unstack(places, axis=1)
                hit = tf.cast(column == tf.gather(labels, example), tf.float32)
                chosen = tf.cast(tf.gather_nd(probabilities, places), tf.float32)
                of_values = (chosen - hit) * tf.gather(upstream, example)
            return (
                of_queries * upstream[:, None],
                tf.tensor_scatter_nd_sub(of_candidates, labels[:, None], weighted),
                of_values,
            )

        return losses, gradient

    return losses_of(queries, candidates, values)


def _with_log_q(queries: tf.Tensor, candidates: tf.Tensor, log_q: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Queries and candidates with a further dimension, which subtracts logQ from their products."""
    if log_q is None:
        return queries, candidates
    correction = tf.cast(log_q, tf.float32)
    if candidates.dtype != tf.float32:
        # It changes no probability, and takes most from the highest logits, those of seldom items: what is small is rounded
        # less.
        correction -= tf.reduce_min(correction)
    ones, column = tf.ones_like(queries[:, :1]), -tf.cast(correction, candidates.dtype)[:, None]
    return tf.concat([queries, ones], 1), tf.concat([candidates, column], 1)


def without_masked(logits: tf.Tensor, labels: tf.Tensor, masked: tf.Tensor | None) -> tf.Tensor:
    """Logits `[P, C]` without those of candidates that are no negatives; the positive always counts."""
    if masked is None:
        return logits
    keep = tf.one_hot(labels, tf.shape(logits)[1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.where(masked & ~keep, tf.cast(MASKED, logits.dtype), logits)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Softmax cross-entropy of each example.

    Args:
        logits: float32 `[P, C]`.
        labels: int32 `[P]`.
        smoothing: share of the target that is spread evenly over the candidates that are not masked.

    Returns:
        `[P]`.
    """
    if not smoothing and on_cpu():
        return cross_entropy_on_cpu(logits, tf.convert_to_tensor(labels))
    if not smoothing:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    counts = tf.cast(logits > MASKED / 2, tf.float32)
    target = (smoothing / tf.reduce_sum(counts, 1, keepdims=True)) * counts
    target += tf.one_hot(labels, tf.shape(logits)[1], on_value=1.0 - smoothing)
    return tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(target), logits)


@tf.custom_gradient
def cross_entropy_on_cpu(
    logits: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
    """`cross_entropy` without smoothing, by `probabilities_and_losses`."""
    probabilities, losses = probabilities_and_losses(logits, labels)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        places = tf.stack([tf.range(tf.shape(labels)[0]), labels], 1)
        return tf.tensor_scatter_nd_sub(probabilities * upstream[:, None], places, upstream), None

    return losses, gradient


def probabilities_and_losses(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The softmax of logits `[P, C]`, in their type, and each example's cross-entropy, float32 `[P]`, on CPUs.

    oneDNN's softmax takes an eighth of the time of the kernel that makes loss and gradient together. It hides NaN and
    infinity in all columns but their own, and a probability below float32's range is 0: examples whose positive has none are
    told by the other kernel, so that a training that has diverged is found out.
    """
    probabilities = tf.nn.softmax(logits)
    positive = tf.cast(tf.gather(probabilities, labels, batch_dims=1), tf.float32)
    doubtful = tf.where(~(positive >= LEAST_CHANCE))  # NaN, too; hardly ever any
    rows = doubtful[:, 0]
    exact = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
        features=tf.cast(tf.gather(logits, rows), tf.float32), labels=tf.gather(labels, rows)
    )
    return probabilities, tf.tensor_scatter_nd_update(-tf.math.log(positive), doubtful, exact.loss)


def hardest(logits: tf.Tensor, labels: tf.Tensor, count: int) -> tf.Tensor:
    """The positive's logit and the `count` highest negatives: `[P, C]` -> `[P, 1 + min(count, C - 1)]`."""
    columns = tf.shape(logits)[1]
    positive = tf.gather(logits, labels, batch_dims=1)[:, None]
    others = tf.where(tf.one_hot(labels, columns, on_value=True, off_value=False, dtype=tf.bool), MASKED, logits)
    return tf.concat([positive, tf.math.top_k(others, tf.minimum(count, columns - 1), sorted=False).values], 1)


def weighted_mean(values: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Mean of `values` `[P]` by `weights` `[P]`; 0 where the weights sum to 0.

    With several workers it is a worker's share of the mean over all their values: the shares add up to it, and so do their
    gradients.
    """
    if weights is None:
        weights = tf.ones_like(values)
    (total,) = all_reduce_sum([tf.stop_gradient(tf.reduce_sum(weights))])
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), total)


def info_nce(
    left: tf.Tensor, right: tf.Tensor, *, temperature: tf.Tensor | float, same: tf.Tensor | None = None
) -> tf.Tensor:
    """Mean InfoNCE of both directions with in-batch negatives (Oord et al. 2018, https://arxiv.org/abs/1807.03748).

    Args:
        left: unit vectors `[B, D]`.
        right: unit vectors `[B, D]`; row i belongs to row i of `left`.
        temperature: divides the cosine.
        same: bool `[B, B]`, True where two rows are of equal content and so are no negatives of each other; None: none.
    """
    logits = tf.matmul(left, right, transpose_b=True) / temperature
    labels = tf.range(tf.shape(logits)[0])
    losses = [softmax_loss(side, labels, masked=same) for side in (logits, tf.transpose(logits))]
    return (losses[0] + losses[1]) / 2.0


def same_rows(rows: tf.Tensor) -> tf.Tensor:
    """Which rows of `[B, ...]` int are equal: bool `[B, B]`."""
    # A number for each distinct row, so that memory does not grow with the width of the rows.
    _, number = tf.raw_ops.UniqueV2(x=tf.reshape(rows, [tf.shape(rows)[0], -1]), axis=[0])
    return number[:, None] == number[None]


def sampling_log_probability(
    frequency: np.ndarray | tf.Tensor, *, targets: float, negatives: int, catalogue: int
) -> tf.Tensor:
    """Log of the probability that an item is among a batch's distinct candidates.

    A batch draws `targets` purchases, each of which is the item with its `frequency`, and `negatives` items uniformly:
    q = 1 - (1 - p)^targets (1 - 1/N)^negatives. An item with q = 0 cannot be sampled; its value is that of one
    thousandth of a draw.

    Args:
        frequency: share of the purchases that batches name `[C]`.
        targets: purchases in a batch (a mean, if it varies).
        negatives: uniform draws in a batch.
        catalogue: number of items N.

    Returns:
        float32 `[C]`.
    """
    frequency = tf.clip_by_value(tf.cast(frequency, tf.float64), 0.0, 1.0 - 1e-12)
    miss = tf.cast(targets, tf.float64) * tf.math.log1p(-frequency)
    miss += negatives * tf.math.log1p(-tf.constant(1.0, tf.float64) / catalogue) if catalogue > 1 else 0.0
    floor = 1e-3 / catalogue
    return tf.cast(tf.math.log(tf.maximum(-tf.math.expm1(miss), floor)), tf.float32)


def own_items(windows: tf.Tensor, slots: tf.Tensor, candidates: tf.Tensor | int) -> tf.Tensor:
    """Which candidates each customer bought within the window.

    Args:
        windows: item rows `[B, W]`, -1 padded.
        slots: candidate column of every item row, -1 where it is no candidate, int32 `[N]`.
        candidates: number of candidates C.

    Returns:
        bool `[B, C]`.
    """
    columns = tf.where(windows >= 0, tf.gather(slots, tf.maximum(windows, 0)), -1)
    rows = tf.repeat(tf.range(tf.shape(windows)[0])[:, None], tf.shape(windows)[1], 1)
    index = tf.boolean_mask(tf.stack([rows, columns], -1), columns >= 0)
    marks = tf.scatter_nd(index, tf.ones_like(index[:, 0]), [tf.shape(windows)[0], candidates])
    return marks > 0
