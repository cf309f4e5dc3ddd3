"""The export command, and new items that are published without training."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipelines.prepared import PreparedWriter
from tests.serving_fakes import make_run
from tfrec import export as command
from tfrec.index.indexes import ExactIndex
from tfrec.publish import versions
from tfrec.runs import run as runs
from tfrec.runs.run import RunError
from tfrec.saved_model.model import ServingModel
from tfrec.saved_model.new_items import with_new_items

ITEMS = 30


@pytest.fixture
def new_data(tmp_path):
    """Two items that the run knows, and three that it does not: one with a photo, one with text, one with nothing."""
    photo = tf.io.encode_jpeg(tf.fill([16, 16, 3], tf.constant(200, tf.uint8))).numpy()
    frame = pd.DataFrame(
        {
            "item_id": ["004", "new1", "new2", "new3", "001"],
            "text": ["old", "", "red dress", "", "old"],
            "images": [[], ["p"], [], [], []],
            "attr.kind": [["shirt"], ["dress"], ["shirt", "dress"], [], []],
        }
    )
    with PreparedWriter(tmp_path / "new", dataset="shop") as writer:
        writer.images.add("p", photo)
        writer.items(frame)
        writer.users(pd.DataFrame({"user_id": []}, dtype=str))
        empty = {"user": np.int32, "item": np.int32, "time": np.int64, "split": np.int8}
        writer.events([pd.DataFrame({name: np.zeros(0, kind) for name, kind in empty.items()})])
    return tmp_path / "new", photo


def test_only_new_items_are_encoded_and_they_come_last(new_data):
    folder, photo = new_data
    run = make_run(ITEMS)
    more = with_new_items(run, folder)
    assert more.item_ids == [*run.item_ids, "new1", "new2", "new3"]
    np.testing.assert_array_equal(more.item_vectors[:ITEMS], run.item_vectors)
    pixels, has_photo = run.towers.pixels(tf.constant([photo, "", ""]))
    tokens = run.towers.tokens(tf.constant(["", "red dress", ""]))
    attributes = tf.constant([[[2, 0], [0, 0]], [[3, 2], [0, 0]], [[0, 0], [0, 0]]])
    expected = run.towers.item(pixels, has_photo, tokens, attributes)
    np.testing.assert_allclose(more.item_vectors[ITEMS:], expected, rtol=1e-5, atol=1e-5)
    assert more.item_attributes["kind"][ITEMS:] == [["dress"], ["shirt", "dress"], []]
    assert more.item_attributes["colour"][ITEMS:] == [[], [], []]
    assert more.popularity[ITEMS:].tolist() == [0, 0, 0]


def test_new_items_are_found_but_not_read_in_histories(new_data):
    more = with_new_items(make_run(ITEMS), new_data[0])
    answer = ServingModel(more, ExactIndex(more.item_vectors)).signatures()
    allowed = tf.constant([["new1", "new2"]])
    found = answer["recommend"](tf.constant([["001"]]), allow_items=allowed, k=tf.constant(2))["item_id"]
    assert set(found.numpy()[0].tolist()) == {b"new1", b"new2"}
    with_new, without = (answer["embed_query"](tf.constant([row]))["embedding"] for row in (["001", "new1"], ["001"]))
    np.testing.assert_array_equal(with_new, without)
    assert answer["similar"](tf.constant(["new2"]), k=tf.constant(3))["item_id"].shape == (1, 3)


def test_items_that_are_ids_alone_cannot_be_encoded(new_data):
    with pytest.raises(RunError, match="new ones need training"):
        with_new_items(make_run(ITEMS, modalities=frozenset()), new_data[0])


@pytest.mark.long
def test_the_command_publishes_pairs_and_keeps_the_newest(tmp_path, monkeypatch, new_data, capsys):
    run, without = make_run(ITEMS), make_run(ITEMS, users=None)
    monkeypatch.setattr(runs, "load_run", lambda folder, max_users: run if max_users else without)
    (tmp_path / "run").mkdir()
    root = tmp_path / "models"
    arguments = ["--run", str(tmp_path / "run"), "--name", "shop", "--root", str(root)]
    assert command.main(arguments) == 0
    assert command.main([*arguments, "--items", str(new_data[0]), "--max-users", "0", "--keep", "1"]) == 0
    assert versions(root / "shop") == versions(root / "shop_scann") == [2]
    assert "no recommend_user: the run has more customers than --max-users 0" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--keep", "--max-k", "--leaves"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_numbers_that_cannot_be_are_told_before_anything_is_published(tmp_path, capsys, option, number):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--run", str(tmp_path), "--name", "shop", "--root", str(tmp_path), option, number])
    assert f"{option}: {number!r} is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("published", [0, 1, 2])
def test_an_export_that_is_stopped_says_what_was_published(tmp_path, monkeypatch, capsys, published):
    folders = [tmp_path / "models" / name for name in ("shop", "shop_scann")]

    def stopped(*_, **__):
        for folder in folders[:published]:
            (folder / "3").mkdir()
        raise KeyboardInterrupt

    for folder in folders:
        (folder / "2").mkdir(parents=True)
    monkeypatch.setattr(runs, "load_run", lambda folder, **_: make_run(ITEMS))
    monkeypatch.setattr(command, "export_run", stopped)
    assert command.main(["--run", str(tmp_path), "--name", "shop", "--root", str(tmp_path / "models")]) == 130
    named = " and ".join(str(folder / "3") for folder in folders[:published])
    assert capsys.readouterr().err == f"stopped; published: {named or 'nothing'}\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--run": "/nowhere"}, "not a run's folder"),
        ({"--name": "../shop"}, "must be letters"),
        ({"--items": "/nowhere"}, "not a folder"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.setattr(runs, "load_run", lambda folder, **_: make_run(ITEMS))
    options = {"--run": str(tmp_path), "--name": "shop", "--root": str(tmp_path / "models"), **change}
    assert command.main([word for pair in options.items() for word in pair]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "models").exists()
