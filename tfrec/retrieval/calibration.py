"""What repeats are worth to customers whose next purchases the model was not trained on.

The vectors explain too much of the purchases that they were trained on: the new items of a training customer score so high
that repeats beside them need next to nothing. Of purchases to come the best new items are wrong far more often, and repeats
are not. What was learned is therefore corrected on purchases that are kept out of training. It is a value for each age of a
purchase, fitted where it matters, at the top of the lists, so a few hundred customers are enough.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from tfrec.evaluation.protocol import Protocol, ProtocolError, build_protocol
from tfrec.repeats import BUCKETS, buckets_of
from tfrec.retrieval.assembly import RetrievalAssembly
from tfrec.retrieval.ranking import candidate_vectors, protocol_queries, purchase_bonus

log = logging.getLogger("tfrec")

FIRST = 20  # items of each list that the customer's own are told apart from
FIRST_STEP, STEP = 3.0, 1.0  # logits: standard deviations of the youngest age's correction, and from one to the next
LEAST_WEIGHT = 0.05  # of the scores, which are not turned round
SCORES_AT_ONCE = 1 << 25  # floats


class Listed(NamedTuple):
    """The first items of some customers' lists and their own ones, entry by entry.

    Attributes:
        customer: int64 `[E]`, rising.
        score: float32 `[E]`.
        purchases: how many of each age the customer made of the item, float32 `[E, BUCKETS]`.
        hit: whether the customer bought it next, bool `[E]`.
    """

    customer: np.ndarray
    score: np.ndarray
    purchases: np.ndarray
    hit: np.ndarray


def calibrate_repeats(assembly: RetrievalAssembly) -> None:
    """Fit the correction of a trained model's repeats (`RepeatScores.correction`), on the validation purchases of the
    assembly's `calibration_users`; it stays 0 where there are none."""
    repeats, config = assembly.model.repeats, assembly.config
    if repeats is None or not len(assembly.calibration_users):
        return
    try:
        protocol = build_protocol(
            assembly.prepared,
            "val",
            among=assembly.calibration_users,
            min_rating=config.evaluation.min_rating,
            history_min_rating=config.history_min_rating,
        )
    except ProtocolError as error:
        log.warning("repeats count as learned: %s", error)
        return
    repeats.correction.assign(np.zeros(BUCKETS))  # so that a second fit is no other than the first
    found = fitted_correction(first_and_own(assembly, protocol))
    repeats.correction.assign(found)
    assembly.workers.broadcast_from_chief([repeats.correction])
    told = " ".join(f"{value:+.1f}" for value in found)
    log.info("repeats corrected by the next purchases of %d customers: %s", len(protocol.users), told)


def first_and_own(assembly: RetrievalAssembly, protocol: Protocol) -> Listed:
    """The first `FIRST` items of each customer's list by the model as it is, and all that the history holds."""
    candidates = candidate_vectors(assembly)
    queries, inputs = protocol_queries(assembly, protocol, candidates)
    items, parts = len(candidates), []
    size = max(1, SCORES_AT_ONCE // items)
    for start in range(0, len(queries), size):
        history, days = (inputs[name][start : start + size] for name in ("history", "days_ago"))
        scores = queries[start : start + size] @ candidates.T
        bonus = purchase_bonus(assembly, history, days)
        assert bonus is not None  # as there are repeats
        np.add.at(scores, (bonus[0].rows, bonus[0].items), bonus[1])
        customer, place = np.nonzero(history >= 0)
        own = customer * items + history[customer, place]
        first = np.argpartition(-scores, min(FIRST, items) - 1, axis=1)[:, :FIRST]
        listed = np.union1d(first + np.arange(len(scores))[:, None] * items, own)
        targets = protocol.targets.slice(start, start + size)
        purchases = np.zeros((len(listed), BUCKETS), np.float32)
        np.add.at(purchases, (np.searchsorted(listed, own), buckets_of(days[customer, place]).numpy()), 1.0)
        hit = np.isin(listed, targets.rows * items + targets.items)
        parts.append(Listed(start + listed // items, scores.ravel()[listed], purchases, hit))
    return Listed(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def fitted_correction(listed: Listed) -> np.ndarray:
    """What each purchase of an item should add to its score for the items bought next to stand first: the correction of
    every age, float64 `[BUCKETS]`, in logits.

    A multinomial logistic regression of what was bought next, among the listed, on the scores so corrected. The scores'
    weight is fitted with it, as they are too sure of themselves. The correction of an age is near that of the next younger
    one (a random walk), unless purchases say otherwise; ages younger than all that are listed stay as they are.
    """
    from scipy.optimize import minimize

    customer, score, purchases, hit = listed
    if not purchases.any():
        return np.zeros(BUCKETS)
    _, starts, place = np.unique(customer, return_index=True, return_inverse=True)
    bought = np.add.reduceat(hit.astype(np.float64), starts)
    youngest = int(purchases.any(0).argmax())
    purchases = purchases[:, youngest:].astype(np.float64)
    ages = purchases.shape[1]
    step = (np.eye(ages) - np.eye(ages, k=-1)) / np.append(FIRST_STEP, np.full(ages - 1, STEP))[:, None]
    certainty = step.T @ step

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weight, correction = parameters[0], parameters[1:]
        corrected = score + purchases @ correction
        logits = weight * corrected
        logits -= np.maximum.reduceat(logits, starts)[place]
        chances = np.exp(logits)
        totals = np.add.reduceat(chances, starts)
        loss = bought @ np.log(totals) - logits[hit].sum()
        loss += ((weight - 1) ** 2 + correction @ certainty @ correction) / 2
        excess = chances * (bought / totals)[place] - hit
        of_weight = excess @ corrected + weight - 1
        return loss, np.append(of_weight, weight * (excess @ purchases) + certainty @ correction)

    bounds = [(LEAST_WEIGHT, None), *[(None, None)] * ages]
    found = minimize(loss_and_gradient, np.append(1.0, np.zeros(ages)), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.append(np.zeros(youngest), found.x[1:])
