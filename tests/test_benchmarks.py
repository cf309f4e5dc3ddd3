"""The benchmarks run, on a little data, and their contenders do the same work."""

import pytest

from benchmarks import feed, start


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
