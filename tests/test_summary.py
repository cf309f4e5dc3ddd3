from tfrec.reports.summary import summary_table


def interval(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def test_the_table_shows_the_model_first_and_every_baseline():
    content = {
        "protocol": {"split": "test", "users": 1200, "candidates": 5000, "seen_filter": False},
        "metrics": {name: interval(0.25) for name in ("recall@5", "recall@12", "mrr")},
        "baselines": {"item_cosine": {"recall@12": interval(0.125)}},
        "oracle": {"recall@12": interval(0.5), "mrr": interval(0.6)},
    }
    lines = summary_table(content).splitlines()
    assert lines[0] == "test split, 1,200 customers, 5,000 candidates, seen items stay candidates"
    assert lines[1].split() == ["recall@12", "mrr"]
    assert lines[2].startswith("model")
    assert "0.2500 [0.2400, 0.2600]" in lines[2]
    assert lines[3].split() == ["best", "reachable", "0.5000", "0.6000"]
    assert lines[4].split() == ["item", "cosine", "0.1250"]


def test_photos_judged_by_labels_say_how_many_items_and_classes():
    content = {
        "protocol": {"split": "test", "items": 4000, "classes": 10},
        "metrics": {name: interval(0.5) for name in ("knn_accuracy", "recall@1", "recall@5", "map@r", "ari", "nmi")},
        "baselines": {"pixels": {"ari": interval(0.25)}},
    }
    lines = summary_table(content).splitlines()
    assert lines[0] == "test split, 4,000 items of 10 classes"
    assert lines[1].split() == ["knn_accuracy", "recall@1", "map@r", "ari"]
    assert lines[3].split() == ["pixels", "0.2500"]


def test_ratings_have_a_table_of_their_own():
    content = {
        "protocol": {"split": "test", "users": 2, "candidates": 3, "seen_filter": True},
        "metrics": {name: interval(0.9) for name in ("recall@12", "rating_rmse", "rating_mae")},
        "baselines": {"popularity": {"recall@12": interval(0.125)}, "mean_rating": {"rating_rmse": interval(1.1)}},
    }
    lines = [line.split() for line in summary_table(content).splitlines()[1:]]
    assert [lines[0], lines[2]] == [["recall@12"], ["popularity", "0.1250"]]
    assert lines[3] == ["rating_rmse", "rating_mae"]
    assert lines[4][:2] == ["model", "0.9000"]
    assert lines[5:] == [["mean", "rating", "1.1000"]]
