"""The retrieval system: train two towers on purchases, evaluate them over the whole catalogue."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.publish import write_whole
from tfrec.config import RetrievalConfig
from tfrec.csr import Csr
from tfrec.evaluation.protocol import Protocol, ProtocolError, build_protocol
from tfrec.evaluation.scores import LOWEST
from tfrec.histories import last_purchases, to_gaps, unpadded

if TYPE_CHECKING:
    from pipelines.prepared import Prepared
    from tfrec.assembly import RetrievalAssembly
    from tfrec.distributed.workers import Workers
    from tfrec.models import TwoTower

log = logging.getLogger("tfrec")

QUERY_BATCH = 512


def train(config: RetrievalConfig, run_dir: Path) -> RetrievalAssembly:
    """Train a model from wherever its run stands, and leave its best weights in the run.

    Where TF_CONFIG names several workers, all of them call this at the same time.

    Returns:
        The trained model, with its best weights.

    Raises:
        WorkerLost: another worker died.
    """
    from tfrec.distributed.workers import Workers, loss_of_a_worker_told

    with loss_of_a_worker_told():
        return _train(config, run_dir, Workers.join())


def _train(config: RetrievalConfig, run_dir: Path, workers: Workers) -> RetrievalAssembly:
    import tensorflow as tf

    from pipelines.prepared import open_prepared
    from tfrec.assets import Assets
    from tfrec.features.frozen import frozen_features
    from tfrec.training import Trainer, prepare_keras

    prepare_keras(config.seed, config.training)
    prepared = open_prepared(config.data)
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
    trainer.keep_best()  # with the bank as the best weights fill it
    trainer.finish()
    return assembly


def kept_batch_size(config: RetrievalConfig, items: int, run_dir: Path, workers: Workers) -> int:
    """What `training.batch_size auto` came to when the run was begun, whatever memory there is where it is taken up: steps
    are counted in batches. All workers take the chief's."""
    from tfrec.assembly import fitting_batch_size

    size, file = 0, run_dir / "batch_size.txt"
    if workers.chief:
        if not file.exists():
            fitting = max(fitting_batch_size(config, items), workers.place.count)  # a customer for each worker at least
            write_whole(file, f"{fitting}\n")
        size = int(file.read_text())
    return int(workers.from_chief({"size": size})["size"])


def validation(assembly: RetrievalAssembly) -> Callable[[], dict[str, float]] | None:
    """A function that evaluates the model as it is on the validation split; None where nobody can be evaluated."""
    from tfrec.evaluation.metrics import per_user

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


def candidate_vectors(assembly: RetrievalAssembly) -> np.ndarray:
    """The vectors of all candidates, float32 `[N, D]`, from the bank as it is."""
    import tensorflow as tf

    model = assembly.model
    return model.vectors.finish(model.all_vectors(), tf.range(model.vectors.items)).numpy()


def protocol_histories(protocol: Protocol, length: int, user_fields: np.ndarray) -> dict[str, np.ndarray]:
    """What the query tower reads of the protocol's customers: their last `length` purchases before the query time."""
    history = protocol.read
    assert history.times is not None  # a protocol's histories always have them
    rows, days = last_purchases(history.items, history.times, history.offsets, length=length, now=protocol.query_time)
    return {
        "history": rows,
        "gaps": to_gaps(days),
        "days_ago": days,
        "user": protocol.users.astype(np.int32),
        "user_fields": user_fields[protocol.users],
    }


def query_vectors(model: TwoTower, inputs: dict[str, np.ndarray], candidates: np.ndarray) -> np.ndarray:
    """Query vectors float32 `[U, D]` in batches of customers with histories of like length, without their padding.

    Args:
        model: the two towers.
        inputs: what the query tower reads of the customers (`protocol_histories`).
        candidates: vectors of all items `[N, D]` (`candidate_vectors`), which histories are read from as when served.
    """
    import tensorflow as tf

    vectors, history = tf.constant(candidates), inputs["history"]
    order = np.argsort((history >= 0).sum(1), kind="stable")
    parts = []
    for start in range(0, len(order), QUERY_BATCH):
        batch = {name: x[order[start : start + QUERY_BATCH]] for name, x in inputs.items()}
        read = unpadded(batch["history"])
        batch |= {name: batch[name][:, read] for name in ("history", "gaps")}
        batch = {name: tf.convert_to_tensor(x) for name, x in batch.items()}
        parts.append(model.last_query_graph(batch, vectors).numpy())
    queries = np.concatenate(parts)
    queries[order] = queries.copy()
    return queries


