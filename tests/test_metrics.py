"""Ranking metrics against loops over sets, known rankings, and properties that always hold."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec.csr import Csr
from tfrec.evaluation.bootstrap import _draw, bootstrap_means, jackknife_distinct
from tfrec.evaluation.metrics import coverage, diversity, per_user, recall_of, summarize, write_metrics
from tfrec.retrieval.config import RetrievalConfig

KS = (1, 3, 5)


def csr(rows):
    flat = [(row, item) for row, items in enumerate(rows) for item in items]
    return Csr.from_rows(*np.array(flat, int).reshape(-1, 2).T, len(rows))


def test_a_retrieval_run_can_monitor_every_metric():
    config = RetrievalConfig()
    config.evaluation.k = [1, 3]
    assert set(per_user(np.array([[0, 1, 2]]), csr([[0]]), config.evaluation.k)) == set(config.monitors())


def oracle(listed, targets, k):
    """Every metric of one user, from the definitions, one position after the other."""
    hits = [item in targets for item in listed[:k]]
    dcg = sum(1 / math.log2(position + 1) for position, hit in enumerate(hits, 1) if hit)
    ideal = sum(1 / math.log2(position + 1) for position in range(1, min(k, len(targets)) + 1))
    precisions = [sum(hits[:position]) / position for position, hit in enumerate(hits, 1) if hit]
    first = next((position for position, item in enumerate(listed, 1) if item in targets), math.inf)
    return {
        f"precision@{k}": sum(hits) / k,
        f"recall@{k}": sum(hits) / len(targets),
        f"hit_rate@{k}": float(any(hits)),
        f"ndcg@{k}": dcg / ideal,
        f"map@{k}": sum(precisions) / min(k, len(targets)),
        "mrr": 1 / first,
    }


@st.composite
def rankings(draw):
    """Some users' lists of 5 out of 12 items, some cut short, and 1 to 8 targets each."""
    users = draw(st.integers(1, 6))
    ranked, targets = [], []
    for _ in range(users):
        items = draw(st.permutations(range(12)))
        length = draw(st.integers(0, 5))
        ranked.append(items[:length] + [-1] * (5 - length))
        targets.append(sorted(draw(st.sets(st.integers(0, 11), min_size=1, max_size=8))))
    return np.array(ranked), targets


@settings(deadline=None)
@given(rankings())
def test_every_metric_equals_the_loop(case):
    ranked, targets = case
    values = per_user(ranked, csr(targets), KS)
    for user, (listed, wanted) in enumerate(zip(ranked.tolist(), targets)):
        for k in KS:
            for name, expected in oracle(listed, set(wanted), k).items():
                assert values[name][user] == pytest.approx(expected), (name, user)


@settings(deadline=None)
@given(rankings(), st.randoms(use_true_random=False))
def test_bounds_monotony_and_no_effect_of_the_order_of_users(case, random):
    ranked, targets = case
    values = per_user(ranked, csr(targets), KS)
    assert all(((value >= 0) & (value <= 1 + 1e-12)).all() for value in values.values())
    for name in ("recall", "hit_rate"):
        assert (values[f"{name}@1"] <= values[f"{name}@3"]).all()
        assert (values[f"{name}@3"] <= values[f"{name}@5"]).all()
    order = random.sample(range(len(ranked)), len(ranked))
    shuffled = per_user(ranked[order], csr([targets[user] for user in order]), KS)
    for name, value in values.items():
        np.testing.assert_array_equal(shuffled[name], value[order])


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        # Targets 0 and 1. ndcg of one hit at position 2: (1 / log2 3) / (1 + 1 / log2 3).
        ([0, 1, 2, 3, 4], {"precision@3": 2 / 3, "recall@3": 1, "ndcg@3": 1, "map@3": 1, "mrr": 1}),
        (
            [2, 1, 3, 4, 5],
            {"precision@3": 1 / 3, "recall@3": 0.5, "ndcg@3": 0.38685, "map@3": 0.25, "mrr": 0.5},
        ),
        (
            [2, 3, 4, 5, 0],
            {"precision@3": 0, "recall@3": 0, "ndcg@3": 0, "map@3": 0, "mrr": 0.2, "recall@5": 0.5},
        ),
        (
            [5, 6, 7, 8, 9],
            {"precision@5": 0, "recall@5": 0, "ndcg@5": 0, "map@5": 0, "mrr": 0, "hit_rate@5": 0},
        ),
    ],
    ids=["perfect", "good", "bad", "irrelevant"],
)
def test_known_rankings(listed, expected):
    values = per_user(np.array([listed]), csr([[0, 1]]), KS)
    for name, value in expected.items():
        assert values[name][0] == pytest.approx(value, abs=1e-5), name


