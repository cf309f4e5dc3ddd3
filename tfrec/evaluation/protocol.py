"""Who is evaluated on what: the users, what was known of each at prediction time, and what they bought next.

Every model and every baseline of a table is evaluated under one `Protocol`, built from the prepared dataset
alone:

* leave-last-out: one target a user, the held-out item; the history is what stands before it.
* temporal: a user's targets are the distinct items bought in the held-out window; the history ends at its
  start.
* random: the targets are drawn from all of the log, and the history is all that was not held out.

Where items of the history are never recommended (`seen_filter`), a target that stands in it cannot be found. Of published
protocols that hold out the last interaction, repeats included, it is a miss, as in their code (S3-Rec sets the scores of
seen items to 0 and averages over all users); elsewhere it is no target, and what was dropped is counted.

"Known" events are those of the earlier splits (for `test`: train and val; for `val`: train). Baselines count
only these. Two kinds of cohort cut the results: users by history length, targets by repeat / new and warm /
cold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.schema import SPLIT_CODES
from pipelines.time_bounds import DAY
from tfrec.csr import Csr
from tfrec.sampling import sample_rows

if TYPE_CHECKING:
    from pipelines.prepared import Prepared

HISTORY_BUCKETS = {"1": (1, 1), "2-4": (2, 4), "5-9": (5, 9), "10-19": (10, 19), "20+": (20, None)}


class ProtocolError(ValueError):
    """The dataset or the options leave nobody to evaluate."""


@dataclass(frozen=True)
class Events:
    """Interactions sorted by user, then time: `user` int32, `item` int32 and `time` int64, all `[E]`."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Protocol:
    """One evaluation: `U` users, `T` targets.

    Attributes:
        split: `val` or `test`.
        split_info: the prepared dataset's own description of its split (`kind`, `cutoff`, ...).
        users: int32 `[U]`, user indices, rising.
        history: `U` rows of events known at prediction time, oldest first, with times; empty for cold users.
        read: what the model's histories hold of them, which may be what was liked alone (`history_min_rating`).
        targets: `U` rows of distinct items, at least one each.
        query_time: int64 `[U]`, the moment of prediction: the window's start (temporal), or the time of the held-out event,
            of the first of several, but none that is before what is known (as it may be of events held out at random).
        known: every event that was known before the held-out ones, of all users, and counts; what baselines learn from.
        n_items: size of the catalogue; every item is a candidate.
        target_repeat: bool `[T]`, the target is among the events of that user's history that count (`liked`).
        target_cold: bool `[T]`, the target was never sold in what the model was trained on.
        seen_filter: items of the history are never recommended; as targets they are misses (`held_out: last interaction`)
            or dropped.
        dropped_targets: targets that `seen_filter` dropped, of all users.
        dropped_users: users who had none left.
        min_rating: events rated lower are no targets, and neither the seen filter nor a baseline counts them; 0: all count.
        history_min_rating: events rated lower are not in `read`; 0: all are.
        liked: the events of the history that count.
        eligible_users: users who could be evaluated before sampling to `max_users` by `seed`.
    """

    dataset: str
    split: str
    split_info: dict[str, Any]
    users: np.ndarray
    history: Csr
    read: Csr
    targets: Csr
    query_time: np.ndarray
    known: Events
    n_items: int
    target_repeat: np.ndarray
    target_cold: np.ndarray
    seen_filter: bool
    dropped_targets: int
    dropped_users: int
    min_rating: float
    history_min_rating: float
    liked: Csr
    eligible_users: int
    max_users: int | None
    seed: int

    @property
    def temporal(self) -> bool:
        return self.split_info.get("kind") == "temporal"

    @property
    def warm(self) -> np.ndarray:
        """bool `[U]`: users with at least one known event. The main metrics are over these."""
        return self.history.lengths > 0

    def excluded(self) -> Csr | None:
        """Items that must not be recommended to each user, or None when seen items stay candidates."""
        return self.liked.distinct() if self.seen_filter else None

    def user_cohorts(self) -> dict[str, np.ndarray]:
        """Name -> bool `[U]`; empty cohorts are left out."""
        length = self.history.lengths
        masks = {
            f"history {name}": (length >= low) & (length <= (high or length.max(initial=0)))
            for name, (low, high) in HISTORY_BUCKETS.items()
        }
        masks["cold users"] = length == 0
        return {name: mask for name, mask in masks.items() if mask.any()}

    def target_cohorts(self) -> dict[str, np.ndarray]:
        """Name -> bool `[T]`, over the targets of warm users; empty cohorts are left out."""
        warm = self.warm[self.targets.rows]
        masks = {
            "repeat items": self.target_repeat & warm,
            "new items": ~self.target_repeat & warm,
            "warm items": ~self.target_cold & warm,
            "cold items": self.target_cold & warm,
        }
        return {name: mask for name, mask in masks.items() if mask.any()}

    def describe(self) -> dict[str, Any]:
        """What the `protocol` entry of metrics.json says."""
        warm = int(self.warm.sum())
        return {
            "dataset": self.dataset,
            "split": self.split,
            "split_kind": self.split_info.get("kind"),
            "cutoff": self.split_info.get("cutoff"),
            "test_days": self.split_info.get("test_days"),
            "held_out": self.split_info.get("held_out"),
            "users": warm,
            "cold_users": len(self.users) - warm,
            "eligible_users": self.eligible_users,
            "max_users": self.max_users,
            "targets": int(self.warm[self.targets.rows].sum()),  # as the metrics are over warm users
            "candidates": self.n_items,
            "ranking": "exact, over the whole catalogue",
            "seen_filter": self.seen_filter,
            "missed_repeat_targets": int(self.target_repeat.sum()) if self.seen_filter else 0,
            "dropped_repeat_targets": self.dropped_targets,
            "dropped_users": self.dropped_users,
            "min_rating": self.min_rating or None,
            "history_min_rating": self.history_min_rating or None,
            "seed": self.seed,
        }


