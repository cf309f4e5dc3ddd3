"""Retrieval and rating together: the ranking head against plain NumPy, and the recipe from files to metrics."""

import json
import shutil
from dataclasses import replace

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pandas as pd
import pytest

from pipelines.__main__ import main as prepare
from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.evaluation.baselines import item_cosine, popularity, repurchase
from tfrec.evaluation.protocol import ProtocolError, build_protocol
from tfrec.ratings.model import USER_SCALE, RatingHead
from tfrec.ratings.system import rating_errors, rating_rules
from tfrec.train import main as train

USERS, MOVIES = 40, 30


def head_inputs():
    rng = np.random.default_rng(0)
    query, candidate = rng.normal(size=(2, 3, 4)).astype(np.float32)
    return {"user": np.array([1, -1, 0]), "item": np.array([0, 2, 1]), "query": query, "candidate": candidate}


def test_the_head_starts_as_biased_matrix_factorisation():
    head, inputs = RatingHead(2, 3, mean=3.5, factors=4, hidden=8), head_inputs()
    head(inputs)
    head.start_from([0.1, -0.2], [0.5, -0.25, 0.125], [True, True], [True] * 3)
    rating, squares = head(inputs)
    factors = USER_SCALE * head.user_factors.numpy(), head.item_factors.numpy()
    expected = [3.5 - 0.2 + 0.5 + factors[0][1] @ factors[1][0], 3.5 + 0.125]  # an unknown user adds nothing
    expected.append(3.5 + 0.1 - 0.25 + factors[0][0] @ factors[1][1])
    np.testing.assert_allclose(rating, expected, rtol=1e-5)
    assert (squares.numpy() > 0).all()


def test_nothing_is_predicted_beyond_the_training_ratings():
    head, inputs = RatingHead(2, 3, mean=3.5, low=1.0, high=5.0, factors=4, hidden=8), head_inputs()
    head(inputs)
    head.start_from([0.0, 0.0], [9.0, -9.0, 0.0], [False] * 2, [False] * 3)
    ratings = head(inputs)[0]
    assert ratings.numpy().tolist() == [12.5, 3.5, -5.5]  # a clipped error has no gradient, and ties have no order
    assert head.bounded(ratings).numpy().tolist() == [5.0, 3.5, 1.0]


def test_who_has_no_training_rating_has_no_factors():
    head = RatingHead(2, 3, mean=3.5, factors=4, hidden=8)
    head(head_inputs())
    head.start_from([0.0, 0.0], [0.0, 0.0, 0.0], [True, False], [True, False, True])
    assert (head.user_factors.numpy() != 0).any(1).tolist() == [True, False, False]  # the last: unknown users
    assert (head.item_factors.numpy() != 0).any(1).tolist() == [True, False, True]


def test_the_head_is_rebuilt_from_its_config():
    head = RatingHead(2, 3, mean=3.5, factors=4, hidden=8, dropout=0.1)
    again = RatingHead.from_config(head.get_config())
    head(head_inputs()), again(head_inputs())
    again.set_weights(head.get_weights())
    np.testing.assert_allclose(head(head_inputs())[0], again(head_inputs())[0])


