"""Datasets that a configuration cannot learn from are told in one line, before a run is begun."""

import pandas as pd
import pytest

from pipelines.__main__ import main as prepare
from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.alignment.config import AlignmentConfig
from tfrec.config import ConfigError
from tfrec.evaluation.protocol import ProtocolError, build_protocol
from tfrec.metric_learning.config import MetricLearningConfig
from tfrec.ratings.config import RatingsConfig
from tfrec.retrieval.config import RetrievalConfig
from tfrec.runs.data_checks import check_data, leave_out_what_is_missing
from tfrec.train import main as train


def dataset(path, *, texts=("", ""), attributes=None, ratings=(1.0, 2.0, 3.0), splits=(0, 0, 2)):
    items = pd.DataFrame({"item_id": ["a", "b"], "text": list(texts)})
    if attributes:
        items["attr.kind"] = attributes
    events = pd.DataFrame({"user": 0, "item": [0, 1, 1], "time": [0, 1, 2], "split": splits})
    with PreparedWriter(path, dataset="tiny") as writer:
        writer.items(items)
        writer.users(pd.DataFrame({"user_id": ["u"]}))
        writer.events(events if ratings is None else events.assign(rating=ratings))
    return open_prepared(path)


def without_ids(**enabled):
    config = RetrievalConfig()
    config.model.item.id_embedding = False
    for name in ("image", "text", "attributes"):
        getattr(config.model, name).enabled = enabled.get(name, False)
    return config


@pytest.mark.parametrize(
    ("enabled", "has", "lacks"),
    [
        ({"text": True}, {}, "no texts"),
        ({"attributes": True}, {}, "no attributes"),
        ({"image": True, "text": True}, {"attributes": [["x"], ["y"]]}, "no photos and no texts"),
        ({}, {"texts": ["one", "two"]}, "no content that is enabled"),
    ],
)
def test_items_that_nothing_tells_apart_are_refused(tmp_path, enabled, has, lacks):
    with pytest.raises(ConfigError, match=lacks):
        check_data(without_ids(**enabled), dataset(tmp_path / "data", **has))


@pytest.mark.parametrize(
    ("enabled", "has"),
    [({"text": True}, {"texts": ["", "two"]}), ({"text": True, "attributes": True}, {"attributes": [["x"], ["y"]]})],
)
def test_one_kind_of_content_is_enough(tmp_path, enabled, has):
    check_data(without_ids(**enabled), dataset(tmp_path / "data", **has))


def test_content_that_no_tower_reads_is_none(tmp_path):
    config = without_ids(text=True)
    config.model.item.deep = config.model.item.shallow = False
    with pytest.raises(ConfigError, match="model.item.deep"):
        check_data(config, dataset(tmp_path / "data", texts=["one", "two"]))


def test_encoders_of_what_a_dataset_lacks_are_left_out_and_named(tmp_path):
    config = RetrievalConfig()
    told = leave_out_what_is_missing(config, dataset(tmp_path / "data", texts=["", "two"]))
    assert (config.model.image.enabled, config.model.text.enabled) == (False, True)
    assert len(told) == 1
    assert "have no photos: model.image.enabled is set to false" in told[0]
    assert not leave_out_what_is_missing(
        config, dataset(tmp_path / "same", texts=["", "two"])
    )  # as in a run's own config
    config.model.text.weights = "hf://org/name"
    with pytest.raises(ConfigError, match=r"model.text.weights=hf://org/name, but the items of .* have no texts"):
        leave_out_what_is_missing(config, dataset(tmp_path / "nothing"))


def test_ratings_on_another_scale_are_told_with_the_options(tmp_path):
    config = RatingsConfig()
    config.evaluation.min_rating = 4.0
    data = dataset(tmp_path / "data", ratings=(0.0, 1.0, 0.5))
    with pytest.raises(ConfigError, match=r"go from 0 to 1; set --rating.liked .*--evaluation.min_rating"):
        check_data(config, data)
    config.rating.liked, config.evaluation.min_rating = 1.0, 0.5
    check_data(config, data)
    check_data(RatingsConfig(), dataset(tmp_path / "without", ratings=None))  # told by the model, which needs them


