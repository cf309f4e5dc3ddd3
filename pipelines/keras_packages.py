"""KerasCV and KerasNLP, each imported when it is first asked for, and without what they look for on the machine and tfrec
never uses through them.

Both import PyTorch where it is installed, and Keras 3, which comes with KerasNLP's tokenizers, scikit-learn: seconds and
some hundred megabytes in every process. A model without encoders needs neither package: `from pipelines import
keras_packages`, then `keras_packages.keras_cv.layers` where a layer is made.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import tfrec  # noqa: F401  (pins Keras 2 before a Keras package is imported)

if TYPE_CHECKING:
    import keras_cv
    import keras_nlp

__all__ = ["keras_cv", "keras_nlp"]


def __getattr__(name: str) -> ModuleType:
    """`keras_cv` or `keras_nlp` (https://peps.python.org/pep-0562)."""
    if name not in ("keras_cv", "keras_nlp"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _not_installed("torch", "sklearn"):
        found = importlib.import_module(name)
    globals()[name] = found
    return found


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
