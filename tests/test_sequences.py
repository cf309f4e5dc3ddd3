"""Item sequences: the classic leave-last-out protocol, ids kept as they are, nothing lost in silence."""

import json

import numpy as np
import pytest

from pipelines.__main__ import main
from pipelines.prepared import open_prepared
from pipelines.sequences import leave_last_interaction_out

LINES = "u1 007 a b 007\nu2 b c\nu3 c\n\nu4\nu1 z\n"


def prepare(tmp_path, text=LINES, attributes=None, *options):
    raw = tmp_path / "shop.txt"
    raw.write_text(text, encoding="utf-8")
    if attributes is not None:
        (tmp_path / "shop_item2attributes.json").write_text(json.dumps(attributes))
    out = tmp_path / "prepared"
    assert main(["sequences", "--raw", str(raw), "--out", str(out), *options]) == 0
    return open_prepared(out, verify=True)


def named_events(data):
    """(user id, item id, time, split) of every event, in the stored order."""
    events = data.events()
    users, items = data.users["user_id"], data.items["item_id"]
    rows = zip(events["user"], events["item"], events["time"], events["split"])
    return [(users[user], items[item], time, split) for user, item, time, split in rows]


def test_every_interaction_is_kept_in_order_and_the_last_two_are_held_out(tmp_path):
    assert named_events(prepare(tmp_path)) == [
        ("u1", "007", 0, 0),
        ("u1", "a", 1, 0),
        ("u1", "b", 2, 0),
        ("u1", "007", 3, 1),  # a repeat is held out like any other interaction
        ("u1", "z", 4, 2),  # from the user's second line
        ("u2", "b", 0, 0),
        ("u2", "c", 1, 0),
        ("u3", "c", 0, 0),
    ]


def test_a_line_without_items_is_counted(tmp_path):
    data = prepare(tmp_path)
    assert data.manifest["rejected"] == {"line without items": 1}
    assert "u4" not in set(data.users["user_id"])


def test_leave_last_interaction_out_matches_a_plain_loop():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, 50)
    user = np.repeat(np.arange(50), lengths)
    expected = []
    for length in lengths:
        expected += [0] * length if length < 3 else [0] * (length - 2) + [1, 2]
    assert leave_last_interaction_out(user).tolist() == expected
    assert leave_last_interaction_out(user[:0]).tolist() == []


def test_attributes_beside_the_file_are_found(tmp_path):
    data = prepare(tmp_path, attributes={"007": [3, "x"], "b": [], "nowhere": [1]})
    values = dict(zip(data.items["item_id"], data.items["attr.attribute"].map(list)))
    assert values == {"007": ["3", "x"], "a": [], "b": [], "c": [], "z": []}
    assert data.manifest["rejected"]["item in no sequence"] == 1


def test_attributes_can_be_left_aside(tmp_path):
    data = prepare(tmp_path, LINES, {"007": [3]}, "--no-attributes")
    assert data.fields == []


@pytest.mark.parametrize(
    ("attributes", "message"),
    [([1], "expected an object"), ({"a": "red"}, "item 'a' has 'red'"), ({"a": [[1]]}, "item 'a'")],
)
def test_malformed_attributes_are_an_error_that_names_the_item(tmp_path, capsys, attributes, message):
    (tmp_path / "shop.txt").write_text(LINES)
    (tmp_path / "other.json").write_text(json.dumps(attributes))
    arguments = ["sequences", "--raw", str(tmp_path / "shop.txt"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--attributes", str(tmp_path / "other.json")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "u1\n\nu2\n"])
def test_a_file_without_interactions_is_an_error(tmp_path, capsys, text):
    (tmp_path / "shop.txt").write_text(text)
    assert main(["sequences", "--raw", str(tmp_path / "shop.txt"), "--out", str(tmp_path / "out")]) == 2
    assert "has no interactions" in capsys.readouterr().err


def test_bytes_that_are_no_text_are_an_error(tmp_path, capsys):
    (tmp_path / "shop.txt").write_bytes(b"\x89PNG\xff\xfe 1 2\n")
    assert main(["sequences", "--raw", str(tmp_path / "shop.txt"), "--out", str(tmp_path / "out")]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_folder_with_one_text_file_will_do_and_two_will_not(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "one.txt").write_text(LINES)
    assert main(["sequences", "--raw", str(raw), "--out", str(tmp_path / "a")]) == 0
    (raw / "two.txt").write_text(LINES)
    assert main(["sequences", "--raw", str(raw), "--out", str(tmp_path / "b")]) == 2
    assert "name the sequence file" in capsys.readouterr().err


@pytest.mark.real_data
def test_amazon_beauty_has_its_published_size(tmp_path, real_data):
    raw = real_data("amazon_sequences/Beauty.txt")
    assert main(["sequences", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 0
    counts = open_prepared(tmp_path / "out").manifest["counts"]
    assert (counts["users"], counts["items"], counts["events"]) == (22_363, 12_101, 198_502)
    assert counts["events_by_split"]["test"] == counts["events_by_split"]["val"] == 22_363
