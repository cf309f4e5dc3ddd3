"""The feature store: what it holds, what it encodes again, and how it goes on after an interruption."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split

import errno
import os

import numpy as np
import pytest
import tensorflow as tf

from pipelines.content import PhotoBytes
from pipelines.photos.pixels import decode_photos
from tests.kills import stopped_at_rename
from tests.layer_checks import global_policy
from tests.small_encoders import make_shop, make_sides, save_sides
from tfrec import encode
from tfrec.encoders.checkpoints import CheckpointError
from tfrec.encoders.sides import read_side, save_side
from tfrec.features import writer as feature_writer
from tfrec.features.blocks import PhotoBlocks, TextBlocks
from tfrec.features.store import FeatureError, SideStore, content_keys, stored_sides
from tfrec.features.writer import FeatureWriter, kept_and_fresh
from tfrec.retrieval.assembly import tokenize
from tfrec.runs.lock import LOCK, FolderInUseError, only_writer


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = make_shop(tmp_path_factory.mktemp("shop") / "data")
    items = shop.items  # read once, then changed in place: some items lack text or photo, two share a text
    items.at[3, "text"] = ""
    items.at[5, "text"] = items.at[4, "text"]
    items.at[7, "images"] = []
    return shop


@pytest.fixture(scope="module")
def sides(shop):
    return dict(zip(("text", "image"), make_sides(shop.items["text"])))


def encoded_items(monkeypatch):
    """A list that receives the number of contents that each call of the writer encodes."""
    counts, fill = [], FeatureWriter._fill
    monkeypatch.setattr(
        FeatureWriter, "_fill", lambda s, a, items, *r: counts.append(len(items)) or fill(s, a, items, *r)
    )
    return counts


def test_stored_texts_are_what_the_encoder_gives(shop, sides, tmp_path):
    store = FeatureWriter(sides["text"], shop, tmp_path, tokens=True, batch=7).write()
    features = store.features(content_keys("text", shop), pooled=False, data=shop.path)
    ids = tokenize(sides["text"].tokenizer, shop.items["text"])
    tokens = sides["text"].encoder(ids).numpy()
    _, mask, vectors = (x.numpy() for x in sides["text"].encode(tf.constant(ids)))
    rows = np.arange(len(ids))
    np.testing.assert_array_equal(features.mask[rows], mask)
    np.testing.assert_allclose(features.tokens[rows][mask], tokens[mask], atol=4e-3, rtol=1e-3)
    np.testing.assert_allclose(features.vectors, vectors, atol=1e-3)
    assert not features.vectors[3].any()
    assert not features.mask[[3]].any()
    assert len(store.keys) == len({text for text in shop.items["text"] if text})


@pytest.mark.parametrize("pool", [1, 2])
def test_stored_photos_are_what_the_encoder_gives(shop, sides, tmp_path, pool):
    store = FeatureWriter(sides["image"], shop, tmp_path, tokens=True, pool=pool, batch=7).write()
    features = store.features(content_keys("image", shop), pooled=False, data=shop.path)
    rows = np.arange(len(shop.items))
    pixels, present = decode_photos(tf.constant(PhotoBytes(shop).read(rows)), (32, 24))
    tokens, vectors = (x.numpy() for x in sides["image"].encode(pixels, present, pool))
    np.testing.assert_array_equal(features.mask, present)
    assert not features.mask[7]
    np.testing.assert_allclose(features.tokens[rows][features.mask], tokens[present], atol=4e-3, rtol=1e-3)
    np.testing.assert_allclose(features.vectors, vectors, atol=4e-3, rtol=1e-3)
    assert tokens.shape[1] == (13 if pool == 1 else 5)


def test_a_store_of_vectors_hands_them_out_as_one_token(shop, sides, tmp_path):
    store = FeatureWriter(sides["text"], shop, tmp_path).write()
    features = store.features(content_keys("text", shop), pooled=True, data=shop.path)
    assert features.tokens[np.arange(4)].shape == (4, 1, 16)
    assert features.mask[np.arange(4)].tolist() == [[True], [True], [True], [False]]
    assert not (store.folder / "tokens.npy").exists()


def test_only_new_and_changed_contents_are_encoded_again(shop, sides, tmp_path, monkeypatch):
    counts = encoded_items(monkeypatch)
    write = FeatureWriter(sides["text"], shop, tmp_path, tokens=True).write
    before = {key: np.array(row) for key, row in zip(write().keys, write().vectors)}
    assert len(counts) == 1
    items, changed = shop.items.copy(), shop.items.copy()
    changed.at[0, "text"] = "a text that no item had"
    monkeypatch.setattr(shop, "items", changed)
    store = FeatureWriter(sides["text"], shop, tmp_path, tokens=True).write()
    assert counts[1:] == [1]
    assert len(store.keys) == len(before)
    for key, row in zip(store.keys, store.vectors):
        if key in before:
            np.testing.assert_array_equal(row, before[key])
    monkeypatch.setattr(shop, "items", items)
    FeatureWriter(sides["text"], shop, tmp_path, tokens=False).write()
    assert counts[2:] == [len(before)]  # another form: all again


@pytest.mark.parametrize("stopped", [1, 2])
@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_lost_where_one_store_takes_anothers_place(shop, sides, tmp_path, monkeypatch, stopped, killed):
    """Killed before the old one steps aside, and before the new one takes its place."""
    expected = FeatureWriter(sides["text"], shop, tmp_path / "alone", tokens=True).write()
    FeatureWriter(sides["text"], shop, tmp_path / "store").write()
    writer = FeatureWriter(sides["text"], shop, tmp_path / "store", tokens=True)
    with stopped_at_rename(stopped, of=(writer.folder, writer.work), killed=writer.store if killed else None):
        writer.write()
    assert not stored_sides(writer.store)["text"].holds_tokens
    monkeypatch.setattr(feature_writer, "checked", lambda *_: pytest.fail("encoded again"))
    store = FeatureWriter(sides["text"], shop, tmp_path / "store", tokens=True).write()
    assert sorted(p.name for p in store.folder.iterdir()) == sorted(p.name for p in expected.folder.iterdir())
    np.testing.assert_array_equal(store.array("tokens"), expected.array("tokens"))
    assert {p.name for p in store.folder.parent.iterdir()} == {"text", LOCK}


def test_a_store_that_is_broken_is_made_again(shop, sides, tmp_path, caplog):
    (FeatureWriter(sides["text"], shop, tmp_path).write().folder / "keys.txt").unlink()
    assert FeatureWriter(sides["text"], shop, tmp_path).write().keys
    assert "it is encoded anew" in caplog.text


def test_other_weights_encode_everything_again(shop, sides, tmp_path, monkeypatch):
    counts = encoded_items(monkeypatch)
    FeatureWriter(sides["text"], shop, tmp_path).write()
    other, _ = make_sides(shop.items["text"])
    other.encoder.token_embedding.embeddings.assign_add(tf.ones_like(other.encoder.token_embedding.embeddings))
    assert other.digest != sides["text"].digest
    FeatureWriter(other, shop, tmp_path).write()
    assert counts[0] == counts[1]


@pytest.mark.parametrize("kind", ["text", "image"])
def test_an_interrupted_store_goes_on_where_it_stopped(shop, sides, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(feature_writer, "SAVE_SECONDS", -1.0)
    whole = FeatureWriter(sides[kind], shop, tmp_path / "whole", tokens=True, batch=8).write()
    blocks, started = {"text": TextBlocks, "image": PhotoBlocks}[kind], []
    encode = blocks.__call__

    def stops(self, start, stop):
        started.append(start)
        for number, block in enumerate(encode(self, start, stop)):
            if number == 3:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(blocks, "__call__", stops)
    cut = FeatureWriter(sides[kind], shop, tmp_path / "cut", tokens=True, batch=8)
    with pytest.raises(KeyboardInterrupt):
        cut.write()
    assert not (tmp_path / "cut" / kind).exists()
    with pytest.raises(KeyboardInterrupt):
        cut.write()
    monkeypatch.setattr(blocks, "__call__", lambda self, *cut: started.append(cut[0]) or encode(self, *cut))
    store = cut.write()
    assert started == [0, 24, 48]
    assert store.keys == whole.keys
    for array in ("vectors", "tokens"):
        np.testing.assert_allclose(store.array(array), whole.array(array), atol=1e-3)


def test_a_whole_store_is_taken_in_whatever_precision_it_was_computed(shop, sides, tmp_path, monkeypatch):
    counts = encoded_items(monkeypatch)
    with global_policy("mixed_bfloat16"):
        store = FeatureWriter(sides["text"], shop, tmp_path).write()
    with global_policy("float32"):
        assert FeatureWriter(sides["text"], shop, tmp_path).write().manifest["precision"] == "mixed_bfloat16"
        assert len(counts) == 1
        again = FeatureWriter(sides["text"], shop, tmp_path, same_precision=True).write()
        assert again.manifest["precision"] == "float32"
        items = shop.items.copy()
        items.at[0, "text"] = "a text that no item had"
        monkeypatch.setattr(shop, "items", items)
        assert FeatureWriter(sides["text"], shop, tmp_path).write().manifest["precision"] == "float32"
    with global_policy("mixed_bfloat16"):
        items.at[1, "text"] = "another that no item had"
        FeatureWriter(sides["text"], shop, tmp_path).write()
    assert counts == [len(store.keys), len(store.keys), 1, len(store.keys)]  # never of two precisions


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_second_writer_of_a_store_is_refused_and_disturbs_nothing(shop, sides, tmp_path, monkeypatch, kind):
    """It would begin the arrays anew under the first one's hands, which would publish what it had lost as zeros."""
    expected = FeatureWriter(sides["text"], shop, tmp_path / "alone", tokens=True, batch=8).write()
    blocks, encode = TextBlocks, TextBlocks.__call__
    store, refused = tmp_path / "store", []

    def joined(self, start, stop):
        for number, block in enumerate(encode(self, start, stop)):
            yield block
            if number == 1:
                with pytest.raises(FolderInUseError, match="store: another process encodes into it") as told:
                    FeatureWriter(sides[kind], shop, store, tokens=True, batch=8).write()
                refused.append(str(told.value))

    monkeypatch.setattr(blocks, "__call__", joined)
    made = FeatureWriter(sides["text"], shop, store, tokens=True, batch=8).write()
    assert len(refused) == 1
    assert "\n" not in refused[0]
    np.testing.assert_array_equal(made.vectors, expected.vectors)
    with only_writer(store):  # a whole store is read whoever writes there
        assert FeatureWriter(sides["text"], shop, store, tokens=True, batch=8).write().keys == expected.keys


