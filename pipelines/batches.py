"""tf.data batches of purchase histories and the items that a step encodes.

A batch is a pure function of the step number: a seeded permutation of the examples for each epoch, a slice of it, and
gathers. The state of the pipeline is therefore one integer, and training resumes at any step without replaying.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.content import ItemContent
from pipelines.epochs import ShuffledRows
from pipelines.equal_rows import repeated
from pipelines.prefetching import made_ahead
from pipelines.schema import PreparedError
from pipelines.time_bounds import DAY

if TYPE_CHECKING:
    import tensorflow as tf

Batch = dict[str, Any]  # arrays or tensors by name; those of its `items` are a dict of their own


@dataclass(frozen=True)
class Purchases:
    """Purchases in columns, sorted by user, then time.

    Attributes:
        user, item: int32 `[n]` row numbers.
        time: int64 `[n]` seconds.
        users: number of customers, also those without purchases.
        rating: float32 `[n]`; None where they were not rated.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    users: int
    rating: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.item)

    @property
    def offsets(self) -> np.ndarray:
        """Where each customer's purchases start, int64 `[users + 1]`."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.user, minlength=self.users))])

    def where(self, keep: np.ndarray) -> Purchases:
        """The purchases at which `keep` `[n]` is True."""
        rating = None if self.rating is None else self.rating[keep]
        return Purchases(self.user[keep], self.item[keep], self.time[keep], self.users, rating)

    def collapse_repeats(self, within: str) -> Purchases:
        """Read further purchases of an item by its customer as one with the first.

        Args:
            within: `never` (keep all), `day` (one a day) or `always`.
        """
        if within == "never" or not len(self):
            return self
        keys = [self.item, self.user] if within == "always" else [self.time // DAY, self.item, self.user]
        return self.where(~repeated(keys))


@dataclass(frozen=True)
class Windows:
    """Training examples: slices `start:end` of the purchases, by which every purchase is predicted exactly once. Where the
    purchases of one day are shuffled and a cut goes through that day, one of them may be predicted twice in an epoch, and
    another not at all.

    Attributes:
        start, end: int64 `[W]`.
        first: whether the slice starts at the customer's first purchase, bool `[W]`.
    """

    start: np.ndarray
    end: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def with_any(self, predicted: np.ndarray) -> Windows:
        """The windows that ask for at least one of the purchases at which `predicted` `[n]` is True."""
        before = np.concatenate([[0], np.cumsum(predicted)])
        asked_from = np.where(self.first, self.start, self.start + 1)  # else the first one is context alone
        keep = before[self.end] > before[asked_from]
        return Windows(self.start[keep], self.end[keep], self.first[keep])


def cut_windows(offsets: np.ndarray, length: int) -> Windows:
    """Cut customers' purchases into windows of at most `length + 1`, neighbours sharing one purchase.

    A window's first purchase is predicted from the start token where it is the customer's first, and is only context
    otherwise. With `length` 0 every purchase is a window.

    Args:
        offsets: `[users + 1]`, see `Purchases.offsets`.
        length: purchases of history, T.
    """
    counts = np.diff(offsets)
    if length == 0:
        start = np.arange(offsets[-1])
        return Windows(start, start + 1, np.ones(len(start), bool))
    pieces = np.where(counts > 0, np.maximum(1, -(-(counts - 1) // length)), 0)
    user = np.repeat(np.arange(len(counts)), pieces)
    place = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # from the most recent
    end = offsets[1:][user] - place * length
    start = np.maximum(offsets[:-1][user], end - length - 1)
    return Windows(start, end, start == offsets[:-1][user])


@dataclass
class HistoryBatches:
    """Batches for history models; calling it with a step number makes that step's batch.

    Attributes:
        purchases: the training purchases.
        length: purchases of history T (0 for a user tower).
        batch_size: windows B.
        seed: of the order and of all draws.
        items: size of the catalogue N.
        user_fields: int32 `[users, G]`.
        content: what the item tower reads; None where items are ids alone.
        encode_items: items encoded in each step E.
        candidates: whether the batch lists its distinct items, the candidates of an in-batch softmax.
        negatives: uniform draws among the candidates.
        modality_dropout: probability that an encoded item loses its photo, and that it loses its text.
        recency_days: half-life of an example's weight; 0: all weigh 1.
        shuffle: order purchases at random each time: `ties`, those of one moment (a log by days does not know their order),
            `days`, those of one day whatever their times, `none`.
        in_history: which purchases histories hold, bool `[n]`: the others are predicted alone, from those before them.
            None: all.
        predicted: which purchases are targets, bool `[n]`: the others are only read. None: all.
        worker, workers: which of how many processes that train together is to read the batches. Each gets its share of the
            batch's customers and of the content to encode; `rows` and `encode_rows` are the whole batch's for all.
    """

    purchases: Purchases
    length: int
    batch_size: int
    seed: int
    items: int
    user_fields: np.ndarray
    content: ItemContent | None = None
    encode_items: int = 0
    candidates: bool = True
    negatives: int = 0
    modality_dropout: float = 0.0
    recency_days: float = 0.0
    shuffle: str = "none"
    in_history: np.ndarray | None = None
    predicted: np.ndarray | None = None
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        self.windows = cut_windows(self.purchases.offsets, self.length)
        if self.predicted is not None:
            self.windows = self.windows.with_any(self.predicted)
        if not len(self.windows):
            raise PreparedError("there are no training purchases; prepare the data again with another --split")
        self.batch_size = min(self.batch_size, len(self.windows))
        self.weights = self._recency_weights()
        if self.in_history is not None:
            self._held = np.append(np.flatnonzero(self.in_history), 0)  # the last place stands for none
            self._held_before = np.concatenate([[0], np.cumsum(self.in_history)])  # each purchase
            self._held_before_user = self._held_before[self.purchases.offsets]
        self.order = ShuffledRows(len(self.windows), self.batch_size, self.seed, 0)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in a pass over the windows."""
        return self.order.steps_per_epoch

    @cached_property
    def named(self) -> np.ndarray:
        """Which purchases batches name, as targets or in histories, bool `[n]`: their items are candidates in a batch."""
        if self.predicted is None:
            return np.ones(len(self.purchases), bool)
        edges = np.zeros(len(self.purchases) + 1, np.int64)
        np.add.at(edges, self.windows.start, 1)
        np.add.at(edges, self.windows.end, -1)
        return np.cumsum(edges[:-1]) > 0

    @property
    def read(self) -> np.ndarray:
        """Which purchases are read for a prediction, bool `[n]`: those that histories hold, before the last one that their
        customer is asked for. Of one moment each is read for the others, where those are shuffled."""
        place, user = np.arange(len(self.purchases)), self.purchases.user
        asked = place if self.predicted is None else np.where(self.predicted, place, -1)
        last = np.maximum.accumulate(asked)[self.purchases.offsets[1:] - 1]  # of each customer who has any
        read = self.named & (place < last[user])
        if self.shuffle != "none":
            moment = self._moment(place)
            with_next = np.append((moment[1:] == moment[:-1]) & (user[1:] == user[:-1]), False)
            read |= self.named & (with_next | np.roll(with_next, 1))
        return read if self.in_history is None else read & self.in_history

    def _moment(self, place: np.ndarray) -> np.ndarray:
        """When the purchases at `place` were made, alike for those whose order is shuffled."""
        return self.purchases.time[place] // (DAY if self.shuffle == "days" else 1)

    @property
    def mean_purchases(self) -> float:
        """Purchases named in a batch, on average."""
        return self.named.sum() / len(self.windows) * self.batch_size

    def __call__(self, step: int) -> dict[str, Any]:
        """This worker's share of the batch of `step`.

        Returns:
            `history` int32 `[B, T]` (-1 padded on the left), `gaps` float32 `[B, T]` (days to the moment that the
            prediction at this place is for), `targets` int32 `[B, T + 1]` (-1: none), `weights` float32 `[B, T + 1]`,
            `user` int32 `[B]`, `user_fields` int32 `[B, G]`; with ratings `ratings` float32 `[B, T + 1]`, the targets';
            where histories leave purchases out, `target_places` int32 `[B, T + 1]`, the place whose prediction each target
            is (else target t is that of place t, which has read `history[:t]`), and gaps are those to the next one held;
            `rows` int32 `[R]`, the distinct items of histories and targets and those drawn;
            `encode_rows` int32 `[E]` and
            `items` with their content (of the worker's share of them).
        """
        return self._share(step, self.worker, self.workers)

    def whole(self, step: int) -> dict[str, Any]:
        """The batch of `step` as a process alone reads it."""
        return self._share(step, 0, 1)

    def _share(self, step: int, worker: int, workers: int) -> dict[str, Any]:
        # Sorted by length, so that the model can read short histories without their padding.
        chosen = self.order(step)
        chosen = chosen[np.argsort(self.windows.end[chosen] - self.windows.start[chosen], kind="stable")]
        rng = np.random.default_rng([self.seed, 1, step])
        whole = self.histories(chosen, rng)
        if self.in_history is not None:  # the model reads short histories apart: in order of what is left of them
            order = np.argsort((whole["history"] >= 0).sum(1), kind="stable")
            whole = {name: rows[order] for name, rows in whole.items()}
        batch: dict[str, Any] = {name: rows[worker::workers] for name, rows in whole.items()}  # long and short ones
        sold = distinct(whole["targets"])
        if self.candidates:
            drawn = rng.integers(0, self.items, self.negatives, dtype=np.int32)
            batch["rows"] = distinct(np.concatenate([whole["history"].ravel(), sold, drawn]))
        if self.content is not None:
            encoded = batch["encode_rows"] = self.encode_rows(sold, rng)
            own = slice(len(encoded) * worker // workers, len(encoded) * (worker + 1) // workers)
            batch["items"] = self.content.gather(encoded[own])
            if self.modality_dropout:
                draw = rng.random(len(encoded))[own]
                batch["items"] = drop_modalities(
                    batch["items"], self.modality_dropout, draw, pad_id=self.content.pad_id
                )
        return batch

    def histories(self, chosen: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """History, gaps, targets, weights and customer of the windows `chosen` `[B]`; `rng` shuffles."""
        start, end = self.windows.start[chosen], self.windows.end[chosen]
        place = end[:, None] - np.arange(self.length + 1, 0, -1)  # (B, T + 1), right-aligned
        inside = place >= start[:, None]
        place = np.where(inside, place, 0)
        if self.shuffle != "none":
            place = shuffle_within(place, inside, self._moment(place), rng)
        item = np.where(inside, self.purchases.item[place], -1).astype(np.int32)
        time = self.purchases.time[place]
        history, targets = item[:, :-1], np.full_like(item, -1)
        targets[:, 1:] = np.where(self._asked_for(place[:, 1:], history >= 0), item[:, 1:], -1)
        weight = np.where(targets >= 0, self.weights[place], 0.0).astype(np.float32)
        first = np.flatnonzero(self.windows.first[chosen])  # these predict their first purchase from the start token
        oldest = place[first, np.argmax(inside[first], 1)]
        asked = self._asked_for(oldest, True)
        first, oldest = first[asked], oldest[asked]
        targets[first, 0], weight[first, 0] = self.purchases.item[oldest], self.weights[oldest]
        user = self.purchases.user[start].astype(np.int32)
        further = {}
        if self.in_history is not None:
            before = self._held_before[start], self._held_before_user[user]
            read, history, further["target_places"] = self._those_held(place, inside, *before)
            time = np.concatenate([self.purchases.time[read], time[:, -1:]], 1)
        if self.purchases.rating is not None:
            rating = self.purchases.rating[place] * (targets >= 0)
            rating[first, 0] = self.purchases.rating[oldest]
            further["ratings"] = rating.astype(np.float32)
        return {
            "history": history,
            "gaps": (np.diff(time, axis=1) * (history >= 0) / DAY).astype(np.float32),
            "targets": targets,
            "weights": weight,
            "user": user,
            "user_fields": self.user_fields[user],
            **further,
        }

    def _asked_for(self, place: np.ndarray, there: np.ndarray | bool) -> np.ndarray:
        """Which of the purchases at `place`, where they are `there`, are predicted."""
        return np.broadcast_to(there, place.shape) if self.predicted is None else there & self.predicted[place]

    def _those_held(
        self, place: np.ndarray, inside: np.ndarray, before: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The last T purchases before the last one of each window that histories hold, if need be from before the window.

        Args:
            place: purchases of the windows `[B, T + 1]`, where they are `inside` `[B, T + 1]`.
            before, first: how many purchases are held before each window, and before its customer's first one, `[B]`.

        Returns:
            Purchases `[B, T]`, their items int32 `[B, T]`, right-aligned, -1 in front, and for each of the window's
            purchases the place that has read what is left of those before it, int32 `[B, T + 1]`.
        """
        assert self.in_history is not None
        earlier = before[:, None] - np.arange(self.length, 0, -1)
        before_window = self._held[np.where(earlier >= first[:, None], earlier, -1)]
        held = np.concatenate([earlier >= first[:, None], inside[:, :-1] & self.in_history[place[:, :-1]]], 1)
        places = np.concatenate([before_window, place[:, :-1]], 1)
        order = np.argsort(held, axis=1, kind="stable")[:, -self.length :]  # what is held comes last, in its own order
        kept, read = np.take_along_axis(held, order, 1), np.take_along_axis(places, order, 1)
        so_far = np.pad(np.cumsum(held[:, self.length :], 1), [(0, 0), (1, 0)])
        count = kept.sum(1, keepdims=True)
        so_far += count - so_far[:, -1:]  # those from before the window
        target_places = np.where(so_far > 0, self.length - count + so_far, 0)  # place 0 has read nothing
        return read, np.where(kept, self.purchases.item[read], -1).astype(np.int32), target_places.astype(np.int32)

    def encode_rows(self, sold: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Distinct items to encode: the batch's targets first, in random order, then uniform draws. int32 `[E]`."""
        count = min(self.encode_items, self.items)
        rows = rng.permutation(sold)[:count]
        if len(rows) < count:
            others = np.setdiff1d(rng.permutation(self.items)[: count + len(rows)], rows, assume_unique=True)
            rows = np.concatenate([rows, rng.permutation(others)[: count - len(rows)]])
        return rows.astype(np.int32)

    def _recency_weights(self) -> np.ndarray:
        time = self.purchases.time
        if not self.recency_days:
            return np.ones(len(time), np.float32)
        return (0.5 ** ((time.max() - time) / DAY / self.recency_days)).astype(np.float32)


def distinct(rows: np.ndarray) -> np.ndarray:
    """The different items among `rows` (-1: none), rising, int32."""
    found = np.unique(rows)
    return found[found >= 0].astype(np.int32)


def shuffle_within(place: np.ndarray, inside: np.ndarray, moment: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle purchases of one `moment` `[B, T + 1]` within the windows `place`; padding (not `inside`) stays in front."""
    key = np.where(inside, moment + rng.random(place.shape), -np.inf)
    return np.take_along_axis(place, np.argsort(key, axis=1, kind="stable"), 1)


def drop_modalities(
    items: dict[str, np.ndarray], rate: float, draw: np.ndarray, *, pad_id: int = 0
) -> dict[str, np.ndarray]:
    """Hide the photo of some items and the text of others, never both, so that one modality is enough at serving time.

    Args:
        items: content `[E, ...]`.
        rate: share of the items that lose their photo, and of those that lose their text.
        draw: which ones, a number between 0 and 1 for each, `[E]`.
        pad_id: token id of padding.
    """
    no_photo, no_text = draw < rate, draw > 1 - rate
    if "has_photo" in items:
        items["has_photo"] = items["has_photo"] & ~no_photo
    for name, nothing in (("tokens", pad_id), ("text_mask", False)):
        if name in items:
            shape = (-1,) + (1,) * (items[name].ndim - 1)
            items[name] = np.where(no_text.reshape(shape), nothing, items[name]).astype(items[name].dtype)
    return items


def make_dataset(
    make_batch: Callable[[int], dict],
    start: int,
    stop: int,
    *,
    photo_size: tuple[int, int] | None = None,
    parallel: int = 2,
) -> tf.data.Dataset:
    """tf.data over the batches of steps `start` to `stop`, made in parallel, in order, and ahead of their use.

    Args:
        make_batch: step number -> (nested) dict of arrays, always with the same names and types, and the same for the same
            step.
        start, stop: step numbers.
        photo_size: height and width that `photo_bytes` are decoded to, inside the pipeline.
        parallel: batches made at a time.
    """
    import tensorflow as tf

    example = make_batch(start)
    flat, names = tf.nest.flatten(example), example
    types = [tf.string if part.dtype == object else tf.as_dtype(part.dtype) for part in flat]

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes a second
    def make(step: tf.Tensor) -> Batch:
        # Said to be stateful, as is the default, it would be called batch by batch and never ahead where ops are to be
        # deterministic, as trainings ask for.
        parts = tf.numpy_function(lambda s: tf.nest.flatten(make_batch(int(s))), [step], types, stateful=False)
        for part, like in zip(parts, flat, strict=True):
            part.set_shape([None, *like.shape[1:]])
        batch = tf.nest.pack_sequence_as(names, parts)
        return decode_bytes(batch, photo_size)

    return made_ahead(tf.data.Dataset.range(start, stop), make, parallel)


def decode_bytes(batch: dict, size: tuple[int, int] | None) -> dict:
    """Replace `items/photo_bytes` of a batch by pixels `items/photos`."""
    from pipelines.photos.pixels import decode_photos

    if "photo_bytes" in batch.get("items", {}):
        assert size is not None  # whoever reads photos as bytes says how large they are to be
        items = dict(batch["items"])
        items["photos"] = decode_photos(items.pop("photo_bytes"), size)[0]
        batch = {**batch, "items": items}
    return batch
