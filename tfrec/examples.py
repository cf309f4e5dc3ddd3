"""The customers shown in the report: what they bought, what they bought next, and what was recommended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.publish import write_whole
from tfrec.evaluation.protocol import Protocol

EXAMPLES_FILE = "examples.json"


def sampled_rows(protocol: Protocol, *, n: int = 12, seed: int = 0) -> np.ndarray:
    """The protocol's users that `sample_examples` draws, int64 `[n]`."""
    return np.random.default_rng(seed).permutation(len(protocol.users))[:n]


def sample_examples(
    protocol: Protocol,
    ranked: np.ndarray,
    scores: np.ndarray,
    user_ids: pd.Series | Sequence[str],
    *,
    n: int = 12,
    k: int = 12,
    seed: int = 0,
    max_history: int = 12,
) -> list[dict[str, Any]]:
    """Draw customers for the report, at random: hits and misses in the proportion in which they occur.

    Args:
        protocol: who was evaluated on what.
        ranked: int `[U, K]`, the model's lists, -1 = no item.
        scores: float `[U, K]`.
        user_ids: the string id of every user of the dataset, by user index.
        n: how many customers.
        k: how many recommendations of each.
        seed: of the draw.
        max_history: the latest purchases to show.

    Returns:
        A list of `{"user_id", "purchases", "history", "targets", "recommended", "seen"}`: item rows,
        oldest purchase first; `recommended` holds `[row, score]` pairs; `purchases` counts the whole history, and
        `seen` names the recommended items in it.
    """
    ids = np.asarray(user_ids, dtype=object)
    rows = sampled_rows(protocol, n=n, seed=seed)
    examples = []
    for row in rows.tolist():
        shown = [place for place in range(min(k, ranked.shape[1])) if ranked[row, place] >= 0]
        history = protocol.history[row]
        example = {
            "user_id": str(ids[protocol.users[row]]),
            "purchases": len(history),
            "history": history[-max_history:].tolist(),
            "targets": protocol.targets[row].tolist(),
            "recommended": [[int(ranked[row, place]), float(scores[row, place])] for place in shown],
            "seen": np.intersect1d(ranked[row, shown], history).tolist(),
        }
        examples.append(example)
    return examples


def write_examples(run_dir: str | Path, examples: list[dict[str, Any]]) -> Path:
    """Write `examples.json` into the run's folder and return its path."""
    path = Path(run_dir) / EXAMPLES_FILE
    write_whole(path, json.dumps(examples, indent=1, ensure_ascii=False) + "\n", shared=True)
    return path
