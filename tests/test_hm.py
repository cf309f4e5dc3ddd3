"""`python -m pipelines hm` on good and bad files: what is kept, what is set aside, and that it adds up."""

import argparse
import gzip
import importlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import purchase_order
from pipelines.__main__ import DATASETS, main
from pipelines.hm.dataset import median_by_item
from pipelines.hm.tables import ARTICLE_COLUMNS
from pipelines.hm.transactions import Transactions
from pipelines.prepared import open_prepared
from pipelines.raw import raw_csv
from pipelines.raw.csv_lines import UNSPLIT

ARTICLES = ["0108775015", "0108775044", "0110065001", "0111565001", "0123173001"]
CUSTOMERS = [f"{number:064x}" for number in (11, 7, 5, 3)]  # the last one never buys
HEADER = "t_dat,customer_id,article_id,price,sales_channel_id"


def article_rows():
    """Five articles; one has no description, another one with a comma, a quote and a line break."""
    rows = [{name: f"{name} of {number}" for name in ARTICLE_COLUMNS} for number in range(len(ARTICLES))]
    for row, article in zip(rows, ARTICLES):
        row |= {"article_id": article, "product_code": article[1:7], "unused": "x"}
    rows[1]["detail_desc"] = ""
    rows[2]["detail_desc"] = 'Soft, "warm"\nand wide.'
    return pd.DataFrame(rows)


def customer_rows():
    return pd.DataFrame(
        {
            "customer_id": CUSTOMERS,
            "FN": ["1.0", "", "1", ""],
            "Active": ["", "1.0", "", ""],
            "club_member_status": ["ACTIVE", "", "PRE-CREATE", ""],
            "fashion_news_frequency": ["NONE", "Regularly", "", ""],
            "age": ["25.0", "", "29", "abc"],
            "postal_code": "x",
        }
    )


def purchase(day, customer, article, price="0.05", channel="2"):
    return f"2020-09-{day:02d},{CUSTOMERS[customer]},{ARTICLES[article]},{price},{channel}"


PURCHASES = [
    purchase(1, 0, 0, "0.02"),
    purchase(1, 1, 3),
    purchase(1, 0, 4),
    purchase(2, 0, 0, "0.04"),
    purchase(3, 2, 1, "", "1"),
    purchase(8, 0, 2),
    purchase(9, 0, 1),
    purchase(9, 1, 0, "0.09"),
]


def make_raw(folder, purchases=PURCHASES, *, articles=None, customers=None, names=("{}.csv", "transactions_train.csv")):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, frame in (("articles", articles), ("customers", customers)):
        frame = globals()[f"{kind[:-1]}_rows"]() if frame is None else frame
        frame.to_csv(folder / names[0].format(kind), index=False)
    (folder / names[1]).write_text("\n".join([HEADER, *purchases]) + "\n")
    return folder


def add_photo(folder, article, *, nested=True, size=(40, 60)):
    path = folder / (article[:3] if nested else "") / f"{article}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


def prepare(raw, out, *options):
    """Run the command; returns the prepared dataset and its rejected rows."""
    assert main(["hm", "--raw", str(raw), "--out", str(out), "--test-days", "2", *options]) == 0
    return open_prepared(out, verify=True), pd.read_parquet(out / "rejected.parquet")


def account(data, file="transactions_train.csv"):
    """A file's rows, checked to add up."""
    rows = data.manifest["counts"]["raw_rows"][file]
    assert rows["rows"] == rows["kept"] + rows["rejected"]
    return rows


