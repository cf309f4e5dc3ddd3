"""Every signature against NumPy, on the exported and reloaded models; and what clients may send."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.serving_fakes import make_run
from tests.serving_server import large_shop, publish_exact
from tfrec.evaluation.scores import LOWEST
from tfrec.export import export_run
from tfrec.index.indexes import ExactIndex, RetrievalIndexError
from tfrec.publish import PublishError
from tfrec.saved_model.loading import load_model
from tfrec.saved_model.model import ServingModel
from tfrec.saved_model.ops import ForeignOpError, check_ops, used_ops
from tfrec.serve.servable import Servable

ITEMS = 1200
ANSWERS = {"recommend", "recommend_user", "similar", "search_text", "search_photo"}


@pytest.fixture(scope="module")
def run():
    return make_run(ITEMS)


@pytest.fixture(scope="module")
def folders(shared):
    models = shared("large-shop", large_shop)
    return models / "shop" / "1", models / "shop_scann" / "1"


@pytest.fixture(scope="module", params=["exact", "scann"])
def model(request, folders):
    loaded = load_model(folders[request.param == "scann"])
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def exact(folders):
    return load_model(folders[0])


def ids_of(answer) -> list[list[str]]:
    return [[item.decode() for item in row] for row in answer["item_id"].numpy()]


def mean_of(run, *items: str) -> np.ndarray:
    return run.item_vectors[[run.item_ids.index(item) for item in items]].mean(0)


def best(run, query: np.ndarray, k: int, allowed=None, excluded=()) -> list[str]:
    rows = np.argsort(-(run.item_vectors @ query), kind="stable")
    names = [run.item_ids[row] for row in rows if allowed is None or allowed(row)]
    return [name for name in names if name not in excluded][:k]


def popular(run, k: int, excluded=()) -> list[str]:
    return [name for name in reversed(run.item_ids) if name not in excluded][:k]


def photo_bytes(colour, kind="JPEG", size=(20, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


# -- answers -------------------------------------------------------------------------------------------------


def test_history_answers_are_the_oracles(run, exact):
    answer = exact("recommend", history=[["", "001", "017"], ["005", "900", "901"]], k=20)
    assert ids_of(answer) == [
        best(run, mean_of(run, "001", "017"), 20),
        best(run, mean_of(run, "005", "900", "901"), 20),
    ]
    assert (np.diff(answer["score"], axis=1) <= 0).all()


def test_scann_answers_are_nearly_the_oracles(run, folders):
    model = load_model(folders[1])
    assert model.manifest["index"]["kind"] == "scann"
    assert model.manifest["index"]["recall"] >= 0.98
    histories = np.asarray(run.item_ids, object)[np.random.default_rng(0).integers(0, ITEMS, (100, 2))]
    found = ids_of(model("recommend", history=histories))
    model.close()
    expected = [best(run, mean_of(run, *items), 12) for items in histories]
    assert np.mean([len(set(a) & set(b)) / 12 for a, b in zip(found, expected)]) >= 0.95


def test_padding_unknown_ids_and_long_histories_do_not_matter(exact):
    """The query tower reads the last four known items, wherever the padding is."""
    plain = exact("recommend", history=[["001", "002", "003", "004"]])
    for history in (
        ["", "", "001", "002", "003", "004"],
        ["001", "", "002", "no such item", "003", "../../x", "004", "", ""],
        ["777", "778", "001", "002", "003", "004"],
    ):
        np.testing.assert_array_equal(exact("recommend", history=[history])["item_id"], plain["item_id"])


def test_days_belong_to_their_items(run, exact):
    answer = exact("recommend", history=[["001", "", "x", "002"]], days_ago=[[3.0, 7.0, 9.0, 0.0]], k=5)
    one, two = (mean_of(run, item) for item in ("001", "002"))
    assert ids_of(answer) == [best(run, (one / 4 + two) / 1.25, 5)]


@pytest.mark.parametrize("history", [[[""]], [["", ""]], [["no such item"]], [[]]])
def test_customers_without_a_known_history_get_popular_items(run, model, history):
    history = tf.constant(history, tf.string, [1, len(history[0])])
    days = np.zeros(history.shape, np.float32)
    answer = model("recommend", history=history, days_ago=days, exclude=[["1198"]])
    assert ids_of(answer) == [popular(run, 12, excluded=["1198"])]
    assert answer["score"][0, 0] == ITEMS - 1


def test_known_users_and_unknown_ones(run, exact):
    answer = exact("recommend_user", user_id=["u3", "stranger"], k=7)
    rows = run.users.history[3]
    known = [run.item_ids[row] for row in rows[rows >= 0]]
    query = mean_of(run, *known) + 0.01
    assert ids_of(answer) == [best(run, query, 7), popular(run, 7)]


def test_similar_items_leave_the_item_itself_out(run, exact):
    answer = ids_of(exact("similar", item_id=["010", "no such item"], k=6, exclude=[["011"], [""]]))
    assert answer[0] == best(run, mean_of(run, "010"), 6, excluded=["010", "011"])
    assert answer[1] == popular(run, 6)


def test_text_and_photo_are_read_as_in_training(run, exact):
    texts = ["red dress", ""]
    queries = run.towers.text_query(run.towers.tokens(tf.constant(texts))).numpy()
    assert ids_of(exact("search_text", text=texts, k=5)) == [best(run, queries[0], 5), popular(run, 5)]
    photo = photo_bytes("red")
    pixels, _ = run.towers.pixels(tf.constant([photo]))
    query = run.towers.photo_query(pixels).numpy()[0]
    assert ids_of(exact("search_photo", photo=[photo], k=5)) == [best(run, query, 5)]


def test_embeddings(run, exact):
    found = exact("embed_query", history=[["001", "002"]])["embedding"]
    np.testing.assert_allclose(found[0], mean_of(run, "001", "002"), rtol=1e-5)
    attributes = [["colour=blue", "kind=dress", "colour=green", "brand=other"]]
    found = exact("embed_item", photo=[photo_bytes("red")], text=["shirt"], attributes=attributes)["embedding"]
    frame_ids = [[2, 0], [3, 1]]  # kind: dress; colour: blue, and green that the vocabulary does not know
    pixels, has_photo = run.towers.pixels(tf.constant([photo_bytes("red")]))
    tokens = run.towers.tokens(tf.constant(["shirt"]))
    expected = run.towers.item(pixels, has_photo, tokens, tf.constant([frame_ids]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert exact("embed_item", text=["a", "b", "c"])["embedding"].shape == (3, 16)


# -- k, exclusions, filters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 12, 100])
def test_exclusions_do_not_shorten_the_answer(model, k):
    first = ids_of(model("recommend", history=[["001", "002"]], k=k))[0]
    answer = ids_of(model("recommend", history=[["001", "002"]], k=k, exclude=[[*first, *first, "no such item"]]))[0]
    assert len(answer) == k
    assert "" not in answer
    assert not set(answer) & set(first)


def test_rows_of_a_batch_have_their_own_k_and_exclusions(run, exact):
    answer = exact("recommend", history=[["001"], ["001"], ["002"]], k=[2, 3, 1], exclude=[["001"], [""], ["002"]])
    assert answer["item_id"].shape == (3, 3)
    one, two = mean_of(run, "001"), mean_of(run, "002")
    assert ids_of(answer) == [
        [*best(run, one, 2, excluded=["001"]), ""],
        best(run, one, 3),
        [*best(run, two, 1, excluded=["002"]), "", ""],
    ]


def test_filters_are_and_across_fields_and_or_within_one(run, model):
    def allowed(row):
        kinds, colours = run.item_attributes["kind"][row], run.item_attributes["colour"][row]
        return "dress" in kinds and bool({"bright", "red"} & set(colours))

    terms = [["kind=dress", "", "colour=red", "colour=bright"]]
    answer = model("recommend", history=[["001", "002"], ["", ""]], allow=terms, exclude=[["003"], [""]])
    expected = best(run, mean_of(run, "001", "002"), 12, allowed, excluded=["003"])
    rows = [row for row in reversed(range(ITEMS)) if allowed(row)]
    assert ids_of(answer) == [expected, [run.item_ids[row] for row in rows[:12]]]


def test_a_value_named_again_allows_no_more(run, exact):
    once, often = (exact("recommend", history=[["001"]], allow=[["kind=dress"] * times], k=5) for times in (1, 3000))
    assert ids_of(once) == ids_of(often)


def test_each_row_has_its_own_filter(run, exact):
    answer = exact("recommend", history=[["001"]] * 3, allow=[["kind=dress"], ["kind=shirt"], [""]], k=4)
    query = mean_of(run, "001")
    assert ids_of(answer) == [
        best(run, query, 4, lambda row: row % 2 == 1),
        best(run, query, 4, lambda row: row % 2 == 0),
        best(run, query, 4),
    ]


def test_a_list_of_items_limits_the_answer(run, model):
    stock = ["007", "003", "no such item", "001", ""]
    answer = model("recommend", history=[["001"]], allow_items=[stock], allow=[["kind=dress"]], k=5)
    expected = best(run, mean_of(run, "001"), 5, lambda row: run.item_ids[row] in stock)
    assert ids_of(answer) == [[*expected, "", ""]]
    assert (answer["score"][0, 3:] == LOWEST).numpy().all()


@pytest.mark.parametrize("limits", [{"allow_items": [["nothing"]]}, {"allow": [["colour=pink"]]}])
def test_a_filter_that_nothing_passes_leaves_a_blank_answer(model, limits):
    answer = model("recommend", history=[["001"], [""]], **limits, k=3)
    assert ids_of(answer) == [["", "", ""]] * 2


def test_everything_excluded_leaves_a_blank_answer(run, model):
    answer = model("recommend", history=[["001"], [""]], exclude=[run.item_ids], k=3)
    assert ids_of(answer) == [["", "", ""]] * 2


def test_a_small_catalogue_pads_what_it_cannot_fill():
    small = make_run(5)
    model = ServingModel(small, ExactIndex(small.item_vectors)).signatures()["recommend"]
    answer = model(tf.constant([["001"], [""]]), exclude=tf.constant([["002"]]))
    rows = ids_of(answer)
    assert [len(set(row) - {""}) for row in rows] == [4, 4]
    assert [row[4:] for row in rows] == [[""] * 8] * 2


@pytest.mark.parametrize("k", [0, -1, 101, 1_000_000_000])
def test_k_out_of_bounds_is_an_invalid_argument(model, k):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"k must be 1 to 100, not.*{k}"):
        model("recommend", history=[["001"]], k=k)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"allow": [["price=3"]]}, "allow takes terms field=value with a field of"),
        ({"allow": [["dress"]]}, "allow takes terms field=value"),
        ({"allow": [["colour"]]}, "allow takes terms field=value"),
        ({"days_ago": [[1.0, 2.0]]}, "Unable to broadcast"),
        ({"exclude": [["a"], ["b"], ["c"]]}, "Unable to broadcast"),
    ],
)
def test_what_a_model_refuses_is_an_invalid_argument(model, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model("recommend", history=[["001"]], **inputs)


@pytest.mark.parametrize("photo", [b"", b"<html>", b"\x00" * 100])
def test_a_photo_that_is_none_is_an_invalid_argument(model, photo):
    with pytest.raises(tf.errors.InvalidArgumentError, match="photo must be a readable JPEG or PNG"):
        model("search_photo", photo=[photo_bytes("red"), photo])


def test_an_item_whose_photo_is_none_is_told_by_its_row(model):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)photo must be a readable JPEG or PNG.*\[1\]"):
        model("embed_item", photo=[photo_bytes("red"), b"<html>", b""])


def test_an_input_that_is_missing_is_named(model):
    with pytest.raises(KeyError, match=r"'recommend' needs the inputs \['history'\]"):
        model("recommend", k=3)


def test_rows_are_recommended_among_all_items_and_for_one_day_alike(model):
    query = {
        "history": [[1, 17], [-1, 3]],
        "user": [-1, -1],
        "user_fields": [[0], [0]],
        "exclude": [[-1], [-1]],
        "k": 3,
    }
    days = [[4.0], [4.0]]
    plain = model("recommend_rows", days_ago=np.repeat(days, 2, 1), **query)
    for found in (
        model("recommend_rows", days_ago=days, **query),
        model("recommend_rows_among", days_ago=days, **query),
        model("recommend_rows_among", days_ago=days, among=[[-1]], **query),
    ):
        np.testing.assert_array_equal(found["item_row"], plain["item_row"])


def test_empty_batches_answer_with_empty_batches(model):
    strings, rows = np.zeros(0, object), np.zeros((0, 3), object)
    queries = {
        "recommend": {"history": rows},
        "recommend_user": {"user_id": strings},
        "similar": {"item_id": strings},
        "search_text": {"text": strings},
        "search_photo": {"photo": strings},
    }
    assert set(queries) == ANSWERS
    for signature, query in queries.items():
        for limits in ({}, {"allow": [["kind=dress"]]}):
            answer = model(signature, **query, **limits, k=5)
            assert answer["item_id"].shape == answer["score"].shape == (0, 5)


@pytest.mark.parametrize("given", [{"photo": 0}, {"text": 0}, {"photo": 0, "text": 0, "attributes": 0}])
def test_no_items_have_no_embeddings(exact, given):
    shapes = {"photo": (0,), "text": (0,), "attributes": (0, 1)}
    found = exact("embed_item", **{name: np.zeros(shapes[name], object) for name in given})
    assert found["embedding"].shape == (0, exact("embed_item", text=["a"])["embedding"].shape[1])


def test_a_filter_concerns_its_own_row_alone(model):
    """A server joins requests: whoever shares a batch with one that has a filter is answered as without it."""
    rows = {
        "history": [
            ["001"],
            ["002"],
            [
                "",
            ],
            ["003"],
            ["004"],
        ],
        "allow": [[""], ["kind=dress"], [""], [""], ["kind=shirt"]],
        "allow_items": [["", ""], ["", ""], ["", ""], ["007", "009"], ["", ""]],
        "exclude": [["001"], [""], [""], [""], ["004"]],
    }
    together = model("recommend", **rows, k=6)
    for row in range(5):
        alone = model("recommend", **{name: values[row : row + 1] for name, values in rows.items()}, k=6)
        assert ids_of(together)[row] == ids_of(alone)[0]
        np.testing.assert_allclose(together["score"][row], alone["score"][0], rtol=1e-5)


def test_the_rest_of_a_batch_with_a_filter_is_searched_by_the_index(folders):
    approximate = load_model(folders[1])
    histories = [[f"{row:03}"] for row in range(1, 41)]
    free = approximate("recommend", history=histories, allow=[[""]] * 40, k=50)
    mixed = approximate("recommend", history=histories, allow=[["kind=dress"], *[[""]] * 39], k=50)
    assert ids_of(free)[1:] == ids_of(mixed)[1:]
    exactly = load_model(folders[0])("recommend", history=histories, k=50)
    assert ids_of(free)[1:] != ids_of(exactly)[1:]  # else nothing would be seen here


def test_a_query_that_is_not_a_number_gets_popular_items(run, model):
    """ScaNN would answer it with item 0, k times."""
    answer = model("recommend", history=[["001"], ["002"]], days_ago=[[np.nan], [0.0]], k=4)
    assert ids_of(answer)[0] == popular(run, 4)
    assert ids_of(answer)[1] != popular(run, 4)


def test_ids_with_odd_characters_are_just_unknown(run, model):
    history = [["../../x", "/etc/passwd", "a\0b", "=HYPERLINK(1)", "\ud55c\uae00", "x" * 10_000]]
    assert ids_of(model("recommend", history=history)) == [popular(run, 12)]
    assert ids_of(model("recommend", history=np.array([[b"\xff\xfe"]], object))) == [popular(run, 12)]


# -- the saved models ----------------------------------------------------------------------------------------


def test_signatures_say_their_names_and_defaults(folders):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((folders[0] / "saved_model.pb").read_bytes())
    signatures = saved.meta_graphs[0].signature_def
    assert ANSWERS | {"serving_default", "embed_query", "embed_item", "recommend_rows"} <= set(signatures)
    for name in ANSWERS:
        assert set(signatures[name].outputs) == {"item_id", "score"}
        assert {"k", "exclude", "allow", "allow_items"} <= set(signatures[name].defaults)
        assert set(signatures[name].inputs) - set(signatures[name].defaults) == {
            {
                "recommend_user": "user_id",
                "similar": "item_id",
                "search_text": "text",
                "search_photo": "photo",
            }.get(name, "history")
        }
    assert tf.make_ndarray(signatures["recommend"].defaults["k"]).tolist() == [12]


def test_models_hold_no_op_that_their_server_lacks(folders):
    assert check_ops(folders[0]) == {"scann": False, "tensorflow_text": False}
    assert check_ops(folders[1], scann=True)["scann"]
    with pytest.raises(ForeignOpError, match=r"Scann>ScannSearchBatched"):
        check_ops(folders[1])


def test_a_python_function_in_the_towers_fails_the_export(tmp_path):
    run = make_run(30)
    run.towers.text_query = lambda tokens: tf.py_function(lambda x: x, [tf.zeros([1, 16])], tf.float32)
    with pytest.raises(ForeignOpError, match="EagerPyFunc"):
        export_run(run, "shop", tmp_path, say=lambda text: None)
    assert list((tmp_path / "shop").iterdir()) == []


def test_items_among_given_ones_by_row_or_for_all(run, model):
    history = np.array([[5, 9], [7, 7]], np.int32)
    query = {"history": history, "days_ago": np.zeros((2, 2), np.float32), "user": np.full(2, -1, np.int32)}
    query |= {"user_fields": np.zeros((2, 1), np.int32), "exclude": np.array([[3], [-1]], np.int32), "k": np.array([4])}
    lists = [np.arange(0, ITEMS, 2, dtype=np.int32), np.array([3, 8, 3, 11], np.int32)]
    told = [np.full((1, len(lists[0])), -1, np.int32) for _ in lists]
    for row, items in zip(told, lists):
        row[0, : len(items)] = items
    for_all = [model("recommend_rows_among", **query, among=items[None]) for items in lists]
    by_row = model("recommend_rows_among", **query, among=np.concatenate(told))
    for place, items in enumerate(lists):
        scores = run.item_vectors @ mean_of(run, *(run.item_ids[row] for row in history[place]))
        kept = [row for row in np.argsort(-scores, kind="stable") if row in items and (place or row != 3)][:4]
        kept += [-1] * (4 - len(kept))
        assert by_row["item_row"][place].numpy().tolist() == kept
        assert for_all[place]["item_row"][place].numpy().tolist() == kept


def test_a_list_of_nothing_allows_all(run, model):
    query = {"history": np.array([[5, 9]], np.int32), "days_ago": np.zeros((1, 2), np.float32)}
    query |= {"user": np.full(1, -1, np.int32), "user_fields": np.zeros((1, 1), np.int32)}
    query |= {"exclude": np.full((1, 1), -1, np.int32), "k": np.array([4])}
    expected = best(run, mean_of(run, "005", "009"), 4)
    rows = model("recommend_rows_among", **query, among=np.array([[-1, -1]], np.int32))["item_row"].numpy()[0]
    assert [run.item_ids[row] for row in rows] == expected
    nobody = {name: x if name == "k" else x[:0] for name, x in query.items()}
    for among in (np.zeros((0, 3), np.int32), np.array([[4, 7]], np.int32)):
        assert model("recommend_rows_among", **nobody, among=among)["item_row"].shape == (0, 4)


def test_warmup_requests_are_answered_by_the_model(folders):
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    for folder in folders:
        model = load_model(folder)
        records = tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests"))
        names = []
        for record in records.as_numpy_iterator():
            request = PredictionLog.FromString(record).predict_log.request
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            outputs = model(request.model_spec.signature_name, **inputs)
            assert all(bool(tf.reduce_all(tf.math.is_finite(v))) for v in outputs.values() if v.dtype == tf.float32)
            names.append(request.model_spec.signature_name)
        model.close()
        assert set(names) == set(model.manifest["signatures"])
        assert model.manifest["warmup_requests"] == len(names)


def test_a_version_with_long_histories_is_served(tmp_path):
    run = make_run(300, history_length=200, modalities=frozenset(), attributes=None, users=None)
    servable = Servable("shop", 1, publish_exact(run, tmp_path))  # it answers the warm-up, as TensorFlow Serving does
    assert "explain_rows" in servable.signatures
    servable.retire()


FRESH = """
import importlib.util, json, sys
import tensorflow as tf
if sys.argv[2] == "scann":
    package = importlib.util.find_spec("scann").submodule_search_locations[0]
    tf.load_op_library(package + "/scann_ops/cc/_scann_ops.so")
