"""What a second worker of Ray's brings, for each job that workers can share.

    python -m benchmarks.workers                     # all jobs, about twenty minutes
    python -m benchmarks.workers --jobs encode

One worker has one core of this machine to itself, two workers have a core each; two cores of one machine stand for two
machines, so that memory and its bandwidth are shared, and the network is not. The efficiency of the second worker is half
the rate of two over the rate of one.

Starting Ray and loading models, which does not grow with the work, is left out. A training logs when each step was done, and
its rate is that of its median step, which nothing at the run's end touches. The other jobs are done at two sizes, and their
rate is what the larger one has more over the time that it takes longer.

Two cores of one machine may be slower together than one alone (threads of one core, one clock, one memory). So the job is
also done twice at the same time, by a worker on each core that knows nothing of the other: what the cores allow.
"""

from __future__ import annotations

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.measure import Ratio, add_json, machine, write_ratios

WANTED = 0.8
WORDS, VOCABULARY = 12, 2_000  # of a drawn text; different words


@dataclass(frozen=True)
class Job:
    """A command that workers share, at a size.

    Attributes:
        unit: what is counted.
        sizes: how many of them the smaller and the larger run do; the only run of a job that logs its `pace`.
        command: `(size, folder for the output)` -> the arguments of Python.
        pace: folder of the output -> seconds that a unit took; None: the job does not log it.
    """

    unit: str
    sizes: tuple[int, ...]
    command: Callable[[int, Path], list[str]]
    pace: Callable[[Path], float] | None = None


class Run(NamedTuple):
    """A job that was done: how long it took as a whole, and the folder of its output."""

    seconds: float
    out: Path


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Time the jobs, print the table; returns each job's efficiency."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.workers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS), help="default: all")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the work (default: 1)")
    add_json(parser)
    args = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two workers need two cores")
    print(f"one worker on one core and two on two; {machine()}\n")
    print("| job | one worker | two workers | efficiency of the second | two jobs apart | of that |")
    print("| --- | --- | --- | --- | --- | --- |")
    efficiency: dict[str, float] = {}
    ratios: list[Ratio] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.jobs:
            job = JOBS[name](Path(folder), args.scale)
            alone, both, each = cores[:1], cores[:2], (cores[:1], cores[1:2])
            one, two, apart = (rate(job, Path(folder), of, args.repeats) for of in ([alone], [both], each))
            efficiency[name], work = two / one / 2, f"workers, {name}"
            ratios.append(Ratio(work, "one worker", efficiency[name], WANTED, check=True))
            ratios.append(Ratio(work, "two jobs apart", two / apart, WANTED, check=True))
            rates = " | ".join(f"{speed:,.2f} {job.unit}/s" for speed in (one, two))
            print(
                f"| {name} | {rates} | {efficiency[name]:.2f} | {apart / one / 2:.2f} | {two / apart:.2f} |", flush=True
            )
    write_ratios(args.json, ratios)
    return efficiency


def rate(job: Job, folder: Path, apart: Sequence[list[int]], repeats: int) -> float:
    """Units a second of jobs side by side, each with a worker on each of its cores."""

    def side_by_side(size: int) -> list[Run]:
        with ThreadPoolExecutor(len(apart)) as pool:
            return list(pool.map(lambda cores: run(job, size, folder, cores), apart))

    runs = {size: [side_by_side(size) for _ in range(repeats)] for size in job.sizes}
    if job.pace:
        return statistics.median(sum(1 / job.pace(one.out) for one in jobs) for jobs in runs[job.sizes[0]])
    took = {size: statistics.median(max(one.seconds for one in jobs) for jobs in runs[size]) for size in job.sizes}
    less, more = job.sizes
    if took[more] <= took[less]:
        raise RuntimeError(f"{more:,} {job.unit} took no longer than {less:,}: give a larger --scale")
    return len(apart) * (more - less) / (took[more] - took[less])


def run(job: Job, size: int, folder: Path, cores: list[int]) -> Run:
    """Do a job with a worker on each of the cores, and leave its output, from which its pace is read."""
    out = Path(tempfile.mkdtemp(dir=folder))
    words = ["-m", *job.command(size, out), "--engine", "ray", "--workers", str(len(cores))]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("RAY_ADDRESS", None)
    environment["RAY_TMPDIR"] = str(out)  # a cluster of its own, whatever else runs
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *words],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # of all processes that Ray starts, too
    )
    took = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{process.stderr[-2000:]}")
    print(f"  {words[1]}, {len(cores)} workers, {size:,} {job.unit}: {took:.1f} s", file=sys.stderr, flush=True)
    return Run(took, out)


