"""A run is neither taken up nor evaluated on another dataset than its own, whatever its system."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pandas as pd
import pytest

from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.config import SYSTEMS, ConfigError, save_config
from tfrec.evaluate import main as evaluate
from tfrec.runs.dataset import check_dataset, keep_dataset, knows_events, open_own_data
from tfrec.runs.finished import tell_finished
from tfrec.train import configure
from tfrec.train import main as train

OTHER_SPLIT = [0, 2, 1]
LEARN_FROM_ITEMS = [name for name in SYSTEMS if name not in ("retrieval", "ratings")]


def write(path, *, ids=("a", "b", "c"), users=("u",), split=(0, 1, 2), titles=("", "", ""), times=(0, 1, 2)):
    with PreparedWriter(path, dataset="tiny", overwrite=True) as writer:
        items = {"item_id": list(ids), "title": list(titles), "text": ["x"] * 3}
        writer.items(pd.DataFrame({**items, "split": np.array(split, np.int8)}))
        writer.users(pd.DataFrame({"user_id": list(users)}))
        writer.events(pd.DataFrame({"user": 0, "item": [0, 1, 2], "time": list(times), "split": [0, 1, 2]}))
    return open_prepared(path)


def begun(root, system, **changes):
    """A finished run of `system` on a dataset that is then written again with changes."""
    config = SYSTEMS[system].config_class(data=str(root / "data"), out=str(root / "run"))
    (root / "run").mkdir()
    save_config(config, root / "run" / "config.yaml")
    keep_dataset(root / "run", config, write(root / "data"))
    tell_finished(root / "run", steps=1)
    write(root / "data", **changes)
    return root / "run", config


@pytest.mark.parametrize(
    ("system", "changes", "says"),
    [
        *((system, {"split": OTHER_SPLIT}, "the split of its items is not the one") for system in LEARN_FROM_ITEMS),
        *((system, {"ids": ("b", "a", "c")}, "its items, or their order") for system in SYSTEMS),
        ("retrieval", {"times": (0, 1, 3)}, "its events or their split"),
        ("ratings", {"users": ("v",)}, "its users, or their order"),
    ],
)
def test_a_run_is_evaluated_and_taken_up_on_its_own_dataset_alone(tmp_path, capsys, system, changes, says):
    run_dir, config = begun(tmp_path, system, **changes)
    assert evaluate(["--run", str(run_dir)]) == 2
    assert says in capsys.readouterr().err
    with pytest.raises(ConfigError, match=says):
        keep_dataset(run_dir, config, open_prepared(config.data))


def test_the_command_to_go_on_asks(tmp_path, capsys):
    run_dir, _ = begun(tmp_path, "text_model", split=OTHER_SPLIT)
    words = ["--recipe", "text-model", "--data", str(tmp_path / "data"), "--out", str(run_dir)]
    save_config(configure(words)[0], run_dir / "config.yaml")
    assert train([*words, "--resume"]) == 2
    assert "the split of its items is not the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        *((system, {"times": (0, 1, 3), "users": ("v",), "titles": ("new", "", "")}) for system in LEARN_FROM_ITEMS),
        ("retrieval", {"split": OTHER_SPLIT, "users": ("v",)}),
    ],
)
def test_what_a_system_does_not_learn_from_may_change(tmp_path, system, changes):
    run_dir, config = begun(tmp_path, system, **changes)
    open_own_data(run_dir, config)


def test_other_events_are_taken_where_they_are_asked_for(tmp_path):
    run_dir, config = begun(tmp_path, "retrieval", times=(0, 1, 3))
    prepared = open_own_data(run_dir, config, other_events=True)
    assert not knows_events(run_dir, prepared)
    (run_dir / "dataset.json").unlink()
    check_dataset(run_dir, prepared)
    assert knows_events(run_dir, prepared)
