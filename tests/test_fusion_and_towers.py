"""The bricks of the towers: shapes, configuration, precision; masks and missing modalities; causality."""

import numpy as np
import pytest
import tensorflow as tf

from tests.layer_checks import check_layer, global_policy
from tfrec.attention import Attention, FeedForward, rotate
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.fusion import CrossAttentionBlock, CrossAttentionFusion, masked_mean
from tfrec.towers import HistoryTower, ItemTower, ShallowTower, Standardize, UserTower, gap_bucket, sinusoids


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_attention_layer():
    check_layer(lambda: Attention(8, 2), normal(3, 5, 8), (3, 5, 8))
    check_layer(lambda: Attention(8, 2, rotary=True), normal(3, 5, 8), (3, 5, 8))
    check_layer(lambda: FeedForward(8, ratio=2.0), normal(3, 5, 8), (3, 5, 8))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_parts_of_a_float32_layer_compute_in_float32_under_every_policy(policy):
    with global_policy(policy):
        assert Attention(8, 2, dropout=0.1, dtype="float32")(normal(3, 5, 8), training=True).dtype == tf.float32
        assert FeedForward(8, dropout=0.1, dtype="float32")(normal(3, 5, 8), training=True).dtype == tf.float32
        tower = ShallowTower(
            8,
            attributes=AttributeEncoder([5, 4], 8),
            vocabulary=20,
            vectors={"text_vector": np.eye(4, dtype=np.float16)},
        )
        inputs = {
            "attributes": tf.constant([[[2], [0]], [[1], [3]]]),
            "tokens": tf.constant([[3, 4, 0], [5, 0, 0]]),
            "text_vector": tf.constant(np.eye(4, dtype=np.float16)[:2]),
        }
        assert tower(inputs).dtype == tf.float32


def test_attention_equals_a_loop_over_heads():
    layer, x, memory = Attention(8, 2), normal(2, 3, 8), normal(2, 4, 8, seed=1)
    mask = np.array([[True, True, False, True], [True, False, False, False]])
    out, weights = layer(x, memory, tf.constant(mask), return_scores=True)
    kernel, offset = layer.kernel.numpy(), layer.offset.numpy()
    for b in range(2):
        q = x[b] @ kernel[:, :8] + offset[:8]
        k = memory[b] @ kernel[:, 8:16] + offset[8:16]
        v = memory[b] @ kernel[:, 16:] + offset[16:]
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            scores = np.where(mask[b], q.numpy()[:, h] @ k.numpy()[:, h].T / 2.0, -np.inf)
            p = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(p / p.sum(1, keepdims=True) @ v.numpy()[:, h])
        expected = layer.project_out(np.concatenate(heads, 1)[None].astype(np.float32))[0]
        np.testing.assert_allclose(out[b], expected, atol=1e-5)
    assert float(tf.reduce_max(tf.abs(weights[0, :, :, 2]))) == 0.0


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads=3 must divide dim=8"):
        Attention(8, 3)


def test_rotation_depends_on_the_distance_alone():
    x = tf.repeat(normal(1, 1, 1, 6), 9, axis=2)  # the same vector at nine places
    turned = rotate(x, tf.range(9))[0, 0].numpy()
    products = turned @ turned.T
    np.testing.assert_allclose(products[0, 2], products[5, 7], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x[0, 0], axis=1), rtol=1e-5)
    rows = rotate(tf.repeat(x[:, :, :2], 2, axis=0), tf.constant([[3, 8], [0, 4]]))[:, 0]
    np.testing.assert_allclose(rows, np.stack([turned[[3, 8]], turned[[0, 4]]]), rtol=1e-5)


def test_fusion_layer():
    check_layer(lambda: CrossAttentionFusion(8, 2, 2, output_dim=5), (normal(3, 4, 8), normal(3, 6, 8)), (3, 5))
    block = CrossAttentionBlock(8, 2)
    out, weights = block(normal(3, 4, 8), normal(3, 6, 8))
    assert out.shape == (3, 4, 8)
    assert weights.shape == (3, 2, 4, 6)


