"""The image encoder: a vision transformer of KerasCV's public bricks, from photos in 0..255 to tokens.

ViT (Dosovitskiy et al., arXiv:2010.11929), CLIP's image tower (Radford et al., arXiv:2103.00020) and DINOv2
(Oquab et al., arXiv:2304.07193) are the same bricks with other statistics, activation and pooling;
`checkpoints` fills them with the published weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines import keras_packages
from tfrec.encoders.activations import activation as activation_named
from tfrec.encoders.blocks import build, build_block
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.flat import FlatBlock, run_blocks, runs_flat
from tfrec.encoders.stem import ConvolutionStem

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
POOLINGS = ("class", "mean", "class_mean")
ARGUMENTS = (
    "size",
    "patch",
    "dim",
    "layers",
    "heads",
    "mlp_dim",
    "dropout",
    "mean",
    "std",
    "pre_norm",
    "activation",
    "epsilon",
    "pooling",
    "projection_dim",
    "stem_convolutions",
    "stem_pooling",
)


@tf.keras.utils.register_keras_serializable("tfrec")
class ViTEncoder(tf.keras.layers.Layer):
    """Photos to a class token and one token per patch, the final layer normalisation applied.

    The bricks follow the global mixed-precision policy, as KerasCV's layers do.

    Args:
        size: Height and width of the photos in pixels, or one number for both.
        patch: Side of a patch in pixels; divides both sides of the photo.
        dim: Width of the tokens (D).
        layers: Number of transformer blocks.
        heads: Attention heads; divides `dim`.
        mlp_dim: Hidden width of the feed-forward part; 4 x dim when not given.
        dropout: Dropout rate of attention and feed-forward.
        mean: Channel means of the photos after division by 255.
        std: Channel standard deviations of the photos after division by 255.
        pre_norm: Normalise the embedded patches before the first block, as CLIP does.
        activation: `gelu`, `gelu_tanh` or `quick_gelu`.
        epsilon: Epsilon of every layer normalisation.
        pooling: What `pooled` returns: the `class` token, the `mean` of the patch tokens, or both end to end
            (`class_mean`, as DINOv2's linear probes use).
        projection_dim: Width of a linear projection after pooling, without a bias, as CLIP has; none when not
            given.
        stem_convolutions: Convolutions before the patches, each halving the photo: a patch of 8 pixels is then cut
            from what three of them leave as one of 1 x 1. None of the published encoders has them; they make small
            encoders learn faster from few photos.
        stem_pooling: Pool after them instead of striding in them, see `ConvolutionStem`.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        patch: int,
        dim: int,
        layers: int,
        heads: int,
        mlp_dim: int | None = None,
        dropout: float = 0.0,
        mean: Sequence[float] = HALF,
        std: Sequence[float] = HALF,
        pre_norm: bool = False,
        activation: str = "gelu",
        epsilon: float = 1e-6,
        pooling: str = "class",
        projection_dim: int | None = None,
        stem_convolutions: int = 0,
        stem_pooling: bool = False,
        **kwargs: Any,
    ):
        # Autocast would round float photos to the compute type before they are normalised.
        super().__init__(autocast=False, **kwargs)
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.patch, self.dim, self.layers, self.heads = patch, dim, layers, heads
        self.mlp_dim = mlp_dim or 4 * dim
        self.dropout, self.epsilon = dropout, epsilon
        self.mean, self.std = tuple(mean), tuple(std)
        self.pre_norm, self.activation = pre_norm, activation
        self.pooling, self.projection_dim = pooling, projection_dim
        self.stem_convolutions, self.stem_pooling = stem_convolutions, stem_pooling
        self._check()
        self._add_bricks()

    def _check(self) -> None:
        """Refuse sizes that the bricks would accept and get wrong (EncoderError)."""
        if self.size[0] % self.patch or self.size[1] % self.patch:
            raise EncoderError(f"size={self.size} is not a multiple of patch={self.patch}; change one of them.")
        if self.patch % 2**self.stem_convolutions:
            raise EncoderError(
                f"stem_convolutions={self.stem_convolutions} halve patch={self.patch} too often; lower them, or raise patch."
            )
        if self.dim % self.heads:
            raise EncoderError(f"dim={self.dim} is not a multiple of heads={self.heads}; change one of them.")
        if self.pooling not in POOLINGS:
            raise EncoderError(f"pooling={self.pooling!r} is not known; choose one of {POOLINGS}.")

    def _add_bricks(self) -> None:
        """Create the KerasCV layers, unbuilt."""
        halvings = self.stem_convolutions
        self.convolutions = None
        if halvings:
            self.convolutions = ConvolutionStem(self.dim, halvings, pooled=self.stem_pooling, name="stem")
        self.embedding = keras_packages.keras_cv.layers.PatchingAndEmbedding(
            self.dim, self.patch // 2**halvings, name="embedding"
        )
        self.pre_layer_norm = self._layer_norm("pre_layer_norm") if self.pre_norm else None
        self.blocks = [
            keras_packages.keras_cv.layers.TransformerEncoder(
                project_dim=self.dim,
                num_heads=self.heads,
                mlp_dim=self.mlp_dim,
                mlp_dropout=self.dropout,
                attention_dropout=self.dropout,
                activation=activation_named(self.activation),
                layer_norm_epsilon=self.epsilon,
                name=f"block_{number}",
            )
            for number in range(self.layers)
        ]
        self.layer_norm = self._layer_norm("layer_norm")
        self.projection = None
        if self.projection_dim:
            self.projection = tf.keras.layers.Dense(self.projection_dim, use_bias=False, name="projection")

    def _layer_norm(self, name: str) -> tf.keras.layers.Layer:
        return tf.keras.layers.LayerNormalization(epsilon=self.epsilon, name=name)

    @property
    def stem(self) -> list[tf.keras.layers.Layer]:
        """The layers before the blocks."""
        return [*filter(None, [self.convolutions]), self.embedding, *filter(None, [self.pre_layer_norm])]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def tokens(self) -> int:
        """Number of tokens of a photo: the class token and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled vector before the projection."""
        return 2 * self.dim if self.pooling == "class_mean" else self.dim

    @property
    def output_dim(self) -> int:
        """Width of what `pooled` returns."""
        return self.projection_dim or self.pooled_dim

    def build(self, input_shape: tf.TensorShape | None) -> None:
        """Create all weights, so that published ones can be assigned before the first call."""
        photos = (None, *self.size, 3)
        if self.convolutions is not None:
            build(self.convolutions, photos)
            photos = self.convolutions.compute_output_shape(photos)
        build(self.embedding, photos)
        build(self.embedding.projection, photos)
        build(self.embedding.position_embedding, None)
        for norm in filter(None, (self.pre_layer_norm, self.layer_norm)):
            build(norm, (None, None, self.dim))
        for block in self.blocks:
            build_block(block, self.dim)
        if self.projection is not None:
            build(self.projection, (None, self.pooled_dim))
        super().build(input_shape)

    def call(self, photos: tf.Tensor, training: bool | None = None, held: list[FlatBlock] | None = None) -> tf.Tensor:
        """Encode photos.

        Args:
            photos: `[B, H, W, 3]`, uint8 or float, in 0..255.
            training: Whether dropout applies, and a pooled stem takes the batch's statistics.
            held: The encoder's `flat.held_blocks`, for a catalogue; its weights as they are where None.

        Returns:
            Tokens `[B, 1 + H/patch * W/patch, D]`, the class token first.
        """
        return self.layer_norm(self.layer_tokens(photos, training, held)[-1])

    def layer_tokens(
        self, photos: tf.Tensor, training: bool | None = None, held: list[FlatBlock] | None = None
    ) -> list[tf.Tensor]:
        """Return the tokens `[B, N, D]` before the first and after each block, for studies by layer."""
        states = [self.embed(photos, training=training)]
        if held is not None or runs_flat(self, training):
            return states + run_blocks(self, states[0], training=training, held=held)
        for block in self.blocks:
            states.append(block(states[-1], training=training))
        return states

    def embed(self, photos: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Normalise photos `[B, H, W, 3]` and embed their patches: `[B, N, D]`; `training` as in `call`."""
        if not self.built:
            self.build(None)
        photos = normalise_photos(photos, self.size, self.mean, self.std, self.compute_dtype)
        if self.convolutions is not None:
            photos = self.convolutions(photos, training=training)
        patches = self.embedding.projection(photos)  # (B, rows, columns, D)
        batch = tf.shape(patches)[0]
        patches = tf.reshape(patches, [batch, self.tokens - 1, self.dim])
        class_token = tf.cast(self.embedding.class_token, patches.dtype)
        class_token = tf.broadcast_to(class_token, [batch, 1, self.dim])
        positions = self.embedding.position_embedding(tf.range(self.tokens))
        tokens = tf.concat([class_token, patches], axis=1) + tf.cast(positions, patches.dtype)
        return self.pre_layer_norm(tokens) if self.pre_layer_norm is not None else tokens

    def pooled(self, tokens: tf.Tensor) -> tf.Tensor:
        """Return one vector a photo `[B, output_dim]` from tokens `[B, N, D]`, projected if CLIP does."""
        if self.pooling == "class":
            vector = tokens[:, 0]
        else:
            # A sum of hundreds in half precision loses what is added last.
            vector = tf.cast(tf.reduce_mean(tf.cast(tokens[:, 1:], tf.float32), axis=1), tokens.dtype)
            if self.pooling == "class_mean":
                vector = tf.concat([tokens[:, 0], vector], axis=-1)
        return vector if self.projection is None else self.projection(vector)

    def pool_patches(self, tokens: tf.Tensor, factor: int = 2) -> tf.Tensor:
        """Average patch tokens over `factor` x `factor` squares; the class token stays (see `pool_grid`)."""
        return pool_grid(tokens, self.grid, factor)

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), **{name: getattr(self, name) for name in ARGUMENTS}}


def normalise_photos(
    photos: tf.Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], dtype: str
) -> tf.Tensor:
    """Bring photos `[B, H, W, 3]` in 0..255 to an encoder's statistics, in float32, then to the compute type.

    Raises:
        ValueError: The photos are of another size than the encoder was built for.
    """
    height, width = photos.shape[1], photos.shape[2]
    if (height is not None and height != size[0]) or (width is not None and width != size[1]):
        raise ValueError(
            f"photos are {height} x {width} pixels, but the encoder was built for {size}; resize the photos, or load "
            "the encoder with that size (position embeddings are interpolated)."
        )
    photos = tf.cast(tf.ensure_shape(photos, [None, *size, 3]), tf.float32)
    return tf.cast((photos / 255.0 - tf.constant(mean)) / tf.constant(std), dtype)


def pool_grid(tokens: tf.Tensor, grid: tuple[int, int], factor: int) -> tf.Tensor:
    """Average the tokens of a grid over squares; the first token, which is not of the grid, stays.

    Args:
        tokens: `[B, 1 + rows * columns, D]`.
        grid: Rows and columns.
        factor: Side of a square; an incomplete square at the edge is the mean of what it has.

    Returns:
        `[B, 1 + ceil(rows / factor) * ceil(columns / factor), D]`.
    """
    if factor == 1:
        return tokens
    dim, rows, columns = tokens.shape[-1], -(-grid[0] // factor), -(-grid[1] // factor)
    # Padded at the end only, where avg_pool2d's "SAME" would shift the squares.
    padding = [[0, 0], [0, rows * factor - grid[0]], [0, columns * factor - grid[1]], [0, 0]]
    maps = tf.pad(tf.reshape(tokens[:, 1:], [-1, *grid, dim]), padding)
    sums = tf.reduce_sum(tf.reshape(maps, [-1, rows, factor, columns, factor, dim]), axis=[2, 4])
    sides = [np.minimum(factor, size - factor * np.arange(-(-size // factor))) for size in grid]
    counts = tf.constant(np.outer(*sides)[..., None], sums.dtype)  # (rows, columns, 1)
    return tf.concat([tokens[:, :1], tf.reshape(sums / counts, [-1, rows * columns, dim])], axis=1)
