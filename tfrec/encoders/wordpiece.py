"""WordPiece: BERT's tokenizer as TensorFlow operations, and learning a vocabulary from a catalogue.

The ids equal those of the reference tokenizer (Hugging Face's `BertTokenizer`); tests compare them.
KerasNLP's own `WordPieceTokenizer` was measured against it first: it folds case by Unicode's folding rules
("Tencel™" becomes "tenceltm"), keeps control characters, and counts a word's limit of 100 in bytes. Its last
step, tensorflow_text's linear-time WordPiece (Song et al., EMNLP 2021), is the one used here.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib as learner

from pipelines.publish import write_whole
from tfrec.encoders.errors import EncoderError

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNKNOWN, CLS, SEP, MASK)
MAX_WORD = 100  # characters; BERT maps longer words to [UNK]

SPACES = r"[\s\p{Z}]"
# Control, format and private-use characters, NUL and the replacement character; not tab, line feed, carriage
# return.
CONTROLS = r"[\x{0}-\x{8}\x{B}\x{C}\x{E}-\x{1F}\x{7F}-\x{9F}\p{Cf}\p{Co}\x{FFFD}]+"
PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
# As the reference has it: its table starts the fifth extension at 2B920, where Unicode starts it at 2B820.
CJK = (
    r"[\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B920}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
)


class WordPiece:
    """Texts to ids `[CLS] ... [SEP] [PAD] ...`; also runs inside a graph or SavedModel.

    Special tokens written out in a text ("[SEP]") are split like any other text.

    Args:
        vocabulary: Tokens in the order of their ids; holds the special tokens.
        sequence_length: Ids per text (T); longer texts are cut, the last id is then still `[SEP]`.
        lowercase: Lower case, as uncased models do.
        strip_accents: Drop accents; by default when `lowercase`, as BERT does.
        split_cjk: Treat each Chinese character as a word, as BERT does.

    Raises:
        EncoderError: The vocabulary lacks a special token, or the length leaves no room for them.
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
            raise EncoderError(f"vocabulary has no {missing}; a WordPiece vocabulary holds {SPECIAL_TOKENS[:4]}.")
        if sequence_length < 2:
            raise EncoderError(f"sequence_length={sequence_length} leaves no room for [CLS] and [SEP]; give 2 or more.")
        self.vocabulary = tuple(vocabulary)
        self.sequence_length, self.lowercase, self.split_cjk = sequence_length, lowercase, split_cjk
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id = map(self.vocabulary.index, SPECIAL_TOKENS[:4])
        self._pieces = tf_text.FastWordpieceTokenizer(
            vocab=list(vocabulary),
            token_out_type=tf.int32,
            unknown_token=UNKNOWN,
            max_bytes_per_word=4 * MAX_WORD,
            no_pretokenization=True,
        )

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.Tensor:
        """Return the ids `[B, T]` int32 of texts `[B]`."""
        pieces = self.tokenize(texts)[:, : self.sequence_length - 2]
        ends = tf.ones([pieces.nrows(), 1], tf.int32)
        packed = tf.concat([ends * self.cls_id, pieces, ends * self.sep_id], axis=1)
        return packed.to_tensor(self.pad_id, shape=[None, self.sequence_length])

    def tokenize(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Return the ids of texts `[B]` without special tokens and uncut: ragged `[B, (T)]` int32."""
        words = split_words(texts, self.lowercase, self.strip_accents, self.split_cjk)
        # A character that no text has after cleaning stands for a word that is too long, so that it becomes
        # [UNK].
        too_long = tf.strings.length(words.flat_values, "UTF8_CHAR") > MAX_WORD
        words = words.with_flat_values(tf.where(too_long, "\ufffd", words.flat_values))
        return self._pieces.tokenize(words).merge_dims(-2, -1)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as `vocab.txt`, one token a line."""
        write_whole(Path(path), "".join(token + "\n" for token in self.vocabulary))

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> "WordPiece":
        """Read a `vocab.txt`; `options` are the constructor's."""
        return cls(read_vocabulary(path), **options)


def split_words(
    texts: tf.Tensor | Sequence[str],
    lowercase: bool = True,
    strip_accents: bool = True,
    split_cjk: bool = True,
) -> tf.RaggedTensor:
    """Clean texts `[B]` and split them as BERT does: ragged words `[B, (W)]`, punctuation on its own."""
    texts = tf.convert_to_tensor(texts, tf.string)
    texts = tf.strings.regex_replace(texts, CONTROLS, "")
    texts = tf.strings.regex_replace(texts, SPACES, " ")
    if strip_accents:
        texts = tf.strings.regex_replace(tf_text.normalize_utf8(texts, "NFD"), r"\p{Mn}+", "")
    if lowercase:
        # The reference lowers character by character: no final sigma.
        texts = tf.strings.lower(tf.strings.regex_replace(texts, "Σ", "σ"), encoding="utf-8")
    alone = f"{PUNCTUATION}|{CJK}" if split_cjk else PUNCTUATION
    return tf_text.regex_split(texts, f" |{alone}", alone)


def read_vocabulary(path: str | Path) -> list[str]:
    """Return the tokens of a `vocab.txt` in the order of their ids.

    Only the line feed ends a token: published vocabularies hold tokens that `splitlines` would split, such as
    U+2028.
    """
    lines = Path(path).read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def train_vocabulary(texts: Iterable[str], size: int, *, lowercase: bool = True, max_words: int = 20_000) -> list[str]:
    """Learn a WordPiece vocabulary from a catalogue's texts.

    Args:
        texts: The catalogue's texts.
        size: Most tokens of the vocabulary, the special ones included.
        lowercase: Lower case and drop accents first, as `WordPiece` will.
        max_words: Only the most frequent words teach the vocabulary, which bounds the time on any catalogue.

    Returns:
        The tokens in the order of their ids: special ones, single characters, then by falling frequency.
    """
    counts = count_words(texts, lowercase=lowercase).most_common(max_words)
    if not counts:
        return list(SPECIAL_TOKENS)
    # A word's count bounds its token's, so this threshold finds at least the tokens that fit: one pass, no
    # search.
    threshold = max(2, counts[min(size, len(counts)) - 1][1])
    tokens = learner.learn(
        counts, size, reserved_tokens=list(SPECIAL_TOKENS), lower_thresh=threshold, upper_thresh=threshold
    )
    # A cut must not take away the characters that spell the words without a token.
    tokens.sort(key=lambda token: token not in SPECIAL_TOKENS and len(token.removeprefix("##")) > 1)
    return tokens[:size]


def count_words(texts: Iterable[str], *, lowercase: bool = True, batch: int = 2048) -> Counter[str]:
    """Count the words of texts as `WordPiece` splits them."""
    counts: Counter[str] = Counter()
    texts = iter(texts)
    while chunk := list(islice(texts, batch)):
        words = split_words(chunk, lowercase=lowercase, strip_accents=lowercase)
        found, _, times = tf.unique_with_counts(words.flat_values)
        counts.update({word.decode(): int(n) for word, n in zip(found.numpy(), times.numpy())})
    return counts
