"""Calls of a model side by side: their order, their errors, and what they leave as it was."""

import os
import subprocess
import sys
import threading

import pytest

from tfrec.cores import in_order, keep_to_share


@pytest.mark.parametrize("at_a_time", [1, 2, 5])
def test_what_is_made_side_by_side_comes_in_order_and_is_asked_for_as_needed(at_a_time):
    asked, waits = [], threading.Event()

    def given():
        for number in range(20):
            asked.append(number)
            yield number

    def make(number):
        if number == 0 and at_a_time > 1:
            assert waits.wait(20)  # until a later one is done
        elif number == 1:
            waits.set()
        return number * number

    made = in_order(make, given(), at_a_time)
    assert next(made) == 0
    assert len(asked) <= at_a_time + 1
    assert list(made) == [number * number for number in range(1, 20)]


@pytest.mark.parametrize(
    ("of", "shares"),
    [
        (1, [[0, 2, 3, 7, 9]]),
        (2, [[0, 2], [3, 7, 9]]),
        (3, [[0], [2, 3], [7, 9]]),
        (6, [None, [0], [2], [3], [7], [9]]),
    ],
)
def test_processes_of_a_machine_share_out_its_cores(monkeypatch, of, shares):
    kept = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {9, 7, 0, 2, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: kept.append(list(cores)))
    for number, share in enumerate(shares):
        kept.clear()
        keep_to_share(number, of)
        assert kept == ([share] if share else [])


def test_an_error_of_one_call_ends_the_others():
    def make(number):
        if number == 3:
            raise ValueError("the fourth")
        return number

    seen = []
    with pytest.raises(ValueError, match="the fourth"):
        seen.extend(in_order(make, iter(range(1_000_000_000)), 3))
    assert seen == [0, 1, 2]


SIDE_BY_SIDE = """
import sys, tempfile
from pathlib import Path
import numpy as np
import tfrec, tensorflow as tf
from tfrec.cores import calls_at_a_time, one_thread_an_op, threads_for
for own, threads in ((.5, 1), (2.0, 2)):
    threads_for(own)
    assert tf.config.threading.get_intra_op_parallelism_threads() == threads
assert calls_at_a_time(4) == 1
one_thread_an_op()
assert (calls_at_a_time(4), calls_at_a_time(.5)) == (4, 1) and calls_at_a_time() >= 1
from tests.small_encoders import make_shop, make_sides
from tfrec.features.writer import FeatureWriter
folder = Path(tempfile.mkdtemp())
shop = make_shop(folder / "data")
for side in make_sides(shop.items["text"]):
    one, four = (
        FeatureWriter(side, shop, folder / str(calls), tokens=True, batch=3, calls=calls).write() for calls in (1, 4)
    )
    assert one.keys == four.keys
    for name in ("vectors", "tokens"):
        np.testing.assert_array_equal(one.array(name), four.array(name))
one_thread_an_op()  # TensorFlow runs: nothing happens
print("same")
"""


@pytest.mark.long
def test_an_encoded_catalogue_is_the_same_however_many_calls_run_side_by_side():
    done = subprocess.run([sys.executable, "-c", SIDE_BY_SIDE], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("same\n"), done.stderr


def test_calls_side_by_side_need_ops_of_one_thread():
    code = "import tfrec, tensorflow as tf; tf.constant(1.) + 1.\nfrom tfrec.cores import *\n"
    code += "one_thread_an_op(); print(calls_at_a_time(8))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
