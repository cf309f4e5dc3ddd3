"""Batch retrieval on Ray: worker processes, on one machine or many, make the parts of a job.

A worker makes a part with the callable of the single process and gives it its name by one rename. Ray hands the part of a
worker that died to another one, which writes the same bytes under the same name: nothing is lost, nothing is doubled.
All machines must see the model, the dataset and the folder of the output under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tfrec.recommendations import Job, RetrieveError, RetrieveOptions, plan

STORE_BYTES = 128 << 20  # Ray moves numbers of parts, no data


class PartMaker:
    """A worker: loads the model once and makes the parts that it is given.

    Args:
        options: of the job, with absolute paths and `resume`.
    """

    def __init__(self, options: RetrieveOptions):
        self.job = plan(options)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`part`, numbers of parts int64 `[P]`; adds `customers`, how many each holds."""
        return {**batch, "customers": np.array([self._make(int(number)) for number in batch["part"]])}

    def _make(self, number: int) -> int:
        if self.job.parts.done(number):  # by a worker that died after it
            return len(self.job.cuts()[number])
        return self.job.make(number)


def run_on_ray(job: Job, progress: Callable[[int], object]) -> int:
    """Make all parts of a job that are missing with the workers that its options ask for, and put them together.

    Uses the cluster that RAY_ADDRESS names; without it, processes of this machine.

    Args:
        job: the job; its own model is not used, and freed.
        progress: told how many customers are done.

    Returns:
        The number of customers.

    Raises:
        RetrieveError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RetrieveError("--engine ray needs Ray: pip install 'tfrec[ray]'") from error
    cuts, missing = job.cuts(), job.missing()
    progress(len(job.rows) - sum(len(cuts[number]) for number in missing))
    version = job.model.path.resolve()
    job.model.close()
    if missing:
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        own = {} if os.environ.get("RAY_ADDRESS") else own
        with ray.init(logging_level=logging.ERROR, log_to_driver=False, **own):
            options = absolute(job.options, model=version)
            for made in _made_by(ray, options, missing):
                progress(int(made["customers"]))
    return job.finish()


def absolute(options: RetrieveOptions, **changes) -> RetrieveOptions:
    """The options for a process in another folder, that goes on with the job's parts."""
    users = None if options.users is None else options.users.resolve()
    paths: dict[str, Any] = {"data": options.data.resolve(), "out": options.out.resolve(), "users": users}
    return replace(options, **paths, resume=True, **changes)


def _made_by(ray, options: RetrieveOptions, missing: list[int]):
    """The parts as they are made, in any order: `part` and `customers`."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    workers = min(options.workers, len(missing))
    cores = ray.cluster_resources().get("CPU", 1.0) / workers
    parts = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing))
    made = parts.map_batches(
        PartMaker,
        fn_constructor_args=[options],
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=float(int(cores)) if cores >= 1 else cores,
    )
    return made.iter_rows()
