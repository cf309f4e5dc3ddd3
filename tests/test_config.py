"""Options: layers of files and overrides, errors that name what is wrong, recipes that all parse."""

import re
from pathlib import Path

import pytest

from tfrec.config import RECIPES, SYSTEMS, ConfigError, load_config, parse_config, read_yaml, recipe_path, save_config
from tfrec.config_ranges import RULES, _options, wrong_numbers
from tfrec.metric_learning.config import MetricLearningConfig
from tfrec.retrieval.config import RetrievalConfig
from tfrec.train import configure


def test_later_layers_win():
    layers = [{"model": {"image": {"size": [64, 48], "patch": 4}}}, {"model": {"image": {"patch": 8}}}]
    config, _ = parse_config("retrieval", layers, ["--model.image.dim", "36", "--training.batch_size", "auto"])
    assert config.model.image.size == (64, 48)
    assert (config.model.image.patch, config.model.image.dim, config.training.batch_size) == (8, 36, "auto")


@pytest.mark.parametrize(
    ("layer", "arguments", "named"),
    [
        ({"model": {"image": {"sise": 3}}}, [], "sise"),
        ({"model": {"image": {"size": "big"}}}, [], "model.image.size"),
        ({"task": {"candidates": "some"}}, [], "task.candidates"),
        ({}, ["--model.text.dimm", "3"], "model.text.dimm"),
        ({}, ["--training.epochs", "many"], "training.epochs"),
    ],
)
def test_unknown_and_mistyped_options_are_named(layer, arguments, named):
    with pytest.raises(ConfigError, match=named):
        parse_config("retrieval", [layer], arguments)


def test_saved_options_read_back_equal(tmp_path):
    words = ["--seed", "7", "--model.attributes.fields", "[colour]", "--training.xla", "true"]  # no longer trained so
    config, _ = parse_config("retrieval", [], words)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


def test_options_of_another_system_are_refused_by_name(tmp_path):
    config, _ = parse_config("ratings", [], [])
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml", RetrievalConfig) == config  # ratings are retrieval and more
    with pytest.raises(ConfigError, match=r"c\.yaml is of the system ratings; a run of metric_learning is wanted"):
        load_config(tmp_path / "c.yaml", MetricLearningConfig)


@pytest.mark.parametrize("recipe", sorted(p.stem for p in RECIPES.glob("*.yaml")))
def test_every_recipe_parses(recipe):
    config, _ = configure(["--recipe", recipe])
    assert config.recipe == recipe
    assert type(config) in [system.config_class for system in SYSTEMS.values()]


def test_missing_recipes_and_broken_files_say_so(tmp_path):
    with pytest.raises(ConfigError, match="Known: .*demo"):
        recipe_path("nonesuch")
    (tmp_path / "x.yaml").write_text("a: [1,")
    with pytest.raises(ConfigError, match="x.yaml"):
        read_yaml(tmp_path / "x.yaml")
    (tmp_path / "y.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="holds list"):
        read_yaml(tmp_path / "y.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(Path(tmp_path / "absent.yaml"))


def test_print_config_prints_yaml_that_config_reads(tmp_path, capsys):
    config, _ = configure(["--recipe", "hm", "--print-config", "--seed", "3"])
    assert config is None
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    again, _ = configure(["--recipe", "demo", "--config", str(tmp_path / "printed.yaml")])
    assert again.seed == 3
    assert again.model.image.dim == 768


@pytest.mark.parametrize(
    ("system", "words", "says"),
    [
        ("retrieval", ["--training.batch_size", "0"], "training.batch_size=0 must be at least 1"),
        ("retrieval", ["--model.query.dropout", "1.5"], "model.query.dropout=1.5 must be 0 or more and below 1"),
        ("retrieval", ["--training.learning_rate", "0"], "training.learning_rate=0.0 must be above 0"),
        ("retrieval", ["--task.temperature", "0"], "task.temperature=0.0 must be above 0"),
        ("retrieval", ["--evaluation.k", "[12, 0]"], "evaluation.k=[12, 0] must be at least 1"),
        ("retrieval", ["--model.fusion.modality_dropout", "0.6"], "modality_dropout=0.6 must be 0 to 0.5"),
        ("retrieval", ["--model.text.length", "1"], "model.text.length=1 must be at least 2"),
        ("retrieval", ["--model.fusion.heads", "7"], "model.fusion.heads=7 must divide the width model.fusion.dim=768"),
        (
            "retrieval",
            ["--training.accumulate", "2", "--model.item.deep", "false"],
            "accumulate=2: there is no item tower",
        ),
        ("metric_learning", ["--training.accumulate", "2"], "training.accumulate=2: there is no item tower"),
        ("retrieval", ["--model.image.patch", "15"], "patch=15 must divide both sides of model.image.size=[224, 224]"),
        (
            "retrieval",
            ["--model.image.stem_convolutions", "5"],
            "stem_convolutions=5 halve model.image.patch=16 too often",
        ),
        (
            "metric_learning",
            ["--seed", "-1", "--training.epochs", "-1"],
            "seed=-1 must be 0 to 4294967295; training.epochs",
        ),
    ],
)
def test_numbers_that_cannot_be_are_told_by_option_and_value(system, words, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse_config(system, [], words)


def test_what_belongs_together_is_told_too():
    for words, says in [
        (["--model.item.dim", "50"], "model.query.heads=8 must divide the width model.item.dim=50"),
        (["--model.item.dim", "24", "--model.query.positions", "rotary"], "a head must be even"),
        (
            ["--evaluation.k", "[5, 10]"],
            "training.monitor=recall@20 is no metric of the validation; name one of",
        ),
        (["--evaluation.k", "[]"], "evaluation.k=[] must name a length of list"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(says)):
            parse_config("retrieval", [], words)
    parse_config("retrieval", [], ["--evaluation.k", "[5, 10]", "--training.final", "true"])  # which validates nothing
    parse_config("metric_learning", [], ["--model.encoder.kind", "resnet", "--model.encoder.dim", "2050"])
    parse_config("retrieval", [], ["--evaluation.k", "[5, 10]", "--training.monitor", "hit_rate@5"])
    alone, _ = parse_config("pretrain", [], ["--model.image.enabled", "false"])
    assert alone.training.monitor == "loss"
    parse_config("retrieval", [], ["--model.text.weights", "somewhere", "--model.text.dim", "50"])


def test_histories_of_liked_items_know_no_times():
    liked = ["--rating.history", "liked"]
    for name in ("time_gaps", "repeats"):
        words = [
            *liked,
            "--model.query.time_gaps",
            "false",
            "--model.query.repeats",
            "false",
            f"--model.query.{name}",
            "true",
        ]
        with pytest.raises(ConfigError, match=f"model.query.{name}=true reads the time of every purchase"):
            parse_config("ratings", [], words)
    alone, _ = parse_config(
        "ratings", [], [*liked, "--model.query.time_gaps", "false", "--model.query.repeats", "false"]
    )
    assert (alone.history_min_rating, parse_config("ratings", [], [])[0].history_min_rating) == (4.0, 0.0)
    alone.model.query.kind = "user"
    assert alone.history_min_rating == 0.0


def test_every_rule_is_of_an_option():
    names = {name for system in SYSTEMS.values() for _, _, name, _ in _options(system.config_class(), "")}
    assert set(RULES) <= names
    assert not [wrong for system in SYSTEMS.values() for wrong in wrong_numbers(system.config_class())]
