"""A run and its dataset: it is judged on the split that it was trained on, and serves newer purchases."""

import json
import logging
import shutil

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest

from pipelines.__main__ import main as prepare
from pipelines.prepared import open_prepared
from tfrec.evaluate import main as evaluate
from tfrec.runs.run import load_run
from tfrec.train import main as train

USERS, MOVIES = 30, 20
SMALL = [
    *(
        "--model.text.enabled",
        "false",
        "--model.item.dim",
        "8",
        "--model.query.length",
        "5",
        "--model.query.heads",
        "1",
    ),
    *("--model.query.followers", "5.0", "--training.steps", "2", "--training.batch_size", "8"),
    *("--training.evaluations", "1", "--training.precision", "float32", "--evaluation.k", "[5]"),
    *("--training.monitor", "ndcg@5"),
]


def prepare_split(raw, out, seed):
    options = ["--split", "random", "--test-share", "0.2", "--seed", str(seed), "--overwrite"]
    assert prepare(["movielens", "--raw", str(raw), "--out", str(out), *options]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Raw ratings, their dataset split by seed 0, and the options of a run that was trained on it."""
    root, rng = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)
    (root / "raw").mkdir()
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(USERS):
        lines += [f"{user},{movie},{rng.integers(3, 6)},{10**9 + 100 * user}" for movie in rng.permutation(MOVIES)[:12]]
    (root / "raw" / "ratings.csv").write_text("\n".join(lines) + "\n")
    (root / "raw" / "movies.csv").write_text("movieId,title,genres\n")
    prepare_split(root / "raw", root / "data", 0)
    words = ["--recipe", "movielens", "--data", str(root / "data"), "--out", str(root / "run"), *SMALL]
    assert train(words) == 0
    return root, words


@pytest.fixture
def split_anew(trained):
    """The run after its dataset was made again with another split."""
    root, words = trained
    prepare_split(root / "raw", root / "data", 1)
    yield root, words
    prepare_split(root / "raw", root / "data", 0)


def test_a_run_is_not_judged_on_another_split(split_anew, capsys):
    root, words = split_anew
    assert evaluate(["--run", str(root / "run")]) == 2
    said = capsys.readouterr().err
    assert '"seed": 0' in said  # the run's
    assert '"seed": 1' in said  # the dataset's
    assert "Prepare the data again" in said
    assert train([*words, "--resume"]) == 2


def test_the_same_split_made_again_is_the_same(trained):
    root, _ = trained
    prepare_split(root / "raw", root / "data", 0)
    assert evaluate(["--run", str(root / "run")]) == 0


def test_newer_purchases_are_served_and_told(split_anew, caplog):
    root, _ = split_anew
    with caplog.at_level(logging.WARNING, "tfrec"):
        load_run(root / "run")
    assert "histories and what follows an item are taken from them" in caplog.text


def test_runs_without_a_record_of_their_events_are_taken_as_they_are(split_anew, tmp_path, caplog):
    root, _ = split_anew
    shutil.copytree(root / "run", tmp_path / "run")
    file = tmp_path / "run" / "dataset.json"
    digests = json.loads(file.read_text())
    file.write_text(json.dumps({name: digests[name] for name in ("items", "users")}))
    assert evaluate(["--run", str(tmp_path / "run")]) == 0
    load_run(tmp_path / "run")
    assert "taken from them" not in caplog.text


def test_a_run_is_not_judged_on_other_content_of_its_items(trained, capsys, caplog):
    """Its bank holds what the towers made of the content, and words and attributes are read anew."""
    root, words = trained
    titles = [f"{movie},Film {movie} (1999),Drama" for movie in open_prepared(root / "data").items["item_id"]]
    raw = root / "raw" / "movies.csv"
    before = raw.read_text()
    raw.write_text("\n".join([before.strip(), *titles]) + "\n")
    prepare_split(root / "raw", root / "data", 0)
    try:
        assert evaluate(["--run", str(root / "run")]) == 2
        assert "texts, attributes or photos of its items are not those" in capsys.readouterr().err
        assert train([*words, "--resume"]) == 2
        with caplog.at_level(logging.WARNING, "tfrec"):
            load_run(root / "run")
        assert "What its towers made of them stays" in caplog.text
    finally:
        raw.write_text(before)
        prepare_split(root / "raw", root / "data", 0)