def test_fusion_does_not_see_masked_tokens():
    fusion = CrossAttentionFusion(8, 2, 2)
    image, text = normal(2, 4, 8), normal(2, 5, 8, seed=1)
    mask = tf.constant([[True, True, False, False, False]] * 2)
    changed = tf.concat([text[:, :2], text[:, 2:] + 9.0], 1)
    np.testing.assert_allclose(
        fusion(image, text, text_mask=mask), fusion(image, changed, text_mask=mask), rtol=1e-5, atol=1e-6
    )
    _, attention = fusion(image, text, text_mask=mask, return_attention=True)
    assert attention["image_to_text"].shape == (2, 4, 5)
    np.testing.assert_allclose(tf.reduce_sum(attention["image_to_text"][:, :, :2], -1), 1.0, rtol=1e-5)


def test_masked_mean():
    tokens = tf.constant([[[1.0], [3.0], [100.0]], [[5.0], [6.0], [7.0]]])
    mask = tf.constant([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(masked_mean(tokens, mask), [[2.0], [0.0]])


@pytest.mark.parametrize("mask", [None, tf.ones([1, 1000], tf.bool)])
def test_a_mean_of_many_tokens_is_not_lost_in_half_precision(mask):
    tokens = tf.ones([1, 1000, 1], tf.bfloat16)  # whose sum stays at 256 in bfloat16
    assert masked_mean(tokens, mask).dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(masked_mean(tokens, mask), tf.float32), [[1.0]])


class TokensOfPixels(tf.keras.layers.Layer):
    """A stand-in for a photo encoder: one token a pixel row."""

    def call(self, photos, training=None):
        return tf.reduce_mean(tf.cast(photos, tf.float32), -1) / 255.0


class TokensOfIds(tf.keras.layers.Layer):
    """A stand-in for a text encoder: one-hot ids, id 0 is padding."""

    def call(self, ids, training=None):
        return tf.one_hot(ids, 10)

    def mask(self, ids):
        return ids != 0


@pytest.fixture
def item_tower():
    fusion = CrossAttentionFusion(8, 1, 2, output_dim=6)
    return ItemTower(fusion, image=TokensOfPixels(), text=TokensOfIds(), attributes=AttributeEncoder([5, 4], 8))


def items(batch=3, photo=True, text=True, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 10, (batch, 5)) if text else np.zeros((batch, 5))
    return {
        "photos": tf.constant(rng.integers(0, 255, (batch, 4, 4, 3)), tf.uint8),
        "has_photo": tf.fill([batch], photo),
        "tokens": tf.constant(tokens, tf.int32),
        "attributes": tf.constant(rng.integers(0, 4, (batch, 2, 2)), tf.int32),
    }


def test_a_missing_photo_is_the_learned_token_whatever_the_pixels(item_tower):
    without = items(photo=False)
    other = {**without, "photos": 255 - without["photos"]}
    np.testing.assert_allclose(item_tower(without), item_tower(other), rtol=1e-6)
    assert not np.allclose(item_tower(without), item_tower(items()))
    before = item_tower(without).numpy()
    item_tower.no_photo.assign_add(normal(*item_tower.no_photo.shape))  # not a constant: normalisation takes it away
    assert not np.allclose(before, item_tower(without))
    np.testing.assert_allclose(item_tower(items()), item_tower(items()), rtol=1e-6)


def test_the_learned_token_is_silent_where_the_modality_is_there(item_tower):
    before = item_tower(items()).numpy()
    for token in (item_tower.no_photo, item_tower.no_text):
        token.assign_add(normal(*token.shape))
    np.testing.assert_allclose(before, item_tower(items()), rtol=1e-6)


def test_every_mix_of_modalities_is_finite_and_float32(item_tower):
    for photo in (True, False):
        for text in (True, False):
            out = item_tower(items(photo=photo, text=text))
            assert out.dtype == tf.float32
            assert np.isfinite(out).all()
            assert out.shape == (3, 6)


def test_history_tower_looks_back_only():
    tower = HistoryTower(8, 6, layers=2, heads=2, user_fields=(3,))
    x, mask = normal(1, 6, 8), tf.ones([1, 6], tf.bool)
    gaps, fields = tf.ones([1, 6]), tf.constant([[1]])
    before = tower(x, mask, gaps, fields).numpy()
    assert before.shape == (1, 7, 8)
    after = tower(tf.concat([x[:, :4], -x[:, 4:]], 1), mask, gaps, fields).numpy()
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-5)  # start token and the first four purchases
    assert not np.allclose(before[:, 5], after[:, 5])


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "none"])
def test_history_tower_ignores_how_much_padding_stands_in_front(positions):
    tower = HistoryTower(8, 6, layers=1, heads=2, positions=positions)
    x, gaps = normal(2, 3, 8), tf.constant([[1.0, 2.0, 3.0]] * 2)
    short = tower(x, tf.ones([2, 3], tf.bool), gaps)
    padded = tower(
        tf.pad(x, [[0, 0], [3, 0], [0, 0]], constant_values=7.0),
        tf.constant([[False] * 3 + [True] * 3] * 2),
        tf.pad(gaps, [[0, 0], [3, 0]]),
    )
    np.testing.assert_allclose(short[:, 0], padded[:, 0], atol=1e-5)
    np.testing.assert_allclose(short[:, 1:], padded[:, 4:], atol=1e-5)


