"""Metric losses equal pytorch-metric-learning and plain loops, and stay finite in degenerate batches."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import math

import numpy as np
import pytest
import tensorflow as tf

from tfrec.metric_learning.config import CLASSIFYING
from tfrec.metric_learning.losses import LOSSES, MetricLoss, normalize
from tfrec.metric_learning.miners import multi_similarity_pairs, pair_masks, triplet_mask

NUM_CLASSES = 6


def _batch(seed: int, *, batch: int = 24, dim: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(batch, dim)).astype(np.float32) * 3.0
    labels = rng.integers(0, NUM_CLASSES, batch).astype(np.int32)
    return embeddings, labels, rng.normal(size=(dim, NUM_CLASSES)).astype(np.float32)


def _options(name: str, weights: np.ndarray) -> dict:
    return {"weights": tf.constant(weights)} if name in CLASSIFYING else {}


def _value_and_gradient(name, embeddings, labels, **options):
    x = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        value = LOSSES[name](x, tf.constant(labels), **options)
    return float(value), tf.convert_to_tensor(tape.gradient(value, x)).numpy()


def _reference(name: str, labels, weights, torch):
    """The pytorch-metric-learning call `(embeddings) -> scalar` that each loss must equal."""
    from pytorch_metric_learning import losses, miners

    def mined(loss, miner):
        return lambda x: loss(x, labels, miner(x.detach(), labels))

    def classifying(loss):
        loss.W.data = torch.tensor(weights)
        return lambda x: loss(x, labels)

    shape = {"num_classes": weights.shape[1], "embedding_size": weights.shape[0]}
    ms = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    calls = {
        "arcface": lambda: classifying(losses.ArcFaceLoss(**shape, margin=math.degrees(0.5), scale=64)),
        "contrastive": lambda: lambda x: losses.ContrastiveLoss(0, 1)(x, labels),
        "cross_entropy": lambda: lambda x: torch.nn.functional.cross_entropy(x @ torch.tensor(weights), labels),
        "multi_similarity": lambda: mined(ms, miners.MultiSimilarityMiner(epsilon=0.1)),
        "multi_similarity/all": lambda: lambda x: ms(x, labels),
        "ntxent": lambda: lambda x: losses.NTXentLoss(temperature=0.07)(x, labels),
        "supcon": lambda: lambda x: losses.SupConLoss(temperature=0.1)(x, labels),
        "triplet/all": lambda: lambda x: losses.TripletMarginLoss(margin=0.2)(x, labels),
        "triplet": lambda: mined(losses.TripletMarginLoss(margin=0.2), miners.TripletMarginMiner(0.2, "semihard")),
        "triplet/hard": lambda: mined(losses.TripletMarginLoss(margin=0.2), miners.TripletMarginMiner(0.2, "hard")),
        "triplet/batch_hard": lambda: mined(losses.TripletMarginLoss(margin=0.2), miners.BatchHardMiner()),
    }
    return calls[name]()


VARIANTS = {
    **{name: (name, {}) for name in LOSSES},
    "multi_similarity/all": ("multi_similarity", {"epsilon": None}),
    "triplet/all": ("triplet", {"mining": "all"}),
    "triplet/hard": ("triplet", {"mining": "hard"}),
    "triplet/batch_hard": ("triplet", {"mining": "batch_hard"}),
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_values_and_gradients_equal_pytorch_metric_learning(variant):
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    name, options = VARIANTS[variant]
    for seed, shape in enumerate([{}, {"batch": 64, "dim": 48}, {"batch": 7, "dim": 3}]):
        embeddings, labels, weights = _batch(seed, **shape)
        x = torch.tensor(embeddings, requires_grad=True)
        expected = _reference(variant, torch.tensor(labels).long(), weights, torch)(x)
        expected.backward()
        value, gradient = _value_and_gradient(name, embeddings, labels, **_options(name, weights), **options)
        np.testing.assert_allclose(value, expected.item(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_arcface_class_weights_get_the_reference_gradient():
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, labels, weights = _batch(5)
    reference = losses.ArcFaceLoss(NUM_CLASSES, 16, margin=math.degrees(0.5), scale=64)
    reference.W.data = torch.tensor(weights)
    reference(torch.tensor(embeddings), torch.tensor(labels).long()).backward()
    kernel = tf.Variable(weights)
    with tf.GradientTape() as tape:
        value = LOSSES["arcface"](tf.constant(embeddings), tf.constant(labels), weights=kernel)
    np.testing.assert_allclose(tape.gradient(value, kernel), reference.W.grad, rtol=1e-4, atol=1e-5)


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_ntxent_and_supervised_contrastive_equal_plain_loops():
    embeddings, labels, _ = _batch(3, batch=10)
    cosine = _unit(embeddings.astype(np.float64)) @ _unit(embeddings.astype(np.float64)).T
    pairs, anchors = [], []
    for a in range(10):
        positives = [p for p in range(10) if p != a and labels[p] == labels[a]]
        negatives = [n for n in range(10) if labels[n] != labels[a]]
        for p in positives:
            exp = np.exp(cosine[a] / 0.07)
            pairs.append(-np.log(exp[p] / (exp[p] + sum(exp[n] for n in negatives))))
        if positives:
            exp = np.exp(cosine[a] / 0.1)
            others = sum(exp[j] for j in range(10) if j != a)
            anchors.append(-np.mean([np.log(exp[p] / others) for p in positives]))
    assert _value_and_gradient("ntxent", embeddings, labels)[0] == pytest.approx(np.mean(pairs), rel=1e-5)
    value, _ = _value_and_gradient("supcon", embeddings, labels)
    assert value == pytest.approx(np.mean(anchors), rel=1e-5)


def test_contrastive_known_case():
    # Two classes on the axes: the positive pair is sqrt(2) apart, one negative pair coincides, one is sqrt(2)
    # away.
    embeddings = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    value, _ = _value_and_gradient("contrastive", embeddings, np.array([0, 0, 1], np.int32))
    assert value == pytest.approx(math.sqrt(2) + 1.0, rel=1e-6)


def test_triplet_miners_pick_what_their_names_say():
    distances = tf.constant([[0.0, 0.5, 0.6, 0.9], [0.5, 0.0, 0.4, 0.8], [0.6, 0.4, 0.0, 0.1], [0.9, 0.8, 0.1, 0.0]])
    positives, negatives = pair_masks(tf.constant([0, 0, 1, 1]))

    def triplets(mining):
        mask = triplet_mask(distances, positives, negatives, mining=mining, margin=0.2)
        return {tuple(map(int, row)) for row in tf.where(mask)}

    assert triplets("semihard") == {(0, 1, 2)}
    assert triplets("hard") == {(1, 0, 2)}
    assert triplets("batch_hard") == {(0, 1, 2), (1, 0, 2), (2, 3, 1), (3, 2, 1)}
    assert len(triplets("all")) == 8
    with pytest.raises(ValueError, match="semihard"):
        triplets("easiest")


def test_multi_similarity_miner_keeps_only_informative_pairs():
    similarity = tf.constant([[1.0, 0.9, 0.2, 0.85], [0.9, 1.0, 0.1, 0.1], [0.2, 0.1, 1.0, 0.1], [0.85, 0.1, 0.1, 1.0]])
    positives, negatives = multi_similarity_pairs(similarity, *pair_masks(tf.constant([0, 0, 1, 2])), epsilon=0.1)
    assert {tuple(map(int, p)) for p in tf.where(positives)} == {(0, 1)}
    assert {tuple(map(int, p)) for p in tf.where(negatives)} == {(0, 3)}


DEGENERATE = {
    "one class": (np.random.default_rng(0).normal(size=(6, 4)), np.zeros(6)),
    "every class a single sample": (np.random.default_rng(1).normal(size=(6, 4)), np.arange(6)),
    "one single-sample class": (np.random.default_rng(2).normal(size=(5, 4)), [0, 0, 1, 1, 2]),
    "all embeddings equal": (np.ones((6, 4)), [0, 0, 1, 1, 2, 2]),
    "opposite to the class centre": (np.tile([[-1.0, 0, 0, 0]], (4, 1)), [0, 0, 1, 1]),
    "zero rows": (np.zeros((4, 4)), [0, 0, 1, 1]),
    "huge": (np.random.default_rng(3).normal(size=(6, 4)) * 1e18, [0, 0, 1, 1, 2, 2]),
    "one row": (np.ones((1, 4)), [0]),
}


@pytest.mark.parametrize("case", sorted(DEGENERATE))
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_degenerate_batches_are_finite(variant, case):
    name, options = VARIANTS[variant]
    embeddings, labels = (np.asarray(part) for part in DEGENERATE[case])
    weights = np.eye(4, 6) * (1e18 if case == "huge" else 1.0)
    value, gradient = _value_and_gradient(
        name,
        embeddings.astype(np.float32),
        labels.astype(np.int32),
        **_options(name, weights.astype(np.float32)),
        **options,
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_inputs_are_computed_in_float32(name, dtype):
    embeddings, labels, weights = _batch(7)
    half = tf.cast(embeddings, dtype)
    value = LOSSES[name](half, labels, **_options(name, weights))
    assert value.dtype == tf.float32
    expected = LOSSES[name](tf.cast(half, tf.float32), labels, **_options(name, weights))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_normalize_does_not_overflow_and_keeps_direction():
    rows = tf.constant([[3e38, 0.0], [3e-30, 4e-30], [0.0, 0.0]])
    np.testing.assert_allclose(normalize(rows), [[1, 0], [0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_layer_equals_function_survives_its_config_and_ignores_the_policy(name):
    embeddings, labels, _ = _batch(9)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = MetricLoss(name, num_classes=NUM_CLASSES)
        value = tf.function(layer)(tf.constant(embeddings), tf.constant(labels))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    weights = {"weights": layer.kernel} if name in CLASSIFYING else {}
    expected = LOSSES[name](tf.constant(embeddings), tf.constant(labels), **weights)
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert all(variable.dtype == tf.float32 for variable in layer.trainable_variables)
    assert len(layer.trainable_variables) == {"arcface": 1, "cross_entropy": 2}.get(name, 0)
    rebuilt = MetricLoss.from_config(layer.get_config())
    assert (rebuilt.loss, rebuilt.num_classes, rebuilt.options) == (name, NUM_CLASSES, {})


def test_layer_names_what_is_wrong():
    with pytest.raises(ValueError, match="num_classes"):
        MetricLoss("arcface")
    with pytest.raises(ValueError, match="tripplet"):
        MetricLoss("tripplet")
