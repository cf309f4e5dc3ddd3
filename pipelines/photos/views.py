"""The photos of items by view (front, rear): as pixels where they fit into memory, else as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.content import PIXEL_BYTES, PhotoBytes, decode_all
from pipelines.photos.boxes import WHOLE, parse_box
from pipelines.prepared import Prepared
from pipelines.schema import PreparedError


@dataclass
class ViewPhotos:
    """Photos of `N` items in `V` views.

    Attributes:
        present: whether an item has a photo of a view, bool `[N, V]`.
        size: height and width of the pixels.
        pixels: uint8 `[N, V, H, W, 3]`, white where there is no photo; None where photos stay bytes.
        files: the photos' bytes, row `item * V + view`; None where pixels are resident.
        boxes: float32 `[N, V, 4]` to crop the bytes to (see `pipelines.photos.boxes`); None: not at all.
    """

    present: np.ndarray
    size: tuple[int, int]
    pixels: np.ndarray | None = None
    files: PhotoBytes | None = None
    boxes: np.ndarray | None = None

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The photos of item `rows` `[B]`.

        Returns:
            `present` bool `[B, V]`, and `photos` uint8 `[B, V, H, W, 3]` or `photo_files` object `[B, V]`, with
            `boxes` where the bytes are to be cropped.
        """
        if self.pixels is not None:
            return {"present": self.present[rows], "photos": self.pixels[rows]}
        assert self.files is not None
        views = self.present.shape[1]
        flat = (rows[:, None] * views + np.arange(views)).ravel()
        batch = {"present": self.present[rows], "photo_files": self.files.read(flat).reshape(len(rows), views)}
        return batch if self.boxes is None else {**batch, "boxes": self.boxes[rows]}


def read_views(
    prepared: Prepared,
    views: Sequence[str],
    size: tuple[int, int],
    *,
    limit: int = PIXEL_BYTES,
    play: bool = False,
) -> ViewPhotos:
    """Find, and where they fit into memory decode, the photos of all items, cropped where they carry boxes.

    Args:
        prepared: the dataset.
        views: names of views, in order; empty: the first photo of each item, whatever its view.
        size: height and width in pixels.
        limit: most bytes of resident pixels.
        play: keep photos that carry boxes as bytes, so that every batch crops them anew.

    Raises:
        PreparedError: the dataset has no photos, or none of a view.
    """
    if prepared.images is None:
        raise PreparedError(f"{prepared.path} has no photos; prepare a dataset with photos")
    places = [place for _, names in _shown(prepared) for place in _chosen(names, views)]
    count = max(1, len(views))
    images = prepared.items["images"]
    keys = [None if place is None else images[n // count][place] for n, place in enumerate(places)]
    files = PhotoBytes(prepared, keys)
    present = files.present.reshape(-1, count)
    for number, view in enumerate(views):
        if not present[:, number].any():
            known = sorted({name for _, names in _shown(prepared) for name in names})
            raise PreparedError(f"{prepared.path} has no photo of the view {view!r}; its views are {known}")
    boxes = _boxes(prepared, places, count) if "boxes" in prepared.items else None
    if (play and boxes is not None) or len(keys) * size[0] * size[1] * 3 > limit:
        return ViewPhotos(present, size, files=files, boxes=None if boxes is None else boxes.reshape(-1, count, 4))
    pixels = decode_all(files, len(keys), size, boxes=boxes).reshape(-1, count, *size, 3)
    return ViewPhotos(present, size, pixels=pixels)


def _boxes(prepared: Prepared, places: Sequence[int | None], count: int) -> np.ndarray:
    """The box of each item's and view's photo, float32 `[N * V, 4]`; the whole photo where it has none."""
    texts = prepared.items["boxes"]
    boxes = np.tile(np.array(WHOLE, np.float32), (len(places), 1))
    for number, place in enumerate(places):
        if place is not None and len(texts[number // count]):
            boxes[number] = parse_box(texts[number // count][place])
    return boxes


def _shown(prepared: Prepared) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Pairs of an item's image keys and their views."""
    return zip(prepared.items["images"], prepared.items["views"])


def _chosen(names: Sequence[str], views: Sequence[str]) -> list[int | None]:
    """The place of the first photo of each view among an item's photos; None where it has none of it."""
    if not views:
        return [0 if len(names) else None]
    first = {name: place for place, name in reversed(list(enumerate(names)))}
    return [first.get(view) for view in views]