model = tf.saved_model.load(sys.argv[1])
none = tf.constant([[""]])
answer = model.signatures["recommend"](history=tf.constant([["001", "002"]]), days_ago=tf.zeros([1, 2]),
    k=tf.constant(12), exclude=none, allow=none, allow_items=none)
assert "tfrec" not in sys.modules and "scann" not in sys.modules
print(json.dumps([item.decode() for item in answer["item_id"][0].numpy()]))
"""


def test_a_model_that_answers_few_items_is_served_and_asked_for_no_more_by_default(tmp_path):
    run = make_run(60, modalities=frozenset(), attributes=None)
    path = publish_exact(run, tmp_path, max_k=5)
    loaded = load_model(path)
    for signature, query in (("recommend", {"history": [["001"]]}), ("similar", {"item_id": ["001"]})):
        assert loaded(signature, **query)["item_id"].shape == (1, 5)
    loaded.close()
    servable = Servable("shop", 1, path)  # answers the version's own warm-up requests
    given, *_ = servable.signatures["recommend"].complete({"history": np.array([["001"]], object)})
    assert servable.run("recommend", given)["item_id"].shape == (1, 5)
    servable.retire()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "scann"])
@pytest.mark.long
def test_models_load_in_a_process_with_nothing_but_tensorflow(folders, kind):
    folder = folders[kind == "scann"]
    result = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder), kind],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    model = load_model(folder)
    assert json.loads(result.stdout) == ids_of(model("recommend", history=[["001", "002"]]))[0]
    model.close()


@pytest.mark.long
def test_small_catalogues_are_exact_in_both_models_with_a_note(tmp_path, run):
    said = []
    small = make_run(60, customers=0)
    small.users = None
    folders = export_run(small, "small", tmp_path, say=said.append)
    model = load_model(folders[1])
    assert model.manifest["index"]["kind"] == "exact"
    assert "too few for ScaNN" in model.manifest["index"]["note"]
    assert any("too few for ScaNN" in line for line in said)
    assert "recommend_user" not in model.manifest["signatures"]
    assert not used_ops(folders[1]) & {"Scann>ScannSearchBatched"}


def test_broken_item_vectors_fail_the_export_by_name(tmp_path):
    run = make_run(30)
    run.item_vectors[[4, 9], 0] = np.nan
    with pytest.raises(RetrievalIndexError, match=r"items 004, 009"):
        export_run(run, "shop", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_models_that_know_less_offer_less():
    run = make_run(30, modalities=frozenset(), attributes=None, item_attributes={}, users=None)
    signatures = ServingModel(run, ExactIndex(run.item_vectors)).signatures()
    common = {"serving_default", "recommend", "recommend_rows", "recommend_rows_among", "explain_rows"}
    assert set(signatures) == common | {"similar", "embed_query"}
    answer = signatures["recommend"](tf.constant([["001"]]), k=tf.constant(3))
    assert ids_of(answer) == [best(run, mean_of(run, "001"), 3)]


def test_queries_by_customer_need_no_history():
    run = make_run(30, query_kind="user")
    signatures = ServingModel(run, ExactIndex(run.item_vectors)).signatures()
    answer = signatures["recommend_user"](tf.constant(["u2", "stranger"]), k=tf.constant(3))
    assert ids_of(answer) == [best(run, run.item_vectors[2], 3), popular(run, 3)]


@pytest.mark.parametrize("missing", ["variables/variables.index", "saved_model.pb"])
def test_a_version_without_its_files_is_refused(folders, tmp_path, missing):
    import shutil

    shutil.copytree(folders[0], tmp_path / "1")
    (tmp_path / "1" / missing).unlink()
    with pytest.raises(PublishError, match="cannot be read"):
        load_model(tmp_path / "1")


def test_memory_of_a_model_that_is_closed_is_free_again(folders):
    """ScaNN's searcher is kept by name until it is destroyed: a second load must not find the first one's."""
    first = load_model(folders[1])
    answer = ids_of(first("recommend", history=[["001"]]))
    first.close()
    second = load_model(folders[1])
    assert ids_of(second("recommend", history=[["001"]])) == answer
    second.close()
