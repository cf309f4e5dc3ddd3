"""The demo shop's customers and their hidden tastes.

A taste is a log preference of every level of every factor (`pipelines.demo.catalog.FACTORS`). Customers like few
things, and like them clearly, so that a handful of purchases gives them away.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.demo.catalog import FACTORS, LEVELS, WEEKS

# How many groups of a factor's levels a customer likes, and how much (log odds against the others).
LIKED = {
    "segment": (1, 3.0),
    "type": (1, 1.6),
    "colour": (1, 1.6),
    "pattern": (1, 0.5),
    "design": (1, 2.6),
    "material": (1, 2.6),
}
GROUPS = {  # levels that are liked together; of the other factors each level is a group
    "type": np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]),  # tops; dresses and legs; the rest
    "colour": np.array([0, 1, 0, 1, 0, 1, 2, 2, 0, 2]),  # dark, light, bright
}
REPEAT_SHARE = 0.06  # mean share of purchases that repeat on purpose; favourites come again by choice, too
VISITS = (6.0, 0.045)  # shape and scale of the customers' mean visits a week
SHARE_OF_IDLE = 0.02  # of the customers registered, but buy nothing
SHARE_EARLY = 0.95  # of the customers know the shop from its first week; the others come later


@dataclass(frozen=True)
class Customers:
    """The customers, sorted by customer id.

    Attributes:
        customer_ids: `[U]` 64 hexadecimal digits.
        tastes: `[U, sum(LEVELS)] float16` log preference of each level, factor by factor.
        repeat_share: `[U] float32` probability that a purchase repeats an earlier one.
        visits: `[U] float32` mean number of visits in a week.
        since: `[U] int16` first week.
        frame: the columns of `customers.csv`.
    """

    customer_ids: np.ndarray
    tastes: np.ndarray
    repeat_share: np.ndarray
    visits: np.ndarray
    since: np.ndarray
    frame: pd.DataFrame


def taste_columns(factor: int) -> slice:
    """Return where a factor's levels stand in `Customers.tastes`."""
    start = sum(LEVELS[:factor])
    return slice(start, start + LEVELS[factor])


def make_customers(customers: int, *, seed: int) -> Customers:
    """Draw customers and their hidden tastes.

    Args:
        customers: how many.
        seed: same seed, same customers.
    """
    rng = np.random.default_rng([seed, 4])
    words = np.frombuffer(rng.bytes(32 * customers), dtype=">u8").reshape(customers, 4)
    ids = np.sort(np.array(["".join(f"{w:016x}" for w in row) for row in words]))
    tastes = np.concatenate(
        [_likes(name, customers, levels, *LIKED[name], rng) for name, levels in zip(FACTORS, LEVELS)], axis=1
    )
    idle = rng.random(customers) < SHARE_OF_IDLE
    visits = np.where(idle, 0.0, rng.gamma(*VISITS, customers))
    since = np.where(rng.random(customers) < SHARE_EARLY, 0, rng.integers(0, WEEKS, customers))
    return Customers(
        customer_ids=ids,
        tastes=tastes.astype(np.float16),
        repeat_share=rng.beta(2.0, 2.0 / REPEAT_SHARE - 2.0, customers).astype(np.float32),
        visits=visits.astype(np.float32),
        since=since.astype(np.int16),
        frame=_customers_frame(ids, tastes[:, taste_columns(0)].argmax(1), rng),
    )


def _likes(name: str, customers: int, levels: int, liked: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Let each customer like `liked` groups of a factor's levels, about `strength` much."""
    group = GROUPS.get(name, np.arange(levels))
    order = rng.random((customers, group.max() + 1)).argsort(axis=1)
    likes = (order[:, group] < liked) * strength * rng.uniform(0.9, 1.1, (customers, levels))
    return likes + rng.normal(0.0, 0.05, (customers, levels))


def _customers_frame(ids: np.ndarray, segment: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Spell the customers out as H&M's columns of text; age goes loosely with the segment they prefer."""
    count = len(ids)
    age = np.clip(rng.normal(np.array([44, 26, 38, 33])[segment], 9.0), 16, 90).astype(int).astype(str)
    news = rng.choice(["NONE", "Regularly", ""], count, p=[0.64, 0.34, 0.02])
    postal = np.sort(np.array([f"{w:016x}" * 4 for w in rng.integers(0, 2**63, max(1, count // 5))]))
    flag = np.where(news == "Regularly", "1.0", "")
    return pd.DataFrame(
        {
            "customer_id": ids,
            "FN": flag,
            "Active": flag,
            "club_member_status": rng.choice(["ACTIVE", "PRE-CREATE", ""], count, p=[0.92, 0.07, 0.01]),
            "fashion_news_frequency": news,
            "age": np.where(rng.random(count) < 0.01, "", age),
            "postal_code": postal[rng.integers(0, len(postal), count)],
        }
    )


def theme_shares(tastes: np.ndarray) -> np.ndarray:
    """Return how likely a visit has each colour in mind, `[B, colours]`: what the customer likes."""
    likes = np.exp(tastes[:, taste_columns(FACTORS.index("colour"))].astype(np.float64))
    return likes / likes.sum(axis=1, keepdims=True)
