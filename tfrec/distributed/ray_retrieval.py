"""Batch retrieval on Ray: worker processes, on one machine or many, make the parts of a job.

All machines must see the model, the dataset and the folder of the output under the same paths or addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tfrec.batch_retrieval.job import Job, RetrieveOptions, load_job
from tfrec.distributed.ray_parts import import_ray, make_parts, own_cores
from tfrec.publish import MANIFEST


class PartMaker:
    """A worker: loads the model once and makes the parts that it is given.

    Args:
        options: of the job, with absolute paths and `resume`.
    """

    def __init__(self, options: RetrieveOptions):
        self.job = load_job(options, own_cores(), joins=True)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`part`, numbers of parts int64 `[P]`; adds `customers`, how many each holds."""
        return {**batch, "customers": np.array([self._make(int(number)) for number in batch["part"]])}

    def _make(self, number: int) -> int:
        if self.job.parts.done(number):  # by a worker that died after it
            return len(self.job.cuts()[number])
        return self.job.make(number)


def run_on_ray(job: Job, progress: Callable[[int], object]) -> int:
    """Make all parts of a job that are missing with the workers that its options ask for, and put them together.

    Args:
        job: the job; its own model is not used, and freed.
        progress: told how many customers are done.

    Returns:
        The number of customers.

    Raises:
        EngineError: Ray is not installed.
    """
    import_ray()
    missing = job.missing()
    model, version = job.options.model, job.model.path.name
    job.model.close()
    # All workers use the same version, whatever is published meanwhile.
    model = model if (model / MANIFEST).is_file() else model / version
    options = absolute(job.options, model=model.resolve())
    for made in make_parts(PartMaker, [options], missing, workers=options.workers):
        progress(int(made["customers"]))
    return job.finish()


def absolute(options: RetrieveOptions, **changes: Any) -> RetrieveOptions:
    """The options for a process in another folder, that goes on with the job's parts."""
    given = {name: getattr(options, name) for name in ("data", "out", "users", "only")}
    paths: dict[str, Any] = {name: path.resolve() for name, path in given.items() if path is not None}
    return replace(options, **paths, resume=True, **changes)
