"""Splits a shop's purchases on their way to the writer, as the options of `add_split_options` ask."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pipelines.splits import DROPPED, leave_last_out, temporal_window


class PurchaseSplit:
    """Marks events, and remembers those that the split drops.

    Args:
        args: the options of `pipelines.arguments.add_split_options`.
        time: `[E]` seconds since 1970 of all purchases.

    Attributes:
        reason: why the split drops an event.

    Raises:
        PreparedError: no day would be left for training or for the test.
    """

    def __init__(self, args: argparse.Namespace, time: np.ndarray):
        self._min_items = args.min_items
        self._window = None
        self.reason = "repeat of an older purchase after a held-out one"
        if args.split == "temporal":
            self.reason = "purchase after the last day of the test"
            self._window = temporal_window(
                time.min(), time.max(), cutoff=args.cutoff, test_days=args.test_days, val_days=args.val_days
            )
        self._dropped: list[pd.DataFrame] = []

    def marked_frames(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield frames of whole users (`purchase_order.sorted_frames`) with their `split`, without what it drops."""
        for frame in frames:
            if self._window is not None:
                mark = self._window.mark(frame["time"].to_numpy())
            else:
                mark = leave_last_out(frame["user"].to_numpy(), frame["item"].to_numpy(), min_items=self._min_items)
            self._dropped.append(frame.loc[mark == DROPPED, ["position", "item"]])
            frame["split"] = mark
            yield frame[mark != DROPPED].drop(columns="position")

    @property
    def dropped(self) -> pd.DataFrame:
        """`position` and `item` of the events dropped so far."""
        return pd.concat(self._dropped)

    def entry(self) -> dict[str, Any]:
        """Return the rule and how much it dropped, for the manifest."""
        if self._window is not None:
            rule = {"kind": "temporal", **asdict(self._window)}
        else:
            rule = {"kind": "leave-last-out", "min_items": self._min_items}
        return {**rule, "dropped": sum(map(len, self._dropped))}
