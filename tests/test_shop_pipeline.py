"""`python -m pipelines shop` on a shop's own tables: what becomes of them, against plain loops, and what is set aside."""

import csv
import gzip
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import demo
from pipelines.__main__ import main
from pipelines.prepared import open_prepared
from pipelines.raw import raw_csv
from pipelines.raw.csv_lines import UNSPLIT
from pipelines.raw.raw_csv import WRONG_COUNT
from pipelines.raw.raw_parquet import as_text
from pipelines.shop.times import REASON, WRONG_UNIT, read_times
from pipelines.time_bounds import TOO_EARLY, TOO_LATE, is_too_late

ROOT = Path(__file__).parents[1]
ITEMS = [
    {
        "item_id": "007",
        "title": "Shirt",
        "text": 'Soft, "warm"\nand wide',
        "group": "g1",
        "colour": "red | blue",
        "size": "M",
    },
    {"item_id": "é-2", "title": "Hat", "text": "", "group": "g1", "colour": "", "size": "L"},
    {"item_id": "7", "title": "", "text": "Only text", "group": "", "colour": "red", "size": ""},
]
PURCHASES = [
    {"customer_id": "ann", "item_id": "007", "time": "2024-01-01"},
    {"customer_id": "bob", "item_id": "é-2", "time": "2024-01-03T10:00:00+02:00"},
    {"customer_id": "ann", "item_id": "7", "time": "1704672000"},
    {"customer_id": "bob", "item_id": "7", "time": "1704758400000"},
]
CUSTOMERS = [{"customer_id": "eve", "club": "gold"}, {"customer_id": "bob", "club": ""}]
ALL_TRAIN = ["--split", "leave-last-out", "--min-items", "1000"]


def write(path, rows, *, end="\n", bom=False, separator=",", pack=False):
    """A CSV file of dictionaries."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=end, delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    data = b"\xef\xbb\xbf" * bom + text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if pack else data)
    return path


def photo(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 40), colour).save(path)


def shop(folder, *, items=ITEMS, purchases=PURCHASES, customers=None, **layout):
    """A shop's files; the options that name them."""
    options = ["--items", write(folder / "items.csv", items, **layout)]
    options += ["--purchases", write(folder / "purchases.csv", purchases, **layout)]
    if customers:
        options += ["--customers", write(folder / "customers.csv", customers, **layout)]
    return options


def run(out, *options):
    return main(["shop", *map(str, options), "--out", str(out)])


def prepare(out, *options):
    """Run the command; returns the prepared dataset and its rejected rows."""
    assert run(out, *options) == 0
    return open_prepared(out, verify=True), pd.read_parquet(out / "rejected.parquet")


def refused(out, capsys, *options):
    """Run the command on what it must refuse; returns its one line."""
    assert run(out, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert not out.exists()
    return line


def plain_events(data):
    """`(customer, item, time)` of the events, by their ids."""
    events = data.events()
    users, items = data.users["user_id"], data.items["item_id"]
    return [(users[u], items[i], t) for u, i, t in zip(events["user"], events["item"], events["time"])]


# ---- what becomes of the tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [{}, {"end": "\r\n", "bom": True}, {"separator": ";"}, {"separator": "\t"}, {"pack": True}],
    ids=["plain", "excel", "semicolon", "tab", "gzip"],
)
def test_tables_become_items_users_and_events(tmp_path, capsys, layout):
    files = shop(tmp_path, customers=CUSTOMERS, **layout)
    separator = {"\t": "tab"}.get(layout.get("separator"), layout.get("separator", ","))
    data, rejected = prepare(tmp_path / "out", *files, "--test-days", "1", "--separator", separator)
    items = data.items
    end = layout.get("end", "\n")
    assert items["item_id"].tolist() == ["007", "é-2", "7"]
    assert items["title"].tolist() == ["Shirt", "Hat", ""]
    text = 'Soft, "warm"\nand wide'
    assert items["text"].tolist() == [f"Shirt. {text}", "Hat", "Only text"], end
    assert items["group"].tolist() == ["g1", "g1", ""]
    assert data.fields == ["colour", "size"]
    assert [list(values) for values in items["attr.colour"]] == [["red", "blue"], [], ["red"]]
    assert [list(values) for values in items["attr.size"]] == [["M"], ["L"], []]
    assert [list(keys) for keys in items["images"]] == [[], [], []]
    assert data.images is None
    assert data.users["user_id"].tolist() == ["eve", "bob", "ann"]
    assert data.users["attr.club"].replace({np.nan: None}).tolist() == ["gold", None, None]
    assert data.manifest["counts"]["users_only_in_purchases"] == 1
    assert plain_events(data) == [
        ("bob", "é-2", 1704268800),
        ("bob", "7", 1704758400),
        ("ann", "007", 1704067200),
        ("ann", "7", 1704672000),
    ]
    assert data.events()["split"].tolist() == [0, 2, 0, 1]
    assert data.manifest["split"] == {
        "kind": "temporal", "cutoff": "2024-01-09", "test_days": 1, "val_days": 1, "dropped": 0,
    }  # fmt: skip
    assert rejected.empty
    assert "3 items, 3 users, 4 events" in capsys.readouterr().out


