"""What a request, a batch, a connection and a version that fails may cost, and what none of them may change."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import asyncio
import contextlib
import gzip
import json
import socket
import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.serving_server import plain_shop, republish, running, small_shop
from tfrec.publish import find_version
from tfrec.serve import merging, repository, rest
from tfrec.serve.batching import Batcher
from tfrec.serve.connections import ConnectionGuard
from tfrec.serve.errors import Code, ServeError
from tfrec.serve.merging import may_join
from tfrec.serve.model_config import ModelConfig
from tfrec.serve.repository import Repository
from tfrec.serve.servable import Servable
from tfrec.serve.service import answer_json, check_size, read_bounded
from tfrec.serve.tensors_json import parse_body

QUERY = {"inputs": {"history": [["001"]], "k": 3}}


@pytest.fixture(scope="module")
def small(shared):
    """A model of few signatures."""
    return shared("plain-shop", plain_shop) / "shop"


# -- requests and batches --------------------------------------------------------------------------------------------


def test_one_row_that_is_spread_over_all_is_bounded(small):
    inputs = {"exclude": np.full((1, 100_000), b"", object), "k": np.array([3])}
    check_size(inputs, 20, 1024)
    with pytest.raises(
        ServeError, match="'exclude' has 100000 columns for 21 rows, which are more than 2000000 values"
    ):
        check_size(inputs, 21, 1024)
    body = {"inputs": {"history": [["001"]] * 1000, "exclude": [[""] * 3000], "k": 3}}
    with running(small) as server:
        status, answer = server.predict(**body)
        assert (status, "ask for fewer rows at once" in answer["error"]) == (400, True)


def test_one_long_string_that_is_spread_over_all_rows_is_bounded(small):
    inputs = {"history": np.full((1000, 1), b"a", object), "allow": np.array([[b"x" * 60_000]], object)}
    check_size(inputs, 1000, 1024)
    inputs["allow"] = np.array([[b"x" * 70_000]], object)
    with pytest.raises(ServeError, match="the strings of the request come to 70001000 bytes for its 1000 rows"):
        check_size(inputs, 1000, 1024)
    with pytest.raises(ServeError, match="come to"):
        check_size(
            {"history": np.full((1, 100_000), b"x" * 1000, object)}, 1, 1024
        )  # one string, a hundred thousand times
    with running(small) as server:
        body = {"inputs": {"history": [["001"]] * 1000, "allow": [["x=" + "y" * 70_000]]}}
        status, answer = server.predict(**body)
        assert (status, "come to" in answer["error"]) == (400, True)


def test_an_answer_is_bounded():
    inputs = {"k": np.array([500], np.int32)}
    check_size(inputs, 262, 1024)
    with pytest.raises(
        ServeError, match="263 rows of up to 500 items are more than the 131072 that are answered at once"
    ):
        check_size(inputs, 263, 1024)


def test_requests_with_long_strings_are_not_joined_beyond_what_a_batch_may_hold(monkeypatch):
    monkeypatch.setattr("tfrec.serve.batching.MAX_SPREAD_BYTES", 100)

    async def ask_all(batcher, model):
        asked = [asyncio.ensure_future(ask(batcher, model, item=b"x" * 40)) for _ in range(4)]
        await asyncio.sleep(0)
        model.go_on.set()
        await asyncio.gather(*asked)

    assert [rows for rows, _ in while_one_runs(ask_all)] == [1, 2, 2]


def test_requests_are_not_joined_into_a_batch_that_is_too_wide(monkeypatch):
    """Each is padded to the widest of its batch."""
    monkeypatch.setattr("tfrec.serve.batching.MAX_SPREAD", 30)

    async def ask_all(batcher, model):
        asked = [asyncio.ensure_future(ask(batcher, model, width)) for width in (2, 20, 3, 10, 1)]
        await asyncio.sleep(0)
        model.go_on.set()
        await asyncio.gather(*asked)

    batches = while_one_runs(ask_all)
    assert sum(rows for rows, _ in batches) == 6
    assert all(rows == 1 or rows * width <= 30 for rows, width in batches)


class Held:
    """A model that runs a batch once it may, and refuses an id `bad`.

    Attributes:
        batches: shape of the history of each.
        users: requests that hold it.
    """

    name = "shop"

    def __init__(self):
        self.batches, self.users, self.started, self.go_on = [], 0, threading.Event(), threading.Event()

    def share(self):
        self.users += 1

    def release(self):
        self.users -= 1

    def run(self, signature, inputs):
        self.started.set()
        assert self.go_on.wait(60)
        self.batches.append(inputs["history"].shape)
        if (inputs["history"] == b"bad").any():
            raise ServeError(Code.INVALID_ARGUMENT, "bad")
        return {"score": np.zeros(inputs["history"].shape)}


def ask(batcher, model, width=1, item=b"x"):
    inputs = {"history": np.full((1, width), item, object), "k": np.array([3], np.int32)}
    return batcher.run(model, "recommend", inputs, 1)


def while_one_runs(go, **options):
    """Run `go(batcher, model)` while a request runs, then wait for that one: the batches that ran."""

    async def held():
        batcher, model = Batcher(**{"workers": 1, "max_rows": 64, "max_pending": 99, "timeout": 60, **options}), Held()
        first = asyncio.ensure_future(ask(batcher, model))
        try:
            await asyncio.sleep(0)
            assert await asyncio.to_thread(model.started.wait, 60)
            async with asyncio.timeout(60):
                await go(batcher, model)
        finally:
            model.go_on.set()
            await first
            batcher.close()
        assert model.users == 0
        return model.batches

    return asyncio.run(held())


def test_what_nobody_waits_for_any_more_is_not_run():
    """As where clients give up and try again while the server is slow: their old requests would fill its queue."""

    async def give_up(batcher, model):
        asked = [asyncio.ensure_future(ask(batcher, model)) for _ in range(5)]
        await asyncio.sleep(0)
        for request in asked[:4]:
            request.cancel()
        await asyncio.wait(asked[:4])
        assert batcher.pending == 1
        assert model.users == 2

    assert while_one_runs(give_up) == [(1, 1), (1, 1)]


def test_who_has_waited_too_long_is_told_while_another_request_still_runs():
    async def wait(batcher, model):
        with pytest.raises(ServeError, match=r"waited longer than 0\.5 s") as told:
            await ask(batcher, model)
        assert told.value.code is Code.DEADLINE_EXCEEDED
        assert batcher.pending == 0

    assert while_one_runs(wait, timeout=0.5) == [(1, 1)]


def test_a_refused_request_is_found_by_halves():
    async def ask_all(batcher, model):
        items = [b"bad" if number == 21 else b"x" for number in range(64)]
        asked = [asyncio.ensure_future(ask(batcher, model, item=item)) for item in items]
        await asyncio.sleep(0)
        model.go_on.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [number for number, answer in enumerate(found) if isinstance(answer, ServeError)] == [21]

    sizes = [rows for rows, _ in while_one_runs(ask_all)][1:]
    assert sorted(sizes, reverse=True) == [64, 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]


def test_a_defect_is_logged_and_not_told_to_the_client(caplog):
    class Broken:
        name = "shop"

        def share(self):
            pass

        release = share

        def run(self, signature, inputs):
            raise KeyError("/secret/path")

    async def ask():
        batcher = Batcher(workers=1, max_rows=8, max_pending=9, timeout=60)
        try:
            await batcher.run(Broken(), "recommend", {"history": np.full((1, 1), b"x", object)}, 1)
        finally:
            batcher.close()

    with pytest.raises(ServeError) as told:
        asyncio.run(ask())
    assert told.value.message == "the server failed; its log says how"
    assert "/secret/path" in caplog.text


def test_answers_that_are_as_wide_as_their_inputs_are_not_padded():
    wide, narrow = ({"items": np.zeros((1, n), int), "history": np.zeros((1, 5), int)} for n in (4, 2))
    longer = {**narrow, "history": np.zeros((1, 6), int)}
    plain = [{"history": np.zeros((1, n), object)} for n in (1, 9)]
    assert may_join(wide, wide)
    assert not may_join(wide, narrow)
    assert not may_join(narrow, longer)
    assert may_join(*plain)
    assert merging.width(longer) == 6


def test_days_that_are_no_numbers_are_answered(shared):
    with running(shared("small-shop", small_shop) / "shop") as server:
        for days in (1e39, -1e39):  # infinite in float32
            body = {"inputs": {"history": [["001", "002"]], "days_ago": [[days, 1.0]], "k": 3}}
            assert server.predict(**body)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"history": ["001"], "k": 3}]},
        QUERY,
        {"inputs": 3},
        {"signature_name": ["x"], **QUERY},
        {"signature_name": "nothing", **QUERY},
        {"inputs": {"history": [["001"]] * 1025, "k": 3}},
    ],
)
def test_an_answer_without_a_server_is_the_servers(small, body):
    """What deploy/ray answers with."""
    path = find_version(small)
    content = json.dumps(body).encode()
    status, answer = answer_json(Servable("shop", int(path.name), path), content, max_values=100_000, max_rows=1024)
    with running(small) as server:
        assert (status, json.loads(answer)) == server.ask("POST", "/v1/models/shop:predict", content)


@pytest.mark.parametrize(
    ("announced", "sizes", "read"), [("9", [4, 5], 2), (None, [4, 5, 0], 3), ("11", [11], 0), (None, [6, 6, 6], 2)]
)
def test_a_body_without_a_server_is_not_read_beyond_its_bound(announced, sizes, read):
    taken = []

    async def chunks():
        for size in sizes:
            taken.append(size)
            yield b"x" * size

    body = read_bounded(chunks(), announced, 10)
    if sum(sizes) > 10:
        with pytest.raises(ServeError, match="may have 10 bytes"):
            asyncio.run(body)
    else:
        assert asyncio.run(body) == b"x" * 9
    assert len(taken) == read


# -- connections -----------------------------------------------------------------------------------------------------


def test_a_packed_body_counts_as_large_as_it_may_become(small):
    body = gzip.compress(json.dumps(QUERY).encode() + b" " * 5000)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    with running(small) as server:
        assert server.ask("POST", "/v1/models/shop:predict", body, headers)[0] == 200
        state = server.server._state
        state.bytes_held = state.max_bytes_at_once - 2000
        assert len(body) < 1000
        assert server.ask("POST", "/v1/models/shop:predict", body, headers)[0] == 429
        assert server.predict(**QUERY)[0] == 200


def test_a_request_waits_without_what_its_body_was_parsed_into(small, monkeypatch):
    """Which is many times as large as the body that is counted."""
    parsed, left = [], []
    monkeypatch.setattr(rest, "parse_body", lambda content: parsed.append(parse_body(content)) or parsed[-1])
    run = Servable.run

    def watched(servable, *request):
        left.extend(parsed)
        return run(servable, *request)

    monkeypatch.setattr(Servable, "run", watched)
    with running(small) as server:
        parsed.clear(), left.clear()
        assert server.predict(**QUERY)[0] == 200
    assert left == [{}]


def test_who_does_not_read_an_answer_is_cut_off():
    """Closing waits until all is written, which a client that does not read can put off for ever."""

    class Kept(asyncio.WriteTransport):
        closing = aborted = False

        def is_closing(self):
            return self.closing

        def close(self):
            self.closing = True  # and its buffer stays

        def abort(self):
            self.aborted = True

    class Inner(asyncio.Protocol):
        pause_writing = resume_writing = eof_received = lambda self: None

    async def go():
        guard = ConnectionGuard(Inner, head_seconds=0.2, most=9, most_requests=9)
        transport = Kept()
        guard().connection_made(transport)
        await asyncio.sleep(0.3)
        assert (transport.closing, transport.aborted) == (True, False)
        await asyncio.sleep(0.3)
        assert transport.aborted

    asyncio.run(go())


# -- models ----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_added_does_not_take_the_others_out_of_service(small, tmp_path):
    configs = [ModelConfig("shop", small)]
    models = Repository(lambda: configs)
    assert not models.ready
    models.poll()
    assert models.ready
    configs.append(ModelConfig("new", tmp_path / "new"))
    models.poll()
    assert models.ready
    republish(small / "1", tmp_path / "new", 1)
    models.poll()
    assert set(models.names) == {"shop", "new"}
    assert models.get("new").version == 1
    del configs[0]
    models.poll()
    assert models.ready
    with pytest.raises(ServeError, match="no model 'shop' is served"):
        models.get("shop")
    models.close()


def test_a_label_names_its_old_version_until_the_new_one_serves(small, tmp_path, monkeypatch):
    for number in (1, 2, 3):
        republish(small / "1", tmp_path / "shop", number)
    loads, fails = [], True

    def load(name, version, path, check):
        if models.names and models.model("shop").servables:
            loads.append((version, models.get("shop", label="stable").version))
        if version == 2 and fails:
            raise RuntimeError("undefined symbol")
        return Servable(name, version, path, check)

    monkeypatch.setattr(repository, "Servable", load)
    config = ModelConfig("shop", tmp_path / "shop", specific=(1,), labels={"stable": 1})
    models = Repository(lambda: [config])
    models.poll()
    config = replace(config, specific=(2, 3), labels={"stable": 2, "canary": 3})
    models.poll()
    assert loads == [(3, 1), (2, 1)]
    assert [models.get("shop", label=label).version for label in ("stable", "canary")] == [1, 3]
    fails = False
    (tmp_path / "shop" / "2" / "mended").touch()
    models.poll()
    assert models.get("shop", label="stable").version == 2
    assert sorted(models.model("shop").servables) == [2, 3]
    models.close()


def test_a_version_that_fails_in_any_way_leaves_the_others_alone(small, tmp_path, monkeypatch):
    republish(small / "1", tmp_path / "broken", 1)
    configs = [ModelConfig("broken", tmp_path / "broken"), ModelConfig("shop", small)]

    def load(name, version, path, check):
        if name == "broken":
            raise RuntimeError("undefined symbol")
        return Servable(name, version, path, check)

    monkeypatch.setattr(repository, "Servable", load)
    models = Repository(lambda: configs)
    models.poll()
    assert models.get("shop").version == 1
    assert models.model("broken").status[1].error == "undefined symbol"
    models.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--workers", "-1"),
        ("--versions", "0"),
        ("--port", "70000"),
        ("--grpc-port", "-1"),
        ("--timeout", "-1"),
        ("--poll-seconds", "0"),
        ("--max-pending", "0"),
        ("--max-megabytes", "0"),
        ("--max-batch-rows", "0"),
        ("--drain-seconds", "-1"),
    ],
)
def test_numbers_that_cannot_be_are_told_before_anything_is_loaded(option, value, capsys):
    from tfrec.serve.__main__ import main

    with pytest.raises(SystemExit, match="2"):
        main(["--model", "/nowhere", option, value])
    assert f"{option}: {value!r} is not a" in capsys.readouterr().err


def test_who_announces_bodies_and_sends_none_keeps_nobody_out(small):
    with running(small) as server, contextlib.ExitStack() as silent:
        for _ in range(40):  # of eight megabytes each: more than may be held
            one = silent.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            one.sendall(b"POST /v1/models/shop:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8388608\r\n\r\n{")
        assert server.predict(**QUERY)[0] == 200


def test_a_request_whose_client_has_hung_up_is_given_up(small, monkeypatch):
    began, ended = threading.Event(), threading.Event()

    async def run(self, *request):
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise

    monkeypatch.setattr(Batcher, "run", run)
    monkeypatch.setattr("tfrec.serve.server.ask_itself", lambda *_: asyncio.sleep(0))
    body = json.dumps(QUERY).encode()
    head = f"POST /v1/models/shop:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with running(small) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + body)
            assert began.wait(60)
        assert ended.wait(60)


@pytest.mark.parametrize(
    ("token", "host", "status"),
    [
        (None, "evil.example", 403),
        (None, "localhost", 200),
        ("x", "a.b", 200),
        (None, "a:b", 400),
        (None, "[::1]:8501", 200),
    ],
)
def test_without_a_token_a_server_is_addressed_by_its_own_names(small, token, host, status):
    """Else a page of the web whose name is made to lead to this machine could read what a browser here can."""
    headers = {"Host": host} | ({"Authorization": f"Bearer {token}"} if token else {})
    with running(small, token=token) as server:
        assert server.ask("GET", "/v1/models/shop", headers=headers)[0] == status
        assert server.ask("GET", "/healthz", headers={"Host": host})[0] == 200
