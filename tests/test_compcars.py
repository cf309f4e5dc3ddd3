"""CompCars: the drawn miniature, its label files and CSV, rejections, pairing of views, splits."""

import csv
import io
import os
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from pipelines.__main__ import main
from pipelines.compcars.items import Options, items_frame, prepare
from pipelines.compcars.labels import CSV_COLUMNS, CarPhoto, parse_box, parse_view
from pipelines.compcars_miniature import generate
from pipelines.label_splits import split_labels
from pipelines.photos.boxes import parse_box as parse_box_shares
from pipelines.photos.crops import crop_photo
from pipelines.photos.images import EXIF_ORIENTATION, PhotoError
from pipelines.prepared import PreparedError, open_prepared
from pipelines.raw.csv_lines import UNSPLIT


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    raw = tmp_path_factory.mktemp("compcars") / "raw"
    assert generate(raw, makes=2, photos=3) == 2 * 4 * 2 * 2 * 3 + 2
    return raw


@pytest.fixture(scope="module")
def prepared(miniature, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "cars"
    assert main(["compcars", "--raw", str(miniature), "--out", str(out), "--size", "96"]) == 0
    return open_prepared(out, verify=True)


def write_csv(folder, rows):
    with open(folder / "cars.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([CSV_COLUMNS, *rows])


def test_miniature_is_deterministic(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(tmp_path / name, makes=1, photos=1, seed=seed)
    content = {
        name: [(f.relative_to(tmp_path / name), f.read_bytes()) for f in sorted((tmp_path / name).rglob("*.*"))]
        for name in "abc"
    }
    assert content["a"] == content["b"]
    assert content["a"] != content["c"]


def test_a_stopped_run_leaves_no_half_of_the_miniature(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    options = ["--raw", str(tmp_path / "raw"), "--makes", "1", "--photos", "1"]
    monkeypatch.setattr("pipelines.compcars_miniature._write_attributes", stop)
    assert main(["compcars_miniature", *options]) == 130
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert main(["compcars_miniature", *options]) == 0


def test_miniature_models_share_a_front_or_a_rear():
    from pipelines.compcars.drawing import draw_car

    def view(style, front):
        return np.asarray(draw_car(0, style=style, front=front, rng=np.random.default_rng(0))[0])

    for front in (True, False):
        assert (view(0, front) == view(0, front)).all()
        assert (view(0, front) != view(1, front)).mean() > 0.01


def test_miniature_boxes_fit_the_car(miniature):
    label = sorted((miniature / "label" / "1" / "1" / "2011").glob("*.txt"))[0]
    viewpoint, boxes, box = label.read_text().splitlines()
    assert viewpoint in ("1", "2")
    assert boxes == "1"
    x1, y1, x2, y2 = map(int, box.split())
    assert 1 <= x1 < x2 <= 200
    assert 1 <= y1 < y2 <= 150
    assert 0.5 < (x2 - x1) / 200 < 0.85


def test_items_are_pairs_of_views(prepared):
    items = prepared.items
    full = items[[len(views) == 2 for views in items["views"]]]
    assert all(list(views) == ["front", "rear"] for views in full["views"])
    assert len(items) == 2 * 4 * 2 * 3
    assert items["label"].nunique() == 8
    assert set(items["attr.year"].str[0]) == {"2011", "2014"}
    assert items["attr.make"].str[0].tolist() == items["label"].str.split("_").str[0].tolist()
    assert set(items["attr.type"].str[0]) == {"MPV", "SUV"}
    assert items["group"].nunique() == 16


def test_unknown_years_and_broken_boxes_are_counted(prepared):
    assert prepared.manifest["rejected"] == {"broken box": 1, "no released year": 2}
    assert prepared.manifest["counts"]["images"] == 2 * 4 * 2 * 2 * 3 - 1


def test_photos_are_cropped_to_the_box(prepared, miniature):
    row = prepared.items.iloc[0]
    stem = row["images"][0].split("-", 1)[1]
    label = next((miniature / "label").rglob(f"{stem}.txt")).read_text().splitlines()
    x1, y1, x2, y2 = map(int, label[2].split())
    width, height = Image.open(io.BytesIO(prepared.images.read(row["images"][0]))).size
    assert max(width, height) == 96
    assert width / height == pytest.approx((x2 - x1 + 1) / (y2 - y1 + 1), abs=0.03)


def test_with_a_margin_photos_keep_their_surroundings_and_items_carry_the_box(prepared, miniature, tmp_path):
    words = ["compcars", "--raw", str(miniature), "--out", str(tmp_path / "cars"), "--size", "96", "--margin", "0.2"]
    assert main(words) == 0
    made = open_prepared(tmp_path / "cars")
    for row, tight in zip(made.items.itertuples(), prepared.items.itertuples(), strict=True):
        left, top, right, bottom = parse_box_shares(row.boxes[0])
        size = Image.open(io.BytesIO(made.images.read(row.images[0]))).size
        cut = Image.open(io.BytesIO(prepared.images.read(tight.images[0]))).size
        assert ((right - left) * size[0]) / ((bottom - top) * size[1]) == pytest.approx(cut[0] / cut[1], abs=0.06)
        assert right - left < 1 or bottom - top < 1


def test_csv_gives_the_same_items_as_the_tree(prepared, miniature, tmp_path):
    table = tmp_path / "cars.csv"
    with open(table, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(CSV_COLUMNS)
        for photo in sorted((miniature / "image").rglob("*.jpg")):
            make, model, year, name = photo.relative_to(miniature / "image").parts
            label = Path(str(photo).replace("/image/", "/label/")).with_suffix(".txt").read_text().splitlines()
            kind = {"1": "1", "2": "2"}[make]
            writer.writerow([name, f"image/{make}/{model}/{year}/{name}", year, label[0], label[2], make, model, kind])
        writer.writerow(["x.jpg", "image/x.jpg", "2011.0", "1", "[1, 1, 9, 9]", "1", "1", "1"])
        writer.writerow(["x.jpg", "image/x.jpg", "", "1", "1 1 9 9", "1", "1", "1"])
        writer.writerow(["x.jpg", "image/x.jpg", "2011", "9", "1 1 9 9", "1", "1", "1"])
        writer.writerow(["x.jpg", "image/x.jpg", "2011", "1", "1 1 9 9", "", "1", "1"])
    prepare(miniature, tmp_path / "out", Options(size=96), csv=str(table))
    again = open_prepared(tmp_path / "out")
    assert again.items.drop(columns="images").equals(prepared.items.drop(columns="images"))
    assert again.manifest["rejected"] == {
        "broken box": 1,
        "no released year": 3,
        "photo is missing": 1,
        "viewpoint is not -1 or 1..5": 1,
        "wrong number of cells or empty name": 1,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10 20 30 40", (10, 20, 30, 40)),
        ("[10, 20, 30.5, 40]", (10, 20, 30.5, 40)),
        ("30 20 10 40", None),
        ("10 20 30", None),
        ("-1 -1 -1 -1", None),
        ("", None),
        ("a b c d", None),
    ],
)
def test_parse_box(text, expected):
    assert parse_box(text) == expected


def test_parse_view():
    names = [parse_view(text) for text in ("1", "2.0", "-1", "Front", "rear-side", "7", "", "inf")]
    assert names == ["front", "rear", "unknown", "front", "rear_side", None, None, None]


def _photo(view, year="2010", make="m", model="n"):
    return CarPhoto(Path("x.jpg"), "f", 0, make, model, year, view, (1, 1, 2, 2), "")


def test_a_missing_view_leaves_an_item_with_one_photo():
    photos = {"a": _photo("front"), "b": _photo("front"), "c": _photo("rear"), "d": _photo("rear", "2011")}
    pairs = items_frame(photos, Options())
    assert pairs["images"].tolist() == [["a", "c"], ["b"], ["d"]]
    assert pairs["views"].tolist() == [["front", "rear"], ["front"], ["rear"]]
    years = items_frame(photos, Options(items="years"))
    assert years["images"].tolist() == [["a", "b", "c"], ["d"]]
    assert items_frame(photos, Options(views=("rear",)))["images"].tolist() == [["c"], ["d"]]


def test_names_that_would_give_one_id_or_one_label_are_told_apart():
    names = [("A_B", "C"), ("A", "B_C"), ("Audi", "A4 L"), ("Audi", "A4-L"), ("Benz", "A-Class 2")]
    photos = {str(row): _photo("front", make=make, model=model) for row, (make, model) in enumerate(names)}
    items = items_frame(photos, Options()).sort_values("images", key=lambda keys: keys.str[0])
    assert items["item_id"].tolist() == [
        "A_B_C~2_2010_0",
        "A_B_C_2010_0",
        "Audi_A4-L_2010_0",
        "Audi_A4-L~2_2010_0",
        "Benz_A-Class-2_2010_0",
    ]
    assert items["label"].tolist() == [
        "A_B_C~2",
        "A_B_C",
        "Audi_A4 L",
        "Audi_A4-L",
        "Benz_A-Class 2",
    ]
    assert items["group"].is_unique


def test_with_a_margin_and_no_usable_photo_the_error_counts_what_was_rejected(tmp_path):
    write_csv(tmp_path, [["x.jpg", "x.jpg", "2011", "1", "1 1 9 9", "1", "1", "0"]])
    with pytest.raises(PreparedError, match="none of 1 labelled photos .*'photo is missing': 1"):
        prepare(tmp_path, tmp_path / "out", Options(margin=0.1))


def test_box_outside_the_photo_is_rejected(miniature, tmp_path):
    photo = next((miniature / "image").rglob("*.jpg"))
    boxes = ("1 1 200 150", "1 1 900 150")
    write_csv(tmp_path, [["a.jpg", str(photo), "2011", "1", box, "1", "1", "0"] for box in boxes])
    prepare(tmp_path, tmp_path / "out", Options())
    made = open_prepared(tmp_path / "out")
    assert made.manifest["rejected"] == {"box lies outside the photo": 1}
    assert len(made.items) == 1


def test_a_stray_quote_costs_one_row_of_the_csv(miniature, tmp_path):
    photo = next((miniature / "image").rglob("*.jpg"))
    good = [f"a.jpg,{photo},2011,1,1 1 {right} 150,1,1,0" for right in (198, 199, 200)]
    stray = f'a.jpg,{photo},2011,1,1 1 200 150,1,1,"0'
    lines = [",".join(CSV_COLUMNS), stray, good[0], good[1], stray, good[2]]
    (tmp_path / "cars.csv").write_text("\n".join(lines) + "\n")
    prepare(tmp_path, tmp_path / "out", Options())
    made = open_prepared(tmp_path / "out")
    assert len(made.items) == 3
    assert made.manifest["rejected"] == {UNSPLIT: 2}


def test_a_photo_that_a_csv_lists_twice_is_one_item(miniature, tmp_path):
    """Or it could be in training and in the test."""
    photos = sorted((miniature / "image").rglob("*.jpg"))[:2]
    rows = [f"a.jpg,{photo},2011,1,1 1 200 150,1,1,0" for photo in (*photos, photos[0])]
    (tmp_path / "cars.csv").write_text("\n".join([",".join(CSV_COLUMNS), *rows]) + "\n")
    prepare(tmp_path, tmp_path / "out", Options())
    made = open_prepared(tmp_path / "out")
    assert len(made.items) == 2
    assert made.manifest["rejected"] == {"photo and box stand in an earlier row": 1}
    assert pd.read_parquet(tmp_path / "out" / "rejected.parquet")["row"].tolist() == [4]


def test_a_csv_that_is_not_utf_8_is_an_error_that_says_how_to_convert_it(tmp_path, capsys):
    lines = [",".join(CSV_COLUMNS), "a.jpg,a.jpg,2011,1,1 1 9 9,Citroën,C3,0"]
    (tmp_path / "cars.csv").write_bytes("\n".join(lines).encode("latin-1"))
    assert main(["compcars", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cars.csv: row 2 is not UTF-8" in error
    assert "iconv -f LATIN1 -t UTF-8 cars.csv" in error


def test_crop_photo_checks_before_it_decodes(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    Image.new("RGB", (40, 40)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name, message in (("none.jpg", "missing"), ("text.jpg", "not a JPEG"), ("cut.png", "damaged")):
        with pytest.raises(PhotoError, match=message):
            crop_photo(tmp_path / name, (1, 1, 9, 9), size=32)
    assert Image.open(io.BytesIO(crop_photo(tmp_path / "whole.png", (1, 1, 30, 20), size=15).jpeg)).size == (
        15,
        10,
    )
    for box in ((41, 1, 41, 40), (1, 41, 40, 41)):  # they begin behind the last column or row
        with pytest.raises(PhotoError, match="box lies outside the photo"):
            crop_photo(tmp_path / "whole.png", box, size=32)
    Image.new("1", (10_000, 5_001)).save(tmp_path / "bomb.png")
    with pytest.raises(PhotoError, match="more than 50,000,000 pixels"):
        crop_photo(tmp_path / "bomb.png", (1, 1, 9, 9), size=32)


def test_a_damaged_tag_beside_the_orientation_costs_no_photo(tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION], exif[0x011A] = 6, 72.0
    note = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x06\x00\x05")  # a resolution as a whole number's tag
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.jpg", exif=note)
    crop = crop_photo(tmp_path / "photo.jpg", (1, 1, 20, 40), size=40)
    assert Image.open(io.BytesIO(crop.jpeg)).size == (20, 40)


@pytest.mark.parametrize("error", [struct.error("unpack requires 4 bytes"), AttributeError("numerator")])
def test_one_photo_that_its_decoder_stumbles_over_is_rejected_and_the_others_stay(
    miniature, tmp_path, monkeypatch, error
):
    def load(photo):
        if photo.size == (41, 41):
            raise error
        return whole_load(photo)

    whole_load = ImageFile.ImageFile.load
    Image.new("RGB", (41, 41)).save(tmp_path / "odd.jpg")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    photos = [next((miniature / "image").rglob("*.jpg")), tmp_path / "odd.jpg"]
    write_csv(tmp_path, [[file.name, str(file), "2011", "1", "1 1 40 40", "1", "1", "0"] for file in photos])
    prepare(tmp_path, tmp_path / "out", Options())
    made = open_prepared(tmp_path / "out")
    assert made.manifest["rejected"] == {"photo is truncated or damaged": 1}
    assert len(made.items) == 1


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        (Image.new("RGBA", (40, 30), (0, 0, 0, 0)), 255),
        (Image.new("LA", (40, 30), (0, 0)), 255),
        (Image.fromarray(np.full((30, 40), 90 * 256, np.uint16)), 90),
    ],
)
def test_crops_of_transparent_and_16_bit_photos_look_as_whole_photos_do(tmp_path, photo, expected):
    photo.save(tmp_path / "photo.png")
    crop = Image.open(io.BytesIO(crop_photo(tmp_path / "photo.png", (11, 1, 40, 30), size=32).jpeg))
    assert (crop.mode, crop.size) == ("RGB", (30, 30))
    assert np.abs(np.asarray(crop, int) - expected).max() <= 2


def test_errors_say_what_to_do(tmp_path, capsys):
    assert main(["compcars", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "make/model/year" in capsys.readouterr().err
    (tmp_path / "cars.csv").write_text("image_name,make\n")
    with pytest.raises(PreparedError, match="image_path"):
        prepare(tmp_path, tmp_path / "out", Options())
    with pytest.raises(PreparedError, match="not an empty folder"):
        generate(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("size", "test", "val"), [(2, 0.2, 0.1), (3, 0.4, 0.4), (1, 0.2, 0.2)])
def test_every_class_of_a_stratified_split_can_be_learned(size, test, val):
    labels = [f"class{row // size}" for row in range(300 * size)]
    split = split_labels(labels, kind="stratified", test_share=test, val_share=val, seed=0)
    assert (split.reshape(300, size) == 0).any(1).all()
    assert size == 1 or {0, 1, 2} == set(split.tolist())


def test_stratified_split_is_exact_and_seeded():
    labels = np.repeat(["a", "b", "c", "once"], [50, 30, 20, 1])
    split = split_labels(labels, kind="stratified", test_share=0.2, val_share=0.1, seed=3)
    for name, count in (("a", 50), ("b", 30), ("c", 20)):
        parts = np.bincount(split[labels == name], minlength=3) / count
        np.testing.assert_allclose(parts, [0.7, 0.1, 0.2], atol=0.051)
    assert split[labels == "once"] == 0
    assert (split == split_labels(labels, kind="stratified", val_share=0.1, seed=3)).all()
    assert (split != split_labels(labels, kind="stratified", val_share=0.1, seed=4)).any()


def test_class_disjoint_split_shares_no_class():
    labels = np.random.default_rng(0).integers(0, 10, 200).astype(str)
    split = split_labels(labels, kind="class-disjoint", test_share=0.3, val_share=0.1)
    classes = [set(labels[split == part]) for part in (0, 1, 2)]
    assert [len(part) for part in classes] == [6, 1, 3]
    assert len(set.union(*classes)) == 10
    with pytest.raises(PreparedError, match="needs 2"):
        split_labels(["a", "b"], kind="class-disjoint")
    with pytest.raises(PreparedError, match="their sum below 1"):
        split_labels(["a", "b"], kind="stratified", test_share=1.0)


@pytest.mark.parametrize("command", ["compcars", "fashion_products"])
def test_shares_that_leave_nothing_to_train_on_are_told_before_any_photo_is_read(command, tmp_path, capsys):
    shares = ["--test-share", "0.7", "--val-share", "0.3"]
    assert main([command, "--raw", str(tmp_path), "--out", str(tmp_path / "out"), *shares]) == 2
    assert "--test-share 0.7 and --val-share 0.3 leave nothing to train on" in capsys.readouterr().err


def test_photos_may_have_any_known_ending(tmp_path):
    raw = tmp_path / "raw"
    generate(raw, makes=1, photos=1)
    photos = sorted((raw / "image").rglob("*.jpg"))
    photos[0].rename(photos[0].with_suffix(".JPG"))
    with Image.open(photos[1]) as photo:
        photo.save(photos[1].with_suffix(".png"))
    photos[1].unlink()
    Image.new("RGB", (9, 9)).save(raw / "image" / "stray.jpg")
    (raw / "image").rename(tmp_path / "disk")
    (raw / "image").symlink_to(tmp_path / "disk")
    assert main(["compcars", "--raw", str(raw), "--out", str(tmp_path / "tree")]) == 0
    data = open_prepared(tmp_path / "tree")
    assert len(data.images) == len(photos) - 3  # two have no year, one has no box
    assert data.manifest["rejected"]["photo is not in a folder image/make/model/year"] == 1
    rows = [
        ["", "1/a.jpg", "2011", "1", "1 1 9 9", "m", "x", "1"],
        ["", "1/a.jpg", "2011", "2", "1 1 9 9", "m", "x", "1"],
        ["", "1/none.jpg", "2011", "2", "1 1 9 9", "m", "x", "1"],
    ]
    table = tmp_path / "table"
    (table / "image" / "1").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(table / "image" / "1" / "a.Jpeg")
    write_csv(table, rows)
    assert main(["compcars", "--raw", str(table), "--out", str(tmp_path / "csv"), "--test-share", "0"]) == 0
    data = open_prepared(tmp_path / "csv")
    assert (len(data.images), data.manifest["rejected"]) == (2, {"photo is missing": 1})


def test_names_of_folders_and_photos_need_not_be_utf_8(tmp_path):
    raw = tmp_path / "raw"
    generate(raw, makes=1, photos=1)
    name = os.fsdecode("車".encode("cp932"))
    for kind, ending in (("image", ".jpg"), ("label", ".txt")):
        (raw / kind / "1").rename(raw / kind / name)
        first = sorted((raw / kind / name).rglob(f"*{ending}"))[0]
        first.rename(first.with_stem(name))
    assert main(["compcars", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 0
    assert open_prepared(tmp_path / "out").items["attr.make"].map(list).tolist()[0] == [r"\udc8e\udcd4"]
