"""Versions of a model on disk: published by rename, checked by SHA-256, kept, withdrawn and brought back.

A model is a folder of versions, `saved_models/<name>/<version>/`, as TensorFlow Serving polls it: it serves
the largest integer and ignores every other name. A version is filled under a hidden name, flushed to disk and
renamed, so a reader sees all of it or nothing. Versions are never changed, and a number is never used twice.
`python -m tfrec.versions` is their command line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.publish import HiddenFolder, flush, flush_tree
from pipelines.remote import can_be_asked, local_copy

FORMAT = "tfrec-model"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
WITHDRAWN = ".withdrawn-"
DELETED = ".deleted-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class PublishError(ValueError):
    """A model folder or version that is absent, torn or altered; the message names the place and the fix."""


def check_name(name: str) -> str:
    """Return the name of a model, or raise `PublishError` where it could not be a folder of its own."""
    if not NAME.fullmatch(name):
        raise PublishError(f"name {name!r} must be letters, digits, '.', '_' and '-', and not start with a sign")
    return name


def versions(folder: Path) -> list[int]:
    """The published versions of a model, rising."""
    return sorted(_numbers(folder, ""))


def withdrawn(folder: Path) -> list[int]:
    """The withdrawn versions of a model, rising."""
    return sorted(_numbers(folder, WITHDRAWN))


def next_version(*folders: Path) -> int:
    """The first number that none of the models has ever used."""
    return 1 + max((number for folder in folders for number in versions(folder) + withdrawn(folder)), default=0)


def find_version(path: Path) -> Path:
    """The version folder that a path means: itself, or the newest version of a model's folder; at an address, a copy of
    it on this machine.

    Raises:
        PublishError: there is none.
        RemoteError: an address cannot be read.
    """
    can_be_asked(path)
    if (path / MANIFEST).is_file():
        return local_copy(path)
    if (path / "saved_model.pb").is_file():
        raise PublishError(f"{path} has no {MANIFEST}: it was copied in part, or not made by tfrec.export")
    found = versions(path)
    if not found:
        raise PublishError(f"{path} holds no published version; export one first (python -m tfrec.export --help)")
    return local_copy(path / str(found[-1]))


def one_version(path: Path) -> Path:
    """The version folder that a path is itself, for processes that are started at different times and must serve the same.

    Raises:
        PublishError: it is a model's folder, or none.
    """
    if versions(path):
        newest = path / str(versions(path)[-1])
        raise PublishError(f"{path} is a model's folder, whose newest version changes; name one, such as {newest}")
    found = find_version(path)
    if not found.name.isdecimal():
        raise PublishError(f"{path} is not named by a version's number, as published versions are; name one that is")
    return found


def publish_version(folder: Path, version: int, write: Callable[[Path], dict[str, Any]]) -> Path:
    """Publish a version of a model.

    Args:
        folder: of the model; created when absent.
        version: its number.
        write: fills a folder with the SavedModel, and returns what else to keep in the manifest.

    Returns:
        The version's folder.

    Raises:
        PublishError: the version exists.
        OSError: the disk is full or may not be written; nothing is left behind.
    """
    target = folder / str(version)
    hidden = HiddenFolder(folder / "version")
    try:
        info = write(hidden.path)
        _write_manifest(hidden.path, {"name": folder.name, "version": version, **info})
        flush_tree(hidden.path)
        if version in versions(folder) + withdrawn(folder):
            raise PublishError(f"{target} exists; versions are never overwritten, so publish the next number")
        os.rename(hidden.path, target)  # fails where another process has just published the same number
        flush(folder)
    except OSError as error:
        if target.exists():
            raise PublishError(f"{target} was published by another process meanwhile; export again") from error
        raise
    finally:
        hidden.close()
    return target


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a version's manifest without checking its files.

    Raises:
        PublishError: it is absent, broken, or of another schema version.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PublishError(f"{file} cannot be read ({error.strerror}); copy the whole version folder") from error
    except ValueError as error:
        raise PublishError(f"{file} is not valid JSON; copy the whole version folder again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise PublishError(f"{file} is not the manifest of a tfrec model")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        found = manifest.get("schema_version")
        raise PublishError(f"{file} has schema_version {found!r}, this tfrec reads {SCHEMA_VERSION}; export again")
    if not isinstance(manifest.get("files"), dict) or not manifest["files"]:
        raise PublishError(f"{file} lists no files; export again")
    return manifest


def verify_version(path: Path, before_each: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Compare every file of a version with its manifest.

    TensorFlow loads a SavedModel with a flipped bit without complaint, and one without variables until it
    runs.

    Args:
        path: the version's folder.
        before_each: called before each file is read, which takes a while; may raise to end it.

    Returns:
        The manifest.

    Raises:
        PublishError: a file is missing, of another size, or of other bytes.
    """
    manifest = read_manifest(path)
    for check in (_check_size, _check_bytes):  # what is missing is found before gigabytes are read
        for name, entry in manifest["files"].items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise PublishError(f"{path / MANIFEST} lists {name!r}, which is outside its folder")
            before_each()
            try:
                check(path / name, entry)
            except OSError as error:
                raise PublishError(
                    f"{path / name} cannot be read although the manifest lists it ({error.strerror}); "
                    "copy the whole version folder"
                ) from error
    return manifest


