"""Published encoders in the retrieval system: frozen and stored, partly trained, adapted; trained, evaluated, served."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.layer_checks import global_policy
from tests.small_encoders import make_shop, save_sides
from tfrec.config import ConfigError, parse_config, read_yaml, recipe_path, save_config
from tfrec.features import frozen, writer
from tfrec.features.frozen import frozen_features
from tfrec.features.store import FeatureError, content_keys
from tfrec.features.writer import FeatureWriter
from tfrec.retrieval import system
from tfrec.retrieval.assembly import RetrievalAssembly
from tfrec.retrieval.assets import Assets
from tfrec.retrieval.loading import load_assembly
from tfrec.runs.run import load_run
from tfrec.saved_model.new_items import encode_items

SMALL = [
    *("--training.steps=6", "--training.evaluations=1", "--training.batch_size=16", "--task.encode_items=16"),
    *("--model.fusion.dim=16", "--model.item.dim=16", "--model.query.heads=2", "--training.precision=float32"),
    *("--model.image.size=[32,24]", "--model.text.length=24", "--model.text.vocabulary_size=200"),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop") / "data")


@pytest.fixture
def weights(shop, tmp_path):
    return save_sides(shop.items["text"], tmp_path / "weights")


def configured(shop, *options):
    layer = read_yaml(recipe_path("demo"))
    system = layer.pop("system")
    arguments = [*SMALL, f"--data={shop.path}", *options]
    return parse_config(system, [layer, {"recipe": "demo"}], arguments)[0]


def frozen_options(weights):
    return [f"--model.text.weights={weights}", f"--model.image.weights={weights}"]


def losses_of(assembly, steps=4):
    optimizer, losses = tf.keras.optimizers.Adam(3e-3), []
    for batch in assembly.dataset(0, steps):
        with tf.GradientTape() as tape:
            loss = assembly.model.compute_loss(batch, training=True)
        optimizer.minimize(loss, assembly.model.trainable_variables, tape=tape)
        losses.append(float(loss))
    return losses


@pytest.mark.long
def test_a_training_may_ask_for_the_last_days_alone(shop):
    assembly = RetrievalAssembly(configured(shop, "--task.target_days=28", "--training.final=false"), shop)
    purchases, batches = assembly.purchases, assembly.batches
    day = purchases.time // 86_400
    recent = day > day.max() - 28
    np.testing.assert_array_equal(assembly.predicted, recent)
    assert 0 < recent.sum() < len(purchases)
    targets = np.concatenate([batches(step)["targets"].ravel() for step in range(batches.steps_per_epoch)])
    assert set(targets[targets >= 0]) <= set(purchases.item[recent])
    # What no batch names has no id of its own: it was never told apart from anything.
    counts = np.bincount(purchases.item[batches.named], minlength=len(shop.items))
    np.testing.assert_allclose(assembly.frequency, counts / counts.sum())
    np.testing.assert_array_equal(assembly.model.vectors.warm.numpy() > 0, counts > 0)
    assert losses_of(assembly)[-1] > 0


@pytest.mark.parametrize(
    ("frozen", "policy"),
    [pytest.param(True, "mixed_float16", marks=pytest.mark.long), (False, "mixed_bfloat16")],
)
@pytest.mark.long
def test_the_recipe_computes_the_same_loss_in_half_precision(shop, weights, tmp_path, frozen, policy):
    config = configured(shop, *(frozen_options(weights) if frozen else []))
    losses = []
    for name in ("float32", policy):
        with global_policy(name):
            tf.keras.utils.set_random_seed(3)
            assets = Assets.learn(config, shop)
            assembly = RetrievalAssembly(config, shop, assets, frozen_features(config, shop, assets, tmp_path / name))
            assembly.refresh(progress=False)
            losses.append([float(assembly.model.compute_loss(batch)) for batch in assembly.dataset(0, 2)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


@pytest.mark.long
def test_training_from_the_store_equals_training_from_raw_inputs(shop, weights, tmp_path):
    config = configured(
        shop, *frozen_options(weights), "--model.item.shallow=false", "--model.fusion.modality_dropout=0.3"
    )
    assets = Assets.learn(config, shop)
    features = frozen_features(config, shop, assets, tmp_path)
    runs = []
    for stored in (features, {}):
        tf.keras.utils.set_random_seed(3)
        assembly = RetrievalAssembly(config, shop, assets, stored)
        assert (assembly.model.item_tower.text is None) == bool(stored)
        runs.append((losses_of(assembly), assembly))
    (from_store, one), (from_raw, other) = runs
    np.testing.assert_allclose(from_store, from_raw, rtol=2e-3)
    assert from_raw[-1] != from_raw[0]
    one.refresh(progress=False)
    other.refresh(progress=False)
    np.testing.assert_allclose(one.model.vectors.bank, other.model.vectors.bank, atol=0.02)


def served_and_stored(run, assembly):
    """Every item's vector from raw content as it is served, and from the features that training read."""
    vectors, rows = assembly.model.vectors, tf.range(len(assembly.prepared.items))
    inputs = {name: tf.constant(array) for name, array in vectors._inputs.items()}
    assert set(inputs) == {"tokens", "attributes", "text_vector", "photo_vector"}
    stored = vectors.finish(vectors.new_vectors(vectors.bank, inputs), rows).numpy()
    return encode_items(run, assembly.prepared, assembly.prepared.items), stored


