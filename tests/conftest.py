"""What every test runs under: no network, no GPU, no display, the same random examples each time."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import tfrec  # noqa: F401  (pins Keras 2 before a test imports TensorFlow)

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

settings.register_profile("tfrec", derandomize=True, deadline=None)
settings.load_profile("tfrec")


@pytest.fixture(autouse=True, scope="module")
def _forget_graphs():
    """Let go of each module's graphs and variables, or a whole run would keep them all in memory."""
    yield
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].keras.backend.clear_session()
    gc.collect()


@pytest.fixture
def real_data():
    """Return the path of a real dataset below the folder TFREC_REAL_DATA, or skip the test without one."""

    def find(name: str) -> Path:
        root = os.environ.get("TFREC_REAL_DATA")
        if not root or not (Path(root) / name).exists():
            pytest.skip(f"needs {name}, which is not part of the project (folder TFREC_REAL_DATA)")
        return Path(root) / name

    return find
