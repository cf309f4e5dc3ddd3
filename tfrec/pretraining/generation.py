"""Continue histories item by item with a retrieval model: greedily, by beam search, or by sampling.

The model's scores are the logits of its softmax, so a step's probabilities are a softmax over what a search finds: exact
where the search returns the whole catalogue, else over its best `candidates`. An item is generated once. Where a model reads
nothing it answers with popular items, whose scores are sales: their probabilities are their shares of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfrec.evaluation.scores import LOWEST

# history int32 [B, L], days ago float32 [B, L], excluded rows int32 [B, E], row of each customer [B], k -> rows, scores
Search = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class GenerationError(ValueError):
    """Options of generation that make no sense."""


@dataclass(frozen=True)
class Generation:
    """How to continue a history.

    Args:
        length: items to generate.
        strategy: `greedy` takes the best item of each step, `beam` the continuation of highest probability that `beams`
            kept continuations find, `sample` draws each item by its probability.
        beams: continuations kept.
        temperature: divides the scores before sampling; below 1 sharper, above 1 flatter.
        top_k: sample among so many best items; 0: among all candidates.
        seed: of the draws.
        candidates: best items that a step's probabilities are taken over.

    Raises:
        GenerationError: a value out of range.
    """

    length: int
    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    beams: int = 4
    temperature: float = 1.0
    top_k: int = 0
    seed: int = 0
    candidates: int = 500

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("beams", 1), ("top_k", 0), ("candidates", 1), ("seed", 0)):
            if getattr(self, name) < least:
                option = "generate" if name == "length" else name.replace("_", "-")
                raise GenerationError(f"--{option} {getattr(self, name)} must be at least {least}")
        if not self.temperature > 0:
            raise GenerationError(
                f"--temperature {self.temperature} must be above 0; use --strategy greedy for the best"
            )
        if self.strategy == "beam" and self.beams > self.candidates:
            raise GenerationError(f"--beams {self.beams} is more than the {self.candidates} candidates of a step")

    def __call__(
        self, search: Search, history: np.ndarray, days_ago: np.ndarray, excluded: np.ndarray, customers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Continue histories.

        Args:
            search: finds the best items for histories.
            history: int32 `[B, L]` item rows, -1 padded on the left, most recent last.
            days_ago: float32 `[B, L]`.
            excluded: int32 `[B, E]` rows that are not generated, -1 = none.
            customers: int `[B]`, a number of each customer: what a customer's draws depend on.

        Returns:
            Rows int32 `[B, length]` in the order of generation (-1 where nothing was left), and the log of each one's
            probability given all before it, float32 `[B, length]`.
        """
        if self.strategy == "beam":
            return self._beam(search, history, days_ago, excluded)
        rows = np.empty((len(history), self.length), np.int32)
        logs = np.empty(rows.shape, np.float32)
        everyone = np.arange(len(history))
        for step in range(self.length):
            found, probability = self._step(search, history, days_ago, excluded, everyone)
            place = self._draw(probability, customers, step) if self.strategy == "sample" else np.zeros_like(everyone)
            rows[:, step], logs[:, step] = found[everyone, place], probability[everyone, place]
            history, days_ago = append(history, rows[:, step]), append(days_ago, 0.0)
            excluded = np.concatenate([excluded, rows[:, step : step + 1]], 1)
        return rows, np.where(rows >= 0, logs, LOWEST).astype(np.float32)

    def _step(
        self, search: Search, history: np.ndarray, days_ago: np.ndarray, excluded: np.ndarray, customers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best candidates and the logs of their probabilities, `[B, K]`."""
        rows, scores = search(history, days_ago, excluded, customers, self.candidates)
        return rows, log_softmax(np.where(rows >= 0, scores, -np.inf))

    def _draw(self, logs: np.ndarray, customers: np.ndarray, step: int) -> np.ndarray:
        """A place in each row `[B, K]`, drawn by its probability (Gumbel's trick), the same however rows are batched."""
        kept = logs[:, : self.top_k or None] / self.temperature
        noise = [np.random.default_rng([self.seed, step, int(c)]).gumbel(size=kept.shape[1]) for c in customers]
        return np.argmax(kept + np.stack(noise), 1) if noise else np.zeros(0, int)

    def _beam(
        self, search: Search, history: np.ndarray, days_ago: np.ndarray, excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of `beams` continuations."""
        batch, width = len(history), self.beams
        spread = lambda x: np.repeat(x, width, 0)  # noqa: E731
        history, days_ago, excluded = spread(history), spread(days_ago), spread(excluded)
        customers = spread(np.arange(batch))
        rows, logs = np.zeros((batch * width, 0), np.int32), np.zeros((batch * width, 0), np.float32)
        total = np.where(np.arange(batch * width) % width, -np.inf, 0.0)  # all beams start as one
        for _ in range(self.length):
            found, probability = self._step(search, history, days_ago, excluded, customers)
            further = (total[:, None] + probability).reshape(batch, -1)
            best = np.argsort(-further, axis=1, kind="stable")[:, :width]
            total = np.take_along_axis(further, best, 1).ravel()
            beam = (np.arange(batch)[:, None] * width + best // found.shape[1]).ravel()
            place = (best % found.shape[1]).ravel()
            item = np.where(np.isfinite(total), found[beam, place], -1).astype(np.int32)
            rows = np.concatenate([rows[beam], item[:, None]], 1)
            logs = np.concatenate([logs[beam], probability[beam, place][:, None]], 1)
            history, days_ago = append(history[beam], item), append(days_ago[beam], 0.0)
            excluded = np.concatenate([excluded[beam], item[:, None]], 1)
        rows, logs = rows[::width], logs[::width]  # beams stand best first
        return rows, np.where(rows >= 0, logs, LOWEST).astype(np.float32)


def append(values: np.ndarray, last: np.ndarray | float) -> np.ndarray:
    """`[B, L]` shifted left by one, `last` (`[B]` or one for all) at its end."""
    end = np.broadcast_to(np.asarray(last, values.dtype).reshape(-1, 1), (len(values), 1))
    return np.concatenate([values[:, 1:], end], 1)


def log_sales(sales: np.ndarray) -> np.ndarray:
    """Logits that give items `[B, K]` their shares of the sales; what never sold is all but never drawn."""
    return np.log(np.maximum(sales, np.finfo(np.float32).tiny))


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logs of the softmax of each row `[B, K]`; -inf stays."""
    most = scores.max(1, keepdims=True, initial=LOWEST)
    shifted = scores - most
    total = np.exp(shifted).sum(1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1.0))  # a row of nothing but -inf stays so, too
