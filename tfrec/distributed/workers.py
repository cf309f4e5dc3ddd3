"""Several processes that train one model together, each on its share of every batch.

A batch is a function of the step number, so each worker knows the whole batch's rows without being told, reads only its
share of the expensive content, and computes the gradient of its share of the loss. What is added up or put together between
them goes through `tf.distribute`: `MultiWorkerMirroredStrategy` connects the processes that TF_CONFIG names, and where a
process is alone, its replica context is that of TensorFlow's default strategy, in which all of this is the identity. So
there is one step for both.

The variables are plain ones, every worker has its own copy, and all copies take the same update: the strategy mirrors no
variable and aggregates no gradient. Keras's way of doing so sums gradients after their rows have been told apart from their
duplicates, mirrors the random generators of dropout, and knows no `scatter_nd_update` for the bank.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import numpy as np
import tensorflow as tf

from tfrec.distributed.cluster import Place, place_in_cluster

Given = TypeVarTuple("Given")
Made = TypeVar("Made")

PACK_BYTES = 64 << 20  # gradients are added up in packs of so many bytes


class WorkersError(ValueError):
    """Workers that cannot train together."""


class WorkerLost(RuntimeError):
    """A worker died, and the others cannot go on without it."""


# -- inside a step: of the replica context that the step runs in ---------------------------------------------------


def replicas() -> int:
    """How many workers take the step; 1 outside of a step of several."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def worker_number() -> tf.Tensor | int:
    """Which of them this one is: a scalar int32, or 0 where it is alone."""
    return tf.distribute.get_replica_context().replica_id_in_sync_group if replicas() > 1 else 0


def all_reduce_sum(values: list) -> list:
    """The sum over the workers of each of some tensors; of sparse gradients their distinct rows; None stays None."""
    if replicas() == 1:
        return values
    context = tf.distribute.get_replica_context()
    summed = list(values)
    dense = [i for i, value in enumerate(values) if value is not None and not isinstance(value, tf.IndexedSlices)]
    for dtype in dict.fromkeys(values[i].dtype for i in dense):  # what is sent together must be of one type
        places = [i for i in dense if values[i].dtype == dtype]
        sent = [tf.identity(values[i]) for i in places]  # on the replica's device, which is where the sums go
        for i, total in zip(places, context.all_reduce("SUM", sent), strict=True):
            summed[i] = total
    for i, value in enumerate(values):
        if isinstance(value, tf.IndexedSlices):
            value = sum_rows(value)  # a row is sent once
            rows, indices = context.all_gather(value.values, 0), context.all_gather(value.indices, 0)
            summed[i] = tf.IndexedSlices(rows, indices, value.dense_shape)
    return summed


def all_gather_rows(rows: tf.Tensor | None) -> tf.Tensor | None:
    """The rows of all workers, those of the first in front: `[n, ...]` -> `[n1 + n2 + ..., ...]`; None stays None.

    A gradient flows back to the worker whose rows they are, summed over what all workers made of them.
    """
    return rows if rows is None or replicas() == 1 else _gather(rows)


@tf.custom_gradient
def _gather(rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor | tf.IndexedSlices], tf.Tensor]]:
    """`all_gather_rows` with its gradient; that of TensorFlow's own all_gather takes no sparse one."""
    context = tf.distribute.get_replica_context()
    counts = context.all_gather(tf.shape(rows)[:1], 0)

    def gradient(upstream: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
        (total,) = all_reduce_sum([tf.convert_to_tensor(upstream)])
        start = tf.reduce_sum(counts[: worker_number()])
        return total[start : start + tf.shape(rows)[0]]

    return context.all_gather(rows, 0), gradient


def sum_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """A sparse gradient in which every row occurs once."""
    indices, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.shape(indices)[0])
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


# -- around the steps ----------------------------------------------------------------------------------------------


