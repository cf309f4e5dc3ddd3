"""Where the words and attributes of an item look in its photo: the weights of the last fusion block."""

from __future__ import annotations

import numpy as np


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


def attention_of(assembly, rows: np.ndarray) -> np.ndarray | None:
    """How much the text and attributes of items attend to each patch of their photos, in the last fusion block.

    Args:
        assembly: of a finished run.
        rows: items `[n]` with a photo.

    Returns:
        Weights float32 `[n, h, w]`, summed over the item's words (over its attributes in a model without texts) and
        averaged over heads; None where there are no rows, and where the model has no photos or no cross-attention.
    """
    import tensorflow as tf

    from pipelines.batches import decode_bytes
    from tfrec.encoders.blocks import text_mask

    tower, content = assembly.model.item_tower, assembly.content
    if tower is None or tower.image is None or not tower.fusion.layers or not len(rows):
        return None
    items = tf.nest.map_structure(tf.convert_to_tensor, content.gather(rows))
    items = decode_bytes({"items": items}, content.size)["items"]
    _, maps = tower(items, training=False, return_attention=True)
    looks = tf.cast(maps["text_to_image"], tf.float32)[:, 1:, 2:]  # without placeholders and the class token
    if tower.text is not None:
        words = tf.cast(text_mask(tower.text, items["tokens"], tower.pad_id), tf.float32)
        looks = tf.einsum("btn,bt->bn", looks[:, : words.shape[1]], words)
    else:
        looks = tf.reduce_mean(looks, 1)  # of the attributes alone
    grid = [-(-side // tower.pool) for side in tower.image.grid]
    if looks.shape[-1] != grid[0] * grid[1]:  # the photos' tokens were pooled to one vector
        return None
    return tf.reshape(looks, [-1, *grid]).numpy()
