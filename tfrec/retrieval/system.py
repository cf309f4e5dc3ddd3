"""The retrieval system, as `tfrec.train` and `tfrec.evaluate` call it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.prepared import Prepared, open_prepared
from pipelines.publish import write_whole
from tfrec.config import plain
from tfrec.distributed.workers import Workers, loss_of_a_worker_told
from tfrec.evaluation.metrics import per_user
from tfrec.evaluation.protocol import ProtocolError, build_protocol
from tfrec.features.frozen import frozen_features
from tfrec.retrieval.assembly import RetrievalAssembly, fitting_batch_size
from tfrec.retrieval.assets import Assets
from tfrec.retrieval.calibration import calibrate_repeats
from tfrec.retrieval.config import RetrievalConfig
from tfrec.retrieval.evaluation import evaluate
from tfrec.retrieval.loading import assembly_class
from tfrec.retrieval.ranking import rank
from tfrec.training.environment import prepare_keras
from tfrec.training.trainer import Trainer

__all__ = ["evaluate", "train"]

log = logging.getLogger("tfrec")


def train(config: RetrievalConfig, run_dir: Path) -> RetrievalAssembly | None:
    """Train a model from wherever its run stands, and leave its best weights in the run.

    Where TF_CONFIG names several workers, all of them call this at the same time.

    Returns:
        The trained model, with its best weights; None where it computes in less than float32 or is shared by several
        workers: to be evaluated, it is loaded anew.

    Raises:
        WorkerLost: another worker died.
    """
    with loss_of_a_worker_told():
        assembly = _train(config, run_dir, Workers.join())
    return assembly if assembly.alone_in_float32 else None


def _train(config: RetrievalConfig, run_dir: Path, workers: Workers) -> RetrievalAssembly:
    prepare_keras(config.seed, config.training)
    prepared = open_prepared(config.data)
    workers.check_alike({"other options": told_options(config), "another dataset": told_dataset(prepared)})
    folder = run_dir / "assets"
    with workers.chief_first():  # the others find its assets and features where they see its folder, or make the same
        assets = Assets.load(folder, config) if folder.exists() else Assets.learn(config, prepared)
        if not folder.exists():
            assets.save(folder)
        features = frozen_features(config, prepared, assets, run_dir)
    if config.training.batch_size == "auto":
        size = kept_batch_size(config, len(prepared.items), run_dir, workers)
        config = replace(config, training=replace(config.training, batch_size=size))
    tf.keras.utils.set_random_seed(config.seed)  # a run taken up with its assets starts as it would have without
    assembly = assembly_class(config)(config, prepared, assets, features, workers)
    model, options = assembly.model, config.training
    steps = options.steps or max(options.min_steps, options.epochs * assembly.batches.steps_per_epoch)
    log.info(
        "%d items, %d training purchases, %d weights, %s, %d steps of %d",
        len(prepared.items),
        int(assembly.batches.named.sum()),
        sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        tf.keras.mixed_precision.global_policy().name,
        steps,
        assembly.batches.batch_size,
    )
    if config.model.query.variants and not assembly.product_score:
        log.warning("the items of %s name no product, so that model.query.variants adds to no scores", config.data)
    rates = {
        "item_tower/image_encoder": options.encoder_rate,
        "item_tower/text_encoder": options.encoder_rate,
    }
    trainer = Trainer(model, options=options, steps=steps, run_dir=run_dir, rates=rates, workers=workers)
    if not trainer.begun:
        assembly.refresh()
    trainer.fit(assembly.dataset, None if options.final else validation(assembly))
    assembly.refresh()
    calibrate_repeats(assembly)
    trainer.keep_best()  # with the bank as the best weights fill it
    trainer.finish()
    return assembly


def told_options(config: RetrievalConfig) -> str:
    """What of a configuration the workers of a training must have alike: all but where their files are."""
    return json.dumps({**plain(config), "data": "", "out": "", "features": ""}, sort_keys=True, default=str)


def told_dataset(prepared: Prepared) -> str:
    """What tells a dataset from others wherever it lies: the digests of its files."""
    files = prepared.manifest["files"]
    return json.dumps({name: file.get("sha256", "") for name, file in files.items()}, sort_keys=True)


def kept_batch_size(config: RetrievalConfig, items: int, run_dir: Path, workers: Workers) -> int:
    """What `training.batch_size auto` came to when the run was begun, whatever memory there is where it is taken up: steps
    are counted in batches. All workers take the chief's."""
    size, file = 0, run_dir / "batch_size.txt"
    if workers.chief:
        if not file.exists():
            fitting = max(fitting_batch_size(config, items), workers.place.count)  # a customer for each worker at least
            write_whole(file, f"{fitting}\n")
        size = int(file.read_text())
    return int(workers.from_chief({"size": size})["size"])


def validation(assembly: RetrievalAssembly) -> Callable[[], dict[str, float]] | None:
    """A function that evaluates the model as it is on the validation split; None where nobody can be evaluated."""
    config = assembly.config
    try:
        protocol = build_protocol(
            assembly.prepared,
            "val",
            seen_filter=config.evaluation.seen_filter,
            min_rating=config.evaluation.min_rating,
            history_min_rating=config.history_min_rating,
            max_users=config.training.max_eval_users or None,
            seed=config.seed,
        )
    except ProtocolError as error:
        log.warning("training without validation: %s", error)
        return None

    def evaluate() -> dict[str, float]:
        assembly.refresh(progress=False)
        ranked = rank(assembly, protocol, max(config.evaluation.k)).rows
        names = (config.training.monitor, "recall@20", "map@12", "ndcg@10")
        values = per_user(ranked, protocol.targets, config.evaluation.k)
        return {name: float(values[name].mean()) for name in dict.fromkeys(names) if name in values}

    return evaluate
