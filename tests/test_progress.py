"""What a long step says where nobody watches."""

import re

from pipelines import progress
from pipelines.progress import Progress


def test_a_line_now_and_then_and_one_at_the_end(capsys, monkeypatch):
    moments = iter(range(0, 1000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(moments)))
    with Progress("train", 2000, unit=" steps", done=1000) as bar:
        for step in range(5):
            bar.update(100, note=f"loss {step}")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # of five reports, less than a minute apart, and the end
    assert re.fullmatch(r"train: 1\.30k of 2\.00k steps \(\d\.\d\d steps/s, \d\d:\d\d left\) loss 2", said[0])
    assert re.fullmatch(r"train: 500 steps in [\d.]+ s \(\d\.\d\d steps/s\)", said[-1])


def test_a_total_that_is_not_known_and_work_that_failed(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE", -1.0)
    try:
        with Progress("read", None, unit="B") as bar:
            bar.update(2000)
            raise OSError("gone")
    except OSError:
        pass
    assert re.fullmatch(r"read: 2\.00kB \(.*B/s\) ?\n", capsys.readouterr().err)


def test_what_is_not_shown_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE", -1.0)
    with Progress("read", 10, unit="B", shown=False) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_what_was_done_before(capsys):
    with Progress("train", 0, unit=" steps"), Progress("recommend", 10, unit=" customers", done=10):
        pass
    assert capsys.readouterr().err == ""
