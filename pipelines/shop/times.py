"""Reads the times of purchases as shops write them: dates, dates with times, and seconds or milliseconds since 1970."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.raw.raw_table import as_mask

REASON = "time is neither a date nor seconds or milliseconds since 1970"
DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
ZONE = "( ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?))?"
EIGHT_DIGITS = "(19|20)[0-9]{6}"  # a date too: as seconds they would lie in 1970
MOMENT = f"^({DATE}([T ]{CLOCK}{ZONE})?|{EIGHT_DIGITS})$"
NUMBER = r"^[0-9]+(\.[0-9]+)?$"
FIRST_MILLISECONDS = 1e11  # as seconds this is the year 5138, as milliseconds 1973
YEAR_10000 = 253_402_300_800  # seconds since 1970


def read_times(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Read times, UTC unless they name an offset; each distinct one of a block is parsed once.

    Args:
        column: strings.

    Returns:
        `[n]` whole seconds since 1970, and `[n]` bool: which could be read.
    """
    encoded = column.dictionary_encode()
    codes = encoded.indices.to_numpy()
    seconds, proper = _parse(pc.utf8_trim_whitespace(encoded.dictionary))
    return seconds[codes], proper[codes]


def _parse(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    seconds = np.full(len(texts), -1, np.int64)
    moments = as_mask(pc.match_substring_regex(texts, MOMENT))
    numbers = as_mask(pc.match_substring_regex(texts, NUMBER)) & ~moments
    seconds[moments] = _of_moments(texts.filter(pa.array(moments)))
    seconds[numbers] = _of_numbers(texts.filter(pa.array(numbers)))
    return seconds, (seconds >= 0) & (seconds < YEAR_10000)


def _of_moments(texts: pa.Array) -> np.ndarray:
    """Seconds of dates, with or without a time; -1 for what the calendar does not have."""
    if not len(texts):
        return np.zeros(0, np.int64)
    texts = pc.replace_substring_regex(texts, " ?UTC$", "Z")
    moments = pd.to_datetime(texts.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    return np.where(moments.notna(), moments.dt.as_unit("s").astype(np.int64), -1)


def _of_numbers(texts: pa.Array) -> np.ndarray:
    numbers = pc.cast(texts, pa.float64()).to_numpy()
    seconds = np.floor(np.where(numbers < FIRST_MILLISECONDS, numbers, numbers / 1000))
    return np.minimum(seconds, YEAR_10000).astype(np.int64)
