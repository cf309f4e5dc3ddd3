"""Index search: the served ScaNN model against raw ScaNN, and against other libraries at equal recall.

    python -m benchmarks.index                      105,000 items, as H&M's catalogue, and a million
    python -m benchmarks.index --items 105000       minutes; a million takes half an hour
    python -m benchmarks.index --small              some seconds, to see that it runs

Peers that are not installed are left out (`pip install faiss-cpu hnswlib`). Item vectors lie in clusters, as
trained ones do, and queries near them. Every figure is queries per second on all cores, the median of
repeats, in one run.
"""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.measure import Ratio, add_json, machine, write_ratios
from tfrec.index.indexes import ScannIndex, finer_leaves, partition_training
from tfrec.index.search import exact_top_k
from tfrec.index.tuning import FINER_FROM, REORDER, leaf_counts, recall_against

K = 12
BATCHES = (1, 256, 1024, 4096)
REORDERED = (2, 4, 8)  # times K, by faiss's IVF-PQ
SEARCH_DEPTHS = (16, 32, 64, 128, 256, 512, 1024)  # of a graph, or lists probed

Search = Callable[[np.ndarray], np.ndarray]


def make_data(items: int, queries: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit item vectors in clusters `[N, D]`, and queries near them `[Q, D]`."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(max(10, items // 50), dim)).astype(np.float32)
    vectors = centers[random.integers(0, len(centers), items)]
    vectors += random.normal(size=vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors[random.integers(0, items, queries)]
    return vectors, near + random.normal(size=near.shape).astype(np.float32) * 0.5 / dim**0.5


def rates(searches: dict[str, Search], queries: np.ndarray, batch: int, repeats: int) -> dict[str, float]:
    """Queries per second of each, the median of rounds in turns, so that a slow minute hits all of them.

    Calls go through all queries, a batch at a time: what an index reads for one that is asked again and again stays in the
    cache.
    """
    batches = [queries[start : start + batch] for start in range(0, len(queries) - batch + 1, batch)]
    calls, seconds = {}, {name: [] for name in searches}
    for name, search in searches.items():
        search(batches[0])
        start = time.perf_counter()
        search(batches[0])
        calls[name] = max(1, round(0.2 / (time.perf_counter() - start)))
    for _ in range(repeats):
        for name, search in searches.items():
            start = time.perf_counter()
            for call in range(calls[name]):
                search(batches[call % len(batches)])
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return {name: batch / float(np.median(took)) for name, took in seconds.items()}


def saved_model_search(index: ScannIndex, leaves: int, reorder: int, folder: Path) -> Search:
    """The index in a SavedModel, loaded back: what TensorFlow Serving would call."""
    index.tune(k=K, leaves_to_search=leaves, reorder=reorder)
    module = tf.Module()
    module.index = index
    signature = [tf.TensorSpec([None, index.dim], tf.float32, name="queries")]
    module.search = tf.function(lambda queries: index.search(queries, tf.constant(K))[1], input_signature=signature)
    tf.saved_model.save(module, str(folder), options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]))
    loaded = tf.saved_model.load(str(folder))
    search = loaded.search.concrete_functions[0]  # a server holds it, too; finding it takes a tenth of a batch's time
    return lambda queries: search(tf.constant(queries)).numpy()


def in_graph(index: ScannIndex) -> Callable[[int, int], Search]:
    """The index's search as a function of its effort."""
    whole, number = tf.TensorSpec([None, index.dim]), tf.TensorSpec([], tf.int32)
    search = tf.function(
        lambda *given: index.search_with(given[0], K, *given[1:])[1], input_signature=[whole, number, number]
    )
    return lambda leaves, reorder: lambda queries: search(*map(tf.constant, (queries, leaves, reorder))).numpy()


