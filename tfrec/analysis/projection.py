"""Vectors on a plane: PCA, t-SNE and UMAP, on a seeded sample where the catalogue is large."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfrec.evaluation.embedding_metrics import unit_rows
from tfrec.sampling import sample_rows

REDUCED = 50  # t-SNE and UMAP see this many principal components: their neighbours change little, their time a lot

log = logging.getLogger("tfrec")


@dataclass(frozen=True)
class Projection:
    """Points of one method.

    Attributes:
        method: `pca`, `tsne` or `umap`.
        points: `[n, 2]`.
        rows: `[n]` which rows of the vectors they are, ascending.
        seconds: how long it took.
    """

    method: str
    points: np.ndarray
    rows: np.ndarray
    seconds: float


def reduce(vectors: np.ndarray, components: int = REDUCED) -> np.ndarray:
    """Principal components of unit rows `[N, min(components, D, N)]`, the bounded form of large
    embeddings.
    """
    from sklearn.decomposition import PCA

    unit = unit_rows(vectors)
    count = min(components, *unit.shape)
    if count == unit.shape[1]:
        return unit
    # The covariance is D x D however many rows there are.
    solver = "covariance_eigh" if len(unit) > unit.shape[1] else "full"
    return PCA(count, svd_solver=solver).fit_transform(unit).astype(np.float32)


def project(vectors: np.ndarray, method: str, *, limit: int = 5_000, seed: int = 0) -> Projection:
    """Project vectors to two dimensions.

    Papers: t-SNE, van der Maaten and Hinton, JMLR 2008; UMAP, McInnes et al., 2018. Cosine geometry: rows are
    normalised first.

    Args:
        vectors: `[N, D]`, N >= 3.
        method: `pca`, `tsne` or `umap`.
        limit: rows used; a seeded sample where there are more.
        seed: of the sample and of the method.

    Returns:
        The points and the rows they stand for.

    Raises:
        ValueError: an unknown method.
        ImportError: `umap` without umap-learn.
    """
    if method not in METHODS:
        raise ValueError(f"projection {method!r} is unknown; use one of {sorted(METHODS)}")
    log.info("projecting by %s", method)
    start = time.perf_counter()
    rows = sample_rows(len(vectors), limit, seed)
    reduced = reduce(vectors[rows])
    points = np.asarray(METHODS[method](reduced, seed), np.float32)
    return Projection(method, points, rows, time.perf_counter() - start)


def umap_available() -> bool:
    """Whether umap-learn can be imported (without paying for the import)."""
    from importlib.util import find_spec

    return find_spec("umap") is not None


def _pca(reduced: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    points = PCA(min(2, *reduced.shape), random_state=seed).fit_transform(reduced)
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # one dimension stays on a line


def _tsne(reduced: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = "pca" if min(reduced.shape) >= 2 else "random"
    model = TSNE(2, perplexity=min(30.0, (len(reduced) - 1) / 3), init=start, random_state=seed)
    # Each of its thousand steps waits for all threads; on few points waking them costs more than they bring.
    with threadpool_limits(1 if len(reduced) < 1000 else None):
        return model.fit_transform(reduced)


def _umap(reduced: np.ndarray, seed: int) -> np.ndarray:
    import warnings

    try:
        import umap
    except ImportError as error:
        raise ImportError(f"UMAP needs umap-learn ({error}); pip install umap-learn, or use tsne") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that a seed means one thread, which is what we ask for
        model = umap.UMAP(
            n_neighbors=min(15, len(reduced) - 1),
            min_dist=0.1,
            random_state=seed,
            n_jobs=1,
            init="pca" if len(reduced) > 3 else "random",
        )
        return model.fit_transform(reduced)


METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"pca": _pca, "tsne": _tsne, "umap": _umap}
