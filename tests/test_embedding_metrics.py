"""Embedding metrics against plain-Python oracles and cases whose answer is known."""

import numpy as np
import pytest

from tfrec.evaluation import embedding_metrics as em
from tfrec.evaluation.embedding_summary import summarize_embedding
from tfrec.evaluation.labels import can_be_evaluated, label_sides


def _blobs(seed=0, classes=4, each=15, dim=8, spread=0.4):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dim))
    labels = np.repeat(np.arange(classes), each)
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype(np.float32), labels


def _ranking(vectors, query):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = sorted((i for i in range(len(unit)) if i != query), key=lambda i: -float(unit[query] @ unit[i]))
    return order


def test_retrieval_metrics_equal_plain_loops():
    vectors, labels = _blobs(spread=1.0)
    labels[0] = 99  # nobody else has it
    recall, average = {1: [], 5: []}, []
    for query in range(1, len(labels)):
        hits = [labels[i] == labels[query] for i in _ranking(vectors, query)]
        for k in recall:
            recall[k].append(any(hits[:k]))
        r = int(np.sum(labels == labels[query])) - 1
        average.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r)
    got = em.retrieval_metrics(vectors, labels, ks=(1, 5))
    assert got["recall@1"] == pytest.approx(np.mean(recall[1]))
    assert got["recall@5"] == pytest.approx(np.mean(recall[5]))
    assert got["map@r"] == pytest.approx(np.mean(average))
    assert (got["queries"], got["queries_without_match"]) == (len(labels) - 1, 1)


def test_map_at_r_known_case():
    # One query, gallery ranked: right, wrong, right; R = 2, so only the first hit counts: (1/1) / 2.
    gallery = np.array([[1, 0.1], [1, 0.5], [1, 2]])
    got = em.retrieval_metrics([[1, 0]], ["a"], gallery=gallery, gallery_labels=["a", "b", "a"], ks=(1, 3))
    assert got["map@r"] == pytest.approx(0.5)
    assert got["r_precision"] == pytest.approx(0.5)
    assert got["recall@1"] == 1.0


def test_knn_accuracy_equals_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    vectors, labels = _blobs(1, spread=1.5)
    other, other_labels = vectors[::2], labels[::2]
    vectors, labels = vectors[1::2], labels[1::2]
    reference = KNeighborsClassifier(1, metric="cosine").fit(other, other_labels).score(vectors, labels)
    got = em.knn_hits(vectors, labels, gallery=other, gallery_labels=other_labels, k=1).mean()
    assert got == pytest.approx(reference)
    assert 0.3 < got < 1.0  # else the comparison says nothing


def test_knn_votes_and_breaks_ties_by_distance():
    angles = np.radians([0, 5, 10, 15, 20])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = ["b", "a", "a", "b", "c"]

    def classify(k):
        return em.knn_hits([[1, 0]], ["b"], gallery=gallery, gallery_labels=labels, k=k).mean()

    assert [classify(k) for k in (1, 2, 3, 4)] == [1.0, 1.0, 0.0, 1.0]


def test_blocks_do_not_change_the_result(monkeypatch):
    vectors, labels = _blobs(2, spread=1.0)
    whole = em.retrieval_metrics(vectors, labels), em.knn_hits(vectors, labels)
    monkeypatch.setattr(em, "BLOCK_CELLS", 7 * len(labels))
    assert em.retrieval_metrics(vectors, labels) == pytest.approx(whole[0])
    np.testing.assert_array_equal(em.knn_hits(vectors, labels), whole[1])


def test_clustering_metrics_known_cases():
    perfect = em.clustering_metrics(["a", "a", "b", "b"], [1, 1, 0, 0])
    assert (perfect["ari"], perfect["nmi"], perfect["purity"], perfect["pure_clusters"]) == (1, 1, 1, 1)
    # Cluster 0 holds a, a, b; cluster 1 holds b; one row is noise.
    mixed = em.clustering_metrics(["a", "a", "b", "b", "a"], [0, 0, 0, 1, -1])
    assert mixed["purity"] == pytest.approx(3 / 4)
    assert mixed["pure_clusters"] == pytest.approx(1 / 2)
    assert mixed["noise"] == pytest.approx(1 / 5)
    assert mixed["clusters"] == 2
    assert em.clustering_metrics(["a", "b"], [-1, -1])["purity"] == 0.0
    assert em.clustering_metrics(["a", "a", "b"], [0, 0, 0], pure_from=0.6)["pure_clusters"] == 1.0


