"""What repeats are corrected by after a training, against plain loops."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.config import parse_config
from tfrec.evaluation.protocol import build_protocol
from tfrec.repeats import BUCKETS
from tfrec.retrieval import calibration
from tfrec.retrieval.assembly import RetrievalAssembly
from tfrec.retrieval.calibration import (
    FIRST_STEP,
    LEAST_WEIGHT,
    STEP,
    Listed,
    calibrate_repeats,
    first_and_own,
    fitted_correction,
)
from tfrec.retrieval.ranking import candidate_vectors, protocol_queries, purchase_bonus, rank
from tfrec.retrieval.system import train

DAY = 86_400
CUTOFF = 20_000 * DAY


def drawn(seed: int, customers: int = 12, entries: int = 8, ages: int = 3) -> Listed:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, entries + 1, customers)
    customer = np.repeat(np.arange(customers), counts)
    purchases = np.zeros((len(customer), BUCKETS), np.float32)
    purchases[:, :ages] = rng.integers(0, 2, (len(customer), ages)) * (rng.random((len(customer), 1)) < 0.4)
    score = rng.normal(size=len(customer)).astype(np.float32) * 3
    return Listed(customer, score, purchases, rng.random(len(customer)) < 0.3)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_the_fit_is_the_regression_of_its_docstring(seed):
    """No other weights are likelier, by plain loops."""
    listed, rng = drawn(seed), np.random.default_rng(seed)

    def loss(weight, correction):
        total = (weight - 1) ** 2 / 2 + (correction[0] / FIRST_STEP) ** 2 / 2
        total += sum(((correction[age] - correction[age - 1]) / STEP) ** 2 / 2 for age in range(1, BUCKETS))
        for customer in np.unique(listed.customer):
            of_it = listed.customer == customer
            logits = weight * (listed.score[of_it] + listed.purchases[of_it] @ correction)
            total -= (logits[listed.hit[of_it]] - np.log(np.exp(logits).sum())).sum()
        return total

    if not listed.purchases[:, 0].any():
        return  # the next test is of this
    found = fitted_correction(listed)
    weight = minimize_scalar(lambda w: loss(w, found), bounds=(LEAST_WEIGHT, 5), method="bounded").x
    least = loss(weight, found)
    for size in (0.05, 0.3):
        for _ in range(5):
            other = found + size * rng.normal(size=BUCKETS)
            assert (
                minimize_scalar(lambda w, c=other: loss(w, c), bounds=(LEAST_WEIGHT, 5), method="bounded").fun > least
            )


def test_ages_of_no_purchase_are_corrected_like_younger_ones():
    listed = drawn(0)
    moved = np.zeros_like(listed.purchases)
    moved[:, [2, 5]] = listed.purchases[:, :2]
    found = fitted_correction(listed._replace(purchases=moved))
    np.testing.assert_array_equal(found[:2], 0.0)
    assert found[2] != found[5]
    np.testing.assert_allclose(found[2:6], np.linspace(found[2], found[5], 4), atol=1e-3)  # the walk's likeliest way
    np.testing.assert_allclose(found[5:], found[5], atol=1e-3)
    np.testing.assert_array_equal(fitted_correction(listed._replace(purchases=moved * 0)), 0.0)


def test_a_handful_of_customers_correct_little():
    for seed in range(5):
        assert np.abs(fitted_correction(drawn(seed, customers=2))).max() < FIRST_STEP


def test_scores_are_never_turned_round():
    listed = drawn(0, customers=200)
    found = fitted_correction(listed._replace(score=-5.0 * listed.hit))  # worse than nothing
    assert np.isfinite(found).all()


@pytest.mark.parametrize("again", [True, False])
def test_repeats_stand_first_where_customers_buy_again(again):
    """Each list: 20 new items, of which the first scores far above the customer's own, and is hardly ever bought."""
    rng = np.random.default_rng(0)
    scores = np.append(np.linspace(9, 4, 20), 5.0)
    customers = 200
    hit = np.zeros((customers, 21), bool)
    hit[
        np.arange(customers),
        np.where(rng.random(customers) < (0.6 if again else 0.0), 20, rng.integers(0, 20, customers)),
    ] = 1
    purchases = np.zeros((customers * 21, BUCKETS), np.float32)
    purchases[20::21, 1] = 1
    listed = Listed(np.repeat(np.arange(customers), 21), np.tile(scores, customers), purchases, hit.ravel())
    corrected = 5.0 + fitted_correction(listed)[1]
    assert corrected > 9 if again else corrected < 4


