"""What a worker of `tests/test_workers.py` does, in a process of its own with a TF_CONFIG: small models, trained together.

python -m tests.worker_training OUT [--compare] [--kill STEP]
"""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import argparse
import os
import signal
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.batches import HistoryBatches, Purchases, make_dataset
from pipelines.content import ItemContent
from tests.test_models import DIM, ITEMS, OneHot
from tfrec.bank import fill_bank
from tfrec.config import TrainingConfig
from tfrec.distributed.workers import WorkerLost, Workers, loss_of_a_worker_told
from tfrec.fusion import CrossAttentionFusion
from tfrec.models import ItemVectors, TwoTower
from tfrec.ratings.config import RatingTask
from tfrec.ratings.model import RatingHead, RatingTwoTower
from tfrec.towers import HistoryTower, ItemTower
from tfrec.training.environment import set_determinism
from tfrec.training.trainer import Trainer

USERS, LENGTH, BATCH, STEPS = 50, 8, 17, 6  # an odd batch: the workers' shares differ
MODELS = {
    "in_batch": {"ratings": True, "id_dropout": 0.4, "repeats": True, "shortcut": True, "hard_negatives": 3},
    "catalogue": {"candidates": "catalogue", "accumulate": 2, "tie": True, "bias": True},
}
CONTENT = ItemContent(ITEMS, {"tokens": np.arange(1, ITEMS + 1, dtype=np.int32)[:, None]})


def make_batches(workers: Workers, *, ratings: bool = False) -> HistoryBatches:
    """A little shop; many of its items are bought more than once in a batch."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS, dtype=np.int32), random.integers(1, 14, USERS))
    item = (ITEMS * random.random(len(user)) ** 2).astype(np.int32)
    rating = random.integers(1, 6, len(user)).astype(np.float32) if ratings else None
    return HistoryBatches(
        Purchases(user, item, np.arange(len(user)) * 40_000, USERS, rating),
        length=LENGTH,
        batch_size=BATCH,
        seed=0,
        items=ITEMS,
        user_fields=np.zeros((USERS, 0), np.int32),
        content=CONTENT,
        encode_items=7,
        negatives=2,
        modality_dropout=0.2,
        recency_days=5.0,
        worker=workers.place.index,
        workers=workers.place.count,
    )


def make_trainer(workers: Workers, run_dir: Path, *, dropout: float = 0.0, **options) -> tuple[Trainer, HistoryBatches]:
    """A small model with its trainer and batches; the weights are the same in every process."""
    tf.keras.utils.set_random_seed(workers.place.index if dropout else 0)  # a worker takes the chief's in `fit`
    ratings, accumulate = options.pop("ratings", False), options.pop("accumulate", 1)
    of_vectors = {name: options.pop(name) for name in ("id_dropout", "tie", "bias") if name in options}
    batches = make_batches(workers, ratings=ratings)
    tower = ItemTower(CrossAttentionFusion(DIM, 1, 2), text=OneHot(), name="item_tower")
    parts = {
        "vectors": ItemVectors(ITEMS, DIM, content=True, id_embedding=True, **of_vectors),
        "item_tower": tower,
        "query_tower": HistoryTower(DIM, LENGTH, layers=1, heads=2, dropout=dropout),
        "frequency": np.full(ITEMS, 1 / ITEMS),
        "mean_purchases": batches.mean_purchases,
        "negatives": 2,
    }
    if ratings:
        head = RatingHead(USERS, ITEMS, mean=3.0, factors=4, hidden=8)
        model: TwoTower = RatingTwoTower(head=head, options=RatingTask(liked=3.0), **parts, **options)
    else:
        model = TwoTower(**parts, **options)
    model.compute_loss(tf.nest.map_structure(tf.constant, batches.whole(0)), training=True)
    training = TrainingConfig(
        learning_rate=0.02,
        warmup=0.0,
        schedule="plateau",
        evaluations=3,
        clip_norm=0.05,
        accumulate=accumulate,
        checkpoint_seconds=-1.0,
    )
    return Trainer(model, options=training, steps=STEPS, run_dir=run_dir, workers=workers), batches


def learn(workers: Workers, run_dir: Path, **options) -> dict[str, np.ndarray]:
    """Losses of three steps, gradients of the last one, what weights and bank have become, and the bank filled anew."""
    trainer, batches = make_trainer(workers, run_dir, **options)
    apply, losses = trainer._apply, []

    @tf.function(autograph=False, reduce_retracing=True)
    def step(batch):
        kept = []
        trainer._apply = lambda gradients: kept.extend(gradients) or apply(gradients)
        return trainer._step(batch), [None if g is None else tf.convert_to_tensor(g) for g in kept]

    for batch in make_dataset(batches, 0, 3):
        loss, gradients = step(batch)
        losses.append(float(loss))
    found = {f"gradient {i}": g.numpy() for i, g in enumerate(gradients) if g is not None}
    found |= {f"weight {i}": v.numpy() for i, v in enumerate(trainer.model.variables)}
    fill_bank(trainer.model, CONTENT, workers, progress=False)
    return found | {"losses": np.array(losses), "bank": trainer.model.vectors.bank.numpy()}


def fit(workers: Workers, run_dir: Path, *, kill: int | None = None) -> Trainer:
    """A whole training with validation; the last worker kills itself before step `kill`."""
    trainer, batches = make_trainer(workers, run_dir, dropout=0.3, id_dropout=0.4)
    model = trainer.model

    def evaluate():
        fill_bank(model, CONTENT, workers, progress=False)
        return {"recall@20": float(tf.reduce_sum(model.vectors.bank**2)) + 1000.0 * workers.place.index}

    class Batches:
        def __init__(self, start, stop):
            self.start, self.dataset = start, make_dataset(batches, start, stop)
            self.element_spec = self.dataset.element_spec

        def __iter__(self):
            for step, batch in enumerate(self.dataset, self.start):
                if step == kill and not workers.chief:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

    trainer.fit(Batches, evaluate)
    return trainer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--kill", type=int)
    options = parser.parse_args()
    workers = Workers.join()
    set_determinism(0, True)
    out, index = options.out, workers.place.index
    if options.compare:
        for name, model in MODELS.items():
            np.savez(out / f"{name} {index}.npz", **learn(workers, out / f"{name} {index}", **model))
    run_dir = out / "run" if index == 0 else out / "elsewhere"  # the chief's folder is seen by the chief alone
    with loss_of_a_worker_told():
        trainer = fit(workers, run_dir, kill=options.kill)
    np.savez(out / f"run {index}.npz", **{str(i): v.numpy() for i, v in enumerate(trainer.model.variables)})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WorkerLost as error:
        sys.exit(f"error: {error}")