def protocol_queries(
    assembly: RetrievalAssembly, protocol: Protocol, candidates: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Query vectors float32 `[U, D]` of a protocol's customers, and what the query tower read of them."""
    inputs = protocol_histories(protocol, assembly.config.model.query.length, assembly.user_fields)
    return query_vectors(assembly.model, inputs, candidates), inputs


class Ranking(NamedTuple):
    """The lists of a protocol's customers, and what they were made from.

    Attributes:
        rows: items, best first, int32 `[U, k]`.
        scores: float32 `[U, k]`.
        candidates: vectors of all items, float32 `[N, D]`.
        inputs: what the query tower read of the customers, name -> `[U, ...]`.
    """

    rows: np.ndarray
    scores: np.ndarray
    candidates: np.ndarray
    inputs: dict[str, np.ndarray]


def rank(assembly: RetrievalAssembly, protocol: Protocol, k: int) -> Ranking:
    """The model's lists for a protocol's customers, `k` items each; as when served, those without any purchase that a
    history tower could read get what sells best.
    """
    from tfrec.evaluation.baselines import filled_up, sales
    from tfrec.index.search import exact_top_k
    from tfrec.popularity import best_sellers

    candidates = candidate_vectors(assembly)
    queries, inputs = protocol_queries(assembly, protocol, candidates)

    def bonus(start: int, stop: int) -> tuple[Csr, np.ndarray] | None:
        # Of a chunk of customers: of all, it would be 10 KB each.
        return purchase_bonus(assembly, inputs["history"][start:stop], inputs["days_ago"][start:stop])

    excluded = protocol.excluded()
    rows, scores = exact_top_k(queries, candidates, k, exclude=excluded, bonus=bonus)
    nothing = np.flatnonzero(protocol.read.lengths == 0)
    if assembly.config.model.query.kind == "history" and len(nothing):
        sold, none = sales(protocol), np.empty((len(nothing), 0), np.int32)
        popular = filled_up(none, best_sellers(sold), None if excluded is None else excluded.take(nothing), k)
        rows[nothing], scores[nothing] = popular, np.where(popular >= 0, sold[popular], LOWEST)
    return Ranking(rows, scores, candidates, inputs)


def purchase_bonus(
    assembly: RetrievalAssembly, history: np.ndarray, days_ago: np.ndarray
) -> tuple[Csr, np.ndarray] | None:
    """What the purchases `history` int32 `[U, T]` (-1 = none), made `days_ago` `[U, T]`, add to items' scores."""
    gains = [table.gains(history) for table in assembly.neighbours]
    if assembly.model.repeats is not None:
        own = history >= 0
        gains.append((np.nonzero(own)[0], history[own], assembly.model.repeats(days_ago[own]).numpy()))
    if not gains:
        return None
    customers, items, values = (np.concatenate(part) for part in zip(*gains))
    order = np.argsort(customers, kind="stable")
    return Csr.from_rows(customers[order], items[order], len(history)), values[order]


def evaluate(
    run_dir: Path,
    *,
    split: str = "test",
    ks: list[int] | None = None,
    seen_filter: bool | None = None,
    trained: RetrievalAssembly | None = None,
) -> dict:
    """Evaluate a finished run: writes `metrics.json`, `users.parquet`, `examples.json` and `report.html`.

    Args:
        run_dir: the run.
        split: `val` or `test`.
        ks: cut-offs; the run's own where None.
        seen_filter: leave out items bought before; the run's own choice where None.
        trained: what `train` has just returned: its dataset is not read, and its model not built, again, unless it
            computes in less than float32 or is shared by several workers.

    Returns:
        The content of metrics.json.

    Raises:
        ConfigError: the run was trained on the split, or its dataset is another one by now.
        RunError: the training did not finish.
    """
    from tfrec.config import ConfigError, load_config
    from tfrec.reports.recommender_page import write_recommender_page

    if split == "val" and load_config(run_dir / "config.yaml", RetrievalConfig).training.final:
        raise ConfigError(f"--split val: {run_dir} was trained on it (training.final); evaluate it on test")
    assembly = trained if trained is not None and trained.alone_in_float32 else load_assembly(run_dir)
    config = assembly.config
    ks = sorted(ks or config.evaluation.k)
    protocol = build_protocol(
        assembly.prepared,
        split,
        seen_filter=config.evaluation.seen_filter if seen_filter is None else seen_filter,
        min_rating=config.evaluation.min_rating,
        history_min_rating=config.history_min_rating,
        cold_users=True,
        max_users=config.evaluation.max_users or None,
        final=config.training.final,
        seed=config.seed,
    )
    ranking = rank(assembly, protocol, max(ks))
    content = _write_metrics(run_dir, assembly, protocol, ranking, ks)
    _write_lists(run_dir, assembly, protocol, ranking, ks)
    write_recommender_page(run_dir, assembly.prepared)
    return content


def _write_metrics(
    run_dir: Path, assembly: RetrievalAssembly, protocol: Protocol, ranking: Ranking, ks: list[int]
) -> dict:
    """Write `metrics.json`: the model's metrics, beside those of the rules and of the best that could be had."""
    from tfrec.evaluation.baselines import run_baselines
    from tfrec.evaluation.metrics import summarize_protocol, write_metrics

    config, split = assembly.config, protocol.split
    about = protocol.describe() | {"recipe": config.recipe, "training_seed": config.seed}
    _tell_repeats(about)
    judged: dict[str, Any] = {"vectors": ranking.candidates, "ks": ks, "seed": config.seed}
    metrics, cohorts = summarize_protocol(protocol, ranking.rows, **judged)
    found = metrics.get(f"recall@{max(ks)}")
    log.info("%s: recall@%d %s", split, max(ks), found and round(found["value"], 4))
    baselines = {
        name: summarize_protocol(protocol, lists, **judged)[0]
        for name, lists in run_baselines(assembly.prepared, protocol, max(ks))
    }
    own, of_rules = assembly.further_metrics(
        split, lambda protocol: protocol_queries(assembly, protocol, ranking.candidates)[0]
    )
    reachable = best_reachable(assembly.prepared, protocol, ks)
    return write_metrics(
        run_dir / "metrics.json",
        protocol=about,
        metrics=metrics | own,
        baselines=baselines | of_rules,
        cohorts=cohorts,
        **({"oracle": reachable} if reachable else {}),
    )


def _write_lists(
    run_dir: Path, assembly: RetrievalAssembly, protocol: Protocol, ranking: Ranking, ks: list[int]
) -> None:
    """Write each customer's metrics and some customers' lists with their reasons: `users.parquet`, `examples.json`."""
    from tfrec.evaluation.metrics import write_per_user
    from tfrec.examples import sample_examples, write_examples

    users = assembly.prepared.users["user_id"]
    write_per_user(run_dir / "users.parquet", protocol, ranking.rows, list(users), ks)
    examples = sample_examples(protocol, ranking.rows, ranking.scores, users)
    if assembly.config.model.query.kind == "history":
        _add_reasons(assembly, protocol, examples, ranking)
    write_examples(run_dir, examples)


def _tell_repeats(about: dict) -> None:
    """Log what became of targets that the customer had already, where those are never recommended."""
    if about["missed_repeat_targets"]:
        log.info("%d targets were bought before and never recommended: misses", about["missed_repeat_targets"])
    if about["dropped_repeat_targets"]:
        log.info(
            "%d targets were bought before and dropped, with %d customers who had no other",
            about["dropped_repeat_targets"],
            about["dropped_users"],
        )


def _add_reasons(assembly: RetrievalAssembly, protocol: Protocol, examples: list[dict], ranking: Ranking) -> None:
    """Say in the report's examples which purchase a recommendation owes most to, and where its words look in its photo."""
    from tfrec.examples import sampled_rows
    from tfrec.reports.attention_maps import attention_of
    from tfrec.reports.reasons import add_reasons, add_regions

    items = assembly.prepared.items
    add_reasons(
        examples,
        ranking.inputs,
        sampled_rows(protocol),
        queries_of=lambda inputs: query_vectors(assembly.model, inputs, ranking.candidates),
        bonus_of=lambda history, days_ago: purchase_bonus(assembly, history, days_ago),
        vectors=ranking.candidates,
        titles=items["title"].where(items["title"] != "", items["item_id"]),
    )
    if assembly.content is not None and "has_photo" in assembly.content.arrays:
        add_regions(examples, assembly.content.arrays["has_photo"], lambda rows: attention_of(assembly, rows))


def best_reachable(prepared: Prepared, protocol: Protocol, ks: list[int]) -> dict | None:
    """Metrics of the generator's own probabilities, where the dataset is generated and carries them."""
    from pipelines.demo.oracle import best_lists
    from tfrec.evaluation.metrics import summarize_protocol

    seen = protocol.history.distinct() if prepared.holds_out_new_items else protocol.excluded()
    excluded = None if seen is None else np.split(seen.items, seen.offsets[1:-1])
    lists = best_lists(prepared, protocol.users, time=protocol.query_time, k=max(ks), excluded=excluded)
    return None if lists is None else summarize_protocol(protocol, lists, ks=ks)[0]


def assembly_class(config: RetrievalConfig) -> type[RetrievalAssembly]:
    """What puts together the model of a configuration."""
    from tfrec.assembly import RetrievalAssembly
    from tfrec.ratings.config import RatingsConfig

    if isinstance(config, RatingsConfig):
        from tfrec.ratings.system import RatingAssembly

        return RatingAssembly
    return RetrievalAssembly


def load_assembly(run_dir: Path, *, other_events: bool = False) -> RetrievalAssembly:
    """The model of a finished run with its weights, and its dataset.

    Args:
        run_dir: the run.
        other_events: take a dataset whose events or split are not those of the training: it is not to be evaluated on them.

    Raises:
        RunError: the training did not finish, or its weights are broken.
        ConfigError: the dataset is not the run's own.
    """
    import tensorflow as tf

    from tfrec.assets import Assets
    from tfrec.config import load_config
    from tfrec.features.frozen import frozen_features
    from tfrec.runs.dataset import open_own_data
    from tfrec.training import prepare_evaluation, restore_weights

    config = load_config(run_dir / "config.yaml", RetrievalConfig)
    prepare_evaluation(run_dir)
    tf.keras.utils.set_random_seed(config.seed)
    prepared = open_own_data(run_dir, config, other_events=other_events)
    assets = Assets.load(run_dir / "assets", config)
    assembly = assembly_class(config)(config, prepared, assets, frozen_features(config, prepared, assets, run_dir))
    restore_weights(assembly.model, run_dir)
    return assembly
