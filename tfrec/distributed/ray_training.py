"""Training on Ray: Ray Train starts the workers, tells them of each other, and starts them again when one was lost.

The workers then do what processes with a TF_CONFIG do (`tfrec.distributed.workers`). All machines must see the project, the
dataset and the run's folder under the same paths.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfrec.config import ConfigError
from tfrec.distributed.ray_parts import EngineError, cluster, cores_each, import_ray, own_cores

if TYPE_CHECKING:
    from ray.train import ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

log = logging.getLogger("tfrec")

RESTARTS = 10  # of all workers, after one was lost


def train_on_ray(run_dir: Path, workers: int) -> None:
    """Train the run in `run_dir`, which holds its `config.yaml`, with so many workers from wherever it stands.

    Each worker has a GPU to itself where there are enough of them, and the cores are shared out.

    Raises:
        EngineError: Ray is not installed.
        ConfigError: the workers cannot train the run.
    """
    with cluster() as ray:
        log.info("%d workers on Ray; %s tells of their progress", workers, run_dir / "training.log")
        for restart in range(RESTARTS + 1):
            trainer = _trainer_class()(
                train_loop_per_worker=work,
                train_loop_config={"run": str(run_dir.resolve()), "folder": os.getcwd(), "path": sys.path},
                scaling_config=_shares(ray, workers),
                run_config=ray.train.RunConfig(name="ray", storage_path=str(run_dir.resolve())),
            )
            try:
                trainer.fit()
                return
            except ray.train.WorkerGroupError as error:
                told = [message for message in map(_own_error, error.worker_failures.values()) if message]
                if told:
                    raise ConfigError(told[0]) from None
                if restart == RESTARTS or not any(map(_is_loss, error.worker_failures.values())):
                    raise
                log.warning("a worker was lost; all of them start again from the last checkpoint")


def work(settings: dict[str, Any]) -> None:
    """What a worker does: it trains with the others from the run's last checkpoint."""
    sys.path[:] = settings["path"]  # Ray's workers begin in a folder of their own
    os.chdir(settings["folder"])  # which the paths in the options start from
    from pipelines.command import log_to
    from tfrec.config import load_config
    from tfrec.cores import keep_to_share, threads_for
    from tfrec.distributed.cluster import place_in_cluster
    from tfrec.retrieval.config import RetrievalConfig
    from tfrec.retrieval.system import train

    run_dir = Path(settings["run"])
    config = load_config(run_dir / "config.yaml", RetrievalConfig)
    log.setLevel(logging.INFO)
    place = import_ray().train.get_context()
    keep_to_share(place.get_local_rank(), place.get_local_world_size())  # the others of this machine have the rest
    threads_for(own_cores() or 1.0)
    if place_in_cluster().chief:
        log_to(run_dir / "training.log")
    train(config, run_dir)


def _trainer_class() -> type[TensorflowTrainer]:
    """Ray Train's trainer, which brings TensorFlow with it.

    Raises:
        EngineError: a package that Ray Train needs is not installed.
    """
    try:
        from ray.train.tensorflow import TensorflowTrainer
    except ImportError as error:
        raise EngineError(f"--engine ray needs all of Ray Train ({error}): pip install '.[ray]'") from error
    return TensorflowTrainer


def _shares(ray: ModuleType, workers: int) -> ScalingConfig:
    """What each worker gets of the cluster."""
    gpus = ray.cluster_resources().get("GPU", 0) >= workers
    each = {"CPU": cores_each(ray.nodes(), workers)}
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=each)


def _own_error(failure: Exception) -> str | None:
    """What a worker says to the user; None where it died or lost another one, or failed by a defect."""
    name, _, message = str(failure).strip().splitlines()[-1].partition(": ")
    return message if name.startswith(("tfrec.", "pipelines.")) and not _is_loss(failure) else None


def _is_loss(failure: Exception) -> bool:
    """Whether a worker died, or says that another one did."""
    died = isinstance(failure, import_ray().exceptions.RayError)
    return died or "WorkerLost" in str(failure) or "HealthCheck" in type(failure).__name__
