"""Prepare item sequences: text lines of `user item item ...`, the format of S3-Rec.

The protocol is that of the papers that use these files (SASRec, BERT4Rec, S3-Rec): for every user with at least three
interactions, the last one is the test and the one before it the validation, repeats included.
"""

from __future__ import annotations

import argparse
import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.arguments import add_paths
from pipelines.prepared import PreparedError, PreparedWriter
from pipelines.schema import TEST, TRAIN, VAL
from pipelines.summary import print_summary

ATTRIBUTES_SUFFIX = "_item2attributes.json"
MIN_HELD_OUT = 3  # interactions a user needs before any of them is held out


@dataclass
class Sequences:
    """Parsed lines: ids in order of appearance, interactions in file order."""

    users: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    user: array = field(default_factory=lambda: array("i"))  # index of each interaction's user
    item: array = field(default_factory=lambda: array("i"))  # and of its item
    empty_lines: list[tuple[int, str]] = field(default_factory=list)  # (line number, user) without an item


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this reader's options."""
    add_paths(parser, "the sequence file (FILE.txt): lines of `user item item ...` in time order")
    parser.add_argument(
        "--attributes",
        metavar="FILE.json",
        help=f"item -> list of attributes (default: <stem>{ATTRIBUTES_SUFFIX} beside the file, when present)",
    )
    parser.add_argument("--no-attributes", action="store_true", help="leave the attributes file aside")


def run(args: argparse.Namespace) -> None:
    """Read `args.raw` and write the prepared dataset `args.out`.

    Raises:
        PreparedError: the file is absent, no text or without interactions, or the attributes are malformed.
    """
    raw = _find_file(Path(args.raw))
    attributes_file = None if args.no_attributes else _find_attributes(raw, args.attributes)
    sequences = read_sequences(raw)
    attributes = read_attributes(attributes_file) if attributes_file else None
    options = {"attributes": attributes_file.name if attributes_file else None}
    with PreparedWriter(
        args.out, dataset="sequences", source=str(raw), options=options, overwrite=args.overwrite
    ) as writer:
        writer.split = {"kind": "leave-last-out", "held_out": "last interaction", "min": MIN_HELD_OUT}
        writer.items(_items_frame(sequences, attributes))
        writer.users(pd.DataFrame({"user_id": list(sequences.users)}, dtype="str"))
        writer.events(_events_frame(sequences))
        for number, user in sequences.empty_lines:
            writer.reject(file=raw.name, row=number, field="items", value=user, reason="line without items")
        for item in [item for item in attributes or {} if item not in sequences.items]:
            # The papers rank the items of the sequences; an item nobody has cannot be a target of theirs.
            writer.reject(
                file=str(options["attributes"]), row=0, field="item", value=item, reason="item in no sequence"
            )
    print_summary(args.out)


def read_sequences(path: Path) -> Sequences:
    """Parse `user item item ...` lines. A user's further lines continue the first one.

    Args:
        path: UTF-8 text; ids are separated by white space and kept as they are.

    Raises:
        PreparedError: the file is not UTF-8 text, or no line has an item.
    """
    found = Sequences()
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                user, *items = line.split() or [""]
                if not items:
                    if user:
                        found.empty_lines.append((number, user))
                    continue
                index = found.users.setdefault(user, len(found.users))
                found.user.extend([index] * len(items))
                found.item.extend(found.items.setdefault(item, len(found.items)) for item in items)
    except UnicodeDecodeError as error:
        raise PreparedError(f"{path} is not UTF-8 text ({error}); --raw wants lines of `user item item ...`") from error
    if not found.item:
        raise PreparedError(f"{path} has no interactions; --raw wants lines of `user item item ...`")
    return found


def read_attributes(path: Path) -> dict[str, list[str]]:
    """Read the item -> attributes JSON; attribute ids become strings.

    Raises:
        PreparedError: the file is not a JSON object of lists of strings or numbers.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PreparedError(f"--attributes {path}: cannot be read as JSON ({error})") from error
    if not isinstance(table, dict):
        raise PreparedError(f"--attributes {path}: expected an object (item -> list), found {type(table).__name__}")
    for item, values in table.items():
        if not isinstance(values, list) or not all(isinstance(value, str | int) for value in values):
            raise PreparedError(f"--attributes {path}: item {item!r} has {values!r}; expected a list of ids")
    return {item: [str(value) for value in values] for item, values in table.items()}


def leave_last_interaction_out(user: np.ndarray) -> np.ndarray:
    """Hold out each user's last interaction (test) and the one before it (validation).

    Unlike `splits.leave_last_out` it does not ask whether the item is new to the user: published results on
    these files hold out repeats too.

    Args:
        user: `[N]` user indices, a user's interactions contiguous and in time order.

    Returns:
        `[N]` int8 splits; users with fewer than three interactions stay in training whole.
    """
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(user)])
    last = (starts + lengths - 1)[lengths >= MIN_HELD_OUT]
    split = np.full(len(user), TRAIN, np.int8)
    split[last] = TEST
    split[last - 1] = VAL
    return split


def _events_frame(sequences: Sequences) -> pd.DataFrame:
    """Interactions by user; the time is the place in the user's sequence."""
    user = np.frombuffer(sequences.user, np.int32)
    order = np.argsort(user, kind="stable")  # a user's lines need not be neighbours
    user, item = user[order], np.frombuffer(sequences.item, np.int32)[order]
    first = np.searchsorted(user, user, side="left")
    return pd.DataFrame(
        {
            "user": user,
            "item": item,
            "time": np.arange(len(user), dtype=np.int64) - first,
            "split": leave_last_interaction_out(user),
        }
    )


def _items_frame(sequences: Sequences, attributes: dict[str, list[str]] | None) -> pd.DataFrame:
    frame = pd.DataFrame({"item_id": list(sequences.items)}, dtype="str")
    if attributes is not None:
        frame["attr.attribute"] = [attributes.get(item, []) for item in sequences.items]
    return frame


def _find_file(raw: Path) -> Path:
    """The sequence file itself: `raw`, or the only text file in the folder `raw`."""
    if raw.is_file():
        return raw
    files = sorted(raw.glob("*.txt")) if raw.is_dir() else []
    if len(files) == 1:
        return files[0]
    found = f"a folder with {len(files)} .txt files" if raw.is_dir() else "not there"
    raise PreparedError(f"--raw {raw} is {found}; name the sequence file itself (FILE.txt)")


def _find_attributes(raw: Path, given: str | None) -> Path | None:
    if given is not None:
        return Path(given)
    beside = raw.with_name(raw.stem + ATTRIBUTES_SUFFIX)
    return beside if beside.is_file() else None
