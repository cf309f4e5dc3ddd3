"""How a long job uses its cores: ops of one thread each, and a call of the model on every core.

TensorFlow cuts an op into pieces for all cores, and before the next op all of them wait for the last piece. Calls that run
side by side, each on one core, have nothing to wait for, and what they compute does not depend on the number of cores.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipelines.processor import cores

Given = TypeVar("Given")
Made = TypeVar("Made")


def threads_for(cores: float) -> None:
    """Give the ops of this process as many threads as it has cores to itself: workers of one machine that each had a thread
    for every core would wait for each other's.

    To be called before TensorFlow runs anything.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(max(1, int(cores)))


def keep_to_share(number: int, of: int) -> None:
    """Keep this thread, and all that it starts, to the share `number`, from 0, of so many of the cores that it may use.

    Processes that wait for each other in every step, as the workers of a training do, lose a tenth of it where they take
    turns on each other's cores. Where there are fewer cores than shares, or the system does not pin, nothing is done.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if own := cores[len(cores) * number // of : len(cores) * (number + 1) // of]:
        os.sched_setaffinity(0, own)


def one_thread_an_op() -> None:
    """Give each op of this process one thread, for calls that run side by side.

    To be called before TensorFlow runs anything; a process in which it runs already stays as it is.
    """
    with contextlib.suppress(RuntimeError):  # it runs: `calls_at_a_time` says so
        threads_for(1)


def calls_at_a_time(own: float | None = None) -> int:
    """How many calls of a model keep the cores of this process busy.

    Args:
        own: how many cores it has; as many as the system lets it use where None.

    Returns:
        One a core where ops have one thread, else 1.
    """
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != 1:
        return 1
    return max(1, int(cores() if own is None else own))


def in_order(make: Callable[[Given], Made], given: Iterable[Given], at_a_time: int) -> Iterator[Made]:
    """`make` of each of the `given`, so many at a time in threads, in their order.

    What is given is taken only as it is needed; the first error ends it, once the calls under way are done.
    """
    if at_a_time == 1:
        yield from map(make, given)
        return
    under_way: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(at_a_time) as threads:
        for one in given:
            under_way.append(threads.submit(make, one))
            if len(under_way) > at_a_time:  # one waits, so that no thread does
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