def test_errors_and_rules_are_those_of_a_plain_loop():
    found = rating_errors(np.array([3.0, 4.0, 5.0]), np.array([3.0, 2.0, 4.0]), seed=0)
    assert found["rating_rmse"]["value"] == pytest.approx(np.sqrt(5 / 3))
    assert found["rating_mae"]["value"] == pytest.approx(1.0)
    assert found["rating_rmse"]["low"] <= found["rating_rmse"]["value"] <= found["rating_rmse"]["high"]
    known = pd.DataFrame({"user": [0, 0, 1], "item": [0, 1, 0], "rating": [5.0, 1.0, 3.0]})
    held = pd.DataFrame({"user": [1, 2], "item": [1, 2]})
    rules = rating_rules(known, held, 3, 3, strength=1.0)
    np.testing.assert_allclose(rules["mean_rating"], [3.0, 3.0])
    of_item = {0: 2 / 3, 1: -2 / 2}
    of_user = (0 - of_item[0]) / 2
    np.testing.assert_allclose(rules["rating_biases"], [3 + of_item[1] + of_user, 3.0])


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Two kinds of movies and of users: each user watches both, and likes the movies of one kind."""
    rng = np.random.default_rng(0)
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data") / "movies"
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(USERS):
        for place, movie in enumerate(rng.permutation(MOVIES)[:20]):
            lines.append(f"{user},{movie},{5 if movie % 2 == user % 2 else 1},{900_000_000 + 100 * user + place}")
    (raw / "ratings.csv").write_text("\n".join(lines) + "\n")
    titles = [f"{movie},The {'Calm' if movie % 2 else 'Wild'} One ({1990 + movie}),Drama" for movie in range(MOVIES)]
    (raw / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]) + "\n")
    options = ["--split", "random", "--test-share", "0.2", "--val-share", "0.1"]
    assert prepare(["movielens", "--raw", str(raw), "--out", str(out), *options]) == 0
    return out


def test_a_random_split_is_predicted_from_all_that_is_left(movies):
    prepared = open_prepared(movies)
    events, protocol = prepared.events(), build_protocol(prepared, "test", min_rating=4.0, seen_filter=True)
    for row, user in enumerate(protocol.users):
        own = events[events["user"] == user]
        held, known = own[own["split"] == 2], own[own["split"] < 2]
        assert protocol.history[row].tolist() == known["item"].tolist()
        assert set(protocol.targets[row]) == set(held["item"][held["rating"] >= 4])
        assert set(protocol.excluded()[row]) == set(known["item"][known["rating"] >= 4])


def test_histories_hold_what_was_liked(movies):
    prepared = open_prepared(movies)
    options = {"seen_filter": True, "min_rating": 4.0, "cold_users": True}
    events, protocol = prepared.events(), build_protocol(prepared, "test", history_min_rating=4.0, **options)
    everything = build_protocol(prepared, "test", **options)
    np.testing.assert_array_equal(protocol.users, everything.users)
    np.testing.assert_array_equal(protocol.targets.items, everything.targets.items)
    for row, user in enumerate(protocol.users):
        own = events[(events["user"] == user) & (events["split"] < 2) & (events["rating"] >= 4)]
        assert protocol.read[row].tolist() == own["item"].tolist()
        assert protocol.history[row].tolist() == everything.history[row].tolist()
    assert protocol.describe()["history_min_rating"] == 4.0
    np.testing.assert_array_equal(protocol.warm, everything.warm)  # who is evaluated is no choice of the model's


def test_rules_neither_count_nor_read_what_was_not_liked(movies):
    prepared = open_prepared(movies)
    events, protocol = prepared.events(), build_protocol(prepared, "test", min_rating=4.0, seen_filter=True)
    assert len(protocol.known) == ((events["split"] < 2) & (events["rating"] >= 4)).sum()
    assert protocol.history.lengths.sum() > protocol.liked.lengths.sum()
    liked = replace(protocol, history=protocol.liked)
    for rule in (item_cosine, repurchase):
        np.testing.assert_array_equal(rule(protocol, 5), rule(liked, 5))
    np.testing.assert_array_equal(repurchase(protocol, 5), popularity(protocol, 5))  # all that counts was seen


@pytest.mark.long
def test_the_recipe_learns_what_each_user_likes(movies, tmp_path):
    options = [
        *("--model.item.dim", "16", "--model.query.length", "12", "--model.text.vocabulary_size", "100"),
        *("--training.batch_size", "16", "--training.epochs", "30", "--training.learning_rate", "0.01"),
        *("--training.evaluations", "2", "--training.precision", "float32"),
        *("--rating.penalty", "0.02"),  # the recipe's is made for more than twenty ratings a user
    ]
    assert train(["--recipe", "movielens", "--data", str(movies), "--out", str(tmp_path / "run"), *options]) == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["protocol"]["min_rating"] == 4.0
    assert found["metrics"]["rating_rmse"]["value"] < 1.0  # always saying the mean errs by 2
    assert found["baselines"]["mean_rating"]["rating_rmse"]["value"] > 1.9
    assert found["metrics"]["recall@10"]["value"] > found["baselines"]["popularity"]["recall@10"]["value"]


@pytest.fixture(scope="module")
def rated_run(movies, tmp_path_factory):
    """A run of two steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ["--training.steps", "2", "--training.evaluations", "1", "--training.precision", "float32"]
    assert train(["--recipe", "movielens", "--data", str(movies), "--out", str(out), *options]) == 0
    return out


def test_served_ratings_are_those_that_are_evaluated(rated_run):
    from tfrec.retrieval.loading import load_assembly
    from tfrec.retrieval.ranking import candidate_vectors, protocol_queries
    from tfrec.saved_model.towers import ServedTowers

    assembly = load_assembly(rated_run)
    bias = assembly.model.head.item_bias
    bias.assign_add(np.linspace(-9, 9, MOVIES).astype(np.float32))  # half of the ratings are beyond the scale
    events = assembly.prepared.events()
    held = events[events["split"] == 2]
    users, items = held["user"].to_numpy(), held["item"].to_numpy()
    vectors = candidate_vectors(assembly)
    judged = assembly.predict_ratings(
        users, items, "test", lambda protocol: protocol_queries(assembly, protocol, vectors)[0]
    )
    protocol = build_protocol(assembly.prepared, "test", cold_users=True, history_min_rating=4.0)
    queries = protocol_queries(assembly, protocol, vectors)[0][np.searchsorted(protocol.users, users)]
    rows = items[:, None].astype(np.int32)
    towers = ServedTowers(assembly)
    order = towers.rate(queries, users, rows, vectors)
    assert len(set(order.numpy()[:, 0])) > len(set(judged))  # what is ranked by has no ties at the ends
    served = towers.bounded_ratings(order).numpy()[:, 0]
    np.testing.assert_allclose(served, judged, rtol=1e-5)
    assert (served.min(), served.max()) == (1.0, 5.0)


