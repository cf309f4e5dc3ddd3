"""Photos as shops really deliver them: odd modes, wrong names, broken and hostile files."""

import contextlib
import io
import struct

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from pipelines.photos.images import PhotoError, find_photos, shrink_photo, store_photos, with_known_ending
from pipelines.prepared import PreparedWriter, open_prepared

TRUNCATED = "photo is truncated or damaged"


def encoded(image, kind="JPEG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decoded(data):
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def halves(size=(600, 800), mode="RGB"):
    """A picture whose upper half is red and whose lower half is blue."""
    image = Image.new("RGB", size, "blue")
    image.paste((255, 0, 0), (0, 0, size[0], size[1] // 2))
    return image.convert(mode)


def is_red_over_blue(image):
    top, bottom = (np.array(image.getpixel((image.width // 2, row))) for row in (5, image.height - 6))
    return np.abs(top - (255, 0, 0)).max() < 40 and np.abs(bottom - (0, 0, 255)).max() < 40


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1166, 1750), (171, 256)),
        ((1750, 1166), (256, 171)),
        ((160, 240), (160, 240)),
        ((2000, 3), (256, 1)),
        ((256, 256), (256, 256)),
        ((1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_photo_fits_the_box_keeps_its_proportions_and_is_never_enlarged(size, expected, kind):
    assert decoded(shrink_photo(encoded(Image.new("RGB", size), kind), size=256)).size == expected


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP")],
)
def test_every_mode_and_format_becomes_rgb_of_the_same_colours(mode, kind):
    assert is_red_over_blue(decoded(shrink_photo(encoded(halves(mode=mode), kind), size=64)))


def test_grey_photos_keep_their_brightness():
    for data in (
        encoded(Image.new("L", (500, 500), 90)),
        encoded(Image.fromarray(np.full((500, 500), 90 * 256, np.uint16)), "PNG"),
    ):
        pixels = np.asarray(decoded(shrink_photo(data, size=64))).astype(int)
        assert np.abs(pixels - 90).max() <= 2


def test_transparent_parts_become_white():
    clear = encoded(Image.new("RGBA", (300, 300), (0, 0, 0, 0)), "PNG")
    assert np.asarray(decoded(shrink_photo(clear, size=64))).min() > 250


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_is_turned_upright_by_its_exif_note(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = halves() if orientation == 1 else halves().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decoded(shrink_photo(encoded(stored, exif=exif), size=200))
    assert image.size == (150, 200)
    assert is_red_over_blue(image)
    assert not image.getexif()


def test_shrinking_is_antialiased():
    board = Image.fromarray((np.indices((1024, 1024)).sum(axis=0) % 2 * 255).astype(np.uint8))
    for kind in ("PNG", "JPEG"):
        pixels = np.asarray(decoded(shrink_photo(encoded(board, kind), size=100))).astype(int)
        assert np.abs(pixels - 127).max() < 12  # sampling single pixels would give black and white


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "photo is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "photo is not a JPEG, PNG or WebP file"),
        (encoded(halves(), "BMP"), "photo is not a JPEG, PNG or WebP file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "photo is not a JPEG, PNG or WebP file"),
        (b"\xff\xd8\xff\xe0", "photo is not a JPEG, PNG or WebP file"),
    ],
)
def test_what_is_no_photo_is_refused_with_a_reason(data, reason):
    with pytest.raises(PhotoError, match=reason):
        shrink_photo(data, size=64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_photos_are_refused(kind, share):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(PhotoError, match=TRUNCATED):
        shrink_photo(data[: int(share * len(data))], size=64)


def test_damaged_bytes_never_escape_as_another_error():
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = np.frombuffer(encoded(halves((90, 120)), kind), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            with contextlib.suppress(PhotoError):
                decoded(shrink_photo(data.tobytes(), size=64))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_by_their_header(monkeypatch):
    bomb = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    assert len(bomb) < 500_000

    def decode(self):
        raise AssertionError("the bomb was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    for size in (bomb, encoded(Image.new("1", (20_000, 20_000)), "PNG")):
        with pytest.raises(PhotoError, match="photo has more than 50,000,000 pixels"):
            shrink_photo(size, size=64)


@pytest.mark.parametrize("threads", [1, 4])
def test_store_keeps_order_and_rejects_what_is_broken(tmp_path, threads):
    folder = tmp_path / "photos"
    for row in range(40):
        path = folder / f"{row % 3:03d}" / f"{row:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.new("RGB", (64 + row, 80), (row, 0, 0)), "PNG" if row % 2 else "JPEG"))
    (folder / "000" / "003.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("no photo")
    paths = {path.stem: path for path in find_photos(folder)}
    assert len(paths) == 40
    paths["gone"] = folder / "gone.jpg"
    with PreparedWriter(tmp_path / "out", dataset="test") as writer:
        stored = store_photos(paths, writer=writer, size=32, threads=threads)
        writer.items(pd.DataFrame({"item_id": list(paths), "images": [[k] if k in stored else [] for k in paths]}))
    data = open_prepared(tmp_path / "out")
    assert data.images.keys == [key for key in paths if key not in ("003", "gone")]
    assert [decoded(data.images.read(key)).size for key in ("000", "039")] == [(26, 32), (32, 25)]
    rejected = pd.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert rejected.to_dict("records") == [
        {"file": "000/003.jpg", "row": 0, "field": "image", "value": "003", "reason": rejected.reason[0]},
        {
            "file": "photos/gone.jpg",
            "row": 0,
            "field": "image",
            "value": "gone",
            "reason": "photo is missing",
        },
    ]
    assert "not a JPEG" in rejected.reason[0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about the note
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "note", [b"no TIFF at all", b"II*\0", struct.pack("<4sIHHHII", b"II*\0", 8, 9, 0x0112, 12, 3, 70_000)]
)
def test_a_broken_note_is_no_reason_to_reject_a_photo(kind, note):
    data = encoded(halves(), kind, exif=b"Exif\0\0" + note)
    assert is_red_over_blue(decoded(shrink_photo(data, size=64)))


def test_a_comment_that_no_jpeg_can_hold_is_left_behind():
    assert "comment" not in decoded(shrink_photo(encoded(halves(), comment=b"by me"), size=64)).info
    text = PngInfo()
    text.add_text("comment", "c" * 70_000)
    image = decoded(shrink_photo(encoded(halves(), "PNG", pnginfo=text), size=10_000))
    assert "comment" not in image.info
    assert is_red_over_blue(image)


def test_photos_behind_links_are_found_once(tmp_path):
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for name in ("disk/1.JPG", "disk/a/2.webp", "disk/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "photos" / "twice").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "a" / "back").symlink_to(tmp_path / "photos")
    found = [path.relative_to(tmp_path).as_posix() for path in find_photos(tmp_path / "photos")]
    assert found == ["photos/linked/1.JPG", "photos/linked/a/2.webp"]


def test_a_photo_may_have_another_ending_than_its_name(tmp_path):
    (tmp_path / "1.PNG").write_bytes(b"x")
    (tmp_path / "2.txt").write_bytes(b"x")
    assert with_known_ending(tmp_path / "1.jpg") == tmp_path / "1.PNG"
    assert with_known_ending(tmp_path / "2.jpg") is None
    assert with_known_ending(tmp_path / "none" / "1.jpg") is None
