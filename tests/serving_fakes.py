"""A run without training: random projections in place of towers, so that every answer can be worked out with
NumPy.
"""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import tensorflow as tf

from tfrec.attribute_vocabulary import AttributeVocabulary
from tfrec.runs.run import Run, UserTable

DIM = 16
SIDE = 8


class FakeTowers(tf.Module):
    """A query is the mean of the history's vectors; photos, texts and attributes are projected."""

    def __init__(self, vectors: np.ndarray, seed: int = 0):
        super().__init__()
        random = np.random.default_rng(seed)
        dim = vectors.shape[1]
        self.table = tf.Variable(vectors, trainable=False)
        self.of_photo = tf.Variable(random.normal(size=(SIDE * SIDE * 3, dim)).astype(np.float32))
        self.of_token = tf.Variable(random.normal(size=(256, dim)).astype(np.float32))

    def query(self, history, days_ago, user_fields, vectors):
        weight = tf.cast(history >= 0, tf.float32)[..., None] / (1.0 + days_ago[..., None])
        vectors = tf.gather(vectors, tf.maximum(history, 0)) * weight
        shift = tf.cast(tf.reduce_sum(user_fields, 1, keepdims=True), tf.float32) * 0.01
        return tf.reduce_sum(vectors, 1) / tf.maximum(tf.reduce_sum(weight, 1), 1e-9) + shift

    def rate(self, queries, user, items, vectors):
        likes = tf.cast(items, tf.float32) * 0.01 + tf.cast(user, tf.float32)[:, None] * 0.1
        return likes + tf.reduce_sum(queries, 1, keepdims=True)

    def bounded_ratings(self, ratings):
        return tf.clip_by_value(ratings, 0.0, 5.0)

    def attention(self, photos, has_photo, tokens, attributes):
        bright = tf.reduce_mean(tf.cast(photos, tf.float32), -1) + 1.0
        return bright / tf.reduce_sum(bright, [1, 2], keepdims=True)

    def user_query(self, user, user_fields):
        return tf.gather(self.table, tf.maximum(user, 0))

    def similar_query(self, vectors):
        return vectors

    def item(self, photos, has_photo, tokens, attributes):
        photo = self.photo_query(photos) * tf.cast(has_photo, tf.float32)[:, None]
        shift = tf.cast(tf.reduce_sum(attributes, [1, 2]), tf.float32)[:, None]
        return photo + self.text_query(tokens) + shift

    def photo_query(self, photos):
        flat = tf.reshape(photos, [tf.shape(photos)[0], SIDE * SIDE * 3])
        return tf.matmul(tf.cast(flat, tf.float32) / 255.0, self.of_photo)

    def text_query(self, tokens):
        kept = tf.cast(tokens > 0, tf.float32)[..., None]
        return tf.reduce_sum(tf.gather(self.of_token, tokens) * kept, 1)

    def pixels(self, images):
        readable = tf.strings.substr(images, 0, 3) == b"\xff\xd8\xff"

        def decode(inputs):
            image, is_readable = inputs
            decoded = tf.cond(
                is_readable,
                lambda: tf.cast(tf.image.resize(tf.io.decode_jpeg(image, channels=3), [SIDE, SIDE]), tf.uint8),
                lambda: tf.zeros([SIDE, SIDE, 3], tf.uint8),
            )
            return tf.ensure_shape(decoded, [SIDE, SIDE, 3])

        return tf.map_fn(decode, (images, readable), fn_output_signature=tf.uint8), readable

    def tokens(self, texts):
        codes = tf.strings.unicode_decode(texts, "UTF-8").to_tensor(0, shape=[None, 12])
        return tf.math.floormod(codes, 256)


def make_vectors(items: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """Unit vectors in clusters, as trained item vectors are."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(max(2, items // 50), dim))
    vectors = centers[random.integers(0, len(centers), items)] + 0.7 * random.normal(size=(items, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_run(items: int = 40, *, customers: int = 5, dim: int = DIM, seed: int = 0, **changes) -> Run:
    """A run of `items` items `000` ..., of two kinds and three colours, the last item the most popular
    one.
    """
    random = np.random.default_rng(seed)
    vectors = make_vectors(items, dim, seed)
    colours = ["red", "green", "blue"]
    attributes = {
        "kind": [["dress" if row % 2 else "shirt"] for row in range(items)],
        "colour": [[colours[row % 3], "bright"] if row % 5 == 0 else [colours[row % 3]] for row in range(items)],
    }
    history = random.integers(0, items, (customers, 4)).astype(np.int32)
    history[:, 0] = -1
    table = UserTable(
        ids=[f"u{row}" for row in range(customers)],
        history=history,
        days_ago=np.ones((customers, 4), np.float32),
        fields=np.ones((customers, 1), np.int32),
    )
    values = {
        "name": "fake",
        "towers": FakeTowers(vectors, seed),
        "item_ids": [f"{row:03d}" for row in range(items)],
        "item_vectors": vectors,
        "popularity": np.arange(items, dtype=np.float32),
        "history_length": 4,
        "config": {"seed": seed},
        "modalities": frozenset({"photo", "text", "attributes"}),
        "item_attributes": attributes,
        "attributes": AttributeVocabulary({"kind": ["dress", "shirt"], "colour": ["red", "blue"]}, max_values=2),
        "user_vocabulary": AttributeVocabulary({"club": ["member"]}, max_values=1),
        "users": table,
    }
    return Run(**{**values, **changes})
