"""Fine-tuning a published encoder: which blocks train, and low-rank adaptation of the attention.

Every encoder has a `stem` (what comes before its blocks) and `blocks`; both functions work on any of them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import tensorflow as tf

from tfrec.encoders.blocks import parts_of, projections_of
from tfrec.encoders.errors import EncoderError


def freeze(encoder: tf.keras.layers.Layer, train_last: int | None = 0) -> None:
    """Keep an encoder's weights as they are, but for its last blocks.

    Args:
        encoder: An image or text encoder.
        train_last: Number of blocks at the end that still train, with the final normalisation and projection behind
            them; 0 freezes everything, None nothing.

    Raises:
        EncoderError: The encoder has fewer blocks.
    """
    blocks = len(encoder.blocks)
    if train_last is not None and not 0 <= train_last <= blocks:
        raise EncoderError(
            f"train_last={train_last}, but {encoder.name} has {blocks} blocks; give 0 to {blocks} or None."
        )
    encoder.trainable = train_last != 0
    if train_last:
        for layer in [*encoder.stem, *encoder.blocks[: blocks - train_last]]:
            layer.trainable = False


def tune(encoder: tf.keras.layers.Layer, *, train_blocks: int | Literal["all"], lora_rank: int) -> None:
    """Let the last blocks of an encoder train, or low-rank updates instead, as the options of every system say it.

    Args:
        encoder: A built encoder.
        train_blocks: Blocks that train, from the last one back; 0 freezes the encoder, `all` trains it whole.
        lora_rank: Rank of trained updates to the attention (all else frozen); 0: none.

    Raises:
        EncoderError: The encoder has fewer blocks, or no attention for updates.
    """
    if lora_rank:
        add_lora(encoder, rank=lora_rank)
    else:
        freeze(encoder, train_last=None if train_blocks == "all" else train_blocks)


def freeze_statistics(encoder: tf.keras.layers.Layer) -> None:
    """Keep batch normalisations as they were published, statistics and scales: photos are then encoded alike whatever else
    is in their batch, its parts (`training.accumulate`) and the shares of workers.
    """
    for layer in encoder.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False  # in Keras that is inference mode, too


@tf.keras.utils.register_keras_serializable("tfrec")
class LoraProjection(tf.keras.layers.Layer):
    """A frozen attention projection plus a trained low-rank one (LoRA, Hu et al., arXiv:2106.09685).

    Args:
        frozen: The built projection, its kernel `[D, heads, D/heads]`.
        rank: Rank of the update.
        alpha: The update is scaled by alpha / rank.
    """

    def __init__(self, frozen: tf.keras.layers.Layer, rank: int, alpha: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.frozen, self.rank, self.alpha = frozen, rank, alpha
        frozen.trainable = False
        width, *heads = frozen.kernel.shape
        self.down = self.add_weight("lora_down", (width, rank), initializer=_down_initializer())
        # Zeros: the adapted encoder starts as the published one.
        self.up = self.add_weight("lora_up", (rank, *heads), initializer="zeros")

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Project tokens `[B, T, D]` to `[B, T, heads, D/heads]`."""
        low = tf.einsum("btd,dr->btr", tokens, tf.cast(self.down, tokens.dtype))
        update = tf.einsum("btr,rhk->bthk", low, tf.cast(self.up, tokens.dtype))
        return self.frozen(tokens) + update * tf.cast(self.alpha / self.rank, tokens.dtype)

    def merged(self) -> tf.keras.layers.Layer:
        """Add the update to the frozen kernel and return that projection."""
        update = tf.einsum("dr,rhk->dhk", self.down, self.up) * (self.alpha / self.rank)
        self.frozen.kernel.assign_add(update)
        return self.frozen

    def get_config(self) -> dict:
        """Return rank and alpha; the frozen projection belongs to the encoder, and `add_lora` puts both together."""
        return {**super().get_config(), "rank": self.rank, "alpha": self.alpha}


def add_lora(
    encoder: tf.keras.layers.Layer,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = ("query", "value"),
) -> None:
    """Freeze a transformer encoder and give its attention trained low-rank updates.

    The updates are part of the encoder's weights: to read a checkpoint of an adapted encoder, adapt it first.

    Args:
        encoder: A built transformer encoder.
        rank: Rank of the updates.
        alpha: The updates are scaled by alpha / rank; None: by 2, so that a rank does not change the rate they learn at.
        targets: Which projections: `query`, `key`, `value`.

    Raises:
        ValueError: A target is no such projection, or the encoder is adapted already.
        EncoderError: The encoder has no attention.
    """
    if not hasattr(encoder, "heads"):
        raise EncoderError(f"lora_rank={rank}: {encoder.name} is a ResNet, which has no attention; leave it at 0.")
    scale = 2.0 * rank if alpha is None else alpha
    unknown = sorted(set(targets) - {"query", "key", "value"})
    if unknown or not targets:
        raise ValueError(f"targets={list(targets)}: give one or more of query, key and value.")
    attentions = [parts_of(block).attention for block in encoder.blocks]
    if any(isinstance(layer, LoraProjection) for attention in attentions for _, layer in _inputs(attention)):
        raise ValueError(f"{encoder.name} has low-rank updates already; merge them first (merge_lora).")
    # A layer trains only if those around it do, so the way down to the projections stays open.
    encoder.trainable = True
    way = {id(layer) for layer in (*encoder.blocks, *attentions)}
    for layer in encoder.submodules:
        if isinstance(layer, tf.keras.layers.Layer) and id(layer) not in way:
            layer.trainable = False
    for attention in attentions:
        for name, layer in _inputs(attention):
            if name in targets:
                setattr(attention, f"_{name}_dense", LoraProjection(layer, rank, scale, name=f"{name}_lora"))


def merge_lora(encoder: tf.keras.layers.Layer) -> None:
    """Add the low-rank updates to the weights: the plain encoder again, with the same outputs."""
    for block in encoder.blocks:
        attention = parts_of(block).attention
        for name, layer in _inputs(attention):
            if isinstance(layer, LoraProjection):
                setattr(attention, f"_{name}_dense", layer.merged())


def _inputs(attention: tf.keras.layers.Layer) -> Iterator[tuple[str, tf.keras.layers.Layer]]:
    """Yield the projections of the attention's inputs: query, key, value."""
    return ((name, layer) for name, layer in projections_of(attention).items() if name != "output")


def _down_initializer() -> tf.keras.initializers.Initializer:
    """Return the initializer of the reference (PEFT's: uniform within one over the root of the width), a new one each time:
    one shared without a seed would repeat its values.
    """
    return tf.keras.initializers.VarianceScaling(1.0 / 3.0, mode="fan_in", distribution="uniform")
