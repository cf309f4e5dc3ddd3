"""Every command, started as a user starts it: what is wrong is told in one line, with an exit code."""

import ast
import contextlib
import errno
import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipelines.command import log_to, run_command
from pipelines.prepared_writer import PreparedWriter
from tests.test_layers import COMMANDS, MODULES, ROOT
from tfrec.runs.lock import only_writer

WRONG = {  # each is a fault that the command itself finds, behind its options' parser
    "pipelines.__main__": ("pipelines", "sequences --raw nowhere --out made", "nowhere"),
    "tfrec.analyze": ("tfrec.analyze", "--run nowhere --out made", "nowhere"),
    "tfrec.client": ("tfrec.client", "--url file:///etc similar --item 1", "--url file:///etc must start with http"),
    "tfrec.encode": ("tfrec.encode", "--weights words --side image --data shop --out made", "no encoder of side image"),
    "tfrec.evaluate": ("tfrec.evaluate", "--run nowhere", "nowhere"),
    "tfrec.export": ("tfrec.export", "--run nowhere --name shop", "nowhere is not a run's folder"),
    "tfrec.layer_study": (
        "tfrec.layer_study",
        "--weights words --side text --data shop --field none --out made",
        "--field none",
    ),
    "tfrec.retrieve": ("tfrec.retrieve", "--model nowhere --data shop --out made.parquet", "nowhere"),
    "tfrec.serve.__main__": ("tfrec.serve", "--allocator system", "give either --model"),
    "tfrec.sweep": ("tfrec.sweep", "--config nowhere.yaml --out made", "--config nowhere.yaml is not a file"),
    "tfrec.train": ("tfrec.train", "--recipe hm --data nowhere --out made", "nowhere"),
    "tfrec.versions": ("tfrec.versions", "list nowhere", "nowhere holds no published version"),
}


def start(module, words, folder):
    command = [sys.executable, "-m", module, *words.split()]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a dataset of two items, and what says that it is a text encoder."""
    folder = tmp_path_factory.mktemp("commands")
    with PreparedWriter(folder / "shop", dataset="test") as writer:
        writer.items(pd.DataFrame({"item_id": ["1", "2"], "title": ["a", "b"], "text": ["a", "b"]}))
    from tfrec.encoders.sides import DESCRIPTION

    (folder / "words").mkdir()
    (folder / "words" / DESCRIPTION).write_text('{"tokenizer": {}}')
    return folder


@pytest.fixture(autouse=True)
def _project_on_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def test_every_command_is_tried():
    assert set(WRONG) == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(WRONG))
def test_a_wrong_option_is_one_line_and_exit_code_2(command, folder):
    module, words, message = WRONG[command]
    done = start(module, words, folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (
            "client",
            ["--url", "http://[::1", "similar", "--item", "1"],
            "--url http://[::1 is no address: Invalid IPv6 URL",
        ),
        ("client", ["--url", "http://a/é b", "--model", "m", "similar", "--item", "1"], "http://a/é b"),
        (
            "client",
            ["--model", "m", "search", "--photo", "{folder}"],
            "--photo {folder} cannot be read: Is a directory",
        ),
        ("client", ["--timeout", "-1", "similar", "--item", "1"], "'-1' is not a number from 0.001"),
        ("analyze", ["--run", "x", "--out", "y", "--max-points", "0"], "'0' is not a whole number of at least 3"),
        ("analyze", ["--run", "x", "--out", "y", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        ("retrieve", ["--model", "x", "--data", "y", "--out", "{folder}"], "--out {folder} is a folder; name the file"),
        (
            "retrieve",
            ["--model", "x", "--data", "y", "--out", "z.csv", "--generate", "0"],
            "--generate 0 must be at least 1",
        ),
        *(
            ("retrieve", ["--model", "x", "--data", "y", "--out", "z.csv", *words], says)
            for words, says in (
                (["--beams", "8"], "--beams does nothing without --generate and --strategy beam"),
                (["--generate", "2", "--seed", "8"], "--seed does nothing without --generate and --strategy sample"),
                (["--candidates", "0"], "--candidates does nothing without --rerank or --generate"),
                (["--generate", "2", "--candidates", "0"], "--candidates 0 must be at least 1"),
                (["--workers", "4"], "--workers does nothing without --engine ray"),
                (["--k", "3", "--generate", "2"], "--k and --generate exclude each other"),
            )
        ),
    ],
)
def test_what_cannot_be_is_told_by_its_own_name(command, words, message, folder, capsys):
    main = importlib.import_module(f"tfrec.{command}").main
    try:
        code = main([word.replace("{folder}", str(folder)) for word in words])
    except SystemExit as end:  # by the options' parser
        code = end.code
    assert code == 2
    assert message.replace("{folder}", str(folder)) in capsys.readouterr().err


def test_two_trainings_do_not_write_into_one_folder(folder):
    with only_writer(folder / "run"):
        done = start("tfrec.train", "--recipe text-model --data shop --out run --resume", folder)
    assert done.returncode == 2
    assert (
        done.stderr == "error: --out run: another process writes there; wait for it or end it, or name another folder\n"
    )
    assert not (folder / "run").exists()  # the other one wrote nothing, and this one neither


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_defines_errors(command):
    """Run with -m, its classes would belong to `__main__`, and not be known as tfrec's own."""
    tree = ast.parse(MODULES[command].read_text(encoding="utf-8"))
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.endswith("Error")]


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/hm/weights.npz"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("Unable to flush file (file write failed: errno = 28, error message = 'No space left on device')"),
        OSError("4096 requested and 0 written"),
        type("ResourceExhaustedError", (Exception,), {})("{{node Save}} x; No space left on device [Op:SaveV2]\nmore"),
    ],
)
def test_a_full_disk_is_one_line_that_says_how_to_go_on(full, capsys):
    def write():
        raise full

    assert run_command(write, after_full_disk="go on with --resume") == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the disk is full (")
    assert told.endswith("make room, then go on with --resume\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize("defect", [KeyError("x"), ValueError("x"), RuntimeError("x")])
def test_a_defect_is_shown_as_it_is(defect):
    def fail():
        raise defect

    with pytest.raises(type(defect)):
        run_command(fail)


def test_what_the_system_reports_is_one_line(capsys):
    def fail():
        raise OSError(errno.EIO, "I/O error", "shop/items.parquet")

    assert run_command(fail) == 1
    assert capsys.readouterr().err == f"error: [Errno {errno.EIO}] I/O error: 'shop/items.parquet'\n"


def test_a_log_on_a_full_disk_says_nothing_for_each_line(capsys):
    log_to(Path("/dev/full"))
    log = logging.getLogger("tfrec")
    handler = log.handlers[-1]
    try:
        log.warning("a line")
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
    assert "Traceback" not in capsys.readouterr().err
