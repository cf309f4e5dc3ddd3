"""Measure the quality of an encoder's vectors after each of its layers.

    python -m tfrec.layer_study --weights hf://openai/clip-vit-base-patch32 --side image \\
        --data PREPARED --field label --out DIR

One pass yields the tokens after every block. They are pooled, and a linear probe and nearest neighbours predict the
field's values of held-out items. Writes layers.csv, layers.json, a chart and report.html.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.arguments import SEED, whole_number
from pipelines.progress import Progress
from pipelines.remote import local_path, location
from pipelines.schema import TEST, TRAIN
from tfrec.errors import LayersError
from tfrec.evaluation.labels import item_labels, item_splits
from tfrec.sampling import sample_rows

if TYPE_CHECKING:
    import tensorflow as tf

    from pipelines.prepared import Prepared
    from tfrec.encoders.sides import ImageSide, TextSide

log = logging.getLogger("tfrec")

BATCH = 32
HELD_SHARE = 0.2
NEIGHBOURS = 5
STRENGTHS = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 failed, 2 wrong options or data."""
    from pipelines.command import run_command

    options = _parser().parse_args(arguments)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Encode by layer, probe each layer, write the results."""
    from pipelines.prepared import open_prepared
    from tfrec.encoders.sides import load_image_side, load_text_side, text_length

    prepared = open_prepared(options.data)
    items, labels = labelled_items(prepared, options.field, options.side, options.max_items, options.seed)
    if options.side == "text":
        text = load_text_side(options.weights, length=text_length(options.weights, options.length))
        layers = text_layers(text, prepared.items["text"].to_numpy()[items])
    else:
        layers = image_layers(load_image_side(options.weights, size=options.size), prepared, items)
    train, test = split_items(prepared, items, labels, options.seed)
    rows = []
    for number, vectors in enumerate(layers):
        rows.append({"layer": number, **probe(vectors, labels, train, test, seed=options.seed)})
        log.info(
            "layer %2d  linear probe %.4f  nearest neighbours %.4f", number, rows[-1]["probe"], rows[-1]["neighbours"]
        )
    most = np.bincount(labels[train]).argmax()
    about = {
        "weights": str(options.weights),
        "side": options.side,
        "data": str(options.data),
        "field": options.field,
        "values": int(labels.max()) + 1,
        "training_items": len(train),
        "test_items": len(test),
        "most_frequent": float((labels[test] == most).mean()),
    }
    write_study(options.out, about, rows)
    log.info("done: %s", options.out / "report.html")
    return 0


def labelled_items(prepared: Prepared, field: str, side: str, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items that have the content of `side` and a value of `field` that at least five of them share.

    Args:
        prepared: the dataset.
        field: `label`, or an attribute, whose first value counts.
        side: `text` or `image`.
        most: a seeded sample of so many items is used where there are more; 0: all.
        seed: of the sample.

    Returns:
        Rows of the items table `[M]`, rising, and their labels int `[M]`.

    Raises:
        ConfigError: there is no such field.
        LayersError: fewer than two of its values are frequent enough.
    """
    frame = prepared.items
    values = item_labels(frame, field, option="--field")
    content = [bool(x) for x in frame["text"]] if side == "text" else [len(keys) > 0 for keys in frame["images"]]
    usable = sample_rows(np.flatnonzero((values != "") & content), most or None, seed)
    _, codes, counts = np.unique(values[usable], return_inverse=True, return_counts=True)
    frequent = counts[codes] >= NEIGHBOURS
    if len(set(codes[frequent])) < 2:
        raise LayersError(f"--field {field}: fewer than two values occur {NEIGHBOURS} times among items with {side}")
    return usable[frequent], np.unique(codes[frequent], return_inverse=True)[1]


