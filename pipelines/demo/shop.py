"""What the demo shop's customers buy: visits, baskets, repeats.

The model, week by week. A customer visits the shop a Poisson number of times. Each visit has a colour in
mind, and each purchase of its basket is either a *repeat* (one of the customer's last purchases again) or a
*new* choice among all articles on sale, with probability proportional to

    weight of the article this week  x  exp(the customer's tastes for its levels)  x  (bonus for the colour)

Within a week nothing depends on what was bought in the same week, so next week's probabilities are known
exactly (`pipelines.demo.oracle`).
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipelines.demo.catalog import WEEKS, Catalog
from pipelines.demo.customers import Customers, theme_shares
from pipelines.demo.shelves import FIRST_DAY, Shelves, draw_rows

RECENT = 10  # how many of the last purchases may be bought again
MORE_IN_BASKET = 0.7  # mean number of articles in a basket beyond the first
DAY_SHARES = np.array([0.13, 0.13, 0.14, 0.17, 0.18, 0.14, 0.11])  # of the week's visits, Wednesday first
ONLINE_SHARE = 0.7
_VISITS_AT_ONCE = 1024  # bounds memory


def simulate(catalog: Catalog, customers: Customers, *, seed: int) -> Iterator[pd.DataFrame]:
    """Yield one frame of purchases a week, sorted by day and customer.

    Yields:
        Columns `day` (datetime64), `customer` and `article` (row numbers), `channel` (1 store, 2 online).
    """
    recent = np.full((len(customers.customer_ids), RECENT), -1, dtype=np.int32)
    bought = np.zeros(len(customers.customer_ids), dtype=np.int64)
    for week in range(WEEKS):
        rng = np.random.default_rng([seed, 5, week])
        purchases = _buy(Shelves(catalog, week), customers, recent, week, rng)
        _remember(recent, bought, purchases["customer"].to_numpy(), purchases["article"].to_numpy())
        yield purchases


def _buy(
    shelves: Shelves, customers: Customers, recent: np.ndarray, week: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw one week's visits and purchases."""
    here = np.flatnonzero(customers.since <= week)
    visitor = np.repeat(here, rng.poisson(customers.visits[here]))
    day = rng.choice(7, len(visitor), p=DAY_SHARES)
    channel = rng.choice([1, 2], len(visitor), p=[1 - ONLINE_SHARE, ONLINE_SHARE])
    basket = 1 + rng.poisson(MORE_IN_BASKET, len(visitor))
    blocks = []
    for start in range(0, len(visitor), _VISITS_AT_ONCE):
        block = slice(start, start + _VISITS_AT_ONCE)
        visit = np.repeat(np.arange(len(visitor[block])), basket[block])
        blocks.append(_fill_baskets(shelves, customers, recent, visitor[block], visit, rng))
    purchase = np.repeat(np.arange(len(visitor)), basket)
    frame = pd.DataFrame(
        {
            "day": FIRST_DAY + 7 * week + day[purchase],
            "customer": visitor[purchase],
            "article": np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.int64),
            "channel": channel[purchase],
        }
    )
    return frame.sort_values(["day", "customer"], kind="stable", ignore_index=True)


def _fill_baskets(
    shelves: Shelves,
    customers: Customers,
    recent: np.ndarray,
    visitor: np.ndarray,
    visit: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the article of each purchase of a block of visits, `[P]`: new choices and repeats."""
    tastes = customers.tastes[visitor]
    theme = draw_rows(np.cumsum(theme_shares(tastes), axis=1), np.arange(len(visitor)), rng)
    article = shelves.choose(tastes, theme, visit, rng)
    known = (recent[visitor[visit]] >= 0).sum(axis=1)
    slot = np.floor(rng.random(len(visit)) * np.maximum(known, 1)).astype(np.int64)
    again = (rng.random(len(visit)) < customers.repeat_share[visitor[visit]]) & (known > 0)
    return np.where(again, recent[visitor[visit], slot], article)


def _remember(recent: np.ndarray, bought: np.ndarray, customer: np.ndarray, article: np.ndarray) -> None:
    """Put a week's purchases, in order, into the customers' rings of last purchases (in place)."""
    order = np.argsort(customer, kind="stable")
    who = customer[order]
    nth = np.arange(len(who)) - np.searchsorted(who, who)
    latest = np.searchsorted(who, who, side="right") - np.searchsorted(who, who) - nth <= RECENT
    recent[who[latest], (bought[who[latest]] + nth[latest]) % RECENT] = article[order][latest]
    np.add.at(bought, who, 1)
