"""The JSON labels of AI Hub's K-Fashion: one file a photo, its garments by category, each with a rectangle.

    이미지 정보 (image)
        이미지 식별자 (id), 이미지 높이 (height), 이미지 너비 (width), 이미지 파일명 (file name)
    데이터셋 정보 (data) -> 데이터셋 상세설명 (detail)
        렉트좌표 (rectangles), 폴리곤좌표 (polygons), 라벨링 (labels)

The last three hold one list per garment category, and `라벨링` also the `스타일` (style) of the whole outfit.
A garment that is not in the photo is `[{}]`. Values are strings or lists of strings.
"""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.printable import printable
from pipelines.schema import PreparedError

CATEGORIES = ("상의", "하의", "아우터", "원피스")  # top, bottom, outerwear, dress
STYLE = "스타일"
FIELDS = {
    "카테고리": "category",
    "스타일": "style",
    "서브스타일": "style",
    "색상": "colour",
    "서브색상": "colour",
    "핏": "fit",  # the silhouette
    "소재": "material",
    "디테일": "detail",
    "프린트": "print",
    "넥라인": "neckline",
    "옷깃": "collar",
    "소매기장": "sleeve",
    "기장": "length",
}
ATTRIBUTES = ("garment", *dict.fromkeys(FIELDS.values()))


@dataclass(frozen=True)
class Garment:
    """One garment of a photo.

    Attributes:
        category: one of `CATEGORIES`.
        number: its place among the photo's garments of that category, from 0.
        rectangle: the raw rectangle, checked by `box`.
        attributes: field of `ATTRIBUTES` -> values, without repeats.
    """

    category: str
    number: int
    rectangle: dict[str, Any]
    attributes: dict[str, list[str]]

    def box(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Return `(left, top, right, bottom)`, cut at the edges of a photo of this size.

        Raises:
            PreparedError: a coordinate is missing or no number, or the rectangle lies outside the photo.
        """
        values = [self.rectangle.get(name) for name in ("X좌표", "Y좌표", "가로", "세로")]
        numbers = [_number(value) for value in values]
        if any(map(math.isnan, numbers)):
            raise PreparedError(f"rectangle {self.rectangle} of {self.category} lacks a coordinate")
        x, y, wide, high = numbers
        box = (max(x, 0.0), max(y, 0.0), min(x + wide, width), min(y + high, height))
        if wide <= 0 or high <= 0 or box[2] - box[0] < 1 or box[3] - box[1] < 1:
            raise PreparedError(f"rectangle {self.rectangle} of {self.category} covers no part of {width}x{height}")
        return box


@dataclass(frozen=True)
class Label:
    """One label file: the photo it belongs to, and the photo's garments."""

    image_id: str
    file_name: str
    width: float
    height: float
    garments: list[Garment]
    unknown: list[str]  # label keys that FIELDS does not know


def read_label(path: Path) -> Label:
    """Read one label file.

    Raises:
        PreparedError: not JSON, or not in the layout described above; the message names the part.
    """
    try:
        text = unicodedata.normalize("NFC", path.read_text(encoding="utf-8-sig"))  # macOS may store letters in parts
        root = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # the last of lists in lists in lists
        raise PreparedError(f"{path} is not valid JSON ({error})") from error
    image = _part(path, root, "이미지 정보", dict)
    detail = _part(path, _part(path, root, "데이터셋 정보", dict), "데이터셋 상세설명", dict)
    rectangles, labels = _part(path, detail, "렉트좌표", dict), _part(path, detail, "라벨링", dict)
    image_id = _text(image.get("이미지 식별자")) or printable(path.stem)
    styles, unknown = _attributes(labels.get(STYLE))
    garments = []
    for category in CATEGORIES:
        boxes, described = _dicts(rectangles.get(category)), _dicts(labels.get(category))
        for number in range(max(len(boxes), len(described))):
            rectangle = boxes[number] if number < len(boxes) else {}
            values = described[number] if number < len(described) else {}
            if not rectangle and not values:
                continue  # `[{}]`: the photo shows no such garment
            own, extra = _attributes([values])
            unknown += extra
            garments.append(Garment(category, number, rectangle, {"garment": [category], **styles, **own}))
    size = [_number(image.get(name)) for name in ("이미지 너비", "이미지 높이")]
    width, height = (side if side > 0 else math.nan for side in size)
    return Label(image_id, _text(image.get("이미지 파일명")), width, height, garments, unknown)


def _attributes(entries: Any) -> tuple[dict[str, list[str]], list[str]]:
    """Merge label entries into field -> values; also return the keys that no field is known for."""
    fields: dict[str, dict[str, None]] = {}
    unknown = []
    for key, value in [pair for entry in _dicts(entries) for pair in entry.items()]:
        if key not in FIELDS:
            unknown.append(printable(key))
            continue
        values = value if isinstance(value, list) else [value]
        texts = [_text(text) for text in values]
        fields.setdefault(FIELDS[key], {}).update(dict.fromkeys(text for text in texts if text))
    return {field: list(values) for field, values in fields.items() if values}, unknown


def _text(value: Any) -> str:
    """A string or number as text; "" for what is neither."""
    return printable(value).strip() if isinstance(value, str | int | float) else ""


def _number(value: Any) -> float:
    """A finite number; NaN for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # JSON's whole numbers have no bounds
        return math.nan
    return number if math.isfinite(number) else math.nan


def _dicts(entries: Any) -> list[dict[str, Any]]:
    """The entries of a garment's list; anything malformed in it counts as `{}`, absent."""
    if isinstance(entries, dict):
        return [entries]
    return [entry if isinstance(entry, dict) else {} for entry in entries] if isinstance(entries, list) else []


def _part(path: Path, holder: Any, key: str, kind: type) -> Any:
    found = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(found, kind):
        raise PreparedError(f"{path}: '{key}' is missing or no {kind.__name__}; not a K-Fashion label file")
    return found
