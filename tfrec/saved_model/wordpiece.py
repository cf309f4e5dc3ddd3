"""WordPiece of TensorFlow's own ops: the ids of `tfrec.encoders.wordpiece.WordPiece` without tensorflow_text.

An exported model with it loads anywhere, also where text ops are not registered. It is slower than the
tokenizer it equals, and meant for requests, not for catalogues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from tfrec.saved_model.tensors import lookup

if TYPE_CHECKING:
    from tfrec.encoders.wordpiece import WordPiece

CONTINUED = "##"


class StockWordPiece(tf.Module):
    """Texts to ids `[CLS] ... [SEP] [PAD] ...`, as the tokenizer it is made from.

    Args:
        reference: the tokenizer to equal. It is asked for the accents that it drops, and not kept.
    """

    def __init__(self, reference: WordPiece):
        super().__init__(name="stock_wordpiece")
        self.sequence_length, self._lowercase = reference.sequence_length, reference.lowercase
        self._split_cjk, self._strip_accents = reference.split_cjk, reference.strip_accents
        self.pad_id, self._unknown_id = reference.pad_id, reference.unknown_id
        self._ends = reference.cls_id, reference.sep_id
        self._pieces = lookup(reference.vocabulary, "pieces")
        self._longest = max(len(piece.removeprefix(CONTINUED)) for piece in reference.vocabulary)
        if self._strip_accents:
            accented, plain = accents()
            self._accented = lookup(accented, "accented")
            self._plain = tf.constant([*plain, ""])

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """Return the ids `[B, T]` int32 of texts `[B]`."""
        words = self._words(texts)[:, : self.sequence_length - 2]  # each is a piece at least: no more can be kept
        found = self._encode(words.flat_values)
        pieces = words.with_flat_values(found).merge_dims(-2, -1)[:, : self.sequence_length - 2]
        cls_id, sep_id = (tf.fill([words.nrows(), 1], number) for number in self._ends)
        packed = tf.concat([cls_id, tf.cast(pieces, tf.int32), sep_id], axis=1)
        return packed.to_tensor(self.pad_id, shape=[None, self.sequence_length])

    def _words(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Clean and split as `tfrec.encoders.wordpiece.split_words` does: ragged words `[B, (W)]`."""
        from tfrec.encoders.wordpiece import CJK, CONTROLS, PUNCTUATION, SPACES

        texts = tf.strings.regex_replace(texts, CONTROLS, "")
        texts = tf.strings.regex_replace(texts, SPACES, " ")
        if self._strip_accents:
            texts = self._without_accents(texts)
        if self._lowercase:
            texts = tf.strings.lower(tf.strings.regex_replace(texts, "Σ", "σ"), encoding="utf-8")
        alone = f"{PUNCTUATION}|{CJK}" if self._split_cjk else PUNCTUATION
        return tf.strings.split(tf.strings.regex_replace(texts, f"({alone})", r" \1 "))

    def _without_accents(self, texts: tf.Tensor) -> tf.Tensor:
        characters = tf.strings.unicode_split(texts, "UTF-8")
        place = self._accented.lookup(characters.flat_values)
        plain = tf.where(place < 0, characters.flat_values, tf.gather(self._plain, tf.maximum(place, 0)))
        return tf.strings.reduce_join(characters.with_flat_values(plain), axis=-1)

    def _encode(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Split words `[W]` into the longest known pieces from the left: ids, ragged `[W, (P)]`.

        A word that cannot be spelt, or is too long, is one unknown piece.
        """
        from tfrec.encoders.wordpiece import MAX_WORD

        length = tf.strings.length(words, "UTF8_CHAR")
        readable = length <= MAX_WORD

        def more(start: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(start < length)

        def step(start: tf.Tensor, spelt: tf.Tensor, pieces: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            piece, size = self._next_piece(words, length, start)
            active = start < length
            spelt &= (size > 0) | ~active
            start = tf.where(active & spelt, start + size, length)
            found = tf.where(active & spelt, piece, -1)
            return start, spelt, tf.concat([pieces, found[:, None]], 1)

        start = tf.where(readable, tf.zeros_like(length), length)
        none = tf.zeros([tf.size(words), 0], tf.int32)
        shapes = (start.shape, readable.shape, tf.TensorShape([None, None]))
        _, spelt, pieces = tf.while_loop(more, step, (start, readable, none), shape_invariants=shapes)
        # The unknown piece stands before the others, and then replaces them.
        unknown = tf.where(spelt, -1, self._unknown_id)[:, None]
        pieces = tf.concat([unknown, tf.where(spelt[:, None], pieces, -1)], 1)
        return tf.ragged.boolean_mask(pieces, pieces >= 0)

    def _next_piece(self, words: tf.Tensor, length: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The longest known piece of each word `[W]` from `start`: its id, and its size (0: there is none)."""
        sizes = tf.range(1, self._longest + 1)
        place = tf.minimum(start, length - 1)[:, None] + tf.zeros_like(sizes)
        wide = tf.repeat(words[:, None], self._longest, 1)
        parts = tf.strings.substr(wide, place, tf.broadcast_to(sizes, tf.shape(place)), unit="UTF8_CHAR")
        prefix = tf.where(start > 0, CONTINUED, "")[:, None]
        ids = self._pieces.lookup(prefix + parts)
        fits = (ids >= 0) & (start[:, None] + sizes <= length[:, None])
        size = tf.reduce_max(tf.where(fits, sizes, 0), 1)
        return tf.gather(ids, tf.maximum(size - 1, 0), batch_dims=1), size


def accents() -> tuple[list[str], list[str]]:
    """Every character that loses an accent, or is one, and what is left of it."""
    import tensorflow_text as tf_text

    every = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code <= 0xDFFF]
    plain = tf.strings.regex_replace(tf_text.normalize_utf8(every, "NFD"), r"\p{Mn}+", "").numpy().tolist()
    changed = [(old, new.decode()) for old, new in zip(every, plain) if old.encode() != new]
    return [old for old, _ in changed], [new for _, new in changed]
