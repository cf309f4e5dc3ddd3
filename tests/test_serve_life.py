"""Versions come and go under load, the server stops when told, and what is broken is never put into service."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import asyncio
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.serving_server import ask, plain_shop, republish, running, until
from tfrec import publish
from tfrec.publish import MANIFEST, keep_last, restore, versions, withdraw
from tfrec.serve.batching import Batcher
from tfrec.serve.errors import ServeConfigError
from tfrec.serve.model_config import ModelConfig, models_of_folders
from tfrec.serve.options import ServeOptions
from tfrec.serve.repository import Repository
from tfrec.serve.server import Server, serve
from tfrec.serve.service import Address, Called, PredictService

QUERY = {"inputs": {"history": [["001", "017"]], "k": 5}}


@pytest.fixture(scope="module")
def exported(shared) -> Path:
    """A small exact version with few signatures, to be copied."""
    return shared("plain-shop", plain_shop) / "shop" / "1"


@pytest.fixture
def model(exported, tmp_path) -> Path:
    republish(exported, tmp_path / "shop", 1)
    return tmp_path / "shop"


class Load:
    """Clients that ask, each some thirty times a second, until the end of the block, on connections that stay open.

    Attributes:
        answered: how many requests were answered with 200.
        failed: all other answers.
    """

    def __init__(self, port: int, clients: int = 4):
        self.port, self.answered, self.failed, self._stop = port, 0, [], threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        while not self._stop.wait(0.02):  # without a pause, a load beside them takes five times as long
            try:
                connection.request("POST", "/v1/models/shop:predict", json.dumps(QUERY))
                response = connection.getresponse()
                answer = response.read()
                if response.status == 200:
                    self.answered += 1
                else:
                    self.failed.append((response.status, answer))
            except OSError as error:
                self.failed.append((0, repr(error)))
                connection.close()
        connection.close()


def until_served(server, version: int) -> None:
    until(lambda: served(server) == [str(version)])


def served(server) -> list[str]:
    _, answer = server.ask("GET", "/v1/models/shop")
    return [one["version"] for one in answer["model_version_status"] if one["state"] == "AVAILABLE"]


# -- versions ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_versions_are_swapped_and_rolled_back_without_a_failed_request(exported, model):
    with running(model) as server, Load(server.port) as load:
        for version in (2, 3):
            republish(exported, model, version)
            until_served(server, version)
        withdraw(model)
        until_served(server, 2)
        restore(model, 3)
        until_served(server, 3)
        keep_last(model, 1)
        before = load.answered
        until(lambda: load.answered > before + 20)
        assert load.failed == []


def test_a_version_retired_while_a_request_is_read_still_answers_it(exported, model):
    repository = Repository(lambda: models_of_folders([model], 1))
    batcher = Batcher(max_rows=8, max_pending=1, timeout=60.0)
    service = PredictService(repository, batcher, max_request_rows=8, max_values=100)
    repository.poll()
    old = repository.get("shop")

    def read(signature):
        republish(exported, model, 2)
        repository.poll()
        assert not old.acquire(), "it is retired"
        assert not old.closed
        return {"history": np.array([["001", "017"]], object)}

    outputs = asyncio.run(service.predict(Address("shop"), "", read, called := Called()))
    assert (called.version, len(outputs["item_id"])) == ("1", 1)
    batcher.close()
    until(lambda: old.closed)  # as soon as it was answered
    repository.close()


FLIP = lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])  # noqa: E731
CUT = lambda file: file.write_bytes(file.read_bytes()[:-7])  # noqa: E731


DAMAGES = {
    "flipped model": (lambda path: FLIP(path / "saved_model.pb"), "SHA-256"),
    "flipped variables": (lambda path: FLIP(next(path.glob("variables/*.data*"))), "SHA-256"),
    "truncated": (lambda path: CUT(next(path.glob("variables/*.data*"))), "bytes"),
    "no variables": (lambda path: shutil.rmtree(path / "variables"), "cannot be read"),
    "no vocabulary": (lambda path: shutil.rmtree(path / "assets"), "cannot be read"),
    "no warm-up": (lambda path: (path / "assets.extra" / "tf_serving_warmup_requests").unlink(), "cannot be read"),
    "no manifest": (lambda path: (path / MANIFEST).unlink(), "cannot be read"),
}


def test_damaged_versions_are_reported_and_the_one_before_serves_on(exported, model, tmp_path):
    with_asset = republish(exported, tmp_path / "asset", 1)  # as a tokenizer's vocabulary lies in a version
    (with_asset / "assets").mkdir(exist_ok=True)
    (with_asset / "assets" / "vocabulary.txt").write_text("[PAD]\n")
    manifest = json.loads((with_asset / MANIFEST).read_text())
    manifest["files"]["assets/vocabulary.txt"] = {"bytes": 6, "sha256": ""}
    (with_asset / MANIFEST).write_text(json.dumps(manifest))

    with running(model) as server:

        def newest():
            return server.ask("GET", "/v1/models/shop")[1]["model_version_status"][0]

        for version, (name, (damage, message)) in enumerate(DAMAGES.items(), start=2):
            broken = republish(with_asset, tmp_path / "staged", version)
            damage(broken)
            os.rename(broken, model / str(version))
            until(lambda version=version: (newest()["version"], newest()["state"]) == (str(version), "END"))
            assert message in newest()["status"]["error_message"], name
            assert served(server) == ["1"], name
            assert server.ask("POST", "/v1/models/shop:predict", QUERY)[0] == 200, name
        shutil.rmtree(model / str(version))
        republish(exported, model, version)  # mended: it is tried again
        until_served(server, version)


def test_a_server_starts_with_the_newest_version_that_loads(exported, model, tmp_path):
    broken = republish(exported, tmp_path / "staged", 3)
    CUT(next(broken.glob("variables/*.data*")))
    os.rename(broken, model / "3")
    republish(exported, model, 2)
    with running(model) as server:
        assert served(server) == ["2"]
        republish(exported, model, 4)
        until_served(server, 4)


def test_a_labelled_version_is_served_beside_the_newest_after_a_restart_too(exported, model, tmp_path):
    republish(exported, model, 2)
    config = ModelConfig("shop", model, latest=1, labels={"stable": 1})
    repository = Repository(lambda: [config])
    repository.poll()
    assert sorted(repository.model("shop").servables) == [1, 2]
    broken = republish(exported, tmp_path / "staged", 3)
    CUT(next(broken.glob("variables/*.data*")))
    os.rename(broken, model / "3")
    repository.poll()
    assert sorted(repository.model("shop").servables) == [1, 2], "2 serves until a newer one does"
    repository.close()
    started = Repository(lambda: [config])
    started.poll()
    started.poll()
    assert sorted(started.model("shop").servables) == [1, 2], "the label's version is none of the latest"
    started.close()


def test_a_version_that_is_asked_for_and_not_there_is_told(model, caplog):
    config = ModelConfig("shop", model, specific=(7,))
    with (
        pytest.raises(ServeConfigError, match="has no version 7; its versions are"),
        running(read_configs=lambda: [config]),
    ):
        pass
    repository = Repository(lambda: [config])
    caplog.clear()
    repository.poll()
    repository.poll()
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    repository.close()


def test_a_model_whose_folder_cannot_be_read_keeps_no_other_from_being_looked_at(model, monkeypatch):
    def unreadable(folder):
        if folder == Path("gone"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(folder)

    real = versions
    monkeypatch.setattr("tfrec.serve.model_config.versions", unreadable)
    repository = Repository(lambda: [ModelConfig("gone", Path("gone")), ModelConfig("shop", model)])
    repository.poll()
    assert list(repository.model("shop").servables) == [1]
    repository.close()


@pytest.mark.long
def test_a_version_that_is_mended_in_place_is_tried_again(exported, model, tmp_path):
    """As one that is still being copied is when it is looked at first."""
    broken = republish(exported, tmp_path / "staged", 2)
    variables = next(broken.glob("variables/*.data*"))
    whole = variables.read_bytes()
    CUT(variables)
    with running(model) as server:
        os.rename(broken, model / "2")
        until(lambda: server.ask("GET", "/v1/models/shop")[1]["model_version_status"][0]["state"] == "END")
        (model / "2" / "variables" / variables.name).write_bytes(whole)
        until_served(server, 2)


def looks(model, monkeypatch, sha256, count):
    """Whether version 1 serves after each of so many looks at the folder, and what was told of it."""
    told = []
    repository = Repository(lambda: models_of_folders([model], 1), lambda name, version, what: told.append(what))
    real = publish.sha256_of
    monkeypatch.setattr(publish, "sha256_of", lambda file: sha256(file, real))
    served = []
    for _ in range(count):
        repository.poll()
        served.append(1 in repository.model("shop").servables)
    repository.close()
    return served, told


def test_a_version_that_the_file_system_did_not_give_is_tried_again(model, monkeypatch):
    fails = [1, 2]

    def stale(file, real):
        if fails:
            fails.pop()
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(file)

    assert looks(model, monkeypatch, stale, 3) == ([False, False, True], ["failed", "loaded"])


def test_a_version_that_is_withdrawn_while_it_is_read_is_tried_again_once_restored(model, monkeypatch):
    calls = []

    def withdrawn(file, real):
        calls.append(file)
        if len(calls) > 1:
            return real(file)
        republish(model / "1", model, 2)
        withdraw(model, 1)
        return "another"

    repository = Repository(lambda: models_of_folders([model], 2))
    real = publish.sha256_of
    monkeypatch.setattr(publish, "sha256_of", lambda file: withdrawn(file, real))
    repository.poll()
    assert not repository.model("shop").servables
    assert not repository.model("shop").failed
    restore(model, 1)
    repository.poll()
    assert sorted(repository.model("shop").servables) == [1, 2]
    repository.close()


def test_a_version_whose_bytes_are_not_its_manifests_is_not_read_at_every_look(model, monkeypatch):
    read = []
    assert looks(model, monkeypatch, lambda file, real: read.append(file) or "another", 3) == ([False] * 3, ["failed"])
    assert len(read) == 1


@pytest.mark.parametrize("token", [None, "secret"])
def test_a_started_server_has_answered_a_request_of_its_own(model, token, caplog):
    with running(model, token=token) as server:
        _, page = server.ask("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
    assert b'tfrec_requests_total{api="rest",code="200",model="shop",signature="serving_default"} 1.0' in page
    assert "first request" not in caplog.text


def test_a_server_that_refuses_its_own_request_says_so_and_starts(model, caplog):
    with running(model, max_bytes=10) as server:
        assert server.ask("GET", "/readyz")[0] == 200
    assert "the server does not answer its own first request to shop: HTTP/1.1 413" in caplog.text


def test_a_version_that_fails_its_warm_up_is_not_served(exported, model):
    """Whole by its manifest, but it cannot answer: its warm-up requests are another model's."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    bad = republish(exported, model.parent / "bad", 1)
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "recommend"
    log.predict_log.request.inputs["history"].CopyFrom(tf.make_tensor_proto([["001"]]))
    log.predict_log.request.inputs["k"].CopyFrom(tf.make_tensor_proto([10_000]))
    with tf.io.TFRecordWriter(str(bad / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    with running(model) as server:
        republish(bad, model, 2)
        until(
            lambda: any(
                one["state"] == "END" for one in server.ask("GET", "/v1/models/shop")[1]["model_version_status"]
            )
        )
        assert served(server) == ["1"]


@pytest.mark.long
def test_many_swaps_fail_no_request_and_leave_no_memory(exported, model):
    process = start(model, "--poll-seconds", "0.05")
    try:
        port = port_of(process)
        memory = psutil.Process(process.pid)
        with Load(port, clients=2) as load:
            for version in range(2, 10):
                republish(exported, model, version)
                keep_last(model, 2)
                until_newest(port, version)
                if version == 4:  # the first swaps fill caches that every later one finds
                    settled = memory.memory_info().rss
        assert load.failed == []
        assert load.answered > 100
        assert memory.memory_info().rss <= 1.15 * settled
    finally:
        assert stop(process) == 0


def until_newest(port: int, version: int) -> None:
    def is_newest() -> bool:
        newest = ask(port, "GET", "/v1/models/shop")[1]["model_version_status"][0]
        return (newest["version"], newest["state"]) == (str(version), "AVAILABLE")

    until(is_newest)


# -- the process ---------------------------------------------------------------------------------------------


def start(model: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tfrec.serve", "--model", str(model), "--port", "0", "--grpc-port", "0"]
    return subprocess.Popen([*command, "--timeout", "120", *options], stderr=subprocess.PIPE, text=True)


def port_of(process: subprocess.Popen) -> int:
    """Wait until the server says where it listens; its further log is read and dropped."""
    for line in process.stderr:
        if line.startswith("{") and json.loads(line).get("event") == "started":
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return json.loads(line)["port"]
    raise AssertionError("the server did not start")


def stop(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(300)


def test_sigterm_answers_what_is_under_way_and_ends_with_0(model):
    """Requests that were accepted are answered; while draining, the server reports itself as not ready."""
    process = start(model, "--drain-seconds", "8")
    port = port_of(process)
    with Load(port, clients=3) as load:
        until(lambda: load.answered > 50)
        process.send_signal(signal.SIGTERM)
        until(lambda: ask(port, "GET", "/readyz")[0] == 503, 120)
        before = load.answered
        until(lambda: load.answered > before + 5, 120)
        time.sleep(0.2)
        assert load.failed == []
    assert process.wait(300) == 0


def test_sigterm_ends_a_server_that_still_loads(model, monkeypatch):
    """The version is given up before its next file is read."""
    real, read = publish.sha256_of, []

    def terminated(file):
        read.append(file)
        os.kill(os.getpid(), signal.SIGTERM)
        assert server.repository._stopped.wait(60)
        return real(file)

    server = Server(lambda: models_of_folders([model], 1), ServeOptions(port=0, grpc_port=0))
    monkeypatch.setattr(publish, "sha256_of", terminated)
    asyncio.run(serve(server))
    assert len(read) == 1
    assert not server.loading
    assert not server.repository.ready


def test_a_load_that_does_not_end_is_not_waited_for(exported, model, monkeypatch):
    real, hangs, goes_on = publish.sha256_of, threading.Event(), threading.Event()

    def hang(file):
        if model / "2" in file.parents:
            hangs.set()
            assert goes_on.wait(60)
        return real(file)

    with running(model, stop_seconds=0.2) as server:
        monkeypatch.setattr(publish, "sha256_of", hang)
        republish(exported, model, 2)
        assert hangs.wait(60)
    assert server.server.loading
    goes_on.set()
    until(lambda: not server.server.loading)


@pytest.fixture
def own_logging():
    """Put the root logger back as it was: the command sends all logs of its process to standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("loading", [False, True])
def test_the_command_ends_with_0_whatever_its_loading_thread_does(model, monkeypatch, own_logging, loading):
    from tfrec.serve.__main__ import main

    async def stopped_at_once(server):
        await server.stop()

    ended = []
    monkeypatch.setattr("tfrec.serve.server.serve", stopped_at_once)
    monkeypatch.setattr(Server, "loading", loading)
    monkeypatch.setattr(os, "_exit", ended.append)
    assert main(["--model", str(model), "--port", "0"]) == 0
    assert ended == [0] * loading


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --model"),
        (["--model", "/nowhere"], "holds no published version"),
        (["--model-config-file", "/nowhere"], "/nowhere"),
        (["--model", "{model}/1"], "name the model's folder"),
        (["--model", "{model}", "--token-file", "/dev/null"], "is empty"),
        (["--model", "{model}", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_line(model, capsys, own_logging, arguments, message):
    from tfrec.serve.__main__ import main

    words = [word.format(model=model) for word in arguments]
    assert main([*words, "--port", "0", "--no-grpc"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_port_that_is_taken_ends_with_1(model, capsys, own_logging):
    from tfrec.serve.__main__ import main

    with running(model) as server:
        assert main(["--model", str(model), "--port", str(server.port), "--no-grpc"]) == 1
    assert "address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(("hard", "soft"), [(1000, 600), (400, 400)])
def test_as_many_files_may_be_open_as_the_connections_need(hard, soft):
    code = (
        "import resource; from tfrec.serve.__main__ import _allow_files; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (300, {hard})); _allow_files(600); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == soft
