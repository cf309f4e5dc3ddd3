"""Training on Ray: two workers, one of which is killed, reach the losses of one process."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.test_ray_retrieval import _words
from tfrec import train as command
from tfrec.distributed.ray_training import _is_loss, _own_error

ROOT = Path(__file__).parents[1]
SMALL = shlex.split(
    "--recipe demo --training.steps 8 --training.evaluations 1 --training.batch_size 15 --model.item.deep false "
    "--training.checkpoint_seconds 0.01 --training.precision float32 "  # encoders: tests/test_workers.py
    "--model.text.vocabulary_size 200 --model.query.dropout 0"  # what two workers drop is drawn apart
)


def start(*words, **variables) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"} | variables
    for name in ("RAY_ADDRESS", "TF_CONFIG"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tfrec.train", *SMALL, *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def losses(run: Path) -> dict[int, float]:
    with (run / "history.csv").open(newline="") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}


def kill_a_worker(process: subprocess.Popen, run: Path) -> bool:
    """Kill a worker that is not the chief once there is a checkpoint; False where the training ended before."""
    while process.poll() is None:
        if (run / "checkpoints" / "checkpoint").exists():
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in children if "RayTrainWorker" in "".join(_words(child))]
            if len(workers) > 1:
                workers[1].send_signal(signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


@pytest.mark.long
def test_a_killed_worker_changes_no_loss(tmp_path):
    pytest.importorskip("ray.train", reason="needs Ray: pip install '.[ray]'")
    from pipelines.__main__ import main

    assert main(["demo", "--out", str(tmp_path / "shop"), "--size", "tiny"]) == 0
    data = ["--data", tmp_path / "shop"]
    alone = start(*data, "--out", tmp_path / "alone")
    _, errors = alone.communicate(timeout=400)
    assert alone.returncode == 0, errors
    process = start(*data, "--out", tmp_path / "run", "--engine", "ray", "--workers", "2")
    killed = kill_a_worker(process, tmp_path / "run")
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert killed, "the training ended before a worker could be killed"
    assert "a worker was lost" in errors
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert (tmp_path / "run" / "report.html").exists()
    log = (tmp_path / "run" / "training.log").read_text()
    assert "resumed at step" in log


def test_wrong_engines_are_told_before_a_run_is_begun(tmp_path, capsys, monkeypatch):
    from pipelines.__main__ import main

    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert main(["demo", "--out", str(tmp_path / "shop"), "--size", "tiny"]) == 0
    words = ["--data", str(tmp_path / "shop"), "--out", str(tmp_path / "run"), "--engine", "ray"]
    assert command.main([*words, "--workers", "0"]) == 2
    assert "--workers 0 must be at least 1" in capsys.readouterr().err
    assert command.main(["--recipe", "metric-small", *words]) == 2
    assert "retrieval recipes alone" in capsys.readouterr().err
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    assert command.main(words) == 2
    assert "unset TF_CONFIG" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --engine ray needs Ray: pip install '.[ray]'"


def test_what_a_worker_tells_the_user_is_told_apart_from_losses_and_defects():
    ray = pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")
    told = RuntimeError("Traceback ...\n  File ...\ntfrec.config.ConfigError: task.encode_items=1: too few\n")
    lost = RuntimeError("Traceback ...\ntfrec.workers.WorkerLost: a worker was lost, and ...\n")
    assert [_own_error(e) for e in (told, lost, ValueError("x"))] == ["task.encode_items=1: too few", None, None]
    assert [_is_loss(e) for e in (ray.exceptions.RayActorError(), lost, told)] == [True, True, False]
