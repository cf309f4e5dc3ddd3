"""Recommendations for every customer, end to end, against its steps timed alone: reading, query tower, ScaNN,
writing.

    python -m benchmarks.retrieve                1,370,000 customers, 105,000 items, as H&M has
    python -m benchmarks.retrieve --small        a minute, to see that it runs

The steps run side by side, so the whole may take less than their sum. A second end-to-end run with a quarter
of the customers shows how memory grows. The towers are of `hm-small`'s size, with random weights.
"""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import Measurement, Rate, Ratio, add_json, machine, measure, table, write_ratios
from pipelines.prepared import PreparedWriter
from tfrec.batch_retrieval.job import Job, RetrieveOptions, load_job
from tfrec.histories import unpadded

FOLDER = Path("build/benchmarks/retrieve")
DIM, LENGTH, LAYERS = 128, 20, 2
START = 1_569_888_000
STEPS = ("read", "query tower", "ScaNN", "write")


@dataclass(frozen=True)
class Work:
    """Sizes of a run."""

    customers: int = 1_370_000
    items: int = 105_000
    events: float = 23.0  # a customer, on average
    batch: int = 1024

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.customers}x{self.items}"

    def options(self) -> RetrieveOptions:
        data, out = self.folder / "prepared", self.folder / "recs.parquet"
        return RetrieveOptions(model_folder(self.items), data, out, batch=self.batch)


SMALL = Work(customers=20_000, items=5_000, events=5.0)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Time the steps and the whole, print the table; returns the ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="a small problem, to see that it runs")
    parser.add_argument("--customers", type=int, help="default: 1,370,000")
    parser.add_argument("--items", type=int, help="default: 105,000")
    parser.add_argument("--batch", type=int, help="customers a call of the model (default: 1024)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each (default: %(default)s)")
    add_json(parser)
    options = parser.parse_args(arguments)
    work = SMALL if options.small else Work()
    sizes = {name: size for name in ("customers", "items", "batch") if (size := getattr(options, name))}
    work = Work(**{**vars(work), **sizes})
    quarter = Work(**{**vars(work), "customers": work.customers // 4})
    publish_model(work.items)
    for size in (work, quarter):
        write_dataset(size)

    print(f"{work.customers:,} customers, {work.items:,} items, batch {work.batch}; {machine()}")
    runs = measure({"end to end": end_to_end, **dict(zip(STEPS, ALONE))}, work, repeats=options.repeats)
    runs |= measure({"end to end, a quarter": end_to_end}, quarter, repeats=options.repeats)
    whole = {name: run for name, run in runs.items() if name in ("end to end", *STEPS)}
    print(table(whole, units=work.customers, unit="customers"))
    found = ratios(runs)
    for name, ratio in found.items():
        print(f"{name}: {ratio:.2f}")
    steps = Ratio(
        "retrieve, end to end", "its steps alone, summed", found["sum of the steps / end to end"], 0.85, check=True
    )
    rate = work.customers / runs["end to end"].median
    write_ratios(options.json, [steps], [Rate(f"retrieve, {work.items} items", "customers", rate)])
    return found


def ratios(runs: dict[str, Measurement]) -> dict[str, float]:
    """The sum of the steps over the whole, and memory of the whole over that of a quarter."""
    whole, quarter = runs["end to end"], runs["end to end, a quarter"]
    return {
        "sum of the steps / end to end": sum(runs[step].median for step in STEPS) / whole.median,
        "peak memory / peak memory of a quarter of the customers": max(whole.peak_bytes) / max(quarter.peak_bytes),
    }


# -- contenders: each returns the work to time ---------------------------------------------------------------


def end_to_end(work: Work) -> Callable[[], int]:
    """`tfrec.retrieve` without its imports and the loading of the model."""
    job = load_job(work.options())
    _warm_up(job)
    return lambda: job.run(lambda done: None)


def read_alone(work: Work) -> Callable[[], int]:
    """Read all customers and their last purchases."""
    job = load_job(work.options())
    return lambda: sum(len(job.reader.read(rows)) for rows in job.cuts())


def tower_alone(work: Work) -> Callable[[], None]:
    """Encode one part's customers as often as there are parts."""
    import tensorflow as tf

    job = load_job(work.options())
    customers, _ = job.reader.read(job.cuts()[0]).by_length()
    query, vectors = make_towers().query, tf.constant(item_vectors(work.items))
    shapes = [
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None, None]),
        tf.TensorSpec([None, 0], tf.int32),
    ]
    encode = tf.function(lambda *given: query(*given, vectors), input_signature=shapes)

    def run() -> None:
        for rows in batches(work, len(customers)):
            read = unpadded(customers.history[rows])
            encode(customers.history[rows, read], customers.days_ago[rows, read], customers.fields[rows]).numpy()

    run_once = encode(*(x[:1] for x in (customers.history, customers.days_ago, customers.fields)))
    assert run_once.shape == (1, DIM)
    return run


