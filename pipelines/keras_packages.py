"""KerasCV and KerasNLP, imported without what they look for on the machine and tfrec never uses through them.

Both import PyTorch where it is installed, and Keras 3, which comes with KerasNLP's tokenizers, scikit-learn: seconds and
some hundred megabytes in every process.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tfrec  # noqa: F401  (pins Keras 2 before a Keras package is imported)

__all__ = ["keras_cv", "keras_nlp"]


@contextmanager
def _not_installed(*names: str) -> Iterator[None]:
    """Let packages that were not imported yet seem absent until the end of the block."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it raises ImportError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _not_installed("torch", "sklearn"):
    import keras_cv
    import keras_nlp