def split_items(prepared: Prepared, items: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places among `items` to learn from, and places held out: the dataset's own split, else a seeded fifth held out (where
    it has no split, or no value in training that a test item has, as in class-disjoint ones).
    """
    part = item_splits(prepared.items)[items]
    train, test = np.flatnonzero(part == TRAIN), np.flatnonzero(part == TEST)
    if np.isin(labels[test], labels[train]).any():
        return train, test
    order = np.random.default_rng(seed).permutation(len(labels))
    held = round(len(order) * HELD_SHARE)
    return np.sort(order[held:]), np.sort(order[:held])


def text_layers(side: TextSide, texts: np.ndarray) -> list[np.ndarray]:
    """Mean token of each text before the first and after every block: float32 `[M, D]` each."""
    import tensorflow as tf

    def pooled(ids: tf.Tensor) -> list[tf.Tensor]:
        mask = tf.cast(side.encoder.mask(ids), tf.float32)[..., None]
        states = [tf.cast(tokens, tf.float32) for tokens in side.encoder.layer_tokens(ids)]
        return [tf.reduce_sum(tokens * mask, 1) / tf.maximum(tf.reduce_sum(mask, 1), 1.0) for tokens in states]

    run = tf.function(pooled, autograph=False, reduce_retracing=True)
    batches = (side.tokenizer(list(texts[i : i + BATCH])) for i in range(0, len(texts), BATCH))
    return gather_layers((run(ids) for ids in batches), len(texts), "text")


def image_layers(side: ImageSide, prepared: Prepared, items: np.ndarray) -> list[np.ndarray]:
    """Mean patch and class token of each photo, end to end, before the first and after every block: `[M, 2 D]` each.

    Raises:
        LayersError: the encoder has no tokens by layer (ResNet).
    """
    import tensorflow as tf

    from pipelines.batches import make_dataset
    from pipelines.content import PhotoBytes

    if not hasattr(side.encoder, "layer_tokens"):
        raise LayersError(
            f"{side.source}: {type(side.encoder).__name__} has no tokens by layer; take a ViT, CLIP or DINOv2"
        )
    photos, size = PhotoBytes(prepared), side.encoder.size

    def pooled(pixels: tf.Tensor) -> list[tf.Tensor]:
        states = [tf.cast(tokens, tf.float32) for tokens in side.encoder.layer_tokens(pixels)]
        return [tf.concat([tokens[:, 0], tf.reduce_mean(tokens[:, 1:], 1)], -1) for tokens in states]

    run = tf.function(pooled, autograph=False, reduce_retracing=True)
    steps = -(-len(items) // BATCH)
    batches = make_dataset(
        lambda step: {"items": {"photo_bytes": photos.read(items[step * BATCH : (step + 1) * BATCH])}},
        0,
        steps,
        photo_size=size,
    )
    return gather_layers((run(batch["items"]["photos"]) for batch in batches), len(items), "photo")


def gather_layers(blocks: Iterable[Sequence[tf.Tensor]], count: int, unit: str) -> list[np.ndarray]:
    """Put the batches of every layer end to end, with a progress bar."""
    parts: list[list[np.ndarray]] = []
    with Progress("encode by layer", count, unit=f" {unit}s") as bar:
        for block in blocks:
            parts.append([layer.numpy() for layer in block])
            bar.update(len(parts[-1][0]))
    return [np.concatenate(layer) for layer in zip(*parts)]


def probe(
    vectors: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> dict[str, float]:
    """Accuracy on the test items of a linear probe and of the nearest neighbours, both on standardised vectors.

    The probe is ridge regression to one-hot labels; its strength is the best one on a fifth of the training items.

    Args:
        vectors: `[M, D]`.
        labels: int `[M]`.
        train: rows to learn from.
        test: rows to evaluate.
        seed: of the held-out fifth and of the bootstrap.

    Returns:
        `probe` with `probe_low` and `probe_high` (95 % bootstrap), and `neighbours`.
    """
    from tfrec.evaluation.bootstrap import bootstrap_means
    from tfrec.evaluation.embedding_metrics import knn_hits
    from tfrec.evaluation.ridge import best_strength, fit_ridge

    centre, spread = vectors[train].mean(0), vectors[train].std(0)
    vectors = ((vectors - centre) / np.maximum(spread, 1e-6)).astype(np.float64)
    one_hot = np.eye(int(labels.max()) + 1)[labels]

    def right(strength: float, fitted: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
        return fit_ridge(vectors[fitted], one_hot[fitted], strength)(vectors[evaluated]).argmax(1) == labels[evaluated]

    strengths = [strength * vectors.shape[1] for strength in STRENGTHS]
    best = best_strength(strengths, train, lambda *tried: right(*tried).mean(), seed=seed)
    accuracy = bootstrap_means({"probe": right(best, train, test).astype(float)}, seed=seed)["probe"]
    near = knn_hits(vectors[test], labels[test], gallery=vectors[train], gallery_labels=labels[train], k=NEIGHBOURS)
    return {
        "probe": accuracy["value"],
        "probe_low": accuracy["low"],
        "probe_high": accuracy["high"],
        "neighbours": float(near.mean()),
    }


def write_study(out: Path, about: dict, rows: list[dict]) -> None:
    """Write the table, the picture and the page."""
    import pandas as pd

    from tfrec.reports import charts
    from tfrec.reports.page import PAGE_FILE, Picture, Section, Table, write_page

    out.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows).set_index("layer")
    frame.to_csv(out / "layers.csv")
    (out / "layers.json").write_text(json.dumps({"about": about, "layers": rows}, indent=1) + "\n", encoding="utf-8")
    numbers = [row["layer"] for row in rows]
    series = {
        "linear probe": (numbers, [row["probe"] for row in rows]),
        "nearest neighbours": (numbers, [row["neighbours"] for row in rows]),
    }
    panels = {f"{about['field']} from the first layers": series}
    file = charts.lines(panels, ("layers used", "accuracy"), out / "layers")
    best = max(rows, key=lambda row: row["probe"])
    said = [
        f"The linear probe is best after layer {best['layer']}: {best['probe']:.3f} "
        f"[{best['probe_low']:.3f}, {best['probe_high']:.3f}]; after the last one {rows[-1]['probe']:.3f}.",
        f"Always naming the most frequent value would be right for {about['most_frequent']:.3f}.",
    ]
    sections = [
        Section("Findings", points=said),
        Section(
            "Quality by layer",
            ["Layer 0 is what goes into the first block."],
            tables=[Table(frame)],
            pictures=[Picture(file)],
        ),
    ]
    subtitle = f"{about['weights']}, {about['side']} side; {about['test_items']} items evaluated"
    write_page(out / PAGE_FILE, "Quality by layer", sections, subtitle=subtitle)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.layer_study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="SOURCE", help="published encoder, or the folder of a pretrain run")
    add("--side", choices=("text", "image"), required=True, help="which of its sides")
    add("--data", type=location, required=True, metavar="PREPARED", help="prepared dataset")
    add("--field", default="label", help="what the probe tells: label, or an attribute field (default: %(default)s)")
    add("--out", type=local_path, required=True, metavar="DIR", help="folder for the results")
    add("--length", type=whole_number(2), help="ids per text (default: 64, or as many as the encoder reads)")
    add("--size", type=whole_number(1), help="side of the photos in pixels (default: as published)")
    add(
        "--max-items",
        type=whole_number(0),
        default=5000,
        help="a seeded sample of so many items; 0: all (default: %(default)s)",
    )
    add(
        "--seed",
        type=SEED,
        default=0,
        help="of the sample, the held-out items and the bootstrap (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
