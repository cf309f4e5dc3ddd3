"""Updating the weights of two encoders: tfrec's optimizer against Keras's AdamW, whose graph is traced and run as it comes.

    python -m benchmarks.update
    python -m benchmarks.update --blocks 1 --steps 3        # seconds, to see that it runs

The weights have the shapes of a ViT-Ti and a text encoder of MiniLM's size, 17.5 million in 289 variables. Gradients are
given, clipped by their global norm, and every kernel decays: what is timed is the update alone. What it takes to trace the
update and run it once, which every training begins with, is told in CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.measure import Measurement, Ratio, add_json, machine, measure, step_leads, step_table, write_ratios

WARM = 2


@dataclass(frozen=True)
class Work:
    """Blocks of the image encoder, and updates that a run times."""

    blocks: int
    steps: int


def main(arguments: list[str] | None = None) -> list[Ratio]:
    """Time the contenders, print the table; returns the leads."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.update", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--blocks", type=int, default=12, help="of the image encoder, twice those of the other (default: 12)"
    )
    parser.add_argument("--steps", type=int, default=20, help="updates that are timed in a run (default: 20)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender (default: 3)")
    add_json(parser)
    args = parser.parse_args(arguments)
    runs = measure(CONTENDERS, Work(args.blocks, args.steps), repeats=args.repeats)
    weights, first = weights_and_first(runs)
    updates = {name: Measurement(r.seconds, r.peak_bytes, [x[2] for x in r.results]) for name, r in runs.items()}
    print(f"{weights:,} weights in {len(shapes(args.blocks))} variables, on {machine()}\n")
    print(step_table(updates, units=weights, unit="weights"))
    print(f"\ntracing, and the first update: {', '.join(f'{name} {cpu:.1f} s of CPU' for name, cpu in first.items())}")
    ratios = [Ratio("update", name, lead) for name, lead in step_leads(updates).items()]
    write_ratios(args.json, ratios)
    return ratios


def weights_and_first(runs: dict[str, Measurement]) -> tuple[int, dict[str, float]]:
    """How many weights were updated, and the median CPU seconds of each contender's first update."""
    weights = next(iter(runs.values())).result[0]
    return weights, {name: median(result[1] for result in measured.results) for name, measured in runs.items()}


def shapes(blocks: int) -> list[tuple[int, ...]]:
    """The weights of a ViT-Ti of so many blocks, and of a text encoder of MiniLM's size with half as many."""
    found: list[tuple[int, ...]] = []
    for width, count in ((192, blocks), (384, (blocks + 1) // 2)):
        for _ in range(count):
            found += (
                [(width, width)] * 4 + [(width,)] * 8 + [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
            )
    return [*found, (4_000, 384)]


def with_tfrec(work: Work) -> Callable[[], Any]:
    """The optimizer of `tfrec.train`."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    from tfrec.training.optimizers import LazyAdamW

    return updating(LazyAdamW(1e-3, decay=0.01, global_clipnorm=1.0), work)


def with_keras(work: Work) -> Callable[[], Any]:
    """Keras's own."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    import tensorflow as tf

    return updating(tf.keras.optimizers.AdamW(1e-3, weight_decay=0.01, global_clipnorm=1.0, jit_compile=False), work)


def updating(optimizer: Any, work: Work) -> Callable[[], tuple[int, float, list[float]]]:
    """A function that takes the updates: how many weights, CPU seconds of the first one, and seconds of each other."""
    import tensorflow as tf

    from tfrec.graphs import skip_rewrites

    skip_rewrites()  # as every training does
    tf.random.set_seed(0)
    variables = [tf.Variable(tf.random.normal(shape), name=f"kernel{n}") for n, shape in enumerate(shapes(work.blocks))]
    gradients = [tf.random.normal(variable.shape) for variable in variables]
    optimizer.build(variables)
    update = tf.function(lambda: optimizer.apply_gradients(zip(gradients, variables, strict=True)), autograph=False)

    def run() -> tuple[int, float, list[float]]:
        start = time.process_time()
        update()
        first, seconds = time.process_time() - start, []
        for _ in range(WARM + work.steps):
            start = time.perf_counter()
            update()
            seconds.append(time.perf_counter() - start)
        return sum(int(tf.size(variable)) for variable in variables), first, seconds[WARM:]

    return run


CONTENDERS = {"tfrec": with_tfrec, "Keras's AdamW": with_keras}

if __name__ == "__main__":
    main()
