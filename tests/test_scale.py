"""The computed costs: by hand for a small shop, and what was measured comes before what is assumed."""

import json

import pytest

from benchmarks.scale import SIZES, UNITS, jobs, main, measured, step_bytes, storage

SHOP = {name: default for name, (default, _) in SIZES.items()} | {"users": 3600.0, "items": 7200.0, "machines": 2.0}
UNITS_OF_ONE = dict.fromkeys(UNITS, 1.0)


def test_jobs_are_counts_over_rates():
    found = {job.name: job for job in jobs(SHOP, UNITS_OF_ONE)}
    assert (found["encode photos"].hours, found["encode photos"].wall) == (2.0, 1.0)
    assert found["recommend"].hours == 1.0
    assert found["train"].wall == pytest.approx(10.0, rel=1e-3)  # 20 purchases each; little is sent
    alone = {job.name: job for job in jobs(SHOP | {"machines": 1.0, "bandwidth": 1.0}, UNITS_OF_ONE)}["train"]
    assert alone.wall == alone.hours == 20.0


def test_a_slow_network_shows():
    fast, slow = (jobs(SHOP | {"bandwidth": rate}, UNITS_OF_ONE)[2].wall for rate in (1e9, 1e3))
    assert slow > 1.5 * fast
    sizes = SHOP | {"encode-items": 10.0, "dim": 2.0, "dense-weights": 100.0, "items": 5.0}
    assert step_bytes(sizes) == 4 * (3 * 20 + 200 + 2 * 5 * 2)


def test_bytes_are_those_of_the_tables():
    of_a_worker = storage(SHOP | {"dim": 10.0})[
        "memory of every retrieval worker: item vectors, ScaNN's copy, the histories' own"
    ]
    assert of_a_worker == 3 * 7200 * 40


def test_what_was_measured_comes_before_what_is_assumed(tmp_path, capsys):
    rates = [{"work": "fit, batch 2048", "unit": "examples", "per_second": 123.0}]
    (tmp_path / "fit.json").write_text(json.dumps({"ratios": [], "rates": rates}))
    (tmp_path / "old.json").write_text(json.dumps({"ratios": []}))
    assert measured(tmp_path) == {"fit, batch 2048": 123.0}
    text = main(["--figures", str(tmp_path), "--texts-per-second", "50"])
    assert "one machine | 123 | measured: fit, batch 2048 |" in text
    assert "| 50 | given |" in text
    assert text.count("assumed") == 2
    assert capsys.readouterr().out.strip() == text