def test_articles_become_items_with_text_attributes_and_photos(tmp_path):
    raw = make_raw(tmp_path / "raw")
    add_photo(raw / "images", ARTICLES[0])
    add_photo(raw / "images", ARTICLES[4], size=(300, 600))
    data, _ = prepare(raw, tmp_path / "out", "--image-size", "100")
    items = data.items
    assert items["item_id"].tolist() == ARTICLES
    assert items["title"][0] == "prod_name of 0"
    assert items["text"][0] == (
        "prod_name of 0. product_type_name of 0. product_group_name of 0. graphical_appearance_name of 0. "
        "colour_group_name of 0. perceived_colour_value_name of 0. index_name of 0. section_name of 0. "
        "detail_desc of 0"
    )
    assert items["text"][1].endswith("section_name of 1")
    assert items["text"][2].endswith('Soft, "warm"\nand wide.')
    assert len(data.fields) == 11
    assert list(items["attr.department_name"][3]) == ["department_name of 3"]
    assert items["group"].tolist() == [article[1:7] for article in ARTICLES]
    assert [list(keys) for keys in items["images"]] == [[ARTICLES[0]], [], [], [], [ARTICLES[4]]]
    assert data.manifest["counts"]["items_without_image"] == 3
    assert data.images.read(ARTICLES[4])[:2] == b"\xff\xd8"


def test_prices_are_the_median_of_training_only(tmp_path):
    data, _ = prepare(make_raw(tmp_path / "raw"), tmp_path / "out")
    assert data.items["price"].tolist() == pytest.approx([0.03, float("nan"), float("nan"), 0.05, 0.05], nan_ok=True)


def test_customers_become_users_also_when_they_never_buy(tmp_path):
    data, _ = prepare(make_raw(tmp_path / "raw"), tmp_path / "out")
    users = data.users.set_index("user_id").replace({np.nan: None})
    assert users.index.tolist() == CUSTOMERS
    assert data.user_fields == ["age", "club_member_status", "fashion_news_frequency", "FN", "Active"]
    assert users["attr.age"].tolist() == ["25-29", None, "25-29", None]
    assert users["attr.FN"].tolist() == ["1", None, "1", None]
    assert users["attr.Active"].tolist() == [None, "1", None, None]
    assert users["attr.club_member_status"].tolist() == ["ACTIVE", None, "PRE-CREATE", None]
    assert data.manifest["counts"]["customers_with_improper_age"] == 1


def test_purchases_become_events_in_order_with_their_split(tmp_path):
    data, rejected = prepare(make_raw(tmp_path / "raw"), tmp_path / "out", "--val-days", "1")
    events = data.events()
    assert events["user"].tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    assert events["item"].tolist() == [0, 4, 0, 2, 1, 3, 0, 1]
    assert events["split"].tolist() == [0, 0, 0, 2, 2, 0, 2, 0]
    assert events["channel"].tolist() == [2, 2, 2, 2, 2, 2, 2, 1]
    assert events["time"][0] == pd.Timestamp("2020-09-01").timestamp()
    assert events["price"].isna().tolist() == [False] * 7 + [True]
    assert data.manifest["split"]["cutoff"] == "2020-09-08"
    assert account(data) == {"rows": 8, "kept": 8, "rejected": 0}
    assert rejected.empty


def test_leave_last_out_drops_and_counts_later_repeats(tmp_path):
    repeated = [*PURCHASES, purchase(10, 0, 4), purchase(10, 0, 1)]
    data, rejected = prepare(make_raw(tmp_path / "raw", repeated), tmp_path / "out", "--split", "leave-last-out")
    events = data.events()
    assert events["item"][events["user"] == 0].tolist() == [0, 4, 0, 2, 1, 1]
    assert events["split"][events["user"] == 0].tolist() == [0, 0, 0, 1, 2, 2]
    assert (events["split"][events["user"] != 0] == 0).all()
    assert rejected[["row", "value"]].values.tolist() == [[10, ARTICLES[4]]]
    assert data.manifest["split"] == {"kind": "leave-last-out", "min_items": 3, "dropped": 1}


def test_purchases_after_the_test_are_dropped_and_counted(tmp_path):
    raw = make_raw(tmp_path / "raw")
    data, rejected = prepare(raw, tmp_path / "out", "--cutoff", "2020-09-03", "--val-days", "1")
    assert data.manifest["counts"]["events_by_split"] == {"train": 3, "val": 1, "test": 1}
    assert data.manifest["rejected"] == {"purchase after the last day of the test": 3}
    assert sorted(rejected["row"]) == [7, 8, 9]


