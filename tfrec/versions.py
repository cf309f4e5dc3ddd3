"""Manage the published versions of a model.

    python -m tfrec.versions list saved_models/hm              list published and withdrawn versions
    python -m tfrec.versions verify saved_models/hm/3          compare every file with the manifest
    python -m tfrec.versions rollback saved_models/hm          withdraw the newest version
    python -m tfrec.versions restore saved_models/hm 3         bring a withdrawn version back
    python -m tfrec.versions prune saved_models/hm --keep 3    delete all but the newest three (--withdrawn: those, too)

Servers that follow the newest version notice a rollback or restore at their next poll.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pipelines.command import run_command
from tfrec.publish import (
    PublishError,
    delete_withdrawn,
    find_version,
    keep_last,
    read_manifest,
    restore,
    verify_version,
    versions,
    withdraw,
    withdrawn,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 2 when a folder is not as it should be, 1 on any other failure."""
    options = _parser().parse_args(arguments)

    def run() -> int:
        options.run(options)
        return 0

    return run_command(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, text: str, run: Callable[[argparse.Namespace], object], folder: str = "folder of a model"
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("model", type=Path, metavar="DIR", help=folder)
        added.set_defaults(run=run)
        return added

    command("list", "list the versions of a model", _list)
    command(
        "verify",
        "compare a version's files with its manifest",
        _verify,
        "folder of a version, or of a model: its newest",
    )
    command("rollback", "withdraw a version, so that servers go back", _rollback).add_argument(
        "--version", type=int, help="the version to withdraw (default: the newest)"
    )
    command("restore", "bring a withdrawn version back", lambda o: print(restore(o.model, o.version))).add_argument(
        "version", type=int
    )
    prune = command("prune", "delete all but the newest versions", _prune)
    prune.add_argument("--keep", type=int, default=3, help="how many to keep (default: %(default)s)")
    prune.add_argument("--withdrawn", action="store_true", help="delete the withdrawn versions as well")
    return parser


def _list(options: argparse.Namespace) -> None:
    if not versions(options.model) and not withdrawn(options.model):
        raise PublishError(f"{options.model} holds no published version")
    for version in versions(options.model):
        try:
            manifest = read_manifest(options.model / str(version))
        except PublishError as error:
            print(f"{version}\tbroken: {error}")
            continue
        index = manifest.get("index", {})
        print(f"{version}\t{manifest['created']}\t{index.get('kind', '')}\t{index.get('items', '')} items")
    for version in withdrawn(options.model):
        print(f"{version}\twithdrawn")


def _verify(options: argparse.Namespace) -> None:
    path = find_version(options.model)
    print(f"{path}: {len(verify_version(path)['files'])} files are as published")


def _rollback(options: argparse.Namespace) -> None:
    aside = withdraw(options.model, options.version)
    print(f"withdrawn as {aside}; the newest version is now {versions(options.model)[-1]}")


def _prune(options: argparse.Namespace) -> None:
    if not versions(options.model):
        raise PublishError(f"{options.model} holds no versions; give the folder of a model")
    deleted = keep_last(options.model, options.keep)
    if options.withdrawn:
        deleted += delete_withdrawn(options.model)
    print(sorted(deleted))


if __name__ == "__main__":
    sys.exit(main())
