"""The prepared dataset: what is written comes back, and nothing broken is written or opened."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepared import PreparedError, PreparedWriter, open_prepared
from pipelines.prepared_writer import MAX_REJECTED_ROWS

ROOT = Path(__file__).parents[1]
ITEMS = pd.DataFrame(
    {
        "item_id": ["0108775015", "2"],
        "title": ["Strap top", ""],
        "text": ["A strap top.", ""],
        "attr.colour": [["black", "white"], []],
        "images": [["front", "back"], []],
        "views": [["front", "rear"], []],
        "group": ["108775", "2"],
        "price": [0.05, None],
    }
)
USERS = pd.DataFrame({"user_id": ["b", "a", "never bought"], "attr.age": ["25-29", None, None]})
EVENTS = pd.DataFrame(
    {"user": [0, 0, 1], "item": [1, 0, 1], "time": [5, 7, 3], "split": [0, 2, 0], "price": [1.0, None, 2.5]}
)


def write(out, *, items=ITEMS, users=USERS, events=EVENTS, photos=("front", "back"), **options):
    with PreparedWriter(out, dataset="test", **options) as writer:
        for key in photos:
            writer.images.add(key, f"bytes of {key}".encode())
        writer.items(items)
        writer.users(users)
        writer.events(events)
        writer.split = {"kind": "temporal", "cutoff": "2020-09-16"}
        writer.reject(file="raw.csv", row=3, field="id", value="x" * 500, reason="not a number")
    return out


def test_what_is_written_comes_back(tmp_path):
    data = open_prepared(write(tmp_path / "out", source="raw", options={"size": 256}), verify=True)
    assert data.items["item_id"].tolist() == ["0108775015", "2"]
    assert [list(values) for values in data.items["attr.colour"]] == [["black", "white"], []]
    assert [list(values) for values in data.items["views"]] == [["front", "rear"], []]
    assert data.items["price"].dtype == np.float32
    assert data.items["price"].isna().tolist() == [False, True]
    assert (data.fields, data.user_fields) == (["colour"], ["age"])
    assert data.users["attr.age"].isna().tolist() == [False, True, True]
    for name in ("user", "item", "time", "split"):
        assert data.events()[name].tolist() == EVENTS[name].tolist()
    assert {name: str(kind) for name, kind in data.events().dtypes.items()} == {
        "user": "int32",
        "item": "int32",
        "time": "int64",
        "split": "int8",
        "price": "float32",
    }
    assert list(data.events(["time"])) == ["time"]
    assert data.images.keys == ["front", "back"]
    assert data.images.read("back") == b"bytes of back"
    with pytest.raises(KeyError, match="no photo 'side'"):
        data.images.read("side")


def test_names_of_files_that_are_no_utf_8_are_written_all_the_same(tmp_path):
    """Archives from Korean Windows unpack to names in CP949, which Python reads as lone surrogates."""
    name = os.fsdecode("상의/7.jpg".encode("cp949"))
    with PreparedWriter(tmp_path / "out", dataset="test", source=name, options={"raw": name}) as writer:
        writer.items(ITEMS.assign(images=[[], []], views=[[], []]))
        writer.reject(file=name, row=0, field="photo", value=name, reason="photo is missing")
    data = open_prepared(tmp_path / "out", verify=True)
    assert data.manifest["source"] == name
    row = pd.read_parquet(tmp_path / "out" / "rejected.parquet").iloc[0]
    assert row["file"] == row["value"] == r"\udcbb\udcf3\udcc0\udcc7/7.jpg"


@pytest.mark.parametrize(
    ("split", "new"),
    [
        ({"kind": "leave-last-out", "min_items": 3}, True),
        ({"kind": "leave-last-out", "held_out": "last interaction"}, False),
        ({"kind": "temporal", "cutoff": "2020-09-16"}, False),
    ],
)
def test_the_split_tells_whether_targets_were_ever_bought_before(tmp_path, split, new):
    data = open_prepared(write(tmp_path / "out"))
    data.manifest["split"] = split
    assert data.holds_out_new_items == new


def test_the_manifest_counts_and_names_everything(tmp_path):
    manifest = json.loads((write(tmp_path / "out") / "manifest.json").read_text())
    assert (manifest["format"], manifest["schema_version"]) == ("tfrec-prepared", 1)
    assert manifest["counts"] == {
        "items": 2,
        "users": 3,
        "events": 3,
        "events_by_split": {"train": 2, "val": 0, "test": 1},
        "images": 2,
    }
    assert manifest["rejected"] == {"not a number": 1}
    assert set(manifest["files"]) == set(os.listdir(tmp_path / "out")) - {"manifest.json"}
    rejected = pd.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert rejected.iloc[0].to_dict() == {
        "file": "raw.csv",
        "row": 3,
        "field": "id",
        "value": "x" * 200,
        "reason": "not a number",
    }


def test_photo_sets_need_neither_users_nor_events_nor_photos(tmp_path):
    with PreparedWriter(tmp_path / "out", dataset="photos") as writer:
        writer.items(pd.DataFrame({"item_id": ["a"], "label": ["car"], "split": [2]}))
    data = open_prepared(tmp_path / "out", verify=True)
    assert (len(data.users), len(data.events()), data.images) == (0, 0, None)
    assert data.items.loc[0, ["title", "text", "label", "split"]].tolist() == ["", "", "car", 2]
    assert list(data.items.loc[0, "images"]) == []


def test_rejected_rows_are_all_counted_and_stored_up_to_a_limit_of_each_reason(tmp_path):
    with PreparedWriter(tmp_path / "out", dataset="test") as writer:
        writer.items(ITEMS[["item_id"]])
        rows = np.arange(2, MAX_REJECTED_ROWS + 1002)
        writer.reject_rows(file="raw.csv", rows=rows, field="id", values=rows, reason="bad")
        writer.reject(file="raw.csv", row=1, field="id", value=None, reason="worse")
    assert open_prepared(tmp_path / "out").manifest["rejected"] == {
        "bad": MAX_REJECTED_ROWS + 1000,
        "worse": 1,
    }
    listed = pq.read_table(tmp_path / "out" / "rejected.parquet")["reason"].to_pylist()
    assert [listed.count(reason) for reason in ("bad", "worse")] == [MAX_REJECTED_ROWS, 1]


def test_photos_can_be_read_from_many_threads(tmp_path):
    keys = [f"{row:04d}" for row in range(500)]
    with PreparedWriter(tmp_path / "out", dataset="test") as writer:
        for key in keys:
            writer.images.add(key, key.encode() * (1 + int(key) % 7))
        writer.items(pd.DataFrame({"item_id": ["a"], "images": [keys]}))
    store = open_prepared(tmp_path / "out").images
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.read, keys * 4)) == [key.encode() * (1 + int(key) % 7) for key in keys * 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": ITEMS.drop(columns="item_id")}, "'item_id' is missing"),
        ({"items": ITEMS.assign(item_id="same")}, "'same' occurs more than once"),
        ({"items": ITEMS.assign(item_id=["", "a"])}, "row 0 has an empty id"),
        ({"items": ITEMS.assign(colour="red")}, "unknown column 'colour'"),
        ({"items": ITEMS.assign(title=[None, "a"])}, "'title' has no value in row 0"),
        ({"items": ITEMS.assign(**{"attr.colour": ["black", "white"]})}, "'attr.colour' does not fit"),
        ({"items": ITEMS.assign(views=[["front"], []])}, "row 0 has 2 images and 1 views"),
        ({"items": ITEMS.assign(images=[["front", "side"], []])}, "photo 'side', which is not stored"),
        ({"items": ITEMS.assign(split=3)}, "'split' spans 3..3"),
        ({"users": USERS.assign(user_id="same")}, "'same' occurs more than once"),
        ({"events": EVENTS.drop(columns="time")}, "'time' is missing"),
        ({"events": EVENTS.assign(user=[1, 0, 0])}, "not sorted"),
        ({"events": EVENTS.assign(time=[7, 5, 3])}, "not sorted"),
        ({"events": [EVENTS[1:2], EVENTS[0:1]]}, "not sorted"),
        ({"events": EVENTS.assign(item=2)}, "row 2 of items, which has 2 rows"),
        ({"events": EVENTS.assign(user=[0, 0, 3])}, "row 3 of users, which has 3 rows"),
        ({"events": EVENTS.assign(item=-1)}, "'item' spans -1"),
        ({"events": EVENTS.assign(split=-1)}, "'split' spans -1"),
        ({"events": EVENTS.assign(time=0.5)}, "'time' does not fit"),
        ({"events": EVENTS.assign(item=2**40)}, "'item' does not fit"),
        ({"photos": ("front", "front")}, "'front' is stored already"),
    ],
)
def test_what_breaks_the_contract_is_not_written(tmp_path, changes, message):
    with pytest.raises(PreparedError, match=message):
        write(tmp_path / "out", **changes)
    assert os.listdir(tmp_path) == []


def test_events_may_come_in_frames(tmp_path):
    write(tmp_path / "out", events=(EVENTS[start : start + 1] for start in range(3)))
    assert open_prepared(tmp_path / "out").events()["time"].tolist() == [5, 7, 3]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def run():
        with PreparedWriter(tmp_path / "out", dataset="test") as writer:
            writer.items(ITEMS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_is_cleared_by_the_next_but_a_running_one_is_not(tmp_path):
    code = (
        "import os, signal, sys; from pipelines.prepared import PreparedWriter\n"
        "with PreparedWriter(sys.argv[1], dataset='test') as writer: os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".tmp-out-")
    with PreparedWriter(tmp_path / "out", dataset="test") as running:
        running.items(ITEMS.drop(columns=["images", "views"]))
        assert left not in os.listdir(tmp_path)
        with pytest.raises(PreparedError, match="no items"), PreparedWriter(tmp_path / "out", dataset="test"):
            pass
    assert os.listdir(tmp_path) == ["out"]
    assert len(open_prepared(tmp_path / "out").items) == 2


def test_an_existing_folder_is_replaced_only_when_asked_and_only_a_prepared_one(tmp_path):
    out = write(tmp_path / "out")
    with pytest.raises(PreparedError, match="pass --overwrite"):
        write(out)
    write(out, users=USERS[:2], overwrite=True)
    assert len(open_prepared(out, verify=True).users) == 2
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "only_copy.jpg").write_bytes(b"1")
    with pytest.raises(PreparedError, match="is not a prepared dataset, so --overwrite leaves it alone"):
        write(precious, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["out", "photos"]


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path):
    disk, out = tmp_path / "disk", tmp_path / "out"
    write(disk / "hm")
    out.symlink_to(disk / "hm")
    write(out, users=USERS[:2], overwrite=True)
    assert out.is_symlink()
    assert len(open_prepared(disk / "hm", verify=True).users) == 2
    assert (sorted(os.listdir(tmp_path)), os.listdir(disk)) == (["disk", "out"], ["hm"])


def test_a_mount_point_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "volume")
    with pytest.raises(OSError, match="a mount point cannot be replaced as a whole; name a folder in it"):
        write(tmp_path / "volume")


def test_a_failed_overwrite_keeps_the_old_dataset(tmp_path):
    out = write(tmp_path / "out")
    with pytest.raises(PreparedError):
        write(out, items=ITEMS.assign(item_id="same"), overwrite=True)
    assert len(open_prepared(out, verify=True).items) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_dataset_that_a_killed_run_was_replacing_is_put_back(tmp_path, overwrite):
    """A kill between the two renames leaves the only copy under a hidden name."""
    out = write(tmp_path / "out")
    code = (
        "import os, signal, sys; from tests.test_prepared import write; rename, calls = os.rename, []\n"
        "def once(*names):\n"
        "    calls.append(names)\n"
        "    return rename(*names) if len(calls) < 2 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.rename = once; write(sys.argv[1], overwrite=True)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(out)], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    if overwrite:
        with pytest.raises(PreparedError):
            write(out, items=ITEMS.assign(item_id="same"), overwrite=True)
    else:
        with pytest.raises(PreparedError, match="pass --overwrite"):
            write(out)
    assert len(open_prepared(out, verify=True).items) == 2


def test_a_run_stopped_between_two_renames_puts_the_old_dataset_back(tmp_path, monkeypatch):
    out, rename = write(tmp_path / "out"), os.rename
    calls = []

    def stops(*names):
        calls.append(names)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(*names)

    monkeypatch.setattr(os, "rename", stops)
    with pytest.raises(KeyboardInterrupt):
        write(out, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert len(open_prepared(out, verify=True).items) == 2


def edit_manifest(out, **changes):
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def drop_column(out):
    pq.write_table(pq.read_table(out / "items.parquet").drop_columns("title"), out / "items.parquet")
    relist(out, "items.parquet")


def drop_row(out):
    pq.write_table(pq.read_table(out / "users.parquet")[:1], out / "users.parquet")
    relist(out, "users.parquet")


def relist(out, name):
    """Give a changed file its true size in the manifest, so that only its content is wrong."""
    files = json.loads((out / "manifest.json").read_text())["files"]
    files[name]["bytes"] = (out / name).stat().st_size
    edit_manifest(out, files=files)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "manifest.json").unlink(), "has no manifest.json"),
        (lambda out: (out / "manifest.json").write_text('{"format": '), "not valid JSON"),
        (lambda out: (out / "manifest.json").write_text("[]"), "not the manifest of a prepared dataset"),
        (lambda out: edit_manifest(out, format="other"), "not the manifest of a prepared dataset"),
        (lambda out: edit_manifest(out, schema_version=2), "schema_version 2, this tfrec reads 1"),
        (lambda out: edit_manifest(out, files={}), "malformed entries under 'files'"),
        (lambda out: edit_manifest(out, files={"../secret": {}}), "malformed entries under 'files'"),
        (lambda out: edit_manifest(out, counts=None), "malformed entries under 'files' or 'counts'"),
        (lambda out: (out / "images.bin").unlink(), "images.bin is missing"),
        (lambda out: os.truncate(out / "events.parquet", 100), "events.parquet has 100 bytes"),
        (drop_column, "column 'title' is absent, expected string"),
        (drop_row, "has 1 rows, the manifest says 3"),
    ],
)
def test_what_is_broken_is_not_opened(tmp_path, damage, message):
    damage(write(tmp_path / "out"))
    with pytest.raises(PreparedError, match=message):
        open_prepared(tmp_path / "out")


def test_a_flipped_byte_is_found_when_asked_to_verify(tmp_path):
    flip_a_byte(write(tmp_path / "out") / "images.bin")
    open_prepared(tmp_path / "out")
    with pytest.raises(PreparedError, match=r"images.bin has SHA-256 .* the manifest says"):
        open_prepared(tmp_path / "out", verify=True)


def test_an_index_that_points_past_the_photos_is_refused(tmp_path):
    out = write(tmp_path / "out")
    index = pq.read_table(out / "images.parquet")
    moved = index.set_column(1, "offset", pa.array([0, 10_000], pa.int64()))
    pq.write_table(moved, out / "images.parquet")
    relist(out, "images.parquet")
    with pytest.raises(PreparedError, match="points past the end"):
        _ = open_prepared(out).images


def test_absent_folders_are_named(tmp_path):
    with pytest.raises(PreparedError, match="nowhere is not a folder; prepare the data first"):
        open_prepared(tmp_path / "nowhere")


def test_further_files_are_listed_and_verified_and_cannot_shadow_the_tables(tmp_path):
    (tmp_path / "notes.npz").write_bytes(b"12345")
    with PreparedWriter(tmp_path / "out", dataset="test") as writer:
        writer.items(ITEMS[["item_id"]])
        writer.extra("notes.npz", tmp_path / "notes.npz")
        for name in ("items.parquet", "../notes.npz", "notes.npz"):
            with pytest.raises(PreparedError, match="not a plain, unused file name"):
                writer.extra(name, tmp_path / "notes.npz")
    assert open_prepared(tmp_path / "out", verify=True).manifest["files"]["notes.npz"]["bytes"] == 5
    flip_a_byte(tmp_path / "out" / "notes.npz")
    with pytest.raises(PreparedError, match="SHA-256"):
        open_prepared(tmp_path / "out", verify=True)


def test_leftovers_of_a_dataset_with_a_longer_name_are_not_touched(tmp_path):
    for name in (".tmp-out-raw-0123abcd", ".tmp-out-raw"):
        (tmp_path / name).mkdir()
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == [".tmp-out-raw", ".tmp-out-raw-0123abcd", "out"]