def raw_scann_search(vectors: np.ndarray, leaves: int, reordered_by: str = "FLOAT32") -> Callable[[int, int], Search]:
    """ScaNN's own Python binding, built alike, with its own parallel search."""
    import scann
    from scann.scann_ops.py.scann_builder import ReorderType

    builder = scann.scann_ops_pybind.builder(vectors, K, "dot_product")
    builder = builder.tree(leaves, 10, **partition_training(vectors, leaves))
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
    searcher = builder.reorder(100, quantize=ReorderType[reordered_by]).build()
    return lambda leaves, reorder: lambda queries: searcher.search_batched_parallel(queries, K, reorder, leaves)[0]


def peers(vectors: np.ndarray) -> dict[str, Callable[[int], Search]]:
    """Other libraries' indexes by name: from a search depth to a search."""
    found: dict[str, Callable[[int], Search]] = {}
    dim = vectors.shape[1]
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        print("faiss is not installed: left out", file=sys.stderr)
    else:
        hnsw = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        hnsw.hnsw.efConstruction = 200
        hnsw.add(vectors)
        found["faiss HNSW"] = lambda depth: faiss_search(hnsw, (hnsw.hnsw, "efSearch", depth))
        lists = max(16, round(4 * len(vectors) ** 0.5))
        ivf = faiss.index_factory(dim, f"IVF{lists},PQ{dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        ivf.train(vectors)
        ivf.add(vectors)
        base = faiss.extract_index_ivf(ivf.base_index)

        def ivf_search(factor: int) -> Callable[[int], Search]:
            return lambda depth: faiss_search(ivf, (base, "nprobe", max(1, depth // 8)), (ivf, "k_factor", factor))

        found |= {f"faiss IVF-PQ {factor}": ivf_search(factor) for factor in REORDERED}
    try:
        hnswlib = importlib.import_module("hnswlib")
    except ImportError:
        print("hnswlib is not installed: left out", file=sys.stderr)
    else:
        graph = hnswlib.Index("ip", dim)
        graph.init_index(len(vectors), ef_construction=200, M=16)
        graph.add_items(vectors)

        def search(depth: int) -> Search:
            def run(queries: np.ndarray) -> np.ndarray:
                graph.set_ef(max(depth, K))
                return graph.knn_query(queries, K)[0]

            return run

        found["hnswlib"] = search
    return found


def faiss_search(index, *effort: tuple[Any, str, int]) -> Search:
    """A faiss search with an effort: attributes of the index or of its parts, so they are set at every call."""

    def run(queries: np.ndarray) -> np.ndarray:
        for holder, name, value in effort:
            setattr(holder, name, value)
        return index.search(queries, K)[1]

    return run


def scann_settings(search: Callable[[int, int], Search], index: ScannIndex, queries, exact) -> list[tuple]:
    """(recall, leaves, reorder) over the grid of `tfrec.export`."""
    pairs = [(count, reorder) for count in leaf_counts(index.leaves) for reorder in REORDER]
    return [(recall_against(np.asarray(search(*pair)(queries)), exact), *pair) for pair in pairs]


def compare(options: argparse.Namespace, items: int) -> list[dict]:
    """All rows of the table of so many items."""
    vectors, queries = make_data(items, max(BATCHES), options.dim, options.seed)
    exact = exact_top_k(queries[:1000], vectors, K)[0]
    finer = finer_leaves(items) if items >= FINER_FROM else None  # as `tfrec.export` would have it
    index = ScannIndex(vectors, leaves=options.leaves or finer)
    raw = raw_scann_search(vectors, index.leaves)
    own = in_graph(index)  # trained from other random centres: what reaches a recall is found for each
    grids = {search: scann_settings(search, index, queries[:1000], exact) for search in (own, raw)}
    others = {} if options.no_peers else peers(vectors)
    rows: list[dict] = []
    for target in options.recall:
        settings = [fastest(grid, target, search, queries) for search, grid in grids.items()]
        if None in settings:
            print(f"{target:5.2f}  ScaNN does not reach it", flush=True)
            continue
        folder = options.folder / f"{items}-{target}"
        searches = {
            "tfrec SavedModel": saved_model_search(index, *settings[0], folder),
            "scann pybind": raw(*settings[1]),
            **{name: found for name, search in others.items() if (found := at_recall(search, target, queries, exact))},
        }
        recalls = {name: recall_against(np.asarray(run(queries[:1000])), exact) for name, run in searches.items()}
        for batch in BATCHES:
            for name, speed in rates(searches, queries, batch, options.repeats).items():
                row = {"target": target, "index": name, "batch": batch}
                rows.append({**row, "queries/s": round(speed), "recall": round(recalls[name], 4)})
                print(f"{target:5.2f}  {name:18} batch {batch:5d}  {speed:9,.0f} queries/s  {recalls[name]:.4f}")
    return rows


def fastest(grid: list[tuple], target: float, raw, queries: np.ndarray) -> tuple[int, int] | None:
    """The fastest (leaves, reorder) of a ScaNN search with the recall; None where none has it."""
    fit = {str(pair): pair for recall, *pair in grid if recall >= target}
    speeds = rates({name: raw(*pair) for name, pair in fit.items()}, queries, batch=1024, repeats=2)
    return fit[max(speeds, key=lambda name: speeds[name])] if fit else None


def at_recall(search: Callable[[int], Search], target: float, queries, exact) -> Search | None:
    """A peer's search at the least depth with the recall; None where none has it."""
    for depth in SEARCH_DEPTHS:
        if recall_against(np.asarray(search(depth)(queries[:1000])), exact) >= target:
            return search(depth)
    return None


def ratios(rows: list[dict], items: int) -> list[Ratio]:
    """The figures to look at: against raw ScaNN at each batch, and against the best peer, each at its best batch."""
    found = []
    for target in sorted({row["target"] for row in rows}):
        at = {(row["index"], row["batch"]): row["queries/s"] for row in rows if row["target"] == target}
        for batch in BATCHES:
            ratio = at["tfrec SavedModel", batch] / at["scann pybind", batch]
            wanted = 0.95 if batch >= 512 else None
            found.append(Ratio(f"index, {items:,}, recall {target}, batch {batch}", "scann pybind", ratio, wanted))
        best = max(
            (speed for (name, _), speed in at.items() if name not in ("tfrec SavedModel", "scann pybind")), default=0
        )
        if best:
            ratio = max(at["tfrec SavedModel", batch] for batch in BATCHES) / best
            wanted = {0.95: 3.0, 0.99: 1.7}.get(target)
            found.append(Ratio(f"index, {items:,}, recall {target}", "best peer", ratio, wanted))
    return found


def main(arguments: list[str] | None = None) -> list[dict]:
    """Time everything, print the table and the ratios; returns the rows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="a small problem, to see that it runs")
    parser.add_argument("--items", type=int, nargs="+", default=[105_000, 1_000_000], help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--leaves", type=int, help="partitions (default: by the number of items)")
    parser.add_argument("--recall", type=float, nargs="+", default=[0.95, 0.98, 0.99], metavar="R")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peers", action="store_true", help="ScaNN alone")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/index"), help="for the SavedModels")
    add_json(parser)
    options = parser.parse_args(arguments)
    if options.small:
        options.items, options.dim, options.repeats, options.recall = [3000], 32, 1, [0.95]
    rows: list[dict] = []
    found: list[Ratio] = []
    for items in options.items:
        print(f"{items} x {options.dim} vectors, k = {K}, {machine()}", flush=True)
        rows += (of_size := compare(options, items))
        found += (leads := ratios(of_size, items))
        for ratio in leads:
            print(f"{ratio.work} / {ratio.against}: {ratio.ratio:.2f}x", flush=True)
    write_ratios(options.json, [ratio for ratio in found if ratio.wanted])
    return rows


if __name__ == "__main__":
    main()
