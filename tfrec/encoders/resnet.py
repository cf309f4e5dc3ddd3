"""ResNet (He et al., arXiv:1512.03385) as an image encoder with the interface of the vision transformer.

Both published forms: v1.5, which strides in the 3x3 convolution (Hugging Face's `microsoft/resnet-50`), and v1, which
strides in the first 1x1 convolution (tf.keras.applications).
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrec.encoders.image import IMAGENET_MEAN, IMAGENET_STD, normalise_photos, pool_grid

ARGUMENTS = ("size", "depths", "widths", "stem_width", "stride_first", "bias", "epsilon", "mean", "std")


@tf.keras.utils.register_keras_serializable("tfrec")
class Bottleneck(tf.keras.layers.Layer):
    """1x1, 3x3 and 1x1 convolutions, each normalised, around a shortcut.

    Args:
        width: Channels that come out.
        stride: Stride of the block.
        shortcut: Whether the shortcut is a convolution (where stride or channels change).
        stride_first: Stride in the first convolution (v1) instead of the second (v1.5).
        bias: Whether convolutions have a bias.
        epsilon: Epsilon of the batch normalisations.
    """

    def __init__(
        self,
        width: int,
        *,
        stride: int = 1,
        shortcut: bool = False,
        stride_first: bool = False,
        bias: bool = False,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.width, self.stride, self.shortcut = width, stride, shortcut
        self.stride_first, self.bias, self.epsilon = stride_first, bias, epsilon
        first, second = (stride, 1) if stride_first else (1, stride)
        self.convolutions = [
            self._convolution(width // 4, 1, first),
            self._convolution(width // 4, 3, second),
            self._convolution(width, 1, 1),
        ]
        self.norms = [self._norm() for _ in range(3)]
        if shortcut:
            self.shortcut_convolution, self.shortcut_norm = self._convolution(width, 1, stride), self._norm()

    def _convolution(self, width: int, side: int, stride: int) -> tf.keras.layers.Layer:
        return tf.keras.layers.Conv2D(width, side, stride, use_bias=self.bias, dtype=self.dtype_policy)

    def _norm(self) -> tf.keras.layers.Layer:
        return tf.keras.layers.BatchNormalization(epsilon=self.epsilon, momentum=0.9, dtype=self.dtype_policy)

    def build(self, input_shape: tf.TensorShape | tuple[int | None, ...]) -> None:
        """Create the weights for maps `[B, H, W, C]`."""
        channels = input_shape[-1]
        for convolution, norm in zip(self.convolutions, self.norms):
            convolution.build((None, None, None, channels))
            channels = convolution.filters
            norm.build((None, None, None, channels))
        if self.shortcut:
            self.shortcut_convolution.build(input_shape)
            self.shortcut_norm.build((None, None, None, self.width))
        super().build(input_shape)

    def call(self, maps: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Apply the block: `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), width]`."""
        residual = maps
        if self.shortcut:
            residual = self.shortcut_norm(self.shortcut_convolution(maps), training=training)
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            # Padded by hand: "same" pads only one side where it strides, PyTorch both.
            padded = _pad(maps, 1) if convolution.kernel_size[0] == 3 else maps
            maps = norm(convolution(padded), training=training)
            maps = tf.nn.relu(maps) if number < 2 else maps
        return tf.nn.relu(maps + residual)

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        names = ("width", "stride", "shortcut", "stride_first", "bias", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@tf.keras.utils.register_keras_serializable("tfrec")
class ResNetEncoder(tf.keras.layers.Layer):
    """Photos to the mean of the last map, as the first token, and one token per cell of the map.

    Args:
        size: Height and width of the photos in pixels, or one number for both.
        depths: Blocks of each stage.
        widths: Channels of each stage.
        stem_width: Channels of the first convolution.
        stride_first: Stride in a block's first convolution (v1) instead of its second (v1.5).
        bias: Whether convolutions have a bias, as in tf.keras.applications.
        epsilon: Epsilon of the batch normalisations.
        mean: Channel means of the photos after division by 255.
        std: Channel standard deviations of the photos after division by 255.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int] = 224,
        depths: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (256, 512, 1024, 2048),
        stem_width: int = 64,
        stride_first: bool = False,
        bias: bool = False,
        epsilon: float = 1e-5,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ):
        # Autocast would round float photos to the compute type before they are normalised.
        super().__init__(autocast=False, **kwargs)
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.depths, self.widths, self.stem_width = tuple(depths), tuple(widths), stem_width
        self.stride_first, self.bias, self.epsilon = stride_first, bias, epsilon
        self.mean, self.std = tuple(mean), tuple(std)
        self._add_layers()

    def _add_layers(self) -> None:
        """Create the layers, unbuilt; the first block of a stage has a convolution on its shortcut."""
        common = {"dtype": self.dtype_policy}
        self.stem_convolution = tf.keras.layers.Conv2D(self.stem_width, 7, 2, use_bias=self.bias, **common)
        self.stem_norm = tf.keras.layers.BatchNormalization(epsilon=self.epsilon, momentum=0.9, **common)
        self.blocks = [
            Bottleneck(
                width,
                stride=2 if number == 0 and stage > 0 else 1,
                shortcut=number == 0,
                stride_first=self.stride_first,
                bias=self.bias,
                epsilon=self.epsilon,
                name=f"stage_{stage}_block_{number}",
                **common,
            )
            for stage, (depth, width) in enumerate(zip(self.depths, self.widths))
            for number in range(depth)
        ]

    @property
    def stem(self) -> list[tf.keras.layers.Layer]:
        """The layers before the blocks."""
        return [self.stem_convolution, self.stem_norm]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last map."""
        stride = 2 ** (1 + len(self.depths))
        return -(-self.size[0] // stride), -(-self.size[1] // stride)

    @property
    def tokens(self) -> int:
        """Number of tokens of a photo: the mean and the cells."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def dim(self) -> int:
        """Width of the tokens."""
        return self.widths[-1]

    @property
    def output_dim(self) -> int:
        """Width of what `pooled` returns."""
        return self.dim

    def build(self, input_shape: tf.TensorShape | None) -> None:
        """Create all weights, so that published ones can be assigned before the first call."""
        self.stem_convolution.build((None, *self.size, 3))
        self.stem_norm.build((None, None, None, self.stem_width))
        channels = self.stem_width
        for block in self.blocks:
            block.build((None, None, None, channels))
            channels = block.width
        super().build(input_shape)

    def call(self, photos: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Encode photos `[B, H, W, 3]`, uint8 or float in 0..255, to tokens `[B, 1 + cells, D]`, the mean first."""
        photos = normalise_photos(photos, self.size, self.mean, self.std, self.compute_dtype)
        maps = self.stem_norm(self.stem_convolution(_pad(photos, 3)), training=training)
        # After the rectifier nothing is below zero, so that zeros can pad the pooling.
        maps = tf.nn.max_pool2d(_pad(tf.nn.relu(maps), 1), 3, 2, "VALID")
        for block in self.blocks:
            maps = block(maps, training=training)
        cells = tf.reshape(maps, [-1, self.tokens - 1, self.dim])
        return tf.concat([tf.reduce_mean(cells, axis=1, keepdims=True), cells], axis=1)

    def pooled(self, tokens: tf.Tensor) -> tf.Tensor:
        """Return one vector a photo `[B, D]`: the mean, the first token."""
        return tokens[:, 0]

    def pool_patches(self, tokens: tf.Tensor, factor: int = 2) -> tf.Tensor:
        """Average cells over `factor` x `factor` squares; the first token stays (see `pool_grid`)."""
        return pool_grid(tokens, self.grid, factor)

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), **{name: getattr(self, name) for name in ARGUMENTS}}


def _pad(maps: tf.Tensor, border: int) -> tf.Tensor:
    """Pad maps `[B, H, W, C]` with zeros on all four sides."""
    return tf.pad(maps, [[0, 0], [border, border], [border, border], [0, 0]])
