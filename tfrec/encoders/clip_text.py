"""CLIP's text tower (Radford et al., arXiv:2103.00020) of KerasNLP's bricks, from ids to tokens."""

from typing import Any

import tensorflow as tf

from pipelines import keras_packages
from tfrec.encoders.activations import activation as activation_named
from tfrec.encoders.blocks import bert_initializer, build, build_block
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.flat import FlatBlock, additive, over_heads, run_blocks, runs_flat

ARGUMENTS = (
    "vocabulary_size",
    "dim",
    "layers",
    "heads",
    "mlp_dim",
    "max_length",
    "dropout",
    "activation",
    "epsilon",
    "end_id",
)


@tf.keras.utils.register_keras_serializable("tfrec")
class ClipTextEncoder(tf.keras.layers.Layer):
    """CLIP's byte-pair ids to one token each: a causal, pre-norm transformer, the final normalisation
    applied.

    A text's vector is its `last` token (see `SentencePooling`), which has seen all the others.

    Args:
        vocabulary_size: Number of ids.
        dim: Width of the tokens (D).
        layers: Number of transformer blocks.
        heads: Attention heads; divides `dim`.
        mlp_dim: Hidden width of the feed-forward part; 4 x dim when not given.
        max_length: Most ids per text, the number of position embeddings.
        dropout: Dropout rate of the attention and feed-forward parts.
        activation: `quick_gelu` (OpenAI's CLIP) or `gelu` (LAION's).
        epsilon: Epsilon of every layer normalisation.
        end_id: Id of `<|endoftext|>`; what follows its first occurrence is padding.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        dim: int,
        layers: int,
        heads: int,
        end_id: int,
        mlp_dim: int | None = None,
        max_length: int = 77,
        dropout: float = 0.0,
        activation: str = "quick_gelu",
        epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if dim % heads:
            raise EncoderError(f"dim={dim} is not a multiple of heads={heads}; change one of them.")
        self.vocabulary_size, self.dim, self.layers, self.heads = vocabulary_size, dim, layers, heads
        self.mlp_dim, self.max_length, self.end_id = mlp_dim or 4 * dim, max_length, end_id
        self.dropout, self.activation, self.epsilon = dropout, activation, epsilon
        self._add_bricks()

    def _add_bricks(self) -> None:
        """Create the KerasNLP layers, unbuilt."""
        common = {"dtype": self.dtype_policy}
        self.token_embedding = tf.keras.layers.Embedding(
            self.vocabulary_size,
            self.dim,
            embeddings_initializer=bert_initializer(),
            name="token_embedding",
            **common,
        )
        self.position_embedding = keras_packages.keras_nlp.layers.PositionEmbedding(
            self.max_length, initializer=bert_initializer(), name="position_embedding", **common
        )
        self.blocks = [
            keras_packages.keras_nlp.layers.TransformerEncoder(
                self.mlp_dim,
                self.heads,
                dropout=self.dropout,
                activation=activation_named(self.activation),
                layer_norm_epsilon=self.epsilon,
                kernel_initializer=bert_initializer(),
                normalize_first=True,
                name=f"block_{number}",
                **common,
            )
            for number in range(self.layers)
        ]
        self.layer_norm = tf.keras.layers.LayerNormalization(epsilon=self.epsilon, name="layer_norm", **common)

    @property
    def stem(self) -> list[tf.keras.layers.Layer]:
        """The layers before the blocks."""
        return [self.token_embedding, self.position_embedding]

    @property
    def output_dim(self) -> int:
        """Width of the tokens."""
        return self.dim

    def build(self, input_shape: tf.TensorShape | None) -> None:
        """Create all weights, so that published ones can be assigned before the first call."""
        for layer in (*self.stem, self.layer_norm):
            build(layer, (None, None, self.dim))
        for block in self.blocks:
            build_block(block, self.dim)
        super().build(input_shape)

    def call(
        self, token_ids: tf.Tensor, training: bool | None = None, held: list[FlatBlock] | None = None
    ) -> tf.Tensor:
        """Encode ids `[B, T]` int32, T at most `max_length`: tokens `[B, T, D]`; `held` as in `BertEncoder.call`."""
        return self.layer_norm(self.layer_tokens(token_ids, training, held)[-1])

    def layer_tokens(
        self, token_ids: tf.Tensor, training: bool | None = None, held: list[FlatBlock] | None = None
    ) -> list[tf.Tensor]:
        """Return the tokens `[B, T, D]` before the first and after each block, for studies by layer."""
        if not self.built:
            self.build(None)
        mask = self.mask(token_ids)
        length = tf.shape(token_ids)[1]
        causal = tf.linalg.band_part(tf.ones([1, length, length], tf.int32), -1, 0)
        tokens = self.token_embedding(token_ids)
        states = [tokens + self.position_embedding(tokens)]
        if held is not None or runs_flat(self, training):
            masks = additive(tf.expand_dims(causal > 0, 1) & over_heads(mask))
            return states + run_blocks(self, states[0], masks, training=training, held=held)
        for block in self.blocks:
            states.append(block(states[-1], padding_mask=mask, attention_mask=causal, training=training))
        return states

    def mask(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Return which ids `[B, T]` stand no later than the first `<|endoftext|>`."""
        ends = tf.cast(tf.equal(token_ids, self.end_id), tf.int32)
        return tf.equal(tf.cumsum(ends, axis=1, exclusive=True), 0)

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), **{name: getattr(self, name) for name in ARGUMENTS}}
