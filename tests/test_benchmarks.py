"""The benchmarks run, on a little data, and their contenders do the same work."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks import feed, serving, start
from benchmarks.load import Answers, Load


def test_the_feeds_read_the_same_examples(tmp_path):
    feed.write_records(tmp_path, 20_000, 500)
    for contender in (feed.from_arrays, feed.from_windows, feed.from_examples):
        assert contender(tmp_path, 20_000, 500, 3_000)() >= 3_000
    batch = feed.batches_of(20_000, 500)(0)
    parsed = next(iter(feed.parsed(tmp_path / "windows", feed.LENGTH + 1)))
    assert {name: parsed[name].shape for name in parsed} == {name: batch[name].shape for name in parsed}
    single = next(iter(feed.parsed(tmp_path / "examples", 1)))
    assert (single["targets"].numpy() >= 0).all()


def test_processes_are_timed_in_turns_and_failures_told():
    runs = start.time_processes({"nothing": ["-c", "pass"], "help": ["-m", "tfrec.client", "--help"]}, 2)
    assert [len(measured.seconds) for measured in runs.values()] == [2, 2]
    assert "| help |" in start.table(runs)
    with pytest.raises(RuntimeError, match="oh no"):
        start.time_processes({"broken": ["-c", "raise SystemExit('oh no')"]}, 1)


class Odd(BaseHTTPRequestHandler):
    """Answers a body "good" with 200, "busy" with 429, and hangs up on everything else."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body not in (b"good", b"busy"):
            self.close_connection = True
            return
        self.send_response(200 if body == b"good" else 429)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def odd():
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_every_request_of_the_load_is_accounted_for(odd):
    found = Load(odd, [b"good", b"busy", b"bad", b"good"]).at_rate(200, 1.0)
    assert len(found.status) == 200
    assert [int((found.status == status).sum()) for status in (200, 429, 0)] == [100, 50, 50]
    assert (found.errors(), found.errors((200, 429))) == (100, 50)
    assert (found.took > 0).all()
    assert (found.sent >= found.due).all()


def test_clients_wait_for_their_answers_and_a_load_ends_when_told(odd):
    load = Load(odd, [b"good"])
    one = load.by_clients(1, 0.3)
    order = np.argsort(one.sent)
    assert (one.sent[order][1:] >= (one.sent + one.took)[order][:-1]).all()
    assert (one.status == 200).all()
    assert len(load.by_clients(3, 0.0).status) == 3
    assert load.at_rate(100, 60.0, until=lambda: True).due.max() < 1.0


def test_goodput_and_percentiles_are_of_the_good_answers():
    found = Answers(np.zeros(4), np.arange(4.0), np.array([0.5, 0.1, 0.5, 0.3]), np.array([200, 429, 200, 200]))
    assert found.goodput(0.0, 3.0) == pytest.approx(2 / 3)
    assert found.percentile(0.5) == pytest.approx(500)
    with pytest.raises(SystemExit):
        serving.main(["--only", "half,nothing"])