def test_items_of_ids_alone_are_enough(tmp_path):
    data, _ = prepare(
        tmp_path / "out", *shop(tmp_path, items=[{"item_id": row["item_id"]} for row in ITEMS]), *ALL_TRAIN
    )
    assert data.fields == []
    assert data.items["text"].tolist() == ["", "", ""]
    assert "group" not in data.items
    assert len(data.events()) == 4


def test_attributes_can_be_chosen_and_what_is_not_used_is_said_once(tmp_path, capsys):
    purchases = [row | {"price": "5", "": "row"} for row in PURCHASES]
    files = shop(tmp_path, purchases=purchases)
    second = write(tmp_path / "more.csv", purchases)
    data, _ = prepare(tmp_path / "out", *files, second, "--attributes", "size", *ALL_TRAIN)
    assert data.fields == ["size"]
    said = [line for line in capsys.readouterr().out.splitlines() if "not used" in line]
    assert said == ["items.csv: not used: colour", "purchases: not used: price, (without a name)"]
    data, _ = prepare(tmp_path / "none", *shop(tmp_path), "--attributes", *ALL_TRAIN)
    assert data.fields == []


IDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), min_size=1, max_size=6
).filter(str.strip)
TIMES = st.integers(978_307_200, 1_735_689_600)  # 2001 to 2025


def written(second, how):
    """A second as shops write it."""
    moment = datetime.fromtimestamp(second, UTC)
    return [
        lambda: str(second),
        lambda: f"{second}{second % 1000:03d}",
        lambda: moment.isoformat(),
        lambda: moment.strftime("%Y-%m-%d %H:%M:%S"),
        lambda: moment.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
        lambda: moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        lambda: f"{second}.0",
    ][how]()


@settings(max_examples=20)
@given(
    st.lists(IDS, min_size=1, max_size=6, unique=True),
    st.lists(st.tuples(st.integers(0, 5), IDS, TIMES, st.integers(0, 6)), min_size=1, max_size=30),
    st.integers(1, 3),
    st.booleans(),
)
def test_purchases_are_what_a_plain_loop_makes_of_them(ids, sales, parts, windows):
    """Ids of any letters, times in any order and format, in several files: sorted by customer, time, place in the files."""
    layout = {"end": "\r\n" if windows else "\n", "bom": windows}
    rows = [
        {"customer_id": buyer, "item_id": ids[item % len(ids)], "time": written(second, how)}
        for item, buyer, second, how in sales
    ]
    edges = [len(rows) * part // parts for part in range(parts + 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = ["--items", write(folder / "items.csv", [{"item_id": item, "kind": "x"} for item in ids], **layout)]
        for part, (start, end) in enumerate(itertools.pairwise(edges)):
            if start < end:
                files += ["--purchases", write(folder / f"{part}.csv", rows[start:end], **layout)]
        data, rejected = prepare(folder / "out", *files, *ALL_TRAIN)
        assert rejected.empty
        users = list(dict.fromkeys(row["customer_id"] for row in rows))
        assert data.users["user_id"].tolist() == users
        expected = sorted(
            (
                (users.index(buyer), second, place, ids[item % len(ids)])
                for place, (item, buyer, second, _) in enumerate(sales)
            )
        )
        assert plain_events(data) == [(users[user], item, second) for user, second, _, item in expected]


@given(st.lists(st.tuples(TIMES, st.integers(0, 6)), min_size=1, max_size=20))
def test_times_of_all_formats_are_read(times):
    seconds, proper = read_times(pa.array([written(*time) for time in times]))
    assert proper.all()
    assert seconds.tolist() == [second for second, _ in times]


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2024-02-29", 1709164800),
        ("20240229", 1709164800),
        (" 2024-02-29 ", 1709164800),
        ("2024-02-29 12:30", 1709209800),
        ("2024-02-29 12:30:00 UTC", 1709209800),
        ("2024-02-29T12:30:00+02", 1709202600),
        ("202402291230", 1709209800),
        ("20240229123015", 1709209815),
        ("1969-12-31 23:59:59", -1),
        ("100000000", 100000000),
        ("99999999999", 99999999999),
        ("100000000000", 100000000),
        *(
            (text, None)
            for text in ("", "soon", "2023-02-29", "2024-13-01", "20241301", "29.02.2024", "02/29/2024", "-5")
        ),
        *((text, None) for text in ("1e9", "2024-02-29 25:00", "nan", "0", "29022024", "01032024", "99999999.5")),
        *((text, None) for text in ("202402301230", "20240229126015", "20240229250000")),
    ],
)
def test_times_at_the_edge(text, second):
    seconds, proper = read_times(pa.array([text, "2024-01-01"]))
    assert proper.tolist() == [second is not None, True]
    assert second is None or seconds[0] == second


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9999-12-31", TOO_LATE),
        ("20421231235959", TOO_LATE),
        ("4102444800000", TOO_LATE),
        ("1704672000000000", WRONG_UNIT),
        ("9" * 400, WRONG_UNIT),
        ("0001-01-01", TOO_EARLY),
        ("1970-01-01", TOO_EARLY),
        ("15032024", REASON),
    ],
)
def test_a_time_that_cannot_be_is_set_aside_and_moves_no_split(tmp_path, capsys, text, reason):
    expected, _ = prepare(tmp_path / "plain", *shop(tmp_path), "--test-days", "1")
    files = shop(tmp_path, purchases=[*PURCHASES, PURCHASES[0] | {"time": text}])
    data, rejected = prepare(tmp_path / "out", *files, "--test-days", "1", "--max-rejected", "0.2")
    assert rejected[["row", "field", "value", "reason"]].values.tolist() == [[6, "time", text[:200], reason]]
    pd.testing.assert_frame_equal(data.events(), expected.events())
    assert data.manifest["split"] == expected.manifest["split"]
    assert "events: 2 train, 1 val, 1 test (2024-01-01 to 2024-01-09)" in capsys.readouterr().out


