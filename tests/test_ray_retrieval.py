"""Retrieval on Ray: what one process writes, to the byte, also when a worker is killed."""

# ruff: noqa: F811  (fixtures of test_retrieve, by their names)

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tests.test_retrieve import USERS, go, models, prepared, run  # noqa: F401
from tfrec import retrieve as command
from tfrec.batch_retrieval.job import RetrieveOptions, load_job
from tfrec.distributed import ray_parts
from tfrec.distributed.ray_parts import RETRIES, EngineError, WorkerError, cores_each
from tfrec.distributed.ray_retrieval import PartMaker, absolute

ROOT = Path(__file__).parents[1]


def on_ray(models, prepared, out: Path, *more: str) -> subprocess.Popen:
    """The command on two workers, in a process of its own, with addresses for paths."""
    places = {"--model": models / "shop", "--data": prepared, "--out": out}
    words = [word for option, path in places.items() for word in (option, f"file://{path}")]
    words += ["--batch", "32", "--engine", "ray", *more]
    # Workers find this folder through the driver; where the command runs does not matter.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"TFREC_CACHE": str(out.parent / "cache")}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "tfrec.retrieve", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that make parts."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "PartMaker" in "".join(_words(child))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_worker_makes_parts_as_the_single_process_does_and_none_twice(models, prepared, tmp_path, monkeypatch):
    (tmp_path / "stock.txt").write_text("".join(f"{row:03d}\n" for row in range(1, 60, 2)))
    go(models, prepared, tmp_path / "whole.csv", part=250, only=tmp_path / "stock.txt")
    monkeypatch.chdir(tmp_path)
    job = load_job(
        RetrieveOptions(models / "shop", prepared, Path("recs.csv"), batch=64, part=250, only=Path("stock.txt"))
    )
    worker = PartMaker(absolute(job.options, model=job.model.path))
    monkeypatch.chdir("/")
    assert worker({"part": np.array([2, 0])})["customers"].tolist() == [USERS - 500, 250]
    first = tmp_path / job.parts.path(0)
    made = first.stat().st_mtime_ns
    assert worker({"part": np.array([0, 1])})["customers"].tolist() == [250, 250]
    assert first.stat().st_mtime_ns == made
    monkeypatch.chdir(tmp_path)
    assert job.missing() == []
    assert job.finish() == USERS
    assert Path("recs.csv").read_bytes() == Path("whole.csv").read_bytes()


@pytest.mark.long
def test_a_killed_worker_loses_and_doubles_nothing(models, prepared, tmp_path):
    pytest.importorskip("ray.data", reason="needs Ray: pip install '.[ray]'")
    go(models, prepared, tmp_path / "whole.parquet", part=5)
    out = tmp_path / "recs.parquet"
    process = on_ray(models, prepared, out, "--part", "5", "--workers", "2")
    parts, killed = out.with_name(out.name + ".parts"), None
    while process.poll() is None and killed is None:
        if len(list(parts.glob("part-*.parquet"))) >= 1 and (workers := workers_of(process)):
            killed = workers[0]
            killed.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert killed is not None, "all parts were made before a worker could be killed"
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()


def test_without_ray_the_error_says_what_to_install(models, prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["--model", str(models / "shop"), "--data", str(prepared), "--out", str(tmp_path / "recs.csv")]
    assert command.main([*words, "--engine", "ray"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --engine ray needs Ray: pip install '.[ray]'"
    assert command.main([*words, "--engine", "ray", "--workers", "0"]) == 2
    assert "--workers 0 must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machines", "workers", "each"),
    [
        ([8, 8, 8], 2, 8.0),  # not 12, which no machine has
        ([8, 8], 3, 4.0),  # not 5: only two such would fit
        ([2], 2, 1.0),
        ([1], 2, 1 / 2),
        ([1, 1], 3, 1 / 2),
        ([16, 2], 3, 5.0),
    ],
)
def test_workers_get_cores_that_a_machine_has(machines, workers, each):
    nodes = [{"Alive": True, "Resources": {"CPU": float(cores)}} for cores in machines]
    gone = {"Alive": False, "Resources": {"CPU": 64.0}}
    assert cores_each([*nodes, gone, {"Alive": True, "Resources": {}}], workers) == pytest.approx(each)


class Died(Exception):
    """As Ray's error of an actor."""

    def __init__(self, words="", at_the_start=False):
        super().__init__(words)
        self.actor_init_failed = at_the_start


class Failed(Exception):
    """As Ray's error of a task."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Died("killed"), "a worker died 4 times.* not made are 5, 6"),
        (Died("ray::PartMaker\n  File x\ntfrec.errors.PublishError: no model", True), "could not start: .*: no model$"),
        (
            Failed("ray::PartMaker\n  File x\nOSError: no disk\n\nray.exceptions.UserCodeException: x\nTo change: y"),
            "a worker failed: OSError: no disk$",
        ),
    ],
)
def test_what_ends_a_job_is_named(monkeypatch, error, says):
    class Data:
        DataContext = SimpleNamespace(get_current=SimpleNamespace)
        ActorPoolStrategy = SimpleNamespace

        def from_items(self, items, override_num_blocks):
            return self

        def map_batches(self, maker, max_restarts, max_task_retries, **options):
            assert max_restarts == max_task_retries == RETRIES
            return self

        def iter_rows(self):
            yield {"part": 4}
            yield {"part": 7}
            raise error

    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    kinds = SimpleNamespace(RayActorError=Died, RayTaskError=Failed)
    ray = SimpleNamespace(data=Data(), nodes=lambda: nodes, exceptions=kinds)
    monkeypatch.setattr(ray_parts, "cluster", lambda: nullcontext(ray))
    made = ray_parts.make_parts(PartMaker, [], [4, 5, 6, 7], workers=2)
    assert [next(made)["part"], next(made)["part"]] == [4, 7]
    with pytest.raises(WorkerError, match=says):
        next(made)


def test_a_cluster_without_cores_is_told():
    with pytest.raises(EngineError, match="no machine of Ray's cluster offers a core"):
        cores_each([{"Alive": True, "Resources": {}}], 2)
