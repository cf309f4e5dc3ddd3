"""The trained towers in a published model: what of them is saved, and that they answer as in training."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import io
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.serving_fakes import make_run
from tests.serving_server import publish_exact
from tests.test_models import DIM, ITEMS, make_model
from tfrec.retrieval.assembly import modalities_read
from tfrec.retrieval.config import ModelConfig
from tfrec.runs.run import UserTable
from tfrec.saved_model.loading import load_model
from tfrec.saved_model.towers import ServedTowers

USERS = 3
NOTHING = {"modalities": frozenset(), "attributes": None, "user_vocabulary": None, "item_attributes": {}}


def towers_of(model) -> ServedTowers:
    """As `load_run` makes them, of items that are ids alone."""
    assets = SimpleNamespace(tokenizer=None, attributes=None, text=None, image=None)
    options = ModelConfig()
    options.image.enabled = False
    known = {"model": model, "assets": assets, "config": SimpleNamespace(model=options), "modalities": frozenset()}
    return ServedTowers(SimpleNamespace(**known))


def candidates(model) -> np.ndarray:
    return model.vectors.finish(model.all_vectors(), tf.range(ITEMS)).numpy()


def published(model, folder, **changes):
    """The exact model of an untrained one, loaded, and the names of the variables in it."""
    vectors = candidates(model)
    known = {"towers": towers_of(model), "query_kind": "history", "history_length": 8, **NOTHING, **changes}
    run = make_run(ITEMS, **({"users": None} | known))
    run.item_vectors = vectors
    path = publish_exact(run, folder)
    return load_model(path), dict(tf.train.list_variables(str(path / "variables" / "variables")))


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True},
        pytest.param({"normalize": False, "bias": True}, marks=pytest.mark.long),
        pytest.param({"tie": True}, marks=pytest.mark.long),
    ],
)
def test_histories_are_read_from_the_vectors_of_the_index(options, tmp_path):
    model = make_model(content=False, shortcut=True, **options)
    model.last_query(history_batch(), model.all_vectors())
    served, saved = published(model, tmp_path)
    batch = history_batch()
    expected = model.last_query(batch, model.all_vectors())
    ids = np.array([f"{row:03d}" for row in range(ITEMS)] + [""])[batch["history"].numpy()]
    days = np.cumsum(batch["gaps"].numpy()[:, ::-1], 1)[:, ::-1]
    answer = served("embed_query", history=ids.tolist(), days_ago=days.tolist())["embedding"]
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    tables = [name for name, shape in saved.items() if len(shape) == 2 and shape[0] == ITEMS]
    assert len(tables) == 1 + ("tie" not in options), tables  # the index's vectors, and the histories' own
    served.close()


def history_batch():
    history = np.array([[-1] * 6 + [3, 7], [1, 2, 3, 4, 5, 6, 7, 8]], np.int32)
    gaps = np.where(history >= 0, 2.0, 0.0).astype(np.float32)
    batch = {"history": history, "gaps": gaps, "user_fields": np.zeros((2, 0), np.int32)}
    return {name: tf.constant(value) for name, value in batch.items()}


def test_a_model_that_looks_customers_up_is_published_without_tables_of_histories(tmp_path):
    model = make_model(content=False, kind="user")
    fields = np.zeros((USERS, 0), np.int32)
    given = {"user": tf.range(USERS), "user_fields": tf.constant(fields)}
    expected = model.last_query(given, None).numpy() @ candidates(model).T
    users = UserTable(["u0", "u1", "u2"], fields, fields.astype(np.float32), fields)
    served, saved = published(model, tmp_path, query_kind="user", users=users)
    answer = served("recommend_user", user_id=["u2", "u0", "stranger"], k=4)
    best = np.argsort(-expected, axis=1)[:, :4]
    assert answer["item_id"].numpy().astype(str).tolist()[:2] == [
        [f"{row:03d}" for row in best[user]] for user in (2, 0)
    ]
    assert [shape for shape in saved.values() if len(shape) == 2 and shape[0] == ITEMS] == [[ITEMS, DIM]]
    served.close()


@pytest.mark.parametrize(
    ("deep", "shallow", "features", "read"),
    [
        (True, False, {}, {"photo", "text"}),
        (False, True, {}, {"text"}),  # a search by photo would have the same answer for all
        (False, True, {"image": None}, {"photo", "text"}),
        (False, False, {"image": None}, set()),
    ],
)
def test_items_are_searched_by_what_their_vectors_are_made_from(deep, shallow, features, read):
    options = ModelConfig()
    options.item.deep, options.item.shallow = deep, shallow
    assert modalities_read(options, SimpleNamespace(tokenizer=object(), attributes=None), features) == read


def test_photos_that_declare_too_much_together_are_refused_before_they_are_decoded(monkeypatch):
    stream = io.BytesIO()
    Image.new("1", (300, 200), 1).save(stream, "PNG")
    towers = SimpleNamespace(size=(8, 8))
    monkeypatch.setattr("tfrec.saved_model.towers.MOST_PIXELS", 150_000)
    assert ServedTowers.pixels(towers, tf.constant([stream.getvalue()] * 2))[0].shape == (2, 8, 8, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="declare more than 150,000 pixels together"):
        ServedTowers.pixels(towers, tf.constant([stream.getvalue()] * 3))


def test_of_a_text_what_no_token_is_left_for_is_not_split():
    read = []

    class Tokenizer:
        sequence_length, pad_id = 4, 0

        def __call__(self, texts):
            read.extend(texts.numpy())
            return tf.ones([len(texts), 4], tf.int32)

    ids = ServedTowers.tokens(SimpleNamespace(tokenizer=Tokenizer()), tf.constant(["word " * 1000, "", "one"]))
    np.testing.assert_array_equal(ids[:, 0], [1, 0, 1])
    assert [len(text) for text in read] == [256, 0, 3]