@pytest.fixture(scope="module")
def loyal(tmp_path_factory):
    """200 customers, each of whom buys the same two of 60 items again and again, and another one now and then."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(200):
        own = rng.integers(0, 60, 2)
        for day in range(-6, 2):
            item = own[day % 2] if rng.random() < 0.7 else rng.integers(60)
            rows.append((user, item, CUTOFF + day * DAY, 2 if day >= 0 else 1 if day >= -2 else 0))
    path = tmp_path_factory.mktemp("loyal") / "data"
    with PreparedWriter(path, dataset="loyal") as writer:
        writer.split = {"kind": "temporal", "cutoff": "2024-10-04", "test_days": 2, "val_days": 2}
        writer.items(pd.DataFrame({"item_id": [f"i{row}" for row in range(60)]}))
        writer.users(pd.DataFrame({"user_id": [f"u{row}" for row in range(200)]}))
        writer.events(pd.DataFrame(rows, columns=["user", "item", "time", "split"]))
    return open_prepared(path)


def configured(data, *words):
    options = {
        "--model.image.enabled": "false",
        "--model.text.enabled": "false",
        "--model.item.dim": 8,
        "--model.query.layers": 1,
        "--model.query.heads": 2,
        "--model.query.followers": 3.0,
        "--training.batch_size": 32,
        "--training.steps": 60,
        "--training.learning_rate": 0.01,
        "--training.final": "true",
        "--training.precision": "float32",  # as it is evaluated, so that the trained model is handed on
    }
    words = [*(str(word) for pair in options.items() for word in pair), *words]
    config, _ = parse_config("retrieval", [], ["--data", str(data.path), *words])
    return config


def test_the_first_items_and_the_own_ones_are_listed(loyal, monkeypatch):
    monkeypatch.setattr(calibration, "SCORES_AT_ONCE", 7 * 60)  # several parts, the last one smaller
    monkeypatch.setattr(calibration, "FIRST", 5)
    assembly = RetrievalAssembly(configured(loyal), loyal)
    assembly.model.repeats.value.assign(np.linspace(-0.3, 0.3, BUCKETS))
    protocol = build_protocol(loyal, "val", among=assembly.calibration_users)
    np.testing.assert_array_equal(protocol.users, assembly.calibration_users)
    listed = first_and_own(assembly, protocol)

    candidates = candidate_vectors(assembly)
    queries, inputs = protocol_queries(assembly, protocol, candidates)
    bonus, values = purchase_bonus(assembly, inputs["history"], inputs["days_ago"])
    entry = 0
    for user in range(len(protocol.users)):
        scores = candidates @ queries[user]
        own = {}
        for item, days in zip(inputs["history"][user], inputs["days_ago"][user]):
            if item >= 0:
                own.setdefault(item, np.zeros(BUCKETS))[int(np.log2(days + 1) + 1e-5)] += 1
        np.add.at(scores, bonus[user], values[bonus.rows == user])
        for item in sorted({*np.argsort(-scores)[:5], *own}):
            assert listed.customer[entry] == user
            np.testing.assert_allclose(listed.score[entry], scores[item], rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(listed.purchases[entry], own.get(item, np.zeros(BUCKETS)))
            assert listed.hit[entry] == (item in protocol.targets[user])
            entry += 1
    assert entry == len(listed.customer)


def test_what_repeats_are_fitted_to_is_not_trained_on(loyal):
    events = loyal.events(columns=["user", "split"])
    val = events["split"] == 1
    assembly = RetrievalAssembly(configured(loyal, "--task.collapse_repeats", "never"), loyal)
    left_out = val & events["user"].isin(assembly.calibration_users)
    assert len(assembly.calibration_users) == 20  # a tenth
    assert len(assembly.purchases) == (events["split"] < 2).sum() - left_out.sum()
    kept = RetrievalAssembly(configured(loyal, "--training.final", "false", "--task.collapse_repeats", "never"), loyal)
    assert len(kept.calibration_users) == 200
    assert len(kept.purchases) == (events["split"] == 0).sum()


@pytest.mark.parametrize(
    "words",
    [
        ["--training.calibration_users", "0"],
        ["--evaluation.seen_filter", "true"],
        ["--model.query.repeats", "false"],
        ["--model.query.kind", "user", "--model.query.followers", "0"],
    ],
)
def test_nothing_is_left_out_where_nothing_is_fitted(loyal, words):
    assembly = RetrievalAssembly(configured(loyal, *words), loyal)
    assert not len(assembly.calibration_users)
    calibrate_repeats(assembly)
    assert assembly.model.repeats is None or not assembly.model.repeats.correction.numpy().any()


def test_a_training_ends_with_repeats_that_suit_purchases_to_come(loyal, tmp_path):
    """It ranks them better than what was learned, and a second fit is the first one."""
    assembly = train(configured(loyal), tmp_path)
    correction = assembly.model.repeats.correction.numpy()
    assert correction.any()
    protocol = build_protocol(loyal, "test")
    reached = []
    for value in (correction, np.zeros(BUCKETS)):
        assembly.model.repeats.correction.assign(value)
        rows = rank(assembly, protocol, 2).rows
        reached.append(np.mean([len({*found} & {*protocol.targets[user]}) for user, found in enumerate(rows)]))
    assert reached[0] > reached[1]
    calibrate_repeats(assembly)
    np.testing.assert_allclose(assembly.model.repeats.correction.numpy(), correction, rtol=1e-6)
