"""Which way a metric is better, told by its name: what training, reports and the comparison of runs rank by."""

from __future__ import annotations

SMALLER_IS_BETTER = ("loss", "perplexity", "rmse", "mae")


def sign_of(name: str) -> int:
    """1 where larger is better, -1 where smaller is.

    Args:
        name: of a metric, such as `recall@20`, `rating_rmse`, or as a sweep flattens it, `metrics.loss.low`.
    """
    last = name.removesuffix(".low").removesuffix(".high").rpartition(".")[2]
    return -1 if last.rpartition("_")[2] in SMALLER_IS_BETTER else 1
