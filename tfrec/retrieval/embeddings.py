"""What the laboratory reads of a retrieval run: the items' vectors, and where their texts look at the photos."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.publish import written_whole
from tfrec.config import load_config
from tfrec.reports.attention_maps import attention_of
from tfrec.retrieval.config import RetrievalConfig
from tfrec.runs.folder import ATTENTION_FILE, VECTORS_FILE

if TYPE_CHECKING:
    from tfrec.retrieval.assembly import RetrievalAssembly

log = logging.getLogger("tfrec")

SHOWN = 8  # items whose attention is kept


def is_retrieval(run_dir: Path) -> bool:
    """Whether a folder is a run of the retrieval system."""
    return (run_dir / "config.yaml").is_file() and isinstance(load_config(run_dir / "config.yaml"), RetrievalConfig)


def write_retrieval_embeddings(run_dir: Path, data: str | None = None) -> None:
    """Write `embeddings.npz` (`item_id [N]`, `vectors [N, D]`) and, of models that fuse photo and text by attention,
    `attention.npz` (`item_id [n]`, `weights [n, h, w]`) into a finished run.

    Args:
        run_dir: the run.
        data: where its dataset is by now; where it was when None.

    Raises:
        RunError: the training did not finish.
    """
    from tfrec.retrieval.loading import load_assembly
    from tfrec.retrieval.ranking import candidate_vectors

    log.info("computing the items' vectors of %s", run_dir)
    assembly = load_assembly(run_dir, data=data, other_events=True)  # vectors of items, which events do not change
    ids = assembly.prepared.items["item_id"].to_numpy(str)
    seen = attention_maps(assembly)
    if seen is not None:
        rows, weights = seen
        with written_whole(run_dir / ATTENTION_FILE) as stream:
            np.savez(stream, item_id=ids[rows], weights=weights)
    vectors = candidate_vectors(assembly)[:, : assembly.config.model.item.dim]  # without the popularity bias
    with written_whole(run_dir / VECTORS_FILE) as stream:
        np.savez(stream, item_id=ids, vectors=vectors)


def attention_maps(assembly: RetrievalAssembly, *, most: int = SHOWN) -> tuple[np.ndarray, np.ndarray] | None:
    """How much an item's text and attributes attend to each patch of its photo, in the last fusion block.

    Args:
        assembly: of a finished run.
        most: items, drawn by the run's seed among those with a photo.

    Returns:
        Item rows `[n]` and weights float32 `[n, h, w]`, see `attention_of`; None where the model has no photos, or no
        cross-attention.
    """
    tower, content = assembly.model.item_tower, assembly.content
    if tower is None or tower.image is None:
        return None
    assert content is not None  # a tower reads it
    rows = np.flatnonzero(content.arrays["has_photo"])
    rows = np.sort(np.random.default_rng(assembly.config.seed).permutation(rows)[:most])
    weights = attention_of(assembly, rows)
    return None if weights is None else (rows, weights)
