"""Warm-up requests: TensorFlow Serving replays them before it serves a version, so that no customer waits for
it.

They also prove the version: a model that lacks an op or a file fails here, and the server keeps the one
before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.runs.run import Run
from tfrec.saved_model.loading import default_k
from tfrec.saved_model.queries import MOST_HISTORIES

RECORDS = Path("assets.extra") / "tf_serving_warmup_requests"  # the one name that the server looks for
BATCHES = (1, 32)


def write_warmup(path: Path, name: str, signatures: Mapping[str, Callable[..., Any]], run: Run, *, max_k: int) -> int:
    """Write warm-up requests into a SavedModel's folder, each answered by the model in memory first.

    Args:
        path: the SavedModel's folder.
        name: of the model.
        signatures: its signatures by name.
        run: whose items and users are asked for.
        max_k: the most items that the model answers.

    Returns:
        How many requests were written.

    Raises:
        tf.errors.OpError: the model does not answer one of them: no server would take it.
    """
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    requests = [
        (signature, inputs)
        for signature in sorted(signatures)
        for batch in BATCHES
        for inputs in [example_inputs(signature, run, batch, default_k(max_k))]
    ]
    (path / RECORDS).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / RECORDS)) as writer:
        for signature, inputs in requests:
            signatures[signature](**{key: tf.constant(value) for key, value in inputs.items()})
            log = PredictionLog()
            log.predict_log.request.model_spec.name = name
            log.predict_log.request.model_spec.signature_name = signature
            for key, value in inputs.items():
                log.predict_log.request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())
    return len(requests)


def example_inputs(signature: str, run: Run, batch: int, k: int) -> dict[str, np.ndarray]:
    """A request with every input of a signature: of `batch` rows, or as many as it takes at once, for `k` items each."""
    items = np.resize(np.asarray(run.item_ids[:100], object), batch)
    history = np.resize(np.asarray(run.item_ids[:100], object), (batch, max(1, run.history_length)))
    none = np.full((batch, 1), "", object)
    days = np.zeros(history.shape, np.float32)
    photo = np.full(batch, tf.io.encode_jpeg(tf.zeros([64, 64, 3], tf.uint8)).numpy(), object)
    text = np.full(batch, "warm up", object)
    users = np.resize(np.asarray(run.users.ids[:100] if run.users else [""], object), batch)
    row_history = np.resize(np.arange(min(100, len(run.item_ids)), dtype=np.int32), history.shape)
    queries = {
        "recommend": {"history": history, "days_ago": days},
        "recommend_user": {"user_id": users},
        "similar": {"item_id": items},
        "search_text": {"text": text},
        "search_photo": {"photo": photo},
    }
    queries["serving_default"] = queries["recommend"]  # a graph of its own to a server, and the one that most ask
    if signature in queries:
        answer = {"k": np.full(batch, k, np.int32), "exclude": none, "allow": none, "allow_items": none}
        return {**queries[signature], **answer}
    explained = max(1, min(batch, MOST_HISTORIES // (history.shape[1] + 2)))  # more customers at once are refused
    others = {
        "embed_query": {"history": history, "days_ago": days},
        "embed_item": {"photo": photo, "text": text, "attributes": none},
        "attend_item": {"photo": photo, "text": text, "attributes": none},
        "explain_rows": {
            "history": row_history[:explained],
            "days_ago": days[:explained],
            "user_fields": np.zeros((explained, run.user_fields), np.int32),
            "items": row_history[:explained, :1],
        },
        "rate_rows": {
            "history": row_history,
            "days_ago": days,
            "user": np.zeros(batch, np.int32),
            "user_fields": np.zeros((batch, run.user_fields), np.int32),
            "items": row_history,
        },
        "recommend_rows": {
            "history": row_history,
            "days_ago": days,
            "user": np.zeros(batch, np.int32),
            "user_fields": np.zeros((batch, run.user_fields), np.int32),
            "exclude": np.full((batch, 1), -1, np.int32),
            "k": np.full(batch, k, np.int32),
        },
    }
    others["recommend_rows_among"] = {**others["recommend_rows"], "among": row_history}
    return others[signature]


def read_warmup(path: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The warm-up requests of a version: signature and inputs of each."""
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    for record in tf.data.TFRecordDataset(str(path / RECORDS)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        yield request.model_spec.signature_name, inputs
