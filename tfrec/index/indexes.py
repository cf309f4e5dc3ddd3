"""Retrieval indexes behind one interface: exact, and ScaNN (Guo et al. 2020,
https://arxiv.org/abs/1908.10396).

Both are `tf.Module`s that run inside a SavedModel. The exact one is made of stock ops. The ScaNN one calls
the ops of the `scann` package around its own state; `load_scann_ops` is all that a process needs before it
loads such a model.
"""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.processor import cores
from tfrec.chunks import in_chunks

MIN_SCANN_ITEMS = 1000  # below, a matrix product is as fast and ScaNN's partitions hold too little to train on
TRAINING_ITEMS, TRAINING_ROUNDS, FINE_TRAINING_ROUNDS = 250_000, 60, 10  # of the k-means that makes the partitions
ITEMS_OF_FINE_LEAF, MOST_LEAVES = 40, 24_000
SMALL_PIECE = 16  # queries below which a piece of a batch is not worth a thread of its own
LARGE_PIECE = 512  # queries a core from which two pieces a core go better than one; from 1,024 ScaNN's threads do


class RetrievalIndexError(ValueError):
    """Item vectors or parameters that no index can be built from."""


def check_vectors(vectors: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
    """Return item vectors as contiguous float32 `[N, D]`, or say which items are broken.

    A NaN that reaches ScaNN ends the process.

    Args:
        vectors: `[N, D]`.
        item_ids: `N` ids, named in the error.

    Raises:
        RetrievalIndexError: there are no items, the shapes don't fit, or a vector holds NaN or infinity.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(item_ids) or vectors.size == 0:
        raise RetrievalIndexError(
            f"item vectors have the shape {vectors.shape} for {len(item_ids)} items; give one vector an item"
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        named = ", ".join(str(item_ids[row]) for row in broken[:5])
        raise RetrievalIndexError(
            f"{len(broken)} of {len(vectors)} item vectors hold NaN or infinity (items {named}"
            f"{', ...' if len(broken) > 5 else ''}); the model has diverged: train with a lower learning rate"
        )
    return vectors


class ExactIndex(tf.Module):
    """Exact search by inner product, of stock TensorFlow ops.

    Args:
        vectors: item vectors float32 `[N, D]`, an array or a variable to share.
    """

    kind = "exact"

    def __init__(self, vectors: np.ndarray | tf.Variable):
        super().__init__(name="exact_index")
        self.vectors = (
            vectors if isinstance(vectors, tf.Variable) else tf.Variable(vectors, trainable=False, name="item_vectors")
        )
        self.items, self.dim = map(int, self.vectors.shape)

    def search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Find the k items with the largest inner product.

        Args:
            queries: float32 `[B, D]`.
            k: int32 scalar, at most N.

        Returns:
            Scores float32 `[B, k]`, best first (equal ones by row), and item rows int32 `[B, k]`.
        """
        return self.top_k(lambda part: self.scores(queries[part]), tf.shape(queries)[0], k)

    @property
    def exact(self) -> ExactIndex:
        """The exact index over the same vectors: this one."""
        return self

    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        """Inner products of queries `[C, D]` with all items: `[C, N]`."""
        return tf.matmul(queries, self.vectors, transpose_b=True)

    def top_k(
        self, scores: Callable[[slice], tf.Tensor], batch: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items of each query by any scores, made for a chunk of queries at a time, so that `[B, N]` is never
        held whole.

        Args:
            scores: a slice of the queries, of C of them -> their scores `[C, N]`.
            batch: how many queries there are, B.
            k: int32 scalar, at most N.

        Returns:
            As `search`.
        """
        found, rows = in_chunks(
            lambda part: tf.math.top_k(scores(part), k),
            batch,
            self.items,
            (tf.zeros([0, k]), tf.zeros([0, k], tf.int32)),
        )
        return found, rows

    def release(self) -> None:
        """Free what lives outside the module's variables: nothing here."""


class ScannIndex(tf.Module):
    """Approximate search by inner product with ScaNN: a partitioned tree, quantised scores, exact reordering.

    Partitions are trained as `partition_training` says. How many leaves are
    searched and how many candidates are reordered is decided at call time, so one build serves every setting
    (`tfrec.index.tuning` finds the cheapest that reaches a recall).

    Args:
        vectors: finite item vectors float32 `[N, D]`; see `check_vectors`.
        leaves: partitions; `default_leaves(N)` where None.
        pieces: a batch is searched in so many pieces side by side; the machine's cores where None.

    Raises:
        RetrievalIndexError: fewer than `MIN_SCANN_ITEMS` items, or more leaves than items / 16.
    """

    kind = "scann"

    def __init__(self, vectors: np.ndarray, *, leaves: int | None = None, pieces: int | None = None):
        super().__init__(name="scann_index")
        self.items, self.dim = vectors.shape
        self.leaves = default_leaves(self.items) if leaves is None else leaves
        if self.items < MIN_SCANN_ITEMS or not 1 <= self.leaves <= self.items // 16:
            raise RetrievalIndexError(
                f"ScaNN cannot be built of {self.items} items in {self.leaves} leaves: it takes at least "
                f"{MIN_SCANN_ITEMS} items and at most one leaf per 16 items; use the exact index"
            )
        self.pieces = pieces or cores()
        self.tuned_k, self.leaves_to_search, self.reorder = 12, max(1, self.leaves // 10), 100
        self._state = self._build(vectors)
        self.exact = ExactIndex(self._state.dataset)
        # A name of its own: all functions of a model share one searcher, two models in a process never do.
        self._shared_name = f"tfrec-scann-{uuid.uuid4()}"

    def _build(self, vectors: np.ndarray) -> tf.Module:
        from scann.scann_ops.py import scann_ops

        _let_searches_run_side_by_side()
        builder = scann_ops.builder(vectors, self.tuned_k, "dot_product")
        builder = builder.tree(self.leaves, self.leaves_to_search, **partition_training(vectors, self.leaves))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
        builder = builder.set_n_training_threads(cores())
        searcher = builder.reorder(self.reorder).build()
        state = searcher.serialize_to_module()
        tf.raw_ops.DestroyResourceOp(resource=searcher.searcher_handle)  # the state holds a copy
        return state

    def tune(self, *, k: int, leaves_to_search: int, reorder: int) -> None:
        """Set the effort of searches for k items; larger k scale it up. Call it before the model is
        traced.
        """
        self.tuned_k, self.leaves_to_search, self.reorder = k, leaves_to_search, reorder

    def search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Find about the k items with the largest inner product; see `ExactIndex.search`.

        A query whose leaves hold fewer than k items is answered by the exact search, so no row is short.
        """
        leaves, reorder = self._effort(k)
        scores, rows = self.search_with(queries, k, leaves, reorder)
        short = tf.reduce_any(tf.math.is_nan(scores), axis=1)  # ScaNN fills short rows with item 0 and NaN
        return tf.cond(
            tf.reduce_any(short),
            lambda: self._complete(queries, k, short, scores, rows),
            lambda: (scores, rows),
        )

    def search_with(
        self, queries: tf.Tensor, k: tf.Tensor, leaves_to_search: tf.Tensor | int, reorder: tf.Tensor | int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Search with a given effort, the batch cut into pieces for the cores (or by ScaNN itself, when it is very
        large).

        Returns:
            As `search`, but rows may be short: item 0 with the score NaN.
        """
        from scann.scann_ops.py import scann_ops

        searcher = self._searcher()

        def piece(part: tf.Tensor, parallel: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
            rows, scores = scann_ops.scann_search_batched(searcher, part, k, reorder, leaves_to_search, parallel)
            # As narrow as its longest answer: pieces of one batch may differ.
            missing = [[0, 0], [0, k - tf.shape(rows)[1]]]
            return tf.pad(rows, missing), tf.pad(scores, missing, constant_values=float("nan"))

        def one() -> tuple[tf.Tensor, tf.Tensor]:
            padded = tf.pad(queries, [[0, tf.maximum(0, 1 - batch)], [0, 0]])  # ScaNN refuses an empty batch
            rows, scores = piece(padded)
            return rows[:batch], scores[:batch]

        def side_by_side(pieces: int) -> tuple[tf.Tensor, tf.Tensor]:
            ends = [batch * i // pieces for i in range(pieces + 1)]
            found = [piece(queries[start:stop]) for start, stop in pairwise(ends)]
            return tf.concat([rows for rows, _ in found], 0), tf.concat([scores for _, scores in found], 0)

        batch = tf.shape(queries)[0]
        rows, scores = tf.case(
            [
                (batch < SMALL_PIECE * self.pieces, one),
                (batch < LARGE_PIECE * self.pieces, lambda: side_by_side(self.pieces)),
                (batch < 2 * LARGE_PIECE * self.pieces, lambda: side_by_side(2 * self.pieces)),
            ],
            default=lambda: tuple(piece(queries, parallel=True)),
            exclusive=False,
        )
        return tf.reshape(scores, [batch, k]), tf.reshape(rows, [batch, k])

    def _effort(self, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Leaves to search and candidates to reorder for k items: as tuned up to `tuned_k`, growing with k
        beyond.
        """
        growth = tf.maximum(1.0, tf.cast(k, tf.float32) / self.tuned_k)
        leaves = tf.cast(tf.math.ceil(self.leaves_to_search * tf.sqrt(growth)), tf.int32)
        reorder = tf.cast(tf.math.ceil(self.reorder * growth**0.75), tf.int32)
        return tf.minimum(leaves, self.leaves), tf.minimum(tf.maximum(reorder, 2 * k), self.items)

    def _complete(
        self, queries: tf.Tensor, k: tf.Tensor, short: tf.Tensor, scores: tf.Tensor, rows: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        found = self.exact.search(tf.boolean_mask(queries, short), k)
        where = tf.where(short)
        return (
            tf.tensor_scatter_nd_update(scores, where, found[0]),
            tf.tensor_scatter_nd_update(rows, where, found[1]),
        )

    def _searcher(self) -> tf.Tensor:
        """The searcher's handle; the op makes it from the state once, and finds it by name from then on."""
        from scann.scann_ops.py import scann_ops

        state = self._state
        return scann_ops.tensors_to_scann(
            state.dataset,
            state.scann_config,
            state.serialized_partitioner,
            state.datapoint_to_token,
            state.ah_codebook,
            state.hashed_dataset,
            state.int8_dataset,
            state.int8_multipliers,
            state.dp_norms,
            shared_name=self._shared_name,
        )

    def release(self) -> None:
        """Free the searcher: TensorFlow keeps named resources until the process ends, also when the model is
        gone.
        """
        tf.raw_ops.DestroyResourceOp(resource=self._searcher())


def partition_training(vectors: np.ndarray, leaves: int) -> dict[str, Any]:
    """How ScaNN learns so many partitions of item vectors `[N, D]`: the options of its builder's `tree`.

    Vectors of one length are clustered on their sphere, in five times the rounds of ScaNN's default, with AVQ,
    and small clusters stay: a query of 105,000 clustered items then finds in 2 leaves what took more than 64.
    More leaves than `default_leaves` start far from each other (k-means++), and few rounds do: started at random,
    many a cluster has no leaf near it, and its items lie all over.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    fine = leaves > default_leaves(len(vectors))
    return {
        "training_sample_size": min(len(vectors), TRAINING_ITEMS),
        "training_iterations": FINE_TRAINING_ROUNDS if fine else TRAINING_ROUNDS,
        "random_init": not fine,
        "min_partition_size": 5,
        "spherical": bool(np.ptp(lengths) <= 1e-3 * lengths.max()),
        "avq": 2.5,
    }


def default_leaves(items: int) -> int:
    """Partitions that suit a catalogue: about 1,000 at 100,000 items and 4,000 at a million."""
    return max(1, min(round(items**0.6), items // 100))


def finer_leaves(items: int) -> int:
    """Partitions of about forty items, where those of `default_leaves` hold pieces of too many clusters.

    Training them takes minutes at a million items, and longer in proportion to both; so there are never more.
    """
    return max(1, min(items // ITEMS_OF_FINE_LEAF, MOST_LEAVES))


def load_scann_ops() -> Path:
    """Load ScaNN's op library (not its Python package) into TensorFlow, as loading a ScaNN model needs.

    Raises:
        RetrievalIndexError: the package `scann` is not installed.
    """
    package = importlib.util.find_spec("scann")
    if package is None or not package.submodule_search_locations:
        raise RetrievalIndexError(
            "this model needs ScaNN's ops; install them (pip install 'scann[tf]') or use the exact model"
        )
    library = Path(package.submodule_search_locations[0]) / "scann_ops" / "cc" / "_scann_ops.so"
    tf.load_op_library(str(library))
    return library


def load_op_libraries(manifest: dict[str, Any]) -> None:
    """Register the op libraries that a version's manifest names, before the version is loaded.

    Raises:
        RetrievalIndexError: it names ScaNN's, and the package `scann` is not installed.
    """
    libraries = manifest.get("op_libraries", [])
    if "scann" in libraries:
        load_scann_ops()
    if "tensorflow_text" in libraries:
        import tensorflow_text  # noqa: F401  (registers its ops)


def _let_searches_run_side_by_side() -> None:
    """Tell tf.function that a search only reads its handle; else it runs the pieces of a batch one after
    another.
    """
    from tensorflow.python.framework import auto_control_deps_utils

    auto_control_deps_utils.register_read_only_resource_op("Scann>ScannSearchBatched")