def test_tomorrow_is_no_future():
    now = int(time.time())
    assert is_too_late(np.array([now, now + 86_000, now + 87_000])).tolist() == [False, False, True]


def test_the_same_shop_in_hm_columns_gives_what_hm_gives(tmp_path):
    """H&M's own reader is the oracle, on generated raw files with photos, under both splits."""
    raw = tmp_path / "raw"
    demo.generate(raw, items=40, customers=60)
    files = ["--items", raw / "articles.csv", "--customers", raw / "customers.csv"]
    files += ["--purchases", raw / "transactions_train.csv", "--images", raw / "images"]
    columns = ["item_id=article_id", "title=prod_name", "text=detail_desc", "group=product_code", "time=t_dat"]
    for split in ("temporal", "leave-last-out"):
        out = tmp_path / split
        data, rejected = prepare(out / "shop", *files, "--columns", *columns, "--split", split, "--image-size", "64")
        assert main(["hm", "--raw", str(raw), "--out", str(out / "hm"), "--split", split, "--image-size", "64"]) == 0
        other = open_prepared(out / "hm")
        names = ["user", "item", "time", "split"]
        pd.testing.assert_frame_equal(data.events(names), other.events(names))
        pd.testing.assert_frame_equal(data.users[["user_id"]], other.users[["user_id"]])
        pd.testing.assert_frame_equal(
            data.items[["item_id", "title", "group"]], other.items[["item_id", "title", "group"]]
        )
        assert data.images.keys == other.images.keys
        assert [data.images.read(key) for key in data.images.keys] == [
            other.images.read(key) for key in other.images.keys
        ]
        assert data.manifest["split"] == other.manifest["split"]
        dropped = pd.read_parquet(out / "hm" / "rejected.parquet")
        assert rejected.to_dict("records") == dropped.to_dict("records")


# ---- Parquet -----------------------------------------------------------------------------------------------------


def test_parquet_gives_what_csv_gives(tmp_path):
    csv_data, _ = prepare(tmp_path / "csv", *shop(tmp_path, customers=CUSTOMERS), *ALL_TRAIN)
    items = pd.DataFrame(ITEMS).replace({"": None})
    items["colour"] = [["red", "blue"], [], ["red"]]
    items["size"] = items["size"].astype("category")
    moments = [datetime(2024, 1, 1), datetime(2024, 1, 3, 8), datetime(2024, 1, 8), datetime(2024, 1, 9)]
    purchases = pd.DataFrame(PURCHASES).assign(time=moments)
    paths = [tmp_path / name for name in ("items.pq", "purchases.parquet", "customers")]
    for frame, path in zip((items, purchases, pd.DataFrame(CUSTOMERS)), paths):
        frame.to_parquet(path, row_group_size=2)
    data, rejected = prepare(
        tmp_path / "out", "--items", paths[0], "--purchases", paths[1], "--customers", paths[2], *ALL_TRAIN
    )
    for name in ("items", "users"):
        pd.testing.assert_frame_equal(getattr(data, name), getattr(csv_data, name))
    pd.testing.assert_frame_equal(data.events(), csv_data.events())
    assert rejected.empty


