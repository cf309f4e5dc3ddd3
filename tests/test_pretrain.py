"""Pretraining: hidden words, moved photos, encoders that other recipes load; the causal text model."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.kills import stopped_at_rename
from tests.layer_checks import global_policy
from tests.small_encoders import make_shop
from tfrec import evaluate, layer_study
from tfrec.config import SYSTEMS, ConfigError, load_config, parse_config, read_yaml, recipe_path, save_config
from tfrec.encoders.checkpoints import CheckpointError
from tfrec.encoders.sides import load_image_side, load_text_side, sides_of
from tfrec.encoders.text import WordPiece
from tfrec.encoders.wordpiece import SPECIAL_TOKENS
from tfrec.metric_learning.assembly import build_encoder
from tfrec.metric_learning.config import PhotoEncoderConfig
from tfrec.pretraining import system as pretrain
from tfrec.pretraining import text_model
from tfrec.pretraining.config import PretrainConfig
from tfrec.pretraining.data import draw_moves, hide_words, move_photos
from tfrec.pretraining.text_model_config import CausalTextConfig

TINY = [
    *(
        "--model.image.size=[32,24]",
        "--model.image.patch=8",
        "--model.image.stem_convolutions=2",
        "--model.image.dim=16",
        "--model.image.layers=1",
    ),
    *("--model.image.heads=2", "--model.text.vocabulary_size=200", "--model.text.length=24", "--model.text.dim=16"),
    *("--model.text.layers=2", "--model.text.heads=2", "--model.dim=8", "--training.batch_size=16"),
    *("--training.steps=4", "--training.evaluations=1", "--training.precision=float32"),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop") / "data")


def trained(shop, run_dir, recipe, options):
    layer = read_yaml(recipe_path(recipe))
    system = layer.pop("system")
    config, _ = parse_config(system, [layer, {"recipe": recipe}], [*options, f"--data={shop.path}"])
    assert isinstance(config, SYSTEMS[system].config_class)
    run_dir.mkdir()
    save_config(config, run_dir / "config.yaml")
    module = {"pretrain": pretrain, "text_model": text_model}[system]
    module.train(config, run_dir)
    return module.evaluate(run_dir)


@pytest.fixture(scope="module")
def run(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    return folder, trained(shop, folder, "pretrain", TINY)


def test_a_run_leaves_encoders_that_other_recipes_load(run):
    folder, metrics = run
    assert sides_of(folder) == ["text", "image"]
    text, image = load_text_side(folder, length=16), load_image_side(folder, size=(32, 24))
    assert (text.tokenizer.sequence_length, text.vector_dim, image.vector_dim) == (16, 8, 8)
    _, _, vectors = text.encode(text.tokenizer(["red dress"]))
    assert np.linalg.norm(vectors) == pytest.approx(1.0, abs=1e-4)
    assert set(metrics["metrics"]) == set(PretrainConfig().monitors()) >= {"words_loss", "photo_mrr", "text_top@5"}
    assert metrics["baselines"]["chance"]["photo_mrr"]["value"] < 1


def test_an_evaluation_says_its_split_and_refuses_what_it_cannot_do(run, capsys):
    folder, metrics = run
    assert metrics["protocol"]["split"] in ("val", "train, held out")
    for words in (["--split", "test"], ["--k", "5"], ["--no-seen-filter"]):
        assert evaluate.main(["--run", str(folder), *words]) == 2
        assert (
            f"{words[0].replace('no-', '')}: the evaluation of a pretrain run has no such option"
            in capsys.readouterr().err
        )


@pytest.mark.parametrize("stopped", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("killed", [False, True])
def test_the_encoders_of_a_run_outlive_a_kill_in_their_exchange(run, tmp_path, stopped, killed):
    """The fifth rename is the last: the new text encoder has its place, the new image encoder has not."""
    again = tmp_path / "run"
    shutil.copytree(run[0], again)
    _, model = pretrain.assemble(load_config(again / "config.yaml", PretrainConfig), again)
    new = {"text": model.text_side.encoder, "image": model.image_side.encoder}
    old = {"text": load_text_side(again).encoder, "image": load_image_side(again).encoder}
    with stopped_at_rename(stopped, killed=again if killed else None):
        pretrain.publish_encoders(model, again)
    found = {"text": load_text_side(again).encoder, "image": load_image_side(again).encoder}
    assert sides_of(again) == ["text", "image"]
    for kind, expected in {"text": new if stopped > 3 else old, "image": old}.items():
        for weight, other in zip(found[kind].weights, expected[kind].weights, strict=True):
            np.testing.assert_array_equal(weight, other)
    pretrain.publish_encoders(model, again)
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in run[0].iterdir())


def test_a_run_is_where_metric_learning_starts(run):
    encoder = build_encoder(PhotoEncoderConfig(weights=str(run[0]), size=(32, 24), pooling="mean"))
    side = load_image_side(run[0])
    np.testing.assert_array_equal(encoder.projection.kernel, side.encoder.projection.kernel)
    assert encoder.trainable_variables
    with pytest.raises(CheckpointError, match=r"model\.encoder\.size"):
        build_encoder(PhotoEncoderConfig(weights=str(run[0]), pooling="mean"))


def test_first_layers_of_a_saved_encoder(run):
    folder, _ = run
    whole, first = load_text_side(folder), load_text_side(folder, layers=1)
    ids = whole.tokenizer(["red dress"])
    np.testing.assert_allclose(first.encoder(ids), whole.encoder.layer_tokens(ids)[1], rtol=1e-5)


def test_masked_words_alone_need_no_photos(shop, tmp_path):
    options = [*TINY, "--model.image.enabled=false", "--training.steps=2"]
    metrics = trained(shop, tmp_path / "run", "pretrain", options)
    assert set(metrics["metrics"]) == {"words_loss", "loss"}
    assert sides_of(tmp_path / "run") == ["text"]


def test_hidden_words_follow_berts_shares_and_leave_special_tokens():
    tokenizer = WordPiece([*SPECIAL_TOKENS, *(f"w{i}" for i in range(995))])
    ids = np.tile(np.r_[tokenizer.cls_id, np.arange(5, 65), tokenizer.sep_id, np.zeros(4)].astype(np.int32), (500, 1))
    masked, hidden = hide_words(ids, tokenizer, 0.15, np.random.default_rng(0))
    assert (masked[~hidden] == ids[~hidden]).all()
    assert not hidden[:, [0, 61, 62, 65]].any()
    assert hidden[:, 1:61].mean() == pytest.approx(0.15, abs=0.01)
    as_mask = (masked == tokenizer.vocabulary.index("[MASK]"))[hidden].mean()
    assert as_mask == pytest.approx(0.8, abs=0.02)
    assert (masked == ids)[hidden].mean() == pytest.approx(0.1, abs=0.02)


def test_photos_are_moved_and_mirrored_and_white_comes_in():
    photos = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    moved = move_photos(tf.constant(photos), tf.constant([[1, -2, 0], [0, 0, 1]])).numpy()
    np.testing.assert_array_equal(moved[0, 1:, :3], photos[0, :3, 2:])
    assert (moved[0, 0] == 255).all()
    assert (moved[0, :, 3:] == 255).all()
    np.testing.assert_array_equal(moved[1], photos[1, :, ::-1])
    moves = draw_moves(1000, (100, 50), 0.1, np.random.default_rng(0))
    assert np.abs(moves[:, 0]).max() == 10
    assert np.abs(moves[:, 1]).max() == 5


def test_the_layer_study_judges_every_layer(run, shop, tmp_path):
    folder, _ = run
    command = ["--weights", str(folder), "--data", str(shop.path), "--field", shop.fields[0]]
    for side, size in (("text", []), ("image", [])):
        out = tmp_path / side
        assert layer_study.main([*command, *size, "--side", side, "--length", "24", "--out", str(out)]) == 0
        layers = 3 if side == "text" else 2
        assert len((out / "layers.csv").read_text().splitlines()) == 1 + layers
        assert (out / "report.html").exists()
    assert layer_study.main([*command[:-1], "nonesuch", "--side", "text", "--out", str(tmp_path / "no")]) == 2


def test_the_probe_tells_what_vectors_hold():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    vectors = (np.eye(4)[labels] @ rng.normal(size=(4, 10)) + 0.1 * rng.normal(size=(300, 10))).astype(np.float32)
    train, test = np.arange(200), np.arange(200, 300)
    assert layer_study.probe(vectors, labels, train, test)["probe"] > 0.95
    assert layer_study.probe(rng.normal(size=(300, 10)), labels, train, test)["probe"] < 0.5


def test_the_text_model_reads_left_to_right_and_learns(shop, tmp_path):
    options = ["--model.dim=16", "--model.layers=1", "--model.heads=2", "--model.length=16", "--training.batch_size=8"]
    options += ["--training.steps=60", "--training.evaluations=1", "--training.precision=float32"]
    options += ["--training.learning_rate=0.02"]
    metrics = trained(shop, tmp_path / "run", "text-model", options)
    told = metrics["baselines"]["word frequency"]["perplexity"]["value"]
    assert metrics["metrics"]["perplexity"]["value"] < 2 * told  # an untrained model's is the number of words
    assert metrics["protocol"]["split"] == "test"
    assert "word frequency" in metrics["baselines"]
    assert set(metrics["metrics"]) == set(CausalTextConfig().monitors())
    model = text_model.CausalTextModel(30, dim=8, layers=2, heads=2, ratio=2.0, dropout=0.0, label_smoothing=0.1)
    words = np.random.default_rng(0).integers(4, 30, (2, 6)).astype(np.int32)
    changed = words.copy()
    changed[:, 4:] = 5
    np.testing.assert_allclose(model(words)[:, :4], model(changed)[:, :4], atol=1e-5)
    assert np.abs(model(words)[:, 5] - model(changed)[:, 5]).max() > 1e-3


def test_the_text_models_loss_equals_a_plain_loop():
    model = text_model.CausalTextModel(30, dim=8, layers=1, heads=2, ratio=2.0, dropout=0.0, label_smoothing=0.1)
    words = np.random.default_rng(0).integers(4, 30, (2, 6)).astype(np.int32)
    words[1, 4:] = text_model.PAD
    log_p = tf.nn.log_softmax(model(words[:, :-1])).numpy()
    for smoothing, training in ((0.1, True), (0.0, False)):
        losses = [
            -(1 - smoothing) * log_p[row, place, word] - smoothing * log_p[row, place].mean()
            for row in range(2)
            for place, word in enumerate(words[row, 1:])
            if word != text_model.PAD
        ]
        assert float(model.compute_loss({"words": words}, training=training)) == pytest.approx(
            np.mean(losses), rel=1e-5
        )


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no item has a text"), ("red dress", "no test item has a text that no training item has")],
)
def test_data_that_a_text_model_cannot_learn_from_are_told(shop, tmp_path, monkeypatch, text, says):
    same = shop.items.assign(text=text)
    monkeypatch.setattr("pipelines.prepared.open_prepared", lambda path: shop)
    monkeypatch.setattr(shop, "items", same)
    with pytest.raises(ConfigError, match=says):
        trained(shop, tmp_path / "run", "text-model", [])
    assert not (tmp_path / "run" / "assets").exists()


def test_a_test_share_that_leaves_nothing_to_train_on_is_told(shop, tmp_path, monkeypatch):
    same = shop.items.assign(text="red dress")
    monkeypatch.setattr("pipelines.prepared.open_prepared", lambda path: shop)
    monkeypatch.setattr(shop, "items", same)
    with pytest.raises(ConfigError, match=r"lower task.test_share=0.5, which is taken twice"):
        trained(shop, tmp_path / "run", "text-model", ["--task.test_share", "0.5"])


def test_texts_that_pick_the_best_weights_are_not_those_of_the_test():
    texts = ["red dress", "blue shoe", "red dress", "green hat", "", "blue shoe"]
    part = np.array([0, 1, 2, 2, 1, 2], np.int8)
    assert text_model.held_texts(texts, part, 1) == ["blue shoe"]
    assert text_model.held_texts(texts, part, 2) == ["green hat"]  # what training or validation saw is left out


def test_words_of_texts_become_rows_with_start_end_and_unknown():
    vocabulary = text_model.learn_words(["red dress red", "red shoe"], 6)
    assert vocabulary[4:] == ["red", "dress"]
    rows = text_model.to_rows(["red shoe", "red red red red"], vocabulary, 4)
    np.testing.assert_array_equal(rows, [[1, 4, 3, 2, 0], [1, 4, 4, 4, 4]])


def test_in_half_precision_the_words_are_told_as_in_float32(shop):
    """Weights that are read in float32 beside blocks in half precision are no mixture of types."""
    layer = read_yaml(recipe_path("pretrain"))
    layer.pop("system")
    config, _ = parse_config("pretrain", [layer], [*TINY, f"--data={shop.path}"])
    tokenizer = WordPiece([*SPECIAL_TOKENS, *"abcdefgh"], sequence_length=8)
    rng = np.random.default_rng(0)
    ids = rng.integers(len(SPECIAL_TOKENS), len(tokenizer), (4, 8)).astype(np.int32)
    batch = {"tokens": ids, "masked": ids, "hidden": rng.random(ids.shape) < 0.5, "whole": np.sort(ids, 1)}
    batch["photos"] = rng.integers(0, 256, (4, 32, 24, 3)).astype(np.uint8)
    sizes = {"dim": 8, "layers": 2, "heads": 2, "ratio": 2.0, "dropout": 0.0, "label_smoothing": 0.1}
    losses = {}
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        with global_policy(policy):
            tf.keras.utils.set_random_seed(0)
            both = pretrain.build_model(config, tokenizer)
            words = text_model.CausalTextModel(len(tokenizer), **sizes)
            words(ids)
            losses[policy] = [float(both.compute_loss(batch)), float(words.compute_loss({"words": ids}))]
    np.testing.assert_allclose(losses["mixed_bfloat16"], losses["float32"], rtol=0.03)
    np.testing.assert_allclose(losses["mixed_float16"], losses["float32"], rtol=0.01)


def test_without_contrast_there_is_no_image_encoder(shop, tmp_path):
    trained(shop, tmp_path / "run", "pretrain", [*TINY, "--task.contrastive=0"])
    assert sides_of(tmp_path / "run") == ["text"]
    assert load_config(tmp_path / "run" / "config.yaml", PretrainConfig).training.monitor == "loss"


@pytest.mark.parametrize(("test_label", "held"), [(0, [4, 5]), (7, None)])
def test_a_layer_study_tests_on_values_that_it_has_learned(test_label, held):
    """A class-disjoint split holds out none of them: a fifth of all items is held out then."""
    items = pd.DataFrame({"split": np.array([0, 0, 0, 0, 2, 2], np.int8)})
    labels = np.array([0, 0, 1, 1, test_label, test_label])
    train, test = layer_study.split_items(SimpleNamespace(items=items), np.arange(6), labels, seed=0)
    assert sorted([*train, *test]) == list(range(6))
    assert test.tolist() == held if held else len(test) == 1


def test_a_saved_text_encoder_is_read_as_long_as_it_reaches(run, shop, tmp_path, capsys):
    folder, _ = run
    command = ["--weights", str(folder), "--data", str(shop.path), "--side", "text", "--field", shop.fields[0]]
    assert layer_study.main([*command, "--out", str(tmp_path / "study")]) == 0
    assert layer_study.main([*command, "--length", "25", "--out", str(tmp_path / "long")]) == 2
    assert "25 ids per text, but the encoder reads 24; ask for at most so many (--length" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        layer_study.main([*command, "--max-items", "-5", "--out", str(tmp_path / "few")])
