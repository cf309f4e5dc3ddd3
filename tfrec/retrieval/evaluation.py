"""The evaluation of a trained run: its metrics beside those of simple rules, and examples with their reasons."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.demo.oracle import best_lists
from pipelines.prepared import Prepared
from tfrec.config import ConfigError, load_config
from tfrec.evaluation.baselines import run_baselines
from tfrec.evaluation.metrics import summarize_protocol, write_metrics, write_per_user
from tfrec.evaluation.protocol import Protocol, build_protocol
from tfrec.examples import sample_examples, sampled_rows, write_examples
from tfrec.reports.attention_maps import attention_of
from tfrec.reports.reasons import add_reasons, add_regions
from tfrec.reports.recommender_page import write_recommender_page
from tfrec.retrieval.assembly import RetrievalAssembly
from tfrec.retrieval.config import RetrievalConfig
from tfrec.retrieval.loading import load_assembly
from tfrec.retrieval.ranking import Ranking, protocol_queries, purchase_bonus, query_vectors, rank

log = logging.getLogger("tfrec")


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
        trained: what `train` has just returned, if anything: its dataset is not read, and its model not built, again.

    Returns:
        The content of metrics.json.

    Raises:
        ConfigError: the run was trained on the split, or its dataset is another one by now.
        RunError: the training did not finish.
    """
    if split == "val" and load_config(run_dir / "config.yaml", RetrievalConfig).training.final:
        raise ConfigError(f"--split val: {run_dir} was trained on it (training.final); evaluate it on test")
    assembly = trained or load_assembly(run_dir)
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
    config, split = assembly.config, protocol.split
    about = protocol.describe() | {"recipe": config.recipe, "training_seed": config.seed}
    _tell_repeats(about)
    alike = ranking.candidates[:, : config.model.item.dim]  # without the popularity bias, which is no likeness
    judged: dict[str, Any] = {"vectors": alike, "ks": ks, "seed": config.seed}
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
    seen = protocol.history.distinct() if prepared.holds_out_new_items else protocol.excluded()
    excluded = None if seen is None else np.split(seen.items, seen.offsets[1:-1])
    lists = best_lists(prepared, protocol.users, time=protocol.query_time, k=max(ks), excluded=excluded)
    return None if lists is None else summarize_protocol(protocol, lists, ks=ks)[0]
