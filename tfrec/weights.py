"""Weights from files into layers: all of them, or an error that says what is wrong with the files."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf


def read_weights(objects: tf.train.Checkpoint, prefix: str | Path, *, error: type[ValueError], cure: str) -> None:
    """Fill every variable of `objects` from the files `prefix`.*.

    Args:
        objects: what was written.
        prefix: of the files that `objects.write` or a checkpoint manager made.
        error: the class of what is raised.
        cure: what the user can do, for its message.

    Raises:
        ValueError: of the class `error`: a file is missing or damaged, or they lack a variable.
    """
    folder = Path(prefix).parent
    try:
        objects.read(str(prefix)).assert_existing_objects_matched()
    except AssertionError as found:
        raise error(f"{folder}: its weights do not fit what is to hold them ({found}); {cure}") from None
    except (tf.errors.OpError, ValueError) as found:  # a ValueError: of another shape
        said = getattr(found, "message", found)
        raise error(f"{folder}: its weights cannot be read ({said}); {cure}") from None