def encode_job(folder: Path, scale: float) -> Job:
    """Texts through an encoder of MiniLM's size, with random weights."""
    from pipelines.prepared import PreparedWriter
    from tfrec.encoders.pooling import SentencePooling
    from tfrec.encoders.sides import TextSide, save_side
    from tfrec.encoders.text import BertEncoder, WordPiece, train_vocabulary

    sizes = round(2_000 * scale), round(12_000 * scale)
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(VOCABULARY)])
    for size in sizes:
        texts = [" ".join(row) for row in words[rng.integers(0, VOCABULARY, (size, WORDS))]]
        with PreparedWriter(folder / f"texts-{size}", dataset="benchmark") as writer:
            writer.items(pd.DataFrame({"item_id": [str(row) for row in range(size)], "text": texts}))
    tokenizer = WordPiece(train_vocabulary(pd.Series(words), 4_096), sequence_length=64)
    bert = BertEncoder(vocabulary_size=len(tokenizer), dim=384, layers=6, heads=12, max_length=64, name="text_encoder")
    bert.build(None)
    pooling = SentencePooling("mean", normalize=True, name="text_pooling")
    pooling.build((None, None, 384))
    save_side(TextSide(bert, tokenizer, pooling, "random"), folder / "encoder")

    def command(size: int, out: Path) -> list[str]:
        words = ["tfrec.encode", "--weights", folder / "encoder", "--data", folder / f"texts-{size}"]
        return [*map(str, words), "--out", str(out / "features"), "--part", "512"]

    return Job("texts", sizes, command)


def retrieve_job(folder: Path, scale: float) -> Job:
    """Recommendations for customers of a drawn shop, by `benchmarks.retrieve`'s model."""
    from benchmarks.retrieve import Work, model_folder, publish_model, write_dataset

    del folder  # that benchmark keeps its own
    items = 20_000
    sizes = round(20_000 * scale), round(120_000 * scale)
    publish_model(items)
    for size in sizes:
        write_dataset(Work(customers=size, items=items))

    def command(size: int, out: Path) -> list[str]:
        data = Work(customers=size, items=items).folder.resolve() / "prepared"
        words = ["tfrec.retrieve", "--model", model_folder(items).resolve(), "--data", data]
        return [*map(str, words), "--out", str(out / "recommendations.parquet"), "--part", "5000"]

    return Job("customers", sizes, command)


def train_job(folder: Path, scale: float) -> Job:
    """Steps of the demo's recipe in batches of 1,024: small encoders, and much that every worker does whole."""
    options = {"training.batch_size": 1024}
    return training_job(folder, "demo", options, round(60 * scale))


def fine_tune_job(folder: Path, scale: float) -> Job:
    """Steps that train a ViT-Ti and a text encoder of MiniLM's size on 64 items of a small shop: encoders are the work."""
    image, text = {"dim": 192, "layers": 12, "heads": 3}, {"dim": 384, "layers": 6, "heads": 12}
    options: dict[str, object] = {"training.batch_size": 256, "task.encode_items": 64, "task.candidates": "in_batch"}
    options |= {f"model.image.{name}": size for name, size in image.items()}
    options |= {f"model.text.{name}": size for name, size in text.items()}
    return training_job(folder, "small", options, round(20 * scale))


def training_job(folder: Path, shop: str, options: dict, steps: int) -> Job:
    """Steps of the demo's recipe with further options, on a generated shop of a named size."""
    from pipelines.__main__ import main as pipelines

    data = folder / shop
    if pipelines(["demo", "--size", shop, "--out", str(data)]):
        raise RuntimeError("the demo shop could not be made")

    def command(size: int, out: Path) -> list[str]:
        asked = {**options, "training.steps": size, "training.evaluations": 1, "training.max_eval_users": 1}
        words = ["tfrec.train", "--recipe", "demo", "--data", str(data), "--out", str(out / "run")]
        return words + [word for name, value in asked.items() for word in (f"--{name}", str(value))]

    return Job("steps", (max(3, steps),), command, pace=lambda out: seconds_a_step(out / "run"))


def seconds_a_step(run: Path) -> float:
    """The median step of a training but its first, by the times in its TensorBoard log."""
    import tensorflow as tf

    done: dict[int, float] = {}
    for file in sorted((run / "logs").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            if any(value.tag == "loss" for value in event.summary.value):
                done[event.step] = event.wall_time
    steps = sorted(done)
    return statistics.median((done[b] - done[a]) / (b - a) for a, b in itertools.pairwise(steps))


JOBS: dict[str, Callable[[Path, float], Job]] = {
    "encode": encode_job,
    "retrieve": retrieve_job,
    "train": train_job,
    "fine-tune": fine_tune_job,
}

if __name__ == "__main__":
    main()
