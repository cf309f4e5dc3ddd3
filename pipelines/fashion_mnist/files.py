"""Reads Fashion-MNIST's gzipped IDX files and writes them as a prepared dataset."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.label_splits import split_labels
from pipelines.prepared import PreparedError, PreparedWriter
from pipelines.schema import TEST

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PARTS = {"train": "train", "test": "t10k"}  # our name -> the files' prefix
IMAGE_MAGIC, LABEL_MAGIC = 2051, 2049


def prepare(
    raw: str | Path,
    out: str | Path,
    *,
    test_share: float,
    val_share: float,
    seed: int,
    overwrite: bool = False,
) -> None:
    """Write the prepared dataset; the test part is `t10k-*` where it is present, else a stratified share.

    Args:
        raw: folder of the `*-ubyte.gz` files.
        out: folder to make.
        test_share: share of the training photos that becomes the test part when there is no other.
        val_share: share of the training photos for validation.
        seed: of both shares.
        overwrite: replace `out`.

    Raises:
        PreparedError: a file is missing or broken, or no photo has a known label.
    """
    raw = Path(raw)
    parts = {"train": read_part(raw, "train")}
    if any(raw.glob("t10k-*-ubyte.gz")):
        parts["test"] = read_part(raw, "test")
    shares: dict[str, Any] = {
        "test_share": 0.0 if "test" in parts else test_share,
        "val_share": val_share,
        "seed": seed,
    }
    with PreparedWriter(out, dataset="fashion_mnist", source=str(raw), options=shares, overwrite=overwrite) as writer:
        rows = [row for part, (pixels, labels) in parts.items() for row in _store(writer, part, pixels, labels)]
        if not rows:
            raise PreparedError(f"{raw} holds no photo with a label in 0..9")
        frame = pd.DataFrame(rows)
        is_test = frame.pop("part").to_numpy() == "test"
        frame["split"] = np.full(len(frame), TEST, np.int8)
        frame.loc[~is_test, "split"] = split_labels(frame["label"][~is_test], kind="stratified", **shares)
        writer.split = {"kind": "given (t10k)" if "test" in parts else "stratified", **shares}
        writer.items(frame)


def read_part(raw: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the photos and labels of one part.

    Args:
        raw: folder of the `*-ubyte.gz` files.
        part: `train` or `test`.

    Returns:
        uint8 `[N, rows, columns]` and uint8 `[N]`.

    Raises:
        PreparedError: a file is missing, cut off, of another kind, or both differ in length.
    """
    images = raw / f"{PARTS[part]}-images-idx3-ubyte.gz"
    labels = raw / f"{PARTS[part]}-labels-idx1-ubyte.gz"
    pixels, classes = read_idx(images, IMAGE_MAGIC), read_idx(labels, LABEL_MAGIC)
    if len(pixels) != len(classes):
        raise PreparedError(
            f"{images} holds {len(pixels)} photos but {labels} {len(classes)} labels; take both from one set"
        )
    return pixels, classes


def read_idx(file: Path, magic: int) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes (big-endian: magic, one size a dimension, the bytes).

    Raises:
        PreparedError: the file is missing, no gzip, of another magic number, or not as long as its header
            says.
    """
    try:
        content = gzip.decompress(file.read_bytes())
    except FileNotFoundError:
        raise PreparedError(f"{file} is missing; --raw must be the folder of Fashion-MNIST's .gz files") from None
    except (OSError, EOFError, zlib.error) as error:
        raise PreparedError(f"{file} is not a whole gzip file ({error}); download it again") from error
    dims = magic & 0xFF
    start = content[: 4 * (dims + 1)]
    header = np.frombuffer(start.ljust(4 * (dims + 1), b"\0"), ">u4")
    if len(start) < 4 * (dims + 1) or header[0] != magic:
        raise PreparedError(
            f"{file} starts with the bytes {start[:4].hex(' ')}, expected {magic.to_bytes(4).hex(' ')} and {dims} sizes; is "
            "it the right file?"
        )
    shape = tuple(int(size) for size in header[1:])
    data = np.frombuffer(content, np.uint8, offset=4 * (dims + 1))
    if len(data) != np.prod(shape, dtype=np.int64):
        raise PreparedError(f"{file} says {shape} but holds {len(data)} bytes of data; download it again")
    return data.reshape(shape)


def _store(writer: PreparedWriter, part: str, pixels: np.ndarray, labels: np.ndarray) -> list[dict]:
    """Store a part's photos; returns its rows of the items table."""
    rows = []
    for number, (photo, label) in enumerate(zip(pixels, labels)):
        if label >= len(CLASSES):
            file = f"{PARTS[part]}-labels-idx1-ubyte.gz"
            writer.reject(file=file, row=number + 1, field="label", value=label, reason="label is not 0..9")
            continue
        key = f"{part}-{number:05d}"
        encoded = io.BytesIO()
        Image.fromarray(photo).save(encoded, "JPEG", quality=100)  # 28 pixels: compression would cost detail
        writer.images.add(key, encoded.getvalue())
        name = CLASSES[label]
        rows.append({"item_id": key, "title": name, "images": [key], "label": name, "part": part})
    return rows
