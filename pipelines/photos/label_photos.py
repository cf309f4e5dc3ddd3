"""Which photo belongs to a label file, where both lie at any depth of one folder and belong together by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from pipelines.photos.images import PhotoError

Folders = tuple[str, ...]


class LabelPhotos:
    """Finds the photos of label files.

    Args:
        photos: all photos, in order; of those in one folder whose names differ by their ending alone the first counts.
        labels: all label files.
    """

    def __init__(self, photos: Iterable[Path], labels: Iterable[Path]):
        self._photos: dict[str, dict[Folders, Path]] = defaultdict(dict)
        for photo in photos:
            self._photos[photo.stem].setdefault(photo.parent.parts, photo)
        self._labels: dict[str, set[Folders]] = defaultdict(set)
        for label in labels:
            self._labels[label.stem].add(label.parent.parts)

    def find(self, label: Path, named: str = "") -> Path:
        """The photo beside the label; else the one at the same place below the folder of photos; else the only one.

        Args:
            label: the label file.
            named: the photo's file name by the label, looked for where no photo has the label's own name.

        Raises:
            PhotoError: there is none, or it cannot be told whose photo it is.
        """
        stem = next((stem for stem in (label.stem, Path(named).stem) if stem in self._photos), None)
        if stem is None:
            raise PhotoError("photo is missing")
        own = label.parent.parts
        photos, labels = self._photos[stem], self._labels[stem] | {own}
        if own in photos:
            return photos[own]
        free, waiting = photos.keys() - labels, labels - photos.keys()  # what stands beside each other is settled
        parallel = [place for place in free if _is_parallel(place, own)]
        if len(parallel) == 1 and sum(_is_parallel(parallel[0], other) for other in waiting) == 1:
            return photos[parallel[0]]
        if len(free) == len(waiting) == 1:
            return photos[free.pop()]
        raise PhotoError("several labels or photos have this name" if free else "photo is missing")


def _is_parallel(some: Folders, others: Folders) -> bool:
    """Whether two folders differ in one on the way, as `photos/dress` and `labels/dress`, or `dress` and `labels/dress`."""
    first = _in_common(some, others)
    last = _in_common(some[first:][::-1], others[first:][::-1])
    longest = max(len(some), len(others))
    return first + last == longest - 1 and (last > 0 or len(some) == len(others))


def _in_common(some: Folders, others: Folders) -> int:
    """How many of their first parts are the same."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(some, others))))
