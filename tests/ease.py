"""EASE (Steck 2019, https://arxiv.org/abs/1905.03375), the strongest simple rule of rankings on small catalogues: every item
is explained by all others, in a matrix of N squared. A reference to compare with, not a part of the product.

    python -m tests.ease --data PREPARED
"""

from __future__ import annotations

import argparse

import numpy as np

from pipelines.prepared import Prepared, open_prepared
from pipelines.schema import SPLIT_CODES
from tfrec.evaluation.bootstrap import bootstrap_means
from tfrec.evaluation.metrics import per_user
from tfrec.evaluation.protocol import Protocol, build_protocol


def coefficients(bought: np.ndarray, penalty: float) -> np.ndarray:
    """How much each item says of each other one, float64 `[N, N]`, from who bought what `[U, N]`."""
    inverse = np.linalg.inv(bought.T @ bought + penalty * np.eye(bought.shape[1]))
    found = -inverse / np.diag(inverse)
    np.fill_diagonal(found, 0)
    return found


def ranked(prepared: Prepared, protocol: Protocol, *, least: float, penalty: float, k: int) -> np.ndarray:
    """The `k` best items of the protocol's users, int `[U, k]`, from the ratings before the test of `least` and more."""
    events = prepared.events(columns=["user", "item", "rating", "split"])
    known = events[(events["split"] < SPLIT_CODES["test"]) & (events["rating"] >= least)]
    bought = np.zeros((len(prepared.users), len(prepared.items)))
    bought[known["user"], known["item"]] = 1
    scores = bought[protocol.users] @ coefficients(bought, penalty)
    scores[bought[protocol.users] > 0] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def main() -> None:
    """Print ranking metrics of the test users."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PREPARED", help="a prepared dataset with ratings")
    parser.add_argument("--liked", type=float, default=4.0, help="the lowest rating that counts (default: %(default)s)")
    parser.add_argument("--penalty", type=float, default=200.0, help="squared penalty (default: %(default)s)")
    options = parser.parse_args()
    prepared, least = open_prepared(options.data), options.liked
    protocol = build_protocol(prepared, "test", seen_filter=True, min_rating=least)
    lists = ranked(prepared, protocol, least=least, penalty=options.penalty, k=20)
    values = per_user(lists, protocol.targets, [10, 20])
    for name, entry in bootstrap_means({name: values[name] for name in ("ndcg@10", "recall@10", "recall@20")}).items():
        print(f"{name:12} {entry['value']:.4f}  [{entry['low']:.4f}, {entry['high']:.4f}]")


if __name__ == "__main__":
    main()
