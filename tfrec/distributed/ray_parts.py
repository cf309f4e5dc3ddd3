"""The parts of a long job, made by worker processes of Ray, on one machine or many.

A worker makes a part with the callable of the single process and gives it its name by one rename. Ray hands the part of a
worker that died to another one, which writes the same bytes under the same name: nothing is lost, nothing is doubled.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

STORE_BYTES = 128 << 20  # Ray moves numbers of parts, no data
RETRIES = 3  # of a part whose worker died, and of a worker; by itself Ray tries a part that is too large for ever
ERROR = re.compile(r"^(?!ray\.)[A-Za-z_][\w.]*(?:Error|Exception): .*$", re.MULTILINE)  # as Python prints one


class EngineError(ValueError):
    """Ray, which was asked for, cannot be had."""


class WorkerError(RuntimeError):
    """A worker died, and so did those that tried again."""


def import_ray() -> ModuleType:
    """The package.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise EngineError("--engine ray needs Ray: pip install '.[ray]'") from error
    return ray


@contextmanager
def cluster() -> Iterator[Any]:
    """Ray on the cluster that RAY_ADDRESS names; without it, on processes of this machine."""
    ray = import_ray()
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    own = {} if os.environ.get("RAY_ADDRESS") else own
    with ray.init(logging_level=logging.ERROR, log_to_driver=False, **own):
        yield ray


def cores_each(nodes: list[dict[str, Any]], workers: int) -> float:
    """The most cores that each of so many workers can have: a worker has to fit on one machine.

    Args:
        nodes: as `ray.nodes()` tells them.
        workers: that run at a time.

    Raises:
        EngineError: no machine of the cluster has a core for workers.
    """
    cores = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    if sum(cores) <= 0:
        raise EngineError("no machine of Ray's cluster offers a core; start its nodes with --num-cpus")
    whole = [float(size) for size in range(int(sum(cores) // workers), 0, -1)]
    shared = [1 / count for count in range(2, 2 + 2 * workers * len(cores))]  # several workers to a core
    fitting = (size for size in [*whole, *shared] if sum(int(own / size + 1e-9) for own in cores) >= workers)
    return next(fitting, shared[-1])


def own_cores() -> float | None:
    """The cores that Ray keeps for the worker that calls this; None where no worker does."""
    ray = import_ray()
    return ray.get_runtime_context().get_assigned_resources().get("CPU") if ray.is_initialized() else None


def cause_of(failure: Exception) -> str:
    """What an error of another process says that it came from, out of the tracebacks and advice around it."""
    said = ERROR.findall(str(failure))
    return said[-1] if said else str(failure).strip().splitlines()[-1]


def make_parts(maker: type, arguments: list, missing: list[int], *, workers: int) -> Iterator[dict[str, Any]]:
    """Make the parts with the numbers `missing`.

    Args:
        maker: a worker: `maker(*arguments)` loads what it needs once; called with a batch of parts, `part` int64 `[P]`, it
            makes them and returns the batch with what is to be told of each.
        arguments: of each worker.
        missing: the parts to be made.
        workers: so many processes at most.

    Yields:
        What was told of each part, in any order.

    Raises:
        WorkerError: a part's worker died, and the next ones as well; or one could not start, or failed.
    """
    if not missing:
        return
    with cluster() as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        workers = min(workers, len(missing))
        parts = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing))
        made = parts.map_batches(
            maker,
            fn_constructor_args=arguments,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cores_each(ray.nodes(), workers),
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )
        left = set(missing)
        try:
            for told in made.iter_rows():
                left.discard(int(told["part"]))
                yield told
        except ray.exceptions.RayTaskError as error:
            raise WorkerError(f"a worker failed: {cause_of(error)}") from error
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise WorkerError(f"a worker could not start: {cause_of(error)}") from error
            under_way = ", ".join(str(number) for number in sorted(left)[:workers])
            raise WorkerError(
                f"a worker died {RETRIES + 1} times, as where a machine has too little memory; the first parts that are not "
                f"made are {under_way}. Go on with fewer --workers, so that each has more"
            ) from error
