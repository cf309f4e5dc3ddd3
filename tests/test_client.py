"""The command-line client against a running server."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.serving_fakes import make_run
from tests.serving_server import running, small_shop
from tests.test_serving_model import best, mean_of, photo_bytes
from tfrec import client as command

ITEMS = 60


@pytest.fixture(scope="module")
def run():
    return make_run(ITEMS)


@pytest.fixture(scope="module")
def models(shared):
    return shared("small-shop", small_shop)


@pytest.fixture(scope="module")
def server(models):
    with running(models / "shop") as started:
        yield started


def printed(capsys) -> list[str]:
    return [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]


def test_every_command_prints_what_the_model_answers(run, server, capsys, tmp_path):
    def ask(*words: str) -> list[str]:
        assert command.main(["--url", server.url, *words, "--k", "5"]) == 0
        return printed(capsys)

    query = mean_of(run, "001", "005", "017")
    assert ask("recommend", "--history", "001,005,017") == best(run, query, 5)
    excluded = best(run, query, 2)
    assert ask("recommend", "--history", "001,005,017", "--exclude", ",".join(excluded)) == best(run, query, 7)[2:]
    dresses = best(run, query, 5, lambda row: row % 2 == 1)
    assert ask("recommend", "--history", "001,005,017", "--allow", "kind=dress") == dresses
    assert ask("recommend", "--history", "001,005,017", "--allow-items", "003,004") == best(
        run, query, 2, lambda row: row in (3, 4)
    )
    assert len(ask("recommend", "--user", "u3")) == 5
    assert ask("similar", "--item", "010") == best(run, mean_of(run, "010"), 5, excluded=["010"])
    assert len(ask("search", "--text", "red dress")) == 5
    (tmp_path / "photo.jpg").write_bytes(photo_bytes("red"))
    assert len(ask("search", "--photo", str(tmp_path / "photo.jpg"))) == 5


def test_json_and_versions(server, capsys):
    assert (
        command.main(["--url", server.url, "--model", "shop", "--version", "1", "similar", "--item", "1", "--json"])
        == 0
    )
    assert set(json.loads(capsys.readouterr().out)) == {"item_id", "score"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "none", "similar", "--item", "001"], "404: no model 'none'"),
        (["--version", "9", "similar", "--item", "001"], "404: version 9"),
        (["--version", "canary", "similar", "--item", "001"], "no label 'canary'"),
        (["similar", "--item", "001", "--k", "0"], "400: k must be"),
        (["similar", "--item", "001", "--allow", "price=3"], "400: allow takes"),
        (["search", "--photo", "/nowhere.jpg"], "/nowhere.jpg"),
        (["--url", "file:///etc/passwd", "similar", "--item", "001"], "must start with http"),
        (
            ["--url", "http://127.0.0.1:1", "similar", "--item", "001"],
            "cannot be reached: [Errno 111] Connection refused\n",
        ),
    ],
)
def test_what_is_wrong_is_one_line(server, capsys, words, message):
    assert command.main(["--url", server.url, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@contextlib.contextmanager
def answering(content: bytes = b"", *, location: str | None = None):
    """A server that is none of models: its address, and the headers of what it was asked."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.headers)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(307 if location else 200)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "answered no predictions; is it a model server?"),
        (b"[]", "answered no predictions; is it a model server?"),
        (b'{"predictions": []}', "answered no predictions; is it a model server?"),
        (b'{"predictions": [[0.5]]}', "signature 'similar' answered no item_id and score"),
        (b"<html>", "answered no JSON; is it a model server?"),
    ],
)
def test_an_answer_that_is_none_of_a_model_is_told(capsys, content, message):
    with answering(content) as (url, _):
        assert command.main(["--url", url, "--model", "shop", "similar", "--item", "001"]) == 2
    assert message in capsys.readouterr().err


def test_a_list_of_models_that_is_none_is_told(capsys):
    with answering(b'{"status": "ok"}') as (url, _):
        assert command.main(["--url", url, "similar", "--item", "001"]) == 2
    assert "/v1/models answered no models" in capsys.readouterr().err


@pytest.mark.parametrize("model", [[], ["--model", "shop"]])
def test_the_token_does_not_follow_a_redirect(capsys, monkeypatch, model):
    monkeypatch.setenv("TFREC_TOKEN", "secret")
    with answering(b"{}") as (other, asked), answering(location=f"{other}/elsewhere") as (url, first):
        assert command.main(["--url", url, *model, "similar", "--item", "001"]) == 2
    assert [headers["Authorization"] for headers in first] == ["Bearer secret"]
    assert not asked
    assert f"307: redirected to {other}/elsewhere" in capsys.readouterr().err


def test_the_token_comes_from_the_environment(models, capsys, monkeypatch):
    with running(models / "shop", token="secret") as server:
        assert command.main(["--url", server.url, "similar", "--item", "001"]) == 2
        assert "401" in capsys.readouterr().err
        monkeypatch.setenv("TFREC_TOKEN", "secret")
        assert command.main(["--url", server.url, "similar", "--item", "001"]) == 0


def test_a_token_may_end_in_a_line_and_must_fit_a_header(capsys, monkeypatch):
    words = ["--model", "shop", "similar", "--item", "001"]
    with answering(b"{}") as (url, asked):
        monkeypatch.setenv("TFREC_TOKEN", "secret\n")
        command.main(["--url", url, *words])
        assert asked[0]["Authorization"] == "Bearer secret"
        capsys.readouterr()
        monkeypatch.setenv("TFREC_TOKEN", "one\ntwo")
        assert command.main(["--url", url, *words]) == 2
    assert (
        capsys.readouterr().err
        == "error: the token of 7 characters holds some that no header may have; write it anew\n"
    )
    assert len(asked) == 1
