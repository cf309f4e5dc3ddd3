"""Biased matrix factorisation by SGD, the usual yardstick of rating prediction (Koren et al. 2009,
https://doi.org/10.1109/MC.2009.263), with the defaults of scikit-surprise's SVD: 100 factors, 20 epochs, learning rate
0.005, penalty 0.02. A reference to compare with, not a part of the product.

    python -m tests.biased_mf --data PREPARED
"""

from __future__ import annotations

import argparse

import numpy as np
from tqdm import tqdm

from pipelines.prepared import open_prepared


def fit_and_predict(
    known,
    held,
    *,
    users: int,
    items: int,
    factors: int = 100,
    epochs: int = 20,
    rate: float = 0.005,
    penalty=0.02,
    seed=0,
) -> np.ndarray:
    """Fit the ratings of `known` (columns user, item, rating) one by one, and predict those of `held`.

    Returns:
        float64 `[E]`; a user or an item without a known rating counts with a bias of 0 and no factors.
    """
    rng = np.random.default_rng(seed)
    mean = float(known["rating"].mean())
    bias_u, bias_i = np.zeros(users), np.zeros(items)
    p, q = rng.normal(0, 0.1, (users, factors)), rng.normal(0, 0.1, (items, factors))
    log = list(zip(known["user"].tolist(), known["item"].tolist(), known["rating"].tolist()))
    for _ in tqdm(range(epochs), desc="biased MF", unit="epoch"):
        for u, i, rating in log:
            error = rating - (mean + bias_u[u] + bias_i[i] + p[u] @ q[i])
            bias_u[u] += rate * (error - penalty * bias_u[u])
            bias_i[i] += rate * (error - penalty * bias_i[i])
            p[u], q[i] = p[u] + rate * (error * q[i] - penalty * p[u]), q[i] + rate * (error * p[u] - penalty * q[i])
    p[np.bincount(known["user"], minlength=users) == 0] = 0
    q[np.bincount(known["item"], minlength=items) == 0] = 0
    u, i = held["user"].to_numpy(), held["item"].to_numpy()
    predicted = mean + bias_u[u] + bias_i[i] + np.einsum("ef,ef->e", p[u], q[i])
    return np.clip(predicted, known["rating"].min(), known["rating"].max())


def main() -> None:
    """Print RMSE and MAE of the test ratings."""
    from tfrec.ratings.system import rating_errors

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PREPARED", help="a prepared dataset with ratings")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prepared = open_prepared(options.data)
    events = prepared.events(columns=["user", "item", "rating", "split"])
    known, held = events[events["split"] < 2], events[events["split"] == 2]
    sizes = {"users": len(prepared.users), "items": len(prepared.items)}
    predicted = fit_and_predict(known, held, **sizes, seed=options.seed)
    for name, entry in rating_errors(predicted, held["rating"].to_numpy(), options.seed).items():
        print(f"{name:12} {entry['value']:.4f}  [{entry['low']:.4f}, {entry['high']:.4f}]")


if __name__ == "__main__":
    main()