def test_rejected_rows_of_parquet_are_counted_from_its_first_one(tmp_path):
    purchases = tmp_path / "purchases.parquet"
    rows = pd.DataFrame([*PURCHASES, PURCHASES[0] | {"item_id": "nope"}, PURCHASES[0] | {"customer_id": None}])
    rows.to_parquet(purchases)
    _, rejected = prepare(
        tmp_path / "out", *shop(tmp_path)[:2], "--purchases", purchases, "--max-rejected", "0.5", *ALL_TRAIN
    )
    assert sorted(zip(rejected["row"], rejected["field"], rejected["value"])) == [
        (5, "item_id", "nope"),
        (6, "customer_id", ""),
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([7, None], pa.int64()), ["7", ""]),
        (pa.array([7.0, None, float("nan"), 0.5, 1704672000000.0, -2.0]), ["7", "", "", "0.5", "1704672000000", "-2"]),
        (pa.array([True, None]), ["true", ""]),
        (pa.array([["a", "b"], [], None, ["c", None]]), ["a|b", "", "", "c|"]),
        (pa.array([[1, 2], [3]]).slice(1), ["3"]),
        (pa.array([[1, 2], None, [3, 4]]).slice(1), ["", "3|4"]),  # as several row groups of one batch come
        (pa.array([["a"], None, ["b"]], pa.large_list(pa.string())).slice(1), ["", "b"]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", "", "a"]),
        (pa.array(["a", None], pa.large_string()), ["a", ""]),
        (pa.array([0, None], pa.date32()), ["1970-01-01", ""]),
        (pa.array([86_400_000], pa.date64()), ["1970-01-02"]),
        (pa.array([1_500], pa.timestamp("ms", "Europe/Berlin")), ["1970-01-01 00:00:01.500000"]),
        (pa.nulls(2), ["", ""]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_columns_of_any_type_are_read_as_text(values, expected):
    assert as_text(values).to_pylist() == expected


def test_what_only_looks_like_parquet_is_refused(tmp_path, capsys):
    broken = tmp_path / "items.parquet"
    broken.write_bytes(b"PAR1 and no more")
    line = refused(tmp_path / "out", capsys, "--items", broken, *shop(tmp_path)[2:])
    assert "items.parquet cannot be read as Parquet" in line
    pq.write_table(pa.table({"item_id": ["1"], "size": pa.array([{"a": 1}])}), broken)
    line = refused(tmp_path / "out", capsys, "--items", broken, *shop(tmp_path)[2:])
    assert "column 'size' of type struct<a: int64> cannot be read as text" in line


# ---- names of columns --------------------------------------------------------------------------------------------


def renamed(rows, **names):
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


def test_a_shops_own_names_of_columns_file_by_file(tmp_path):
    same, _ = prepare(tmp_path / "same", *shop(tmp_path / "a", customers=CUSTOMERS), *ALL_TRAIN)
    own = {
        "items": renamed(ITEMS, item_id="sku", title="name"),
        "purchases": renamed(PURCHASES, item_id="product", time="ordered at"),
        "customers": renamed(CUSTOMERS, customer_id="e-mail"),
    }
    columns = ["item_id=sku", "item_id=product", "title=name", "time=ordered at", "customer_id=e-mail"]
    data, _ = prepare(tmp_path / "own", *shop(tmp_path / "b", **own), "--columns", *columns, *ALL_TRAIN)
    for name in ("items", "users"):
        pd.testing.assert_frame_equal(getattr(data, name), getattr(same, name))
    pd.testing.assert_frame_equal(data.events(), same.events())


def test_one_column_may_stand_for_two_names(tmp_path):
    rows = [{"item_id": row["item_id"], "name": row["title"]} for row in ITEMS]
    data, _ = prepare(
        tmp_path / "out", *shop(tmp_path, items=rows), "--columns", "title=name", "group=name", *ALL_TRAIN
    )
    assert data.items["title"].tolist() == data.items["group"].tolist() == ["Shirt", "Hat", ""]


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"items": renamed(ITEMS, item_id="sku")}, [], "column 'item_id' is missing; it has sku, title, text, group"),
        ({"items": renamed(ITEMS, item_id="sku")}, [], "--columns item_id=COLUMN"),
        (
            {"purchases": renamed(PURCHASES, time="at")},
            [],
            "purchases.csv: column 'time' is missing; it has customer_id",
        ),
        ({}, ["--columns", "title=nmae"], "--columns title=nmae: no file has that column for 'title'"),
        ({}, ["--attributes", "color"], "--attributes color: "),
        ({"separator": ";"}, [], "--separator"),
        ({}, ["--images", "nowhere"], "--images nowhere is not a folder"),
        ({"items": [row | {"photo": "a.jpg"} for row in ITEMS]}, [], "names photos (column 'photo')"),
        ({}, ["--test-days", "30"], "leaves no day"),
        (
            {"items": [*ITEMS, ITEMS[0]]},
            [],
            "1 of 4 rows were rejected, more than --max-rejected 0.1 allows: {'duplicate item_id': 1}; first row 5, column "
            "'item_id': '007' (duplicate item_id)",
        ),
        ({"purchases": [row | {"time": "soon"} for row in PURCHASES]}, ["--max-rejected", "1"], "none of its 4 rows"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, capsys, change, options, says):
    assert says in refused(tmp_path / "out", capsys, *shop(tmp_path, **change), *options)


