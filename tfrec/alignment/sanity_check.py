"""The alignment system's whole way on drawn outfits, with what must hold checked at the end."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tfrec.alignment.system import AlignmentAssembly

log = logging.getLogger("tfrec")

OUTFITS = 240
OPTIONS = [
    *("--model.image.size=[48,48]", "--model.image.patch=8", "--model.image.dim=96", "--model.image.layers=2"),
    *("--model.image.heads=4", "--model.image.weights=null", "--training.epochs=25", "--training.batch_size=64"),
    *("--task.stage1_epochs=3", "--training.precision=float32"),
]


class SanityError(ValueError):
    """Something that must hold does not."""


def run_sanity_check() -> None:
    """Draw outfits, prepare, train both stages on a random frozen encoder, evaluate, and check.

    Raises:
        SanityError: a check failed; the message names it.
    """
    from tfrec.alignment import system as alignment
    from tfrec.alignment.config import AlignmentConfig
    from tfrec.config import parse_config, read_yaml, recipe_path, save_config

    with tempfile.TemporaryDirectory(prefix="tfrec-sanity-") as folder:
        data, run_dir = draw(Path(folder)), Path(folder) / "run"
        layer = read_yaml(recipe_path("kfashion"))
        system = layer.pop("system")
        config, _ = parse_config(
            system, [layer, {"recipe": "kfashion"}], [*OPTIONS, f"--data={data}", f"--out={run_dir}"]
        )
        assert isinstance(config, AlignmentConfig)  # the recipe's system says so
        run_dir.mkdir()
        save_config(config, run_dir / "config.yaml")
        alignment.train(config, run_dir)
        metrics = alignment.evaluate(run_dir)
        for name, holds in checks(alignment.AlignmentAssembly.make(config, run_dir), metrics).items():
            log.info("%s  %s", "ok    " if holds else "FAILED", name)
            if not holds:
                raise SanityError(f"sanity check: {name}: does not hold")


def draw(folder: Path) -> Path:
    """A prepared dataset of drawn outfits.

    Raises:
        SanityError: it could not be made.
    """
    from pipelines.__main__ import main

    arguments = ["kfashion", "--raw", str(folder / "raw"), "--out", str(folder / "data"), "--synthetic", str(OUTFITS)]
    if main(arguments):
        raise SanityError("sanity check: the drawn outfits could not be prepared; see the message above")
    return folder / "data"


def checks(assembly: AlignmentAssembly, metrics: dict) -> dict[str, bool]:
    """What must hold of a trained run: its name -> whether it does. `assembly` still has untrained weights."""
    from tfrec.alignment.system import image_side
    from tfrec.features.store import SideStore
    from tfrec.training.trainer import restore_weights

    run_dir = Path(assembly.config.out)
    untrained = assembly.vectors(assembly.rows("test"))[0]
    restore_weights(assembly.model, run_dir)
    attributes, photos = assembly.vectors(assembly.rows("test"))
    model, chance = metrics["metrics"]["photo_top@5"], metrics["baselines"]["chance"]["photo_top@5"]
    made_by = SideStore(run_dir / "features" / "image").manifest["digest"]
    return {
        "both sides have 512 values": attributes.shape[1] == photos.shape[1] == 512,
        "vectors have unit length": bool(
            np.allclose(np.linalg.norm(attributes, axis=1), 1, atol=1e-4)
            and np.allclose(np.linalg.norm(photos, axis=1), 1, atol=1e-4)
        ),
        "training moved the attribute encoder": not np.allclose(untrained, attributes, atol=1e-3),
        "the image encoder is as it was": image_side(assembly.config).digest == assembly.side.digest == made_by,
        "attributes find their photo more often than chance": model["low"] > chance["value"],
    }
