"""The ablation's table: arms, paired differences, and what it refuses."""

import argparse

import numpy as np
import pandas as pd
import pytest

from benchmarks.ablation import compare, parse_arm, table


def write_users(run, recall, ids=None):
    run.mkdir()
    ids = ids or [f"u{i}" for i in range(len(recall))]
    history = np.r_[0, np.ones(len(recall) - 1, int)]  # the first customer is cold and does not count
    pd.DataFrame({"user_id": ids, "history": history, "recall@12": recall}).to_parquet(run / "users.parquet")
    return run


def test_arms_are_compared_customer_by_customer(tmp_path):
    rng = np.random.default_rng(0)
    recall = rng.random(400)
    runs = {"recipe": write_users(tmp_path / "a", recall), "worse": write_users(tmp_path / "b", recall - 0.1)}
    frame = compare(runs, ["recall@12"])
    assert frame["customers"].tolist() == [399, 399]
    assert frame["recall@12"][0] == pytest.approx(recall[1:].mean())
    # The customers differ widely, the arms by the same everywhere: only a paired interval can tell.
    assert frame["recall@12 difference high"][1] == pytest.approx(-0.1)
    assert frame["recall@12 high"][1] > frame["recall@12"][0] - 0.1
    assert "| worse |" in table(frame, ["recall@12"])


def test_other_customers_are_no_comparison(tmp_path):
    runs = {
        "recipe": write_users(tmp_path / "a", [0, 1, 0]),
        "x": write_users(tmp_path / "b", [0, 1, 0], ["a", "b", "c"]),
    }
    with pytest.raises(ValueError, match="other customers"):
        compare(runs, ["recall@12"])


def test_arms_are_read_from_the_command_line():
    assert parse_arm("no photo: model.image.enabled=false") == ("no photo", ["--model.image.enabled=false"])
    for text in ("no photo", ": a=b", "x: y", "x:"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_arm(text)
