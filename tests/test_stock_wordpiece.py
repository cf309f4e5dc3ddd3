"""The tokenizer of stock ops gives the ids of the one it is made from, and needs nothing but TensorFlow."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import resource

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec.encoders.wordpiece import WordPiece
from tfrec.saved_model.ops import TEXT_OPS
from tfrec.saved_model.wordpiece import StockWordPiece

PIECES = (
    "a b c d e o s dress red jersey ##s ##es ##ed ##a ##b ##e ##o ##- - , . ! 1 2 ##2 ## cafe ss ##ss ° 服 한 ##국 σ ς"
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES.split()]
TEXTS = [
    "Red dresses, jersey-dress.",
    "",
    "   \t\n ",
    "Café CAFÉ cafe\u0301 Ÿ",
    "unspeakable red",
    "服red한국 \U00020000 ΣΑΣ σας",
    "a" * 100,
    "a" * 101 + " red",
    "ab\0cd\u200bred \ufffd \x07",
    "[SEP] [PAD] ## a##b",
    "12 a1 °C ½ ™",
    "red " * 100,
    "nbsp\u00a0red\u3000dress\u2028a",
]


@pytest.fixture(scope="module", params=[{}, {"lowercase": False}, {"split_cjk": False, "strip_accents": False}])
def pair(request):
    reference = WordPiece(VOCABULARY, sequence_length=12, **request.param)
    stock = StockWordPiece(reference)
    call = tf.function(lambda texts: stock(texts), input_signature=[tf.TensorSpec([None], tf.string)])
    call.keep = stock
    return reference, call


def test_ids_are_those_of_the_reference(pair):
    reference, stock = pair
    assert stock(tf.constant(TEXTS)).numpy().tolist() == reference(TEXTS).numpy().tolist()


@settings(max_examples=60)
@given(st.lists(st.text(max_size=40) | st.text("abcdeos12 -,.É한국服σΣ°ß", max_size=60), min_size=1, max_size=8))
def test_ids_of_any_text_are_those_of_the_reference(pair, texts):
    reference, stock = pair
    assert stock(tf.constant(texts)).numpy().tolist() == reference(texts).numpy().tolist()


def test_a_text_of_a_million_words_costs_as_many_as_are_kept(pair):
    """Spelling each of them took gigabytes."""
    reference, stock = pair
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = "red dress " * 500_000
    assert stock(tf.constant([text])).numpy().tolist() == reference([text]).numpy().tolist()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_no_texts_have_no_ids(pair):
    assert pair[1](tf.constant([], tf.string)).shape == (0, 12)


def test_no_op_of_tensorflow_text_is_left(pair):
    graph = pair[1].get_concrete_function().graph.as_graph_def()
    ops = {node.op for nodes in (graph.node, *(f.node_def for f in graph.library.function)) for node in nodes}
    assert not ops & TEXT_OPS
    assert ops <= set(dir(tf.raw_ops))