def withdraw(folder: Path, version: int | None = None) -> Path:
    """Take a version, by default the newest, out of service by renaming it; it can be restored.

    Raises:
        PublishError: there is no such version, or no other one to go back to.
    """
    found = versions(folder)
    if not found:
        raise PublishError(f"{folder} holds no versions; give the folder of a model")
    version = found[-1] if version is None else version
    if version not in found:
        raise PublishError(f"{folder} has no version {version}; its versions are {found}")
    if len(found) == 1:
        raise PublishError(f"{folder}/{version} is the only version; there is none to go back to")
    return _rename(folder / str(version), folder / f"{WITHDRAWN}{version}")


def restore(folder: Path, version: int) -> Path:
    """Bring a withdrawn version back after checking that it is whole.

    Raises:
        PublishError: it is not among the withdrawn ones, or not whole.
    """
    aside = folder / f"{WITHDRAWN}{version}"
    if not aside.is_dir():
        raise PublishError(f"{folder} has no withdrawn version {version}; withdrawn are {withdrawn(folder)}")
    verify_version(aside)
    return _rename(aside, folder / str(version))


def keep_last(folder: Path, keep: int) -> list[int]:
    """Delete all but the newest `keep` versions, and return the numbers deleted."""
    if keep < 1:
        raise PublishError(f"keep={keep} must be at least 1")
    old = versions(folder)[:-keep]
    _delete(folder, [str(version) for version in old])
    return old


def delete_withdrawn(folder: Path) -> list[int]:
    """Delete the withdrawn versions, and return their numbers.

    Those newer than every published one stay until another one is published: their numbers would be used again.
    """
    newest = max(versions(folder), default=0)
    old = [version for version in withdrawn(folder) if version < newest]
    _delete(folder, [f"{WITHDRAWN}{version}" for version in old])
    return old


def _delete(folder: Path, names: list[str]) -> None:
    """Delete folders of a model, each of which disappears by one rename first, so that no reader sees a part of it; and
    what is left of earlier ones, whose deletion was killed."""
    for name in names:
        os.rename(folder / name, folder / f"{DELETED}{name}-{secrets.token_hex(4)}")
    for doomed in folder.glob(f"{DELETED}*"):
        shutil.rmtree(doomed, ignore_errors=True)


def _numbers(folder: Path, prefix: str) -> list[int]:
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [int(name) for name in found if name.isascii() and name.isdigit() and name == str(int(name))]


def _write_manifest(path: Path, info: dict[str, Any]) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **info,
        "files": {
            str(file.relative_to(path)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files
        },
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_size(file: Path, entry: dict[str, Any]) -> None:
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise PublishError(f"{file} has {size} bytes, the manifest says {entry['bytes']}; copy it again")


def _check_bytes(file: Path, entry: dict[str, Any]) -> None:
    if sha256_of(file) != entry["sha256"]:
        raise PublishError(f"{file} does not have the SHA-256 that the manifest lists; copy it again")


def sha256_of(file: Path) -> str:
    """A file's SHA-256, as hexadecimal digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rename(source: Path, target: Path) -> Path:
    os.rename(source, target)
    flush(target.parent)
    return target