BAD = {
    "2020-13-45,{c},{a},0.1,2": ("t_dat", "2020-13-45", "t_dat is not a date (YYYY-MM-DD)"),
    "yesterday,{c},{a},0.1,2": ("t_dat", "yesterday", "t_dat is not a date (YYYY-MM-DD)"),
    "2042-09-01,{c},{a},0.1,2": ("t_dat", "2042-09-01", "time lies in the future"),
    "1969-09-01,{c},{a},0.1,2": ("t_dat", "1969-09-01", "time is before 1970"),
    ",{c},{a},0.1,2": ("t_dat", "", "t_dat is not a date (YYYY-MM-DD)"),
    "2020-09-01,,{a},0.1,2": ("customer_id", "", "customer_id is empty or longer than 200 characters"),
    "2020-09-01,{c},../../x,0.1,2": (
        "article_id",
        "../../x",
        "article_id is not a number of at most 10 digits",
    ),
    "2020-09-01,{c},0999999999,0.1,2": ("article_id", "0999999999", "article_id is not in the articles file"),
    "2020-09-01,{c},{a},cheap,2": ("price", "cheap", "price is not a number of at least 0"),
    "2020-09-01,{c},{a},inf,2": ("price", "inf", "price is not a number of at least 0"),
    "2020-09-01,{c},{a},-1,2": ("price", "-1", "price is not a number of at least 0"),
    "2020-09-01,{c},{a},0.1,1.5": ("sales_channel_id", "1.5", "sales_channel_id is not a whole number from 0 to 127"),
    "2020-09-01,{c},{a},0.1,web": ("sales_channel_id", "web", "sales_channel_id is not a whole number from 0 to 127"),
    "2020-09-01,{c},{a},0.1,999": ("sales_channel_id", "999", "sales_channel_id is not a whole number from 0 to 127"),
    "2020-09-01,{c},{a},0.1": ("", None, "wrong number of fields"),
    "2020-09-01,{c},{a},0.1,2,extra": ("", None, "wrong number of fields"),
}


