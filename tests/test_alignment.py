"""Alignment of attributes and photos: the objective, the metrics, the baselines, and the whole way on drawn outfits."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.small_encoders import make_shop, make_sides
from tfrec import train
from tfrec.alignment import sanity_check
from tfrec.alignment import system as alignment
from tfrec.alignment.config import AlignmentConfig
from tfrec.alignment.contrastive import AlignmentModel
from tfrec.alignment.metrics import SIDES, alignment_metrics, linear_baseline, unit
from tfrec.alignment.system import AlignmentAssembly, drop_fields
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.evaluation.matching import chance, match_metrics, match_ranks
from tfrec.evaluation.ridge import best_strength, fit_ridge
from tfrec.features.store import FeatureError
from tfrec.features.writer import FeatureWriter
from tfrec.losses import info_nce, same_rows


def random_units(count, dim=8, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, dim))).astype(np.float32)


def plain_info_nce(left, right, temperature, same):
    """Both directions, in loops."""
    total = 0.0
    for one, other in ((left, right), (right, left)):
        for i in range(len(one)):
            logits = [one[i] @ other[j] / temperature for j in range(len(other)) if j == i or not same[i, j]]
            total += np.log(np.exp(logits).sum()) - one[i] @ other[i] / temperature
    return total / (2 * len(left))


@pytest.mark.parametrize("stage", [1, 2])
def test_equal_attributes_are_no_negatives_in_whatever_order(stage):
    """The encoder takes the mean of a field's values: it cannot tell such items apart."""
    ids = np.array([[[2, 3, 0], [4, 0, 0]], [[3, 2, 0], [4, 0, 0]], [[2, 4, 0], [4, 0, 0]]], np.int32)
    prepared = SimpleNamespace(items=pd.DataFrame({"split": [0, 0, 0]}))
    photos = random_units(3)
    assembly = AlignmentAssembly(AlignmentConfig(), prepared, None, None, ids, photos, None)
    (batch,) = assembly.batches(0, 1, 3, stage=stage)
    order = [photos.tolist().index(row) for row in batch["vectors"].numpy().tolist()] if stage == 2 else None
    same = same_rows(batch["whole"]).numpy()
    assert same.sum() == 5
    if order is not None:
        assert same[order.index(0), order.index(1)]


@pytest.mark.parametrize("repeated", [False, True])
def test_info_nce_equals_a_plain_loop(repeated):
    left, right = random_units(6), random_units(6, seed=1)
    rows = np.array([0, 1, 2, 3, 1, 0] if repeated else range(6))
    same = same_rows(tf.constant(rows[:, None]))
    np.testing.assert_array_equal(same, rows[:, None] == rows)
    expected = plain_info_nce(left, right, 0.07, np.asarray(same))
    assert float(info_nce(left, right, temperature=0.07, same=same)) == pytest.approx(expected, rel=1e-4)


def test_ranks_count_better_ones_and_share_ties():
    similarity = np.array([[0.9, 0.1, 0.5], [0.8, 0.5, 0.5], [0.7, 0.7, 0.7]])
    np.testing.assert_array_equal(match_ranks(similarity), [1.0, 2.5, 2.0])
    similarity[0, 0], similarity[2, 0] = np.nan, np.nan  # what is no number is no match
    np.testing.assert_array_equal(match_ranks(similarity)[[0, 2]], [4.0, 2.5])
    equal = np.ones((11, 4), np.float32)
    assert match_metrics(equal, equal)["top@5"].mean() == 0.0  # all the same: place 6 of 11
    perfect = alignment_metrics(random_units(40), random_units(40))
    assert all(perfect[name]["value"] == pytest.approx(1.0) for name in perfect)


def test_a_block_of_queries_at_a_time_gives_the_same_ranks(monkeypatch):
    left, right = random_units(23), random_units(23, seed=1)
    whole = match_metrics(left, right)
    monkeypatch.setattr("tfrec.evaluation.matching.BLOCK", 5 * 23)
    blocks = match_metrics(left, right)
    assert {name: values.tolist() for name, values in blocks.items()} == {n: v.tolist() for n, v in whole.items()}


def test_chance_is_what_random_vectors_reach():
    expected = chance(20, SIDES)
    found = [match_metrics(random_units(20, seed=s), random_units(20, seed=1000 + s)) for s in range(300)]
    for name in ("top@1", "top@5", "mrr"):
        mean = np.mean([values[name].mean() for values in found])
        assert mean == pytest.approx(expected[f"photo_{name}"]["value"], abs=0.02)


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)])
def test_ridge_solves_its_normal_equations(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), rng.normal(size=(shape[0], 3))
    predicted = fit_ridge(x, y, 2.0)(x)
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + 2.0 * np.eye(shape[1]), centred.T @ (y - y.mean(0)))
    np.testing.assert_allclose(predicted, centred @ weights + y.mean(0), atol=1e-8)


