"""The REST interface: TensorFlow Serving's forms, answered as the model itself answers, and what it refuses."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import base64
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.serving_fakes import make_run
from tests.serving_server import ask, large_shop, republish, running
from tests.test_serving_model import best, mean_of, photo_bytes, popular
from tfrec.serve.tensors_json import encode

ITEMS = 1200


@pytest.fixture(scope="module")
def run():
    return make_run(ITEMS)


@pytest.fixture(scope="module")
def models(shared, tmp_path_factory):
    """Two versions of the exact model `shop`, and one of `shop_scann`."""
    root, found = tmp_path_factory.mktemp("models"), shared("large-shop", large_shop)
    for version in (1, 2):
        republish(found / "shop" / "1", root / "shop", version)
    (root / "shop_scann").symlink_to(found / "shop_scann")
    return root


@pytest.fixture(scope="module")
def server(models):
    with running(models / "shop", models / "shop_scann", latest=2) as started:
        yield started


def b64(content: bytes) -> dict:
    return {"b64": base64.b64encode(content).decode()}


# -- TensorFlow Serving's forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "/versions/1", "/versions/2"])
def test_rows_and_columns_are_answered_alike(run, server, place):
    place = f"/v1/models/shop{place}"
    status, columns = server.predict(place, inputs={"history": [["001", "017"], ["005", "900"]], "k": [5]})
    assert status == 200
    expected = [best(run, mean_of(run, *items), 5) for items in (("001", "017"), ("005", "900"))]
    assert columns["outputs"]["item_id"] == expected
    status, rows = server.predict(
        place,
        signature_name="recommend",
        instances=[{"history": ["001", "017"], "k": 5}, {"history": ["005", "900"], "k": 5}],
    )
    assert status == 200
    assert [row["item_id"] for row in rows["predictions"]] == expected
    assert [row["score"] for row in rows["predictions"]] == columns["outputs"]["score"]


def test_bytes_come_as_base64(run, server):
    photo = photo_bytes("red")
    status, answer = server.predict(signature_name="search_photo", instances=[{"photo": b64(photo), "k": 3}])
    assert status == 200
    pixels, _ = run.towers.pixels(tf.constant([photo]))
    expected = best(run, run.towers.photo_query(pixels).numpy()[0], 3)
    assert answer["predictions"][0]["item_id"] == expected


def test_one_output_stands_without_its_name(server):
    status, rows = server.predict(signature_name="embed_query", instances=[{"history": ["001"]}, {"history": ["002"]}])
    assert (status, len(rows["predictions"]), len(rows["predictions"][0])) == (200, 2, 16)
    status, columns = server.predict(signature_name="embed_query", inputs={"history": [["001"]]})
    assert columns["outputs"] == rows["predictions"][:1]


def test_empty_batches_are_answered_empty(server):
    assert server.predict(instances=[]) == (200, {"predictions": []})
    assert server.predict(inputs={"history": []}) == (200, {"outputs": {"item_id": [], "score": []}})


def test_a_query_that_is_not_a_number_is_masked(run, server):
    body = b'{"inputs": {"history": [["001"]], "days_ago": [[NaN]], "k": 4}}'
    status, answer = server.ask("POST", "/v1/models/shop:predict", body)
    assert (status, answer["outputs"]["item_id"]) == (200, [popular(run, 4)])
    body = b'{"signature_name": "embed_query", "inputs": {"history": [["001"]], "days_ago": [[NaN]]}}'
    status, answer = server.ask("POST", "/v1/models/shop:predict", body)
    assert (status, answer["outputs"]) == (200, [[0.0] * 16])


def test_version_status_and_metadata(server):
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    status, answer = server.ask("GET", "/v1/models/shop")
    assert (status, answer) == (
        200,
        {"model_version_status": [{"version": "2", **available}, {"version": "1", **available}]},
    )
    assert server.ask("GET", "/v1/models/shop/versions/1")[1]["model_version_status"][0]["version"] == "1"
    status, answer = server.ask("GET", "/v1/models/shop/versions/1/metadata")
    assert (status, answer["model_spec"]) == (200, {"name": "shop", "signature_name": "", "version": "1"})
    signature = answer["metadata"]["signature_def"]["signature_def"]["recommend"]
    assert signature["inputs"]["history"]["dtype"] == "DT_STRING"
    assert set(signature["outputs"]) == {"item_id", "score"}


def test_models_are_listed(server):
    assert server.ask("GET", "/v1/models")[1] == {
        "models": [
            {"name": "shop", "versions": [1, 2], "labels": {}},
            {"name": "shop_scann", "versions": [1], "labels": {}},
        ]
    }


def test_exclusions_and_filters_pass_through(run, server):
    first = best(run, mean_of(run, "001"), 12)
    for name in ("shop", "shop_scann"):
        place = f"/v1/models/{name}"
        status, answer = server.predict(
            place, inputs={"history": [["001"]], "exclude": [first], "allow": [["kind=dress"]]}
        )
        assert status == 200
        found = answer["outputs"]["item_id"][0]
        assert len(found) == 12
        assert not set(found) & set(first)
        assert {run.item_attributes["kind"][int(item)][0] for item in found} == {"dress"}


# -- batching ------------------------------------------------------------------------------------------------


def test_requests_of_one_batch_do_not_touch_each_other(run, server):
    """Other k, other widths, other options, refused ones among them: each gets what it gets alone."""
    bodies = []
    for number in range(120):
        inputs = {
            "history": [[f"{(number * 7 + place) % ITEMS:03d}" for place in range((1, 3, 4)[number % 3])]],
            "k": 1 + number % 20,
        }
        if number % 3 == 0:
            inputs["exclude"] = [[f"{number:03d}", "001"]]
        if number % 5 == 0:
            inputs["days_ago"] = [[float(number)]]
        if number % 7 == 0:
            inputs["allow"] = [["kind=dress" if number % 2 else "price=3"]]
        bodies.append({"inputs": inputs})
    alone = [server.ask("POST", "/v1/models/shop:predict", body) for body in bodies]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda body: server.ask("POST", "/v1/models/shop:predict", body), bodies))
    assert [status for status, _ in alone] == [status for status, _ in together]
    assert {status for status, _ in alone} == {200, 400}
    for (status, one), (_, other) in zip(alone, together):
        if status == 200:
            assert one["outputs"]["item_id"] == other["outputs"]["item_id"]
            assert one["outputs"]["score"] == [pytest.approx(row, rel=1e-5) for row in other["outputs"]["score"]]
        else:
            assert one == other
    _, page = server.ask("GET", "/metrics")
    requests, batches = (
        float(next(line.split()[-1] for line in page.decode().splitlines() if line.startswith(name)))
        for name in (
            'tfrec_batched_requests_total{model="shop",signature="serving_default"}',
            'tfrec_batch_rows_count{model="shop",signature="serving_default"}',
        )
    )
    assert batches < requests


# -- what is refused -----------------------------------------------------------------------------------------

NESTED = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be an object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"inputs": {"history": [["\xff"]]}}', "UTF-8"),
        (NESTED, "nested"),
        ({}, 'either "instances"'),
        ({"inputs": {"history": [["001"]]}, "instances": []}, 'either "instances"'),
        ({"instances": 3}, "must be a list"),
        ({"instances": [{"history": ["1"]}, {"item": ["1"]}]}, "row 1 of instances"),
        ({"instances": [{"history": ["1"]}, {"history": ["1", "2"]}]}, "different lengths"),
        ({"inputs": [["001"]]}, "name them"),
        ({"inputs": {"k": 3}}, "needs the input 'history'"),
        ({"inputs": {"history": [["001"]], "limit": 3}}, "no input 'limit'"),
        ({"inputs": {"history": ["001"]}}, "of shape [-1, -1]"),
        ({"inputs": {"history": [[["001"]]]}}, "of shape [-1, -1]"),
        ({"inputs": {"history": [[1]]}}, "takes string values, not 1"),
        ({"inputs": {"history": [[None]]}}, "takes string values"),
        ({"inputs": {"history": [["\ud800"]]}}, "takes string values"),
        ({"inputs": {"history": [[{"b64": "%%%"}]]}}, "not base64"),
        ({"inputs": {"history": [["001"]], "k": "12"}}, "takes int32 values"),
        ({"inputs": {"history": [["001"]], "k": 1.5}}, "takes int32 values"),
        ({"inputs": {"history": [["001"]], "k": True}}, "takes int32 values"),
        ({"inputs": {"history": [["001"]], "k": 10**30}}, "takes int32 values"),
        ({"inputs": {"history": [["001"]], "k": 1_000_000_000}}, "k must be 1 to 100"),
        ({"inputs": {"history": [["001"]], "k": 0}}, "k must be 1 to 100"),
        ({"inputs": {"history": [["001"]], "k": [1, 2, 3]}}, "'k' has 3 rows"),
        ({"inputs": {"history": [["001"]], "exclude": [["a"], ["b"]]}}, "'exclude' has 2 rows"),
        ({"inputs": {"history": [["001", "002"]], "days_ago": [[1.0, 2.0, 3.0]]}}, "'days_ago' has 3 columns"),
        ({"inputs": {"history": [["001"]], "allow": [["price=3"]]}}, "allow takes terms field=value"),
        ({"inputs": {"history": [["001"]]}, "signature_name": "nothing"}, "no signature 'nothing'"),
        ({"inputs": {"history": [["001"]]}, "signature_name": 3}, "must be a string"),
        ({"inputs": {"history": [["001"] * 100_001]}}, "more than 100000 values"),
        ({"inputs": {"history": [["001"]] * 1025}}, "has 1025 rows"),
    ],
)
def test_wrong_requests_are_400_with_a_reason(server, body, message):
    status, answer = server.ask("POST", "/v1/models/shop:predict", body)
    assert (status, list(answer)) == (400, ["error"])
    assert message in answer["error"]
    assert len(answer["error"]) < 400
    assert server.predict(inputs={"history": [["001"]]})[0] == 200


@pytest.mark.parametrize("path", ["/v1/models/none", "/v1/models/shop/versions/9", "/v1/models/shop/labels/x"])
def test_what_is_not_there_is_404(server, path):
    assert server.ask("GET", path)[0] == 404
    status, answer = server.predict(path, inputs={"history": [["001"]]})
    assert (status, list(answer)) == (404, ["error"])
    assert server.ask("GET", f"/v1/models/shop/versions/{10**30}")[0] == 404
    assert server.ask("GET", "/v1/nothing")[0] == 404
    assert server.ask("DELETE", "/v1/models/shop")[0] == 405


def test_answers_carry_safe_headers_and_ids(server):
    _, _, headers = ask(server.port, "GET", "/healthz", headers={"X-Request-Id": "abc-1"})
    assert headers["X-Request-Id"] == "abc-1"
    assert headers["X-Content-Type-Options"] == "nosniff"
    _, _, headers = ask(server.port, "GET", "/healthz", headers={"X-Request-Id": "a b;c"})
    assert headers["X-Request-Id"] != "a b;c"


def test_probes_metrics_and_the_description(server):
    assert server.ask("GET", "/healthz") == (200, {"status": "alive"})
    assert server.ask("GET", "/readyz") == (200, {"status": "ready"})
    server.predict(inputs={"history": [["001"]]})
    status, page = server.ask("GET", "/monitoring/prometheus/metrics")
    assert status == 200
    assert b'tfrec_requests_total{api="rest",code="200",model="shop",signature="serving_default"}' in page
    assert b'tfrec_version_loaded{model="shop",version="2"} 1.0' in page
    status, description = server.ask("GET", "/openapi.json")
    assert status == 200
    assert "/v1/models/shop/versions/1:predict" in description["paths"]


def test_a_token_is_asked_for(models):
    with running(models / "shop", token="secret") as server:
        assert server.ask("GET", "/readyz")[0] == 200
        for headers in (
            {},
            {"Authorization": "secret"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer \xff"},
        ):
            for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/models/shop:predict")):
                status, answer = server.ask(method, path, headers=headers)
                assert status == 401
                assert "Bearer" in answer["error"]
        assert server.ask("GET", "/v1/models", headers={"Authorization": "Bearer secret"})[0] == 200


def test_logs_are_one_json_object_a_line(server, caplog):
    from tfrec.serve.logs import JsonLines

    with caplog.at_level("INFO", "tfrec.serve"):
        server.predict(signature_name="similar", inputs={"item_id": ["001", "002"]})
    record = next(record for record in caplog.records if record.getMessage() == "request")
    line = json.loads(JsonLines().format(record))
    assert {"model": "shop", "version": "2", "signature": "similar", "rows": 2, "status": 200}.items() <= line.items()
    assert line["ms"] > 0


FLOATS = st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


@given(
    scores=arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=FLOATS),
    named=st.lists(st.binary(max_size=8), min_size=1, max_size=3),
    rows=st.booleans(),
)
def test_an_answer_holds_what_the_model_said(scores, named, rows):
    """Read back by a parser that knows NaN, as TensorFlow Serving's clients must."""
    names = np.array(named, object)
    names, scores = names[: len(scores)], scores[: len(names)]
    outputs = {"score": scores, "item_id": names, "count": np.arange(len(names))}
    answer = json.loads(encode(outputs, rows=rows))
    if rows:
        found = {name: [row[name] for row in answer["predictions"]] for name in outputs}
    else:
        found = answer["outputs"]
    np.testing.assert_array_equal(np.array(found["score"], np.float32), scores)
    assert found["count"] == list(range(len(names)))
    said = [base64.b64decode(one["b64"]) if isinstance(one, dict) else one.encode() for one in found["item_id"]]
    assert said == list(names)


@pytest.mark.parametrize(
    ("path", "status"), [("/versions/1", 200), (f"/versions/{'0' * 5000}1", 200), (f"/versions/{'9' * 5000}", 404)]
)
def test_a_version_of_any_number_of_digits_is_found_or_not(server, path, status):
    assert server.ask("GET", f"/v1/models/shop{path}")[0] == status