def test_order_and_time_matter_where_they_are_told():
    x, mask, gaps = normal(1, 4, 8), tf.ones([1, 4], tf.bool), tf.zeros([1, 4])
    turned = tf.reverse(x[:, :3], [1])
    for positions, differs in (("learned", True), ("rotary", True), ("none", False)):
        tower = HistoryTower(8, 4, layers=1, heads=2, positions=positions)
        if positions == "learned":
            tower(x, mask, gaps)
            tower.position_table.assign(normal(4, 8, seed=2))
        a, b = tower(x, mask, gaps), tower(tf.concat([turned, x[:, 3:]], 1), mask, gaps)
        assert (not np.allclose(a[:, -1], b[:, -1], atol=1e-5)) == differs, positions
    tower.gap_table.assign(normal(16, 8, seed=3))
    assert not np.allclose(tower(x, mask, gaps)[:, -1], tower(x, mask, gaps + 30.0)[:, -1])


def test_user_tower_has_a_row_for_strangers():
    tower = UserTower(4, 3, user_fields=(2,))
    out = tower(tf.constant([0, 2, -1, -1]), tf.constant([[0], [1], [0], [1]]))
    assert out.shape == (4, 4)
    assert not np.allclose(out[2], out[3])
    np.testing.assert_allclose(out[2], tower.table[3] + tower.field_tables[0][0])


def test_a_missing_attribute_says_nothing_in_the_shallow_tower():
    """Its own token is not trained where no item of the catalogue lacks the field; searches by words lack them all."""
    tower = ShallowTower(8, attributes=AttributeEncoder([5, 4], 8))
    both, none = tf.constant([[[2], [3]]]), tf.constant([[[2], [0]]])
    before = [tower({"attributes": values}).numpy() for values in (both, none)]
    table = tower.attributes.table
    table.embeddings.assign(table.embeddings + tf.one_hot([0, 5], 9, axis=0, dtype=tf.float32) @ tf.ones([2, 8]) * 7)
    after = [tower({"attributes": values}).numpy() for values in (both, none)]
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert not np.allclose(*before)


def test_gap_buckets_double():
    days = tf.constant([0.0, 0.5 / 24, 1 / 24, 3 / 24, 1.0, 365.0, 1e6, np.inf, np.nan])
    np.testing.assert_array_equal(gap_bucket(days), [0, 1, 1, 2, 5, 14, 15, 15, 0])


def test_sinusoids_are_distinct_unit_pairs():
    table = sinusoids(50, 8).numpy()
    assert len(np.unique(table.round(5), axis=0)) == 50
    np.testing.assert_allclose(table[:, 0] ** 2 + table[:, 4] ** 2, 1.0, rtol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "none"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_last_place_alone_is_read_as_among_all(positions, layers):
    tower = HistoryTower(8, 6, layers=layers, heads=2, positions=positions, user_fields=(3,))
    items, lengths = normal(4, 5, 8), np.array([5, 2, 0, 1])
    inputs = (
        items,
        tf.constant(np.arange(5) >= 5 - lengths[:, None]),
        tf.ones([4, 5]),
        tf.constant([[0], [2], [1], [0]]),
    )
    whole, last = tower(*inputs), tower(*inputs, last=True)
    assert last.shape == (4, 1, 8)
    expected = np.stack([whole[row, 5 if length else 0] for row, length in enumerate(lengths)])
    np.testing.assert_allclose(last[:, 0], expected, rtol=1e-5, atol=1e-6)
    nothing = tower(items[:, :0], inputs[1][:, :0], inputs[2][:, :0], inputs[3], last=True)
    np.testing.assert_allclose(nothing[2], last[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.ones((3, 4)), np.zeros((2, 4))])
def test_vectors_that_do_not_differ_are_not_blown_up(vectors):
    layer = Standardize(vectors.astype(np.float32))
    assert np.abs(layer(np.full((1, 4), 1.5, np.float32)).numpy()).max() <= 1.5
