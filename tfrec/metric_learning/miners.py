"""Which pairs and triplets of a batch a metric loss learns from, as boolean masks.

Every function is pure and shape-static (masks, no index lists), so it compiles under `tf.function` and XLA.
Similarities and distances are float32 `[B, B]`; anchors are rows.
"""

import tensorflow as tf

# Stands for "excluded" in a row maximum or log-sum-exp; finite, because infinities turn into NaN in
# gradients.
EXCLUDED = -1e30
MININGS = ("all", "semihard", "hard", "batch_hard")


def pair_masks(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Tell positive pairs (same label, not the row itself) and negative pairs (another label).

    Args:
        labels: `[B]` integer class of each row.

    Returns:
        `(positives, negatives)`, each bool `[B, B]`.
    """
    same = labels[:, None] == labels[None, :]
    itself = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
    return same & ~itself, ~same


def multi_similarity_pairs(
    similarities: tf.Tensor, positives: tf.Tensor, negatives: tf.Tensor, epsilon: float = 0.1
) -> tuple[tf.Tensor, tf.Tensor]:
    """Keep the informative pairs: positives less similar than the hardest negative plus epsilon, and the
    reverse.

    Paper: Wang et al., Multi-Similarity Loss with General Pair Weighting, CVPR 2019, section 3.3.

    Args:
        similarities: `[B, B]` cosines.
        positives: bool `[B, B]`.
        negatives: bool `[B, B]`.
        epsilon: slack; larger keeps more pairs.

    Returns:
        The two masks, thinned out. An anchor without positives keeps no negatives, and the other way round.
    """
    hardest_negative = tf.reduce_max(tf.where(negatives, similarities, EXCLUDED), axis=1, keepdims=True)
    hardest_positive = tf.reduce_min(tf.where(positives, similarities, -EXCLUDED), axis=1, keepdims=True)
    return positives & (similarities - epsilon < hardest_negative), negatives & (
        similarities + epsilon > hardest_positive
    )


def triplet_mask(
    distances: tf.Tensor, positives: tf.Tensor, negatives: tf.Tensor, *, mining: str, margin: float
) -> tf.Tensor:
    """Choose triplets (anchor, positive, negative) among all of a batch.

    Papers: semi-hard, Schroff et al., FaceNet, CVPR 2015; batch-hard, Hermans et al., In Defense of the
    Triplet Loss, 2017.

    Args:
        distances: `[B, B]`.
        positives: bool `[B, B]`.
        negatives: bool `[B, B]`.
        mining: `all`; `semihard` (the negative is farther than the positive, by no more than the margin);
            `hard` (the negative is not farther); `batch_hard` (farthest positive and nearest negative of each
            anchor).
        margin: the wanted gap between both distances.

    Returns:
        bool `[B, B, B]`, indexed anchor, positive, negative.

    Raises:
        ValueError: an unknown `mining`.
    """
    if mining == "batch_hard":
        positives = positives & _first_best(tf.where(positives, distances, EXCLUDED))
        negatives = negatives & _first_best(tf.where(negatives, -distances, EXCLUDED))
    triplets = positives[:, :, None] & negatives[:, None, :]
    gap = distances[:, None, :] - distances[:, :, None]  # (B, B, B): how much farther the negative is
    if mining in ("all", "batch_hard"):
        return triplets
    if mining == "semihard":
        return triplets & (gap > 0.0) & (gap <= margin)
    if mining == "hard":
        return triplets & (gap <= 0.0)
    raise ValueError(f"mining={mining!r} is unknown; use one of {MININGS}")


def _first_best(scores: tf.Tensor) -> tf.Tensor:
    """One-hot mask of each row's largest entry (the first of equals)."""
    return tf.one_hot(tf.argmax(scores, axis=1), tf.shape(scores)[1], on_value=True, off_value=False, dtype=tf.bool)
