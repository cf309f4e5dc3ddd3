"""Which ops an exported model may hold: a foreign one loads in TensorFlow Serving and fails at the first request."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

# They call back into the Python process that traced them.
PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})

SCANN_OPS = frozenset(
    f"Scann>{name}"
    for name in (
        "ScannCreateSearcher",
        "ScannSearch",
        "ScannSearchBatched",
        "ScannToTensors",
        "TensorsToScann",
    )
)

# `tensorflow_text:ops_lib`, which tensorflow_model_server links whole (tensorflow_serving/model_servers/BUILD). Servers 2.16
# to 2.19 embed an old release of it, 2.20 its own.
TEXT_OPS = frozenset(
    [
        "CaseFoldUTF8",
        "ConstrainedSequence",
        "FastBertNormalize",
        "FastWordpieceTokenizeWithOffsets",
        "FindSourceOffsets",
        "MaxSpanningTree",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "PhraseTokenize",
        "RegexSplitWithOffsets",
        "RougeL",
        "SentenceFragments",
        "SentenceFragmentsV2",
        "SentencepieceDetokenizeOp",
        "SentencepieceIdToStringOp",
        "SentencepieceOp",
        "SentencepieceStringToIdOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
        "SentencepieceVocabSizeOp",
        "SplitMergeTokenizeWithOffsets",
        "TFText>BoiseTagsToOffsets",
        "TFText>ByteSplitByOffsets",
        "TFText>ByteSplitWithOffsets",
        "TFText>FastSentencepieceDetokenize",
        "TFText>FastSentencepieceTokenize",
        "TFText>FastWordpieceDetokenize",
        "TFText>NgramsStringJoin",
        "TFText>OffsetsToBoiseTags",
        "TFText>PhraseDetokenize",
        "TFText>RoundRobinGenerateMasks",
        "TFText>RoundRobinTrim",
        "TFText>Utf8Binarize",
        "TFText>WhitespaceTokenizeWithOffsetsV2",
        "TokenizerFromLogits",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WordpieceTokenizeWithOffsets",
    ]
)


class ForeignOpError(ValueError):
    """A model that the server it is meant for cannot run."""


def used_ops(path: Path) -> set[str]:
    """The ops of a SavedModel, those of its functions included.

    Args:
        path: the SavedModel's folder.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    ops: set[str] = set()
    for graph in (meta.graph_def for meta in model.meta_graphs):
        functions = {function.signature.name for function in graph.library.function}
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            ops.update(node.op for node in nodes)
        ops -= functions  # a node may call a function by its name
    return ops


def check_ops(path: Path, *, scann: bool = False) -> dict[str, bool]:
    """Check that a SavedModel holds nothing but ops that TensorFlow Serving 2.20 knows.

    Args:
        path: the SavedModel's folder.
        scann: allow ScaNN's ops, which stock servers lack.

    Returns:
        Which op libraries a process needs besides TensorFlow: `scann`, `tensorflow_text`.

    Raises:
        ForeignOpError: naming the foreign ops.
    """
    ops = used_ops(path)
    stock = set(dir(tf.raw_ops)) - PYTHON_OPS
    foreign = sorted(ops - stock - TEXT_OPS - (SCANN_OPS if scann else set()))
    if foreign:
        raise ForeignOpError(
            f"the model holds ops that TensorFlow Serving cannot run: {', '.join(foreign)}; "
            "write that part of the model with TensorFlow's own ops"
        )
    return {"scann": bool(ops & SCANN_OPS), "tensorflow_text": bool(ops & TEXT_OPS)}
