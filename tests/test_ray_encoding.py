"""Encoding by several processes: the store of one process, also when a worker is killed."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.small_encoders import make_shop, make_sides, save_sides
from tests.test_ray_retrieval import _words
from tfrec import encode as command
from tfrec.distributed.ray_encoding import EncodingJob, PartEncoder
from tfrec.features.store import SideStore, stored_sides
from tfrec.features.writer import FeatureWriter

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop") / "data")


def assert_equal(store: SideStore, expected: SideStore) -> None:
    assert store.keys == expected.keys
    assert store.manifest == expected.manifest
    assert sorted(p.name for p in store.folder.iterdir()) == sorted(p.name for p in expected.folder.iterdir())
    for path in expected.folder.glob("*.npy"):
        np.testing.assert_array_equal(store.array(path.stem), expected.array(path.stem))


def make_here(writer: FeatureWriter, missing: list[int], *, made: list[int], most: int = 99):
    """What Ray's workers do, in this process; stopped after `most` parts."""
    policy = tf.keras.mixed_precision.global_policy().name
    shape = (writer.tokens, writer.pool, writer.batch, writer.part)
    worker = PartEncoder(EncodingJob(writer.prepared.path, writer.store, writer.side.kind, *shape, policy))
    for number in reversed(missing):  # in another order than the contents
        if len(made) == most:
            raise KeyboardInterrupt
        made.append(number)
        yield int(worker({"part": np.array([number])})["contents"][0])


@pytest.mark.parametrize("kind", ["text", "image"])
def test_parts_become_the_store_of_one_process_and_none_is_made_twice(shop, tmp_path, kind):
    side = next(side for side in make_sides(shop.items["text"]) if side.kind == kind)
    options = {"tokens": True, "pool": 2, "batch": 4, "part": 10}  # parts of three whole batches
    expected = FeatureWriter(side, shop, tmp_path / "alone", **options).write()
    writer = FeatureWriter(side, shop, tmp_path / "parts", **options)
    first: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        writer.write(partial(make_here, made=first, most=2))
    second: list[int] = []
    store = FeatureWriter(side, shop, tmp_path / "parts", **options).write(partial(make_here, made=second))
    assert len(first) == 2
    assert sorted(first + second) == list(range(-(-len(expected.keys) // 12)))
    assert_equal(store, expected)


@pytest.mark.long
def test_a_killed_worker_loses_and_doubles_nothing(shop, tmp_path):
    pytest.importorskip("ray.data", reason="needs Ray: pip install '.[ray]'")
    weights = save_sides(shop.items["text"], tmp_path / "weights")
    words = ["--weights", weights / "image", "--data", shop.path, "--batch", "2", "--precision", "float32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["TFREC_CACHE"] = str(tmp_path / "cache")
    environment.pop("RAY_ADDRESS", None)

    def encode(*more):
        call = [sys.executable, "-m", "tfrec.encode", *map(str, [*words, *more])]
        return subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)

    # Not in this process: what other tests have set here, as deterministic kernels, would round differently.
    alone = encode("--out", tmp_path / "alone")
    there = ["--data", f"file://{shop.path}"]  # an address: each worker makes, or finds, its machine's copy
    process = encode("--out", tmp_path / "ray", "--engine", "ray", "--workers", "2", "--part", "2", *there)
    parts, killed = tmp_path / "ray" / "image.tmp" / "parts", False
    while process.poll() is None and not killed:
        children = psutil.Process(process.pid).children(recursive=True) if any(parts.glob("[0-9]*.npz")) else []
        for child in [child for child in children if "PartEncoder" in "".join(_words(child))][:1]:
            child.send_signal(signal.SIGKILL)
            killed = True
        time.sleep(0.01)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert alone.wait(timeout=400) == 0, alone.stderr.read()
    assert killed, "all parts were made before a worker could be killed"
    store, expected = (stored_sides(tmp_path / name)["image"] for name in ("ray", "alone"))
    assert_equal(store, expected)
    assert not parts.exists()


def test_wrong_engines_are_told(shop, tmp_path, capsys, monkeypatch):
    weights = save_sides(shop.items["text"], tmp_path / "weights")
    words = ["--weights", str(weights), "--data", str(shop.path), "--out", str(tmp_path / "out"), "--engine", "ray"]
    with pytest.raises(SystemExit, match="2"):
        command.main([*words, "--workers", "0"])
    assert "--workers: '0' is not a whole number of at least 1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --engine ray needs Ray: pip install '.[ray]'"
    assert not (tmp_path / "out").exists()
