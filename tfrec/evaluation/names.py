"""Metrics by their names: which way one is better, and what those of two sides that find each other are called."""

from __future__ import annotations

SMALLER_IS_BETTER = ("loss", "perplexity", "rmse", "mae")


def sign_of(name: str) -> int:
    """1 where larger is better, -1 where smaller is.

    Args:
        name: of a metric, such as `recall@20`, `rating_rmse`, or as a sweep flattens it, `metrics.loss.low`.
    """
    last = name.removesuffix(".low").removesuffix(".high").rpartition(".")[2]
    return -1 if last.rpartition("_")[2] in SMALLER_IS_BETTER else 1


def match_names(*sides: str) -> list[str]:
    """The metrics of sides that find each other (`tfrec.evaluation.matching`), by the side that is found."""
    return [f"{side}_{name}" for side in sides for name in ("top@1", "top@5", "mrr")]
