"""CLIP's tokenizer: byte-pair encoding (Sennrich et al., arXiv:1508.07909) as TensorFlow operations.

Merges are applied to all words of a batch at once, one merge per word and step, so it runs in a graph or
SavedModel without lookup tables: the merge rules are two constants.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfrec.encoders.errors import EncoderError

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
SPACES = r"[\s\x{B}\x{85}\p{Z}]+"
MAX_BYTES = 512  # of one word; what stands beyond is cut, far behind the 77 ids a text may have
SHORT = 24  # bytes
EMPTY = -1


class ClipTokenizer:
    """Texts to ids `<|startoftext|> ... <|endoftext|>`, padded.

    Args:
        vocabulary: Token -> id.
        merges: Merge rules "left right", the most important one first.
        sequence_length: Ids per text (T); longer texts are cut, the last id is then still `<|endoftext|>`.
        pad_id: Id after the end; `<|endoftext|>` itself when not given, as CLIP's configuration has it.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[str],
        *,
        sequence_length: int = 77,
        pad_id: int | None = None,
    ):
        if sequence_length < 3:
            raise EncoderError(
                f"sequence_length={sequence_length}: a text's first and last id are marks; give 3 or more."
            )
        missing = [token for token in (START, END) if token not in vocabulary]
        if missing:
            raise EncoderError(f"vocabulary has no {missing}; CLIP's vocab.json holds {START!r} and {END!r}.")
        self.vocabulary, self.merges, self.sequence_length = dict(vocabulary), list(merges), sequence_length
        self.start_id, self.end_id = self.vocabulary[START], self.vocabulary[END]
        self.pad_id = self.end_id if pad_id is None else pad_id
        symbols = byte_symbols()
        # Unknown symbols become the end token, as in the reference.
        self._middle = np.array([self.vocabulary.get(s, self.end_id) for s in symbols], np.int64)
        self._last = np.array([self.vocabulary.get(s + WORD_END, self.end_id) for s in symbols], np.int64)
        self._stride = max(self.vocabulary.values()) + 1
        self._keys, self._ranks, self._merged = self._merge_table()

    def _merge_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs of ids that merge as sorted numbers, with the rank and the result of each."""
        pairs = [tuple(merge.split(" ")) for merge in self.merges]
        ids = self.vocabulary
        for pair in pairs:
            unknown = [part for part in (*pair, "".join(pair)) if part not in ids]
            if unknown or len(pair) != 2:
                raise EncoderError(
                    f"the merge rule {' '.join(pair)!r} names no two tokens of the vocabulary; both files "
                    "must be of one tokenizer."
                )
        keys = np.array([ids[left] * self._stride + ids[right] for left, right in pairs] or [EMPTY], np.int64)
        merged = np.array([ids[left + right] for left, right in pairs] or [EMPTY], np.int64)
        order = np.argsort(keys)
        return keys[order], order.astype(np.int64), merged[order]

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.Tensor:
        """Return the ids `[B, T]` int32 of texts `[B]`."""
        pieces = self.tokenize(texts)[:, : self.sequence_length - 2]
        ends = tf.ones([pieces.nrows(), 1], tf.int32)
        packed = tf.concat([ends * self.start_id, pieces, ends * self.end_id], axis=1)
        return packed.to_tensor(self.pad_id, shape=[None, self.sequence_length])

    def tokenize(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Return the ids of texts `[B]` without start and end, uncut: ragged `[B, (T)]` int32."""
        texts = tf_text.normalize_utf8(tf.convert_to_tensor(texts, tf.string), "NFC")
        texts = tf.strings.regex_replace(texts, SPACES, " ")
        # The reference lowers character by character: no final sigma.
        texts = tf.strings.lower(tf.strings.regex_replace(texts, "Σ", "σ"), encoding="utf-8")
        words = tf_text.regex_split(texts, f" |{WORDS}", WORDS)
        distinct, places = tf.unique(words.flat_values)
        pieces = tf.gather(self._encode_words(distinct), places)  # ragged (words, (pieces))
        return words.with_flat_values(pieces).merge_dims(-2, -1)

    def _encode_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Return the ids of each distinct word: ragged `[W, (pieces)]` int32."""
        # Long words apart: one of them would make the table of all the others as wide, and as many steps.
        is_short = tf.strings.length(words) <= SHORT
        groups = [tf.where(is_short)[:, 0], tf.where(~is_short)[:, 0]]
        pieces = tf.concat([self._encode_group(tf.gather(words, group)) for group in groups], axis=0)
        return tf.gather(pieces, tf.math.invert_permutation(tf.concat(groups, axis=0)))

    def _encode_group(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Return the ids of words of similar length: ragged `[W, (pieces)]` int32."""
        letters = tf.strings.bytes_split(tf.strings.substr(words, 0, MAX_BYTES))
        values = tf.reshape(tf.cast(tf.io.decode_raw(letters.flat_values, tf.uint8), tf.int32), [-1])
        symbols = letters.with_values(tf.gather(self._middle, values)).to_tensor(EMPTY)
        endings = letters.with_values(tf.gather(self._last, values)).to_tensor(EMPTY)
        is_last = tf.range(tf.shape(symbols)[1]) == tf.cast(letters.row_lengths(), tf.int32)[:, None] - 1
        ids = tf.where(is_last, endings, symbols)
        ids, *_ = tf.while_loop(
            lambda ids, ranks, rules: tf.reduce_any(ranks < len(self.merges)),
            self._merge_once,
            [ids, *self._rank(ids)],
            shape_invariants=[tf.TensorShape([None, None])] * 3,
        )
        return tf.cast(tf.RaggedTensor.from_tensor(ids, padding=EMPTY), tf.int32)

    def _rank(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return each neighbouring pair's rank `[W, L]` (out of range if it does not merge) and rule."""
        right = _shift_left(ids)
        keys = tf.where((ids >= 0) & (right >= 0), ids * self._stride + right, -2)
        rule = tf.searchsorted(self._keys, tf.reshape(keys, [-1]))
        rule = tf.reshape(tf.minimum(rule, len(self._keys) - 1), tf.shape(ids))
        found = tf.equal(tf.gather(self._keys, rule), keys)
        return tf.where(found, tf.gather(self._ranks, rule), len(self.merges)), rule

    def _merge_once(self, ids: tf.Tensor, ranks: tf.Tensor, rules: tf.Tensor) -> list[tf.Tensor]:
        """Merge each word's best pair, the leftmost if it occurs twice; return ids `[W, L]` and ranks."""
        place = tf.argmin(ranks, axis=1, output_type=tf.int32)
        merges = tf.reduce_min(ranks, axis=1) < len(self.merges)
        result = tf.gather(self._merged, tf.gather(rules, place, batch_dims=1))
        column = tf.range(tf.shape(ids)[1])
        after = tf.where(column > place[:, None], _shift_left(ids), ids)
        after = tf.where(column == place[:, None], result[:, None], after)
        ids = tf.where(merges[:, None], after, ids)
        return [ids, *self._rank(ids)]


def _shift_left(ids: tf.Tensor) -> tf.Tensor:
    """Move `[W, L]` one column to the left, empty at the end."""
    return tf.concat([ids[:, 1:], tf.fill([tf.shape(ids)[0], 1], tf.constant(EMPTY, ids.dtype))], axis=1)


def byte_symbols() -> list[str]:
    """Return the printable character that stands for each byte 0..255 (GPT-2's table)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
