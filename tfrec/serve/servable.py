"""A published version in memory, in a session of its own, as TensorFlow Serving holds it.

A session, unlike `tf.saved_model.load`, gives everything back when it is closed, ScaNN's searcher included: a
server that has swapped sixty versions is no larger than one that has loaded one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfrec.graphs import session_config
from tfrec.publish import PublishError, verify_version
from tfrec.serve.errors import Code, LoadStoppedError, ServeError
from tfrec.serve.signatures import Arrays, Signature, read_signatures

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2


class Servable:
    """A version that is checked, loaded and warmed up.

    Args:
        name: of the model.
        version: its number.
        path: the version's folder.
        check: called between the steps of loading, which take a while each; may raise `LoadStoppedError`.

    Attributes:
        manifest: the version's manifest.
        signatures: by name.
        closed: whether its memory was given back.

    Raises:
        PublishError: the version is torn or altered, or does not load or warm up.
        RetrievalIndexError: it needs ScaNN's ops, and they are not installed.
    """

    def __init__(self, name: str, version: int, path: Path, check: Callable[[], object] = lambda: None):
        import tensorflow as tf
        from tensorflow.python.framework.ops import dismantle_graph

        from tfrec.index.indexes import load_op_libraries

        self.name, self.version, self.path = name, version, path
        self.manifest = verify_version(path, check)
        load_op_libraries(self.manifest)
        self._users, self._retired, self.closed, self._lock = 0, False, False, threading.Lock()
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=session_config())
        try:
            with graph.as_default():
                check()
                self.meta_graph = load_in_pieces(self._session, path)
            self.signatures = read_signatures(self.meta_graph)
            self._calls = {name: self._callable(signature) for name, signature in self.signatures.items()}
            self.meta_graph.ClearField("graph_def")  # only its signatures are asked for from here on
            self.meta_graph.ClearField("object_graph_def")
            self._warm_up(check)
            # The session has the graph in C++; its Python objects would be tens of thousands that refer to each other.
            dismantle_graph(graph)
        except LoadStoppedError:
            self._session.close()
            raise
        except (OSError, RuntimeError, ValueError, KeyError, tf.errors.OpError, ServeError) as error:
            self._session.close()
            raise PublishError(f"{path} cannot be served ({_first_line(error)}); export again") from error

    def _callable(self, signature: Signature) -> Callable[..., list[np.ndarray]]:
        """What runs a signature, as Keras calls its own sessions: `make_callable` costs a millisecond of Python a call.

        The graph runs in the thread that calls it: the batcher has several, and handing hundreds of tiny ops from
        thread to thread takes longer than they do.
        """
        from tensorflow.core.protobuf import config_pb2

        options = config_pb2.CallableOptions(
            feed=[spec.tensor for spec in signature.inputs.values()],
            fetch=signature.outputs.values(),
            run_options=config_pb2.RunOptions(inter_op_thread_pool=-1),
        )
        return self._session._make_callable_from_options(options)

    def _warm_up(self, check: Callable[[], object]) -> None:
        from tfrec.saved_model.warmup import read_warmup

        for signature, inputs in read_warmup(self.path):
            check()
            self.run(signature, self.signatures[signature].complete(inputs)[0])

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Run a signature on complete inputs (`Signature.complete`).

        Raises:
            ServeError: the model refuses the inputs, or fails.
        """
        import tensorflow as tf

        specs = self.signatures[signature]
        try:
            found = self._calls[signature](*(inputs[name] for name in specs.inputs))
        except tf.errors.InvalidArgumentError as error:
            raise ServeError(Code.INVALID_ARGUMENT, _refusal(error)) from None
        except tf.errors.ResourceExhaustedError as error:
            raise ServeError(Code.RESOURCE_EXHAUSTED, _first_line(error)) from None
        except tf.errors.OpError as error:
            raise ServeError(Code.INTERNAL, _first_line(error)) from error
        return dict(zip(specs.outputs, found, strict=True))

    # -- life: a version is closed when it is retired and its last request is answered ------------------------

    def acquire(self) -> bool:
        """Hold the version until `release`; False where it is retired."""
        with self._lock:
            self._users += not self._retired
            return not self._retired

    def share(self) -> None:
        """Hold it once more; for who holds it already, and is not to be refused where it was retired meanwhile."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Let go of the version."""
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:  # closing takes tenths of a second, in which whoever was answered last would answer nobody else
            threading.Thread(target=self._close, name=f"close-{self.name}-{self.version}").start()

    def retire(self) -> None:
        """Take no further requests, and free the memory as soon as none is under way."""
        with self._lock:
            idle = not self._retired and self._users == 0
            self._retired = True
        if idle:
            self._close()

    def _close(self) -> None:
        self._session.close()
        self._calls.clear()
        del self._session
        self.closed = True


def load_in_pieces(session: tf.compat.v1.Session, path: Path) -> meta_graph_pb2.MetaGraphDef:
    """`tf.compat.v1.saved_model.loader.load` into an empty session, but with short calls into TensorFlow.

    Importing a graph holds the interpreter's lock: whole, with its hundred functions and with the shapes of all that each
    of them calls, for a third of a second in which the server answers nobody. So functions are added one by one, and
    shapes, which a session does not ask for, are not inferred through calls.
    """
    from tensorflow.python.client import pywrap_tf_session
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader

    loader = SavedModelLoader(str(path))
    meta_graph = loader.get_meta_graph_def_from_tags(["serve"])
    definition = meta_graph.graph_def
    with session.graph._c_graph.get() as graph:
        for function in definition.library.function:
            added = pywrap_tf_session.TF_FunctionImportFunctionDef(function.SerializeToString())
            pywrap_tf_session.TF_GraphCopyFunction(graph, added, None)
            pywrap_tf_session.TF_DeleteFunction(added)
    definition.library.ClearField("function")
    for node in definition.node:
        if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            node.attr["_disable_call_shape_inference"].b = True
    saver, _ = loader.load_graph(session.graph, ["serve"])  # `load` would parse the file a second time
    loader.restore_variables(session, saver)
    loader.run_init_ops(session, ["serve"])
    return meta_graph


def _first_line(error: BaseException) -> str:
    text = re.sub(r"\{\{function_node [^}]*\}\} ?", "", _said(error)).strip()  # where in the graph it happened
    return text.splitlines()[0][:300] if text else type(error).__name__


def _refusal(error: BaseException) -> str:
    """What a model says of inputs that it refuses."""
    line, assertion = _first_line(error), "assertion failed: "
    if not line.startswith(assertion):
        return line
    return re.sub(r"\] \[", " ", line.removeprefix(assertion)).strip("[]")  # [k must be 1 to 9, not] [0]


def _said(error: BaseException) -> str:
    """An error's message without the stack trace that Python's session puts before it."""
    raw = error.__context__ if isinstance(error.__context__, type(error)) else error
    return getattr(raw, "message", None) or str(raw)
