"""K-Fashion: labels and crops as the JSON says, broken pairs counted, synthetic pairs in the same layout."""

import io
import json
import math
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.__main__ import main
from pipelines.kfashion import crop_box
from pipelines.kfashion import synthetic as kfashion_synthetic
from pipelines.kfashion.labels import CATEGORIES, read_label
from pipelines.photos.images import EXIF_ORIENTATION
from pipelines.prepared import open_prepared
from pipelines.schema import PreparedError

RED, GREEN, WHITE = (220, 20, 20), (20, 180, 20), (250, 250, 250)
TOP = {"X좌표": 100, "Y좌표": 50, "가로": 100, "세로": 100}
BOTTOM = {"X좌표": 100, "Y좌표": 200, "가로": 50, "세로": 100}


def label(image_id=7, size=(400, 400), boxes=None, **labels):
    boxes = {"상의": [TOP], "하의": [BOTTOM]} if boxes is None else boxes
    detail = {
        "렉트좌표": {category: boxes.get(category, [{}]) for category in CATEGORIES},
        "폴리곤좌표": {category: [{}] for category in CATEGORIES},
        "라벨링": {name: labels.get(name, [{}]) for name in ("스타일", *CATEGORIES)},
    }
    image = {"이미지 식별자": image_id, "이미지 너비": size[0], "이미지 높이": size[1]}
    image["이미지 파일명"] = f"shop_{image_id}.jpg"
    return {"이미지 정보": image, "데이터셋 정보": {"데이터셋 상세설명": detail}}


def photo(size=(400, 400)):
    """A red square where TOP is and a green one where BOTTOM is, at any scale of 400 x 400."""
    pixels = np.full((400, 400, 3), WHITE, np.uint8)
    pixels[50:150, 100:200] = RED
    pixels[200:300, 100:150] = GREEN
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def write_pair(raw, content, image=None, stem="7"):
    (raw / "labels").mkdir(parents=True, exist_ok=True)
    (raw / "photos").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (raw / "labels" / f"{stem}.json").write_text(text, encoding="utf-8")
    if image is not None:
        image.save(raw / "photos" / f"{stem}.jpg", quality=95)


def prepare(tmp_path, *options):
    out = tmp_path / "prepared"
    assert main(["kfashion", "--raw", str(tmp_path / "raw"), "--out", str(out), *options]) == 0
    return open_prepared(out, verify=True)


def stored(data, key):
    return Image.open(io.BytesIO(data.images.read(key)))


def share_of(image, colour):
    return (np.abs(np.asarray(image, int) - colour).max(axis=-1) < 60).mean()


def test_each_garment_becomes_an_item_with_its_attributes(tmp_path):
    content = label(
        스타일=[{"스타일": "로맨틱", "서브스타일": "모던"}],
        상의=[{"카테고리": "블라우스", "색상": "화이트", "서브색상": "실버", "소재": ["우븐", "레이스", "우븐"]}],
        하의=[{"기장": "니렝스", "핏": "노멀", "디테일": ["포켓"], "새로운 항목": "x"}],
    )
    write_pair(tmp_path / "raw", content, photo())
    data = prepare(tmp_path)
    assert data.items["item_id"].tolist() == ["7_상의", "7_하의"]
    top, bottom = ({name: list(row[f"attr.{name}"]) for name in data.fields} for _, row in data.items.iterrows())
    assert {name: values for name, values in top.items() if values} == {
        "garment": ["상의"],
        "category": ["블라우스"],
        "style": ["로맨틱", "모던"],
        "colour": ["화이트", "실버"],
        "material": ["우븐", "레이스"],
    }
    assert (bottom["length"], bottom["fit"], bottom["detail"]) == (["니렝스"], ["노멀"], ["포켓"])
    assert data.items["label"].tolist() == ["블라우스", "하의"]
    assert data.manifest["counts"]["unknown_label_keys"] == {"새로운 항목": 1}


@pytest.mark.parametrize("size", [(400, 400), (600, 600), (800, 400)])
def test_garments_are_cut_out_with_their_margin_whatever_the_photo_was_scaled_to(tmp_path, size):
    write_pair(tmp_path / "raw", label(), photo(size))
    data = prepare(tmp_path)
    for key, colour in (("7_상의", RED), ("7_하의", GREEN)):
        # A margin of a tenth on each side: the box is 1 / 1.2 of the crop's width and height.
        assert share_of(stored(data, key), colour) == pytest.approx(1 / 1.44, abs=0.05)