def test_a_disk_without_room_for_the_store_is_told_before_anything_is_encoded(shop, sides, tmp_path, monkeypatch):
    """Written to a file with holes on a full disk, an array ends the whole process."""

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    allocate = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    writer = FeatureWriter(sides["text"], shop, tmp_path, tokens=True)
    with pytest.raises(FeatureError, match=r"text side needs [\d,]+ bytes, and [\d,]+ are free; make room") as told:
        writer.write()
    assert not writer.work.exists()
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    store = writer.write()
    arrays = sum(store.array(name).nbytes for name in ("vectors", "tokens", "mask"))
    assert f"needs {arrays:,} bytes" in str(told.value)
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in store.folder.glob("*.npy"))


def test_a_store_that_lacks_items_or_is_broken_says_so(shop, sides, tmp_path):
    store = FeatureWriter(sides["text"], shop, tmp_path).write()
    with pytest.raises(FeatureError, match=r"lacks 1 of the 2 items.*run tfrec.encode again"):
        store.features([store.keys[0], "unknown", ""], pooled=True, data=shop.path)
    with pytest.raises(FeatureError, match="neither text/ nor image/"):
        stored_sides(tmp_path / "text")
    (store.folder / "keys.txt").write_text("one\ntwo")
    with pytest.raises(FeatureError, match="cut short"):
        SideStore(store.folder)
    with pytest.raises(FeatureError, match="no feature store"):
        SideStore(tmp_path)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--batch", "-1"], "--batch: '-1' is not a whole number of at least 1"),
        (["--pool", "0"], "--pool: '0' is not a whole number of at least 1"),
        (["--length", "1"], "--length: '1' is not a whole number of at least 2"),
        (["--size", "32", "0"], "--size: '0' is not a whole number of at least 1"),
        (["--part", "none"], "--part: 'none' is not a whole number of at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_told_before_anything_is_read(option, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        encode.main(["--weights", "nothing", "--data", "nowhere", "--out", "out", *option])
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "unit"), [("text", "text"), ("image", "photo")])
def test_data_without_the_content_say_what_to_set(shop, sides, tmp_path, monkeypatch, kind, unit):
    full = FeatureWriter(sides[kind], shop, tmp_path / "full").write()
    monkeypatch.setattr(shop, "items", shop.items.assign(text=""))
    monkeypatch.setattr(shop, "images", None)
    says = f"no item has a {unit} for the frozen {kind} encoder; train with model.{kind}.enabled=false"
    with pytest.raises(FeatureError, match=says):
        FeatureWriter(sides[kind], shop, tmp_path / "empty").write()
    assert not (tmp_path / "empty").exists()
    with pytest.raises(FeatureError, match=says):
        full.features(content_keys(kind, shop), pooled=True, data=shop.path)


