"""H&M's files, drawn, at any size, of a shop whose items come and go.

    python -m benchmarks.seasons --out raw/seasons [--rows 3000000]
    python -m pipelines hm --raw raw/seasons --out data/seasons --split temporal --test-days 7
    python -m tfrec.train --recipe hm-small --data data/seasons --out runs/seasons --task.target_days 28

An item is sold for some months and belongs to one of 300 styles, which its texts and its photo show; a customer has three
styles and buys by them three times of four. Sizes are H&M's: customers and articles go with the rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.ingest import ALL_ARTICLES, ALL_CUSTOMERS, ALL_ROWS, DAYS, draw_customer_ids, write_transactions

STYLES, FAVOURITES, BY_STYLE = 300, 3, 0.75
SOLD_DAYS = 150  # mean of an exponential; every item is sold for two weeks at least
COLOURS = {
    "Black": (20, 20, 20),
    "White": (245, 245, 245),
    "Blue": (40, 60, 180),
    "Red": (190, 30, 40),
    "Green": (40, 140, 60),
    "Beige": (215, 200, 170),
    "Pink": (240, 150, 180),
    "Grey": (130, 130, 130),
    "Yellow": (240, 210, 50),
    "Brown": (120, 80, 40),
}


def main(arguments: list[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seasons", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--rows", type=int, default=ALL_ROWS, help="transactions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True)
    rng = np.random.default_rng(args.seed)
    share = args.rows / ALL_ROWS
    style, article_ids = _write_articles(args.out, max(2 * STYLES, round(ALL_ARTICLES * share)), rng)
    customer_ids = _write_customers(args.out, max(1000, round(ALL_CUSTOMERS * share)), rng)
    _write_transactions(args.out, args.rows, style, article_ids, customer_ids, rng)
    print(f"{args.out}: {args.rows:,} purchases by {len(customer_ids):,} customers of {len(article_ids):,} articles")
    return 0


def _skewed(size: int, rng: np.random.Generator) -> np.ndarray:
    """Styles, of which some are far more usual than others."""
    return (STYLES * rng.random(size) ** 1.5).astype(int)


def _write_articles(out: Path, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """articles.csv and the photos; returns each article's style and id. The colours of a product are variants."""
    from pipelines.hm.tables import ARTICLE_COLUMNS

    product = np.sort(rng.integers(0, count // 2, count))
    style, colour = _skewed(count // 2, rng)[product], rng.integers(0, len(COLOURS), count)
    variant = np.arange(count) - np.searchsorted(product, product)
    ids = np.array([f"{100_000 + p:07d}{v:03d}" for p, v in zip(product, variant)])
    vowels, others = "aeiou", "bdfgklmnprst"
    words = np.array(
        [
            "".join(others[rng.integers(len(others))] + vowels[rng.integers(5)] for _ in range(rng.integers(2, 5)))
            for _ in range(6000)
        ]
    )
    of_style = rng.integers(0, len(words), (STYLES, 12))
    described = np.concatenate(
        [
            np.take_along_axis(of_style[style], rng.integers(0, 12, (count, 8)), 1),
            rng.integers(0, len(words), (count, 8)),
        ],
        1,
    )
    columns = {name: words[(style % (5 + len(name))) * 7 + len(name)] for name in ARTICLE_COLUMNS}
    columns["article_id"], columns["product_code"] = ids, np.array([name[:7] for name in ids])
    columns["colour_group_name"] = np.array(list(COLOURS))[colour]
    columns["prod_name"] = np.char.add(np.char.add(words[of_style[style, 0]], " "), words[product % len(words)])
    columns["detail_desc"] = np.array([" ".join(row) + "." for row in words[described]])
    pd.DataFrame(columns)[list(ARTICLE_COLUMNS)].to_csv(out / "articles.csv", index=False)
    for article, name in enumerate(ids):
        _draw(out / "images" / name[:3] / f"{name}.jpg", int(style[article]), list(COLOURS.values())[colour[article]])
    return style, ids


def _draw(path: Path, style: int, colour: tuple[int, int, int]) -> None:
    """A photo of 96 x 144: a shape whose form, place and stripes are the style's."""
    from PIL import Image, ImageDraw

    path.parent.mkdir(parents=True, exist_ok=True)
    photo = Image.new("RGB", (96, 144), (235, 235, 235))
    pen, left, top = ImageDraw.Draw(photo), 10 + style % 7 * 4, 15 + style // 7 % 6 * 6
    shape = pen.rectangle if style % 2 else pen.ellipse
    shape([left, top, 95 - left, 143 - top], fill=colour)
    for stripe in range(style // 42):
        pen.line([left, top + 12 * stripe, 95 - left, top + 12 * stripe], fill=(128, 90, 160), width=3)
    photo.save(path, quality=88)


def _write_customers(out: Path, count: int, rng: np.random.Generator) -> np.ndarray:
    """customers.csv; returns the ids."""
    from pipelines.hm.tables import CUSTOMER_COLUMNS

    ids = draw_customer_ids(count, rng)
    fields = {
        "FN": np.where(rng.random(count) < 0.35, "1.0", ""),
        "Active": np.where(rng.random(count) < 0.33, "1.0", ""),
        "club_member_status": rng.choice(["ACTIVE", "PRE-CREATE", ""], count, p=[0.9, 0.08, 0.02]),
        "fashion_news_frequency": rng.choice(["NONE", "Regularly"], count),
        "age": rng.integers(16, 80, count).astype(str),
    }
    columns = {"customer_id": ids, **fields}
    pd.DataFrame(columns)[list(CUSTOMER_COLUMNS)].to_csv(out / "customers.csv", index=False)
    return ids


def _write_transactions(
    out: Path, rows: int, style: np.ndarray, article_ids: np.ndarray, customer_ids: np.ndarray, rng: np.random.Generator
) -> None:
    """transactions_train.csv, day by day: three purchases at a time, of what is sold on that day."""
    activity = np.cumsum(rng.lognormal(0, 1.2, len(customer_ids)))
    favourites = _skewed(FAVOURITES * len(customer_ids), rng).reshape(-1, FAVOURITES)
    start = rng.integers(-200, DAYS, len(style))
    stop, weight = start + rng.exponential(SOLD_DAYS, len(style)) + 14, rng.lognormal(0, 1, len(style))
    by_style = np.argsort(style, kind="stable")

    def bought(day: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        sold = by_style[(start[by_style] <= day) & (stop[by_style] > day)]
        upto = np.concatenate([[0.0], np.cumsum(weight[sold])])
        first = np.searchsorted(style[sold], np.arange(STYLES + 1))  # where each style begins
        customer = np.searchsorted(activity, np.sort(rng.random(size // 3 + 1)) * activity[-1])
        customer = np.minimum(np.repeat(customer, 3)[:size], len(customer_ids) - 1)
        chosen = favourites[customer, rng.integers(0, FAVOURITES, size)]
        anything = (rng.random(size) > BY_STYLE) | (first[chosen] == first[chosen + 1])
        low = np.where(anything, 0.0, upto[first[chosen]])
        high = np.where(anything, upto[-1], upto[first[chosen + 1]])
        at = np.searchsorted(upto, low + rng.random(size) * (high - low), "right") - 1
        return customer_ids[customer], article_ids[sold[np.minimum(at, len(sold) - 1)]]

    write_transactions(out, rows, bought, rng)


if __name__ == "__main__":
    raise SystemExit(main())