def test_crop_box_pads_scales_and_stays_inside():
    assert crop_box((10, 20, 110, 70), 0.1, (400, 400), (400, 400)) == (0, 15, 120, 75)
    assert crop_box((10, 20, 110, 70), 0.0, (400, 400), (800, 200)) == (20, 10, 220, 35)
    assert crop_box((300, 300, 400, 400), 0.5, (400, 400), (400, 400)) == (250, 250, 400, 400)
    assert crop_box((0, 0, 10, 10), 0.0, (math.nan, math.nan), (50, 60)) == (0, 0, 10, 10)


@pytest.mark.parametrize(("orientation", "undo"), [(3, "ROTATE_180"), (6, "ROTATE_90"), (8, "ROTATE_270")])
def test_garments_are_cut_out_of_photos_that_are_stored_turned(tmp_path, orientation, undo):
    upright = photo().crop((50, 0, 250, 400))
    boxes = {"상의": [{**TOP, "X좌표": 50}], "하의": [{**BOTTOM, "X좌표": 50}]}
    write_pair(tmp_path / "raw", label(size=(200, 400), boxes=boxes))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    upright.transpose(Image.Transpose[undo]).save(tmp_path / "raw" / "photos" / "7.jpg", quality=95, exif=exif)
    data = prepare(tmp_path)
    assert data.manifest["rejected"] == {}
    for key, colour in (("7_상의", RED), ("7_하의", GREEN)):
        assert share_of(stored(data, key), colour) == pytest.approx(1 / 1.44, abs=0.05)


def test_only_the_wanted_categories_are_kept(tmp_path):
    write_pair(tmp_path / "raw", label(), photo())
    data = prepare(tmp_path, "--categories", "상의", "원피스")
    assert data.items["item_id"].tolist() == ["7_상의"]
    assert data.manifest["counts"]["garments_of_other_categories"] == 1


