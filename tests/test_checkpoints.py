"""Reading published weights: names, shapes, shards, types, tokenizers, pooling, and broken folders."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import json

import h5py
import keras_nlp
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from tfrec.encoders.blocks import named_variables
from tfrec.encoders.checkpoints import CheckpointError, bert, load_image_encoder, load_text_encoder, vit
from tfrec.encoders.checkpoints.positions import cubic_matrix, resize_positions
from tfrec.encoders.checkpoints.source import open_checkpoint
from tfrec.encoders.checkpoints.table import _same_but_for_split_axes, convolution, linear, with_blocks
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import BertEncoder, WordPiece
from tfrec.encoders.wordpiece import SPECIAL_TOKENS

VOCABULARY = [*SPECIAL_TOKENS, "red", "dress", "##es", "Red"]
BERT_CONFIG = {
    "model_type": "bert",
    "vocab_size": len(VOCABULARY),
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
}
VIT_CONFIG = {
    "model_type": "vit",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
IDS = np.array([[2, 5, 6, 3, 0], [2, 8, 7, 7, 3]], np.int32)


def published(encoder, rows):
    """Return an encoder's weights, set to random numbers, under their published names and in PyTorch's layouts."""
    rng = np.random.default_rng(0)
    variables = named_variables(encoder)
    tensors = {}
    for row in rows:
        value = rng.normal(size=variables[row.ours].shape).astype(np.float32)
        variables[row.ours].assign(value)
        if row.layout is linear:
            # Heads are end to end in one dimension: [D, heads, D/heads] or, behind the attention, [heads, D/heads, D].
            value = value.reshape((value.shape[0], -1) if "output" not in row.ours else (-1, value.shape[-1])).T
        elif row.layout is convolution:
            value = value.transpose(3, 2, 0, 1)
        tensors[row.published] = np.ascontiguousarray(value)
    return tensors


@pytest.fixture
def bert_folder(tmp_path):
    """Return a folder with a published BERT, our encoder with the same weights, and the tensors."""
    encoder = BertEncoder(vocabulary_size=9, dim=12, layers=3, heads=3, mlp_dim=20, max_length=16, dropout=0.0)
    encoder.build(None)
    tensors = published(encoder, with_blocks(bert.EMBEDDINGS, bert.BLOCK, 3))
    write(tmp_path, "config.json", BERT_CONFIG)
    save_file(tensors, tmp_path / "model.safetensors")
    WordPiece(VOCABULARY).save(tmp_path / "vocab.txt")
    return tmp_path, encoder, tensors


@pytest.fixture
def vit_folder(tmp_path):
    """Return a folder with a published ViT and our encoder with the same weights."""
    encoder = ViTEncoder(size=32, patch=8, dim=12, layers=2, heads=3, mlp_dim=20, epsilon=1e-12)
    encoder.build(None)
    tensors = published(encoder, with_blocks(vit.EMBEDDINGS, vit.BLOCK, 2))
    write(tmp_path, "config.json", VIT_CONFIG)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path, encoder, tensors


def write(folder, name, content):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_a_bert_comes_back_with_its_weights_tokenizer_and_mean_pooling(bert_folder):
    folder, encoder, _ = bert_folder
    loaded, tokenizer, pooling = load_text_encoder(folder)
    np.testing.assert_allclose(loaded(IDS), encoder(IDS), rtol=1e-5, atol=1e-6)
    assert (tokenizer.vocabulary, tokenizer.sequence_length) == (tuple(VOCABULARY), 16)
    assert (pooling.kind, pooling.normalize, pooling.projection) == ("mean", False, None)


def test_weights_keep_their_values_under_mixed_precision(bert_folder):
    folder, encoder, _ = bert_folder
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        loaded, *_ = load_text_encoder(folder)
        assert loaded(IDS).dtype == tf.bfloat16
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    for ours, theirs in zip(loaded.get_weights(), encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_prefixes_heads_and_old_names_of_published_berts_are_known(bert_folder):
    folder, encoder, tensors = bert_folder
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    heads = {"cls.predictions.bias": np.zeros(9, np.float32), "bert.pooler.dense.bias": np.zeros(12, np.float32)}
    ids = {"bert.embeddings.position_ids": np.arange(16)[None]}
    save_file({**old, **heads, **ids}, folder / "model.safetensors")
    np.testing.assert_allclose(load_text_encoder(folder)[0](IDS), encoder(IDS), rtol=1e-5, atol=1e-6)


def test_missing_and_left_over_tensors_are_named(bert_folder):
    folder, _, tensors = bert_folder
    tensors["encoder.layer.1.attention.self.kv.weight"] = tensors.pop("encoder.layer.1.attention.self.key.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as raised:
        load_text_encoder(folder)
    assert "missing in the file: encoder.layer.1.attention.self.key.weight" in str(raised.value)
    assert "left over in the file: encoder.layer.1.attention.self.kv.weight" in str(raised.value)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(bert_folder):
    folder, _, _ = bert_folder
    write(folder, "config.json", {**BERT_CONFIG, "vocab_size": 11})
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight.*\(9, 12\).*\(11, 12\)"):
        load_text_encoder(folder)


def test_a_config_with_fewer_blocks_than_the_file_leaves_tensors_over(bert_folder):
    folder, _, _ = bert_folder
    write(folder, "config.json", {**BERT_CONFIG, "num_hidden_layers": 2})
    with pytest.raises(CheckpointError, match=r"left over in the file: encoder\.layer\.2\."):
        load_text_encoder(folder)


def test_shards_are_read_by_their_index_and_a_missing_one_is_named(bert_folder):
    folder, encoder, tensors = bert_folder
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    write(folder, "model.safetensors.index.json", {"weight_map": weight_map})
    np.testing.assert_allclose(load_text_encoder(folder)[0](IDS), encoder(IDS), rtol=1e-5, atol=1e-6)
    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model-2-of-2.safetensors"):
        load_text_encoder(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_load_into_float32(bert_folder, dtype):
    folder, _, tensors = bert_folder
    half = {name: value.astype(dtype) for name, value in tensors.items()}
    save_file(half, folder / "model.safetensors")
    loaded = named_variables(load_text_encoder(folder)[0])["token_embedding"].numpy()
    np.testing.assert_array_equal(loaded, half["embeddings.word_embeddings.weight"].astype(np.float32))


def test_the_first_layers_are_those_of_the_whole_encoder(bert_folder, vit_folder):
    folder, encoder, _ = bert_folder
    write(folder, "config.json", BERT_CONFIG)
    save_file(bert_folder[2], folder / "model.safetensors")
    first, *_ = load_text_encoder(folder, layers=2)
    assert len(first.blocks) == 2
    np.testing.assert_allclose(first(IDS), encoder.layer_tokens(IDS)[2], rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"layers=4.*has 3"):
        load_text_encoder(folder, layers=4)


def test_a_vit_comes_back_with_its_weights_and_statistics(vit_folder):
    folder, encoder, tensors = vit_folder
    save_file({f"vit.{name}": value for name, value in tensors.items()}, folder / "model.safetensors")
    write(folder, "preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]})
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    loaded = load_image_encoder(folder)
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (1, 2, 3))
    (folder / "preprocessor_config.json").unlink()
    np.testing.assert_allclose(load_image_encoder(folder)(photos), encoder(photos), rtol=1e-4, atol=1e-5)


def test_a_vit_for_another_size_has_interpolated_positions(vit_folder):
    folder, encoder, _ = vit_folder
    loaded = load_image_encoder(folder, size=(48, 16), dropout=0.1)
    assert (loaded.grid, loaded.dropout) == ((6, 2), 0.1)
    table = named_variables(loaded)["position_embedding"].numpy()
    expected = resize_positions(named_variables(encoder)["position_embedding"].numpy(), (4, 4), (6, 2))
    np.testing.assert_array_equal(table, expected)


def test_interpolation_keeps_constants_the_class_row_and_the_same_size():
    table = np.random.default_rng(0).normal(size=(1 + 12, 5)).astype(np.float32)
    np.testing.assert_array_equal(resize_positions(table[None], (3, 4), (3, 4)), table)
    resized = resize_positions(table, (3, 4), (6, 2))
    assert resized.shape == (13, 5)
    np.testing.assert_array_equal(resized[0], table[0])
    for old, new in ((3, 7), (7, 3), (1, 4)):
        np.testing.assert_allclose(cubic_matrix(old, new).sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(cubic_matrix(5, 5), np.eye(5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, r"model_type='t5' is not a known text encoder; known are \['bert'"),
        ({**BERT_CONFIG, "position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({**BERT_CONFIG, "hidden_act": "silu"}, "hidden_act='silu'"),
        ({}, "has no config.json"),
        ({"model_type": "bert", "vocab_size": 9}, "config.json has no 'num_hidden_layers'"),
    ],
)
def test_models_that_are_none_of_ours_are_refused(bert_folder, config, message):
    folder, *_ = bert_folder
    write(folder, "config.json", config)
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(folder)


def test_a_text_model_is_no_image_encoder(bert_folder):
    with pytest.raises(CheckpointError, match="model_type='bert' is not a known image encoder"):
        load_image_encoder(bert_folder[0])


def test_a_photo_size_that_cannot_be_is_told_with_the_source(vit_folder):
    folder, _, _ = vit_folder
    with pytest.raises(CheckpointError, match=rf"{folder.name}: size=\(33, 33\) is not a multiple of patch=8"):
        load_image_encoder(folder, size=33)


def test_a_length_that_cannot_be_is_told_with_the_source(bert_folder):
    folder, _, _ = bert_folder
    with pytest.raises(CheckpointError, match=rf"{folder.name}: sequence_length=1 leaves no room"):
        load_text_encoder(folder, sequence_length=1)


def test_broken_files_are_named(bert_folder):
    folder, *_ = bert_folder
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        load_text_encoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model.safetensors.*save_pretrained"):
        load_text_encoder(folder)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
        load_text_encoder(folder)


def test_sources_that_cannot_be_had_say_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere' is not a folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"hf://nobody/nothing could not be downloaded.*--local-dir"):
        load_text_encoder("hf://nobody/nothing")


def test_casing_comes_from_the_tokenizers_files(bert_folder):
    folder, *_ = bert_folder
    assert load_text_encoder(folder)[1].lowercase
    write(folder, "tokenizer_config.json", {"do_lower_case": False})
    cased = load_text_encoder(folder)[1]
    assert (cased.lowercase, cased.strip_accents) == (False, False)
    assert cased.tokenize(["Red"]).to_list() == [[8]]


@pytest.mark.parametrize(
    ("settings", "lowercase"),
    [
        ({}, True),
        ({"do_lower_case": False}, False),
        ({"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, False),
        ({"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, True),
    ],
)
def test_where_the_files_disagree_berts_options_count_as_in_the_reference(bert_folder, settings, lowercase):
    folder, *_ = bert_folder
    cleaning = {"type": "BertNormalizer", "lowercase": True, "strip_accents": None, "handle_chinese_chars": True}
    write(folder, "tokenizer.json", {"model": {}, "normalizer": cleaning})
    write(folder, "tokenizer_config.json", settings)
    assert load_text_encoder(folder)[1].lowercase is lowercase


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "tokenizer_config.json",
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "tokenizer_class 'BertJapaneseTokenizer'",
        ),
        ("tokenizer_config.json", {"word_tokenizer_type": "mecab"}, "word_tokenizer_type 'mecab'"),
        ("tokenizer.json", {"normalizer": {"type": "NFC"}, "model": {}}, "normalizer 'NFC'"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Metaspace"}, "model": {}}, "pre_tokenizer 'Metaspace'"),
        ("tokenizer.json", {"model": {"continuing_subword_prefix": "_"}}, "continuing_subword_prefix '_'"),
    ],
)
def test_tokenizers_that_would_make_other_ids_are_refused(bert_folder, file, content, says):
    folder, *_ = bert_folder
    write(folder, file, content)
    with pytest.raises(CheckpointError, match=says):
        load_text_encoder(folder)


def test_padding_that_is_not_the_vocabularys_is_refused(bert_folder):
    folder, *_ = bert_folder
    config = json.loads((folder / "config.json").read_text())
    write(folder, "config.json", config | {"pad_token_id": 3})
    with pytest.raises(CheckpointError, match="pad_token_id is 3"):
        load_text_encoder(folder)


def test_a_vocabulary_inside_tokenizer_json_serves_too(bert_folder):
    folder, *_ = bert_folder
    (folder / "vocab.txt").unlink()
    model = {"type": "WordPiece", "vocab": {token: number for number, token in enumerate(VOCABULARY)}}
    cleaning = {"type": "BertNormalizer", "lowercase": True, "strip_accents": False, "handle_chinese_chars": True}
    write(folder, "tokenizer.json", {"model": model, "normalizer": cleaning})
    tokenizer = load_text_encoder(folder)[1]
    assert (tokenizer.vocabulary, tokenizer.strip_accents) == (tuple(VOCABULARY), False)
    write(folder, "tokenizer.json", {"model": {"type": "Unigram"}})
    with pytest.raises(CheckpointError, match=r"no vocab.txt.*SentencePiece"):
        load_text_encoder(folder)


def test_sequence_length_is_the_sentence_models_and_bounded_by_the_positions(bert_folder):
    folder, *_ = bert_folder
    write(folder, "sentence_bert_config.json", {"max_seq_length": 7})
    assert load_text_encoder(folder)[1].sequence_length == 7
    assert load_text_encoder(folder, sequence_length=12)[1].sequence_length == 12
    with pytest.raises(CheckpointError, match=r"sequence_length=17.*reaches 16"):
        load_text_encoder(folder, sequence_length=17)


def sentence_modules(folder, kinds, pooling):
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{n}_{kind}"} for n, kind in enumerate(kinds)]
    write(folder, "modules.json", modules)
    write(folder, "1_Pooling/config.json", {"word_embedding_dimension": 12, **pooling})


def test_sentence_encoders_come_with_their_pooling(bert_folder):
    folder, encoder, _ = bert_folder
    sentence_modules(folder, ["Transformer", "Pooling", "Normalize"], {"pooling_mode_cls_token": True})
    loaded, _, pooling = load_text_encoder(folder)
    expected = tf.math.l2_normalize(encoder(IDS)[:, 0], axis=-1)
    np.testing.assert_allclose(pooling(loaded(IDS), loaded.mask(IDS)), expected, rtol=1e-4, atol=1e-5)


def test_a_dense_step_after_pooling_is_loaded(bert_folder):
    folder, encoder, _ = bert_folder
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    sentence_modules(folder, ["Transformer", "Pooling", "Dense"], flags)
    write(folder, "2_Dense/config.json", {"in_features": 12, "out_features": 5, "bias": True})
    kernel = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    bias = np.arange(5, dtype=np.float32)
    save_file({"linear.weight": kernel, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    loaded, _, pooling = load_text_encoder(folder)
    mask = (IDS != 0)[..., None]
    mean = (encoder(IDS).numpy() * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(pooling(loaded(IDS), loaded.mask(IDS)), np.tanh(mean @ kernel.T + bias), atol=1e-5)


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (["Transformer", "Pooling", "LayerNorm"], {"pooling_mode_mean_tokens": True}, "LayerNorm"),
        (["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        (["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls_token"),
    ],
)
def test_sentence_steps_that_are_none_of_ours_are_refused(bert_folder, kinds, pooling, message):
    sentence_modules(bert_folder[0], kinds, pooling)
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(bert_folder[0])


def keras_nlp_preset(folder, *, private):
    """Write a preset as KerasNLP does; Keras 3 has no underscore before the attention's projections, Keras 2 has."""
    backbone = keras_nlp.models.BertBackbone(9, 2, 3, 12, 20, max_sequence_length=16)
    for weight in backbone.weights:
        weight.assign_add(tf.random.normal(weight.shape, stddev=0.3))
    write(folder, "config.json", {"class_name": "BertBackbone", "config": backbone.get_config(), "registered_name": ""})
    write(folder, "tokenizer.json", {"class_name": "BertTokenizer", "config": {"lowercase": True}})
    (folder / "assets" / "tokenizer").mkdir(parents=True)
    WordPiece(VOCABULARY).save(folder / "assets" / "tokenizer" / "vocabulary.txt")
    backbone.save_weights(folder / "model.weights.h5")
    if not private:
        with h5py.File(folder / "model.weights.h5", "a") as file:
            for attention in ("transformer_encoder", "transformer_encoder_1"):
                group = file[f"layers/{attention}/_self_attention_layer"]
                for name in ("query", "key", "value", "output"):
                    group.move(f"_{name}_dense", f"{name}_dense")
    return backbone


