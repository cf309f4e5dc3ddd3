"""Versions appear whole or not at all, are never changed, and what is torn or altered is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tfrec import versions as command
from tfrec.publish import (
    MANIFEST,
    PublishError,
    check_name,
    find_version,
    keep_last,
    next_version,
    one_version,
    publish_version,
    read_manifest,
    restore,
    verify_version,
    versions,
    withdraw,
    withdrawn,
)


def write_model(path: Path, content: bytes = b"model") -> dict:
    (path / "saved_model.pb").write_bytes(content)
    (path / "variables").mkdir()
    (path / "variables" / "variables.data").write_bytes(content * 1000)
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "warmup").write_bytes(b"")
    return {"index": {"kind": "exact"}}


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "shop"
    for version in (1, 2, 3):
        publish_version(folder, version, write_model)
    return folder


def test_a_version_is_published_with_a_manifest_of_every_file(tmp_path):
    path = publish_version(tmp_path / "shop", 7, write_model)
    assert path == tmp_path / "shop" / "7"
    manifest = verify_version(path)
    assert manifest["name"] == "shop"
    assert manifest["version"] == 7
    assert manifest["index"] == {"kind": "exact"}
    assert set(manifest["files"]) == {"saved_model.pb", "variables/variables.data", "assets.extra/warmup"}
    assert os.listdir(tmp_path / "shop") == ["7"]


def test_the_next_number_was_never_used_by_either_model(model, tmp_path):
    publish_version(tmp_path / "shop_scann", 5, write_model)
    assert next_version(model) == 4
    assert next_version(model, tmp_path / "shop_scann") == 6
    assert next_version(tmp_path / "other") == 1
    withdraw(model)
    assert versions(model) == [1, 2]
    assert next_version(model) == 4


def test_a_version_is_never_overwritten(model):
    before = (model / "2" / MANIFEST).read_bytes()
    with pytest.raises(PublishError, match="never overwritten"):
        publish_version(model, 2, lambda path: write_model(path, b"other"))
    assert (model / "2" / MANIFEST).read_bytes() == before
    withdraw(model)
    with pytest.raises(PublishError, match="never overwritten"):
        publish_version(model, 3, write_model)
    assert sorted(os.listdir(model)) == [".withdrawn-3", "1", "2"]


def test_two_publishers_of_one_number_leave_one_version_whole(model, monkeypatch):
    """The other one is done after the check for an existing version, before the rename."""
    shutil.copytree(model / "1", model.parent / "other")
    rename = os.rename

    def after_the_other(hidden: Path, target: Path) -> None:
        rename(model.parent / "other", target)
        rename(hidden, target)

    monkeypatch.setattr("tfrec.publish.os.rename", after_the_other)
    with pytest.raises(PublishError, match="published by another process meanwhile"):
        publish_version(model, 4, lambda path: write_model(path, b"other"))
    assert read_manifest(model / "4")["version"] == 1
    assert (model / "4" / MANIFEST).read_bytes() == (model / "1" / MANIFEST).read_bytes()
    assert sorted(os.listdir(model)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_nothing(tmp_path, error):
    def write(path: Path) -> dict:
        write_model(path)
        raise error

    with pytest.raises(type(error)):
        publish_version(tmp_path / "shop", 1, write)
    assert os.listdir(tmp_path / "shop") == []


CRASH = """
import itertools, os, sys
from pathlib import Path
import tfrec.publish as publish

step, steps = int(sys.argv[2]), itertools.count(1)  # files are flushed by several threads

def count(function):
    def wrapped(*args, **kwargs):
        if next(steps) == step:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return wrapped

def write(path):
    for name in ("a", "b"):
        count((path / name).write_bytes)(b"x" * 5000)
    return {}

