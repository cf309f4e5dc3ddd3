"""Two processes that train together do what one does, and go on where they stopped when one of them is killed."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.worker_training import BATCH, MODELS, STEPS, learn, make_batches
from tfrec.distributed.cluster import ClusterError, Place, place_in_cluster
from tfrec.distributed.workers import Workers, WorkersError, sum_rows

ROOT = Path(__file__).parents[1]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    with_ports = [socket.socket() for _ in range(count)]
    for each in with_ports:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in with_ports]
    for each in with_ports:
        each.close()
    return ports


def start_workers(out: Path, *words: str) -> list[subprocess.CompletedProcess]:
    """Two workers side by side, to their end."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "tests.worker_training", str(out), *words]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    ends = [process.communicate(timeout=900)[1] for process in processes]
    return [
        subprocess.CompletedProcess(p.args, p.returncode, stderr=end) for p, end in zip(processes, ends, strict=True)
    ]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """What two undisturbed workers left."""
    out = tmp_path_factory.mktemp("together")
    for done in start_workers(out, "--compare"):
        assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_two_workers_learn_what_one_does(together, tmp_path, name):
    alone = learn(Workers(), tmp_path, **MODELS[name])
    first, second = (np.load(together / f"{name} {index}.npz") for index in range(2))
    assert first.keys() == alone.keys()
    assert sum(key.startswith("gradient") for key in alone) > 20
    for key, value in alone.items():
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        tolerance = 1e-4 if key.startswith("weight") else 1e-5  # Adam makes as large a step of a small gradient
        scale = np.abs(value[np.isfinite(value)]).max(initial=1.0)  # of the terms that a small sum is left over from
        np.testing.assert_allclose(first[key], value, atol=tolerance * scale, rtol=1e-5, err_msg=key)


@pytest.mark.long
def test_a_killed_worker_ends_the_training_which_then_goes_on_to_the_same_losses(together, tmp_path):
    chief, killed = start_workers(tmp_path, "--kill", "3")
    assert killed.returncode < 0
    assert chief.returncode == 1
    assert "error: a worker was lost" in chief.stderr.strip().splitlines()[-1]
    assert "--resume" in chief.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "elsewhere" / "checkpoints").exists()  # the chief alone writes
    for done in start_workers(tmp_path):
        assert done.returncode == 0, done.stderr[-3000:]
    history = (tmp_path / "run" / "history.csv").read_text()
    assert history == (together / "run" / "history.csv").read_text()
    assert len(history.splitlines()) == 1 + STEPS
    whole = np.load(together / "run 0.npz")
    for again in (np.load(tmp_path / f"run {index}.npz") for index in range(2)):
        for key in whole:
            np.testing.assert_array_equal(again[key], whole[key])


@pytest.mark.parametrize(
    ("other", "differing"),
    [({}, ""), ({"data": "b"}, "data"), ({"data": "b", "options": "y"}, "options and data")],
)
def test_workers_of_other_data_or_options_are_refused_on_all(other, differing):
    given = {"options": "x", "data": "a"}
    all_given = [given, given | other]
    chiefs = Workers()
    numbers = {}

    class One(Workers):
        def from_chief(self, values):
            if self.place.index == 0:
                numbers.update(values)
            return dict(numbers)

        def sum(self, values):
            return np.array([all_given[1][what] != given[what] for what in given], float)  # of both workers

    for index, own in enumerate(all_given):
        worker = One(Place(index, 2))
        if not differing:
            worker.check_alike(own)
            continue
        who = "worker 1" if index else "a worker"
        with pytest.raises(WorkersError, match=f"{who} was given {differing} than the first one"):
            worker.check_alike(own)
    chiefs.check_alike(given)  # alone, a process is like itself


def test_shares_make_up_the_batch():
    whole = make_batches(Workers()).whole(2)
    shares = [make_batches(Workers(Place(index, 3)))(2) for index in range(3)]
    for name in ("rows", "encode_rows"):
        for share in shares:
            np.testing.assert_array_equal(share[name], whole[name])
    for name in ("history", "targets", "weights", "gaps"):
        found = np.empty_like(whole[name])
        for index, share in enumerate(shares):
            found[index::3] = share[name]
        np.testing.assert_array_equal(found, whole[name])
    tokens = np.concatenate([share["items"]["tokens"] for share in shares])
    np.testing.assert_array_equal(tokens, whole["items"]["tokens"])
    assert len(whole["history"]) == BATCH


@pytest.mark.parametrize("rows", [0, 1, 7, 9])
def test_places_share_rows_without_gap_or_overlap(rows):
    shares = [list(range(rows))[Place(index, 3).share(rows)] for index in range(3)]
    assert sum(shares, []) == list(range(rows))  # noqa: RUF017


def test_the_place_is_read_from_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert place_in_cluster() == Place(0, 1)
    workers = {"worker": ["a:1", "b:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": workers, "task": {"type": "worker", "index": 1}}))
    assert place_in_cluster() == Place(1, 2)
    assert not place_in_cluster().chief
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": workers | {"ps": ["c:1"]}, "task": {}}))
    with pytest.raises(ClusterError, match="is not like"):
        place_in_cluster()
    other = {"cluster": workers | {"ps": ["c:1"]}, "task": {"type": "ps", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(other))
    with pytest.raises(ClusterError, match="all tasks must be workers"):
        place_in_cluster()


def test_rows_of_a_sparse_gradient_are_summed():
    rows = sum_rows(tf.IndexedSlices(tf.constant([[1.0], [2.0], [4.0]]), tf.constant([5, 3, 5]), [9, 1]))
    assert dict(zip(rows.indices.numpy().tolist(), rows.values.numpy()[:, 0].tolist())) == {5: 5.0, 3: 2.0}
