"""Fashion-MNIST and Fashion Product Images: reading, splits, rejections, broken files."""

import gzip
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.__main__ import main
from pipelines.fashion_mnist.files import CLASSES, read_idx
from pipelines.prepared import PreparedError, open_prepared
from pipelines.raw.csv_lines import UNSPLIT

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"


def _write_idx(file, array):
    magic = 0x0800 + array.ndim
    header = np.array([magic, *array.shape], ">u4").tobytes()
    file.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def _write_mnist(raw, prefix, labels, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 28, 28))
    _write_idx(raw / f"{prefix}-images-idx3-ubyte.gz", pixels)
    _write_idx(raw / f"{prefix}-labels-idx1-ubyte.gz", np.asarray(labels))
    return pixels


def _run(*arguments):
    return main([str(argument) for argument in arguments])


def test_fashion_mnist_without_test_files_holds_out_a_fifth(tmp_path):
    pixels = _write_mnist(tmp_path, "train", np.arange(100) % 10)
    assert _run("fashion_mnist", "--raw", tmp_path, "--out", tmp_path / "out") == 0
    data = open_prepared(tmp_path / "out", verify=True)
    assert data.items["label"].tolist() == [CLASSES[n % 10] for n in range(100)]
    assert data.items.loc[data.items["split"] == 2, "label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    stored = np.asarray(Image.open(io.BytesIO(data.images.read("train-00007"))), int)
    assert stored.shape == (28, 28)
    assert np.abs(stored - pixels[7]).max() <= 3


def test_fashion_mnist_takes_its_own_test_files(tmp_path):
    _write_mnist(tmp_path, "train", np.arange(40) % 10)
    _write_mnist(tmp_path, "t10k", np.arange(10), seed=1)
    assert _run("fashion_mnist", "--raw", tmp_path, "--out", tmp_path / "out", "--val-share", "0.25") == 0
    data = open_prepared(tmp_path / "out")
    assert np.bincount(data.items["split"]).tolist() == [30, 10, 10]
    assert data.items.loc[data.items["split"] == 2, "item_id"].str.startswith("test-").all()
    assert data.manifest["split"]["kind"] == "given (t10k)"


def test_fashion_mnist_rejects_unknown_labels(tmp_path):
    _write_mnist(tmp_path, "train", [*np.arange(20) % 10, 10, 255])
    assert _run("fashion_mnist", "--raw", tmp_path, "--out", tmp_path / "out") == 0
    data = open_prepared(tmp_path / "out")
    assert (len(data.items), data.manifest["rejected"]) == (20, {"label is not 0..9": 2})


def test_broken_idx_files_are_named(tmp_path):
    whole = gzip.compress(np.array([2049, 5], ">u4").tobytes() + bytes(5))
    cases = {
        "cut.gz": (whole[:-9], "not a whole gzip"),
        "text.gz": (b"hello", "not a whole gzip"),
        "short.gz": (gzip.compress(np.array([2049, 6], ">u4").tobytes() + bytes(5)), "holds 5 bytes"),
        "empty.gz": (gzip.compress(b""), "expected 00 00 08 01"),
        "error.gz": (gzip.compress(b"error"), "starts with the bytes 65 72 72 6f"),
        "images.gz": (gzip.compress(np.array([2051, 5], ">u4").tobytes() + bytes(5)), "expected 00 00 08 01"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PreparedError, match=message):
            read_idx(tmp_path / name, 2049)
    with pytest.raises(PreparedError, match="is missing"):
        read_idx(tmp_path / "absent.gz", 2049)
    (tmp_path / "good.gz").write_bytes(whole)
    assert read_idx(tmp_path / "good.gz", 2049).shape == (5,)


def test_fashion_mnist_refuses_unequal_counts(tmp_path, capsys):
    _write_mnist(tmp_path, "train", np.arange(20) % 10)
    _write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(19))
    assert _run("fashion_mnist", "--raw", tmp_path, "--out", tmp_path / "out") == 2
    assert "20 photos" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def products(tmp_path):
    """Forty good rows of four types, and one row of every fault."""
    (tmp_path / "images").mkdir()
    lines = [HEADER]
    for number in range(40):
        kind = ["Shirts", "Tops", "Heels", "Belts"][number % 4]
        usage = "NA" if number == 0 else "Casual"
        lines.append(f"{number},Men,Apparel,Topwear,{kind},Blue,Fall,2011,{usage},Item {number}")
        Image.new("RGB", (60, 80), (number, 0, 0)).save(tmp_path / "images" / f"{number}.jpg")
    lines += [
        "90,Men,Apparel,Topwear,Shirts,Blue,Fall,2011,Casual,Shirt, with comma",
        "91,Men,Apparel",
        "x,Men,Apparel,Topwear,Shirts,Blue,Fall,2011,Casual,Bad id",
        "3,Men,Apparel,Topwear,Shirts,Blue,Fall,2011,Casual,Repeated",
        "92,Men,Apparel,Topwear,,Blue,Fall,2011,Casual,No type",
        "93,Men,Apparel,Topwear,Shirts,Blue,Fall,2011,Casual,No photo",
        "94,Men,Apparel,Topwear,Shirts,Blue,Fall,2011,Casual,Broken photo",
    ]
    (tmp_path / "images" / "94.jpg").write_bytes((tmp_path / "images" / "1.jpg").read_bytes()[:300])
    (tmp_path / "styles.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_fashion_products(products):
    assert _run("fashion_products", "--raw", products, "--out", products / "out") == 0
    data = open_prepared(products / "out", verify=True)
    assert data.manifest["rejected"] == {
        "id is not a number": 1,
        "no article type": 1,
        "photo is missing": 1,
        "photo is truncated or damaged": 1,
        "repeated id": 1,
        "wrong number of cells": 2,
    }
    first = data.items.iloc[0]
    assert (first["item_id"], first["title"], first["label"]) == ("0", "Item 0", "Shirts")
    assert list(first["attr.usage"]) == []
    assert list(first["attr.gender"]) == ["Men"]
    assert np.bincount(data.items["split"]).tolist() == [32, 0, 8]


def test_photos_of_products_may_have_any_known_ending(products):
    images = products / "images"
    (images / "0.jpg").rename(images / "0.JPG")
    Image.new("RGB", (60, 80)).save(images / "1.png")
    (images / "1.jpg").unlink()
    (products / "disk").mkdir()
    (images / "2.jpg").rename(products / "disk" / "2.jpg")
    (images / "more").symlink_to(products / "disk")
    assert _run("fashion_products", "--raw", products, "--out", products / "out") == 0
    assert open_prepared(products / "out").items["item_id"].tolist()[:3] == ["0", "1", "2"]


def test_a_folder_of_photos_without_the_ids_is_told(products, capsys):
    (products / "images").rename(products / "all")
    (products / "images").mkdir()
    Image.new("RGB", (60, 80)).save(products / "images" / "shirt-1.jpg")
    assert _run("fashion_products", "--raw", products, "--out", products / "out") == 2
    assert "images holds 1, 0 of them named by an id" in capsys.readouterr().err


def test_a_product_table_that_is_not_utf_8_is_refused(products, capsys):
    table = products / "styles.csv"
    table.write_bytes(table.read_bytes().replace(b"Item 7", "Röcke".encode("latin-1")))
    assert _run("fashion_products", "--raw", products, "--out", products / "out") == 2
    assert "row 9 is not UTF-8" in capsys.readouterr().err


def test_a_stray_quote_costs_one_product(products):
    """Python's parser reads on to the next quote, however far."""
    table = products / "styles.csv"
    header, first, *rest = table.read_text().splitlines()
    opened, closed = first.replace("0,Men", "80,Men"), first.replace("0,Men", "81,Men")
    opened = opened.replace("Item 0", '"Stray quote product')
    rest[20] = rest[20].replace("Item", 'Heel 5"')
    table.write_text("\n".join([header, opened, first, *rest, closed.replace("Item", '"Item')]) + "\n")
    assert _run("fashion_products", "--raw", products, "--out", products / "out") == 0
    data = open_prepared(products / "out", verify=True)
    assert data.items["item_id"].tolist() == [str(number) for number in range(40)]
    assert data.items["title"][21] == 'Heel 5" 21'
    rejected = pd.read_parquet(products / "out" / "rejected.parquet")
    assert rejected.loc[rejected["reason"] == UNSPLIT, "row"].tolist() == [2, 50]


def test_a_packed_product_table_is_read(products):
    table = products / "styles.csv"
    table.write_bytes(gzip.compress(table.read_bytes().replace(b"Item 7", "Röcke".encode())))
    assert _run("fashion_products", "--raw", products, "--out", products / "out") == 0
    assert "Röcke" in set(open_prepared(products / "out").items["title"])


def test_fashion_products_class_disjoint(products):
    arguments = [
        "--raw",
        products,
        "--out",
        products / "out",
        "--split",
        "class-disjoint",
        "--test-share",
        "0.5",
    ]
    assert _run("fashion_products", *arguments) == 0
    items = open_prepared(products / "out").items
    train, test = (set(items.loc[items["split"] == part, "label"]) for part in (0, 2))
    assert (len(train), len(test), train & test) == (2, 2, set())


def test_fashion_products_names_a_missing_column(tmp_path, capsys):
    (tmp_path / "styles.csv").write_text("id,gender\n")
    assert _run("fashion_products", "--raw", tmp_path, "--out", tmp_path / "out") == 2
    assert "masterCategory" in capsys.readouterr().err


def test_help_needs_no_heavy_imports():
    import subprocess
    import sys

    code = (
        "import sys, runpy\n"
        "sys.argv = ['pipelines', {name!r}, '--help']\n"
        "try: runpy.run_module('pipelines', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {{'pandas', 'numpy', 'PIL', 'tensorflow'}} & set(sys.modules), 'heavy'\n"
    )
    for name in ("fashion_mnist", "fashion_products", "compcars"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name=name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
