"""What a week offers: how much each article of the demo shop sells, and choices drawn from it.

As a customer's taste is a sum over an article's levels, a choice is drawn in three exact steps (front cell,
back cell, article), whose cost does not grow with the number of articles.
"""

import numpy as np

from pipelines.demo.catalog import FACTORS, LEVELS, MATERIALS, TYPES, Catalog
from pipelines.demo.customers import taste_columns, theme_shares

FIRST_DAY = np.datetime64("2019-12-18")  # so that the last week is H&M's: 2020-09-16 .. 2020-09-22
THEME_BONUS = 1.5  # how much likelier articles of the visit's colour are
SEASON_STRENGTH = 0.1  # log odds between a type's or material's best day and an average one
NOVELTY, NOVELTY_WEEKS = 0.5, 2.0  # new articles sell half as much again, for some weeks
FADED, FADING_WEEKS = 0.6, 26.0  # old ones fall to this share in the end
_COLOUR = FACTORS.index("colour")
_FRONT = 4  # the first four factors make the front cells, design and material the back cells
_BACK_LEVELS = LEVELS[4] * LEVELS[5]


def week_of(times: np.ndarray) -> np.ndarray:
    """Return the shop's week of each `datetime64`."""
    return (times.astype("datetime64[D]") - FIRST_DAY).astype(np.int64) // 7


def article_weights(levels: np.ndarray, popularity: np.ndarray, release: np.ndarray, week: int) -> np.ndarray:
    """Return how much each article sells in a week, all customers' tastes aside, `[N]`.

    New articles sell more, old ones less, and types and materials have seasons. An article that is not
    released yet has weight 0.
    """
    age = (week - release).astype(np.float64)
    on_sale = age >= 0
    age = np.maximum(age, 0.0)
    fresh = 1.0 + NOVELTY * np.exp(-age / NOVELTY_WEEKS)
    faded = FADED + (1.0 - FADED) * np.exp(-age / FADING_WEEKS)
    best_day = np.array([t.best_day for t in TYPES])[levels[:, 1]]
    best_day_of_material = np.array([m.best_day for m in MATERIALS])[levels[:, 5]]
    today = FIRST_DAY + 7 * week + 3
    day = (today - today.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    season = sum(np.cos(2 * np.pi * (day - best) / 365.0) for best in (best_day, best_day_of_material))
    return popularity * fresh * faded * np.exp(SEASON_STRENGTH * season) * on_sale


def choice_probabilities(tastes: np.ndarray, levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the probability that a new choice is each article, the visit's colour averaged out.

    Args:
        tastes: `[B, sum(LEVELS)]` of the customers.
        levels: `[N, 6]` of the articles.
        weights: `[N]` this week (`article_weights`).

    Returns:
        `[B, N]`; rows sum to one.
    """
    liking = np.zeros((len(tastes), len(weights)))
    for factor in range(len(FACTORS)):
        liking += tastes[:, taste_columns(factor)].astype(np.float64)[:, levels[:, factor]]
    mass = np.exp(liking) * weights
    colour, extra = levels[:, _COLOUR], THEME_BONUS - 1.0
    of_colour = mass @ np.eye(LEVELS[_COLOUR])[colour]  # [B, colours]
    # With colour z in mind, the sum of all weights grows by what the bonus adds to the articles of colour z.
    per_theme = theme_shares(tastes) / (mass.sum(axis=1, keepdims=True) + extra * of_colour)
    return mass * (per_theme.sum(axis=1, keepdims=True) + extra * per_theme[:, colour])


class Shelves:
    """One week's articles, arranged so that choices are drawn in three steps.

    A *front cell* holds the articles of one segment, type, colour and pattern; a *back cell* those of one
    design and material. `mass[f, b]` is the weight of the articles in both, and a choice draws f, then b,
    then the article.
    """

    def __init__(self, catalog: Catalog, week: int):
        levels = catalog.levels.astype(np.int64)
        front_key = np.ravel_multi_index(tuple(levels[:, :_FRONT].T), LEVELS[:_FRONT])
        keys, front = np.unique(front_key, return_inverse=True)
        back = levels[:, 4] * LEVELS[5] + levels[:, 5]
        cell = front * _BACK_LEVELS + back
        self._order = np.argsort(cell, kind="stable")
        weights = article_weights(catalog.levels, catalog.popularity, catalog.release, week)
        self._ends = np.concatenate([[0.0], np.cumsum(weights[self._order])])
        self._first = np.searchsorted(cell[self._order], np.arange(len(keys) * _BACK_LEVELS + 1))
        self._mass = np.bincount(cell, weights, minlength=len(keys) * _BACK_LEVELS).reshape(len(keys), -1)
        self._front_levels = np.stack(np.unravel_index(keys, LEVELS[:_FRONT]), axis=1)

    def choose(self, tastes: np.ndarray, theme: np.ndarray, visit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw one article for each purchase.

        Args:
            tastes: `[V, sum(LEVELS)]` of each visit's customer.
            theme: `[V]` the colour each visit has in mind.
            visit: `[P]` each purchase's row of the two above.
            rng: where randomness comes from.

        Returns:
            `[P]` article numbers.
        """
        factors = [np.exp(tastes[:, taste_columns(f)].astype(np.float64)) for f in range(len(FACTORS))]
        back_like = (factors[4][:, :, None] * factors[5][:, None, :]).reshape(len(tastes), -1)
        front_mass = back_like @ self._mass.T  # [V, front cells]
        for factor in range(_FRONT):
            front_mass *= factors[factor][:, self._front_levels[:, factor]]
        front_mass *= np.where(self._front_levels[:, _COLOUR] == theme[:, None], THEME_BONUS, 1.0)
        front = draw_rows(np.cumsum(front_mass, axis=1), visit, rng)
        back = draw_rows(np.cumsum(self._mass[front] * back_like[visit], axis=1), np.arange(len(visit)), rng)
        cell = front * _BACK_LEVELS + back
        low, high = self._first[cell], self._first[cell + 1]
        point = self._ends[low] + rng.random(len(cell)) * (self._ends[high] - self._ends[low])
        place = np.searchsorted(self._ends, point, side="right") - 1
        return self._order[np.clip(place, low, high - 1)]


def draw_rows(cumulative: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a column for each entry of `rows` from that row's running sum of weights, `[P]`."""
    point = rng.random(len(rows)) * cumulative[rows, -1]
    return (cumulative[rows] <= point[:, None]).sum(axis=1).clip(max=cumulative.shape[1] - 1)