def build_protocol(
    prepared: Prepared,
    split: str,
    *,
    seen_filter: bool = False,
    min_rating: float = 0.0,
    history_min_rating: float = 0.0,
    cold_users: bool = False,
    among: np.ndarray | None = None,
    max_users: int | None = None,
    final: bool = False,
    seed: int = 0,
) -> Protocol:
    """Read the events of a prepared dataset into an evaluation protocol.

    Args:
        prepared: an opened prepared dataset.
        split: `val` or `test`, the events to predict.
        seen_filter: never recommend an item of the history; repeat targets, unreachable then, are misses where the last
            interaction is held out, and dropped elsewhere.
        min_rating: held-out events rated lower are no targets, and earlier ones are no reason to leave an item out.
        history_min_rating: the lowest rating of what the model's histories hold; 0: they hold every event.
        cold_users: keep users without any known event; they are reported apart from the main metrics.
        among: the only users who may be evaluated; None = all.
        max_users: evaluate this many users, drawn uniformly; None = all.
        final: the model was trained on the validation events as well, so items sold there are not cold.
        seed: of that draw.

    Raises:
        ProtocolError: unknown split, or nobody to evaluate.
    """
    if split not in ("val", "test"):
        raise ProtocolError(f"split={split!r} cannot be evaluated; choose 'val' or 'test'")
    code = SPLIT_CODES[split]
    for name, least in (("min_rating", min_rating), ("history_min_rating", history_min_rating)):
        if least and "rating" not in prepared.event_columns:
            raise ProtocolError(f"{name}={least}: {prepared.path} has no ratings; leave it at 0")
    frame = prepared.events(
        columns=["user", "item", "time", "split", *["rating"] * bool(min_rating or history_min_rating)]
    )
    log = Events(*(frame[name].to_numpy() for name in ("user", "item", "time")))
    part = frame["split"].to_numpy()
    counts, is_read = (
        frame["rating"].to_numpy() >= least if least else np.ones(len(log), bool)
        for least in (min_rating, history_min_rating)
    )
    n_users, n_items = len(prepared.users), len(prepared.items)
    split_info = dict(prepared.manifest.get("split") or {})
    held, before = np.flatnonzero(part == code), part < code
    first_held = _first_held(log.user[held], held, n_users)
    if not str(split_info.get("kind")).startswith("random"):
        # By position, not by time: a log of days has many events at the held-out event's own time.
        before &= np.arange(len(log)) < first_held[log.user]
    history, liked, read = (_rows(log, before & chosen, n_users) for chosen in (True, counts, is_read))
    held = held[counts[held]]
    held_out = Csr.from_rows(log.user[held], log.item[held], n_users).distinct()
    targets, repeat = held_out, _in_history(liked, held_out)
    if seen_filter and split_info.get("held_out") != "last interaction":
        targets, repeat = held_out.where(~repeat), repeat[~repeat]

    eligible = targets.lengths > 0
    if not cold_users:
        eligible &= history.lengths > 0
    if among is not None:
        eligible &= np.isin(np.arange(n_users), among)
    users = _sample(np.flatnonzero(eligible), max_users, seed)
    earlier = part < code
    if len(users) == 0:
        raise ProtocolError(
            f"no user of {prepared.path} can be evaluated on split={split!r}: "
            f"{int((part == code).sum())} held-out events, {int(earlier.sum())} earlier ones"
            f"{_filters_told(min_rating, held_out, targets, seen_filter=seen_filter)}. "
            "Prepare the data with a longer test period or more events."
        )
    known, trained = earlier & counts, np.zeros(n_items, bool)
    trained[log.item[part <= SPLIT_CODES["val" if final else "train"]]] = True
    chosen = targets.take(users)
    return Protocol(
        dataset=str(prepared.manifest.get("dataset", "")),
        split=split,
        split_info=split_info,
        users=users.astype(np.int32),
        history=history.take(users),
        read=read.take(users),
        liked=liked.take(users),
        targets=chosen,
        query_time=_query_times(split_info, split, log.time[first_held[users]], history.take(users)),
        known=Events(log.user[known], log.item[known], log.time[known]),
        n_items=n_items,
        target_repeat=repeat[np.isin(targets.rows, users)],
        target_cold=~trained[chosen.items],
        seen_filter=seen_filter,
        dropped_targets=len(held_out.items) - len(targets.items),
        dropped_users=int(((held_out.lengths > 0) & (targets.lengths == 0)).sum()),
        min_rating=min_rating,
        history_min_rating=history_min_rating,
        eligible_users=int(eligible.sum()),
        max_users=max_users,
        seed=seed,
    )