def test_a_threshold_of_ratings_asks_for_ratings(tmp_path):
    config = RetrievalConfig()
    config.evaluation.min_rating = 4.0
    with pytest.raises(ConfigError, match=r"evaluation.min_rating=4: .* have no ratings; set it to 0"):
        check_data(config, dataset(tmp_path / "data", ratings=None))


def test_a_dataset_with_nothing_held_out_is_refused_before_it_is_trained_on(tmp_path):
    with pytest.raises(ConfigError, match="none of its 3 events is held out to be evaluated on"):
        check_data(RetrievalConfig(), dataset(tmp_path / "data", splits=(0, 0, 1)))


def test_a_dataset_without_a_training_part_is_refused(tmp_path):
    data = dataset(tmp_path / "data", splits=(1, 1, 2))
    with pytest.raises(ConfigError, match="none of its 3 events is there to train on"):
        check_data(RetrievalConfig(), data)
    config = RetrievalConfig()
    config.training.final = True  # trains on the validation part, too
    check_data(config, data)


def test_training_is_refused_before_its_run_is_begun(tmp_path, capsys):
    (tmp_path / "walks.txt").write_text("".join(f"u{user} a b c d\n" for user in range(5)))
    assert prepare(["sequences", "--raw", str(tmp_path / "walks.txt"), "--out", str(tmp_path / "data")]) == 0
    words = ["--recipe", "sequence-small", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    for options in ([], ["--model.text.enabled", "true"]):
        assert train([*words, "--model.item.id_embedding", "false", *options]) == 2
        assert "model.item.id_embedding=false" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_time_for_all_ratings_cannot_be_split_by_time(tmp_path, capsys):
    rows = "".join(f"{user},{item},4,100\n" for user in range(5) for item in range(5))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    words = ["movielens", "--raw", str(tmp_path), "--out", str(tmp_path / "data")]
    assert prepare([*words, "--split", "time-ratio"]) == 2
    assert "leaves none of the 25 ratings to train on" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert prepare([*words, "--split", "random"]) == 0


def test_an_evaluation_of_nobody_names_its_filters(tmp_path):
    with pytest.raises(ProtocolError, match=r"0 targets are rated 4 and more \(min_rating\)"):
        build_protocol(dataset(tmp_path / "data"), "test", min_rating=4.0)
    with pytest.raises(ProtocolError, match=r"0 are new to their user \(seen_filter\)"):
        build_protocol(dataset(tmp_path / "again"), "test", seen_filter=True)


@pytest.mark.parametrize(
    ("config", "splits", "labels", "says"),
    [
        (MetricLearningConfig(), (0, 0, 0, 0), "aabb", "none of its 4 items is held out to be evaluated on"),
        (MetricLearningConfig(), (2, 2, 2, 2), "aabb", "none of its 4 items is to train on"),
        (MetricLearningConfig(), (0, 2, 2, 2), "abbb", "test items of .* have 1 classes"),
        (AlignmentConfig(), (0, 0, 0, 0), "aabb", "held out to be evaluated on.*--test-share"),
        (MetricLearningConfig(), (0, 2, 2, 2), "aaab", None),
        (AlignmentConfig(), (0, 2, 2, 2), "aaab", None),
    ],
)
def test_items_to_train_on_and_to_be_evaluated_on_are_asked_for(tmp_path, config, splits, labels, says):
    with PreparedWriter(tmp_path / "data", dataset="tiny") as writer:
        items = {"item_id": list("wxyz"), "label": list(labels), "split": pd.array(splits, "int8")}
        writer.items(pd.DataFrame(items))
    prepared = open_prepared(tmp_path / "data")
    if says is None:
        check_data(config, prepared)
    else:
        with pytest.raises(ConfigError, match=says):
            check_data(config, prepared)
