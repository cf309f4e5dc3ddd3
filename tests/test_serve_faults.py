"""What the world sends: floods, drips, bombs and nonsense. The server refuses it, and serves everybody else."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import asyncio
import base64
import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import psutil
import pytest
import schemathesis
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipelines.photos.pixels import decode_photos
from tests.serving_fakes import SIDE, make_run
from tests.serving_server import ask, plain_shop, publish_exact, running, until
from tfrec.serve.connections import ConnectionGuard
from tfrec.serve.servable import Servable

QUERY = {"inputs": {"history": [["001"]], "k": 3}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that reads photos as trained runs do."""
    run = make_run(60)
    run.towers.pixels = lambda images: decode_photos(images, (SIDE, SIDE))
    root = tmp_path_factory.mktemp("models")
    publish_exact(run, root)
    return root


@pytest.fixture(scope="module")
def small(shared):
    """A model of few signatures, for the tests that start a server of their own."""
    return shared("plain-shop", plain_shop)


@pytest.fixture(scope="module")
def server(models):
    with running(models / "shop", head_seconds=1.5, body_seconds=1.5) as started:
        yield started


def still_serves(server) -> bool:
    return server.ask("POST", "/v1/models/shop:predict", QUERY)[0] == 200


# -- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_of_100_megabytes_is_refused_without_being_read(server, chunked):
    before = psutil.Process().memory_info().rss
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    body = (b"x" * (1 << 20) for _ in range(100)) if chunked else b"x" * (100 << 20)
    try:
        connection.request("POST", "/v1/models/shop:predict", body, encode_chunked=chunked)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):  # refused while we were still sending
        status = 413
    finally:
        connection.close()
    assert status == 413
    assert psutil.Process().memory_info().rss - before < 250 << 20  # of which 100 are this test's own
    assert still_serves(server)


def test_a_million_ids_are_refused(small):
    body = {"inputs": {"history": [["0108775015"] * 1_000_000]}}
    with running(small / "shop", max_bytes=32 << 20, body_seconds=120) as server:
        status, answer = server.ask("POST", "/v1/models/shop:predict", body)
        assert status == 400
        assert "more than 100000 values" in answer["error"]
        assert still_serves(server)
    with running(small / "shop") as server:
        assert server.ask("POST", "/v1/models/shop:predict", body)[0] == 413


def test_bodies_are_bounded_in_sum(small, monkeypatch):
    """A few clients whose large bodies do not end cannot make the server hold them all."""
    monkeypatch.setattr("tfrec.serve.server.MAX_BYTES_AT_ONCE", 0)  # so that as much is held as one body may have
    with running(small / "shop", max_bytes=1 << 20, body_seconds=3) as server:
        head = b"POST /v1/models/shop:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2)]
        clients[0].sendall(head + b" " * 700_000)
        until(lambda: server.server._state.bytes_held == 700_000)
        with contextlib.suppress(OSError):  # refused before all of it is sent
            clients[1].sendall(head + b" " * 700_000)
        assert b" 429 " in clients[1].recv(1000).splitlines()[0]
        assert still_serves(server)
        for client in clients:
            client.close()
        until(lambda: server.server._state.bytes_held == 0)


# -- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /v1/models/shop:predict HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /v1/models/shop:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
    ],
    ids=["nothing", "a head without an end", "a body without an end"],
)
def test_clients_that_drip_are_cut_off(server, beginning):
    """Slow-loris: a hundred connections that send a byte now and then. Others are served, and the slow ones closed."""
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(100)]
    for client in clients:
        client.sendall(beginning)
    started, closed = time.monotonic(), set()
    while len(closed) < len(clients):
        assert time.monotonic() - started < 120
        assert still_serves(server)
        for client in clients:
            if client not in closed and is_closed(client):
                closed.add(client)
        time.sleep(0.2)
    for client in clients:
        client.close()


