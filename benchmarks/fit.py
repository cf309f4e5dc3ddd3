"""Training a customer and an item tower over cached features, input included, against TFRS as its tutorials write it.

    python -m benchmarks.fit                      # 1.37 million customers, 105,000 items, batches of 2048 and 8192
    python -m benchmarks.fit --batches 2048 --users 100000 --items 10000

Every contender has the same towers, a table of customers and a table of items beside a projection of cached features
with a small perceptron, in float32, and an in-batch softmax. The tutorial's way looks string ids up, encodes the item of
every example, and trains with Keras's Adam (or Adagrad). `tfrec` reads integer rows, encodes each item of a batch once,
updates the rows of the tables that a step has read, and computes the softmax in bfloat16 where the processor has it, as
`training.precision auto` does; it is also timed in float32. Rates are of warm steps. The share of its steps that goes by in
waiting for input is measured apart.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.measure import (
    Rate,
    Ratio,
    add_json,
    machine,
    measure,
    step_leads,
    step_seconds,
    step_table,
    time_steps,
    write_ratios,
)
from benchmarks.shop import frequency, make_purchases

SHUFFLE, WARM = 100_000, 2
# (batch, contender) -> by how much tfrec is to lead.
WANTED = {(2048, "tutorial, Adam"): 8.0, (8192, "tutorial, Adam"): 4.0}
WANTED |= {(2048, "tutorial, Adagrad"): 2.0, (8192, "tutorial, Adagrad"): 2.0}


@dataclass(frozen=True)
class Work:
    """Sizes of a run; it trains on `steps` batches."""

    users: int
    items: int
    purchases: int
    dim: int
    features: int
    batch: int
    steps: int


def main(arguments: list[str] | None = None) -> list[Ratio]:
    """Time the contenders at each batch size, print the tables; returns the leads."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--users", type=int, default=1_370_000, help="customers (default: 1,370,000)")
    add("--items", type=int, default=105_000, help="size of the catalogue (default: 105,000)")
    add("--purchases", type=int, default=1_000_000, help="to train on (default: 1,000,000)")
    add("--dim", type=int, default=128, help="width of the vectors (default: %(default)s)")
    add("--features", type=int, default=384, help="width of the cached features (default: %(default)s)")
    add("--batches", type=int, nargs="+", default=[2048, 8192], help="examples a step (default: 2048 8192)")
    add("--examples", type=int, default=65_536, help="examples that a run trains on (default: 65,536)")
    add("--repeats", type=int, default=3, help="runs of each contender (default: %(default)s)")
    add_json(parser)
    args = parser.parse_args(arguments)
    ratios, rates = [], []
    sizes = Work(args.users, args.items, args.purchases, args.dim, args.features, batch=0, steps=0)
    for batch in args.batches:
        work = replace(sizes, batch=batch, steps=max(1, args.examples // batch))
        with tempfile.TemporaryDirectory() as folder:
            runs = measure(CONTENDERS, work, Path(folder), repeats=args.repeats)
            waits = measure({"waiting for input": waiting}, work, Path(folder), repeats=args.repeats)
        size = f"batch {batch:,}, {work.users:,} customers, {work.items:,} items of {work.dim} dimensions"
        print(f"{size}, on {machine()}\n\n{step_table(runs, units=batch, unit='examples')}\n")
        print(f"waiting for input: {median(waits['waiting for input'].results):.1%} of a step of tfrec (< 3 %)\n")
        ratios += [
            Ratio(f"fit, batch {batch}", name, lead, WANTED.get((batch, name)), check=name.startswith("tfrec"))
            for name, lead in step_leads(runs).items()
        ]
        own = median(step_seconds(next(iter(runs.values()))))
        rates.append(Rate(f"fit, batch {batch}", "examples", batch / own))
    write_ratios(args.json, ratios, rates)
    return ratios


def cached_features(work: Work) -> np.ndarray:
    """What a frozen encoder left of each item, float16 `[N, P]`."""
    return np.random.default_rng(1).standard_normal((work.items, work.features), np.float32).astype(np.float16)


def item_features(work: Work):
    """The layer that projects the cached features of items, and its input of the whole catalogue."""
    from tfrec.towers import ShallowTower

    inputs = {"text_vector": cached_features(work)}
    return ShallowTower(work.dim, vectors=inputs, name="shallow"), inputs


def training(work: Work, folder: Path, precision: str = "auto"):
    """The trainer of `tfrec.train`, as a run of its own would have it, and its batches."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    from pipelines.batches import HistoryBatches, make_dataset
    from tfrec.config import TrainingConfig
    from tfrec.models import ItemVectors, TwoTower
    from tfrec.towers import UserTower
    from tfrec.training.environment import prepare_keras
    from tfrec.training.trainer import Trainer

    options = TrainingConfig(precision=precision)
    prepare_keras(0, options)
    purchases = make_purchases(work.users, work.items, work.purchases)
    batches = HistoryBatches(
        purchases,
        length=0,
        batch_size=work.batch,
        seed=0,
        items=work.items,
        user_fields=np.zeros((work.users, 0), np.int32),
    )
    shallow, inputs = item_features(work)
    model = TwoTower(
        vectors=ItemVectors(
            work.items, work.dim, content=False, id_embedding=True, shallow=shallow, inputs=inputs, name="vectors"
        ),
        query_tower=UserTower(work.dim, work.users, name="query_tower"),
        item_tower=None,
        frequency=frequency(purchases, work.items),
        mean_purchases=batches.mean_purchases,
        mask_own="none",
    )
    model.compute_loss(next(iter(make_dataset(batches, 0, 1))), training=True)  # creates every variable
    steps = WARM + work.steps
    trainer = Trainer(model, options=options, steps=steps, run_dir=folder)
    return trainer, make_dataset(batches, 0, steps)


def with_tfrec(work: Work, folder: Path, precision: str = "auto") -> Callable[[], list[float]]:
    """The steps of `tfrec.train`; returns the seconds of each."""
    trainer, batches = training(work, folder, precision)
    return time_steps((float(trainer.train_step(batch)) for batch in batches), WARM)


def in_float32(work: Work, folder: Path) -> Callable[[], list[float]]:
    """The same, as on a processor without bfloat16."""
    return with_tfrec(work, folder, "float32")


def waiting(work: Work, folder: Path) -> Callable[[], float]:
    """The steps of `with_tfrec`; returns the share of their time that goes by until the batch is there."""
    trainer, batches = training(work, folder)
    remaining = iter(batches)

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        batch = next(remaining)
        waited = time.perf_counter() - start
        float(trainer.train_step(batch))
        return waited, time.perf_counter() - start

    for _ in range(WARM):
        step()

    def run() -> float:
        waited, took = np.sum([step() for _ in range(work.steps)], axis=0)
        return float(waited / took)

    return run


def with_adam(work: Work, folder: Path) -> Callable[[], list[float]]:
    """The tutorial's model with Adam."""
    return with_tutorial(work, "Adam")


def with_adagrad(work: Work, folder: Path) -> Callable[[], list[float]]:
    """The tutorial's model with Adagrad."""
    return with_tutorial(work, "Adagrad")


def with_tutorial(work: Work, optimizer: str) -> Callable[[], list[float]]:
    """String ids, Keras's embeddings, the item of every example encoded, TFRS's retrieval task, `Model.fit`'s step."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    import tensorflow as tf
    import tensorflow_recommenders as tfrs

    user_ids = np.array([hashlib.sha256(b"%d" % row).hexdigest() for row in range(work.users)], "S64")
    item_ids = np.array([f"{100_000_000 + row:010d}" for row in range(work.items)], "S10")
    shallow, inputs = item_features(work)
    layers = tf.keras.layers

    class Tutorial(tfrs.Model):
        def __init__(self):
            super().__init__()
            self.user_model = tf.keras.Sequential(
                [
                    layers.StringLookup(vocabulary=user_ids.astype("U64"), mask_token=None),
                    layers.Embedding(work.users + 1, work.dim),
                    layers.Dense(work.dim),
                ]
            )
            self.item_rows = layers.StringLookup(vocabulary=item_ids.astype("U10"), mask_token=None)
            self.item_ids = layers.Embedding(work.items + 1, work.dim)
            self.features, self.cached = shallow, tf.constant(inputs["text_vector"])
            self.task = tfrs.tasks.Retrieval()

        def compute_loss(self, inputs, training=False):
            rows = self.item_rows(inputs["item"])
            vectors = self.item_ids(rows) + self.features({"text_vector": tf.gather(self.cached, rows - 1)})
            return self.task(self.user_model(inputs["user"]), vectors)

    purchases = make_purchases(work.users, work.items, work.purchases)
    examples = {"user": user_ids[purchases.user], "item": item_ids[purchases.item]}
    dataset = tf.data.Dataset.from_tensor_slices(examples).repeat().shuffle(SHUFFLE, seed=0)
    iterator = iter(dataset.batch(work.batch).prefetch(tf.data.AUTOTUNE))
    model = Tutorial()
    model.compile(optimizer=getattr(tf.keras.optimizers, optimizer)())
    step = model.make_train_function()
    return time_steps((float(step(iterator)["loss"]) for _ in range(WARM + work.steps)), WARM)


CONTENDERS: dict[str, Callable[[Work, Path], Callable[[], list[float]]]] = {
    "tfrec": with_tfrec,
    "tfrec in float32": in_float32,
    "tutorial, Adam": with_adam,
    "tutorial, Adagrad": with_adagrad,
}

if __name__ == "__main__":
    main()
