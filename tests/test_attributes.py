"""The attribute encoder and its vocabulary."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.layer_checks import check_layer
from tfrec.attribute_vocabulary import AttributeVocabulary
from tfrec.encoders.attributes import AttributeEncoder

VALUES = np.array([[[2, 3, 0], [4, 0, 0]], [[0, 0, 0], [1, 2, 5]]], np.int32)  # (2 items, 2 fields, 3 values)


def items():
    return pd.DataFrame(
        {
            "attr.colour": [["red", "blue"], ["red"], [], ["green"]],
            "attr.style": ["casual", None, "", "formal"],
        }
    )


def test_tokens_pass_the_check_of_all_layers():
    check_layer(lambda: AttributeEncoder([5, 6], 8), VALUES, [(2, 2, 8), (2, 2)])


def test_the_encoder_alone_passes_the_check_of_all_layers():
    check_layer(lambda: AttributeEncoder([5, 6], 8, alone=True, hidden_dim=16, dropout=0.1), VALUES, (2, 512))


def test_a_token_is_the_mean_of_the_rows_of_its_fields_values():
    encoder = AttributeEncoder([5, 6], 8)
    tokens, mask = encoder(VALUES)
    table = encoder.table.get_weights()[0]
    np.testing.assert_allclose(tokens[0, 0], (table[2] + table[3]) / 2, rtol=1e-5)
    np.testing.assert_allclose(tokens[0, 1], table[5 + 4], rtol=1e-5)
    np.testing.assert_allclose(tokens[1, 1], (table[5 + 1] + table[5 + 2] + table[5 + 5]) / 3, rtol=1e-5)
    np.testing.assert_allclose(tokens[1, 0], table[0], rtol=1e-5)
    np.testing.assert_array_equal(mask, [[True, True], [False, True]])


def test_padding_and_the_order_of_values_do_not_matter():
    encoder = AttributeEncoder([5, 6], 8, alone=True)
    other = np.array([[[0, 3, 0, 2], [0, 0, 4, 0]], [[0, 0, 0, 0], [5, 1, 2, 0]]], np.int32)
    np.testing.assert_allclose(encoder(VALUES), encoder(other), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def alone():
    return AttributeEncoder([5, 6], 8, alone=True)


@given(values=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=2))
def test_alone_the_size_is_fixed_and_the_norm_is_one(alone, values):
    vector = alone(np.array([values], np.int32))
    assert vector.shape == (1, 512)
    assert vector.dtype == tf.float32
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


def test_sizes_without_room_for_missing_and_unknown_are_refused():
    with pytest.raises(ValueError, match=r"sizes=\[5, 1\]"):
        AttributeEncoder([5, 1], 8)


def test_ids_go_by_frequency_after_missing_and_unknown():
    vocabulary = AttributeVocabulary.build(items(), ["colour", "style"])
    assert vocabulary.values == {"colour": ["red", "blue", "green"], "style": ["casual", "formal"]}
    assert vocabulary.sizes == [5, 4]
    np.testing.assert_array_equal(
        vocabulary.encode(items()),
        [[[2, 3], [2, 0]], [[2, 0], [0, 0]], [[0, 0], [0, 0]], [[4, 0], [3, 0]]],
    )


def test_rare_and_new_values_are_unknown_and_an_absent_column_is_missing():
    vocabulary = AttributeVocabulary.build(items(), ["colour", "style"], min_count=2)
    assert vocabulary.values == {"colour": ["red"], "style": []}
    new = pd.DataFrame({"attr.colour": [["violet", "red"], None]})
    np.testing.assert_array_equal(vocabulary.encode(new), [[[1, 2], [0, 0]], [[0, 0], [0, 0]]])


def test_values_beyond_the_limit_are_dropped_and_counted(caplog):
    vocabulary = AttributeVocabulary.build(items(), ["colour"], max_values=1)
    dropped = sum(max(0, len(values or []) - 1) for values in items()["attr.colour"])
    assert f"attribute colour: {dropped} values beyond the first 1 of a row are not read" in caplog.text
    np.testing.assert_array_equal(vocabulary.encode(items())[:, 0], [[2], [2], [0], [4]])


def test_of_items_that_are_not_counted_as_many_values_are_kept():
    vocabulary = AttributeVocabulary.build(items(), ["colour"], counted=np.array([False, True, True, True]))
    assert vocabulary.values == {"colour": ["red", "green"]} or vocabulary.values == {"colour": ["green", "red"]}
    assert vocabulary.max_values == 2
    red, unknown = vocabulary.values["colour"].index("red") + 2, 1
    np.testing.assert_array_equal(vocabulary.encode(items())[0, 0], [red, unknown])


def test_ids_fit_the_encoder():
    vocabulary = AttributeVocabulary.build(items(), ["colour", "style"])
    tokens, mask = AttributeEncoder(vocabulary.sizes, 4)(vocabulary.encode(items()))
    assert tokens.shape == (4, 2, 4)
    np.testing.assert_array_equal(mask, [[True, True], [True, False], [False, False], [True, True]])


def test_a_vocabulary_survives_its_file(tmp_path):
    frame = pd.DataFrame({"attr.category": [["원피스", "아우터"], ["원피스"]]})
    vocabulary = AttributeVocabulary.build(frame, ["category"])
    vocabulary.to_json(tmp_path / "attributes.json")
    again = AttributeVocabulary.from_json(tmp_path / "attributes.json")
    assert (again.values, again.max_values) == (vocabulary.values, 2)
    assert "원피스" in (tmp_path / "attributes.json").read_text(encoding="utf-8")


def test_an_unknown_field_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"'size'.*\['colour', 'style'\]"):
        AttributeVocabulary.build(items(), ["size"])


def test_columns_read_from_parquet_encode_the_same(tmp_path):
    frame = items()
    frame["attr.style"] = [[value] if value else [] for value in frame["attr.style"]]
    frame.to_parquet(tmp_path / "items.parquet")
    vocabulary = AttributeVocabulary.build(frame, ["colour", "style"])
    np.testing.assert_array_equal(
        vocabulary.encode(pd.read_parquet(tmp_path / "items.parquet")), vocabulary.encode(frame)
    )
