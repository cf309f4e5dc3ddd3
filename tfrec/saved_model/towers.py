"""The trained towers as export traces them: arrays or raw photos and texts in, vectors out, nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import tensorflow as tf

from pipelines.photos.images import MAX_PIXELS
from pipelines.photos.pixels import declared_areas, decode_photos
from tfrec.encoders.text import ClipTokenizer
from tfrec.encoders.wordpiece import WordPiece
from tfrec.features.frozen import FrozenEncoders
from tfrec.models import TwoTower
from tfrec.reports.attention_maps import looks_of_words
from tfrec.retrieval.assembly import RetrievalAssembly
from tfrec.saved_model.wordpiece import StockWordPiece
from tfrec.towers import UserTower

MOST_PIXELS = 8 * MAX_PIXELS  # of a request's photos: what a thread decodes in some seconds
BYTES_A_TOKEN = 64  # of a text that are read, in the mean


class ServedTowers(tf.Module):
    """The towers of a two-tower model (see `tfrec.runs.run.Towers`).

    What is saved is what serving reads. Tables of the catalogue's size that only training reads, the bank and the items' own
    vectors, stay behind: at ten million items of 128 dimensions each is 5 GB of every server.

    Args:
        assembly: a trained model with its inputs.
    """

    def __init__(self, assembly: RetrievalAssembly):
        super().__init__(name="towers")
        # In a namespace, as TensorFlow saves whatever it finds in the attributes of a module.
        self._held = SimpleNamespace(model=assembly.model)
        unread = {id(table) for table in self.model.training_tables()}
        self.read = [variable for variable in self.model.variables if id(variable) not in unread]
        self.tokenizer = served_tokenizer(assembly.assets.tokenizer) if "text" in assembly.modalities else None
        options = assembly.config.model
        self.frozen = FrozenEncoders(options, assembly.assets)
        reads_photos = "photo" in assembly.modalities
        self.size: tuple[int, int] = assembly.assets.photo_size(options) if reads_photos else (1, 1)
        self.fields = len(assembly.assets.attributes.sizes) if assembly.assets.attributes else 0
        # Graphs of their own for what the signatures of both models share: traced once, not once a signature. None that this
        # model has no use for, as whatever is here is traced.
        if self.query_kind == "history":
            self.query = tf.function(self._query, self._query_inputs(), autograph=False)
        if assembly.modalities:
            self.item = tf.function(self._item, self._item_inputs(), autograph=False)

    @property
    def model(self) -> TwoTower:
        """The trained model."""
        return self._held.model

    @property
    def rates(self) -> bool:
        """Whether a ranking head predicts ratings."""
        return hasattr(self.model, "rate")

    def _query_inputs(self) -> list[tf.TensorSpec]:
        rows, days = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.float32)
        return [rows, days, rows, tf.TensorSpec([None, None], tf.float32)]

    def _item_inputs(self) -> list[tf.TensorSpec]:
        length = self.tokenizer.sequence_length if self.tokenizer else 1
        return [
            tf.TensorSpec([None, *self.size, 3], tf.uint8),
            tf.TensorSpec([None], tf.bool),
            tf.TensorSpec([None, length], tf.int32),
            tf.TensorSpec([None, self.fields, None], tf.int32),
        ]

    def _query(self, history: tf.Tensor, days_ago: tf.Tensor, user_fields: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of purchases int32 `[B, T]` (-1 = padding, most recent last), days since each
        float32 `[B, T]`, customer fields int32 `[B, G]`, and all candidates' vectors `[N, D]`."""
        following = tf.pad(days_ago[:, 1:], [[0, 0], [0, 1]])
        gaps = tf.maximum(days_ago - following, 0.0)
        return self.model.last_query({"history": history, "gaps": gaps, "user_fields": user_fields}, vectors)

    def repeat_scores(self, days_ago: tf.Tensor) -> tf.Tensor:
        """What a purchase made `days_ago` float32 `[B, T]` adds to the score of its item."""
        assert self.model.repeats is not None  # `Run.repeats` says so
        return self.model.repeats(days_ago)

    def rate(self, queries: tf.Tensor, user: tf.Tensor, items: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Ratings `[B, K]` of items int32 `[B, K]` by customers int32 `[B]` (-1 = unknown) with queries `[B, D]`, given all
        candidates' vectors `[N, D]`; they may lie beyond the scale (`bounded_ratings`)."""
        return self.model.rate(queries, user, items, vectors)

    def bounded_ratings(self, ratings: tf.Tensor) -> tf.Tensor:
        """Ratings of any shape within the scale."""
        return self.model.head.bounded(ratings)

    def user_query(self, user: tf.Tensor, user_fields: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of known customers int32 `[B]` (-1 = unknown)."""
        return self.model.last_query({"user": user, "user_fields": user_fields}, None)

    def similar_query(self, vectors: tf.Tensor) -> tf.Tensor:
        """Candidate vectors `[B, D]` as queries for similar items, without the popularity bias."""
        if not self.model.vectors.has_bias:
            return vectors
        return tf.concat([vectors[:, :-1], tf.zeros_like(vectors[:, -1:])], -1)

    def _item(self, photos: tf.Tensor, has_photo: tf.Tensor, tokens: tf.Tensor, attributes: tf.Tensor) -> tf.Tensor:
        """Candidate vectors `[B, D]` from content alone: what a new item gets."""
        inputs = self.frozen({"has_photo": has_photo, "photos": photos, "tokens": tokens, "attributes": attributes})
        contents = self.model.encode({"items": inputs})
        return self.model.vectors.finish(self.model.vectors.new_vectors(contents, inputs))

    @property
    def attends(self) -> bool:
        """Whether there is an attention from words and attributes to photos."""
        tower = self.model.item_tower
        return tower is not None and tower.image is not None and tower.fusion.layers > 0

    def attention(self, photos: tf.Tensor, has_photo: tf.Tensor, tokens: tf.Tensor, attributes: tf.Tensor) -> tf.Tensor:
        """Attention of words and attributes to the parts of photos `[B, h, w]`, each adding up to 1."""
        tower = self.model.item_tower
        assert tower is not None  # `Run.attends` says so
        assert tower.image is not None
        inputs = self.frozen({"has_photo": has_photo, "photos": photos, "tokens": tokens, "attributes": attributes})
        patches = looks_of_words(tower, inputs, tower(inputs, return_attention=True)[1]["text_to_image"])
        height, width = (-(-side // tower.pool) for side in tower.image.grid)
        patches = tf.math.divide_no_nan(patches, tf.reduce_sum(patches, 1, keepdims=True))
        return tf.reshape(patches, [-1, height, width])

    def photo_query(self, photos: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of photos uint8 `[B, H, W, 3]` alone."""
        batch = tf.shape(photos)[0]
        has = tf.ones([batch], tf.bool)
        return self.similar_query(self.item(photos, has, self._no_tokens(batch), self._no_attributes(batch)))

    def text_query(self, tokens: tf.Tensor) -> tf.Tensor:
        """Query vectors `[B, D]` of token ids int32 `[B, T]` alone."""
        batch = tf.shape(tokens)[0]
        photos = tf.zeros([batch, *self.size, 3], tf.uint8)
        has = tf.zeros([batch], tf.bool)
        return self.similar_query(self.item(photos, has, tokens, self._no_attributes(batch)))

    def pixels(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Photo bytes string `[B]` to uint8 `[B, H, W, 3]`, and whether there was a photo, bool `[B]`."""
        area = tf.reduce_sum(declared_areas(images))
        message = f"the photos of a request declare more than {MOST_PIXELS:,} pixels together; send fewer at once"
        most = tf.constant(MOST_PIXELS, tf.int64)
        with tf.control_dependencies([tf.debugging.assert_less_equal(area, most, message=message)]):
            return decode_photos(tf.identity(images), self.size, parallel=2)

    def tokens(self, texts: tf.Tensor) -> tf.Tensor:
        """Texts string `[B]` to token ids int32 `[B, T]`; an empty text is all padding."""
        if self.tokenizer is None:
            raise ValueError("this model reads no texts")
        # What cannot be read is cut off before it is split into characters, which take twenty times its memory.
        read = tf.strings.substr(texts, 0, BYTES_A_TOKEN * self.tokenizer.sequence_length)
        return tf.where((tf.strings.length(texts) > 0)[:, None], self.tokenizer(read), self.tokenizer.pad_id)

    def _no_tokens(self, batch: tf.Tensor) -> tf.Tensor:
        length, pad = (self.tokenizer.sequence_length, self.tokenizer.pad_id) if self.tokenizer else (1, 0)
        return tf.fill([batch, length], pad)

    def _no_attributes(self, batch: tf.Tensor) -> tf.Tensor:
        return tf.zeros([batch, self.fields, 1], tf.int32)

    @property
    def query_kind(self) -> Literal["history", "user"]:
        """`user` where customers are looked up, `history` where their purchases are read."""
        return "user" if isinstance(self.model.query_tower, UserTower) else "history"


def served_tokenizer(tokenizer: WordPiece | ClipTokenizer | None) -> StockWordPiece | ClipTokenizer | None:
    """The tokenizer in TensorFlow's own ops where there is one (the ids are the same), for servers without text ops."""
    return StockWordPiece(tokenizer) if isinstance(tokenizer, WordPiece) else tokenizer