def test_a_store_that_is_not_filled_is_not_published(shop, sides, tmp_path):
    with pytest.raises(FeatureError, match=r"0 of \d+ texts were encoded"):
        FeatureWriter(sides["text"], shop, tmp_path, batch=-1).write()
    assert not (tmp_path / "text").exists()


def test_what_is_kept_is_copied_a_block_at_a_time(monkeypatch):
    stored, most = np.arange(600, dtype=np.float16).reshape(100, 2, 3), []

    class Rows(np.ndarray):
        def __getitem__(self, rows):
            most.append(len(rows))
            return np.asarray(self)[rows]

    monkeypatch.setattr(feature_writer, "COPIED", 84)  # seven rows
    rows, to = np.array([*range(50, 90), *range(5)]), np.zeros((47, 2, 3), np.float16)
    feature_writer.copy_rows(stored.view(Rows), rows, to)
    np.testing.assert_array_equal(to, np.concatenate([stored[rows], np.zeros((2, 2, 3))]))
    assert most == [7] * 6 + [3]


def test_new_contents_are_found_in_one_pass_over_the_keys():
    class Key(str):
        looked_up = 0

        def __hash__(self):
            Key.looked_up += 1
            return str.__hash__(self)

    stored, wanted = ([Key(n) for n in numbers] for numbers in (range(100), range(1, 102)))
    assert kept_and_fresh(stored, wanted) == (stored[1:], ["100", "101"])
    assert Key.looked_up <= 2 * (len(stored) + len(wanted))


