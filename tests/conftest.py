"""What every test runs under: no network, no GPU, no display, the same random examples each time."""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

import tfrec  # noqa: F401  (pins Keras 2 before a test imports TensorFlow)
from pipelines.command import COLLECTIONS
from tfrec.graphs import skip_rewrites

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # the models are tiny and a worker of pytest has one core
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves its workers beside the other tests

gc.set_threshold(*COLLECTIONS)

# Programs that tests start find no PyTorch, as on a user's machine; KerasCV would import it, for seconds, wherever it is.
WITHOUT_TORCH = str(Path(__file__).parent / "without_torch")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [WITHOUT_TORCH, os.environ.get("PYTHONPATH")]))

settings.register_profile("tfrec", derandomize=True, deadline=None)
settings.load_profile("tfrec")


# The files of a minute and more, the longest first.
LONGEST = [
    *(
        "workers",
        "serving_loader",
        "train_command",
        "ray_training",
        "serve_life",
        "metric_learning",
        "published_training",
    ),
    *("shop_pipeline", "serving_model", "training", "pretrain", "ray_encoding", "retrieve", "notebook", "features"),
    *("benchmarks", "sequence_recipe", "ratings", "ray_retrieval", "models"),
]


def pytest_collection_modifyitems(items):
    """Begin with the longest files, or the workers wait for one's at the end."""
    ranks = {f"tests.test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.module.__name__, len(ranks)))


@pytest.fixture(autouse=True, scope="module")
def _forget_graphs():
    """Run graphs as every training and served model does, and let go of each module's and of its variables, or a whole run
    would keep them all in memory; and of the compute type that its trainings set."""
    if "tensorflow" in sys.modules:
        skip_rewrites()
    yield
    if "tensorflow" in sys.modules:
        keras = sys.modules["tensorflow"].keras
        keras.backend.clear_session()
        keras.mixed_precision.set_global_policy("float32")
    gc.collect()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """`shared(name, build)`: the folder that `build(folder)` fills, once for all workers; nobody may change it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def find(name: str, build: Callable[[Path], object]) -> Path:
        folder, filling = root / f"shared-{name}", root / f"shared-{name}.tmp"
        with FileLock(root / f"shared-{name}.lock"):
            if not folder.exists():
                filling.mkdir()
                build(filling)
                filling.rename(folder)
        return folder

    return find


@pytest.fixture
def real_data():
    """Return the path of a real dataset below the folder TFREC_REAL_DATA, or skip the test without one."""

    def find(name: str) -> Path:
        root = os.environ.get("TFREC_REAL_DATA")
        if not root or not (Path(root) / name).exists():
            pytest.skip(f"needs {name}, which is not part of the project (folder TFREC_REAL_DATA)")
        return Path(root) / name

    return find


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium driven by Selenium; tests that ask for it are skipped where there is none."""
    if not (shutil.which("chromium") or shutil.which("google-chrome")) or not shutil.which("chromedriver"):
        pytest.skip("needs a browser (chromium) and its driver (chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()