def is_closed(client: socket.socket) -> bool:
    """Send one more byte, as a dripping client does; whether the server has had enough."""
    try:
        client.send(b" ")
        client.setblocking(False)
        answer = client.recv(1000)
        return answer == b"" or b" 408 " in answer
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_connections_are_bounded(small):
    with running(small / "shop", max_connections=5) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(5)]
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as silent:
            assert ask(server.port, "GET", "/healthz")[0] == 429
            others = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(5)]
            assert others.pop().recv(10) == b""  # as many wait to be told already
            assert silent.recv(10) == b""  # it asked nothing for two seconds
            for client in others:
                client.close()
        clients.pop().close()
        time.sleep(0.2)
        assert ask(server.port, "GET", "/healthz")[0] == 200
        for client in clients:
            client.close()


@pytest.mark.parametrize("head", ["HTTP/1.1\r\nConnection: close", "HTTP/1.0\r\nX-Nothing: x"])
def test_a_refusal_ends_a_connection_that_was_to_end(small, monkeypatch, head):
    """Who reads to the end would wait for half a minute else, just when there is too much to do."""
    runs, goes_on, original = threading.Event(), threading.Event(), Servable.run

    def held(self, signature, inputs):
        runs.set()
        goes_on.wait(60)
        return original(self, signature, inputs)

    body = json.dumps(QUERY)
    with running(small / "shop", max_pending=1) as server, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(Servable, "run", held)
        first = pool.submit(server.ask, "POST", "/v1/models/shop:predict", QUERY)
        assert runs.wait(60)
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            request = (
                f"POST /v1/models/shop:predict {head}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            )
            client.sendall(request.encode())
            answer = b"".join(iter(lambda: client.recv(10_000), b""))
        assert answer.split(b" ", 2)[1] == b"429"
        goes_on.set()
        assert first.result()[0] == 200


def test_what_is_expected_in_vain_leaves_room_for_others(small):
    expects = (
        b"POST /v1/models/shop:predict HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\nContent-Length: 0\r\n\r\n"
    )
    with running(small / "shop", max_pending=1) as server, contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
        client.sendall(expects)
        assert client.recv(10_000).startswith(b"HTTP/1.1 417 ")
        assert server.ask("POST", "/v1/models/shop:predict", QUERY)[0] == 200


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_request_too_many_is_refused_at_once_whole_or_in_pieces(small, monkeypatch, pieces):
    """Whole requests are refused before they are parsed, on connections that go on; of others, the body is not read."""
    original, runs, goes_on = Servable.run, threading.Event(), threading.Event()

    def held(self, signature, inputs):
        runs.set()
        goes_on.wait(60)
        return original(self, signature, inputs)

    body = json.dumps(QUERY).encode()
    head = f"POST /v1/models/shop:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def answer(client: socket.socket) -> bytes:
        if pieces == 1:
            client.sendall(head + body)
            return client.recv(10_000)
        with socket.create_connection(("127.0.0.1", server.port), 60) as another:
            another.sendall(head)
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                another.sendall(body)
            return another.recv(10_000)

    with running(small / "shop", max_pending=1) as server:
        monkeypatch.setattr(Servable, "run", held)
        first, client = (socket.create_connection(("127.0.0.1", server.port), 60) for _ in range(2))
        with first, client:
            first.sendall(head + body)  # in one piece, so that it is known from the start that it is under way
            assert runs.wait(60)
            for _ in range(2):
                refused = answer(client)
                assert refused.startswith(b"HTTP/1.1 429 ")
                assert b"Retry-After: 1\r\n" in refused
                assert refused.endswith(b'{"error": "1 requests are under way; try again later"}')
            goes_on.set()
            assert first.recv(10_000).startswith(b"HTTP/1.1 200 ")
            assert answer(client).startswith(b"HTTP/1.1 200 ")
            _, page = server.ask("GET", "/metrics")
            assert (b"tfrec_refused_requests_total 2.0" in page) == (pieces == 1)


def test_what_may_be_a_part_of_something_is_never_refused_unread():
    """A body that looks like a request, behind its own head; and requests that do not wait for the answer before."""

    class Kept(asyncio.WriteTransport):
        def __init__(self):
            super().__init__()
            self.written = b""

        def write(self, data):
            self.written += data

    class Inner(asyncio.Protocol):
        read = b""

        def data_received(self, data):
            self.read += data

        pause_writing = resume_writing = eof_received = lambda self: None

    async def go():
        inner: list[Inner] = []
        guard = ConnectionGuard(lambda: inner.append(Inner()) or inner[-1], head_seconds=60, most=9, most_requests=1)
        whole = b"POST /v1/models/shop:predict HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
        head = b"POST /v1/models/shop:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(whole)
        protocols, transports = [guard() for _ in range(3)], [Kept() for _ in range(3)]
        for protocol, transport in zip(protocols, transports):
            protocol.connection_made(transport)
        protocols[0].data_received(whole)  # from now on one is under way
        protocols[1].data_received(head)
        protocols[1].data_received(whole)
        protocols[0].data_received(whole)
        protocols[2].data_received(whole)
        assert [each.read for each in inner] == [whole + whole, head + whole, b""]
        assert [transport.written[:12] for transport in transports] == [b"", b"", b"HTTP/1.1 429"]
        guard.idle(transports[0])
        protocols[2].data_received(whole)
        assert inner[2].read == whole

    asyncio.run(go())


# -- photos --------------------------------------------------------------------------------------------------


def encoded(kind: str, mode: str = "RGB", size=(40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 77).save(stream, kind)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of a few kilobytes that declares 144 megapixels: 432 MB when decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 12_001 * 12_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


JPEG = encoded("JPEG")
PHOTOS = {
    "JPEG": (JPEG, 200),
    "PNG": (encoded("PNG"), 200),
    "CMYK": (encoded("JPEG", "CMYK"), 200),
    "grey": (encoded("JPEG", "L"), 200),
    "transparent": (encoded("PNG", "RGBA"), 200),
    "truncated": (JPEG[: len(JPEG) // 3], 400),
    "HTML": (b"<!doctype html><title>404</title>", 400),
    "a head alone": (JPEG[:4], 400),
    "0 bytes": (b"", 400),
    "bomb": (bomb(), 400),
    "JPEG bomb": (JPEG.replace(b"\x00\x1e\x00\x28", b"\xff\xff\xff\xff", 1), 400),
}


def search(server, photo: bytes) -> int:
    coded = {"b64": base64.b64encode(photo).decode()}
    body = {"signature_name": "search_photo", "inputs": {"photo": [coded], "k": [3]}}
    return server.ask("POST", "/v1/models/shop:predict", body)[0]


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_over_the_wire(server, name):
    photo, status = PHOTOS[name]
    before = psutil.Process().memory_info().rss
    assert search(server, photo) == status
    assert psutil.Process().memory_info().rss - before < 100 << 20
    assert still_serves(server)


def test_a_broken_photo_does_not_spoil_its_batch(server):
    """Good and broken ones asked for at once, so that they share batches."""
    photos = [PHOTOS["JPEG"][0], PHOTOS["truncated"][0]] * 20
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda photo: search(server, photo), photos)) == [200, 400] * 20


@pytest.fixture(scope="module")
def decode():
    return tf.function(lambda photo: decode_photos(photo, (SIDE, SIDE)), autograph=False)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "CMYK"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
)
def test_damaged_photos_are_decoded_or_refused(decode, kind, changes, kept):
    """Any bytes of a real file changed, any part of it cut off: pixels, or INVALID_ARGUMENT; never a crash."""
    photo = bytearray(PHOTOS[kind][0])
    for place, value in changes:
        photo[int(place * (len(photo) - 1))] = value
    try:
        pixels, _ = decode(tf.constant([bytes(photo[: int(kept * len(photo)) + 1])]))
    except tf.errors.InvalidArgumentError:
        return
    assert pixels.shape == (1, SIDE, SIDE, 3)


# -- the description, fuzzed ---------------------------------------------------------------------------------


def test_requests_made_from_the_description_are_answered_as_described(server):
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    description = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in description.get_all_operations()]
    assert len(operations) >= 8
    for operation in operations:

        @settings(max_examples=40 if operation.method == "post" else 5, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask_as_described(case):
            case.call_and_validate(checks=checks, timeout=300)

        ask_as_described()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["inputs", "instances", "history", "k", "b64", "signature_name"]), inner, max_size=3),
    max_leaves=12,
))  # fmt: skip
def test_any_body_is_answered_or_refused(server, body):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = server.ask("POST", "/v1/models/shop:predict", sent)
    assert status in (200, 400)
    assert ("error" in answer) == (status == 400)


