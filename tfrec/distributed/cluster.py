"""Which worker of a training this process is, by the variable that TensorFlow, Ray and Kubernetes' operators agree on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass


class ClusterError(ValueError):
    """A TF_CONFIG that cannot be used."""


@dataclass(frozen=True)
class Place:
    """A worker among its like.

    Attributes:
        index: of this one; the first is the chief, who writes the run's files.
        count: of all.
    """

    index: int = 0
    count: int = 1

    @property
    def chief(self) -> bool:
        """Whether it is the first one."""
        return self.index == 0

    def share(self, rows: int) -> slice:
        """The piece of `rows` rows that is this worker's: all pieces put together are the rows in their order."""
        return slice(rows * self.index // self.count, rows * (self.index + 1) // self.count)


def place_in_cluster() -> Place:
    """The place that TF_CONFIG gives this process; alone where it is not set.

    Raises:
        ClusterError: it names other tasks than workers, or is not readable.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return Place()
    try:
        config = json.loads(text)
        jobs, kind, index = config["cluster"], config["task"]["type"], int(config["task"]["index"])
        count = len(jobs["worker"])
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f'TF_CONFIG={text!r} is not like {{"cluster": {{"worker": ["host:port", ...]}}, '
            f'"task": {{"type": "worker", "index": 0}}}}: {error!r}'
        ) from None
    if set(jobs) != {"worker"} or kind != "worker" or not 0 <= index < count:
        raise ClusterError(f"TF_CONFIG={text!r}: all tasks must be workers, the first of which is the chief")
    return Place(index, count)
