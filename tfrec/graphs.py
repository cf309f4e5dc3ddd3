"""TensorFlow's graph rewriting (Grappler), left out on CPUs where it does not pay.

On the graphs of a training step and of a served model it takes longer than everything else before the first run (7 of 12
seconds of a demo's first step, 7 of 18 of loading a version), and the steps and requests after it were measured to be no
faster. GPUs keep it, for the sake of convolutions' layouts. A catalogue's way through an encoder is another matter: there
it makes one op of each product, its bias and its activation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

OPTION = "disable_meta_optimizer"


def skip_rewrites() -> None:
    """Leave it out of all that this process runs from now on."""
    import tensorflow as tf

    if on_cpu():
        tf.config.optimizer.set_experimental_options({OPTION: True})


@contextmanager
def with_rewrites() -> Iterator[None]:
    """Use it for what runs inside for the first time."""
    import tensorflow as tf

    skipped = tf.config.optimizer.get_experimental_options().get(OPTION, False)
    tf.config.optimizer.set_experimental_options({OPTION: False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({OPTION: skipped})


def session_config() -> tf.compat.v1.ConfigProto:
    """The configuration of a served version's session, without it: a `ConfigProto`.

    The functions of a signature become one flat graph: a request then takes two thirds of the time, and a version loads
    in half, as a function that is called is made ready apart, at its first call. A request's ops have one thread, the one
    that its batch runs in: batches run side by side, and handing out pieces of such small ops takes longer than they do.
    """
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1)
    config.graph_options.rewrite_options.disable_meta_optimizer = on_cpu()
    config.graph_options.optimizer_options.do_function_inlining = True
    config.graph_options.place_pruned_graph = True  # each signature by itself: folded further than all in one graph
    return config


def on_cpu() -> bool:
    """Whether there is no GPU to compute on."""
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")
