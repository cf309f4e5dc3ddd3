"""Files and folders that appear whole or not at all, and what they leave when they are stopped."""

import os

import pytest

from pipelines import publish
from pipelines.publish import clear_up, filled_whole, put_back, take_place, write_whole, written_whole
from tests.kills import stopped_at_rename


def fill(out, text):
    with filled_whole(out) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text(text)


def read(out):
    return (out / "deep" / "file").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "file", "old")
    fill(tmp_path / "folder", "old")

    def fails(writer):
        with writer as at:
            (at / "half").touch() if isinstance(at, type(tmp_path)) else at.write(b"half")
            raise RuntimeError

    for writer in (written_whole(tmp_path / "file"), filled_whole(tmp_path / "folder")):
        with pytest.raises(RuntimeError):
            fails(writer)
    assert ((tmp_path / "file").read_text(), read(tmp_path / "folder")) == ("old", "old")
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_stopped_at_its_rename_is_the_old_one(tmp_path, shared):
    path = tmp_path / "at" / "file"
    path.parent.mkdir()
    write_whole(path, "old")
    with stopped_at_rename(1, killed=path.parent):
        write_whole(path, "new", shared=shared)
    assert path.read_text() == "old"
    assert len(names(path.parent)) == 2
    write_whole(path, "ñew")
    assert path.read_bytes() == "ñew".encode()
    assert len(names(path.parent)) == (2 if shared else 1)  # who shares a place does not know whose a hidden file is


@pytest.mark.parametrize("stopped", [1, 2])
@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_stopped_at_either_rename_is_the_old_one(tmp_path, stopped, killed):
    out = tmp_path / "at" / "out"
    fill(out, "old")
    with stopped_at_rename(stopped, killed=out.parent if killed else None):
        fill(out, "new")
    assert out.exists() == (not killed or stopped == 1)
    put_back(out)
    assert read(out) == "old"
    clear_up(out)
    assert names(out.parent) == ["out"]
    fill(out, "new")
    assert read(out) == "new"
    assert names(out.parent) == ["out"]


def test_a_file_system_without_locks_still_puts_back_but_clears_nothing(tmp_path, monkeypatch):
    """As NFS, which does not lock folders: nobody can tell whether another process still fills one."""
    out = tmp_path / "at" / "out"
    fill(out, "old")
    with stopped_at_rename(2, killed=out.parent):
        fill(out, "new")
    monkeypatch.setattr(publish, "_lock", lambda *_, **__: False)
    clear_up(out)
    assert read(out) == "old"
    assert len(names(out.parent)) == 2


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, flush, rename = [], os.fsync, os.rename

    def flushes(handle):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        flush(handle)

    monkeypatch.setattr(os, "fsync", flushes)
    monkeypatch.setattr(os, "rename", lambda *paths: (done.append("rename"), rename(*paths)))
    (tmp_path / "work" / "deep").mkdir(parents=True)
    (tmp_path / "work" / "deep" / "file").touch()
    take_place(tmp_path / "work", tmp_path / "out")
    assert done == ["file", "work", "deep", "rename", tmp_path.name]
    done.clear()
    write_whole(tmp_path / "text", "words")
    assert done == [".text.tmp", tmp_path.name]


def test_what_a_longer_name_left_is_not_taken_for_ones_own(tmp_path):
    """`shop-20240301` ends as the random digits of hidden names do."""
    left = [tmp_path / f".tmp-shop-20240301-0123abcd{end}" for end in ("", "-old")]
    for folder in left:
        folder.mkdir()
    put_back(tmp_path / "shop")
    assert not (tmp_path / "shop").exists()
    with filled_whole(tmp_path / "shop") as folder:
        (folder / "file").touch()
    assert all(folder.is_dir() for folder in left)
    put_back(tmp_path / "shop-20240301")
    assert (tmp_path / "shop-20240301").is_dir()


@pytest.mark.parametrize("cleared_first", [False, True])
def test_what_is_half_removed_is_never_put_back(tmp_path, monkeypatch, cleared_first):
    """A run that is killed while it removes the folder that it replaced, or what a run before it left aside."""
    out = tmp_path / "out"
    fill(out, "old")
    if cleared_first:  # left aside by a run that was killed before it removed it
        fill(tmp_path / ".tmp-out-0123abcd-old", "older")

    def killed(folder, ignore_errors):
        (folder / "deep" / "file").unlink(missing_ok=True)
        raise KeyboardInterrupt

    (tmp_path / "new" / "deep").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(publish.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            clear_up(out) if cleared_first else take_place(tmp_path / "new", out)
    publish.shutil.rmtree(out)
    publish.shutil.rmtree(tmp_path / "new", ignore_errors=True)
    put_back(out)
    assert not out.exists()
    clear_up(out)
    assert names(tmp_path) == []
