"""The log: whole lines of JSON, in their order, and nobody waits for who reads them."""

import asyncio
import json
import logging
import subprocess
import sys
import threading

import pytest

from tfrec.serve.logs import JsonLines, LineWriter, TurnHandler


def logger_of(writer: LineWriter) -> logging.Logger:
    logger, handler = logging.Logger("turns"), TurnHandler(writer)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    return logger


def messages(text: str) -> list[str]:
    return [json.loads(line)["message"] for line in text.splitlines()]


def test_what_one_turn_of_the_loop_logs_is_written_at_once_and_errors_immediately():
    class Kept:
        def __init__(self):
            self.turns = []

        def put(self, lines, error):
            self.turns.append((messages("".join(lines)), error))

    logger = logger_of(kept := Kept())

    async def turns():
        logger.info("one")
        logger.info("two")
        assert kept.turns == []
        await asyncio.sleep(0)
        assert kept.turns == [(["one", "two"], False)]
        logger.error("three")
        assert kept.turns[1:] == [(["three"], True)]

    asyncio.run(turns())
    logger.info("four")
    assert kept.turns[2:] == [(["four"], False)]


def test_a_log_that_nobody_reads_stops_nobody_and_keeps_its_errors():
    reads, stuck, written = threading.Event(), threading.Event(), []

    def write(text):
        stuck.set()
        assert reads.wait(60)
        written.extend(messages(text))

    writer, dropped = LineWriter(write, most=3), []
    writer.dropped = dropped.append
    logger = logger_of(writer)
    logger.info("read late")
    assert stuck.wait(60)
    for number in range(5):
        logger.info("%d", number)
    logger.error("failed")
    assert dropped == [1, 1]
    reads.set()
    logger.handlers[0].flush()
    assert written == ["read late", "0", "1", "2", "failed"]


def test_a_reader_that_has_gone_stops_nobody():
    calls = []

    def write(text):
        calls.append(text)
        raise BrokenPipeError

    writer = LineWriter(write)
    for number in (1, 2):
        writer.put(["x"], error=False)
        writer.wait(60)
        assert len(calls) == number


LOGS = """
import logging
from tfrec.serve.logs import log_json
log_json()
for number in range({lines}):
    logging.info("%d " + "x" * 1000, number)
"""


def test_all_lines_are_written_before_the_process_ends():
    """More of them than a pipe holds."""
    done = subprocess.run([sys.executable, "-c", LOGS.format(lines=500)], capture_output=True, text=True, check=True)
    assert [int(message.split()[0]) for message in messages(done.stderr)] == list(range(500))


def test_a_process_whose_log_nobody_reads_ends_all_the_same():
    with subprocess.Popen([sys.executable, "-c", LOGS.format(lines=500)], stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 0


@pytest.mark.parametrize("odd", [2**70, "\ud800", b"bytes"])
def test_a_log_line_takes_whatever_a_client_sends(odd):
    record = logging.LogRecord("tfrec.serve", logging.INFO, "", 0, "request", None, None)
    record.fields = {"path": odd}
    assert "path" in json.loads(JsonLines().format(record))
