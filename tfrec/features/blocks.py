"""Texts and photos through a frozen encoder, a block at a time, in an order that all who encode them agree on."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from pipelines.batches import make_dataset
from pipelines.content import PhotoBytes
from pipelines.prepared import Prepared
from tfrec.cores import in_order
from tfrec.encoders.flat import held_blocks
from tfrec.encoders.sides import ImageSide, Side, TextSide
from tfrec.features.store import FeatureError

BUCKET = 8  # texts are padded to a multiple of so many ids
TEXT_BATCH, IMAGE_BATCH = 64, 32

Block = tuple[np.ndarray, dict[str, np.ndarray]]  # places among the contents, and their features by name


class TextBlocks:
    """Texts, long ones first, padded little: neighbours in this order are of one length.

    Args:
        side: the encoder.
        texts: M texts.
        batch: texts a block; 64 where None.
        tokens: give tokens and mask beside the vectors.
        calls: blocks encoded side by side.
    """

    def __init__(self, side: TextSide, texts: Sequence[str], *, batch: int | None, tokens: bool, calls: int = 1):
        self.tokens, self.batch, self.calls = tokens, batch or TEXT_BATCH, calls
        parts = [side.tokenizer(list(texts[i : i + 4096])).numpy() for i in range(0, len(texts), 4096)]
        self.ids = np.concatenate(parts)
        self.lengths = side.encoder.mask(tf.constant(self.ids)).numpy().sum(1)
        self.order = np.argsort(-self.lengths, kind="stable")
        self.blocks = held_blocks(side.encoder)

        def encode(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return side.encode(ids, self.blocks)

        signature = [tf.TensorSpec([None, None], tf.int32)]
        self.encode = tf.function(encode, autograph=False, input_signature=signature)

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, start: int, stop: int) -> Iterator[Block]:
        """The blocks of the texts from `start` to `stop` in the order."""
        cuts = (self.order[first : min(first + self.batch, stop)] for first in range(start, stop, self.batch))
        yield from in_order(self._block, cuts, self.calls)

    def _block(self, places: np.ndarray) -> Block:
        width, longest = self.ids.shape[1], int(self.lengths[places].max())
        trimmed = min(width, -(-longest // BUCKET) * BUCKET)
        tokens, seen, vectors = self.encode(tf.constant(self.ids[places, :trimmed]))
        features = {"vectors": vectors.numpy()}
        if self.tokens:
            padding = [[0, 0], [0, width - trimmed]]
            features["tokens"] = np.pad(tokens.numpy(), [*padding, [0, 0]])
            features["mask"] = np.pad(seen.numpy(), padding)
        return places, features


class PhotoBlocks:
    """Photos in the order of their items, decoded ahead of the encoder.

    Args:
        side: the encoder.
        prepared: the dataset.
        items: the M items whose first photos they are.
        batch: photos a block; 32 where None.
        tokens: give tokens beside the vectors.
        pool: average patch tokens over squares of this side.
        calls: blocks encoded side by side.
    """

    def __init__(
        self,
        side: ImageSide,
        prepared: Prepared,
        items: np.ndarray,
        *,
        batch: int | None,
        tokens: bool,
        pool: int,
        calls: int = 1,
    ):
        self.items, self.tokens, self.batch, self.calls = items, tokens, batch or IMAGE_BATCH, calls
        self.size = side.encoder.size
        self.photos, self.blocks = PhotoBytes(prepared), held_blocks(side.encoder)

        def encode(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return side.encode(pixels, tf.ones([tf.shape(pixels)[0]], tf.bool), pool, self.blocks)

        signature = [tf.TensorSpec([None, *self.size, 3], tf.uint8)]
        self.encode = tf.function(encode, autograph=False, input_signature=signature)

    def __len__(self) -> int:
        return len(self.items)

    def __call__(self, start: int, stop: int) -> Iterator[Block]:
        """The blocks of the photos from `start` to `stop`."""

        def read(step: int) -> dict:
            places = np.arange(start + step * self.batch, min(start + (step + 1) * self.batch, stop))
            return {"places": places, "items": {"photo_bytes": self.photos.read(self.items[places])}}

        steps = -(-(stop - start) // self.batch)
        batches = make_dataset(read, 0, steps, photo_size=self.size) if steps > 0 else ()
        yield from in_order(self._block, batches, self.calls)

    def _block(self, batch: dict) -> Block:
        tokens, vectors = self.encode(batch["items"]["photos"])
        features = {"vectors": vectors.numpy()}
        if self.tokens:
            features["tokens"] = tokens.numpy()
        return batch["places"].numpy(), features


def blocks_of(
    side: Side, prepared: Prepared, items: np.ndarray, *, batch: int | None, tokens: bool, pool: int, calls: int = 1
) -> TextBlocks | PhotoBlocks:
    """The texts or the photos of `items` int64 `[M]`, by the side's kind."""
    if isinstance(side, TextSide):
        return TextBlocks(side, list(prepared.items["text"].to_numpy()[items]), batch=batch, tokens=tokens, calls=calls)
    return PhotoBlocks(side, prepared, items, batch=batch, tokens=tokens, pool=pool, calls=calls)


def checked(values: np.ndarray, side: Side) -> np.ndarray:
    """Values in float16, once it is known that it can hold them.

    Raises:
        FeatureError: they are not finite, or too large.
    """
    if values.dtype == np.bool_:
        return values
    values = values.astype(np.float16)
    if not np.isfinite(values).all():
        raise FeatureError(
            f"{side.source}: the encoder gave values that are not finite or beyond float16; encode in float32 "
            "(--precision float32), and check the weights"
        )
    return values