def scann_alone(work: Work) -> Callable[[], None]:
    """Search for random queries, as many as there are customers, through the SavedModel."""
    job = load_job(work.options())
    items = np.asarray(job.model.module.item_ids.numpy(), object)
    similar = np.random.default_rng(0).permutation(items)[: work.batch]
    search = job.model.signatures["similar"]
    import tensorflow as tf

    none = tf.constant([[""]])
    given = {"k": tf.constant(12), "exclude": none, "allow": none, "allow_items": none}
    search(item_id=tf.constant(similar), **given)

    def run() -> None:
        for rows in batches(work, len(similar)):
            search(item_id=tf.constant(similar[rows]), **given)

    return run


def write_alone(work: Work) -> Callable[[], int]:
    """Write parts of random recommendations, and put them together."""
    from tfrec.batch_retrieval.files import recommendation_table

    job = load_job(work.options())
    import pyarrow as pa

    item_ids = pa.array([name.decode() for name in job.model.module.item_ids.numpy()])
    customers = job.reader.read(job.cuts()[0])
    random = np.random.default_rng(0)
    rows = random.integers(0, work.items, (len(customers), 12)).astype(np.int32)
    scores = random.random(rows.shape, np.float32)

    def run() -> int:
        for number, cut in enumerate(job.cuts()):
            part = slice(0, len(cut))
            table = recommendation_table(customers.ids[part], rows[part], scores[part], item_ids)
            job.parts.write(number, table)
        job.parts.finish(len(job.cuts()), work.options().out, "parquet")
        return len(job.cuts())

    return run


ALONE = (read_alone, tower_alone, scann_alone, write_alone)


def batches(work: Work, available: int) -> Iterator[slice]:
    """As many slices of at most `available` rows as all customers make batches."""
    for start in range(0, work.customers, work.batch):
        first = start % max(1, available - work.batch + 1)
        yield slice(first, first + min(work.batch, work.customers - start))


def _warm_up(job: Job) -> None:
    customers = job.reader.read(job.rows[: job.options.batch])
    job.recommend(customers, lambda done: None)


# -- what they work on ---------------------------------------------------------------------------------------


def write_dataset(work: Work) -> None:
    """Write a prepared dataset of random customers with 64-character ids, unless it is there."""
    target = work.folder / "prepared"
    if target.exists():
        return
    random = np.random.default_rng(1)
    counts = random.geometric(1 / (work.events + 1), work.customers) - 1
    popularity = 1 / np.arange(1, work.items + 1) ** 0.8
    with PreparedWriter(target, dataset="benchmark") as writer:
        writer.items(pd.DataFrame({"item_id": item_names(work.items)}))
        writer.users(pd.DataFrame({"user_id": [f"{row:064x}" for row in range(work.customers)]}))
        writer.events(
            _events(start, counts[start : start + 100_000], popularity / popularity.sum(), random)
            for start in range(0, work.customers, 100_000)
        )


def _events(first: int, counts: np.ndarray, popularity: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    user = np.repeat(np.arange(first, first + len(counts), dtype=np.int32), counts)
    time = START + random.integers(0, 730, len(user)) * 86_400
    return pd.DataFrame(
        {
            "user": user,
            "item": random.choice(len(popularity), len(user), p=popularity).astype(np.int32),
            "time": time[np.lexsort((time, user))].astype(np.int64),
            "split": np.zeros(len(user), np.int8),
        }
    )


def item_names(items: int) -> list[str]:
    """Ids as H&M writes them."""
    return [f"{row:010d}" for row in range(items)]


def make_towers(length: int = LENGTH):
    """A tower of histories of `length` with random weights, as export wants it."""
    import tensorflow as tf

    from tfrec.towers import HistoryTower

    tf.keras.utils.set_random_seed(0)

    class Towers(tf.Module):
        def __init__(self):
            super().__init__()
            self.tower = HistoryTower(DIM, length, layers=LAYERS, heads=4)

        def query(self, history, days_ago, user_fields, vectors):
            del user_fields
            following = tf.concat([days_ago[:, 1:], tf.zeros_like(days_ago[:, :1])], 1)
            bought = tf.gather(vectors, tf.maximum(history, 0))
            states = self.tower(bought, history >= 0, tf.maximum(days_ago - following, 0.0), last=True)
            return tf.math.l2_normalize(states[:, 0], -1)

        def similar_query(self, vectors):
            return vectors

    return Towers()


def item_vectors(items: int) -> np.ndarray:
    """Unit vectors in clusters."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(max(10, items // 50), DIM)).astype(np.float32)
    vectors = centers[random.integers(0, len(centers), items)]
    vectors += random.normal(size=vectors.shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def model_folder(items: int, length: int = LENGTH) -> Path:
    """The ScaNN model of a catalogue, for histories of `length`."""
    return FOLDER / "models" / f"items{items}x{length}_scann"


def publish_model(items: int, length: int = LENGTH) -> None:
    """Export a run with random weights, unless it is there."""
    folder = model_folder(items, length)
    if folder.exists():
        return
    from tfrec.export import export_run
    from tfrec.runs.run import Run

    run = Run(
        name="benchmark",
        towers=make_towers(length),
        item_ids=item_names(items),
        item_vectors=item_vectors(items),
        popularity=np.arange(items, 0, -1, dtype=np.float32),
        history_length=length,
        config={},
    )
    export_run(run, folder.name.removesuffix("_scann"), folder.parent)


if __name__ == "__main__":
    main()
