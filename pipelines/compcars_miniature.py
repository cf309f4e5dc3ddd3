"""Draw a miniature of CompCars (Yang et al., CVPR 2015) in the dataset's own folders and label files.

CompCars itself is available on request only; the miniature has its layout, so the same pipeline and recipes run on it:

    image/<make id>/<model id>/<year>/<photo>.jpg
    label/<make id>/<model id>/<year>/<photo>.txt    line 1 viewpoint, line 2 number of boxes, line 3 x1 y1 x2 y2
    misc/attributes.txt                              model_id maximum_speed displacement door_number seat_number type

Within a make, models 1 and 2 share their front and differ at the rear; models 1 and 3 share their rear and differ at
the front. So one view alone cannot distinguish all models, and both together can.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from pipelines.arguments import SEED, whole_number
from pipelines.publish import filled_whole, is_free

YEARS = (2011, 2014)
VIEWPOINTS = {1: "front", 2: "rear"}
MODELS_PER_MAKE = 4  # two fronts x two rears
MAX_MAKES = 8  # lamp shapes
TYPES = (1, 2, 3, 4, 6, 8)  # of CompCars's twelve: MPV, SUV, sedan, hatchback, fastback, pickup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this generator's options."""
    parser.add_argument("--raw", required=True, help="the folder to make, in CompCars's layout")
    parser.add_argument(
        "--makes", type=whole_number(1, MAX_MAKES), default=5, help="makes with 4 models each (default 5)"
    )
    parser.add_argument(
        "--photos", type=whole_number(1), default=10, help="photos per view, model and year (default 10)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of everything random (default 0)")


def run(args: argparse.Namespace) -> None:
    """Draw the miniature that `args` describes (`--raw`)."""
    count = generate(args.raw, makes=args.makes, photos=args.photos, seed=args.seed)
    print(f"{args.raw}: {count} photos of {args.makes * MODELS_PER_MAKE} models")


def generate(raw: str | Path, *, makes: int = 5, photos: int = 10, seed: int = 0) -> int:
    """Draw a miniature; equal arguments give equal bytes.

    Two photos of the first model lie under the year `unknown` and one label has a broken box, as in the
    original, so that a reader's rejections show.

    Args:
        raw: folder to make; it must be absent or empty. It appears whole or not at all.
        makes: how many makes, each with four models.
        photos: photos per view, model and year.
        seed: of everything random.

    Returns:
        How many photos were drawn.

    Raises:
        PreparedError: `raw` is not an empty folder, or a count is out of range.
    """
    from pipelines.schema import PreparedError  # here, so that --help need not wait for pandas

    raw = Path(raw)
    if not is_free(raw):
        raise PreparedError(f"{raw} is not an empty folder; give --raw a new folder for the miniature")
    if not (1 <= makes <= MAX_MAKES and photos >= 1):
        raise PreparedError(f"--makes {makes} must be 1..{MAX_MAKES} and --photos {photos} at least 1")
    shots = [
        (make, model, str(year), viewpoint, number)
        for make in range(makes)
        for model in range(MODELS_PER_MAKE)
        for year in YEARS
        for viewpoint in VIEWPOINTS
        for number in range(photos)
    ]
    shots += [(0, 0, "unknown", viewpoint, 0) for viewpoint in VIEWPOINTS]
    with filled_whole(raw.absolute()) as folder:
        for shot in shots:
            _draw_shot(folder, shot, seed)
        _break_one_box(folder)
        _write_attributes(folder, makes)
    return len(shots)


def _draw_shot(raw: Path, shot: tuple[int, int, str, int, int], seed: int) -> None:
    """Write one photo and its label; its randomness depends on nothing but itself and the seed."""
    import numpy as np

    from pipelines.compcars.drawing import draw_car

    make, model, year, viewpoint, _ = shot
    name = hashlib.sha256(repr((seed, *shot)).encode()).hexdigest()[:14]
    rng = np.random.default_rng(int(name, 16))
    front, rear = divmod(model, 2)
    photo, box = draw_car(make, style=front if viewpoint == 1 else rear, front=viewpoint == 1, rng=rng)
    place = Path(str(make + 1)) / str(make * MODELS_PER_MAKE + model + 1) / year
    image, label = raw / "image" / place / f"{name}.jpg", raw / "label" / place / f"{name}.txt"
    image.parent.mkdir(parents=True, exist_ok=True)
    label.parent.mkdir(parents=True, exist_ok=True)
    photo.save(image, quality=88)
    label.write_text(f"{viewpoint}\n1\n{' '.join(map(str, box))}\n", encoding="ascii")


def _break_one_box(raw: Path) -> None:
    """Turn the corners of the last label's box around."""
    label = sorted((raw / "label").rglob("*.txt"))[-1]
    viewpoint, boxes, box = label.read_text(encoding="ascii").split("\n")[:3]
    x1, y1, x2, y2 = box.split()
    label.write_text(f"{viewpoint}\n{boxes}\n{x2} {y2} {x1} {y1}\n", encoding="ascii")


def _write_attributes(raw: Path, makes: int) -> None:
    """CompCars's table of model attributes; the type belongs to the make, so it gives no model away."""
    lines = ["model_id maximum_speed displacement door_number seat_number type"]
    for model in range(makes * MODELS_PER_MAKE):
        kind = TYPES[(model // MODELS_PER_MAKE) % len(TYPES)]
        lines.append(f"{model + 1} {170 + 5 * (model % 7)} {1.4 + 0.2 * (model % 5):.1f} 4 5 {kind}")
    (raw / "misc").mkdir(parents=True, exist_ok=True)
    (raw / "misc" / "attributes.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
