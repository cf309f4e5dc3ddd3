"""The options every reader has."""

from __future__ import annotations

import argparse

from pipelines.remote import local_path


def add_paths(parser: argparse.ArgumentParser, raw: str) -> None:
    """Add `--raw`, `--out` and `--overwrite`.

    Args:
        parser: the reader's own parser.
        raw: what `--raw` names, for its help.
    """
    parser.add_argument("--raw", required=True, help=raw)
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="PREPARED", help="the prepared dataset's folder to make"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing prepared dataset at --out")