def test_the_linear_baseline_finds_a_linear_relation():
    rng = np.random.default_rng(0)
    one_hot = (rng.random((200, 12)) < 0.4).astype(np.float32)
    pixels = one_hot @ rng.normal(size=(12, 60)).astype(np.float32) + 0.05 * rng.normal(size=(200, 60)).astype(
        np.float32
    )
    found = linear_baseline(pixels, one_hot, np.arange(150), np.arange(150, 200), strengths=(0.1, 10.0))
    assert found["photo_top@5"]["value"] > 0.9
    noise = rng.normal(size=pixels.shape).astype(np.float32)
    lost = linear_baseline(noise, one_hot, np.arange(150), np.arange(150, 200), strengths=(0.1, 10.0))
    assert lost["photo_top@5"]["value"] < 0.35


def test_a_validation_tells_the_metrics_that_can_be_monitored():
    found = SimpleNamespace(
        rows=lambda split: np.arange(5), vectors=lambda rows: (random_units(5),) * 2, loss=lambda rows: {"value": 1.0}
    )
    assert set(AlignmentAssembly.validate(found)) == set(AlignmentConfig().monitors())


def test_dropped_fields_never_leave_an_item_without_any():
    ids = np.random.default_rng(0).integers(0, 3, (500, 4, 2)).astype(np.int32)
    dropped = drop_fields(ids, 0.5, np.random.default_rng(1))
    had, has = (ids > 0).any((1, 2)), (dropped > 0).any((1, 2))
    np.testing.assert_array_equal(has, had)
    assert ((dropped == 0) | (dropped == ids)).all()
    assert (dropped > 0).sum() < 0.8 * (ids > 0).sum()


def test_only_what_is_not_frozen_trains():
    project = tf.keras.layers.Dense(16)
    model = AlignmentModel(
        AttributeEncoder([6, 6], 4, alone=True, hidden_dim=8, output_dim=16), project, temperature=0.07
    )
    ids = np.random.default_rng(0).integers(0, 6, (8, 2, 1)).astype(np.int32)
    batch = {"attributes": ids, "vectors": random_units(8, 10), "whole": ids}
    losses = []
    optimizer = tf.keras.optimizers.Adam(0.01)
    for _ in range(30):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch, training=True)
        optimizer.minimize(loss, model.trainable_variables, tape=tape)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert len(model.trainable_variables) == 7  # table, two layers and the projection: no image encoder is in the model


def test_the_feature_store_must_be_of_the_runs_encoder_and_of_photos(tmp_path):
    shop = make_shop(tmp_path / "data")
    text, image = make_sides(shop.items["text"])
    config = AlignmentConfig(data=str(shop.path), features=str(tmp_path / "store"))
    FeatureWriter(text, shop, tmp_path / "store").write()
    with pytest.raises(FeatureError, match="holds features of texts alone"):
        alignment.image_side(config)
    FeatureWriter(image, shop, tmp_path / "store").write()
    side = alignment.image_side(config)
    assert alignment.photo_vectors(config, shop, side, tmp_path / "run").shape == (len(shop.items), side.vector_dim)
    config.model.image.weights = "/some/clip"
    with pytest.raises(FeatureError, match="model.image.weights=/some/clip, but .* was made with small vit"):
        alignment.image_side(config)
    image.encoder.layer_norm.beta.assign_add(tf.ones([16]))
    image.__dict__.pop("digest")
    FeatureWriter(image, shop, tmp_path / "store").write()  # as wide as before
    with pytest.raises(FeatureError, match="made by another encoder"):
        alignment.photo_vectors(config, shop, side, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.long
def test_the_sanity_check_passes():
    assert train.main(["--sanity-check"]) == 0


def test_a_failed_check_is_an_error(monkeypatch):
    monkeypatch.setattr(sanity_check, "draw", lambda folder: folder)
    assert train.main(["--sanity-check"]) == 2


def test_the_strength_of_a_ridge_is_chosen_on_rows_that_are_not_fitted_on():
    seen = []

    def quality(strength, fitted, evaluated):
        seen.append((sorted(fitted), sorted(evaluated)))
        return -abs(strength - 3)

    assert best_strength([1.0, 3.0, 9.0], np.arange(3), quality, seed=0) == 3.0
    assert all(len(evaluated) == 1 and sorted(fitted + evaluated) == [0, 1, 2] for fitted, evaluated in seen)
    assert best_strength([1.0, 3.0], np.arange(1), quality, seed=0) == 3.0


def test_options_of_encoders_that_train_are_none_of_a_frozen_ones(tmp_path, capsys):
    words = ["--recipe", "kfashion", "--data", str(tmp_path), "--model.image.lora_rank", "8"]
    assert train.main(words) == 2
    assert "lora_rank" in capsys.readouterr().err