def test_a_missing_a_doubled_a_cut_off_and_an_ambiguous_file_are_told(tmp_path, capsys):
    files = shop(tmp_path)
    out = tmp_path / "out"
    assert "nowhere.csv is not a file" in refused(out, capsys, *files, "--purchases", "nowhere.csv")
    assert "is given twice" in refused(out, capsys, *files, "--purchases", files[3])
    packed = write(tmp_path / "cut.csv.gz", PURCHASES * 50, pack=True)
    packed.write_bytes(packed.read_bytes()[:-20])
    assert "cut.csv.gz is damaged or cut off" in refused(out, capsys, *files[:2], "--purchases", packed)
    (tmp_path / "two.csv").write_text("item_id,size,size\n1,2,3\n")
    assert "two columns are called 'size'" in refused(out, capsys, "--items", tmp_path / "two.csv", *files[2:])


def test_a_file_of_purchases_may_be_empty_but_not_all(tmp_path, capsys):
    files = shop(tmp_path)
    quiet = tmp_path / "quiet.csv"
    quiet.write_text("customer_id,item_id,time\n")
    data, _ = prepare(tmp_path / "out", *files, quiet, *ALL_TRAIN)
    assert data.manifest["counts"]["events"] == len(PURCHASES)
    assert data.manifest["counts"]["raw_rows"]["quiet.csv"]["rows"] == 0
    assert "give one that has" in refused(tmp_path / "no", capsys, *files[:2], "--purchases", quiet)


def test_a_header_that_goes_on_in_the_next_line_is_told(tmp_path, capsys):
    files = shop(tmp_path)
    (tmp_path / "items.csv").write_text('item_id,"colour\n(main)",title\n1,red,Hat\n')
    assert "row 1, the header, has a quote that is not closed" in refused(tmp_path / "out", capsys, *files)


def test_row_numbers_of_pandas_are_no_attributes(tmp_path):
    items = [row | {"Unnamed: 0": str(place)} for place, row in enumerate(ITEMS)]
    data, _ = prepare(tmp_path / "out", *shop(tmp_path, items=items), *ALL_TRAIN)
    assert data.fields == ["colour", "size"]


@pytest.mark.parametrize("end", ["", "\n\n"])
def test_a_long_text_stays_whatever_the_other_rows_are_like(tmp_path, end):
    items = [*ITEMS, {**ITEMS[2], "item_id": "long", "text": "x" * 200_000 + end}]
    data, _ = prepare(tmp_path / "out", *shop(tmp_path, items=items), *ALL_TRAIN)
    assert len(data.items["text"].iloc[3]) == 200_000


