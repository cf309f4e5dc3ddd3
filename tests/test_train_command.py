"""The training command as a user meets it: killed and resumed, repeated, and told wrong things."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = shlex.split(
    "--training.steps 12 --training.evaluations 2 --training.batch_size 16 "
    "--task.encode_items 8 --model.image.layers 1 --model.text.vocabulary_size 200 --model.item.id_dropout 0.5"
)


def command(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        **options,
    )


def run(*words, code=0):
    process = command(*words)
    out, err = process.communicate(timeout=500)
    assert process.returncode == code, err
    return out, err


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "data"
    run("pipelines", "demo", "--out", path, "--size", "tiny")
    return path


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_losses_and_metrics(shop, tmp_path):
    train = ["tfrec.train", "--recipe", "demo", "--data", shop, *SMALL]
    run(*train, "--out", tmp_path / "whole")
    train += ["--training.checkpoint_seconds", "0.01"]

    killed = tmp_path / "killed"
    process = command(*train, "--out", killed)
    deadline = time.monotonic() + 300
    while not (killed / "checkpoints" / "checkpoint").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    assert not (killed / "metrics.json").exists()

    _, err = run(*train, "--out", killed, code=2)
    assert "--resume" in err
    _, err = run(*train, "--out", killed, "--resume", "--training.learning_rate", "0.5", code=2)
    assert "options differ" in err
    run(*train, "--out", killed, "--resume")
    assert (killed / "history.csv").read_text() == (tmp_path / "whole" / "history.csv").read_text()
    assert (killed / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()
    assert "<html" in (killed / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--recipe", "nonesuch"], "no such recipe"),
        (["--model.imag.size", "3"], "model.imag.size"),
        (["--training.epochs", "many"], "training.epochs"),
        (["--recipe", "hm-small"], "--data"),
        (["--recipe", "hm-small", "--data", "nowhere", "--out", "OUT"], "nowhere"),
    ],
)
def test_wrong_options_are_one_clear_line(words, says, tmp_path):
    words = [str(tmp_path / "run") if word == "OUT" else word for word in words]
    _, err = run("tfrec.train", *words, code=2)
    assert not (tmp_path / "run").exists()  # the corrected command starts afresh
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
