"""TensorFlow Serving's gRPC interface: `PredictionService` (Predict, GetModelMetadata) and `ModelService`
(GetModelStatus)."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from tfrec.serve.errors import Code, ServeError, invalid
from tfrec.serve.grpc_messages import Messages
from tfrec.serve.metrics import Metrics
from tfrec.serve.rest import version_status
from tfrec.serve.service import Address, Called, PredictService
from tfrec.serve.signatures import Arrays, Signature

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from tensorflow.core.framework import tensor_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2

LOG = logging.getLogger("tfrec.serve")
STATUS = {status.value[0]: status for status in grpc.StatusCode}


class GrpcApi:
    """The services.

    Args:
        service: answers predictions.
        metrics: of the server.
        messages: reads the calls' messages.
        token: that calls must bear; None for none.
    """

    def __init__(self, service: PredictService, metrics: Metrics, messages: Messages, *, token: str | None):
        self._service, self._metrics, self._messages = service, metrics, messages
        self._wanted = f"Bearer {token}".encode() if token else b""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the services."""
        from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

        predictions = {
            "Predict": self._method(predict_pb2.PredictRequest, self._predict),
            "GetModelMetadata": self._method(get_model_metadata_pb2.GetModelMetadataRequest, self._metadata),
        }
        models = {"GetModelStatus": self._method(get_model_status_pb2.GetModelStatusRequest, self._status)}
        for service, methods in (("PredictionService", predictions), ("ModelService", models)):
            handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", methods)
            server.add_generic_rpc_handlers((handler,))

    def _method(
        self, request: type[Message], answer: Callable[[Any, Called], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler:
        """A method that reads its request itself, as a stream of one message, which is the same to a client: what gRPC
        reads by itself is in memory before anything can be said about it."""

        async def call(stream: object, context: grpc.aio.ServicerContext) -> Message:
            return await self._answer(context, answer)

        return grpc.stream_unary_rpc_method_handler(
            call,
            request_deserializer=request.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

    async def _answer(
        self, context: grpc.aio.ServicerContext, answer: Callable[[Any, Called], Awaitable[Message]]
    ) -> Message:
        """Check the token, read, answer, count and log; errors become the call's status."""
        started, called = time.perf_counter(), Called()
        status = "CANCELLED"  # by the client, or its deadline: nothing else leaves this as it is
        try:
            self._check_token(context)
            async with self._messages.read(context) as request:
                found = await answer(request, called)
            status = "OK"
            return found
        except ServeError as error:
            status = error.code.name
            await context.abort(STATUS[error.code.value[1]], error.message)
        except grpc.aio.AbortError:
            raise
        except Exception:
            status = Code.INTERNAL.name
            LOG.exception("a call failed")
            await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says how")
        finally:
            seconds = time.perf_counter() - started
            if called.model:
                self._metrics.answered("grpc", called.model, called.signature, status, seconds)
            fields = {
                "event": "request",
                "api": "grpc",
                "status": status,
                "ms": round(seconds * 1000, 2),
                **vars(called),
            }
            LOG.info("request", extra={"fields": {**fields, "remote": context.peer()}})
        raise AssertionError("unreachable: abort raises")

    def _check_token(self, context: grpc.aio.ServicerContext) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        given = given.encode() if isinstance(given, str) else given
        if self._wanted and not hmac.compare_digest(given, self._wanted):
            raise ServeError(Code.UNAUTHENTICATED, "send the metadata authorization: Bearer TOKEN")

    async def _predict(self, request: predict_pb2.PredictRequest, called: Called) -> predict_pb2.PredictResponse:
        with self._service.batcher.admitted():
            return await self._outputs(request, called)

    async def _outputs(self, request: predict_pb2.PredictRequest, called: Called) -> predict_pb2.PredictResponse:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        address, name = _address(request.model_spec), request.model_spec.signature_name
        outputs = await self._service.predict(address, name, lambda s: self._arrays(request, s), called)
        wanted = list(request.output_filter) or list(outputs)
        unknown = [output for output in wanted if output not in outputs]
        if unknown:
            raise invalid(f"output_filter names {unknown[0]!r}; the outputs are {sorted(outputs)}")
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = called.model, called.signature
        response.model_spec.version.value = int(called.version)
        for output in wanted:
            response.outputs[output].CopyFrom(tf.make_tensor_proto(outputs[output]))
        return response

    def _arrays(self, request: predict_pb2.PredictRequest, signature: Signature) -> Arrays:
        return {name: self._array(name, proto, signature) for name, proto in request.inputs.items()}

    def _array(self, name: str, proto: tensor_pb2.TensorProto, signature: Signature) -> np.ndarray:
        import tensorflow as tf

        size = 1
        for dim in proto.tensor_shape.dim:
            if dim.size < 0:
                raise invalid(f"input {name!r} has a dimension of size {dim.size}")
            size *= dim.size
        # One value may stand for a whole tensor, so a message of ten bytes could ask for gigabytes.
        if size > self._service.max_values:
            raise invalid(f"input {name!r} has more than {self._service.max_values} values")
        try:
            array = tf.make_ndarray(proto)
        except (TypeError, ValueError) as error:
            raise invalid(f"input {name!r} is not a tensor: {str(error)[:200]}") from None
        if array.dtype == object and not all(isinstance(value, bytes) for value in array.flat):
            raise invalid(f"input {name!r} holds strings that are none")
        return array

    async def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, called: Called
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        from tensorflow_serving.apis import get_model_metadata_pb2

        address = _address(request.model_spec)
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid("metadata_field must be signature_def")
        servable = self._service.repository.get(address.model, address.version, address.label)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in servable.meta_graph.signature_def.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    async def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest, called: Called
    ) -> get_model_status_pb2.GetModelStatusResponse:
        from tensorflow_serving.apis import get_model_status_pb2

        response = get_model_status_pb2.GetModelStatusResponse()
        for found in version_status(self._service, _address(request.model_spec)):
            state = get_model_status_pb2.ModelVersionStatus.State.Value(found["state"])
            entry = response.model_version_status.add(version=int(found["version"]), state=state)
            message = found["status"]["error_message"]
            entry.status.error_code, entry.status.error_message = (2 if message else 0), message
        return response


def _address(spec: model_pb2.ModelSpec) -> Address:
    if not spec.name:
        raise invalid("model_spec.name is missing")
    version = spec.version.value if spec.HasField("version") else None
    return Address(spec.name, version, spec.version_label or None)
