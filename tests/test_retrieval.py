"""Training and evaluation of the retrieval system, in what needs no model."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
from types import SimpleNamespace

import numpy as np
import pytest

from tests.test_protocol import temporal  # noqa: F401  (a fixture)
from tfrec.distributed.workers import Workers
from tfrec.evaluation.baselines import popularity
from tfrec.evaluation.protocol import build_protocol
from tfrec.retrieval import ranking, system
from tfrec.retrieval.assembly import fitting_batch_size
from tfrec.retrieval.config import RetrievalConfig


def test_who_has_bought_nothing_is_evaluated_with_what_is_served(temporal):  # noqa: F811
    """Popular items, whatever the start token's query finds."""
    protocol = build_protocol(temporal, "test", cold_users=True)
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(protocol.n_items, 4)), rng.normal(size=(len(protocol.users), 4))
    history = np.full((len(protocol.users), 1), -1, np.int32)
    assembly = SimpleNamespace(
        config=SimpleNamespace(model=SimpleNamespace(query=SimpleNamespace(kind="history"))),
        model=SimpleNamespace(repeats=None),
        neighbours=[],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "candidate_vectors", lambda _: vectors.astype(np.float32))
        patch.setattr(
            ranking,
            "protocol_queries",
            lambda *_: (queries.astype(np.float32), {"history": history, "days_ago": history}),
        )
        found = ranking.rank(assembly, protocol, 3)
    cold = ~protocol.warm
    np.testing.assert_array_equal(found.rows[cold], popularity(protocol, 3)[cold])
    assert (np.diff(found.scores[cold]) <= 0).all()
    np.testing.assert_array_equal(found.rows[~cold], np.argsort(-queries @ vectors.T)[~cold, :3])


def test_an_automatic_batch_size_is_chosen_once(tmp_path, monkeypatch):
    """Steps are counted in batches: beside other memory, a resumed training would end elsewhere."""
    for fitting in (64, 1024):
        monkeypatch.setattr("tfrec.retrieval.system.fitting_batch_size", lambda *_, size=fitting: size)
        assert system.kept_batch_size(RetrievalConfig(), 1000, tmp_path, Workers()) == 64


def test_the_logits_of_a_whole_catalogue_count_in_the_batch_size(monkeypatch):
    asked = []
    monkeypatch.setattr("tfrec.retrieval.assembly.automatic_batch_size", lambda floats: asked.append(floats) or 1)
    config = RetrievalConfig()
    for config.task.candidates in ("in_batch", "catalogue"):
        fitting_batch_size(config, 800_000)
    assert asked[1] - asked[0] == 4 * (config.model.query.length + 1) * 700_000
