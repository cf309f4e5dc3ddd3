"""What the laboratory is given of a retrieval run: vectors, and attention over photos."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from pipelines.content import ItemContent
from tfrec.encoders.image import ViTEncoder
from tfrec.fusion import CrossAttentionFusion
from tfrec.retrieval.embeddings import attention_maps
from tfrec.saved_model.towers import ServedTowers
from tfrec.towers import ItemTower


class Words(tf.keras.layers.Layer):
    """Stands for a text encoder: an embedding; id 0 is padding."""

    def __init__(self):
        super().__init__()
        self.table = tf.keras.layers.Embedding(9, 8)

    def call(self, ids, training=None):
        return self.table(ids)

    def mask(self, ids):
        return ids != 0


def assembly(pool=1, layers=1):
    rng = np.random.default_rng(0)
    tower = ItemTower(
        CrossAttentionFusion(8, layers, 2),
        image=ViTEncoder(size=(12, 8), patch=4, dim=8, layers=1, heads=2),
        text=Words(),
        pool=pool,
    )
    has_photo = np.array([True, True, False, True])
    tokens = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 0], [1, 2, 3, 4]], np.int32)
    photos = rng.integers(0, 256, (4, 12, 8, 3)).astype(np.uint8)
    content = ItemContent(4, {"has_photo": has_photo, "photos": photos, "tokens": tokens}, size=(12, 8))
    return SimpleNamespace(model=SimpleNamespace(item_tower=tower), content=content, config=SimpleNamespace(seed=0))


@pytest.mark.parametrize(("pool", "grid"), [(1, (3, 2)), (2, (2, 1))])
def test_maps_have_the_shape_of_the_photo_and_a_share_for_each_word(pool, grid):
    rows, weights = attention_maps(assembly(pool))
    assert rows.tolist() == [0, 1, 3]  # item 2 has no photo
    assert weights.shape == (3, *grid)
    assert (weights >= 0).all()
    words = np.array([3, 1, 4])  # each spends 1 over the patches and the class token; padding spends nothing
    totals = weights.sum(axis=(1, 2))
    assert (totals < words).all()
    assert (totals > 0.3 * words).all()


@pytest.mark.parametrize("pool", [1, 2])
def test_a_served_model_shows_what_the_report_shows(pool):
    """As shares; a pool of 2 does not divide the three rows of patches."""
    found = assembly(pool)
    _, weights = attention_maps(found)
    arrays, seen = found.content.arrays, np.array([0, 1, 3])
    served = SimpleNamespace(model=found.model, frozen=lambda inputs: inputs)
    given = (tf.constant(arrays[name][seen]) for name in ("photos", "has_photo", "tokens"))
    shares = ServedTowers.attention(served, *given, tf.zeros([3, 0, 1], tf.int32))
    np.testing.assert_allclose(shares, weights / weights.sum(axis=(1, 2), keepdims=True), rtol=1e-4)


def test_there_are_no_maps_without_cross_attention():
    assert attention_maps(assembly(layers=0)) is None


def test_a_retrieval_run_is_analysed_from_its_own_vectors(tmp_path, monkeypatch):
    import pandas as pd

    from pipelines.prepared import PreparedWriter
    from tfrec import analyze
    from tfrec.config import save_config
    from tfrec.retrieval import embeddings
    from tfrec.retrieval.config import RetrievalConfig

    ids = [f"i{n}" for n in range(12)]
    with PreparedWriter(tmp_path / "data", dataset="shop") as writer:
        writer.items(pd.DataFrame({"item_id": ids, "attr.kind": [["a"], ["b"]] * 6}))
    run = tmp_path / "run"
    run.mkdir()
    save_config(RetrievalConfig(data=str(tmp_path / "data")), run / "config.yaml")
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    prepared = SimpleNamespace(items=pd.DataFrame({"item_id": ids}))
    config = RetrievalConfig()
    config.model.item.dim = 4
    found = SimpleNamespace(prepared=prepared, model=SimpleNamespace(item_tower=None), content=None, config=config)
    monkeypatch.setattr("tfrec.retrieval.loading.load_assembly", lambda folder, **options: found)
    monkeypatch.setattr("tfrec.retrieval.ranking.candidate_vectors", lambda made: vectors)
    words = ["--run", str(run), "--by", "kind", "--projections", "pca", "--clusterings", "kmeans"]
    assert analyze.main([*words, "--out", str(tmp_path / "report")]) == 0
    with np.load(run / embeddings.VECTORS_FILE) as arrays:
        np.testing.assert_array_equal(arrays["vectors"], vectors)
    assert (tmp_path / "report" / "report.html").is_file()
