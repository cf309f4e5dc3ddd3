"""The text encoders: WordPiece ids and BERT (Devlin et al., arXiv:1810.04805), of KerasNLP's bricks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import keras_nlp
import tensorflow as tf
from keras_nlp.src.tokenizers.word_piece_tokenizer import pretokenize
from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib as learner

from tfrec.encoders.activations import activation as activation_named

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNKNOWN, CLS, SEP, MASK)


class WordPiece:
    """Texts to WordPiece ids `[CLS] ... [SEP] [PAD] ...`, as a layer that also runs inside a graph or SavedModel.

    Args:
        vocabulary: Tokens in the order of their ids; holds the special tokens.
        sequence_length: Ids per text (T); longer texts are cut, the last id is then still `[SEP]`.
        lowercase: Fold case, as uncased models do.
        strip_accents: Drop accents; by default when `lowercase`, as BERT does.
        split_cjk: Treat each Chinese character as a word, as BERT does.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        sequence_length: int = 64,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_cjk: bool = True,
    ):
        missing = [token for token in SPECIAL_TOKENS[:4] if token not in vocabulary]
        if missing:
            raise ValueError(f"vocabulary has no {missing}; a WordPiece vocabulary holds {SPECIAL_TOKENS}.")
        self.vocabulary = tuple(vocabulary)
        self.sequence_length, self.lowercase, self.split_cjk = sequence_length, lowercase, split_cjk
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id = map(
            self.vocabulary.index, SPECIAL_TOKENS[:4]
        )
        self._tokenizer = keras_nlp.tokenizers.WordPieceTokenizer(
            vocabulary=list(vocabulary),
            lowercase=lowercase,
            strip_accents=self.strip_accents,
            split_on_cjk=split_cjk,
            oov_token=UNKNOWN,
        )

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.Tensor:
        """Return the ids `[B, T]` int32 of texts `[B]`."""
        words = self._tokenizer(tf.convert_to_tensor(texts, tf.string))[:, : self.sequence_length - 2]
        ends = tf.ones([tf.shape(texts)[0], 1], tf.int32)
        packed = tf.concat([ends * self.cls_id, words, ends * self.sep_id], axis=1)
        return packed.to_tensor(self.pad_id, shape=[None, self.sequence_length])

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as `vocab.txt`, one token a line."""
        Path(path).write_text("".join(token + "\n" for token in self.vocabulary), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, **options) -> "WordPiece":
        """Read a `vocab.txt`; `options` are the constructor's."""
        return cls(read_vocabulary(path), **options)


def read_vocabulary(path: str | Path) -> list[str]:
    """Return the tokens of a `vocab.txt` in the order of their ids.

    Only the line feed ends a token: published vocabularies hold tokens such as U+2028, which `splitlines` would split.
    """
    lines = Path(path).read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def train_vocabulary(
    texts: Iterable[str], size: int, *, lowercase: bool = True, max_words: int = 20_000
) -> list[str]:
    """Learn a WordPiece vocabulary from a catalogue's texts.

    Args:
        texts: The catalogue's texts.
        size: Most tokens of the vocabulary, the special ones included.
        lowercase: Fold case and drop accents first, as `WordPiece` will.
        max_words: Only the most frequent words teach the vocabulary, which bounds the time on any catalogue.

    Returns:
        The tokens in the order of their ids, the special ones first.
    """
    counts = count_words(texts, lowercase=lowercase).most_common(max_words)
    if not counts:
        return list(SPECIAL_TOKENS)
    # A word's count bounds its own token's, so this threshold finds at least the tokens that fit; one pass, no search.
    threshold = max(2, counts[min(size, len(counts)) - 1][1])
    tokens = learner.learn(
        counts, size, reserved_tokens=list(SPECIAL_TOKENS), lower_thresh=threshold, upper_thresh=threshold
    )
    # Single characters come first: a cut must not take away what spells the words that have no token.
    return sorted(
        tokens, key=lambda token: token not in SPECIAL_TOKENS and len(token.removeprefix("##")) > 1
    )[:size]


def count_words(texts: Iterable[str], *, lowercase: bool = True, batch: int = 2048) -> Counter:
    """Count the words of texts as `WordPiece` splits them, punctuation and Chinese characters on their own."""
    counts: Counter = Counter()
    texts = iter(texts)
    while chunk := list(islice(texts, batch)):
        words = pretokenize(tf.constant(chunk), lowercase=lowercase, strip_accents=lowercase).flat_values
        found, _, times = tf.unique_with_counts(words)
        counts.update({word.decode(): int(n) for word, n in zip(found.numpy(), times.numpy())})
    return counts


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
        **kwargs,
    ):
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}; change one of them.")
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
            embeddings_initializer=_initializer(),
            name="token_embedding",
            **common,
        )
        self.position_embedding = keras_nlp.layers.PositionEmbedding(
            self.max_length, initializer=_initializer(), name="position_embedding", **common
        )
        self.segment_embedding = tf.keras.layers.Embedding(
            self.segments, self.dim, embeddings_initializer=_initializer(), name="segment_embedding", **common
        )
        self.layer_norm = tf.keras.layers.LayerNormalization(
            epsilon=self.epsilon, name="layer_norm", **common
        )
        self.embedding_dropout = tf.keras.layers.Dropout(self.dropout, name="embedding_dropout", **common)
        self.blocks = [
            keras_nlp.layers.TransformerEncoder(
                self.mlp_dim,
                self.heads,
                dropout=self.dropout,
                activation=activation_named(self.activation),
                layer_norm_epsilon=self.epsilon,
                kernel_initializer=_initializer(),
                name=f"block_{number}",
                **common,
            )
            for number in range(self.layers)
        ]

    @property
    def output_dim(self) -> int:
        """Width of the tokens."""
        return self.dim

    def build(self, input_shape) -> None:
        """Create all weights, so that published ones can be assigned before the first call."""
        tokens = (None, None, self.dim)
        for layer in (self.token_embedding, self.segment_embedding):
            layer.build(None)
        for layer in (self.position_embedding, self.layer_norm, *self.blocks):
            layer.build(tokens)
        super().build(input_shape)

    def call(self, token_ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Encode texts.

        Args:
            token_ids: `[B, T]` int32, T at most `max_length`.
            training: Whether dropout applies.

        Returns:
            Tokens `[B, T, D]`; those where `mask(token_ids)` is false mean nothing.
        """
        return self.layer_tokens(token_ids, training=training)[-1]

    def layer_tokens(self, token_ids: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        """Return the tokens `[B, T, D]` before the first block and after each block, for studies layer by layer."""
        mask = self.mask(token_ids)
        tokens = self.token_embedding(token_ids)
        tokens += self.position_embedding(tokens) + self.segment_embedding(tf.zeros([1, 1], tf.int32))
        states = [self.embedding_dropout(self.layer_norm(tokens), training=training)]
        for block in self.blocks:
            states.append(block(states[-1], padding_mask=mask, training=training))
        return states

    def mask(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Return which ids `[B, T]` are not padding."""
        return tf.not_equal(token_ids, self.pad_id)

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        names = (
            "vocabulary_size",
            "dim",
            "layers",
            "heads",
            "mlp_dim",
            "max_length",
            "dropout",
            "activation",
        )
        names += ("epsilon", "segments", "pad_id")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _initializer() -> tf.keras.initializers.Initializer:
    """Return BERT's initializer, a new one each time: one shared without a seed would repeat its values."""
    return tf.keras.initializers.TruncatedNormal(stddev=0.02)
