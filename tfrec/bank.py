"""Filling the bank: the whole catalogue through the item tower, by one process or by all workers of a training."""

import numpy as np
import tensorflow as tf

from pipelines.batches import make_dataset
from pipelines.content import ItemContent
from pipelines.progress import Progress
from tfrec.distributed.workers import Workers
from tfrec.models import TwoTower

ENCODE_BATCH = 256
EXCHANGE_ROWS = 16_384  # of the bank at a time, between workers


def fill_bank(model: TwoTower, content: ItemContent, workers: Workers, *, progress: bool = True) -> None:
    """Encode every item in batches, in order, into the model's bank; each of several workers its share of the items."""
    own = np.arange(content.items)[workers.place.share(content.items)]

    def batch_of(step: int) -> dict[str, dict[str, np.ndarray]]:
        return {"items": content.gather(own[step * ENCODE_BATCH : (step + 1) * ENCODE_BATCH])}

    steps = -(-len(own) // ENCODE_BATCH)
    with Progress("encode catalogue", len(own), unit=" items", shown=progress and workers.chief) as bar:
        for step, batch in enumerate(make_dataset(batch_of, 0, steps, photo_size=content.size) if steps else ()):
            vectors = model.encode_graph(batch)
            rows = own[step * ENCODE_BATCH : (step + 1) * ENCODE_BATCH].astype(np.int32)
            model.vectors.bank.scatter_nd_update(rows[:, None], vectors)
            bar.update(len(rows))
    if workers.place.count > 1:
        _exchange_rows(model.vectors.bank, own, workers)


def _exchange_rows(table: tf.Variable, own: np.ndarray, workers: Workers) -> None:
    """Give all workers every worker's `own` rows of a table `[N, D]`."""
    for start in range(0, table.shape[0], EXCHANGE_ROWS):
        rows = np.arange(start, min(start + EXCHANGE_ROWS, table.shape[0]), dtype=np.int32)
        mine = tf.where(np.isin(rows, own)[:, None], tf.gather(table, rows), 0.0)
        table.scatter_nd_update(rows[:, None], workers.sum(mine))
