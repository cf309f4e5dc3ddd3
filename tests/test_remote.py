"""Datasets, models and outputs at addresses. `file://` stands for an object store: other processes see it too."""

import threading

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.prepared import PreparedError, open_prepared
from pipelines.remote import RemoteError, is_remote, local_copy, location, remove_folder, written_or_sent
from tfrec.batch_retrieval.files import Parts, RecommendationFileError, recommendation_table
from tfrec.publish import PublishError, find_version


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
        with written_or_sent(out) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks_off()
    assert list(folder.iterdir()) == []

    items = pa.array(["a", "b"])
    tables = [recommendation_table(pa.array([f"u{n}"]), np.array([[n, -1]]), np.ones((1, 2)), items) for n in (0, 1)]
    parts = Parts.start_afresh(out, {"k": 2})
    parts.write(1, tables[1])
    parts.write_lines(1, ["why"])
    assert (parts.done(0), parts.done(1)) == (False, True)
    with pytest.raises(RecommendationFileError, match="another k"):
        Parts.resume(out, {"k": 3})
    parts = Parts.resume(out, {"k": 2})
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


def test_what_reading_changes_is_no_change(bucket, tmp_path, monkeypatch):
    """Some file systems tell when a file was last read; copying it would make the copy stale at once."""
    (tmp_path / "bucket" / "a").write_text("one")
    system = type(fsspec.filesystem("file"))
    info, reads = system.info, iter(range(99))
    monkeypatch.setattr(
        system, "info", lambda self, *words, **more: {**info(self, *words, **more), "time": next(reads)}
    )
    assert local_copy(f"{bucket}/a") == local_copy(f"{bucket}/a")


def test_a_file_system_that_cannot_list_a_file_is_asked_for_it(bucket, tmp_path, monkeypatch):
    """As SFTP: a list of customers that has changed would be taken for the one before."""
    file, system = tmp_path / "bucket" / "vip.csv", type(fsspec.filesystem("file"))
    monkeypatch.setattr(system, "find", lambda self, path, **more: {path: {}})
    file.write_text("user_id\none\n")
    assert local_copy(f"{bucket}/vip.csv").read_text() == "user_id\none\n"
    file.write_text("user_id\nanother\n")
    assert local_copy(f"{bucket}/vip.csv").read_text() == "user_id\nanother\n"


def test_a_listing_cannot_lead_out_of_the_copy(bucket, tmp_path, cache, monkeypatch):
    system = type(fsspec.filesystem("file"))
    (tmp_path / "bucket" / "shop").mkdir()
    listed = f"{tmp_path}/bucket/shop/../../../evil"
    monkeypatch.setattr(system, "find", lambda self, path, **more: {listed: {"size": 1}})
    monkeypatch.setattr(system, "get_file", lambda *_, **__: pytest.fail("copied"))
    with pytest.raises(RemoteError, match="does not lie in it"):
        local_copy(f"{bucket}/shop")


def test_a_file_that_cannot_be_sent_leaves_nothing(bucket, tmp_path, monkeypatch):
    def refuses(self, *words, **more):
        raise PermissionError("no")

    monkeypatch.setattr(type(fsspec.filesystem("file")), "mv", refuses)
    with (
        pytest.raises(RemoteError, match="PermissionError: no"),
        written_or_sent(location(f"{bucket}/out.csv")) as stream,
    ):
        stream.write(b"x")
    assert list((tmp_path / "bucket").iterdir()) == []


def test_a_model_that_may_not_be_read_is_not_said_to_be_missing(bucket, monkeypatch):
    def refuses(self, *words, **more):
        raise PermissionError("access denied")

    monkeypatch.setattr(type(fsspec.filesystem("file")), "info", refuses)
    with pytest.raises(RemoteError, match="hm: PermissionError: access denied"):
        find_version(location(f"{bucket}/hm"))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("tfrec.train", ["--recipe", "hm-small", "--data", "data", "--out", "s3://bucket/run"]),
        ("tfrec.encode", ["--weights", "w", "--data", "data", "--out", "s3://bucket/run"]),
        ("tfrec.export", ["--run", "run", "--name", "hm", "--root", "s3://bucket/run"]),
        ("tfrec.sweep", ["--config", "sweep.yaml", "--out", "s3://bucket/run"]),
        ("tfrec.analyze", ["--run", "run", "--out", "s3://bucket/run"]),
        ("pipelines.__main__", ["hm", "--raw", "raw", "--out", "s3://bucket/run"]),
        ("pipelines.__main__", ["sequences", "--raw", "raw", "--out", "s3://bucket/run"]),
    ],
)
def test_addresses_are_refused_where_a_path_is_needed(module, words, capsys, tmp_path, monkeypatch):
    import importlib

    monkeypatch.chdir(tmp_path)
    try:
        code = importlib.import_module(module).main(words)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert "s3://bucket/run: name a path of this machine here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_part_do_not_meet(tmp_path):
    path = tmp_path / "part-00000.parquet"
    with written_or_sent(path, shared=True) as one, written_or_sent(path, shared=True) as other:
        one.write(b"whole")
        other.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