# -- overload ------------------------------------------------------------------------------------------------

BATCH_SECONDS, BATCH_ROWS = 0.1, 4  # at most 40 requests a second, which any client can double


@pytest.mark.slow
def test_twice_the_load_is_answered_as_fast_as_ever_and_the_rest_refused(small, monkeypatch):
    """Goodput at twice the peak stays at 0.9 of the peak or above; what is refused is refused with 429 at once."""
    original = Servable.run

    def slowly(self, signature, inputs):
        time.sleep(BATCH_SECONDS)
        return original(self, signature, inputs)

    with running(small / "shop", workers=1, max_batch_rows=BATCH_ROWS, max_pending=16) as server:
        monkeypatch.setattr(Servable, "run", slowly)
        for _ in range(3):  # a machine that is busy otherwise may spoil a measurement
            peak = measured(offer(server.port, clients=24, seconds=4.0))
            over = measured(offer(server.port, rate=2 * peak.goodput, seconds=4.0))
            assert over.statuses <= {200, 429}
            good = over.goodput >= 0.9 * peak.goodput and over.slowest_refusal < 2.0
            if good and 429 in over.statuses:
                return
    raise AssertionError(f"{over.goodput:.0f}/s of {peak.goodput:.0f}/s, refused in {over.slowest_refusal:.1f} s")


