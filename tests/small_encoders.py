"""Small encoders of random weights, saved as folders that stand for published ones."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import tensorflow as tf

from pipelines.prepared import open_prepared
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.pooling import SentencePooling
from tfrec.encoders.sides import ImageSide, TextSide, save_side
from tfrec.encoders.text import BertEncoder, WordPiece, train_vocabulary


def make_shop(path):
    """Write the demo's smallest shop and open it."""
    from pipelines.__main__ import main

    assert main(["demo", "--out", str(path), "--size", "tiny"]) == 0
    return open_prepared(path)


def make_sides(texts, *, length=24):
    """A text encoder with a vocabulary of `texts`, and an image encoder of 32 x 24 pixels."""
    tf.keras.utils.set_random_seed(1)
    tokenizer = WordPiece(train_vocabulary(texts, 300), sequence_length=length)
    bert = BertEncoder(
        vocabulary_size=len(tokenizer), dim=16, layers=2, heads=2, max_length=length, dropout=0.0, name="text_encoder"
    )
    bert.build(None)
    pooling = SentencePooling("mean", normalize=True, name="text_pooling")
    pooling.build((None, None, 16))
    vit = ViTEncoder(size=(32, 24), patch=8, dim=16, layers=2, heads=2, name="image_encoder")
    vit.build(None)
    for encoder in (bert, vit):
        for weight in encoder.weights:
            if "kernel" in weight.name or "embedding" in weight.name:
                weight.assign(tf.random.normal(weight.shape) * 0.3)
    return TextSide(bert, tokenizer, pooling, "small bert"), ImageSide(vit, "small vit")


def save_sides(texts, folder, **options):
    """Save both as `folder/text` and `folder/image`."""
    for side in make_sides(texts, **options):
        save_side(side, folder / side.kind)
    return folder
