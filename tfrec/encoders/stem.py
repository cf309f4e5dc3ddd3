"""Convolutions before the patches of a small vision transformer."""

from typing import Any, TypeAlias

import tensorflow as tf

from tfrec.encoders.blocks import build

Photos: TypeAlias = tf.TensorShape | tuple[int | None, int, int, int]  # the shape `[B, H, W, 3]`


class ConvolutionStem(tf.keras.layers.Layer):
    """3 x 3 convolutions, each halving the photo, in place of one large projection of a patch.

    They share what they learn between places, which a small transformer would have to learn from many photos.

    Strided ones (Xiao et al. 2021, arXiv:2106.14881, who normalise over the batch) are normalised over the channels, then
    GELU. Pooled ones are the tokenizer of Compact Convolutional Transformers (Hassani et al. 2021, arXiv:2104.05704),
    convolutions of stride 1 with 2 x 2 max pooling and ReLU, here normalised over the batch; they see every pixel, for
    about four times the work.

    Args:
        dim: Channels of the last one (D); each before it has half as many.
        halvings: How many.
        pooled: Pool instead of striding.
    """

    def __init__(self, dim: int, halvings: int, *, pooled: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.halvings, self.pooled = halvings, pooled
        self.channels = [max(8, dim // 2**left) for left in reversed(range(halvings))]
        self.layers = [(self._convolution(number), self._norm(number)) for number in range(halvings)]

    def _convolution(self, number: int) -> tf.keras.layers.Layer:
        # A batch normalisation has a bias of its own, and wants ReLU's initialisation.
        kind = {"use_bias": False, "kernel_initializer": "he_normal"} if self.pooled else {"strides": 2}
        name = f"convolution_{number}"
        return tf.keras.layers.Conv2D(self.channels[number], 3, padding="same", name=name, **kind)

    def _norm(self, number: int) -> tf.keras.layers.Layer:
        if self.pooled:
            return tf.keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"norm_{number}")
        return tf.keras.layers.LayerNormalization(epsilon=1e-6, name=f"norm_{number}")

    def build(self, input_shape: Photos) -> None:
        """Create all weights for photos `[B, H, W, 3]`."""
        shape = tuple(input_shape)
        for number, (convolution, norm) in enumerate(self.layers):
            build(convolution, shape)
            shape = self._after(input_shape, number + 1)
            build(norm, shape)
        super().build(input_shape)

    def call(self, photos: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """`[B, H, W, 3]` to `[B, H / 2^n, W / 2^n, D]`; in training, pooled ones take the batch's statistics."""
        for convolution, norm in self.layers:
            photos = convolution(photos)
            if self.pooled:  # before the norm, where a quarter of the work is left
                photos = tf.nn.relu(norm(tf.nn.max_pool2d(photos, 2, 2, "VALID"), training=training))
            else:
                photos = tf.nn.gelu(norm(photos))
        return photos

    def compute_output_shape(self, input_shape: Photos) -> tuple:
        """The shape of what `call` returns."""
        return self._after(input_shape, self.halvings)

    def _after(self, shape: Photos, number: int) -> tuple:
        return (shape[0], *(side // 2**number for side in shape[1:3]), self.channels[number - 1])