@pytest.mark.filterwarnings("ignore::UserWarning:keras_nlp")
@pytest.mark.parametrize("private", [True, False], ids=["keras 2", "keras 3"])
def test_keras_nlp_presets_give_the_outputs_of_the_backbone(tmp_path, private):
    backbone = keras_nlp_preset(tmp_path, private=private)
    encoder, tokenizer, pooling = load_text_encoder(tmp_path, sequence_length=5)
    inputs = {"token_ids": IDS, "segment_ids": 0 * IDS, "padding_mask": (IDS != 0).astype(np.int32)}
    expected = backbone(inputs)["sequence_output"]
    np.testing.assert_allclose(encoder(IDS)[IDS != 0], expected[IDS != 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(tokenizer(["red dresses"]), [[2, 5, 6, 7, 3]])
    assert pooling.kind == "mean"


@pytest.mark.slow
@pytest.mark.long
def test_keras_applications_resnet_gives_its_own_outputs(tmp_path):
    model = tf.keras.applications.ResNet50(include_top=False, weights=None)
    for weight in model.weights:
        if "variance" in weight.name:
            weight.assign(tf.random.uniform(weight.shape, 0.5, 1.5))
        elif "kernel" not in weight.name:
            weight.assign_add(tf.random.normal(weight.shape, stddev=0.1))
    model.save_weights(tmp_path / "resnet50_notop.h5")
    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3))
    encoder = load_image_encoder(tmp_path / "resnet50_notop.h5", size=64)
    expected = model(tf.keras.applications.resnet.preprocess_input(photos.astype(np.float32)))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        encoder(photos.astype(np.uint8))[:, 1:] / scale, tf.reshape(expected, [2, 4, -1]) / scale, atol=1e-5
    )
    with pytest.raises(CheckpointError, match="layers=2"):
        load_image_encoder(tmp_path / "resnet50_notop.h5", layers=2)


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        ((32, 16), (32, 16), True),
        ((16, 32), (32, 16), False),
        ((12, 12), (12, 3, 4), True),
        ((3, 4, 12), (12, 12), True),
        ((1, 5, 8), (5, 8), True),
        ((8,), (), False),
        ((2, 6), (3, 4), False),
        ((1,), (), True),
    ],
)
def test_axes_may_be_split_and_not_exchanged(one, other, fits):
    assert _same_but_for_split_axes(one, other) == fits
