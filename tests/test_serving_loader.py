"""Published versions in a process without Python, loaded by TensorFlow's C++ loader as TensorFlow Serving loads them.

There is no `tensorflow_model_server` to test with; this is the same loader from the same library, fed with the
version's own warm-up requests: the exact model with nothing but TensorFlow, the ScaNN model with ScaNN's op library.
"""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.serving_fakes import make_run
from tfrec.encoders.wordpiece import SPECIAL_TOKENS, WordPiece
from tfrec.export import export_run
from tfrec.index.indexes import load_scann_ops
from tfrec.saved_model.loading import load_model
from tfrec.saved_model.warmup import RECORDS, read_warmup
from tfrec.saved_model.wordpiece import StockWordPiece

SOURCE = Path(__file__).with_name("serving_loader.cc")
LIBRARIES = Path(tf.sysconfig.get_lib())
ROUNDS = 20

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler (g++)"),
]


@dataclass
class Answer:
    """What the loader printed of a request; times in milliseconds."""

    signature: str
    cold: float
    first: float
    median: float
    p99: float
    item_ids: list[str]


@pytest.fixture(scope="module")
def loader(tmp_path_factory) -> Path:
    """The compiled loader; it takes a minute or two to compile TensorFlow's headers."""
    program = tmp_path_factory.mktemp("loader") / "serving_loader"
    libraries = [f"-l:{name}" for name in ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")]
    flags = ["-w", "-O0", *tf.sysconfig.get_compile_flags(), f"-L{LIBRARIES}", f"-Wl,-rpath,{LIBRARIES}"]
    subprocess.run(["g++", str(SOURCE), "-o", str(program), *flags, *libraries], check=True, timeout=900)
    return program


@pytest.fixture(scope="module")
def run():
    """A run that reads words with the tokenizer that trained runs are exported with."""
    run = make_run(1200)
    words = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), "warm"]
    run.towers.tokenizer = StockWordPiece(WordPiece(words, sequence_length=12))
    run.towers.tokens = run.towers.tokenizer
    return run


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory):
    return export_run(run, "shop", tmp_path_factory.mktemp("models"), max_k=100, say=lambda text: None)


def replay(loader: Path, folder: Path, *libraries: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(loader), str(folder), str(ROUNDS), *map(str, libraries)], capture_output=True, text=True, timeout=300
    )


def answers(done: subprocess.CompletedProcess) -> list[Answer]:
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [Answer(name, *map(float, times), items.split(",")) for name, *times, items in lines]


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_every_signature_answers_without_python(loader, folders, kind):
    """The exact model with no op library at all, the ScaNN model with `_scann_ops.so`; the same items as in Python."""
    folder = folders[kind == "scann"]
    found = answers(replay(loader, folder, *([load_scann_ops()] if kind == "scann" else [])))
    model = load_model(folder)
    requests = list(read_warmup(folder))
    assert {answer.signature for answer in found} == set(model.manifest["signatures"])
    for answer, (signature, inputs) in zip(found, requests, strict=True):
        assert answer.signature == signature
        outputs = model(signature, **inputs)
        if "item_id" in outputs:
            assert answer.item_ids == [item.decode() for item in outputs["item_id"][0].numpy()]
    model.close()


def test_the_first_request_after_warm_up_is_as_fast_as_the_others(loader, folders):
    """Without warm-up the first request is many times slower. Medians over the requests, for a busy machine."""
    found = answers(replay(loader, folders[0]))
    first = np.median([answer.first / answer.p99 for answer in found])
    cold = np.median([answer.cold / answer.median for answer in found])
    assert first <= 2
    assert cold > first


def test_the_scann_model_without_its_ops_fails_at_its_warm_up(loader, folders):
    """TensorFlow's C++ loader accepts it; the warm-up requests are what stops a server from serving it."""
    done = replay(loader, folders[1])
    assert done.returncode == 4
    assert "Scann>" in done.stderr


def test_a_version_without_variables_fails_at_its_warm_up(loader, folders, tmp_path):
    """Why a manifest is checked before: the loader says nothing of the missing folder."""
    copy = tmp_path / "1"
    shutil.copytree(folders[0], copy)
    shutil.rmtree(copy / "variables")
    done = replay(loader, copy)
    assert done.returncode != 0
    assert not done.stdout
    assert (copy / RECORDS).is_file()
