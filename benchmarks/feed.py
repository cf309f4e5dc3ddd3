"""Shuffled training examples with their histories, from purchases to tensors; against TFRecord files.

    python -m benchmarks.feed --purchases 4000000

An example is a purchase to be predicted from the customer's earlier ones. `tfrec` gathers windows of purchases from arrays
in memory, every purchase of a window being an example. `records of windows` reads the same windows from TFRecord files,
shuffled within a buffer; `records of examples` reads a record an example, its last purchases written out, as tutorials do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import Ratio, add_json, machine, measure, table, write_ratios

LENGTH, BATCH, SHUFFLE = 20, 1024, 16_384
RECORDS = 200_000  # written at most; further passes read them again


def main(arguments: list[str] | None = None) -> dict:
    """Make purchases, time the feeds, print the table; returns the leads of `tfrec`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.feed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--purchases", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    parser.add_argument(
        "--examples", type=int, default=1_000_000, help="examples that a run reads (default: 1,000,000)"
    )
    parser.add_argument("--items", type=int, default=105_000, help="size of the catalogue (default: 105,000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender (default: 3)")
    add_json(parser)
    args = parser.parse_args(arguments)
    contenders = {"tfrec": from_arrays, "records of windows": from_windows, "records of examples": from_examples}
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder), args.purchases, args.items)
        runs = measure(contenders, Path(folder), args.purchases, args.items, args.examples, repeats=args.repeats)
    rates = {name: measured.result / measured.median for name, measured in runs.items()}
    print(f"{args.purchases:,} purchases of {args.items:,} items, histories of {LENGTH}, on {machine()}\n")
    print(table(runs, units=args.examples, unit="examples"))
    leads = {name: rates["tfrec"] / rate for name, rate in rates.items() if name != "tfrec"}
    write_ratios(args.json, [Ratio("feed", name, lead) for name, lead in leads.items()])
    return {"lead": leads, "rates": rates}


def batches_of(purchases: int, items: int):
    """The batches that training reads: customers with 1 to 40 purchases, popular items more often than others."""
    from pipelines.batches import HistoryBatches, Purchases

    rng = np.random.default_rng(0)
    counts = rng.integers(1, 41, purchases // 20 + 1)
    counts = counts[: np.searchsorted(np.cumsum(counts), purchases) + 1]
    user = np.repeat(np.arange(len(counts)), counts)[:purchases].astype(np.int32)
    item = (items * rng.random(len(user)) ** 3).astype(np.int32)
    time = np.sort(rng.integers(0, 700 * 86_400, len(user)))
    return HistoryBatches(
        purchases=Purchases(user, item, time, int(user[-1]) + 1),
        length=LENGTH,
        batch_size=BATCH,
        seed=0,
        items=items,
        user_fields=np.zeros((int(user[-1]) + 1, 1), np.int32),
        candidates=False,
    )


def write_records(folder: Path, purchases: int, items: int) -> None:
    """Write windows and single examples as TFRecord files, shuffled once."""
    import tfrec  # noqa: F401  (Keras 2)

    # isort: split
    import tensorflow as tf

    batches = batches_of(purchases, items)
    steps = range(min(batches.steps_per_epoch, -(-RECORDS // BATCH)))
    writers = {name: tf.io.TFRecordWriter(str(folder / name)) for name in ("windows", "examples")}
    for step in steps:
        batch = batches(step)
        for history, targets, gaps in zip(batch["history"], batch["targets"], batch["gaps"]):
            writers["windows"].write(record(history, targets, gaps))
        examples = np.random.default_rng(step).permutation(np.argwhere(batch["targets"] >= 0))[:BATCH]
        for row, place in examples:
            history, gaps = np.full(LENGTH, -1, np.int32), np.zeros(LENGTH, np.float32)
            history[LENGTH - place :], gaps[LENGTH - place :] = (
                batch["history"][row, :place],
                batch["gaps"][row, :place],
            )
            writers["examples"].write(record(history, batch["targets"][row, place : place + 1], gaps))
    for writer in writers.values():
        writer.close()


def record(history, targets, gaps) -> bytes:
    """A serialised `tf.train.Example`."""
    import tensorflow as tf

    integers = {"history": history, "targets": targets}
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values.tolist()))
        for name, values in integers.items()
    }
    features["gaps"] = tf.train.Feature(float_list=tf.train.FloatList(value=gaps.tolist()))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def from_arrays(folder: Path, purchases: int, items: int, examples: int) -> Callable[[], int]:
    """The feed of `tfrec.train`."""
    import tfrec  # noqa: F401  (Keras 2)

    # isort: split
    from pipelines.batches import make_dataset

    return started(make_dataset(batches_of(purchases, items), 0, 10**9), examples)


def from_windows(folder: Path, purchases: int, items: int, examples: int) -> Callable[[], int]:
    """A record a window."""
    return started(parsed(folder / "windows", LENGTH + 1), examples)


def from_examples(folder: Path, purchases: int, items: int, examples: int) -> Callable[[], int]:
    """A record an example."""
    return started(parsed(folder / "examples", 1), examples)


def parsed(path: Path, targets: int):
    """Shuffled batches of a TFRecord file, parsed by the batch."""
    import tensorflow as tf

    spec = {
        "history": tf.io.FixedLenFeature([LENGTH], tf.int64),
        "targets": tf.io.FixedLenFeature([targets], tf.int64),
        "gaps": tf.io.FixedLenFeature([LENGTH], tf.float32),
    }
    records = tf.data.TFRecordDataset(str(path)).repeat().shuffle(SHUFFLE, seed=0).batch(BATCH)
    parse = lambda serialized: tf.io.parse_example(serialized, spec)  # noqa: E731
    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def started(dataset, examples: int) -> Callable[[], int]:
    """What reads at least so many examples, and returns how many; the first batch is there already."""
    batches = iter(dataset)
    next(batches)

    def read() -> int:
        seen = 0
        while seen < examples:
            seen += int(np.count_nonzero(next(batches)["targets"].numpy() >= 0))
        return seen

    return read


if __name__ == "__main__":
    main()
