"""A run counts as trained once its training came to its end, and not before."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import pytest

from tfrec.config import SYSTEMS, save_config
from tfrec.evaluate import main as evaluate
from tfrec.runs.finished import RunError
from tfrec.runs.run import load_run


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_interrupted_run_is_not_evaluated(tmp_path, system, capsys):
    save_config(SYSTEMS[system].config_class(data=str(tmp_path)), tmp_path / "config.yaml")
    (tmp_path / "best").mkdir()  # as its first validation leaves it
    assert evaluate(["--run", str(tmp_path)]) == 2
    assert "with --resume" in capsys.readouterr().err


def test_an_interrupted_run_is_not_exported(tmp_path):
    save_config(SYSTEMS["retrieval"].config_class(data=str(tmp_path)), tmp_path / "config.yaml")
    with pytest.raises(RunError, match="did not finish"):
        load_run(tmp_path)
