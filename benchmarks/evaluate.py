"""Exact top-50 of every query over the whole catalogue and all metrics, against faiss and TFRS.

    python -m benchmarks.evaluate            70,000 queries x 105,000 items x 128
    python -m benchmarks.evaluate --small    some seconds, to see that it runs

`tfrec` searches and computes every metric with its intervals; `tfrec, search` and `faiss IndexFlatIP` search
and no more; `tfrs FactorizedTopK` computes its hit rates, on fewer queries (all take minutes). Rates
are per query, so they compare.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.measure import Measurement, Ratio, add_json, machine, measure, write_ratios

KS = (5, 10, 12, 20, 50)


@dataclass(frozen=True)
class Work:
    """Sizes of a run; `sample` of the queries go to TFRS, and every contender's hits are compared on them."""

    queries: int = 70_000
    items: int = 105_000
    dim: int = 128
    sample: int = 4_096


SMALL = Work(queries=2_000, items=5_000, dim=32, sample=512)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Time the contenders, print the table; returns the ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="a small problem, to see that it runs")
    parser.add_argument("--queries", type=int, help="number of queries (default: 70,000)")
    parser.add_argument("--items", type=int, help="number of candidates (default: 105,000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender (default: 3)")
    add_json(parser)
    args = parser.parse_args(arguments)
    work = SMALL if args.small else Work()
    sizes = {name: size for name in ("queries", "items") if (size := getattr(args, name))}
    work = replace(work, **sizes)
    work = replace(work, sample=min(work.sample, work.queries))

    contenders: dict[str, Callable] = {"tfrec": all_metrics, "tfrec, search": search_alone}
    if importlib.util.find_spec("faiss"):
        contenders["faiss IndexFlatIP"] = search_with_faiss
    contenders |= {"tfrs FactorizedTopK": factorized_top_k, "tfrs, larger batches": factorized_top_k_tuned}
    runs = measure(contenders, work, repeats=args.repeats)
    _agree(runs, work)
    queries = {name: work.sample if name.startswith("tfrs") else work.queries for name in runs}
    size = f"{work.queries:,} queries x {work.items:,} items x {work.dim}, top {max(KS)}"
    print(f"{size}, on {machine()}\n\n{_table(runs, queries)}\n")
    pairs = (
        ("tfrec", "tfrs FactorizedTopK", 20.0),
        ("tfrec", "tfrs, larger batches", None),
        ("tfrec, search", "faiss IndexFlatIP", 0.9),
    )
    ratios = [
        Ratio(
            ours.replace("tfrec", "evaluate"), theirs, _rate(runs, queries, ours) / _rate(runs, queries, theirs), wanted
        )
        for ours, theirs, wanted in pairs
        if theirs in runs
    ]
    for ratio in ratios:
        print(f"{ratio.work} / {ratio.against}: {ratio.ratio:.2f}x")
    write_ratios(args.json, ratios)
    return {f"{ratio.work} / {ratio.against}": ratio.ratio for ratio in ratios}


def generate(work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of queries `[U, D]`, of items `[N, D]`, and each query's target `[U]`, often near it."""
    rng = np.random.default_rng(0)
    items = rng.standard_normal((work.items, work.dim), np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    targets = rng.integers(0, work.items, work.queries)
    noise = rng.standard_normal((work.queries, work.dim), np.float32) / np.sqrt(work.dim)
    queries = items[targets] + 3 * noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries.astype(np.float32), items, targets


def all_metrics(work: Work) -> Callable[[], float]:
    """The whole of an evaluation after the towers: search, metrics, diversity, intervals."""
    import tfrec.index.screen  # noqa: F401  (imports TensorFlow, as the towers have by then)
    from tfrec.csr import Csr
    from tfrec.evaluation.metrics import summarize
    from tfrec.index.search import exact_top_k

    queries, items, target = generate(work)
    targets = Csr.from_rows(np.arange(work.queries), target, work.queries)

    def run() -> float:
        ranked, _ = exact_top_k(queries, items, max(KS))
        summarize(ranked, targets, n_items=work.items, vectors=items, ks=KS)
        return _hit_rate(ranked, target, work.sample)

    return run


def search_alone(work: Work) -> Callable[[], float]:
    """The search alone, to compare with faiss."""
    import tfrec.index.screen  # noqa: F401  (imports TensorFlow, as the towers have by then)
    from tfrec.index.search import exact_top_k

    queries, items, target = generate(work)
    return lambda: _hit_rate(exact_top_k(queries, items, max(KS))[0], target, work.sample)


def search_with_faiss(work: Work) -> Callable[[], float]:
    """faiss's exact inner-product index on all cores; building it is not timed."""
    import faiss

    queries, items, target = generate(work)
    index = faiss.IndexFlatIP(work.dim)
    index.add(items)
    return lambda: _hit_rate(index.search(queries, max(KS))[1], target, work.sample)


def factorized_top_k(work: Work, candidates_at_once: int = 128) -> Callable[[], float]:
    """The metric of TFRS's retrieval task as its tutorials set it up; tracing is not timed.

    Compiled, as `model.evaluate` runs it, with the tutorials' 4096 queries and 128 candidates a batch.
    """
    import tfrec  # noqa: F401, I001  (chooses Keras 2 before TensorFlow is imported)
    import tensorflow as tf
    import tensorflow_recommenders as tfrs

    queries, items, target = generate(work)
    candidates = tf.data.Dataset.from_tensor_slices(items).batch(candidates_at_once).cache()
    metric = tfrs.metrics.FactorizedTopK(candidates=candidates, ks=KS)
    true = items[target[: work.sample]]
    batches = tf.data.Dataset.from_tensor_slices((queries[: work.sample], true)).batch(4096)

    @tf.function
    def update(query: tf.Tensor, candidate: tf.Tensor) -> None:
        metric.update_state(query, candidate)

    update(*next(iter(batches)))
    metric.reset_states()

    def run() -> float:
        for batch in batches:
            update(*batch)
        return float(metric.result()[KS.index(20)])

    return run


def factorized_top_k_tuned(work: Work) -> Callable[[], float]:
    """The same with larger batches of candidates, which suit it better."""
    return factorized_top_k(work, candidates_at_once=4096)


def _hit_rate(ranked: np.ndarray, target: np.ndarray, sample: int) -> float:
    return float((ranked[:sample, :20] == target[:sample, None]).any(axis=1).mean())


def _agree(runs: dict[str, Measurement], work: Work) -> None:
    """All contenders must have found the same hits.

    But for rounding: TFRS compares the target's score, computed apart, with the list's, in which the target
    stands too. Where the two differ in the last bit, it counts a target at place 20 as one at place 21.
    """
    found = {name: measured.result for name, measured in runs.items()}
    if max(found.values()) - min(found.values()) > 0.01:
        raise RuntimeError(f"the contenders disagree on hit rate@20 of {work.sample} queries: {found}")


def _rate(runs: dict[str, Measurement], queries: dict[str, int], name: str) -> float:
    return queries[name] / runs[name].median


def _table(runs: dict[str, Measurement], queries: dict[str, int]) -> str:
    lines = [
        "| contender | queries/s | min - max | queries | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, measured in runs.items():
        rates = [queries[name] / seconds for seconds in measured.seconds]
        memory = f"{max(measured.peak_bytes) / 1e9:.2f} GB"
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        lines.append(f"| {name} | {statistics.median(rates):,.0f} | {spread} | {queries[name]:,} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