@pytest.mark.parametrize(
    ("option", "value"),
    [("--columns", "titel=name"), ("--columns", "title="), ("--separator", ";;"), ("--separator", '"')],
)
def test_options_of_no_meaning_are_refused_by_the_command_line(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as refusal:
        run(tmp_path / "out", *shop(tmp_path), option, value)
    assert refusal.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


# ---- what is set aside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [40, 1 << 20])
def test_bad_rows_are_set_aside_with_their_row_and_reason_and_the_rest_is_kept(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(raw_csv, "BLOCK_BYTES", block_bytes)
    files = shop(tmp_path, items=[*ITEMS, ITEMS[1], ITEMS[1] | {"item_id": "  "}], customers=[*CUSTOMERS, CUSTOMERS[0]])
    bad = [
        ("ann,007,soon", "time", "soon", REASON),
        (",007,2024-01-01", "customer_id", "", "customer_id is empty or longer than 200 bytes"),
        ("ann,,2024-01-01", "item_id", "", "item_id is empty or longer than 200 bytes"),
        ("ann,07,2024-01-01", "item_id", "07", "item_id is not in the items file"),
        ("ann,007", "", "ann,007", WRONG_COUNT),
        ('ann,"007,2024-01-01', "", 'ann,"007,2024-01-01', UNSPLIT),
    ]
    good = ["ann,007,2024-01-01", 'bob,"é-2",2024-01-02'] * 3
    lines = [line for pair in zip([row[0] for row in bad], good) for line in pair]
    (tmp_path / "purchases.csv").write_text("customer_id,item_id,time\n" + "\n".join(lines) + "\n")
    data, rejected = prepare(tmp_path / "out", *files, "--max-rejected", "0.6", *ALL_TRAIN)
    assert plain_events(data) == [("bob", "é-2", 1704153600)] * 3 + [("ann", "007", 1704067200)] * 3
    found = sorted(zip(rejected["file"], rejected["row"], rejected["field"], rejected["value"], rejected["reason"]))
    assert found == [
        ("customers.csv", 4, "customer_id", "eve", "duplicate customer_id"),
        ("items.csv", 5, "item_id", "é-2", "duplicate item_id"),
        ("items.csv", 6, "item_id", "  ", "item_id is empty or longer than 200 bytes"),
        *(("purchases.csv", 2 + 2 * place, *row[1:]) for place, row in enumerate(bad)),
    ]
    assert data.manifest["counts"]["raw_rows"]["purchases.csv"] == {"rows": 12, "kept": 6, "rejected": 6}


def test_customers_whose_ids_are_of_another_form_are_warned_of(tmp_path, capsys):
    purchases = [row | {"customer_id": f"{number}.0"} for number, row in enumerate(PURCHASES)]
    customers = [{"customer_id": str(number), "club": "x"} for number in (9, 1, 2)]
    prepare(tmp_path / "out", *shop(tmp_path, purchases=purchases, customers=customers), *ALL_TRAIN)
    said = capsys.readouterr().out
    assert "4 of 4 customers of purchases are not in customers.csv" in said
    assert "warning: most customers of purchases have no fields" in said
    assert "purchases: '1.0', customers.csv: '1'" in said
    prepare(tmp_path / "few", *shop(tmp_path, customers=CUSTOMERS), *ALL_TRAIN)
    said = capsys.readouterr().out
    assert "1 of 2 customers of purchases are not in customers.csv" in said
    assert "warning" not in said
    prepare(tmp_path / "none", *shop(tmp_path), *ALL_TRAIN)
    assert "are not in" not in capsys.readouterr().out


def test_purchases_that_the_split_drops_are_named_by_file_and_row(tmp_path):
    """Two files of one name in two folders, with a rejected row before the ones that are dropped."""
    first = write(tmp_path / "2023" / "p.csv", [PURCHASES[0] | {"item_id": "nope"}, *PURCHASES])
    second = write(tmp_path / "2024" / "p.csv", [*PURCHASES[:1], PURCHASES[0] | {"time": "2024-02-01"}])
    options = [*shop(tmp_path)[:2], "--purchases", first, second, "--max-rejected", "0.5", "--val-days", "0"]
    data, rejected = prepare(tmp_path / "out", *options, "--cutoff", "2024-01-08", "--test-days", "1")
    dropped = rejected[rejected["reason"] == "purchase after the last day of the test"]
    assert sorted(zip(dropped["file"], dropped["row"], dropped["value"])) == [
        (str(first), 6, "7"),
        (str(second), 3, "007"),
    ]
    assert set(data.manifest["counts"]["raw_rows"]) == {"items.csv", str(first), str(second)}
    assert data.manifest["split"]["dropped"] == 2


# ---- photos ------------------------------------------------------------------------------------------------------


def test_photos_are_found_by_item_id_at_any_depth(tmp_path):
    photo(tmp_path / "img" / "a" / "007.png")
    photo(tmp_path / "img" / "é-2.JPEG")
    photo(tmp_path / "img" / "other.jpg")
    (tmp_path / "img" / "7.jpg").write_bytes(b"no photo")
    data, rejected = prepare(tmp_path / "out", *shop(tmp_path), "--images", tmp_path / "img", *ALL_TRAIN)
    assert [list(keys) for keys in data.items["images"]] == [["007"], ["é-2"], []]
    assert rejected[["file", "field", "value", "reason"]].values.tolist() == [
        ["img/7.jpg", "image", "7", "photo is not a JPEG, PNG or WebP file"]
    ]
    assert data.manifest["counts"]["items_without_image"] == 1
    assert data.manifest["counts"]["photos_of_no_item"] == 1
    without, _ = prepare(tmp_path / "no", *shop(tmp_path), "--images", tmp_path / "img", "--no-images", *ALL_TRAIN)
    assert without.images is None


def test_photos_are_named_by_a_column_and_may_be_shared(tmp_path):
    photo(tmp_path / "img" / "a.jpg")
    photo(tmp_path / "img" / "deep" / "b.png", "blue")
    photo(tmp_path / "outside.jpg")
    (tmp_path / "img" / "cut.jpg").write_bytes((tmp_path / "img" / "a.jpg").read_bytes()[:300])
    signed = "p.jpg?signature=" + "x" * 300  # a name that is too long for the file system
    named = ["a.jpg | deep/b.png", f"gone.jpg|a.jpg|{signed}", "../outside.jpg|cut.jpg|deep/../../outside.jpg"]
    items = [row | {"shot": names} for row, names in zip(ITEMS, named)]
    options = ["--columns", "photo=shot", "--images", tmp_path / "img", "--image-size", "20", *ALL_TRAIN]
    data, rejected = prepare(tmp_path / "out", *shop(tmp_path, items=items), *options)
    assert [list(keys) for keys in data.items["images"]] == [["a.jpg", "deep/b.png"], ["a.jpg"], []]
    assert data.images.keys == ["a.jpg", "deep/b.png"]
    assert Image.open(io.BytesIO(data.images.read("a.jpg"))).size == (15, 20)
    assert data.fields == ["colour", "size"]
    assert sorted(rejected[["file", "row", "field", "value", "reason"]].values.tolist()) == [
        ["items.csv", 3, "shot", "gone.jpg", "photo is missing"],
        ["items.csv", 3, "shot", signed[:200], "photo cannot be read"],
        ["items.csv", 4, "shot", "../outside.jpg", "photo is named by a path that leaves --images"],
        ["items.csv", 4, "shot", "cut.jpg", "photo is truncated or damaged"],
        ["items.csv", 4, "shot", "deep/../../outside.jpg", "photo is named by a path that leaves --images"],
    ]


def test_names_of_photos_differ_by_what_systems_change(tmp_path, capsys):
    for name in ("a.JPG", "deep/b.png", "cafe\u0301.jpg"):  # é as two letters
        photo(tmp_path / "img" / name)
    photo(tmp_path / "outside.jpg")
    named = ["a.jpg", "deep\\b.PNG", "caf\u00e9.jpg|..\\outside.jpg"]
    items = [row | {"photo": names} for row, names in zip(ITEMS, named)]
    options = ["--images", tmp_path / "img", *ALL_TRAIN]
    data, rejected = prepare(tmp_path / "out", *shop(tmp_path, items=items), *options)
    assert [list(keys) for keys in data.items["images"]] == [["a.jpg"], ["deep\\b.PNG"], ["caf\u00e9.jpg"]]
    assert rejected["reason"].tolist() == ["photo is named by a path that leaves --images"]
    assert "photos: 3 of 3 items have one" in capsys.readouterr().out


@pytest.mark.parametrize(("written", "named"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_photos_of_a_mac_are_found_by_item_id(tmp_path, written, named):
    photo(tmp_path / "img" / f"{named}-2.jpg")
    items = [ITEMS[0], ITEMS[1] | {"item_id": f"{written}-2"}]
    purchases = [row | {"item_id": "007"} for row in PURCHASES]
    files = shop(tmp_path, items=items, purchases=purchases)
    data, _ = prepare(tmp_path / "out", *files, "--images", tmp_path / "img", *ALL_TRAIN)
    assert [list(keys) for keys in data.items["images"]] == [[], [f"{written}-2"]]
    assert data.manifest["counts"]["photos_of_no_item"] == 0


def test_a_folder_without_the_items_photos_is_told(tmp_path, capsys):
    photo(tmp_path / "img" / "other.jpg")
    prepare(tmp_path / "out", *shop(tmp_path), "--images", tmp_path / "img", *ALL_TRAIN)
    assert "photos: 0 of 3 items have one" in capsys.readouterr().out
    prepare(tmp_path / "none", *shop(tmp_path), *ALL_TRAIN)
    assert "photos:" not in capsys.readouterr().out


def test_line_breaks_in_purchases_are_told_as_such(tmp_path, capsys):
    purchases = [row | {"note": "two\nlines"} for row in PURCHASES]
    line = refused(tmp_path / "out", capsys, *shop(tmp_path, purchases=purchases))
    assert "purchases.csv: none of its 8 rows is usable" in line
    assert "The cells of purchases.csv may hold no line breaks" in line


def test_one_file_of_many_may_hold_no_usable_purchase(tmp_path, capsys):
    options = shop(tmp_path)
    day = write(tmp_path / "day.csv", [PURCHASES[0] | {"item_id": "nope"}])
    line = refused(tmp_path / "out", capsys, *options, day, *ALL_TRAIN)
    assert "day.csv: none of its 1 rows is usable" in line
    data, rejected = prepare(tmp_path / "out", *options, day, *ALL_TRAIN, "--max-rejected", "1")
    assert data.manifest["counts"]["events"] == len(PURCHASES)
    assert list(zip(rejected["file"], rejected["value"])) == [("day.csv", "nope")]
    line = refused(tmp_path / "none", capsys, *options[:2], "--purchases", day, *ALL_TRAIN, "--max-rejected", "1")
    assert "day.csv: none of its 1 rows is usable" in line
    two = day, write(tmp_path / "two.csv", [PURCHASES[0] | {"item_id": "no"}])
    line = refused(tmp_path / "none", capsys, *options[:2], "--purchases", *two, *ALL_TRAIN, "--max-rejected", "1")
    assert "nor any further file of --purchases has a usable row" in line


# ---- from raw files to an answer ---------------------------------------------------------------------------------


def command(*words):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


TINY = shlex.split(
    "--recipe hm-small --training.steps 4 --training.batch_size 16 --task.encode_items 8 --task.negatives 16 "
    "--model.image.layers 1 --model.text.vocabulary_size 200"
)


@pytest.mark.slow
@pytest.mark.long
def test_from_a_shops_tables_to_an_answer(tmp_path):
    """Every step as its own program; items name their products and have photos."""
    items = [
        {
            "sku": f"{row:04d}é",
            "title": f"thing {row}",
            "text": f"of kind {row % 5}",
            "group": f"p{row // 2}",
            "kind": row % 5,
        }
        for row in range(30)
    ]
    for row in range(0, 30, 2):
        photo(tmp_path / "img" / f"{row:04d}é.jpg", (8 * row, 99, 200))
    rng = np.random.default_rng(0)
    sales = [
        {"who": f"c{rng.integers(40)}", "sku": f"{rng.integers(30):04d}é", "day": f"2024-01-{1 + day // 20:02d}"}
        for day in range(600)
    ]
    files = ["--items", write(tmp_path / "items.csv", items), "--images", tmp_path / "img"]
    files += ["--purchases", write(tmp_path / "orders.csv", sales)]
    data, run_dir, models = tmp_path / "data", tmp_path / "run", tmp_path / "models"
    command("pipelines", "shop", *files, "--columns", "item_id=sku", "customer_id=who", "time=day", "--out", data)
    command("tfrec.train", *TINY, "--data", data, "--out", run_dir)
    command("tfrec.export", "--run", run_dir, "--name", "shop", "--root", models)
    lists = tmp_path / "recommendations.csv"
    command("tfrec.retrieve", "--model", models / "shop", "--data", data, "--k", "5", "--out", lists)
    told = pd.read_csv(lists, dtype=str)
    ids = {row["sku"] for row in items}
    assert set(told.iloc[:, 0]) == {row["who"] for row in sales}
    assert set(told["item_id"]) <= ids
    assert told.groupby(told.columns[0]).size().eq(5).all()

    import tfrec  # noqa: F401, I001  (pins Keras 2 before TensorFlow is imported)
    import tensorflow as tf

    recommend = tf.saved_model.load(str(models / "shop" / "1")).signatures["recommend"]
    none, own = tf.constant([[""]]), tf.constant([["0003é", "0008é"]])
    days, exclude = tf.zeros([1, 2]), tf.constant([["0003é"]])
    answer = recommend(history=own, days_ago=days, k=tf.constant(6), exclude=exclude, allow=none, allow_items=none)
    found = [item.decode() for item in answer["item_id"][0].numpy()]
    assert len(set(found)) == 6
    assert set(found) <= ids - {"0003é"}


@pytest.mark.long
def test_a_shop_of_ids_alone_is_trained_on_and_exported(tmp_path):
    """The least that a shop can have: what it has no data for is left out of the model, and said."""
    rng = np.random.default_rng(0)
    sales = [
        {
            "customer_id": f"c{rng.integers(9)}",
            "item_id": f"{rng.integers(12):02d}",
            "time": 1_700_000_000 + 9_000 * place,
        }
        for place in range(200)
    ]
    files = shop(tmp_path, items=[{"item_id": f"{row:02d}"} for row in range(12)], purchases=sales)
    data, run_dir, lists = tmp_path / "data", tmp_path / "run", tmp_path / "lists.csv"
    command("pipelines", "shop", *files, "--out", data)
    said = command("tfrec.train", *TINY, "--data", data, "--out", run_dir)
    assert "have no photos: model.image.enabled is set to false" in said
    assert "have no texts: model.text.enabled is set to false" in said
    command("tfrec.export", "--run", run_dir, "--name", "ids", "--root", tmp_path / "models")
    command("tfrec.retrieve", "--model", tmp_path / "models" / "ids", "--data", data, "--k", "3", "--out", lists)
    assert len(pd.read_csv(lists)) == 3 * len({sale["customer_id"] for sale in sales})


# ---- docs/your-data.md -------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")


def test_the_script_of_the_page_runs_as_it_stands(tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for _ in range(2):  # a second run replaces what the first one made
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])},
        )
        assert done.returncode == 0, done.stderr
    data = open_prepared(tmp_path / "data" / "mine", verify=True)
    assert set(data.events()["split"]) == {0, 1, 2}
    assert data.manifest["split"]["val_days"]  # without it, evaluation would ask for validation at the cutoff
    assert data.images.keys == ["0070", "hat"]


def test_the_tables_of_the_page_can_be_prepared(tmp_path):
    options = []
    for name, header in (
        ("items", "item_id,title"),
        ("purchases", "customer_id,item_id"),
        ("customers", "customer_id,club"),
    ):
        table = re.search(rf"^    {header}.*(\n    .*)*", PAGE, re.M)[0]
        (tmp_path / f"{name}.csv").write_text(textwrap.dedent(table) + "\n", encoding="utf-8")
        options += [f"--{name}", tmp_path / f"{name}.csv"]
    for name in ("0070.jpg", "0070-back.jpg", "0071.jpg", "hats/9.webp"):
        photo(tmp_path / "photos" / name)
    data, rejected = prepare(tmp_path / "out", *options, "--images", tmp_path / "photos", "--test-days", "3")
    assert rejected.empty
    assert len(data.images) == 4
    assert data.users["user_id"].tolist() == ["anna", "dora", "bert", "cleo"]
    assert data.manifest["counts"]["events_by_split"] == {"train": 3, "val": 1, "test": 1}