class Workers:
    """The workers of a training, as one of them sees them.

    Args:
        place: which of how many it is; None where it is alone.
        strategy: connects it to the others; None where it is alone.
    """

    def __init__(self, place: Place | None = None, strategy: tf.distribute.Strategy | None = None):
        self.place, self.strategy = place or Place(), strategy
        # Traced once for each type and rank: between steps, an eager call of a strategy costs more than what it sends.
        self._sum = tf.function(lambda x: self.run(all_reduce_sum, [x])[0], autograph=False, reduce_retracing=True)

    @classmethod
    def join(cls) -> "Workers":
        """The workers that TF_CONFIG names, this process among them; itself alone where it names none.

        To be called before TensorFlow has run anything: it cannot be connected later.

        Raises:
            WorkersError: a worker has several GPUs.
        """
        place = place_in_cluster()
        if place.count == 1:
            return cls()
        options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK_BYTES)
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        if strategy.num_replicas_in_sync != place.count:
            raise WorkersError(
                f"{place.count} workers have {strategy.num_replicas_in_sync} GPUs: start one worker for each GPU, "
                "and show it that one alone (CUDA_VISIBLE_DEVICES)"
            )
        return cls(place, strategy)

    @property
    def chief(self) -> bool:
        """Whether this worker is the one that writes the run's files."""
        return self.place.chief

    def run(self, function: Callable[[*Given], Made], *arguments: *Given) -> Made:
        """`function(*arguments)` on all workers at the same time; inside it the functions above speak to the others."""
        return function(*arguments) if self.strategy is None else self.strategy.run(function, arguments)

    def from_chief(self, values: dict[str, float]) -> dict[str, float]:
        """The chief's numbers, where those of the others may differ from them, or be missing: by the same names."""
        if self.strategy is None:
            return values
        numbers = np.array(list(values.values()), np.float64)
        numbers = self._sum(tf.convert_to_tensor(numbers if self.chief else np.zeros_like(numbers))).numpy()
        return dict(zip(values, map(float, numbers), strict=True))

    def check_alike(self, given: dict[str, str]) -> None:
        """Refuse workers that were not given the same: of another dataset, a row of a table would be another item's.

        Args:
            given: what is to be the same on all workers, as text, by what another one is called ("another dataset").

        Raises:
            WorkersError: on all workers, where it is not so on one of them.
        """
        numbers = {what: float(int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)) for what, text in given.items()}
        chiefs = self.from_chief(numbers)
        own = np.array([numbers[what] != chiefs[what] for what in given], np.float64)
        differing = [what for what, count in zip(given, np.asarray(self.sum(own)), strict=True) if count]
        if differing:
            who = f"worker {self.place.index}" if own.any() else "a worker"
            raise WorkersError(
                f"{who} was given {' and '.join(differing)} than the first one; give all of them the same options, and "
                "copies of one prepared dataset"
            )

    def broadcast_from_chief(self, variables: list[tf.Variable]) -> None:
        """Give every worker the chief's values of variables, in the same order on all of them."""
        if self.strategy is None:
            return

        def chiefs() -> list[tf.Tensor | tf.IndexedSlices]:
            return all_reduce_sum(
                [tf.convert_to_tensor(v) if self.chief else tf.zeros(v.shape, v.dtype) for v in variables]
            )

        values = tf.function(lambda: self.run(chiefs), autograph=False)()
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def sum(self, values: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """The sum of the workers' arrays `[n, ...]`."""
        return values if self.strategy is None else self._sum(tf.convert_to_tensor(values))

    def barrier(self) -> None:
        """Wait until all workers are here."""
        self.from_chief({"here": 1.0})

    @contextmanager
    def chief_first(self) -> Iterator[None]:
        """A block that the chief passes through before the others begin it: it writes what they then find."""
        if not self.chief:
            self.barrier()
        yield
        if self.chief:
            self.barrier()


@contextmanager
def loss_of_a_worker_told() -> Iterator[None]:
    """Say in one line that a worker died, in place of TensorFlow's account of a connection.

    Raises:
        WorkerLost: one did.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if place_in_cluster().count == 1:
            raise
        raise WorkerLost(
            "a worker was lost, and the others stop with it; start all of them again with --resume: "
            "training goes on from its last checkpoint"
        ) from error


def variables_of(*parts: tf.Module) -> list[tf.Variable]:
    """Every variable that a checkpoint of `parts` would hold, random generators' states among them, in a fixed order."""
    found = {
        id(child): child
        for part in parts
        for child in tf.train.TrackableView(part).descendants()
        if isinstance(child, tf.Variable)
    }
    return list(found.values())
