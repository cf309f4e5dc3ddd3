"""The text encoders, their tokenizers and their pooling."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from tests.layer_checks import check_layer
from tfrec.encoders.clip_tokenizer import END, START, byte_symbols
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.text import (
    BertEncoder,
    ClipTextEncoder,
    ClipTokenizer,
    SentencePooling,
    WordPiece,
    train_vocabulary,
)
from tfrec.encoders.wordpiece import SPECIAL_TOKENS, count_words, read_vocabulary

IDS = np.array([[2, 5, 6, 3, 0, 0], [2, 9, 9, 7, 8, 3]], np.int32)
TEXTS = ["Red summer dress in cotton", "A red top, sleeveless", "Summer top in red cotton", "Sleeveless cotton dress"]


def small_bert(**options):
    return BertEncoder(**{"vocabulary_size": 20, "dim": 12, "layers": 2, "heads": 3, "max_length": 8, **options})


def small_clip(**options):
    return ClipTextEncoder(
        **{"vocabulary_size": 20, "dim": 12, "layers": 2, "heads": 3, "max_length": 8, "end_id": 3, **options}
    )


def test_bert_passes_the_check_of_all_layers():
    check_layer(small_bert, IDS, (2, 6, 12))


def test_clips_text_tower_passes_the_check_of_all_layers():
    check_layer(small_clip, IDS, (2, 6, 12))


@pytest.mark.parametrize("kind", ["mean", "class", "max", "mean_sqrt_length", "last"])
def test_pooling_passes_the_check_of_all_layers(kind):
    tokens = tf.random.stateless_normal([2, 6, 12], seed=[0, 1])
    mask = tf.constant(IDS != 0)
    check_layer(lambda: SentencePooling(kind, normalize=True, projection_dim=4), (tokens, mask), (2, 4))


def test_pooling_takes_only_the_tokens_of_the_mask():
    tokens = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    mask = IDS != 0
    expected = {
        "mean": [tokens[0, :4].mean(0), tokens[1].mean(0)],
        "mean_sqrt_length": [tokens[0, :4].sum(0) / 2, tokens[1].sum(0) / np.sqrt(6)],
        "max": [tokens[0, :4].max(0), tokens[1].max(0)],
        "last": [tokens[0, 3], tokens[1, 5]],
        "class": [tokens[0, 0], tokens[1, 0]],
    }
    for kind, vectors in expected.items():
        np.testing.assert_allclose(SentencePooling(kind)(tokens, mask), vectors, rtol=1e-5, atol=1e-6, err_msg=kind)
    nothing = np.zeros_like(mask)
    for kind in set(expected) - {"class"}:
        np.testing.assert_array_equal(SentencePooling(kind)(tokens, nothing), np.zeros((2, 4)), err_msg=kind)


def test_padding_changes_no_token():
    for encoder in (small_bert(), small_clip()):
        short, long = encoder(IDS[:1, :4]), encoder(IDS[:1])
        np.testing.assert_allclose(short, long[:, :4], rtol=1e-4, atol=1e-5)


def test_a_text_of_nothing_but_padding_has_finite_tokens():
    assert np.isfinite(small_bert()(np.zeros((1, 6), np.int32))).all()


def test_clips_tokens_do_not_see_what_follows():
    encoder = small_clip()
    other = IDS.copy()
    other[1, 4] = 15
    np.testing.assert_allclose(encoder(IDS)[1, :4], encoder(other)[1, :4], rtol=1e-5, atol=1e-6)
    assert not np.allclose(encoder(IDS)[1, 4:], encoder(other)[1, 4:])


def test_clips_mask_ends_with_the_first_end_even_if_padding_has_the_same_id():
    ids = np.array([[2, 5, 3, 3, 3], [2, 5, 6, 7, 3]], np.int32)
    np.testing.assert_array_equal(small_clip().mask(ids), [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def test_layer_tokens_end_where_the_call_ends():
    bert = small_bert()
    assert len(bert.layer_tokens(IDS)) == 3
    np.testing.assert_array_equal(bert.layer_tokens(IDS)[-1], bert(IDS))


def test_wrong_arguments_are_named():
    with pytest.raises(EncoderError, match="heads=5"):
        small_bert(heads=5)
    with pytest.raises(ValueError, match="kind='median'"):
        SentencePooling("median")


def test_ids_are_packed_cut_and_padded():
    words = ["red", "dress", "top", "##s", ","]
    wordpiece = WordPiece([*SPECIAL_TOKENS, *words], sequence_length=6)
    np.testing.assert_array_equal(
        wordpiece(["Red  tops", "", "red, red, red, red", "blue dress"]),
        [[2, 5, 7, 8, 3, 0], [2, 3, 0, 0, 0, 0], [2, 5, 9, 5, 9, 3], [2, 1, 6, 3, 0, 0]],
    )
    assert wordpiece(["red"]).dtype == tf.int32


def test_cased_vocabularies_keep_case_and_accents():
    vocabulary = [*SPECIAL_TOKENS, "Café", "cafe"]
    cased = WordPiece(vocabulary, lowercase=False).tokenize(["Café café cafe"]).to_list()
    uncased = WordPiece(vocabulary).tokenize(["Café café cafe"]).to_list()
    assert (cased, uncased) == ([[5, 1, 6]], [[6, 6, 6]])


def test_special_tokens_in_a_text_are_only_text():
    wordpiece = WordPiece([*SPECIAL_TOKENS, "[", "]", "sep"])
    assert wordpiece.tokenize(["[SEP]"]).to_list() == [[5, 7, 6]]


def test_tokenizers_run_in_a_graph_and_after_saving(tmp_path):
    for tokenizer in (WordPiece(train_vocabulary(TEXTS, 100), sequence_length=8), clip_tokenizer(sequence_length=8)):
        module = tf.Module()
        module.tokenize = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])
        expected = tokenizer(TEXTS)
        path = str(tmp_path / type(tokenizer).__name__)
        tf.saved_model.save(module, path)
        np.testing.assert_array_equal(tf.saved_model.load(path).tokenize(tf.constant(TEXTS)), expected)


def test_a_vocabulary_file_keeps_every_token_in_its_line(tmp_path):
    vocabulary = [*SPECIAL_TOKENS, "a", "\u2028", "\x1c", "é", "##ß"]
    wordpiece = WordPiece(vocabulary)
    wordpiece.save(tmp_path / "vocab.txt")
    assert read_vocabulary(tmp_path / "vocab.txt") == vocabulary
    (tmp_path / "windows.txt").write_bytes("\r\n".join(vocabulary[:6]).encode())
    assert WordPiece.load(tmp_path / "windows.txt", sequence_length=5).vocabulary == tuple(vocabulary[:6])


def test_a_vocabulary_without_special_tokens_is_refused():
    with pytest.raises(EncoderError, match=r"\['\[CLS\]'\]"):
        WordPiece(["[PAD]", "[UNK]", "[SEP]"])


def test_a_length_without_room_for_a_word_is_refused():
    with pytest.raises(EncoderError, match="sequence_length=1 leaves no room"):
        WordPiece(SPECIAL_TOKENS, sequence_length=1)


def test_words_are_counted_as_they_are_tokenized():
    counts = count_words(["Rouge, rouge!", "été 裙子"])
    assert counts == {"rouge": 2, ",": 1, "!": 1, "ete": 1, "裙": 1, "子": 1}


def test_a_trained_vocabulary_spells_every_text_it_saw_and_keeps_its_size():
    vocabulary = train_vocabulary(TEXTS, 60)
    assert vocabulary[:5] == list(SPECIAL_TOKENS)
    assert len(vocabulary) <= 60
    assert len(set(vocabulary)) == len(vocabulary)
    wordpiece = WordPiece(vocabulary)
    assert wordpiece.unknown_id not in wordpiece.tokenize(TEXTS).flat_values.numpy()
    assert {"red", "cotton", "dress"} <= set(train_vocabulary(TEXTS, 200))


def test_no_texts_give_the_special_tokens():
    assert train_vocabulary([], 100) == list(SPECIAL_TOKENS)
    assert train_vocabulary(["", " "], 100) == list(SPECIAL_TOKENS)


def test_a_vocabulary_is_the_same_each_time():
    assert train_vocabulary(TEXTS, 50) == train_vocabulary(iter(TEXTS), 50)


def clip_tokenizer(**options):
    symbols = byte_symbols()
    merges = ["r e", "re d</w>", "t o", "to p</w>", "l l", "e ll"]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in merges)]
    return ClipTokenizer({token: number for number, token in enumerate([*tokens, START, END])}, merges, **options)


def test_byte_pairs_merge_by_rank_and_leftmost_first():
    tokenizer = clip_tokenizer()
    names = {number: token for token, number in tokenizer.vocabulary.items()}
    pieces = [[names[number] for number in row] for row in tokenizer.tokenize(["Red top", "llllell", ""]).to_list()]
    assert pieces == [["red</w>", "top</w>"], ["ll", "ll", "e", "l", "l</w>"], []]


def test_byte_pairs_are_packed_cut_and_padded():
    tokenizer = clip_tokenizer(sequence_length=5, pad_id=0)
    start, end, red = tokenizer.start_id, tokenizer.end_id, tokenizer.vocabulary["red</w>"]
    expected = [[start, red, end, 0, 0], [start, red, red, red, end], [start, end, 0, 0, 0]]
    np.testing.assert_array_equal(tokenizer(["red", "red red red red red", ""]), expected)
