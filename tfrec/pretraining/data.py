"""What pretraining reads: texts with their attributes, photos moved and mirrored, words hidden; each step by its number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.batches import Batch
from pipelines.content import photo_arrays
from pipelines.epochs import ShuffledRows
from pipelines.prepared import Prepared
from pipelines.schema import ATTRIBUTE_PREFIX, TRAIN, VAL
from tfrec.config import ConfigError
from tfrec.encoders.text import WordPiece
from tfrec.encoders.wordpiece import SPECIAL_TOKENS
from tfrec.evaluation.labels import item_splits
from tfrec.pretraining.config import PretrainConfig

if TYPE_CHECKING:
    import tensorflow as tf

AS_MASK, AS_RANDOM = 0.8, 0.9  # of the chosen words: 80 % become [MASK], 10 % another word, the rest stay (BERT)


class PretrainData:
    """Texts and photos of a catalogue, in training batches and as they are.

    Args:
        config: the configuration.
        prepared: the dataset.
        tokenizer: of the texts.
    """

    def __init__(self, config: PretrainConfig, prepared: Prepared, tokenizer: WordPiece):
        self.config, self.prepared, self.tokenizer = config, prepared, tokenizer
        self.texts = list(prepared.items["text"])
        self.values = attribute_values(prepared) if config.model.text.attributes else [[] for _ in self.texts]
        self.photos = self.bytes = None
        present = np.ones(len(self.texts), bool)
        if config.reads_photos:
            arrays, self.bytes = photo_arrays(prepared, config.model.image.size)
            self.photos, present = arrays.get("photos"), arrays["has_photo"]
        worded = np.array([bool(text or values) for text, values in zip(self.texts, self.values)])
        self.training, self.held, self.held_split = split_rows(prepared, present & worded, config)
        if not len(self.training):
            raise ConfigError(
                f"--data {config.data}: no training item has text and photo; without photos: model.image.enabled=false"
            )
        if not len(self.held):
            raise ConfigError(
                f"--data {config.data}: there is no validation item, and task.held_share={config.task.held_share} holds out "
                "no training item to evaluate on; raise it"
            )
        self.size = config.training.fixed_batch_size(len(self.training), auto=256)
        self.order = ShuffledRows(self.training, self.size, config.seed, 0)

    def ids(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Token ids int32 `[R, T]` of text and attribute values, these in random order if `rng` is given."""
        joined = []
        for row in rows:
            values = self.values[row]
            order = values if rng is None else [values[i] for i in rng.permutation(len(values))]
            joined.append(" ".join([self.texts[row], *order]))
        return self.tokenizer(joined).numpy()

    def contents(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """`tokens` and, with an image encoder, `photos` or `photo_bytes` of `rows`."""
        found = {"tokens": self.ids(rows, rng)}
        if self.photos is not None:
            found["photos"] = self.photos[rows]
        elif self.bytes is not None:
            found["photo_bytes"] = self.bytes.read(rows)
        return found

    def batch(self, step: int) -> Batch:
        """The training batch of `step`."""
        seed, task = self.config.seed, self.config.task
        rows = self.order(step)
        rng = np.random.default_rng([seed, 1, step])
        contents = self.contents(rows, rng)
        tokens = contents.pop("tokens")
        masked, hidden = hide_words(tokens, self.tokenizer, task.mask_rate, rng)
        whole = np.sort(tokens, 1)  # the same words in another order are the same content
        batch: Batch = {"tokens": tokens, "masked": masked, "hidden": hidden, "whole": whole}
        if self.config.reads_photos:
            batch["moves"] = draw_moves(len(rows), self.config.model.image.size, task.shift, rng)
            batch["items"] = contents
        return batch

    def batches(self, start: int, stop: int) -> tf.data.Dataset:
        """tf.data of the training steps `start` to `stop`."""
        from pipelines.batches import make_dataset

        dataset = make_dataset(self.batch, start, stop, photo_size=self.config.model.image.size)
        return dataset.map(with_photos) if self.config.reads_photos else dataset


def with_photos(batch: dict) -> dict:
    """Put the photos of a batch, moved and mirrored, beside its texts."""
    batch = dict(batch)
    photos, moves = batch.pop("items")["photos"], batch.pop("moves")
    return {**batch, "photos": move_photos(photos, moves)}


def attribute_values(prepared: Prepared) -> list[list[str]]:
    """All attribute values of each item."""
    columns = [prepared.items[ATTRIBUTE_PREFIX + field] for field in prepared.fields]
    return [[value for cell in cells for value in cell] for cells in zip(*columns)] or [
        [] for _ in prepared.items["text"]
    ]


def split_rows(prepared: Prepared, usable: np.ndarray, config: PretrainConfig) -> tuple[np.ndarray, np.ndarray, str]:
    """Items to train on, items held out, and the split that these are of; those of the test split are in neither."""
    part = item_splits(prepared.items)
    rows, held = np.flatnonzero(usable & (part == TRAIN)), np.flatnonzero(usable & (part == VAL))
    split = "val"
    if len(held) == 0:
        split = "train, held out"
        shuffled = np.random.default_rng([config.seed, 2]).permutation(rows)
        count = min(len(rows) - 1, max(1, round(len(rows) * config.task.held_share))) if config.task.held_share else 0
        rows, held = np.sort(shuffled[count:]), np.sort(shuffled[:count])
    return rows, held, split


def hide_words(
    ids: np.ndarray, tokenizer: WordPiece, rate: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide words as BERT does.

    Args:
        ids: `[B, T]`.
        tokenizer: whose special tokens are left alone.
        rate: share of the words.
        rng: draws them.

    Returns:
        Ids with words hidden int32 `[B, T]`, and which places were chosen, bool `[B, T]`.
    """
    special = (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id)
    chosen = (rng.random(ids.shape) < rate) & ~np.isin(ids, special)
    draw, others = rng.random(ids.shape), rng.integers(len(SPECIAL_TOKENS), len(tokenizer), ids.shape)
    masked = np.where(chosen & (draw < AS_MASK), tokenizer.vocabulary.index("[MASK]"), ids)
    masked = np.where(chosen & (draw >= AS_MASK) & (draw < AS_RANDOM), others, masked)
    return masked.astype(np.int32), chosen


def draw_moves(count: int, size: tuple[int, int], shift: float, rng: np.random.Generator) -> np.ndarray:
    """Rows and columns that photos are moved by, and whether they are mirrored: int32 `[B, 3]`."""
    most = [round(side * shift) for side in size]
    moves = [rng.integers(-reach, reach + 1, count) for reach in most] + [rng.integers(0, 2, count)]
    return np.stack(moves, 1).astype(np.int32)


def move_photos(photos: tf.Tensor, moves: tf.Tensor) -> tf.Tensor:
    """Move photos uint8 `[B, H, W, 3]` by `moves` int32 `[B, 3]` (see `draw_moves`); what comes in is white."""
    import tensorflow as tf

    from pipelines.photos.pixels import WHITE

    height, width = photos.shape[1], photos.shape[2]
    rows = tf.range(height)[None] - moves[:, :1]
    columns = tf.range(width)[None] - moves[:, 1:2]
    columns = tf.where(moves[:, 2:] > 0, width - 1 - columns, columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    taken = tf.gather(photos, tf.clip_by_value(rows, 0, height - 1), batch_dims=1)
    taken = tf.gather(taken, tf.clip_by_value(columns, 0, width - 1), axis=2, batch_dims=1)
    return tf.where(inside[..., None], taken, tf.constant(WHITE, tf.uint8))
