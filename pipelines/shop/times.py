"""Reads the times of purchases as shops write them: dates, dates with times, and seconds or milliseconds since 1970."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.raw.raw_table import as_mask
from pipelines.time_bounds import YEAR_10000

REASON = "time is no date such as 2024-03-16 or 2024-03-16 18:05:00, nor seconds or milliseconds since 1970"
WRONG_UNIT = "time is too large for milliseconds since 1970 (micro- or nanoseconds?)"
DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
ZONE = "( ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?))?"
DIGITS = "(19|20)[0-9]{6}([0-9]{4}([0-9]{2})?)?"  # YYYYMMDD, YYYYMMDDHHMM, YYYYMMDDHHMMSS
MOMENT = f"^({DATE}([T ]{CLOCK}{ZONE})?|{DIGITS})$"
SPACED = (  # such digits, and how pandas reads them
    ("^([0-9]{8})([0-9]{2})([0-9]{2})$", r"\1T\2\3"),
    ("^([0-9]{8})([0-9]{2})([0-9]{2})([0-9]{2})$", r"\1T\2\3\4"),
)
NUMBER = r"^[0-9]+(\.[0-9]+)?$"
FIRST_SECONDS = 1e8  # of March 1973; smaller numbers are dates such as 31122024, or no times at all
FIRST_MILLISECONDS = 1e11  # as seconds this is the year 5138, as milliseconds 1973


def read_times(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Read times, UTC unless they name an offset; each distinct one of a block is parsed once.

    Args:
        column: strings.

    Returns:
        `[n]` whole seconds since 1970 (negative before; the year 10000 for all that is later), and `[n]` bool: which
        could be read.
    """
    encoded = column.dictionary_encode()
    codes = encoded.indices.to_numpy()
    seconds, proper = _parse(pc.utf8_trim_whitespace(encoded.dictionary))
    return seconds[codes], proper[codes]


def _parse(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    seconds, proper = np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)
    moments = as_mask(pc.match_substring_regex(texts, MOMENT))
    numbers = as_mask(pc.match_substring_regex(texts, NUMBER)) & ~moments
    seconds[moments], proper[moments] = _of_moments(texts.filter(pa.array(moments)))
    seconds[numbers], proper[numbers] = _of_numbers(texts.filter(pa.array(numbers)))
    return seconds, proper


def _of_moments(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of dates, with or without a time, and which of them the calendar has."""
    if not len(texts):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    texts = pc.replace_substring_regex(texts, " ?UTC$", "Z")
    for digits, spaced in SPACED:
        texts = pc.replace_substring_regex(texts, digits, spaced)
    moments = pd.to_datetime(texts.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    proper = moments.notna().to_numpy()
    return np.where(proper, moments.dt.as_unit("s").astype(np.int64), 0), proper


def _of_numbers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    numbers = pc.cast(texts, pa.float64()).to_numpy()
    seconds = np.floor(np.where(numbers < FIRST_MILLISECONDS, numbers, numbers / 1000))
    return np.minimum(seconds, YEAR_10000).astype(np.int64), numbers >= FIRST_SECONDS