def test_map_at_12_is_kaggles():
    """Kaggle's H&M score: 1 / min(m, 12) * sum of P(i) * rel(i); here hits at 1, 3 and 12 of 20 targets."""
    ranked = np.array([[0, 50, 1, 51, 52, 53, 54, 55, 56, 57, 58, 2]])
    value = per_user(ranked, csr([range(20)]), (12,))["map@12"][0]
    assert value == pytest.approx((1 + 2 / 3 + 3 / 12) / 12)


def test_more_users_than_a_chunk(monkeypatch):
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(30)[:5] for _ in range(50)])
    targets = csr([rng.permutation(30)[: 1 + user % 4] for user in range(50)])
    whole = per_user(ranked, targets, KS)
    monkeypatch.setattr("tfrec.evaluation.metrics.CHUNK_USERS", 7)
    monkeypatch.setattr("tfrec.csr.CHUNK_ROWS", 3)
    for name, value in per_user(ranked, targets, KS).items():
        np.testing.assert_array_equal(value, whole[name])


def test_recall_of_some_targets_leaves_out_users_without_any():
    ranked = np.array([[0, 1], [0, 1], [2, 3]])
    targets = csr([[0, 5], [0, 6], [2]])
    chosen = np.array([True, False, True, True, False])  # 0 of user 0; 0 and 6 of user 1; none of user 2
    assert recall_of(ranked, targets, chosen, (1, 2))["recall@2"].tolist() == [1.0, 0.5]


def test_diversity_equals_the_loop_over_pairs(monkeypatch):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((9, 4)) * 3
    ranked = np.array([[0, 1, 2, 3, 4], [5, 6, 7, -1, -1], [8, -1, -1, -1, -1], [3, 3 + 1, 8, 0, 1]])
    monkeypatch.setattr("tfrec.evaluation.metrics.CHUNK_CELLS", 40)
    values = diversity(ranked, vectors, KS)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for user, listed in enumerate(ranked.tolist()):
        for k in KS:
            shown = [item for item in listed[:k] if item >= 0]
            pairs = [(a, b) for place, a in enumerate(shown) for b in shown[place + 1 :]]
            expected = np.mean([1 - unit[a] @ unit[b] for a, b in pairs]) if pairs else np.nan
            np.testing.assert_allclose(values[f"diversity@{k}"][user], expected, atol=1e-6)


def test_coverage_counts_distinct_items_and_its_interval_holds_the_value():
    ranked = np.array([[0, 1], [1, 2], [1, -1]])
    result = coverage(ranked, 10, 2)
    assert result["value"] == pytest.approx(0.3)
    assert 0 <= result["low"] < 0.3 < result["high"] <= 1


def test_jackknife_error_equals_leaving_out_each_user():
    rng = np.random.default_rng(3)
    ranked = np.array([rng.permutation(60)[:4] for _ in range(25)])
    without = [len(np.unique(np.delete(ranked, user, 0))) / 60 for user in range(25)]
    error = math.sqrt(24 / 25 * np.sum((np.array(without) - np.mean(without)) ** 2))
    result = jackknife_distinct(ranked, 60)
    assert result["high"] - result["value"] == pytest.approx(1.96 * error)