def _grade(vectors, labels, **options):
    return summarize_embedding(vectors, labels, np.arange(len(labels)), np.arange(0), **options)


def test_means_tell_good_from_random():
    vectors, labels = _blobs(3, spread=0.05)
    good = _grade(vectors, labels).means()
    noise = _grade(np.random.default_rng(0).normal(size=vectors.shape), labels).means()
    for name in ("knn_accuracy", "recall@1", "map@r", "ari", "nmi", "purity"):
        assert good[name] > 0.9, name
        assert noise[name] < 0.75, name
    assert abs(noise["ari"]) < 0.15
    assert em.silhouette(vectors, labels) > 0.9


def test_samples_are_bounded_and_said():
    vectors, labels = _blobs(4, each=50)
    got = _grade(vectors, labels, max_rows=60).means()
    assert (got["queries"], got["clustered_rows"]) == (60, 60)
    assert got == _grade(vectors, labels, max_rows=60).means()


def test_intervals_hold_the_means():
    vectors, labels = _blobs(5, spread=1.0)
    judged = _grade(vectors, labels, seed=3)
    means, intervals = judged.means(), judged.intervals()
    assert list(intervals) == ["knn_accuracy", "recall@1", "recall@5", "recall@10", "map@r", "ari", "nmi", "purity"]
    for name, entry in intervals.items():
        assert entry["value"] == pytest.approx(means[name]), name
        assert entry["low"] <= entry["value"] <= entry["high"], name
    assert intervals["ari"]["low"] < intervals["ari"]["high"]


def test_voters_answer_for_the_queries():
    vectors, labels = _blobs(6, spread=0.05)
    wrong = labels.copy()
    wrong[::2] = labels[::2] + 100  # nobody who votes has such a label
    queries, voters = np.arange(0, len(labels), 2), np.arange(1, len(labels), 2)
    got = summarize_embedding(vectors, wrong, queries, voters).means()
    assert got["knn_accuracy"] == 0.0
    assert got["recall@1"] == 1.0  # queries search among themselves


@pytest.mark.parametrize(
    ("labels", "can"), [("aab", True), ("ab", False), ("abc", False), ("aaa", False), ("abca", True)]
)
def test_labels_that_tell_right_from_wrong(labels, can):
    assert can_be_evaluated(np.array(list(labels))) == can


def test_who_is_asked_and_who_votes():
    labels = np.array(["a", "b", "a", "b", "", "c", "a"])
    splits = np.array([0, 0, 2, 2, 2, 1, 1])
    for split, queries, voters in (("test", [2, 3], [0, 1, 5, 6]), ("val", [5, 6], [0, 1])):
        found = label_sides(labels, splits, split)
        assert [side.tolist() for side in found] == [queries, voters]
    disjoint = label_sides(np.array(["a", "b"]), np.array([0, 2]), "test")
    assert [side.tolist() for side in disjoint] == [[1], []]


def test_errors_name_argument_and_fix():
    with pytest.raises(ValueError, match="row 1"):
        em.unit_rows([[0.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(ValueError, match="labels has 1"):
        em.knn_hits([[0.0, 1.0], [1.0, 1.0]], ["a"])
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        em.unit_rows([1.0, 2.0])
    with pytest.raises(ValueError, match="at least one other row"):
        em.knn_hits([[0.0, 1.0]], ["a"])


def test_zero_and_huge_rows_are_finite():
    rows = em.unit_rows(np.array([[0, 0], [3e38, 3e38]], np.float32))
    np.testing.assert_allclose(rows, [[0, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    assert np.isnan(em.silhouette(rows, [0, 0]))
