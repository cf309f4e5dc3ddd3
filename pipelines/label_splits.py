"""Item-level splits of labelled photo sets: the same classes in train and test, or classes never seen in
training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.ratio_splits import check_shares
from pipelines.schema import TEST, TRAIN, VAL, PreparedError

KINDS = ("stratified", "class-disjoint")


def split_labels(
    labels: Sequence[str] | np.ndarray,
    *,
    kind: str,
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """Assign every item to train, validation or test.

    Args:
        labels: `[N]` class of each item.
        kind: `stratified` (each class is cut in the same proportion) or `class-disjoint` (whole classes are
            held out).
        test_share: share of items (stratified) or of classes (class-disjoint) in test, 0..1.
        val_share: the same for validation.
        seed: of the draw.

    Returns:
        `[N]` int8: 0 train, 1 val, 2 test.

    Raises:
        PreparedError: an unknown kind, impossible shares, or too few classes for a class-disjoint split.
    """
    if kind not in KINDS:
        raise PreparedError(f"split {kind!r} is unknown; use one of {list(KINDS)}")
    check_shares(test_share, val_share)
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    draw = _stratified if kind == "stratified" else _class_disjoint
    return draw(codes, test_share, val_share, rng)


def _stratified(codes: np.ndarray, test_share: float, val_share: float, rng: np.random.Generator) -> np.ndarray:
    """Walk through the shuffled classes one after the other and pick evenly; the last item of a class stays in train."""
    split = np.full(len(codes), TRAIN, np.int8)
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    for name, share in ((TEST, test_share), (VAL, val_share / (1 - test_share))):
        order = order[np.bincount(codes[order], minlength=len(codes))[codes[order]] > 1]
        steps = np.floor(np.arange(1, len(order) + 1) * share + 1e-9)
        picked = np.diff(steps, prepend=0) > 0  # exactly the share of these, and within each class up to one item
        left = np.bincount(codes[order[~picked]], minlength=len(codes))
        first = np.diff(codes[order], prepend=-1) != 0
        picked &= ~(first & (left[codes[order]] == 0))
        split[order[picked]] = name
        order = order[~picked]
    return split


def _class_disjoint(codes: np.ndarray, test_share: float, val_share: float, rng: np.random.Generator) -> np.ndarray:
    """Hold out whole classes, at least one for each part that is asked for; two must stay in train."""
    classes = int(codes.max()) + 1 if len(codes) else 0
    tests, vals = (max(1, round(classes * share)) if share > 0 else 0 for share in (test_share, val_share))
    if classes - tests - vals < 2:
        raise PreparedError(
            f"a class-disjoint split of {classes} classes into {tests} test and {vals} validation classes "
            f"leaves {max(0, classes - tests - vals)} for training, which needs 2; use --split stratified, "
            "or more classes"
        )
    order = rng.permutation(classes)
    of_class = np.full(classes, TRAIN, np.int8)
    of_class[order[:tests]] = TEST
    of_class[order[tests : tests + vals]] = VAL
    return of_class[codes]