@pytest.mark.parametrize("block_bytes", [400, 1 << 20])
def test_bad_rows_are_set_aside_with_their_row_and_reason_and_the_rest_is_kept(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(raw_csv, "BLOCK_BYTES", block_bytes)
    bad = [row.format(c=CUSTOMERS[0], a=ARTICLES[0]) for row in BAD]
    lines = [line for pair in zip(bad, PURCHASES * 2, strict=True) for line in pair]
    raw = make_raw(tmp_path / "raw", lines)
    data, rejected = prepare(raw, tmp_path / "out", "--max-rejected", "0.6")
    clean, _ = prepare(make_raw(tmp_path / "clean", lines[1::2]), tmp_path / "out2")
    pd.testing.assert_frame_equal(data.events(), clean.events())
    assert account(data) == {"rows": 32, "kept": 16, "rejected": 16}
    assert sorted(rejected["row"]) == list(range(2, 34, 2))
    found = rejected.set_index("row").sort_index()
    for row, (field, value, reason) in zip(range(2, 34, 2), BAD.values()):
        assert (found.loc[row, "field"], found.loc[row, "reason"]) == (field, reason)
        assert value is None or found.loc[row, "value"] == value


@pytest.mark.parametrize("block_bytes", [400, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_stray_quote_costs_its_own_row_only(tmp_path, monkeypatch, block_bytes, end):
    """Arrow reads on to the next quote, or to the end of the block, over as many lines as it takes."""
    monkeypatch.setattr(raw_csv, "BLOCK_BYTES", block_bytes)
    opened, closed, wrong_count = purchase(1, 0, 0, channel='"2'), purchase(1, 0, 0, channel='2"'), 'too,"few'
    lines = [*PURCHASES, opened, *PURCHASES, closed, wrong_count, "too,few", *PURCHASES, opened]
    raw = make_raw(tmp_path / "raw")
    (raw / "transactions_train.csv").write_text("\n".join([HEADER, *lines]) + end)
    data, rejected = prepare(raw, tmp_path / "out", "--max-rejected", "0.6")
    clean, _ = prepare(make_raw(tmp_path / "clean", PURCHASES * 3), tmp_path / "out2")
    pd.testing.assert_frame_equal(data.events(), clean.events())
    assert account(data) == {"rows": 29, "kept": 24, "rejected": 5}
    assert sorted(zip(rejected["row"], rejected["value"], rejected["reason"])) == [
        (10, opened, UNSPLIT),
        (19, '2"', "sales_channel_id is not a whole number from 0 to 127"),
        (20, wrong_count, UNSPLIT),
        (21, "too,few", "wrong number of fields"),
        (30, opened, UNSPLIT),
    ]


def test_a_stray_quote_costs_one_article_where_descriptions_may_hold_line_breaks(tmp_path):
    raw = make_raw(tmp_path / "raw")
    header, first, rest = (raw / "articles.csv").read_text().split("\n", 2)
    stray = first.replace("prod_name of 0", '"prod_name of 0').replace(ARTICLES[0], "0000000001")
    never_closed = stray.replace("0000000001", "0000000002")
    numbered = [first.replace(ARTICLES[0], f"{number:010d}") for number in range(10, 40)]
    lines = [header, stray, first, rest.rstrip("\n"), never_closed, *numbered]
    (raw / "articles.csv").write_text("\n".join(lines) + "\n")
    data, rejected = prepare(raw, tmp_path / "out")
    assert data.items["item_id"].tolist() == ARTICLES + [f"{number:010d}" for number in range(10, 40)]
    assert data.items["text"][2].endswith('Soft, "warm"\nand wide.')
    assert account(data, "articles.csv") == {"rows": 37, "kept": 35, "rejected": 2}
    assert rejected[["row", "value", "reason"]].values.tolist() == [
        [2, stray[:200], UNSPLIT],
        [8, never_closed[:200], UNSPLIT],
    ]


def test_too_many_bad_rows_are_an_error_unless_allowed(tmp_path, capsys):
    raw = make_raw(tmp_path / "raw", [*PURCHASES, "yesterday,x,y,1,2"])
    assert main(["hm", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "1 of 9 rows were rejected, more than --max-rejected 0.1 allows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    data, _ = prepare(raw, tmp_path / "out", "--max-rejected", "0.2")
    assert account(data)["rejected"] == 1


def test_an_unknown_customer_is_kept_without_fields(tmp_path, capsys):
    stranger = PURCHASES[0].replace(CUSTOMERS[0], "stranger")
    data, _ = prepare(make_raw(tmp_path / "raw", [stranger, *PURCHASES, stranger]), tmp_path / "out")
    assert data.users["user_id"].tolist() == [*CUSTOMERS, "stranger"]
    assert data.users.iloc[4].drop("user_id").isna().all()
    assert (data.events()["user"] == 4).sum() == 2
    assert data.manifest["counts"]["users_only_in_transactions"] == 1
    assert "1 of 4 customers of transactions_train.csv are not in customers.csv" in capsys.readouterr().out


def test_the_sales_channel_may_be_empty_or_absent(tmp_path):
    expected, _ = prepare(make_raw(tmp_path / "raw"), tmp_path / "out")
    empty = [line.rpartition(",")[0] + "," for line in PURCHASES]
    data, rejected = prepare(make_raw(tmp_path / "empty", empty), tmp_path / "out1")
    raw = make_raw(tmp_path / "absent")
    pd.read_csv(raw / "transactions_train.csv", dtype=str).drop(columns="sales_channel_id").to_csv(
        raw / "transactions_train.csv", index=False
    )
    absent, also = prepare(raw, tmp_path / "out2")
    assert rejected.empty
    assert also.empty
    assert set(data.events()["channel"]) == {-1}
    pd.testing.assert_frame_equal(data.events(), absent.events())
    pd.testing.assert_frame_equal(data.events().drop(columns="channel"), expected.events().drop(columns="channel"))


def test_gzipped_files_are_found(tmp_path):
    raw = make_raw(tmp_path / "raw")
    expected, _ = prepare(raw, tmp_path / "plain")
    for name in ("articles.csv", "customers.csv", "transactions_train.csv"):
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
        (raw / name).unlink()
    data, _ = prepare(raw, tmp_path / "out")
    pd.testing.assert_frame_equal(data.events(), expected.events())
    pd.testing.assert_frame_equal(data.items, expected.items)


def test_duplicate_and_hostile_articles_and_customers_are_set_aside(tmp_path):
    articles = pd.concat([article_rows(), article_rows()[:1].assign(prod_name="second")])
    articles = pd.concat([articles, article_rows()[:1].assign(article_id="../../x")])
    customers = pd.concat([customer_rows(), customer_rows()[1:2], customer_rows()[:1].assign(customer_id="")])
    raw = make_raw(tmp_path / "raw", articles=articles, customers=customers)
    outside = Image.new("RGB", (9, 9))
    outside.save(tmp_path / "x.jpg")
    (raw / "images").mkdir()
    data, rejected = prepare(raw, tmp_path / "out", "--max-rejected", "0.5")
    assert data.items["title"][0] == "prod_name of 0"
    assert data.images is None
    assert account(data, "articles.csv") == {"rows": 7, "kept": 5, "rejected": 2}
    assert account(data, "customers.csv") == {"rows": 6, "kept": 4, "rejected": 2}
    assert data.manifest["rejected"] == {
        "article_id is not a number of at most 10 digits": 1,
        "customer_id is empty or longer than 200 characters": 1,
        "duplicate article_id": 1,
        "duplicate customer_id": 1,
    }
    assert set(zip(rejected["file"], rejected["row"], rejected["value"])) == {
        ("articles.csv", 7, ARTICLES[0]),
        ("articles.csv", 8, "../../x"),
        ("customers.csv", 6, CUSTOMERS[1]),
        ("customers.csv", 7, ""),
    }


def test_broken_photos_are_set_aside_and_their_articles_stay(tmp_path):
    raw = make_raw(tmp_path / "raw")
    path = add_photo(raw / "images", ARTICLES[0], size=(200, 300))
    path.write_bytes(path.read_bytes()[:400])
    add_photo(raw / "images", ARTICLES[1])
    data, rejected = prepare(raw, tmp_path / "out")
    assert [len(keys) for keys in data.items["images"]] == [0, 1, 0, 0, 0]
    assert rejected[["file", "row", "value"]].values.tolist() == [["010/0108775015.jpg", 0, ARTICLES[0]]]


@pytest.mark.parametrize("nested", [True, False])
def test_the_cleaned_variant_gives_the_same_dataset(tmp_path, nested):
    """Cleaned files have other names and, as a rule, ids that a spreadsheet has stripped of their zero."""
    raw = make_raw(tmp_path / "raw")
    stripped = [line.replace(",01", ",1") for line in PURCHASES]  # customers start with 00, prices with 0.
    articles = article_rows().assign(article_id=[article[1:] for article in ARTICLES])
    names = ("{}_clean.csv", "transactions_train_clean.csv")
    clean = make_raw(tmp_path / "clean", stripped, articles=articles, names=names)
    for article in ARTICLES[:3]:
        add_photo(raw / "images", article)
        add_photo(clean / "normalized_images", article, nested=nested)
    first, _ = prepare(raw, tmp_path / "out")
    second, _ = prepare(clean, tmp_path / "out2")
    for name in ("items", "users"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert first.images.keys == second.images.keys == ARTICLES[:3]
    pd.testing.assert_frame_equal(first.events(), second.events())


def test_many_blocks_give_what_plain_pandas_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_csv, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(purchase_order, "EVENTS_AT_ONCE", 50)
    rng = np.random.default_rng(0)
    days, buyers, bought = rng.integers(1, 31, 2000), rng.integers(0, 3, 2000), rng.integers(0, 5, 2000)
    lines = [purchase(*row, price=f"{rng.random():.4f}") for row in zip(days, buyers, bought)]
    raw = make_raw(tmp_path / "raw", lines)
    data, _ = prepare(raw, tmp_path / "out")

    plain = pd.read_csv(raw / "transactions_train.csv", dtype={"article_id": str})
    plain["user"] = plain["customer_id"].map({key: row for row, key in enumerate(CUSTOMERS)})
    plain["item"] = plain["article_id"].map({key: row for row, key in enumerate(ARTICLES)})
    plain["time"] = [int(pd.Timestamp(day).timestamp()) for day in plain["t_dat"]]
    plain = plain.sort_values(["user", "time"], kind="stable", ignore_index=True)
    events = data.events()
    for name in ("user", "item", "time"):
        assert events[name].tolist() == plain[name].tolist()
    assert events["price"].tolist() == pytest.approx(plain["price"].tolist())


@pytest.mark.parametrize("in_order", [True, False])
def test_sorting_is_stable_for_more_users_than_16_bits_hold(monkeypatch, in_order):
    monkeypatch.setattr(purchase_order, "EVENTS_AT_ONCE", 100)
    rng = np.random.default_rng(0)
    user = rng.choice(rng.integers(0, 1_400_000, 300), 3000).astype(np.int32)
    time = rng.integers(0, 9, 3000)
    time = np.sort(time) if in_order else time
    place = np.arange(3000)
    purchases = Transactions(user, place, time, place, place)
    frames = list(purchases.sorted_frames())
    assert all(first["user"].iloc[-1] < second["user"].iloc[0] for first, second in itertools.pairwise(frames))
    assert pd.concat(frames)["position"].tolist() == np.lexsort((place, time, user)).tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6, width=32) | st.just(float("nan"))), max_size=40))
def test_median_by_item_equals_numpy_per_item(sales):
    item = np.array([item for item, _ in sales], np.int32)
    price = np.array([price for _, price in sales], np.float32)
    medians = median_by_item(item, price, items=5)
    for number in range(5):
        own = price[(item == number) & ~np.isnan(price)]
        assert medians[number] == pytest.approx(np.median(own) if len(own) else np.nan, nan_ok=True)


@pytest.mark.parametrize("others", [[], [purchase(1, 0, 0, "")]])
def test_blanks_around_an_article_and_a_price_of_minus_nothing_are_read(tmp_path, others):
    """-0.0 is not less than 0, but its bits are those of a large number."""
    prices = ["-0.0", "0.5", "1.0"]
    sold = [purchase(day, 0, 0, price).replace(ARTICLES[0], f" {ARTICLES[0]} ") for day, price in enumerate(prices, 1)]
    rest = [row for row in PURCHASES if f",{ARTICLES[0]}," not in row]
    data, rejected = prepare(make_raw(tmp_path / "raw", [*sold, *rest, *others]), tmp_path / "out")
    assert rejected.empty
    assert data.items["price"][0] == 0.5


def test_dropped_rows_are_named_by_their_row_in_the_file_also_after_rejected_ones(tmp_path):
    lines = ["yesterday,x,y,1,2", PURCHASES[0], "too,few", PURCHASES[1], "yesterday,x,y,1,2", purchase(20, 1, 0)]
    raw = make_raw(tmp_path / "raw", lines)
    options = ("--cutoff", "2020-09-02", "--val-days", "0", "--max-rejected", "0.9")
    _, rejected = prepare(make_raw(raw, [*lines, purchase(2, 0, 0)]), tmp_path / "out", *options)
    dropped = rejected[rejected["reason"] == "purchase after the last day of the test"]
    assert dropped["row"].tolist() == [7]
    assert sorted(rejected["row"]) == [2, 4, 6, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: (raw / "articles.csv").unlink(), "articles.csv is missing; check --raw (articles.csv.gz would do"),
        (
            lambda raw: (raw / "customers.csv").rename(raw / "customers.csv.zip"),
            "customers.csv.zip first",
        ),
        (
            lambda raw: article_rows().drop(columns="detail_desc").to_csv(raw / "articles.csv"),
            "articles.csv: column 'detail_desc' is missing",
        ),
        (
            lambda raw: (raw / "transactions_train.csv").write_text("t_dat,customer_id,price,sales_channel_id\n"),
            "transactions_train.csv: column 'article_id' is missing",
        ),
        (
            lambda raw: (raw / "transactions_train.csv").write_text(HEADER + "\n"),
            "has no rows below its header",
        ),
        (lambda raw: (raw / "transactions_train.csv").write_text(""), "column 't_dat' is missing"),
        (
            lambda raw: (raw / "transactions_train.csv").write_bytes(
                f"{HEADER}\n2020-09-01,\xe9,1,2,3\n".encode("latin-1")
            ),
            "row 2 is not UTF-8; convert the file",
        ),
    ],
)
def test_what_cannot_be_read_is_one_clear_line_and_exit_code_2(tmp_path, capsys, change, message):
    raw = make_raw(tmp_path / "raw")
    change(raw)
    assert main(["hm", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "nowhere"], "--images nowhere is not a folder"),
        (["--test-days", "30"], "leaves no day"),
    ],
)
def test_options_that_make_no_sense_are_named(tmp_path, capsys, options, message):
    raw = make_raw(tmp_path / "raw")
    assert main(["hm", "--raw", str(raw), "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "option", "least", "most"),
    [
        ("hm", "--image-size", 16, 65_500),
        ("hm", "--test-days", 1, 36_500),
        ("hm", "--val-days", 0, 36_500),
        ("hm", "--min-items", 3, None),
        ("hm", "--max-rejected", 0, 1),
        ("hm", "--threads", 1, None),
        ("demo", "--items", 10, 500_000),
        ("demo", "--customers", 10, 10_000_000),
        ("movielens", "--test-days", 1, 36_500),
        ("movielens", "--val-days", 0, 36_500),
        ("movielens", "--min-interactions", 0, None),
        ("movielens", "--max-rejected", 0, 1),
        ("compcars", "--image-size/--size", 16, 65_500),
        ("compcars", "--margin", 0, None),
        ("compcars_miniature", "--makes", 1, 8),
        ("compcars_miniature", "--photos", 1, None),
        ("fashion_products", "--image-size/--size", 16, 65_500),
        ("kfashion", "--image-size/--size", 16, 65_500),
        ("kfashion", "--padding", 0, None),
        ("kfashion", "--synthetic", 1, None),
        *(
            (dataset, option, 0, 1)
            for dataset in ("movielens", "compcars", "fashion_products", "fashion_mnist", "kfashion")
            for option in ("--test-share", "--val-share")
        ),
        *((dataset, "--seed", 0, None) for dataset in DATASETS if dataset not in ("hm", "sequences", "shop")),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_the_command_line(capsys, dataset, option, least, most):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"pipelines.{dataset}").add_arguments(parser)
    needed = ["--raw", "raw"] + ["--out", "out"] * (dataset != "compcars_miniature")
    for good in {least, least if most is None else most}:
        parser.parse_args([*needed, option.split("/")[0], str(good)])
    for bad in (str(least - 1), "nan", "inf", "many", *([] if most is None else [str(most + 1)])):
        with pytest.raises(SystemExit) as refusal:
            parser.parse_args([*needed, option.split("/")[0], bad])
        assert refusal.value.code == 2
        assert f"argument {option}: '{bad}' is not a" in capsys.readouterr().err


def test_the_command_line_lists_the_datasets_at_once_and_exits_with_2_on_a_wrong_one():
    code = (
        "import sys; from pipelines.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'pandas', 'tensorflow', 'pyarrow'} & set(sys.modules)"
    )
    helped = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert all(name in helped.stdout for name in DATASETS)
    wrong = subprocess.run([sys.executable, "-m", "pipelines", "hmm"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "invalid choice: 'hmm'" in wrong.stderr


def test_the_result_does_not_depend_on_chance(tmp_path):
    raw = make_raw(tmp_path / "raw")
    add_photo(raw / "images", ARTICLES[0])
    sums = []
    for name in ("one", "two"):
        prepare(raw, tmp_path / name)
        files = json.loads((tmp_path / name / "manifest.json").read_text())["files"]
        sums.append({file: entry["sha256"] for file, entry in files.items()})
    assert sums[0] == sums[1]


@pytest.mark.parametrize("row", ["too,few", "yesterday,x,1,1,2"])
def test_a_file_without_a_usable_row_is_an_error_even_when_every_rejection_is_allowed(tmp_path, capsys, row):
    raw = make_raw(tmp_path / "raw", [row])
    assert main(["hm", "--raw", str(raw), "--out", str(tmp_path / "out"), "--max-rejected", "1"]) == 2
    assert "none of its 1 rows is usable" in capsys.readouterr().err
