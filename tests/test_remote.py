"""Datasets, models and outputs at addresses. `file://` stands for an object store: other processes see it too."""

import threading

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.prepared import PreparedError, open_prepared
from pipelines.remote import RemoteError, is_remote, local_copy, location, remove_folder
from tfrec.publish import PublishError, find_version
from tfrec.recommendation_files import Parts, RecommendationFileError, recommendation_table, written_whole


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(tmp_path):
    """A folder's address."""
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path / 'bucket'}"


def test_paths_stay_paths(tmp_path):
    assert location("data/shop") == local_copy("data/shop")
    assert not is_remote(location("data/shop"))
    assert local_copy(tmp_path) is tmp_path


def test_wrong_addresses_are_told_by_name(bucket):
    for address, says in [
        ("nonesuch://x", "nonesuch://x: ValueError: Unsupported filesystem"),
        (f"{bucket}/none", "none: nothing is there"),
        ("memory://none", "memory:"),
    ]:
        with pytest.raises(RemoteError, match=says):
            local_copy(address)


def test_a_folder_is_copied_once_and_again_when_it_has_changed(bucket, tmp_path, cache, monkeypatch):
    folder = tmp_path / "bucket" / "shop"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "deep" / "b").write_text("two")
    first = local_copy(f"{bucket}/shop")
    assert first.is_relative_to(cache)
    assert {str(p.relative_to(first)): p.read_text() for p in first.rglob("*") if p.is_file()} == {
        "a": "one",
        "deep/b": "two",
    }
    system = type(fsspec.filesystem("file"))
    with monkeypatch.context() as patch:
        patch.setattr(system, "get_file", lambda *_, **__: pytest.fail("copied a second time"))
        assert local_copy(location(f"{bucket}/shop")) == first
    (folder / "a").write_text("three")
    second = local_copy(f"{bucket}/shop")
    assert (first / "a").read_text() == "one"  # whoever has it mapped reads on
    assert (second / "a").read_text() == "three"


def test_a_copy_that_breaks_off_is_begun_again(bucket, tmp_path, monkeypatch):
    folder = tmp_path / "bucket" / "shop"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(name)
    system = type(fsspec.filesystem("file"))
    whole, asked = system.get_file, []

    def breaks(self, name, *more, **options):
        asked.append(name)
        if len(asked) == 2:
            raise ConnectionResetError("reset by peer")
        return whole(self, name, *more, **options)

    monkeypatch.setattr(system, "get_file", breaks)
    with pytest.raises(RemoteError, match="shop: ConnectionResetError: reset by peer"):
        local_copy(f"{bucket}/shop")
    copy = local_copy(f"{bucket}/shop")
    assert sorted(p.name for p in copy.iterdir()) == ["a", "b", "c"]


def test_several_at_once_copy_once(bucket, tmp_path, monkeypatch):
    (tmp_path / "bucket" / "a").write_text("one")
    system = type(fsspec.filesystem("file"))
    whole, asked, found = system.get_file, [], []
    monkeypatch.setattr(system, "get_file", lambda *words, **more: (asked.append(1), whole(*words, **more)))
    threads = [threading.Thread(target=lambda: found.append(local_copy(f"{bucket}/a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert {copy.read_text() for copy in found} == {"one"}


def test_a_dataset_is_opened_at_its_address(bucket, tmp_path):
    from pipelines.__main__ import main

    assert main(["demo", "--out", str(tmp_path / "bucket" / "shop"), "--size", "tiny"]) == 0
    here, there = open_prepared(tmp_path / "bucket" / "shop"), open_prepared(f"{bucket}/shop")
    assert there.manifest == here.manifest
    assert there.path != here.path
    (tmp_path / "bucket" / "shop" / "items.parquet").unlink()
    with pytest.raises(PreparedError, match="items.parquet"):
        open_prepared(f"{bucket}/shop")


def test_the_newest_version_of_a_model_is_copied_alone(bucket, tmp_path, cache):
    for version in (1, 2, 10):
        (tmp_path / "bucket" / "hm" / str(version)).mkdir(parents=True)
        (tmp_path / "bucket" / "hm" / str(version) / "manifest.json").write_text(str(version))
    found = find_version(location(f"{bucket}/hm"))
    assert (found.name, (found / "manifest.json").read_text()) == ("10", "10")
    assert find_version(location(f"{bucket}/hm/2")).name == "2"
    assert len(list(cache.iterdir())) == 2
    with pytest.raises(PublishError, match="holds no published version"):
        find_version(location(f"{bucket}/none"))


def test_parts_and_outputs_are_sent_whole(bucket, tmp_path):
    out, folder = location(f"{bucket}/recs.csv"), tmp_path / "bucket"

    def breaks_off():
        with written_whole(out) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks_off()
    assert list(folder.iterdir()) == []

    items = pa.array(["a", "b"])
    tables = [recommendation_table(pa.array([f"u{n}"]), np.array([[n, -1]]), np.ones((1, 2)), items) for n in (0, 1)]
    parts = Parts(out, {"k": 2}, resume=False)
    parts.write(1, tables[1])
    parts.write_lines(1, ["why"])
    assert (parts.done(0), parts.done(1)) == (False, True)
    with pytest.raises(RecommendationFileError, match="another k"):
        Parts(out, {"k": 3}, resume=True)
    parts = Parts(out, {"k": 2}, resume=True)
    assert parts.done(1)
    parts.write(0, tables[0])
    parts.write_lines(0, ["because"])
    parts.finish(2, out, "csv", location(f"{bucket}/why.jsonl"))
    assert (folder / "recs.csv").read_text().split() == ["user_id,rank,item_id,score", "u0,1,a,1", "u1,1,b,1"]
    assert (folder / "why.jsonl").read_text() == "because\nwhy\n"
    assert sorted(path.name for path in folder.iterdir()) == ["recs.csv", "why.jsonl"]


def test_folders_are_removed_here_and_there(bucket, tmp_path):
    for path in (tmp_path / "bucket" / "a", location(f"{bucket}/b")):
        path.mkdir()
        (path / "file").write_text("x")
        remove_folder(path)
        assert not path.exists()
