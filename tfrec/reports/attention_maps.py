"""Where the words and attributes of an item look in its photo: the weights of the last fusion block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

    from tfrec.retrieval.assembly import RetrievalAssembly
    from tfrec.towers import ItemTower


def top_patches(weights: np.ndarray, most: int) -> list[dict[str, float]]:
    """The patches of `weights` `[h, w]` with the most attention, best first.

    Returns:
        `top`, `left`, `height` and `width` of each as shares of the photo, and its weight as `share`.
    """
    height, width = weights.shape
    return [
        {
            "top": float(place // width / height),
            "left": float(place % width / width),
            "height": 1 / height,
            "width": 1 / width,
            "share": float(weights.flat[place]),
        }
        for place in np.argsort(-weights, axis=None, kind="stable")[:most]
    ]


def looks_of_words(tower: ItemTower, inputs: dict[str, tf.Tensor], to_image: tf.Tensor) -> tf.Tensor:
    """Attention of an item's words to the parts of its photo; of its attributes where it has no words.

    Args:
        tower: an `ItemTower` that fuses photos.
        inputs: what it read.
        to_image: its attention maps from words and attributes to photos `[B, 1 + words + fields, 2 + h w]`, behind the
            placeholders and the class token.

    Returns:
        float32 `[B, h w]`, summed over words, averaged over attributes.
    """
    import tensorflow as tf

    from tfrec.encoders.blocks import text_mask

    looks, mask = tf.cast(to_image, tf.float32)[:, :, 2:], inputs.get("text_mask")
    if mask is None and tower.text is not None:
        mask = text_mask(tower.text, inputs["tokens"], tower.pad_id)
    words = 0 if mask is None else tf.shape(mask)[1]
    of_fields = tf.reduce_mean(looks[:, 1 + words :] if tower.attributes is not None else looks[:, :1], 1)
    if mask is None:
        return of_fields
    of_words = tf.einsum("btn,bt->bn", looks[:, 1 : 1 + words], tf.cast(mask, tf.float32))
    return tf.where(tf.reduce_any(mask, 1, keepdims=True), of_words, of_fields)


def attention_of(assembly: RetrievalAssembly, rows: np.ndarray) -> np.ndarray | None:
    """How much the text and attributes of items attend to each patch of their photos, in the last fusion block.

    Args:
        assembly: of a finished run.
        rows: items `[n]` with a photo.

    Returns:
        Weights float32 `[n, h, w]`, summed over the item's words (averaged over its attributes where it has none) and
        averaged over heads; None where there are no rows, and where the model has no photos or no cross-attention.
    """
    import tensorflow as tf

    from pipelines.batches import decode_bytes

    tower, content = assembly.model.item_tower, assembly.content
    if tower is None or tower.image is None or not tower.fusion.layers or not len(rows):
        return None
    assert content is not None  # a tower reads it
    items = tf.nest.map_structure(tf.convert_to_tensor, content.gather(rows))
    items = decode_bytes({"items": items}, content.size)["items"]
    _, maps = tower(items, training=False, return_attention=True)
    looks = looks_of_words(tower, items, maps["text_to_image"])
    grid = [-(-side // tower.pool) for side in tower.image.grid]
    if looks.shape[-1] != grid[0] * grid[1]:  # the photos' tokens were pooled to one vector
        return None
    return tf.reshape(looks, [-1, *grid]).numpy()
