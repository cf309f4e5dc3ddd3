"""Metric learning end to end on made-up two-sided items: training, resuming, judging, and what is told to the user."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipelines.__main__ import main as prepare
from pipelines.compcars_miniature import generate
from pipelines.label_batches import LabelBatches
from pipelines.photos.views import read_views
from pipelines.prepared import PreparedError, open_prepared
from tests.metric_data import write_items
from tfrec.config import ConfigError, parse_config, read_yaml, recipe_path, save_config
from tfrec.metric_learning import system as metric_learning

LOSSES = ["arcface", "contrastive", "cross_entropy", "multi_similarity", "ntxent", "supcon", "triplet"]
SMALL = {
    "model": {
        "encoder": {"size": [16, 16], "patch": 8, "stem_convolutions": 0, "dim": 16, "layers": 1, "heads": 2},
        "views": ["front", "rear"],
        "embedding": 8,
    },
    "task": {"per_class": 4},
    "training": {"batch_size": 16, "steps": 4, "precision": "float32", "deterministic": False, "learning_rate": 0.003},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_items(tmp_path_factory.mktemp("two_sided") / "data")


def configure(data, *layers, recipe="metric-small"):
    recipe = read_yaml(recipe_path(recipe))
    return parse_config(recipe.pop("system"), [recipe, {"data": str(data)}, *layers], [])[0]


def run(config, folder):
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    metric_learning.train(config, folder)
    return folder


def vectors(folder):
    with np.load(folder / "embeddings.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    options = {"training": {"steps": 60}, "task": {"loss": "supcon"}}
    return run(configure(data, SMALL, options), tmp_path_factory.mktemp("runs") / "both")


@pytest.mark.long
def test_xla_makes_the_same_steps(data, tmp_path):
    losses = []
    for xla in (False, True):
        folder = run(configure(data, SMALL, {"training": {"xla": xla}}), tmp_path / str(xla))
        losses.append(pd.read_csv(folder / "history.csv")["loss"].to_numpy())
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.long
def test_both_views_tell_classes_apart_that_one_view_cannot(data, trained, tmp_path):
    both = metric_learning.evaluate(trained)
    options = {"training": {"steps": 60}, "task": {"loss": "supcon"}, "model": {"views": ["front"]}}
    front = metric_learning.evaluate(run(configure(data, SMALL, options), tmp_path / "front"))
    assert both["metrics"]["knn_accuracy"]["value"] == 1.0
    assert front["metrics"]["knn_accuracy"]["value"] <= 0.75
    assert both["protocol"]["views"] == ["front", "rear"]
    assert both["protocol"]["classes_seen_in_training"] is True


def test_a_run_is_judged_beside_pixels_and_the_untrained_encoder(trained):
    content = metric_learning.evaluate(trained, split="val", ks=[1, 2])
    assert json.loads((trained / "metrics.json").read_text()) == content
    wanted = {"knn_accuracy", "recall@1", "recall@2", "map@r", "ari", "nmi", "purity"}
    for summary in (content["metrics"], content["baselines"]["pixels"], content["baselines"]["untrained"]):
        assert set(summary) == wanted
        assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in summary.values())
    page = (trained / "report.html").read_text()
    assert "Raw pixels" in page
    assert "data:image/png" in page  # the training curves


def test_vectors_of_every_item_before_and_after_are_left_for_analysis(data, trained, tmp_path):
    from tfrec.analyze import main

    found = vectors(trained)
    assert len(found["item_id"]) == len(open_prepared(data).items)
    np.testing.assert_allclose(np.linalg.norm(found["vectors"], axis=1), 1.0, atol=1e-5)
    assert found["before"].shape == (48, 32)  # two views of 16 end to end
    words = ["--run", str(trained), "--out", str(tmp_path), "--projections", "pca", "--clusterings", "kmeans"]
    assert main(words) == 0
    metrics = json.loads((tmp_path / "analysis.json").read_text())["metrics"]
    assert metrics["after"]["knn_accuracy"] >= metrics["before"]["knn_accuracy"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_every_loss_reaches_the_encoder(data, loss):
    import tensorflow as tf

    from tfrec.metric_learning.assembly import MetricAssembly

    assembly = MetricAssembly(configure(data, SMALL, {"task": {"loss": loss}}), open_prepared(data))
    batch = next(iter(assembly.dataset(0, 1)))
    with tf.GradientTape() as tape:
        value = assembly.model.compute_loss(batch, training=True)
    gradient = tape.gradient(value, assembly.model.views.encoder.embedding.projection.kernel)
    assert value > 0
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-6


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    """Drawn cars of eight models: a front tells half of them apart, a rear the other half."""
    folder = tmp_path_factory.mktemp("cars")
    generate(folder / "raw", makes=2, photos=10)
    assert prepare(["compcars", "--raw", str(folder / "raw"), "--out", str(folder / "data"), "--size", "96"]) == 0
    return folder / "data"


CARS = {
    "model": {
        "encoder": {"size": [32, 32], "patch": 8, "dim": 32, "layers": 2, "heads": 4}
        | {"stem_convolutions": 3, "stem_pooling": True},
        "embedding": 32,
    },
    "augment": {"operations": 0, "box_play": 0.0, "zoom": 1.0, "shift": 0.05},
    "task": {"loss": "contrastive"},
    "training": {"batch_size": 32, "precision": "float32", "learning_rate": 0.002, "evaluations": 1},
}


def test_a_neck_spreads_what_a_random_encoder_leaves_together(cars):
    from tfrec.metric_learning.assembly import MetricAssembly
    from tfrec.metric_learning.losses import normalize

    def mean_cosine(neck):
        config = configure(cars, CARS, {"model": {"neck": neck}}, recipe="compcars")
        tf.keras.utils.set_random_seed(0)
        assembly = MetricAssembly(config, open_prepared(cars))
        unit = normalize(assembly.model.embed(next(iter(assembly.dataset(0, 1)))["items"], training=True)).numpy()
        return (unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean()

    assert mean_cosine(neck=False) > 0.8
    assert abs(mean_cosine(neck=True)) < 0.1


@pytest.mark.long
def test_a_killed_training_resumes_to_the_same_vectors(data, tmp_path, monkeypatch):
    from tfrec.training.trainer import Trainer

    options = {
        "training": {"steps": 6, "checkpoint_seconds": 0.0},
        "model": {"encoder": {"stem_convolutions": 1, "stem_pooling": True}},  # with statistics to resume
    }
    config = configure(data, SMALL, options)
    whole = vectors(run(config, tmp_path / "whole"))
    advance = Trainer._advance

    def stop(self, loss):
        if int(self.progress.step) == 4:
            raise KeyboardInterrupt
        return advance(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "killed")
    assert not (tmp_path / "killed" / "embeddings.npz").exists()
    resumed = vectors(run(config, tmp_path / "killed"))
    np.testing.assert_allclose(resumed["before"], whole["before"], atol=1e-6)
    np.testing.assert_allclose(resumed["vectors"], whole["vectors"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "resnet"])
@pytest.mark.long
def test_the_compcars_recipe_takes_a_step_with_every_encoder(data, tmp_path, kind):
    encoder = {"kind": kind, "size": [32, 32], "patch": 16, "dim": 16, "layers": 2, "heads": 2, "width": 4}
    small = {
        "model": {"encoder": {**encoder, "depths": [1, 1]}, "fusion": "attention", "heads": 2, "embedding": 8},
        "training": {"batch_size": 8, "steps": 1, "precision": "float32", "deterministic": False},
        "augment": {"operations": int(kind == "clip")},
    }
    found = vectors(run(configure(data, small, recipe="compcars"), tmp_path))
    assert found["vectors"].shape == (48, 8)


def test_frozen_encoders_keep_their_weights_and_low_rank_updates_are_all_that_trains(data):
    from tfrec.metric_learning.assembly import MetricAssembly

    def trained_parts(**encoder):
        model = MetricAssembly(configure(data, SMALL, {"model": {"encoder": encoder}}), open_prepared(data)).model
        return model.views.encoder.trainable_variables, model

    variables, model = trained_parts(train_blocks=0)
    assert not variables
    assert model.head.trainable_variables
    variables, _ = trained_parts(lora_rank=2)
    assert {v.name.split("/")[-1].split(":")[0] for v in variables} == {"lora_down", "lora_up"}


def test_published_weights_are_where_training_starts(data, tmp_path, monkeypatch):
    from tfrec.encoders.image import ViTEncoder
    from tfrec.encoders.sides import ImageSide
    from tfrec.metric_learning import assembly as metric_assembly

    asked = {}

    def load(source, *, size, layers):
        asked.update(source=source, size=size, layers=layers)
        return ImageSide(ViTEncoder(size=size, patch=8, dim=8, layers=1, heads=2))

    monkeypatch.setattr(metric_assembly, "load_image_side", load)
    options = {"model": {"encoder": {"weights": "some/folder", "keep_layers": 3}}}
    config = configure(data, SMALL, options)
    encoder = metric_assembly.MetricAssembly(config, open_prepared(data)).model.views.encoder
    assert asked == {"source": "some/folder", "size": (16, 16), "layers": 3}
    assert encoder.dim == 8
    assert encoder.pooling == "mean"  # of the recipe, not the class token of the weights


def test_weights_are_pooled_as_the_options_say(tmp_path):
    from tfrec.encoders.image import ViTEncoder
    from tfrec.encoders.sides import ImageSide, save_side
    from tfrec.metric_learning.assembly import build_encoder
    from tfrec.metric_learning.config import PhotoEncoderConfig

    def save(name, **options):
        encoder = ViTEncoder(size=16, patch=8, dim=8, layers=2, heads=2, name="image_encoder", **options)
        encoder.build(None)
        save_side(ImageSide(encoder), tmp_path / name)
        return str(tmp_path / name)

    plain, projected = save("plain"), save("projected", projection_dim=5)
    both = build_encoder(PhotoEncoderConfig(weights=plain, size=(16, 16), pooling="class_mean", keep_layers=1))
    assert (both.output_dim, len(both.blocks)) == (16, 1)
    tokens = both(np.zeros((1, 16, 16, 3), np.float32))
    np.testing.assert_allclose(both.pooled(tokens)[0, 8:], tf.reduce_mean(tokens[0, 1:], axis=0), atol=1e-6)
    assert build_encoder(PhotoEncoderConfig(weights=projected, size=(16, 16))).output_dim == 5
    with pytest.raises(ConfigError, match=r"model\.encoder\.pooling mean: .* set model\.encoder\.pooling to class"):
        build_encoder(PhotoEncoderConfig(weights=projected, size=(16, 16), pooling="mean"))


def test_batches_are_balanced_and_a_function_of_the_step(data):
    from pipelines.photos.augment import PhotoAugmenter

    prepared = open_prepared(data)
    photos = read_views(prepared, ["front", "rear"], (16, 16))
    rows = np.flatnonzero(prepared.items["split"] == 0)
    labels = np.unique(prepared.items["label"].to_numpy()[rows], return_inverse=True)[1].astype(np.int32)
    batches = LabelBatches(rows, labels, photos, classes=3, per_class=2, seed=1)
    augment = PhotoAugmenter((16, 16), flip=True, shift=0.2, zoom=0.7)
    whole = list(batches.dataset(0, 8, augment))
    assert whole[0]["items"]["photos"].shape == (6, 2, 16, 16, 3)
    for batch in whole:
        assert sorted(np.unique(batch["labels"], return_counts=True)[1]) == [2, 2, 2]
    for late, again in zip(whole[5:], batches.dataset(5, 8, augment), strict=True):
        np.testing.assert_array_equal(late["labels"], again["labels"])
        np.testing.assert_array_equal(late["items"]["photos"], again["items"]["photos"])


def test_photos_that_do_not_fit_into_memory_are_decoded_batch_by_batch(data):
    prepared = open_prepared(data)
    resident = read_views(prepared, ["front", "rear"], (16, 16))
    lazy = read_views(prepared, ["front", "rear"], (16, 16), limit=1)
    assert lazy.pixels is None
    labels = np.repeat(np.arange(4, dtype=np.int32), 12)
    made = [
        next(iter(LabelBatches(np.arange(48), labels, photos, classes=2, per_class=2).dataset(0, 1)))
        for photos in (resident, lazy)
    ]
    np.testing.assert_array_equal(made[0]["items"]["photos"], made[1]["items"]["photos"])
    assert not resident.present[0, 1]
    assert (resident.pixels[0, 1] == 255).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": {"views": ["top"]}}, "no photo of the view 'top'"),
        ({"task": {"label": "wheels"}}, "task.label wheels"),
        ({"task": {"label": "front", "per_class": 4}}, "classes in a batch"),
        ({"task": {"options": {"arcface": {"temperature": 1.0}}}}, "no option 'temperature'"),
        ({"task": {"options": {"arc": {}}}}, "'arc' is no loss"),
        ({"model": {"encoder": {"patch": 5}}}, "patch=5"),
        ({"model": {"encoder": {"train_blocks": 4}}}, "train_blocks 4"),
        ({"training": {"batch_size": "auto"}}, "training.batch_size"),
    ],
)
def test_what_does_not_fit_is_named(data, options, says):
    from tfrec.metric_learning.assembly import MetricAssembly

    with pytest.raises((ConfigError, PreparedError), match=says):
        MetricAssembly(configure(data, SMALL, options), open_prepared(data))


def test_a_validation_without_pairs_is_none(data):
    """With one item a class all of its metrics would be 0 for ever, and the first weights the best."""
    embeddings = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    def assembly(labels):
        return SimpleNamespace(
            config=configure(data),
            labels=np.array(labels),
            rows=lambda split: np.arange(len(labels)),
            embed=lambda rows, progress: embeddings[rows],
        )

    assert metric_learning.validation(assembly(["a", "b", "c", "d"])) is None
    assert metric_learning.validation(assembly(["a", "a", "a", "a"])) is None
    evaluate = metric_learning.validation(assembly(["a", "a", "b", "c"]))
    assert set(evaluate()) == set(configure(data).monitors())


def test_a_split_without_items_is_an_error_that_says_how_to_get_some(data, trained):
    from tfrec.metric_learning.protocol import LabelProtocol

    prepared = open_prepared(data)
    prepared.items["split"] = np.int8(0)
    with pytest.raises(ConfigError, match="--test-share"):
        LabelProtocol.build(prepared, vectors(trained)["item_id"], configure(data), "test")


def test_items_that_left_the_dataset_are_named(data, trained):
    from tfrec.metric_learning.protocol import LabelProtocol

    ids = vectors(trained)["item_id"]
    ids[3] = "gone"
    with pytest.raises(ConfigError, match=r"1 items of the run are not in .*'gone'"):
        LabelProtocol.build(open_prepared(data), ids, configure(data), "test")