def test_a_run_tells_servers_what_its_histories_hold(rated_run):
    from tfrec.retrieval.loading import load_assembly
    from tfrec.runs.run import load_run, user_table

    assert load_run(rated_run).history_min_rating == 4.0
    assembly = load_assembly(rated_run)
    events = assembly.prepared.events()
    liked = events[events["rating"] >= 4]
    users = user_table(assembly, most=USERS)
    for user, (history, days) in enumerate(zip(users.history, users.days_ago)):
        own = liked[liked["user"] == user]
        assert history[history >= 0].tolist() == own["item"].tolist()
        np.testing.assert_allclose(days[history >= 0], (events["time"].max() - own["time"]) / 86_400, rtol=1e-5)
    assert assembly.batches.in_history.tolist() == (assembly.ratings >= 4).tolist()
    unread = np.setdiff1d(np.arange(MOVIES), assembly.wanted.item)
    assert not assembly.model.vectors.history_ids.numpy()[unread].any()
    sales = liked["item"].value_counts().reindex(range(MOVIES), fill_value=0)
    np.testing.assert_allclose(load_run(rated_run).popularity.astype(int), sales)  # all within a week


def test_a_run_keeps_its_scale_beside_newer_ratings(movies, rated_run, tmp_path):
    from tfrec.config import load_config, save_config
    from tfrec.retrieval.loading import load_assembly

    scale = load_assembly(rated_run).model.head.scale.numpy()
    old = open_prepared(movies)
    with PreparedWriter(tmp_path / "newer", dataset="movielens") as writer:
        writer.items(old.items)
        writer.users(old.users)
        writer.events(old.events().assign(rating=lambda frame: frame["rating"] * 2))
    shutil.copytree(rated_run, tmp_path / "run")
    config = load_config(rated_run / "config.yaml")
    config.data = str(tmp_path / "newer")
    save_config(config, tmp_path / "run" / "config.yaml")
    kept = load_assembly(tmp_path / "run", other_events=True).model.head.scale.numpy()
    np.testing.assert_array_equal(kept, scale)
    assert scale[1:].tolist() == [1.0, 5.0]


def test_who_liked_nothing_is_shown_what_is_popular(rated_run):
    from tfrec.evaluation.baselines import popularity
    from tfrec.retrieval.loading import load_assembly
    from tfrec.retrieval.ranking import rank

    assembly = load_assembly(rated_run)
    protocol = build_protocol(assembly.prepared, "test", min_rating=4.0, history_min_rating=4.0)
    none = replace(protocol, read=protocol.read.where(protocol.read.rows != 2))
    lists, judged = rank(assembly, none, 5).rows, rank(assembly, protocol, 5).rows
    assert lists[2].tolist() == popularity(protocol, 5)[2].tolist()
    np.testing.assert_array_equal(np.delete(lists, 2, 0), np.delete(judged, 2, 0))
    # Nor is it what the customer has, where that is left out of all lists.
    seen = replace(none, seen_filter=True)
    filtered = rank(assembly, seen, 5)
    assert filtered.rows[2].tolist() == popularity(seen, 5)[2].tolist()
    assert not set(filtered.rows[2]) & set(seen.liked[2])
    assert (np.diff(filtered.scores[2]) <= 0).all()


@pytest.mark.long
def test_a_popularity_bias_goes_with_the_ranking_head(movies, tmp_path):
    options = ["--model.item.bias", "true", "--training.steps", "2", "--training.evaluations", "1"]
    assert train(["--recipe", "movielens", "--data", str(movies), "--out", str(tmp_path / "run"), *options]) == 0


def test_a_dataset_without_ratings_is_refused(tmp_path):
    (tmp_path / "walks.txt").write_text("".join(f"u{user} a b c d\n" for user in range(5)))
    assert prepare(["sequences", "--raw", str(tmp_path / "walks.txt"), "--out", str(tmp_path / "data")]) == 0
    with pytest.raises(ProtocolError, match="no ratings"):
        build_protocol(open_prepared(tmp_path / "data"), "test", min_rating=4.0)
    assert train(["--recipe", "movielens", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 2
