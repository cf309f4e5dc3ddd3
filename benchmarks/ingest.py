"""A purchase log of H&M's shape -> prepared dataset, against plain pandas and duckdb.

    python -m benchmarks.ingest [--rows 2000000]

The work: read transactions_train.csv, replace ids by row numbers, sort by customer and time, write parquet.
The others do that and no more; `tfrec` also checks every row, splits, reads articles and customers, and
writes checksums.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import Rate, add_json, leads, machine, measure, table, write_ratios

ALL_ROWS, ALL_CUSTOMERS, ALL_ARTICLES, DAYS = 31_788_324, 1_371_980, 105_542, 734
FIRST_DAY = np.datetime64("2018-09-20")


def main(arguments: list[str] | None = None) -> dict:
    """Generate the files, time the contenders, print the table; returns leads, memory and time."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=ALL_ROWS, help="transactions (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--folder", type=Path, help="where generated files are kept (default: a temporary folder)")
    add_json(parser)
    args = parser.parse_args(arguments)
    contenders: dict[str, Callable] = {"tfrec": prepare_with_tfrec, "plain pandas": prepare_with_pandas}
    if importlib.util.find_spec("duckdb"):
        contenders["duckdb"] = prepare_with_duckdb
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        raw = generate((args.folder or Path(out)) / f"hm-{args.rows}", rows=args.rows)
        runs = measure(contenders, raw, Path(out), repeats=args.repeats)
        expected = runs["tfrec"].result
        for name, measured in runs.items():
            if measured.result != expected:
                raise RuntimeError(f"{name} made other events than tfrec: {measured.result} against {expected}")
    print(f"{args.rows:,} transactions on {machine()}\n\n{table(runs, units=args.rows, unit='rows')}")
    ratios = leads("ingest", runs, {"plain pandas": 2.0})
    write_ratios(args.json, ratios, [Rate("ingest", "rows", args.rows / runs["tfrec"].median)])
    lead = {ratio.against: ratio.ratio for ratio in ratios}
    return {"lead": lead, "peak_bytes": max(runs["tfrec"].peak_bytes), "seconds": runs["tfrec"].median}


def generate(folder: Path, *, rows: int) -> Path:
    """Write articles.csv, customers.csv and transactions_train.csv with H&M's columns, ids and order.

    Days ascend; within a day customers do, and each takes about three articles; a few articles sell most.
    """
    if (folder / "transactions_train.csv").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    customers = max(1000, round(rows * ALL_CUSTOMERS / ALL_ROWS))
    customer_ids = draw_customer_ids(customers, rng)
    _write_customers(folder / "customers.csv", customer_ids)
    article_ids = _write_articles(folder / "articles.csv", max(1000, round(rows * ALL_ARTICLES / ALL_ROWS)))

    def bought(day: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        customer = np.repeat(np.sort(rng.integers(0, customers, size // 3 + 1)), 3)[:size]
        return customer_ids[customer], article_ids[(len(article_ids) * rng.random(size) ** 2.2).astype(int)]

    write_transactions(folder, rows, bought, rng)
    return folder


def draw_customer_ids(count: int, rng: np.random.Generator) -> np.ndarray:
    """Ids of 64 hexadecimal digits, rising, `[count]`."""
    random = rng.bytes(32 * count)
    return np.sort([random[start : start + 32].hex() for start in range(0, len(random), 32)])


def write_transactions(
    folder: Path,
    rows: int,
    bought: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    rng: np.random.Generator,
) -> None:
    """Write transactions_train.csv, day by day; it appears when it is whole.

    Args:
        folder: where to.
        rows: transactions, as many each day.
        bought: number of a day and of its transactions -> their customers' and articles' ids.
        rng: draws prices and channels.
    """
    import pyarrow as pa
    from pyarrow import csv

    prices = np.array([f"{number / 5900:.16g}" for number in range(1, 600)])
    with open(folder / "transactions_train.part", "wb") as file:
        file.write(b"t_dat,customer_id,article_id,price,sales_channel_id\n")
        for day in range(DAYS):
            size = rows * (day + 1) // DAYS - rows * day // DAYS
            customers, articles = bought(day, size)
            columns = {
                "t_dat": np.full(size, str(FIRST_DAY + day)),
                "customer_id": customers,
                "article_id": articles,
                "price": prices[rng.integers(0, len(prices), size)],
                "sales_channel_id": rng.integers(1, 3, size),
            }
            csv.write_csv(pa.table(columns), file, csv.WriteOptions(include_header=False, quoting_style="none"))
    (folder / "transactions_train.part").rename(folder / "transactions_train.csv")


def _write_customers(path: Path, ids: np.ndarray) -> None:
    from pipelines.hm.tables import CUSTOMER_COLUMNS

    fields = dict(zip(CUSTOMER_COLUMNS[1:], ("1.0", "1.0", "ACTIVE", "Regularly", "34.0")))
    pd.DataFrame({"customer_id": ids, **fields}).to_csv(path, index=False)


def _write_articles(path: Path, articles: int) -> np.ndarray:
    from pipelines.hm.tables import ARTICLE_COLUMNS

    ids = np.array([f"{108775015 + 7919 * row:010d}" for row in range(articles)])
    rest = {name: f"some {name}" for name in ARTICLE_COLUMNS[1:]}
    pd.DataFrame({"article_id": ids, **rest}).to_csv(path, index=False)
    return ids


def prepare_with_tfrec(raw: Path, out: Path) -> Callable[[], dict]:
    """The whole command, photos left out."""
    from pipelines import hm
    from pipelines.prepared import open_prepared

    parser = argparse.ArgumentParser()
    hm.add_arguments(parser)
    args = parser.parse_args(["--raw", str(raw), "--out", str(out / "tfrec"), "--no-images", "--overwrite"])

    def work() -> dict:
        hm.run(args)
        events = open_prepared(args.out).events(["user", "item", "time"])
        return digest(events)

    return work


def prepare_with_pandas(raw: Path, out: Path) -> Callable[[], dict]:
    """What a notebook does: read, map ids, parse dates, sort, write."""
    customers = {key: row for row, key in enumerate(pd.read_csv(raw / "customers.csv")["customer_id"])}
    articles = {key: row for row, key in enumerate(pd.read_csv(raw / "articles.csv", dtype=str)["article_id"])}

    def work() -> dict:
        frame = pd.read_csv(raw / "transactions_train.csv", dtype={"article_id": str}, parse_dates=["t_dat"])
        for column, rows in (("customer_id", customers), ("article_id", articles)):
            codes, uniques = pd.factorize(frame[column])
            frame[column] = np.array([rows[key] for key in uniques], np.int32)[codes]
        frame = frame.sort_values(["customer_id", "t_dat"], kind="stable")
        frame.to_parquet(out / "pandas.parquet", index=False)
        frame["time"] = frame["t_dat"].astype("datetime64[s]").astype("int64")
        return digest(frame.rename(columns={"customer_id": "user", "article_id": "item"}))

    return work


def prepare_with_duckdb(raw: Path, out: Path) -> Callable[[], dict]:
    """One SQL statement; row numbers of the file keep the sort stable."""
    import duckdb

    def work() -> dict:
        numbered = "(SELECT {0}, row_number() OVER () - 1 AS row FROM read_csv('{1}', all_varchar=true))"
        customers = numbered.format("customer_id", raw / "customers.csv")
        articles = numbered.format("article_id", raw / "articles.csv")
        result = out / "duckdb.parquet"
        duckdb.sql(
            f"""COPY (
                SELECT c.row::INT AS user, a.row::INT AS item, epoch(t.t_dat)::BIGINT AS time,
                       t.price::FLOAT AS price, t.sales_channel_id::TINYINT AS channel
                FROM (SELECT *, row_number() OVER () AS at FROM read_csv('{raw / "transactions_train.csv"}',
                      types={{'article_id': 'VARCHAR', 't_dat': 'DATE'}})) t
                JOIN {customers} c USING (customer_id) JOIN {articles} a USING (article_id)
                ORDER BY user, time, t.at
            ) TO '{result}' (FORMAT parquet)"""
        )
        return digest(pd.read_parquet(result, columns=["user", "item", "time"]))

    return work


def digest(events: pd.DataFrame) -> dict:
    """Return sums that differ when an event, or the order of the events, does; costs little."""
    position = np.arange(len(events), dtype=np.uint64)
    return {
        name: int((events[name].to_numpy().astype(np.uint64) * (position + np.uint64(1))).sum())
        for name in ("user", "item", "time")
    }


if __name__ == "__main__":
    main()
