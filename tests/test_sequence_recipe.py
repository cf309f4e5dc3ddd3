"""The sequence recipes from text lines to metrics: they learn an order that popularity cannot know."""

import json
import shutil

import numpy as np
import pytest

from pipelines.__main__ import main as prepare
from tfrec.train import main as train

ITEMS = 24
SMALL = [
    *("--model.item.dim", "16", "--model.query.layers", "1", "--model.query.length", "8", "--model.query.dropout", "0"),
    *("--training.batch_size", "32", "--training.learning_rate", "0.02", "--training.evaluations", "2"),
    *(
        "--training.precision",
        "float32",
        "--evaluation.k",
        "[5]",
        "--training.monitor",
        "ndcg@5",
        "--training.patience",
        "0",
    ),
]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Users walk round a circle of items; an item's attribute names its place on the circle."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("raw")
    starts, lengths = rng.integers(0, ITEMS, 120), rng.integers(5, 9, 120)
    walks = [(start + np.arange(length)) % ITEMS for start, length in zip(starts, lengths)]
    text = "".join(f"u{user} {' '.join(f'i{item}' for item in walk)}\n" for user, walk in enumerate(walks))
    (folder / "ring.txt").write_text(text)
    places = {f"i{item}": [f"place {item}"] for item in range(ITEMS)}
    (folder / "ring_item2attributes.json").write_text(json.dumps(places))
    return folder / "ring.txt"


def learn(lines, folder, *options, recipe="sequence-small", prepare_options=()):
    data, run = folder / "data", folder / "run"
    shutil.rmtree(data, ignore_errors=True)
    assert prepare(["sequences", "--raw", str(lines), "--out", str(data), *prepare_options]) == 0
    assert train(["--recipe", recipe, "--data", str(data), "--out", str(run), *SMALL, *options]) == 0
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("options", [["--task.candidates", "catalogue"], ["--task.candidates", "in_batch"]])
def test_ids_alone_learn_the_order(lines, tmp_path, options):
    found = learn(lines, tmp_path, "--training.epochs", "15", *options, prepare_options=["--no-attributes"])
    assert found["protocol"]["seen_filter"]
    assert found["metrics"]["hit_rate@5"]["value"] > 0.9
    assert found["metrics"]["ndcg@5"]["value"] > 2 * found["baselines"]["popularity"]["ndcg@5"]["value"]


def test_attributes_stand_in_for_ids(lines, tmp_path):
    options = ["--model.item.id_embedding", "false", "--model.attributes.min_count", "1"]
    found = learn(lines, tmp_path, "--training.epochs", "15", *options)
    assert found["metrics"]["hit_rate@5"]["value"] > 0.9


@pytest.mark.long
def test_the_full_recipe_takes_a_step(lines, tmp_path):
    sizes = ["--model.query.layers", "2", "--model.query.heads", "2", "--training.batch_size", "16"]
    found = learn(lines, tmp_path, *sizes, "--training.steps", "2", recipe="sequence")
    assert 0 <= found["metrics"]["hit_rate@5"]["value"] <= 1