class measured:
    """Answers as (seconds since the start, status, seconds it took), summed up over the time after the first second."""

    def __init__(self, answers: list[tuple[float, int, float]]):
        end = max(start for start, _, _ in answers)
        settled = [answer for answer in answers if answer[0] > 1.0]
        self.statuses = {status for _, status, _ in settled}
        self.goodput = sum(status == 200 for _, status, _ in settled) / (end - 1.0)
        self.slowest_refusal = max((took for _, status, took in settled if status == 429), default=0.0)


def offer(port: int, *, seconds: float, clients: int = 0, rate: float = 0.0) -> list[tuple[float, int, float]]:
    """Ask with so many clients that wait for their answers, or at a rate that waits for nothing."""
    answers: list[tuple[float, int, float]] = []
    url, body = f"http://127.0.0.1:{port}/v1/models/shop:predict", json.dumps(QUERY)

    async def one(session: aiohttp.ClientSession, began: float) -> None:
        start = time.monotonic()
        async with session.post(url, data=body) as response:
            await response.read()
            answers.append((time.monotonic() - began, response.status, time.monotonic() - start))

    async def client(session: aiohttp.ClientSession, began: float) -> None:
        while time.monotonic() < began + seconds:
            await one(session, began)

    async def all_of_them() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            began = time.monotonic()
            if clients:
                await asyncio.gather(*(client(session, began) for _ in range(clients)))
                return
            tasks = []
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                tasks.append(asyncio.create_task(one(session, began)))
            await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    thread.start()
    thread.join()
    return answers