def _filters_told(min_rating: float, held_out: Csr, targets: Csr, *, seen_filter: bool) -> str:
    """What the filters left of the held-out events, where there are any."""
    said = f"; {len(held_out.items)} targets are rated {min_rating:g} and more (min_rating)" if min_rating else ""
    return said + f"; {len(targets.items)} are new to their user (seen_filter)" * seen_filter


def _first_held(user: np.ndarray, held: np.ndarray, n_users: int) -> np.ndarray:
    """The position of each user's first held-out event, -1 without one: int64 `[n_users]`.

    Args:
        user: users of the held-out events, rising.
        held: positions of these events, rising.
        n_users: users of the dataset.
    """
    users, first = np.unique(user, return_index=True)
    positions = np.full(n_users, -1, np.int64)
    positions[users] = held[first]
    return positions


def _rows(log: Events, chosen: np.ndarray, n_users: int) -> Csr:
    """The `chosen` events (bool `[E]`) as a row for each user of the dataset."""
    return Csr.from_rows(log.user[chosen], log.item[chosen], n_users, log.time[chosen])


def _in_history(history: Csr, targets: Csr) -> np.ndarray:
    """bool `[T]`: which targets stand in the same row of the history."""
    width = 1 + max(int(history.items.max(initial=0)), int(targets.items.max(initial=0)))
    return np.isin(targets.rows * width + targets.items, history.rows * width + history.items)


def _sample(users: np.ndarray, max_users: int | None, seed: int) -> np.ndarray:
    """At most `max_users` of the users, drawn without replacement, in rising order."""
    if max_users is not None and max_users < 1 and max_users < len(users):
        raise ProtocolError(f"max_users={max_users} leaves nobody; give at least 1, or None for all")
    return sample_rows(users, max_users, seed)


def _query_times(split_info: dict[str, Any], split: str, first_held: np.ndarray, history: Csr) -> np.ndarray:
    """int64 `[U]`: the start of the held-out window (temporal), or the time `[U]` of the first held-out event, or of the
    last one of the `history` where that is later."""
    if split_info.get("kind") != "temporal" or not split_info.get("cutoff"):
        assert history.times is not None  # a protocol's histories always have them
        known, times = history.lengths > 0, first_held.copy()
        times[known] = np.maximum(times[known], history.times[history.offsets[1:][known] - 1])
        return times
    cutoff = int(datetime.fromisoformat(str(split_info["cutoff"])).replace(tzinfo=UTC).timestamp())
    start = cutoff if split == "test" else cutoff - int(split_info.get("val_days") or 0) * DAY
    return np.full(len(first_held), start, np.int64)