@pytest.mark.long
def test_a_frozen_run_needs_its_weights_folder_once_and_serves_raw_content(shop, weights, tmp_path):
    config = configured(shop, *frozen_options(weights), "--model.image.pooled=true")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    save_config(config, run_dir / "config.yaml")
    system.train(config, run_dir)
    shutil.rmtree(weights)
    metrics = system.evaluate(run_dir)
    assert 0 <= metrics["metrics"]["recall@20"]["value"] <= 1
    assembly = load_assembly(run_dir)
    served, stored = served_and_stored(load_run(run_dir), assembly)
    np.testing.assert_allclose(served, stored, atol=0.01)

    shutil.rmtree(run_dir / "features")
    again = load_assembly(run_dir)
    np.testing.assert_allclose(again.model.all_vectors(), assembly.model.all_vectors(), atol=1e-4)


@pytest.mark.long
def test_what_a_run_stored_is_read_again_in_whatever_precision_it_was_computed(shop, weights, tmp_path):
    """A run is judged and exported in float32; its features were computed in the precision of its training."""
    config = configured(
        shop, f"--model.text.weights={weights}", "--model.image.enabled=false", "--training.precision=mixed_bfloat16"
    )
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    save_config(config, run_dir / "config.yaml")
    with global_policy("float32"):
        system.train(config, run_dir)
        files = {file: file.stat() for file in (run_dir / "features" / "text").rglob("*")}
        assert "mixed_bfloat16" in (run_dir / "features" / "text" / "manifest.json").read_text()
        system.evaluate(run_dir)
        load_run(run_dir)  # as the export does
    now = {file: file.stat() for file in (run_dir / "features" / "text").rglob("*")}
    assert {file: (stat.st_ino, stat.st_mtime_ns) for file, stat in now.items()} == {
        file: (stat.st_ino, stat.st_mtime_ns) for file, stat in files.items()
    }


