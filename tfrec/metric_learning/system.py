"""The metric-learning system: train an encoder of photos so that classes lie apart, evaluate it in embedding space."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.photos.views import read_views
from pipelines.prepared import open_prepared
from pipelines.publish import written_whole
from tfrec.config import load_config
from tfrec.evaluation.embedding_metrics import knn_hits, retrieval_metrics
from tfrec.evaluation.labels import can_be_evaluated
from tfrec.evaluation.metrics import write_metrics
from tfrec.metric_learning.assembly import MetricAssembly
from tfrec.metric_learning.config import MetricLearningConfig
from tfrec.metric_learning.pixel_components import shrunk
from tfrec.metric_learning.protocol import LabelProtocol, protocol_words
from tfrec.reports.metrics_page import write_metrics_page
from tfrec.runs.dataset import open_own_data
from tfrec.runs.finished import check_finished
from tfrec.runs.folder import VECTORS_FILE
from tfrec.training.environment import prepare_keras
from tfrec.training.trainer import Trainer

log = logging.getLogger("tfrec")

BEFORE_FILE = "before.npy"
PIXEL_SIDE = 32  # raw pixels are compared at this size at most


def train(config: MetricLearningConfig, run_dir: Path) -> None:
    """Train an encoder from wherever its run stands; leaves its weights, and every item's vectors before and after."""
    prepare_keras(config.seed, config.training)
    assembly = MetricAssembly(config, open_prepared(config.data))
    options, batches, model = config.training, assembly.batches, assembly.model
    steps = options.steps or options.epochs * batches.steps_per_epoch
    log.info(
        "%d training items of %d classes, %d weights to train, %d steps of %d x %d",
        len(batches.rows),
        int(batches.labels.max()) + 1,
        sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        steps,
        batches.classes,
        batches.per_class,
    )
    if not (run_dir / BEFORE_FILE).exists():  # the weights are still those before the first step
        before = assembly.embed(assembly.rows(), features=True)
        with written_whole(run_dir / BEFORE_FILE) as stream:
            np.save(stream, before)
    rates = {v.name: options.encoder_rate for v in model.views.encoder.trainable_variables}
    trainer = Trainer(model, options=options, steps=steps, run_dir=run_dir, rates=rates)
    trainer.fit(assembly.dataset, validation(assembly))
    write_embeddings(assembly, run_dir)
    trainer.finish()


def validation(assembly: MetricAssembly) -> Callable[[], dict[str, float]] | None:
    """A function that evaluates the model as it is on the validation items; None where no two of them are of one class, so
    that every metric would be 0 for ever, and the first weights the best.
    """
    rows, options = assembly.rows("val"), assembly.config.evaluation
    labels = assembly.labels[rows]
    if not can_be_evaluated(labels) or np.unique(labels, return_counts=True)[1].max() < 2:
        log.info("no two validation items of one class beside another class: the last weights are kept")
        return None

    def evaluate() -> dict[str, float]:
        vectors = assembly.embed(rows, progress=False)
        found = retrieval_metrics(vectors, labels, ks=options.k, max_queries=options.max_rows)
        hits = knn_hits(vectors, labels, k=options.neighbors, max_queries=options.max_rows)
        found["knn_accuracy"] = float(hits.mean())
        return {name: value for name, value in found.items() if not name.startswith("queries")}

    return evaluate


def write_embeddings(assembly: MetricAssembly, run_dir: Path) -> None:
    """Write `embeddings.npz`: `item_id [N]`, `vectors [N, E]`, and `before [N, F]`, the encoder's before training."""
    rows = assembly.rows()
    ids = assembly.prepared.items["item_id"].to_numpy()[rows].astype(str)
    vectors, before = assembly.embed(rows), np.load(run_dir / BEFORE_FILE)
    with written_whole(run_dir / VECTORS_FILE) as stream:
        np.savez(stream, item_id=ids, vectors=vectors, before=before)


def evaluate(run_dir: Path, *, split: str = "test", ks: list[int] | None = None) -> dict:
    """Evaluate a finished run beside raw pixels and the encoder before training: `metrics.json` and `report.html`.

    Args:
        run_dir: the run.
        split: `val` or `test`.
        ks: cut-offs of recall; the run's own where None.

    Returns:
        The content of metrics.json.

    Raises:
        RunError: the training did not finish.
        ConfigError: the split has no items to evaluate.
    """
    config = load_config(run_dir / "config.yaml", MetricLearningConfig)
    check_finished(run_dir)
    prepared = open_own_data(run_dir, config)
    with np.load(run_dir / VECTORS_FILE, allow_pickle=False) as arrays:
        vectors, before, ids = arrays["vectors"], arrays["before"], arrays["item_id"]
    sides = LabelProtocol.build(prepared, ids, config, split)
    ks = sorted(ks or config.evaluation.k)
    size = shrunk(config.model.encoder.size, PIXEL_SIDE)
    pixels = read_views(prepared, config.model.views, size, limit=sys.maxsize)
    assert pixels.pixels is not None  # at this size they are resident
    flat = pixels.pixels[sides.rows].reshape(len(ids), -1)
    protocol = sides.describe() | {
        "recipe": config.recipe,
        "loss": config.task.loss,
        "views": list(config.model.views),
        "training_seed": config.seed,
        "pixels": list(size),
    }
    metrics = sides.summarize(vectors, ks)
    baselines = {"pixels": sides.summarize(flat, ks), "untrained": sides.summarize(before, ks)}
    content = write_metrics(
        run_dir / "metrics.json", protocol=protocol, metrics=metrics, baselines=baselines, cohorts={}
    )
    write_metrics_page(run_dir, content, title="Metric learning", words=protocol_words(protocol))
    return content
