"""Prepare MovieLens (100K, 1M, 10M, 20M, 25M, 32M, latest; GroupLens' or RecBole's files).

Ratings are read block by block into flat arrays of 24 bytes per rating, so that 32 million fit on a small machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.arguments import MOST_DAYS, SEED, SHARE, add_paths, date, whole_number
from pipelines.id_index import GrowingIdIndex
from pipelines.movielens.files import Movie, open_source
from pipelines.movielens.ratings import Log, duplicates, keep_core, read_ratings
from pipelines.prepared import PreparedWriter
from pipelines.ratio_splits import by_pair, check_shares, random_split, random_split_by_user, split_at, time_edges
from pipelines.raw.raw_csv import RawCsv
from pipelines.schema import TEST, TRAIN, VAL, PreparedError
from pipelines.splits import DROPPED, leave_last_out, temporal_window
from pipelines.summary import print_summary, print_unmatched

SPLITS = ("leave-last-out", "temporal", "time-ratio", "random", "random-by-user")
DROPPED_BY = {  # the other splits drop nothing
    "leave-last-out": "repeat of an older rating after a held-out one",
    "temporal": "rating after the last day of the test",
}
WRITE_ROWS = 1 << 21


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this reader's options."""
    add_paths(parser, "the unpacked MovieLens folder (ml-100k, ml-1m, ml-32m ...)")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="leave-last-out",
        help="leave-last-out: each user's last item tests, the one before it validates; temporal: whole days "
        "from --cutoff; time-ratio: the last --test-share of all ratings; random: drawn from all ratings; "
        "random-by-user: drawn within each user, RecBole's default protocol (default: %(default)s)",
    )
    parser.add_argument("--cutoff", type=date, metavar="YYYY-MM-DD", help="temporal: first day of the test")
    parser.add_argument(
        "--test-days", type=whole_number(1, MOST_DAYS), default=7, help="temporal: days tested (default: %(default)s)"
    )
    parser.add_argument(
        "--val-days", type=whole_number(0, MOST_DAYS), help="temporal: days validated before the cutoff"
    )
    parser.add_argument("--test-share", type=SHARE, help="share tested (default: 0.1; time-ratio: 0.2)")
    parser.add_argument("--val-share", type=SHARE, help="share validated (default: 0.1; time-ratio: 0.08)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the random splits (default: %(default)s)")
    parser.add_argument(
        "--min-interactions",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="keep the N-core: users and movies with at least N ratings among each other (default: keep all)",
    )
    parser.add_argument(
        "--max-rejected",
        type=SHARE,
        default=0.1,
        metavar="SHARE",
        help="give up when more than this share of the ratings, movies or users is unusable (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Read `args.raw` and write the prepared dataset `args.out`.

    Raises:
        PreparedError: the folder is no MovieLens layout, has no usable rating, or the split is impossible.
    """
    source = open_source(Path(args.raw))
    source.settle(args.max_rejected)
    options = {name: getattr(args, name) for name in ("split", "seed", "min_interactions")}
    with PreparedWriter(
        args.out, dataset="movielens", source=str(args.raw), options=options, overwrite=args.overwrite
    ) as writer:
        writer.notes["layout"] = source.layout
        for rejected in source.rejected:
            writer.reject(**rejected)
        user_ids, item_ids = list(source.users), list(source.movies)
        users, items = (GrowingIdIndex(pa.array(ids, pa.string())) for ids in (user_ids, item_ids))
        log, raw = read_ratings(source.ratings, users=users, items=items, writer=writer, max_rejected=args.max_rejected)
        set_aside = partial(_set_aside, field=source.ratings.item, raw=raw, writer=writer)
        user_ids, item_ids = user_ids + users.added, item_ids + items.added
        writer.notes["movies_without_metadata"] = len(items.added)
        rated = log.item  # of all ratings, also those that are set aside below
        log = log.take(np.lexsort((log.time, log.user)))  # stable: ties stay in the order of the file
        again = duplicates(log)
        set_aside(log.take(again), item_ids, "duplicate rating")
        log = log.take(~again) if again.any() else log
        if args.min_interactions > 1:
            core, kept_users, kept_items = keep_core(log, args.min_interactions)
            outside = log.take(np.isin(log.position, core.position, invert=True))
            set_aside(outside, item_ids, "outside the core of --min-interactions")
            log = core
            user_ids = [user_ids[row] for row in kept_users]
            item_ids = [item_ids[row] for row in kept_items]
        split, writer.split = split_log(log, args)
        _check_training_part(split, args.split)
        dropped = log.take(split == DROPPED)  # neither history nor target
        writer.split["dropped"] = len(dropped.user)
        set_aside(dropped, item_ids, DROPPED_BY.get(args.split, ""))
        writer.items(_items_frame(item_ids, source.movies))
        writer.users(_users_frame(user_ids, source.users))
        writer.events(_event_frames(log, split))
    print_summary(args.out)
    if not source.movies:
        print(f"{source.movies_file} is missing or empty: movies have no titles, genres and years")
    else:
        told = {"kind": "movies", "here": raw.name, "table": source.movies_file, "without": "titles and genres"}
        print_unmatched(items.added, rated, source.movies, **told)


def split_log(log: Log, args: argparse.Namespace) -> tuple[np.ndarray, dict[str, Any]]:
    """Split a log sorted by user and time as `args.split` asks.

    A movie that a user rated twice is drawn once, with both ratings: one in training would tell the other in the test.

    Returns:
        `[E]` int8 marks, and the entry for the manifest.
    """
    kind = args.split
    if kind == "leave-last-out":
        return leave_last_out(log.user, log.item), {"kind": kind, "min_items": 3}
    if kind == "temporal":
        window = temporal_window(
            int(log.time.min()),
            int(log.time.max()),
            cutoff=args.cutoff,
            test_days=args.test_days,
            val_days=args.val_days,
        )
        days = {"test_days": window.test_days, "val_days": window.val_days}
        return window.mark(log.time), {"kind": kind, "cutoff": str(window.cutoff), **days}
    by_default = (0.2, 0.08) if kind == "time-ratio" else (0.1, 0.1)
    test, val = (
        default if share is None else share for share, default in zip((args.test_share, args.val_share), by_default)
    )
    check_shares(test, val)
    shares = {"test_share": test, "val_share": val}
    if kind == "time-ratio":
        edges = time_edges(log.time, **shares)
        entry = {"kind": kind, **shares, "val_from": edges[0], "test_from": edges[1]}
        return split_at(log.time, edges), entry
    entry = {"kind": kind, **shares, "seed": args.seed}
    if kind == "random":
        return by_pair(log.user, log.item, lambda user: random_split(len(user), **shares, seed=args.seed)), entry
    return by_pair(log.user, log.item, lambda user: random_split_by_user(user, **shares, seed=args.seed)), entry


def _check_training_part(split: np.ndarray, kind: str) -> None:
    """Refuse a split that leaves nothing to train on, as one by time does where all ratings are of one time."""
    if not (split == TRAIN).any():
        raise PreparedError(
            f"--split {kind} leaves none of the {len(split):,} ratings to train on ({(split == VAL).sum():,} validate, "
            f"{(split == TEST).sum():,} test); take smaller shares, or where all are of one time --split random"
        )


def _set_aside(
    ratings: Log, item_ids: list[str], reason: str, *, field: str, raw: RawCsv, writer: PreparedWriter
) -> None:
    """Reject ratings that are sound but left out, by their rows in the file."""
    writer.reject_rows(
        file=raw.path.name,
        rows=raw.rows_of_kept(ratings.position),
        field=field,
        values=np.array(item_ids, object)[ratings.item],
        reason=reason,
    )


def _items_frame(item_ids: list[str], movies: dict[str, Movie]) -> pd.DataFrame:
    """One row a movie; a rated movie that the movies file lacks has its id only."""
    rows = [movies.get(item, Movie(item, "", "", [])) for item in item_ids]
    titles = [movie.title for movie in rows]
    frame = pd.DataFrame({"item_id": item_ids, "title": titles, "text": titles}, dtype="str")
    frame["attr.genres"] = [movie.genres for movie in rows]
    frame["attr.year"] = [[movie.year] if movie.year else [] for movie in rows]
    frame["attr.decade"] = [[f"{movie.year[:3]}0s"] if movie.year else [] for movie in rows]
    return frame


def _users_frame(user_ids: list[str], profiles: dict[str, dict[str, str]]) -> pd.DataFrame:
    frame = pd.DataFrame({"user_id": user_ids}, dtype="str")
    for name in sorted({name for profile in profiles.values() for name in profile}):
        frame[f"attr.{name}"] = pd.Series([profiles.get(user, {}).get(name) or None for user in user_ids], dtype="str")
    return frame


def _event_frames(log: Log, split: np.ndarray) -> Iterator[pd.DataFrame]:
    """Yield the events in pieces, without those the split leaves out."""
    told = {name: column for name, column in vars(log).items() if column is not None and name != "position"}
    for start in range(0, len(split), WRITE_ROWS):
        part = slice(start, start + WRITE_ROWS)
        columns = {name: column[part] for name, column in told.items()}
        yield pd.DataFrame({**columns, "split": split[part]})[split[part] != DROPPED]