os.rename, os.fsync = count(os.rename), count(os.fsync)
publish._write_manifest = count(publish._write_manifest)
publish.sha256_of = count(publish.sha256_of)
publish.publish_version(Path(sys.argv[1]), 2, write)
print("steps", next(steps) - 1)
"""


def crash_at(folder: Path, step: int) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", CRASH, str(folder), str(step)], capture_output=True, text=True)


def test_a_publisher_killed_at_any_step_leaves_the_versions_whole(tmp_path):
    """SIGKILL before each write, flush and rename; the next publisher clears what is left and succeeds."""
    publish_version(tmp_path / "count", 1, write_model)
    steps = int(crash_at(tmp_path / "count", -1).stdout.split()[1])
    assert steps >= 8
    for step in range(1, steps + 1):
        folder = tmp_path / f"shop{step}"
        publish_version(folder, 1, write_model)
        assert crash_at(folder, step).returncode == -signal.SIGKILL
        for version in versions(folder):
            verify_version(folder / str(version))
        assert versions(folder) in ([1], [1, 2])  # 2 when killed after the rename, before its flush
        again = next_version(folder)
        publish_version(folder, again, write_model)
        assert sorted(os.listdir(folder)) == [str(version) for version in range(1, again + 1)]


def test_a_polling_reader_never_sees_a_part_of_a_version(tmp_path):
    folder, seen, problems, stop = tmp_path / "shop", set(), [], threading.Event()

    def poll() -> None:
        while not stop.is_set():
            for version in versions(folder):
                try:
                    verify_version(folder / str(version))
                    seen.add(version)
                except PublishError as error:
                    if version in versions(folder):  # not one that was pruned meanwhile
                        problems.append(error)

    reader = threading.Thread(target=poll)
    reader.start()
    for version in range(1, 61):
        publish_version(folder, version, write_model)
        keep_last(folder, 3)
    deadline = time.monotonic() + 5
    while 60 not in seen and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    reader.join()
    assert problems == []
    assert 60 in seen
    assert len(seen) > 3


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data"])
@pytest.mark.parametrize(
    ("damage", "message"), [(flip_a_bit, "SHA-256"), (truncate, "bytes"), (Path.unlink, "cannot be read")]
)
def test_a_damaged_version_is_refused(model, name, damage, message):
    damage(model / "3" / name)
    with pytest.raises(PublishError, match=message):
        verify_version(model / "3")


def test_a_torn_copy_is_refused(model, tmp_path):
    """A copy that stopped: folders are there, the later files are not."""
    copy = tmp_path / "copy" / "3"
    copy.mkdir(parents=True)
    shutil.copy(model / "3" / "saved_model.pb", copy)
    with pytest.raises(PublishError, match="copied in part"):
        find_version(copy)
    shutil.copy(model / "3" / MANIFEST, copy)
    with pytest.raises(PublishError, match="cannot be read"):
        verify_version(find_version(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: "{", "not valid JSON"),
        (lambda manifest: "[]", "not the manifest of a tfrec model"),
        (lambda manifest: json.dumps({**manifest, "schema_version": 9}), "schema_version 9"),
        (lambda manifest: json.dumps({**manifest, "files": {}}), "lists no files"),
        (
            lambda manifest: json.dumps({**manifest, "files": {"../x": manifest["files"]["saved_model.pb"]}}),
            "outside",
        ),
        (lambda manifest: json.dumps({**manifest, "files": {"/etc/hosts": {}}}), "outside"),
    ],
)
def test_a_broken_manifest_is_refused(model, change, message):
    file = model / "1" / MANIFEST
    file.write_text(change(json.loads(file.read_text())))
    with pytest.raises(PublishError, match=message):
        verify_version(model / "1")


def test_the_newest_version_is_found_as_a_number(model):
    publish_version(model, 10, write_model)
    for name in ("007", "latest", ".tmp-version-x", "-4"):
        (model / name).mkdir()
    assert find_version(model) == model / "10"
    assert find_version(model / "2") == model / "2"
    with pytest.raises(PublishError, match="no published version"):
        find_version(model / "latest")


def test_one_version_is_asked_for_where_the_newest_one_may_change(model):
    assert one_version(model / "2") == model / "2"
    with pytest.raises(PublishError, match="whose newest version changes; name one, such as .*/3$"):
        one_version(model)
    with pytest.raises(PublishError, match="no published version"):
        one_version(model / "9")


def test_rollback_and_restore(model):
    withdraw(model)
    assert (versions(model), withdrawn(model)) == ([1, 2], [3])
    restore(model, 3)
    assert (versions(model), withdrawn(model)) == ([1, 2, 3], [])
    withdraw(model, 2)
    flip_a_bit(model / ".withdrawn-2" / "saved_model.pb")
    with pytest.raises(PublishError, match="SHA-256"):
        restore(model, 2)
    withdraw(model)
    with pytest.raises(PublishError, match="none to go back to"):
        withdraw(model)


def test_the_newest_versions_are_kept(model):
    assert keep_last(model, 2) == [1]
    assert sorted(os.listdir(model)) == ["2", "3"]
    with pytest.raises(PublishError, match="keep=0"):
        keep_last(model, 0)


def test_what_a_kill_left_of_deleted_versions_is_cleared(model):
    """Between the rename and the last file: as long as nothing else is deleted, the disk stays full of it."""
    (model / "1").rename(model / ".deleted-1-00c0ffee")
    assert keep_last(model, 2) == []
    assert sorted(os.listdir(model)) == ["2", "3"]


def test_withdrawn_versions_are_deleted_where_asked_for_and_no_number_is_used_again(model, capsys):
    withdraw(model)
    withdraw(model)
    assert command.main(["prune", str(model), "--withdrawn"]) == 0
    assert withdrawn(model) == [2, 3]
    publish_version(model, next_version(model), write_model)
    assert command.main(["prune", str(model), "--keep", "1"]) == 0
    assert withdrawn(model) == [2, 3]
    assert command.main(["prune", str(model), "--withdrawn"]) == 0
    assert sorted(os.listdir(model)) == ["4"]
    assert capsys.readouterr().out == "[]\n[1]\n[2, 3]\n"


@pytest.mark.parametrize("name", ["", "../x", "/x", "a/b", ".hidden", "a\0b", "a b"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name):
    with pytest.raises(PublishError, match="must be letters"):
        check_name(name)


def test_the_command_line(model, capsys):
    assert command.main(["list", str(model)]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]
    assert command.main(["verify", str(model)]) == 0
    assert command.main(["rollback", str(model)]) == 0
    assert command.main(["restore", str(model), "3"]) == 0
    assert command.main(["prune", str(model), "--keep", "1"]) == 0
    assert versions(model) == [3]
    assert command.main(["verify", str(model / "9")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_broken_manifest_is_listed_beside_the_others(model, capsys):
    (model / "2" / "manifest.json").write_text("{")
    withdraw(model, 3)
    assert command.main(["list", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "2", "3"]
    assert "broken: " in lines[1]
    assert lines[2].endswith("withdrawn")


@pytest.mark.parametrize("words", [["rollback"], ["prune", "--keep", "1"]])
def test_a_folder_without_versions_is_told_as_such(tmp_path, capsys, words):
    assert command.main([words[0], str(tmp_path / "shpo"), *words[1:]]) == 2
    assert "holds no versions; give the folder of a model" in capsys.readouterr().err


def test_a_copy_that_lacks_a_file_is_refused_before_the_others_are_read(model, monkeypatch):
    """A server looks every two seconds, and would read gigabytes each time."""
    (model / "3" / "variables" / "variables.data").unlink()
    monkeypatch.setattr("tfrec.publish.sha256_of", lambda file: pytest.fail(f"{file} is read"))
    with pytest.raises(PublishError, match="variables.data cannot be read"):
        verify_version(model / "3")
