"""A run is evaluated from any folder, wherever its training was started."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import shutil

import numpy as np
import pytest

from pipelines.prepared import PreparedError
from tests.small_encoders import make_shop
from tfrec import evaluate, train
from tfrec.analysis.inputs import read_run
from tfrec.config import load_config, save_config
from tfrec.retrieval.config import RetrievalConfig
from tfrec.runs.places import fix_places, fixed_place, open_run_data

SMALL = ["--training.steps=2", "--training.evaluations=1", "--training.precision=float32", "--model.layers=1"]


def test_a_run_of_relative_paths_is_judged_from_another_folder(tmp_path, monkeypatch):
    make_shop(tmp_path / "here" / "data")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = ["--recipe", "text-model", "--data", "data", "--out", "run", *SMALL]
    assert train.run(words) == 0
    run_dir = tmp_path / "here" / "run"
    assert load_config(run_dir / "config.yaml").data == str(tmp_path / "here" / "data")

    monkeypatch.chdir(tmp_path / "there")
    (run_dir / "metrics.json").unlink()
    assert evaluate.main(["--run", "../here/run"]) == 0
    assert (run_dir / "metrics.json").is_file()


def test_a_run_that_kept_relative_places_equals_the_same_command(tmp_path, monkeypatch):
    """What --resume compares."""
    monkeypatch.chdir(tmp_path)
    config = RetrievalConfig(recipe="hm-small", data="data", out="run", features="store")
    save_config(config, tmp_path / "config.yaml")
    fix_places(config)
    assert (config.data, config.features) == (str(tmp_path / "data"), str(tmp_path / "store"))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("place", ["", "s3://shop/data", "/data/hm"])
def test_addresses_and_whole_paths_stay_as_they_are(place):
    assert fixed_place(place) == place


def test_a_dataset_that_has_moved_is_told_with_the_file_and_the_field_that_name_it(tmp_path):
    data, run_dir = make_shop(tmp_path / "data").path, tmp_path / "run"
    run_dir.mkdir()
    save_config(RetrievalConfig(data=str(data)), run_dir / "config.yaml")
    shutil.move(data, tmp_path / "moved")
    says = rf"{run_dir}/config.yaml, field data: {data} is not a folder; .*write its new place into that field"
    with pytest.raises(PreparedError, match=says):
        open_run_data(run_dir, load_config(run_dir / "config.yaml").data)
    assert open_run_data(run_dir, str(tmp_path / "moved")).path == tmp_path / "moved"
    np.savez(run_dir / "embeddings.npz", vectors=np.zeros((1, 2)), item_id=np.array(["a"]))
    with pytest.raises(PreparedError, match=says):
        read_run(run_dir)
