"""Shop photos -> checked, antialiased, small JPEGs, stored; against how tutorials and how fast scripts do it.

    python -m benchmarks.photos

`tfrec` checks every photo and writes the image store. `Pillow draft` scales in the JPEG decoder, resizes, and writes
one file a photo, on as many threads as there are cores, without a check. `DataLoader` decodes at full size, resizes
and makes tensors in as many worker processes as there are cores, as tutorials do before every epoch.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.measure import Rate, add_json, leads, machine, measure, table, write_ratios

WIDTH, HEIGHT, SIZE = 1166, 1750, 256  # H&M's photos, and ours
DISTINCT = 16  # photos drawn; the others are copies of them


def main(arguments: list[str] | None = None) -> dict:
    """Draw the photos, time the contenders, print the table; returns the leads over the others."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender (default: 3)")
    add_json(parser)
    args = parser.parse_args(arguments)
    contenders: dict[str, Callable] = {"tfrec": store_with_tfrec, "Pillow draft": store_with_draft}
    if importlib.util.find_spec("torch"):
        contenders["DataLoader"] = load_with_torch
    with tempfile.TemporaryDirectory() as folder:
        draw_photos(Path(folder, "raw"), args.photos)
        runs = measure(contenders, Path(folder), repeats=args.repeats)
    if len({measured.result for measured in runs.values()}) > 1:
        raise RuntimeError(f"contenders differ: { {name: measured.result for name, measured in runs.items()} }")
    print(f"{args.photos:,} photos of {WIDTH}x{HEIGHT} on {machine()}\n")
    print(table(runs, units=args.photos, unit="photos"))
    ratios = leads("photos", runs, {"DataLoader": 3.5, "Pillow draft": 0.95})
    write_ratios(args.json, ratios, [Rate("photos", "photos", args.photos / runs["tfrec"].median)])
    lead = {ratio.against: ratio.ratio for ratio in ratios}
    return {"lead": lead, "seconds": runs["tfrec"].median}


def draw_photos(folder: Path, photos: int) -> None:
    """Draw garment-like photos (a soft shape with a fabric's grain on a pale ground; about 250 kB each)."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[-1:1:HEIGHT * 1j, -1:1:WIDTH * 1j]  # fmt: skip
    encoded = []
    for number in range(DISTINCT):
        inside = 1 / (1 + np.exp(30 * (np.abs(column) ** (2 + number % 3) + (row * 0.8) ** 4 - 0.5)))
        grain = rng.normal(0, 6, (HEIGHT, WIDTH)) + 20 * np.sin(row * 40 * (1 + number % 5))
        fabric = rng.integers(20, 235, 3) + grain[..., None]
        picture = inside[..., None] * fabric + (1 - inside[..., None]) * 238
        path = folder / f"drawn-{number}.jpg"
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=88)
        encoded.append(path.read_bytes())
        path.unlink()
    for number in range(photos):
        (folder / f"{number:010d}.jpg").write_bytes(encoded[number % DISTINCT])


def store_with_tfrec(folder: Path) -> Callable[[], int]:
    """The checks, the resize and the image store of `python -m pipelines hm`."""
    from pipelines.photos.images import find_photos, store_photos
    from pipelines.prepared import PreparedWriter

    def work() -> int:
        paths = {path.stem: path for path in find_photos(folder / "raw")}
        with PreparedWriter(folder / "tfrec", dataset="photos", overwrite=True) as writer:
            stored = store_photos(paths, writer=writer, size=SIZE)
            writer.items(pd.DataFrame({"item_id": list(paths), "images": [[key] for key in paths]}))
        return len(stored)

    return work


def store_with_draft(folder: Path) -> Callable[[], int]:
    """Scaled decoding on threads, nothing checked."""
    out = folder / "draft"
    out.mkdir(exist_ok=True)

    def shrink(path: Path) -> None:
        with Image.open(path) as photo:
            photo.draft("RGB", (SIZE * WIDTH // HEIGHT, SIZE))
            photo.resize((round(SIZE * WIDTH / HEIGHT), SIZE), Image.Resampling.BICUBIC).save(
                out / path.name, quality=90
            )

    def work() -> int:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return len(list(pool.map(shrink, sorted((folder / "raw").iterdir()))))

    return work


def load_with_torch(folder: Path) -> Callable[[], int]:
    """A Dataset that opens, converts and resizes, behind a DataLoader with a worker a core."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Photos(Dataset):
        def __init__(self) -> None:
            self.paths = sorted((folder / "raw").iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, row: int) -> torch.Tensor:
            photo = Image.open(self.paths[row]).convert("RGB")
            photo = photo.resize((round(SIZE * WIDTH / HEIGHT), SIZE), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255

    def work() -> int:
        workers = len(os.sched_getaffinity(0))
        batches = DataLoader(Photos(), batch_size=32, num_workers=workers, multiprocessing_context="fork")
        return sum(len(batch) for batch in batches)

    return work


if __name__ == "__main__":
    main()
