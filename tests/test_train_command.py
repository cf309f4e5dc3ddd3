"""The training command as a user meets it: killed and resumed, repeated, and told wrong things."""

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.prepared import PreparedWriter
from tfrec import export, train
from tfrec.config import ConfigError
from tfrec.retrieval.config import RetrievalConfig
from tfrec.runs.folder import run_folder

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


@pytest.mark.long
def test_a_killed_training_resumes_to_the_same_losses_and_metrics(shop, tmp_path):
    command_line = ["tfrec.train", "--recipe", "demo", "--data", shop, *SMALL]
    run(*command_line, "--out", tmp_path / "whole")
    command_line += ["--training.checkpoint_seconds", "0.01"]

    killed = tmp_path / "killed"
    process = command(*command_line, "--out", killed)
    deadline = time.monotonic() + 300
    while not (killed / "checkpoints" / "checkpoint").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    assert not (killed / "metrics.json").exists()

    _, err = run(*command_line, "--out", killed, code=2)
    assert "--resume" in err
    _, err = run(*command_line, "--out", killed, "--resume", "--training.learning_rate", "0.5", code=2)
    assert "options differ" in err
    assert "(training.learning_rate was 0.002, now 0.5)" in err
    run(*command_line, "--out", killed, "--resume")
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


@pytest.fixture(scope="module")
def shop_without_products(tmp_path_factory):
    """Twelve items with a word each, and customers who buy a handful of them; no item names its product."""
    path = tmp_path_factory.mktemp("plain") / "data"
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"user": np.repeat(np.arange(40), 5), "item": rng.integers(0, 12, 200)})
    events["time"], events["split"] = np.tile(np.arange(5), 40) * 86_400, np.tile([0, 0, 0, 1, 2], 40)
    with PreparedWriter(path, dataset="plain") as writer:
        writer.split = {"kind": "leave-last-out"}
        writer.items(
            pd.DataFrame({"item_id": [f"i{row}" for row in range(12)], "text": [f"word{row}" for row in range(12)]})
        )
        writer.users(pd.DataFrame({"user_id": [f"u{row}" for row in range(40)]}))
        writer.events(events)
    return path


PLAIN = shlex.split(
    "--recipe hm-small --model.image.enabled false --model.text.vocabulary_size 60 --model.text.length 4 "
    "--training.steps 3 --training.batch_size 16 --task.encode_items 4 --task.negatives 4"
)


@pytest.mark.long
def test_items_without_products_are_trained_on_with_one_warning(shop_without_products, tmp_path, caplog):
    words = [*PLAIN, "--model.item.deep", "false", "--data", str(shop_without_products), "--out"]
    assert train.main([*words, str(tmp_path / "run")]) == 0
    assert caplog.text.count("name no product") == 1
    assert train.main([*words, str(tmp_path / "without"), "--model.query.variants", "0"]) == 0
    with_it, without = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "without"))
    assert with_it["metrics"] == without["metrics"]
    models = ["--name", "plain", "--root", str(tmp_path / "models")]
    assert export.main(["--run", str(tmp_path / "run"), *models]) == 0
    assert (tmp_path / "models" / "plain" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--features", "nosuch"], "nosuch"),
        (["--model.query.kind", "user"], "model.query.variants"),
        (["--model.text.weights", "nosuch"], "nosuch"),
    ],
)
def test_refused_options_leave_no_run_behind(shop_without_products, tmp_path, capsys, words, says):
    options = ["--data", str(shop_without_products), "--out", str(tmp_path / "run")]
    assert train.main([*PLAIN, *options, *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_refused_command_removes_what_it_wrote_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").touch()
    config = RetrievalConfig(data="/d")

    def train(error, *, resume, keep, make):
        with run_folder(tmp_path, config, resume=resume):
            for name in ("assets", *make):
                (tmp_path / name).mkdir(exist_ok=True)
            for name in keep:
                (tmp_path / name).mkdir(parents=True)
                (tmp_path / name / "checkpoint").touch()
            raise error

    def begin(error, *, resume=False, keep=(), make=()):
        with pytest.raises(type(error)):
            train(error, resume=resume, keep=keep, make=make)

    begin(ConfigError("no"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    begin(FloatingPointError("the loss is nan"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    begin(ConfigError("no"), make=["features"])  # frozen encoders' features may have taken hours
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "features"}
    begin(ConfigError("no"), keep=["stage1/checkpoints"])  # something was trained
    assert (tmp_path / "config.yaml").is_file()
    begin(ConfigError("no"), resume=True)
    assert (tmp_path / "config.yaml").is_file()


def test_options_that_differ_from_those_of_a_resumed_run_are_named(tmp_path):
    config = RetrievalConfig(data="/d")
    with run_folder(tmp_path / "run", config, resume=False):
        pass
    config.data, config.training.epochs = "/elsewhere", 9
    told = r"\(data was /d, now /elsewhere, training.epochs was \d+, now 9\)"
    with pytest.raises(ConfigError, match=told), run_folder(tmp_path / "run", config, resume=True):
        pass


@pytest.mark.parametrize("error", [None, ConfigError("no"), RuntimeError("a defect"), KeyboardInterrupt()])
def test_a_run_that_ends_ends_its_log(tmp_path, error):
    """The next training of the process would write into it, too."""
    log = logging.getLogger("tfrec")
    before = list(log.handlers)
    with (
        contextlib.nullcontext() if error is None else pytest.raises(type(error)),
        run_folder(tmp_path / "run", RetrievalConfig(data="/d"), resume=False),
    ):
        log.warning("a line")
        assert "a line" in (tmp_path / "run" / "training.log").read_text()
        if error:
            raise error
    assert log.handlers == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a defect")])
def test_a_run_that_was_stopped_or_failed_is_kept(tmp_path, error):
    with pytest.raises(type(error)), run_folder(tmp_path / "run", RetrievalConfig(data="/d"), resume=False):
        raise error
    with run_folder(tmp_path / "run", RetrievalConfig(data="/d"), resume=True):
        assert (tmp_path / "run" / "config.yaml").is_file()