def test_a_store_brings_its_encoder_along(shop, weights, tmp_path):
    config = configured(shop, f"--model.text.weights={weights}", "--model.image.enabled=false")
    FeatureWriter(Assets.learn(config, shop).text, shop, tmp_path / "store", tokens=True).write()
    stored = configured(shop, f"--features={tmp_path / 'store'}", "--model.text.length=9")
    assets = Assets.learn(stored, shop)
    assert assets.tokenizer.sequence_length == 24  # as the features were made: longer than asked for loses nothing
    assert assets.image is None  # the store has no photos: that encoder trains from random weights
    features = frozen_features(stored, shop, assets, tmp_path / "run")
    assert set(features) == {"text"}
    assert not (tmp_path / "run" / "features").exists()
    assert RetrievalAssembly(stored, shop, assets, features).model.item_tower.image is not None

    (tmp_path / "store").rename(tmp_path / "store.moved")
    with pytest.raises(FeatureError, match="holds no features"):  # nor is it encoded anew, for hours
        frozen_features(stored, shop, assets, tmp_path / "run")
    assert not (tmp_path / "run" / "features").exists()
    (tmp_path / "store.moved").rename(tmp_path / "store")
    assets.text.encoder.layer_norm.beta.assign_add(tf.ones([16]))
    assets.text.__dict__.pop("digest", None)
    with pytest.raises(FeatureError, match="another encoder"):
        frozen_features(stored, shop, assets, tmp_path / "run")


def test_contents_are_hashed_once(shop, weights, tmp_path, monkeypatch):
    """Of photos, every byte is read for it."""
    config = configured(shop, f"--model.text.weights={weights}", "--model.image.enabled=false")
    hashed = []
    for module in (frozen, writer):
        monkeypatch.setattr(module, "content_keys", lambda *of: hashed.append(of[0]) or content_keys(*of))
    frozen_features(config, shop, Assets.learn(config, shop), tmp_path)
    assert hashed == ["text"]


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        (["--model.text.train_blocks=1"], ["block_1"]),
        (["--model.text.train_blocks=all"], ["embedding", "layer_norm", "block_0", "block_1"]),
        (["--model.text.lora_rank=2"], ["lora"]),
    ],
)
def test_the_chosen_part_of_an_encoder_trains_and_nothing_else(shop, weights, options, moves):
    text_only = ["--model.image.enabled=false", "--model.attributes.enabled=false", "--model.item.shallow=false"]
    config = configured(shop, f"--model.text.weights={weights}", *text_only, *options)
    assets = Assets.learn(config, shop)
    assembly = RetrievalAssembly(config, shop, assets, frozen_features(config, shop, assets, shop.path))
    encoder = assembly.model.item_tower.text
    assert all(w.name.startswith("item_tower/text_encoder/") for w in encoder.trainable_weights)  # encoder_rate's name
    before = [weight.numpy() for weight in encoder.weights]
    losses_of(assembly, steps=2)
    moved = [w.name for w, old in zip(encoder.weights, before, strict=True) if np.abs(w.numpy() - old).max() > 0]
    assert moved
    assert all(any(part in name for part in moves) for name in moved)
    assert all(any(part in name for name in moved) for part in moves)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.text.lora_rank=4"], r"model.text.lora_rank=4 adapts published weights"),
        (["--model.text.pooled=true"], r"model.text.pooled=true is for frozen encoders"),
        (
            ["--features=STORE", "--model.item.deep=false", "--model.text.train_blocks=1"],
            r"model.text: train_blocks and lora_rank train the item tower's encoder",
        ),
        (["--features=STORE", "--model.text.train_blocks=1"], "cannot train"),
        (["--features=STORE", "--model.text.weights=other"], "was made with"),
        (["--features=STORE", "--model.text.pooled=false"], "holds pooled vectors only"),
        (["--features=STORE", "--model.text.enabled=false"], "does not use"),
        (
            ["--features=STORE", "--model.text.pooled=true", "--model.text.length=25"],
            r"model.text.length=25, but .* cut at 24 ids: .*--length 25, or set model.text.length=24",
        ),
        (["--features=nowhere"], "holds no features"),
    ],
)
def test_options_at_odds_are_named(shop, weights, tmp_path, options, message):
    config = configured(
        shop, f"--model.text.weights={weights}", "--model.text.pooled=true", "--model.image.enabled=false"
    )
    if "STORE" in options[0]:
        FeatureWriter(Assets.learn(config, shop).text, shop, tmp_path / "store").write()
    options = [option.replace("STORE", str(tmp_path / "store")) for option in options]
    with pytest.raises((ConfigError, FeatureError), match=message):
        Assets.learn(configured(shop, *options), shop)
