"""The text encoder: BERT (Devlin et al., arXiv:1810.04805) of KerasNLP's bricks, from ids to tokens.

Its tokenizer, its pooling and CLIP's text tower have files of their own and are imported here.
"""

from typing import Any

import tensorflow as tf

from pipelines import keras_packages
from tfrec.encoders.activations import activation as activation_named
from tfrec.encoders.blocks import bert_initializer, build, build_block
from tfrec.encoders.clip_text import ClipTextEncoder
from tfrec.encoders.clip_tokenizer import ClipTokenizer
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.flat import FlatBlock, additive, over_heads, run_blocks, runs_flat
from tfrec.encoders.pooling import SentencePooling
from tfrec.encoders.wordpiece import WordPiece, read_vocabulary, train_vocabulary

__all__ = [
    "BertEncoder",
    "ClipTextEncoder",
    "ClipTokenizer",
    "SentencePooling",
    "WordPiece",
    "read_vocabulary",
    "train_vocabulary",
]

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
    "segments",
    "pad_id",
)


@tf.keras.utils.register_keras_serializable("tfrec")
class BertEncoder(tf.keras.layers.Layer):
    """WordPiece ids to one token each: BERT, post-norm, as published.

    Args:
        vocabulary_size: Number of ids.
        dim: Width of the tokens (D).
        layers: Number of transformer blocks.
        heads: Attention heads; divides `dim`.
        mlp_dim: Hidden width of the feed-forward part; 4 x dim when not given.
        max_length: Most ids per text, the number of position embeddings.
        dropout: Dropout rate of embeddings, attention and feed-forward.
        activation: `gelu` (published BERTs), `gelu_tanh` (KerasNLP's presets) or `quick_gelu`.
        epsilon: Epsilon of every layer normalisation.
        segments: Number of segment embeddings; a text is always segment 0.
        pad_id: Id of `[PAD]`.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        dim: int,
        layers: int,
        heads: int,
        mlp_dim: int | None = None,
        max_length: int = 512,
        dropout: float = 0.1,
        activation: str = "gelu",
        epsilon: float = 1e-12,
        segments: int = 2,
        pad_id: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if dim % heads:
            raise EncoderError(f"dim={dim} is not a multiple of heads={heads}; change one of them.")
        self.vocabulary_size, self.dim, self.layers, self.heads = vocabulary_size, dim, layers, heads
        self.mlp_dim, self.max_length = mlp_dim or 4 * dim, max_length
        self.dropout, self.activation, self.epsilon = dropout, activation, epsilon
        self.segments, self.pad_id = segments, pad_id
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
        self.segment_embedding = tf.keras.layers.Embedding(
            self.segments,
            self.dim,
            embeddings_initializer=bert_initializer(),
            name="segment_embedding",
            **common,
        )
        self.layer_norm = tf.keras.layers.LayerNormalization(epsilon=self.epsilon, name="layer_norm", **common)
        self.embedding_dropout = tf.keras.layers.Dropout(self.dropout, name="embedding_dropout", **common)
        self.blocks = [
            keras_packages.keras_nlp.layers.TransformerEncoder(
                self.mlp_dim,
                self.heads,
                dropout=self.dropout,
                activation=activation_named(self.activation),
                layer_norm_epsilon=self.epsilon,
                kernel_initializer=bert_initializer(),
                name=f"block_{number}",
                **common,
            )
            for number in range(self.layers)
        ]

    @property
    def stem(self) -> list[tf.keras.layers.Layer]:
        """The layers before the blocks."""
        return [self.token_embedding, self.position_embedding, self.segment_embedding, self.layer_norm]

    @property
    def output_dim(self) -> int:
        """Width of the tokens."""
        return self.dim

    def build(self, input_shape: tf.TensorShape | None) -> None:
        """Create all weights, so that published ones can be assigned before the first call."""
        for layer in self.stem:
            build(layer, (None, None, self.dim))
        for block in self.blocks:
            build_block(block, self.dim)
        super().build(input_shape)

    def call(
        self, token_ids: tf.Tensor, training: bool | None = None, held: list[FlatBlock] | None = None
    ) -> tf.Tensor:
        """Encode texts.

        Args:
            token_ids: `[B, T]` int32, T at most `max_length`.
            training: Whether dropout applies.
            held: The encoder's `flat.held_blocks`, for a catalogue; its weights as they are where None.

        Returns:
            Tokens `[B, T, D]`; those where `mask(token_ids)` is false mean nothing.
        """
        return self.layer_tokens(token_ids, training, held)[-1]

    def layer_tokens(
        self, token_ids: tf.Tensor, training: bool | None = None, held: list[FlatBlock] | None = None
    ) -> list[tf.Tensor]:
        """Return the tokens `[B, T, D]` before the first and after each block, for studies by layer."""
        if not self.built:
            self.build(None)
        mask = self.mask(token_ids)
        tokens = self.token_embedding(token_ids)
        tokens += self.position_embedding(tokens) + self.segment_embedding(tf.zeros([1, 1], tf.int32))
        states = [self.embedding_dropout(self.layer_norm(tokens), training=training)]
        if held is not None or runs_flat(self, training):
            masks = additive(over_heads(mask))
            return states + run_blocks(self, states[0], masks, training=training, held=held)
        for block in self.blocks:
            states.append(block(states[-1], padding_mask=mask, training=training))
        return states

    def mask(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Return which ids `[B, T]` are not padding."""
        return tf.not_equal(token_ids, self.pad_id)

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), **{name: getattr(self, name) for name in ARGUMENTS}}
