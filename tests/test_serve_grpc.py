"""The gRPC interface, asked with TensorFlow Serving's own protos."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import asyncio
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from tests.serving_fakes import make_run
from tests.serving_server import plain_shop, republish, running, small_shop, until
from tests.test_serving_model import best, mean_of, photo_bytes
from tfrec.serve import server as grpc_server
from tfrec.serve.errors import ServeError
from tfrec.serve.grpc_messages import Messages

CONFIG = """
model_config_list {{
  config {{
    name: "shop"
    base_path: "{folder}"
    model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
}}
"""


@pytest.fixture(scope="module")
def run():
    return make_run(60)


@pytest.fixture(scope="module")
def server(shared, tmp_path_factory):
    """Two versions, with labels, by TensorFlow Serving's own configuration file."""
    from tfrec.serve.model_config import read_model_config

    root = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        republish(shared("small-shop", small_shop) / "shop" / "1", root / "shop", version)
    (root / "models.config").write_text(CONFIG.format(folder="shop"))
    with running(read_configs=lambda: read_model_config(root / "models.config"), token="secret") as started:
        yield started


@pytest.fixture(scope="module")
def channel(server):
    with insecure_channel(server) as opened:
        yield opened


def insecure_channel(server):
    return grpc.insecure_channel(f"127.0.0.1:{server.server.grpc_port}")


TOKEN = (("authorization", "Bearer secret"),)


def request_of(
    signature: str = "", version: int | None = None, label: str = "", **inputs
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "shop", signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def predict(channel, request, metadata=TOKEN):
    return PredictionServiceStub(channel).Predict(request, timeout=30, metadata=metadata)


def ids_of(response) -> list[list[str]]:
    return [[item.decode() for item in row] for row in tf.make_ndarray(response.outputs["item_id"])]


def test_predictions_are_the_models(run, channel):
    response = predict(channel, request_of(history=[["001", "005", "017"]], k=np.int32([5])))
    assert ids_of(response) == [best(run, mean_of(run, "001", "005", "017"), 5)]
    assert response.outputs["score"].dtype == tf.float32.as_datatype_enum
    assert (response.model_spec.name, response.model_spec.version.value) == ("shop", 2)
    assert response.model_spec.signature_name == "serving_default"
    photo = predict(channel, request_of("search_photo", photo=[photo_bytes("red")]))
    assert len(ids_of(photo)[0]) == 12


def test_versions_labels_and_the_output_filter(channel):
    assert predict(channel, request_of(version=1, history=[["001"]])).model_spec.version.value == 1
    assert predict(channel, request_of(label="stable", history=[["001"]])).model_spec.version.value == 1
    assert predict(channel, request_of(label="canary", history=[["001"]])).model_spec.version.value == 2
    request = request_of(history=[["001"]])
    request.output_filter.append("item_id")
    assert list(predict(channel, request).outputs) == ["item_id"]


def test_metadata_and_status(channel):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "shop"
    response = PredictionServiceStub(channel).GetModelMetadata(request, metadata=TOKEN)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["recommend"].outputs) == {"item_id", "score"}
    assert response.model_spec.version.value == 2
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "shop"
    response = ModelServiceStub(channel).GetModelStatus(request, metadata=TOKEN)
    states = {entry.version: (entry.state, entry.status.error_code) for entry in response.model_version_status}
    assert states == {1: (30, 0), 2: (30, 0)}


def broken_strings() -> predict_pb2.PredictRequest:
    request = request_of(history=[["001"]])
    request.inputs["history"].string_val.extend([b"002", b"003"])
    return request


def one_value_for_gigabytes() -> predict_pb2.PredictRequest:
    request = request_of(history=[["001"]])
    request.inputs["history"].tensor_shape.dim[0].size = 10**9
    return request


def less_than_nothing() -> predict_pb2.PredictRequest:
    request = request_of(history=[["001"]])
    request.inputs["history"].tensor_shape.dim[1].size = -1
    return request


def nameless() -> predict_pb2.PredictRequest:
    request = request_of(history=[["001"]])
    request.model_spec.name = ""
    return request


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (request_of(history=[["001"]], k=np.int32(10**9)), grpc.StatusCode.INVALID_ARGUMENT),
        (request_of(history=[["001"]], k=np.int64(3)), grpc.StatusCode.INVALID_ARGUMENT),
        (request_of(history=[[1]]), grpc.StatusCode.INVALID_ARGUMENT),
        (request_of(history=["001"]), grpc.StatusCode.INVALID_ARGUMENT),
        (request_of(k=np.int32(3)), grpc.StatusCode.INVALID_ARGUMENT),
        (request_of("nothing", history=[["001"]]), grpc.StatusCode.INVALID_ARGUMENT),
        (broken_strings(), grpc.StatusCode.INVALID_ARGUMENT),
        (one_value_for_gigabytes(), grpc.StatusCode.INVALID_ARGUMENT),
        (less_than_nothing(), grpc.StatusCode.INVALID_ARGUMENT),
        (nameless(), grpc.StatusCode.INVALID_ARGUMENT),
        (request_of("search_photo", photo=[b"<html>"]), grpc.StatusCode.INVALID_ARGUMENT),
        (request_of(version=9, history=[["001"]]), grpc.StatusCode.NOT_FOUND),
        (request_of(label="none", history=[["001"]]), grpc.StatusCode.NOT_FOUND),
        (request_of(history=[["x" * (9 << 20)]]), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_wrong_calls_have_their_codes(channel, request_, code):
    with pytest.raises(grpc.RpcError) as error:
        predict(channel, request_)
    assert error.value.code() is code
    assert predict(channel, request_of(history=[["001"]])).outputs


def test_a_token_is_asked_for(channel):
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        with pytest.raises(grpc.RpcError) as error:
            predict(channel, request_of(history=[["001"]]), metadata)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_all_messages_together_are_bounded_before_they_are_read():
    """As many largest ones are read at a time as may be held; small ones are held in any number."""

    class Context:
        def __init__(self, message):
            self.message, self.asked, self.sent = message, asyncio.Event(), asyncio.Event()

        def peer(self):
            return f"ipv4:10.0.0.{id(self)}:5000"

        async def read(self):
            self.asked.set()
            await self.sent.wait()
            return self.message

    async def hold(messages, context, answered):
        async with messages.read(context):
            await answered.wait()

    async def go():
        messages, answered = Messages(max_bytes=100, max_bytes_at_once=200, seconds=60, max_waiting=9), asyncio.Event()
        contexts = [Context(request_of(history=[["x" * size]])) for size in (30, 30, 80)]
        assert sum(context.message.ByteSize() for context in contexts) > 200
        tasks = [asyncio.ensure_future(hold(messages, context, answered)) for context in contexts]
        await asyncio.sleep(0)
        assert [context.asked.is_set() for context in contexts] == [True, True, False]
        contexts[0].sent.set()
        await contexts[2].asked.wait()  # the first one is read
        for context in contexts:
            context.sent.set()
        with pytest.raises(ServeError, match="too many large requests"):
            await tasks[2]
        answered.set()
        await asyncio.gather(*tasks[:2])
        await hold(messages, contexts[0], answered)

    asyncio.run(go())


def test_silent_calls_of_one_host_keep_no_other_out():
    class Context:
        def __init__(self, host, message=None):
            self.host, self.message, self.port = host, message, id(self)

        def peer(self):
            return f"ipv4:{self.host}:{self.port}"

        async def read(self):
            if self.message is None:
                await asyncio.Event().wait()
            return self.message

    async def hold(messages, context):
        async with messages.read(context) as message:
            return message

    async def go():
        messages = Messages(max_bytes=1000, max_bytes_at_once=8000, seconds=60, max_waiting=20)
        silent = [asyncio.ensure_future(hold(messages, Context("10.0.0.1"))) for _ in range(20)]
        await asyncio.sleep(0)
        request = request_of(history=[["001"]])
        async with asyncio.timeout(10):
            assert await hold(messages, Context("10.0.0.2", request)) == request
            with pytest.raises(ServeError, match="20 requests are under way"):
                await hold(messages, Context("10.0.0.1", request))
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)

    asyncio.run(go())


def test_a_client_that_sends_no_message_is_cut_off(shared):
    """With metadata alone a call would be under way for ever."""

    def nothing():
        gone.wait(60)
        yield from ()

    gone = threading.Event()
    folder = shared("plain-shop", plain_shop) / "shop"
    with running(folder, body_seconds=0.2) as server, insecure_channel(server) as opened:
        call = opened.stream_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=predict_pb2.PredictRequest.SerializeToString,
        )
        with pytest.raises(grpc.RpcError) as error:
            call(nothing(), timeout=60)
        gone.set()
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.value.details() == "the message took longer than 0.2 s"
        assert predict(opened, request_of(history=[["001"]])).outputs


def test_connections_are_bounded_and_renewed(shared, caplog, monkeypatch):
    """A client that kept its connection for ever would never find a server that was started after it."""
    caplog.set_level("INFO", "tfrec.serve")
    monkeypatch.setattr(grpc_server, "GRPC_AGE_SECONDS", 0.2)
    folder, request = shared("plain-shop", plain_shop) / "shop", request_of(history=[["001"]])

    def clients() -> set[str]:
        predict(first, request)
        fields = [record.fields for record in caplog.records if hasattr(record, "fields")]
        return {logged["remote"] for logged in fields if logged.get("api") == "grpc"}

    with running(folder, max_connections=1) as server, insecure_channel(server) as first:
        until(lambda: len(clients()) > 1)
    monkeypatch.setattr(grpc_server, "GRPC_AGE_SECONDS", 300)
    with running(folder, max_connections=1) as server, insecure_channel(server) as first:
        assert predict(first, request).outputs
        own = [("grpc.use_local_subchannel_pool", 1)]
        with (
            grpc.insecure_channel(f"127.0.0.1:{server.server.grpc_port}", own) as second,
            pytest.raises(grpc.RpcError) as error,
        ):
            predict(second, request)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
