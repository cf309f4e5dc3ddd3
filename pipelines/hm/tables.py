"""H&M's articles and customers, as items and users of the prepared dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.id_index import LONGEST_ID, proper_ids
from pipelines.prepared_writer import PreparedWriter
from pipelines.raw.raw_csv import RawCsv
from pipelines.raw.raw_table import as_mask
from pipelines.raw.raw_text import joined_text, text_or_null, value_lists
from pipelines.schema import ATTRIBUTE_PREFIX

TEXT_COLUMNS = (
    "prod_name",
    "product_type_name",
    "product_group_name",
    "graphical_appearance_name",
    "colour_group_name",
    "perceived_colour_value_name",
    "index_name",
    "section_name",
    "detail_desc",
)
ATTRIBUTE_COLUMNS = (
    "product_type_name",
    "product_group_name",
    "graphical_appearance_name",
    "colour_group_name",
    "perceived_colour_value_name",
    "perceived_colour_master_name",
    "department_name",
    "index_name",
    "index_group_name",
    "section_name",
    "garment_group_name",
)
ARTICLE_COLUMNS = ("article_id", "product_code", *dict.fromkeys([*TEXT_COLUMNS, *ATTRIBUTE_COLUMNS]))
CUSTOMER_COLUMNS = ("customer_id", "FN", "Active", "club_member_status", "fashion_news_frequency", "age")
ARTICLE_DIGITS = 10
ARTICLE_ID = "^[0-9]{1,10}$"
ARTICLE_ID_REASON = "article_id is not a number of at most 10 digits"
CUSTOMER_ID_REASON = f"customer_id is empty or longer than {LONGEST_ID} characters"
OLDEST = 130  # years


def padded_article_ids(ids: pa.Array) -> pa.Array:
    """Write article ids with H&M's 10 digits (`108775015` -> `0108775015`), which spreadsheets strip."""
    return pc.utf8_lpad(ids, ARTICLE_DIGITS, "0")


def read_articles(path: Path, *, writer: PreparedWriter, max_rejected: float) -> pd.DataFrame:
    """Read the articles; rows with an improper or a repeated id are rejected (the first of each id stays).

    Returns:
        A frame for `PreparedWriter.items` that still lacks photos and prices.
    """
    raw = RawCsv(path, ARTICLE_COLUMNS, writer=writer, quoted_newlines=True, may_be_empty=ARTICLE_COLUMNS[1:])
    table = raw.read()
    ids = pc.utf8_trim_whitespace(table["article_id"])
    proper = as_mask(pc.match_substring_regex(ids, ARTICLE_ID))
    ids = padded_article_ids(ids)
    told = {"name": "article_id", "why": ARTICLE_ID_REASON}
    keep = pa.array(raw.settle_ids(ids, proper, "article_id", table["article_id"], **told, max_rejected=max_rejected))
    columns = {name: pc.utf8_trim_whitespace(table[name]).filter(keep) for name in ARTICLE_COLUMNS[1:]}
    frame = pd.DataFrame(
        {
            "item_id": ids.filter(keep).to_pandas(),
            "title": columns["prod_name"].to_pandas(),
            "text": joined_text([columns[name] for name in TEXT_COLUMNS]),
            "group": columns["product_code"].to_pandas(),
        }
    )
    for name in ATTRIBUTE_COLUMNS:
        frame[ATTRIBUTE_PREFIX + name] = value_lists(columns[name])
    return frame


def read_customers(path: Path, *, writer: PreparedWriter, max_rejected: float) -> pd.DataFrame:
    """Read the customers, all of them: those who bought nothing also get recommendations.

    Returns:
        A frame for `PreparedWriter.users`; age is in steps of five years (`25-29`), unknown fields are null.
    """
    raw = RawCsv(path, CUSTOMER_COLUMNS, writer=writer, may_be_empty=CUSTOMER_COLUMNS[1:])
    table = raw.read()
    ids = table["customer_id"]
    told = {"name": "customer_id", "why": CUSTOMER_ID_REASON}
    keep = raw.settle_ids(ids, proper_ids(ids), "customer_id", ids, **told, max_rejected=max_rejected)
    fields = {
        "age": _age_groups(table["age"].to_pandas(), writer),
        "club_member_status": text_or_null(table["club_member_status"]),
        "fashion_news_frequency": text_or_null(table["fashion_news_frequency"]),
        "FN": text_or_null(table["FN"]).str.removesuffix(".0"),
        "Active": text_or_null(table["Active"]).str.removesuffix(".0"),
    }
    frame = pd.DataFrame(
        {"user_id": ids.to_pandas(), **{ATTRIBUTE_PREFIX + name: values for name, values in fields.items()}}
    )
    return frame[keep].reset_index(drop=True)


def _age_groups(ages: pd.Series, writer: PreparedWriter) -> pd.Series:
    """Put ages into groups of five years; what is no age becomes null and is counted in the manifest."""
    years = pd.to_numeric(ages, errors="coerce").where(lambda number: number.between(0, OLDEST))
    ignored = int((years.isna() & (ages.str.strip() != "")).sum())
    if ignored:
        writer.notes["customers_with_improper_age"] = ignored
    low = (years // 5 * 5).fillna(0).astype(np.int16)
    groups = low.astype(str) + "-" + (low + 4).astype(str)
    return groups.where(years.notna())