def test_the_command_encodes_both_sides(tmp_path):
    shop = make_shop(tmp_path / "data")
    weights = save_sides(shop.items["text"], tmp_path / "weights")
    command = ["--weights", str(weights), "--data", str(shop.path), "--out", str(tmp_path / "out"), "--length", "24"]
    with global_policy("float32"):  # the command sets the process's, which other tests are to have back
        assert encode.main([*command, "--image-store", "pooled"]) == 0
        assert encode.main(["--weights", str(weights), str(weights), *command[2:]]) == 2
        assert encode.main(["--weights", str(tmp_path / "nothing"), *command[2:]]) == 2
    stores = stored_sides(tmp_path / "out")
    assert {name: store.holds_tokens for name, store in stores.items()} == {"text": True, "image": False}


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("weights.index", "its weights cannot be read"),
        ("weights.data-00000-of-00001", "its weights cannot be read"),
        ("vocab.txt", "its tokenizer cannot be made"),
        ("encoder.json", "save the encoder again"),
    ],
)
def test_an_encoder_that_is_not_whole_says_so(sides, tmp_path, file, says):
    save_side(sides["text"], tmp_path / "side")
    (tmp_path / "side" / file).unlink()
    with pytest.raises(CheckpointError, match=f"side.*{says}"):
        read_side(tmp_path / "side")


def test_a_length_that_an_encoder_cannot_have_is_told_with_its_folder(sides, tmp_path):
    save_side(sides["text"], tmp_path / "side")
    with pytest.raises(CheckpointError, match="side.*sequence_length=1 leaves no room"):
        read_side(tmp_path / "side", length=1)


def test_a_store_can_be_analysed(shop, sides, tmp_path, monkeypatch):
    from tfrec.analysis.inputs import AnalysisError, read_features

    monkeypatch.setattr("tfrec.analysis.inputs.open_prepared", lambda path: shop)  # with the items that were changed
    for side in ("text", "image"):
        FeatureWriter(sides[side], shop, tmp_path / side).write()
        catalogue = read_features(tmp_path / side, str(shop.path))
        stored = next(iter(stored_sides(tmp_path / side).values()))
        keys = content_keys(side, shop)
        assert len(catalogue) == sum(map(bool, keys))
        row = 9
        place = catalogue.items["item_id"].tolist().index(shop.items["item_id"][row])
        expected = stored.vectors[stored.keys.index(keys[row])]
        np.testing.assert_allclose(catalogue.vectors[place], expected, atol=1e-6)
    with pytest.raises(AnalysisError, match="--data"):
        read_features(tmp_path / "text", None)