def test_bootstrap_interval_agrees_with_the_normal_one_and_with_itself():
    rng = np.random.default_rng(0)
    hits = (rng.random(4000) < 0.2).astype(float)
    result = bootstrap_means({"hit": hits}, resamples=2000, seed=5)["hit"]
    error = 1.96 * hits.std() / math.sqrt(4000)
    assert result["value"] == pytest.approx(hits.mean())
    assert result["high"] - result["value"] == pytest.approx(error, rel=0.15)
    assert result["value"] - result["low"] == pytest.approx(error, rel=0.15)
    assert bootstrap_means({"hit": hits}, resamples=2000, seed=5)["hit"] == result
    assert bootstrap_means({"hit": hits}, resamples=2000, seed=6)["hit"] != result


def test_both_ways_to_draw_have_the_mean_and_the_spread_of_a_multinomial():
    for counts in (np.array([600, 300, 100]), np.array([3, 2, 1])):  # many users a row; few
        users, rng = counts.sum(), np.random.default_rng(0)
        drawn = _draw(counts, 4000, rng)
        assert (drawn.sum(axis=1) == users).all()
        np.testing.assert_allclose(drawn.mean(axis=0), counts, rtol=0.05)
        np.testing.assert_allclose(drawn.var(axis=0), counts * (1 - counts / users), rtol=0.1)


def test_bootstrap_draws_all_metrics_of_a_user_together():
    """A value and its opposite move against each other exactly, because one draw of users serves both."""
    value = np.random.default_rng(1).random(300)
    result = bootstrap_means({"a": value, "b": 1 - value})
    assert result["a"]["low"] == pytest.approx(1 - result["b"]["high"])


def test_bootstrap_leaves_undefined_users_out(monkeypatch):
    result = bootstrap_means({"a": np.array([1.0, np.nan, 0.0]), "b": np.full(3, np.nan)}, resamples=200)
    assert result["a"]["value"] == 0.5
    assert "b" not in result
    monkeypatch.setattr("tfrec.evaluation.bootstrap.BATCH_CELLS", 5)
    assert bootstrap_means({"a": np.array([1.0, np.nan, 0.0])}, resamples=200)["a"] == result["a"]


def test_summary_has_every_key_with_its_interval():
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(30)[:5] for _ in range(40)])
    targets = csr([rng.permutation(30)[:3] for _ in range(40)])
    result = summarize(ranked, targets, n_items=30, vectors=rng.random((30, 4)), ks=KS, resamples=100)
    names = ("precision", "recall", "hit_rate", "ndcg", "map", "coverage", "diversity")
    assert set(result) == {f"{name}@{k}" for name in names for k in KS} - {"diversity@1"} | {"mrr"}
    for interval in result.values():
        assert interval["low"] <= interval["value"] <= interval["high"]


@pytest.mark.parametrize(
    ("ranked", "targets", "ks", "message"),
    [
        ([[0, 0]], [[1]], (1,), "row 0 holds an item twice"),
        ([[0, 1]], [[1]], (3,), "ks=.*between 1 and the 2"),
        ([[0, 1], [0, 1]], [[1], []], (1,), "user row 1 has no targets"),
        ([[0, 1], [0, 1]], [[1]], (1,), "a row for each of the 1 users"),
    ],
)
def test_errors_name_the_place(ranked, targets, ks, message):
    with pytest.raises(ValueError, match=message):
        per_user(np.array(ranked), csr(targets), ks)


def test_metrics_file_is_whole_or_untouched(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    entry = {"recall@20": {"value": 0.5, "low": 0.4, "high": 0.6}}
    parts = {
        "protocol": {"split": "test"},
        "metrics": entry,
        "baselines": {"popularity": entry},
        "cohorts": {},
    }
    content = write_metrics(path, **parts, oracle=entry)
    written = path.read_text()
    assert json.loads(written) == content == {**parts, "oracle": entry}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_metrics(path, **{**parts, "cohorts": {"new": float("nan")}})
    assert path.read_text() == written
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]