def test_broken_pairs_are_counted_by_reason_and_the_rest_is_kept(tmp_path):
    raw = tmp_path / "raw"
    write_pair(raw, label(1), photo(), "1")
    write_pair(raw, "{not json", photo(), "2")
    write_pair(raw, {"이미지 정보": {}}, photo(), "3")
    write_pair(raw, label(4), None, "4")
    write_pair(raw, label(5, boxes={"상의": [TOP], "하의": [{**BOTTOM, "가로": -3}]}), photo(), "5")
    write_pair(raw, label(6, boxes={"상의": [{**TOP, "X좌표": 500}], "하의": [{"X좌표": 1}]}), photo(), "6")
    write_pair(raw, label(1), photo(), "7")
    write_pair(raw, label(8), None, "8")
    (raw / "photos" / "8.jpg").write_bytes(b"<html>not a photo</html>")
    write_pair(raw, label(9), photo(), "9")
    broken = (raw / "photos" / "9.jpg").read_bytes()
    (raw / "photos" / "9.jpg").write_bytes(broken[: len(broken) // 2])
    data = prepare(tmp_path)
    assert data.items["item_id"].tolist() == ["1_상의", "1_하의", "5_상의"]
    assert data.manifest["rejected"] == {
        "broken label file": 2,
        "broken rectangle": 3,
        "duplicate image id": 1,
        "photo is missing": 2,
        "photo is not a JPEG, PNG or WebP file": 2,
        "photo is truncated or damaged": 2,
    }
    table = pd.read_parquet(data.path / "rejected.parquet")
    assert set(table["file"]) == {f"{number}.json" for number in (2, 3, 4, 5, 6, 7, 8, 9)}


def place_pair(raw, label_file, photo_file, content, colour=None):
    """Write a label and a photo anywhere below `raw`; `colour` covers the whole photo."""
    for file in (label_file, photo_file):
        if file:
            (raw / file).parent.mkdir(parents=True, exist_ok=True)
    if label_file:
        (raw / label_file).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if photo_file:
        kind = "PNG" if photo_file.endswith("png") else "JPEG"
        Image.new("RGB", (400, 400), colour).save(raw / photo_file, kind, quality=95)


def colours(data):
    """Item -> the colour of its photo."""
    keys = [images[0] for images in data.items["images"]]
    return {key: "red" if share_of(stored(data, key), RED) > 0.9 else "green" for key in keys}


@pytest.mark.parametrize(
    "places",
    [
        [("a/1.json", "a/1.jpg"), ("b/1.json", "b/1.jpg")],
        [("labels/a/1.json", "photos/a/1.jpg"), ("labels/b/1.json", "photos/b/1.jpg")],
        [("labels/a/1.json", "a/1.JPG"), ("labels/b/1.json", "b/1.png")],
        [("train/labels/1.json", "train/photos/1.jpg"), ("test/labels/1.json", "test/photos/1.jpg")],
        [("a/1.json", "a/1.jpg"), ("labels/1.json", "photos/1.jpg")],
    ],
)
def test_labels_of_one_name_have_the_photos_of_their_own_folders(tmp_path, places):
    for image_id, (places_of_one, colour) in enumerate(zip(places, (RED, GREEN))):
        place_pair(tmp_path / "raw", *places_of_one, label(image_id, boxes={"상의": [TOP]}), colour)
    assert colours(prepare(tmp_path)) == {"0_상의": "red", "1_상의": "green"}


@pytest.mark.parametrize(
    ("places", "reason", "kept"),
    [
        ([("a/1.json", "a/1.jpg"), ("b/1.json", None)], "photo is missing", 1),
        ([("labels/1.json", "x/y/1.jpg"), (None, "z/w/1.jpg")], "several labels or photos have this name", 0),
        ([("one/1.json", "photos/1.jpg"), ("two/1.json", None)], "several labels or photos have this name", 0),
        (
            [("labels/a/1.json", "photos/c/1.jpg"), ("labels/b/1.json", None)],
            "several labels or photos have this name",
            0,
        ),
        ([("a/1.json", None)], "photo is missing", 0),
    ],
)
def test_a_photo_that_may_be_anothers_is_not_taken(tmp_path, places, reason, kept):
    place_pair(tmp_path / "raw", "good/9.json", "good/9.jpg", label(9, boxes={"상의": [TOP]}), RED)
    for image_id, place in enumerate(places):
        place_pair(tmp_path / "raw", *place, label(image_id, boxes={"상의": [TOP]}), GREEN)
    data = prepare(tmp_path)
    labels = [file for file, _ in places if file]
    assert data.manifest["rejected"] == {reason: len(labels) - kept}
    assert len(data.items) == 1 + kept


def test_the_only_photo_of_a_name_is_taken_wherever_it_lies(tmp_path):
    place_pair(tmp_path / "raw", "labels/TL/1.json", "photos/TS/x/1.jpg", label(1, boxes={"상의": [TOP]}), RED)
    place_pair(tmp_path / "raw", "labels/TL/2.json", "photos/TS/y/shop_2.jpg", label(2, boxes={"상의": [TOP]}), GREEN)
    assert colours(prepare(tmp_path)) == {"1_상의": "red", "2_상의": "green"}


def test_a_label_without_an_image_id_has_its_files(tmp_path):
    content = label()
    content["이미지 정보"] |= {"이미지 식별자": None, "이미지 파일명": None}
    for stem in ("11", "12"):
        write_pair(tmp_path / "raw", content, photo(), stem)
    data = prepare(tmp_path)
    assert data.items["item_id"].tolist() == ["11_상의", "11_하의", "12_상의", "12_하의"]


def test_numbers_and_texts_that_nothing_can_hold_cost_their_own_label(tmp_path):
    raw = tmp_path / "raw"
    write_pair(raw, label(1, size=(10**400, 10**400)), photo(), "1")
    write_pair(raw, label(2, boxes={"상의": [{**TOP, "가로": 10**400}]}), photo(), "2")
    write_pair(raw, "[" * 100_000, photo(), "3")
    write_pair(raw, json.dumps(label(4, 상의=[{"색상": "\ud800"}])), photo(), "4")
    data = prepare(tmp_path)
    assert data.items["item_id"].tolist() == ["1_상의", "1_하의", "4_상의", "4_하의"]
    assert data.manifest["rejected"] == {"broken label file": 1, "broken rectangle": 1}


def test_folders_whose_names_are_no_utf_8_do_not_end_the_run(tmp_path):
    """Archives from Korean Windows have names in CP949."""
    folder = tmp_path / "raw" / os.fsdecode("상의".encode("cp949"))
    folder.mkdir(parents=True)
    photo().save(folder / "7.jpg", quality=95)
    (folder / "8.jpg").write_bytes(b"no photo")
    name = os.fsdecode("옷".encode("cp949"))
    photo().save(folder / f"{name}.jpg", quality=95)
    for stem, image_id in (("7", 7), ("8", 8), (name, None)):
        (folder / f"{stem}.json").write_text(json.dumps(label(image_id)), encoding="utf-8")
    data = prepare(tmp_path)
    assert set(data.items["group"]) == {"7", r"\udcbf\udcca"}
    assert data.manifest["rejected"] == {"photo is not a JPEG, PNG or WebP file": 2}


def test_several_garments_of_one_category_have_their_own_ids(tmp_path):
    write_pair(tmp_path / "raw", label(boxes={"상의": [TOP, BOTTOM]}, 상의=[{}, {"색상": "그린"}]), photo())
    data = prepare(tmp_path)
    assert data.items["item_id"].tolist() == ["7_상의", "7_상의_2"]
    assert data.items["attr.colour"].map(list).tolist() == [[], ["그린"]]


@pytest.mark.parametrize("box", [{**TOP, "X좌표": "1"}, {**TOP, "가로": None}, {**TOP, "세로": math.inf}, {}])
def test_a_rectangle_without_numbers_is_an_error(tmp_path, box):
    write_pair(tmp_path / "raw", label(boxes={"상의": [box]}, 상의=[{"색상": "레드"}]))
    with pytest.raises(PreparedError, match="lacks a coordinate"):
        read_label(tmp_path / "raw" / "labels" / "7.json").garments[0].box(400, 400)


def test_a_folder_without_labels_is_an_error(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    assert main(["kfashion", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 2
    assert "no label file" in capsys.readouterr().err


def test_garments_of_one_photo_stay_in_one_part_of_the_split(tmp_path):
    data = prepare(tmp_path, "--synthetic", "60", "--size", "32", "--seed", "3")
    by_photo = data.items.groupby("group")["split"]
    assert by_photo.nunique().max() == 1
    assert np.bincount(by_photo.first()).tolist() == [48, 6, 6]


def test_synthetic_pairs_depend_on_the_seed_alone(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        kfashion_synthetic.generate(tmp_path / name, 4, seed=seed)
    files = {name: sorted((tmp_path / name).rglob("*.*")) for name in "abc"}
    content = {name: [path.read_bytes() for path in paths] for name, paths in files.items()}
    assert content["a"] == content["b"]
    assert content["a"] != content["c"]


def test_a_stopped_run_leaves_no_half_of_the_synthetic_pairs(tmp_path, monkeypatch, capsys):
    def draw_two(image_id, rng):
        if image_id == 100_002:
            raise KeyboardInterrupt
        return draw_pair(image_id, rng)

    draw_pair = kfashion_synthetic.draw_pair
    monkeypatch.setattr(kfashion_synthetic, "draw_pair", draw_two)
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "prepared"), "--synthetic", "4"]
    assert main(["kfashion", *options]) == 130
    assert "unfinished is removed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(set(prepare(tmp_path, "--synthetic", "4").items["group"])) == 4


def test_synthetic_photos_show_what_their_labels_say(tmp_path):
    """The main colour of a plain garment covers most of its rectangle's centre column."""
    kfashion_synthetic.generate(tmp_path, 80, seed=0)
    checked = 0
    for path in sorted((tmp_path / kfashion_synthetic.LABELS_FOLDER).glob("*.json")):
        content = read_label(path)
        skirts = [g for g in content.garments if g.attributes.get("category") == ["스커트"]]
        for garment in skirts:
            if garment.attributes["print"] != ["무지"] or garment.attributes["material"] != ["우븐"]:
                continue
            picture = Image.open(tmp_path / kfashion_synthetic.PHOTOS_FOLDER / f"{path.stem}.jpg")
            left, _, right, bottom = garment.box(content.width, content.height)
            lower = picture.crop(
                (int(left + right) // 2 - 5, int(bottom) - 14, int(left + right) // 2 + 5, int(bottom) - 4)
            )
            assert share_of(lower, kfashion_synthetic.COLOURS[garment.attributes["colour"][0]]) > 0.9
            checked += 1
    assert checked >= 2


def test_synthetic_pairs_never_mix_with_other_files(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(PreparedError, match="not an empty folder"):
        kfashion_synthetic.generate(tmp_path, 1)


@pytest.mark.real_data
def test_the_original_pairs_are_read(tmp_path, real_data):
    out = tmp_path / "out"
    assert main(["kfashion", "--raw", str(real_data("kfashion_sample")), "--out", str(out)]) == 0
    data = open_prepared(out)
    assert data.items["item_id"].tolist() == ["100026_상의", "100026_하의", "1070263_상의", "1070263_하의"]
    assert data.items["attr.neckline"].map(list).tolist() == [["브이넥"], [], [], []]
    assert data.items["attr.sleeve"].map(list).tolist() == [["캡"], [], ["7부소매"], []]
    assert data.manifest["rejected"] == {}
