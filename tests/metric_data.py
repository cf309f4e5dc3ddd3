"""A tiny dataset of two-view items whose class needs both views: 2 front colours x 2 rear colours."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.prepared import PreparedWriter
from pipelines.schema import TEST, TRAIN, VAL

COLOURS = [(160, 110, 110), (110, 110, 160)]


def write_items(path: Path, *, each: int = 12, side: int = 16, seed: int = 0) -> Path:
    """Write `each` items of every class; the last third of a class is test, the one before it validation. The first item
    has no rear photo."""
    rng = np.random.default_rng(seed)
    rows = []
    with PreparedWriter(path, dataset="two-sided") as writer:
        for front in range(2):
            for rear in range(2):
                for number in range(each):
                    item = f"{front}{rear}-{number}"
                    views = ["front"] if not rows else ["front", "rear"]
                    for view in views:
                        writer.images.add(
                            f"{item}-{view}", photo(COLOURS[front if view == "front" else rear], side, rng)
                        )
                    split = TEST if number >= each * 2 // 3 else VAL if number >= each // 2 else TRAIN
                    rows.append(
                        {
                            "item_id": item,
                            "images": [f"{item}-{view}" for view in views],
                            "views": views,
                            "label": f"car {front}{rear}",
                            "attr.front": [f"f{front}"],
                            "split": split,
                        }
                    )
        frame = pd.DataFrame(rows)
        frame["split"] = frame["split"].astype(np.int8)
        writer.items(frame)
    return path


def photo(colour, side, rng) -> bytes:
    """A noisy photo of one colour as PNG bytes, its light at random: the photos that are alike are not of one class."""
    light = rng.uniform(-80, 80)
    pixels = np.clip(np.array(colour) + light + rng.normal(0, 20, (side, side, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
