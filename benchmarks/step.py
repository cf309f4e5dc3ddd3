"""A training step end to end: photo encoder, text encoder, fusion, history, softmax; against encoding every example's item.

    python -m benchmarks.step

A ViT-Ti at 224 px and a BERT of MiniLM's size train from random weights, fused by cross-attention, on purchases as uneven as
H&M's; an example is a purchase to be predicted. `every example encoded` runs the encoders on the item of each purchase, in
float32 and by the blocks of KerasCV and KerasNLP, as a model without further thought does; it is also timed by tfrec's
blocks. `tfrec, all items fresh` encodes as many distinct items a step; `tfrec` encodes a quarter as many and reads the
others' vectors from its bank, as its recipes do (H&M's small recipe: one in twenty). Photos and token ids lie ready in
memory, so no contender decodes.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.measure import Ratio, add_json, machine, measure, step_leads, step_table, time_steps, write_ratios
from benchmarks.shop import frequency, make_purchases

SIDE, TOKENS, VOCABULARY, LENGTH, DIM = 224, 32, 8_192, 20, 192
WARM, PHOTOS, WANTED = 2, 512, 1.8  # the second step is traced anew, for shapes that vary
SHARE = 4  # `tfrec` encodes one in so many of the items afresh
EVERY, EVERY_FLAT = "every example encoded", "every example encoded, by tfrec's blocks"


@dataclass(frozen=True)
class Work:
    """Sizes of a run: `steps` batches of about `batch` purchases to be predicted."""

    customers: int
    items: int
    batch: int
    steps: int
    layers: int | None = None
    side: int = SIDE


class Cycled:
    """An array of a few rows that stands for one of many: row r is row r % len."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.array[rows % len(self.array)]


def main(arguments: list[str] | None = None) -> list[Ratio]:
    """Time the contenders, print the table; returns the leads."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--customers", type=int, default=20_000, help="who buy (default: 20,000)")
    add("--items", type=int, default=105_000, help="size of the catalogue (default: 105,000)")
    add("--batch", type=int, default=64, help="purchases that a step predicts, about (default: %(default)s)")
    add("--steps", type=int, default=3, help="timed steps of a run (default: %(default)s)")
    add("--layers", type=int, help="keep only so many blocks of both encoders (default: all)")
    add("--side", type=int, default=SIDE, help="of the photos, in pixels (default: %(default)s)")
    add("--repeats", type=int, default=3, help="runs of each contender (default: %(default)s)")
    add_json(parser)
    args = parser.parse_args(arguments)
    work = Work(args.customers, args.items, args.batch, args.steps, args.layers, args.side)
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(CONTENDERS, work, Path(folder), repeats=args.repeats)
    size = f"ViT-Ti and MiniLM-size BERT, about {work.batch} purchases a step, {work.items:,} items"
    print(f"{size}, on {machine()}\n\n{step_table(runs, units=work.batch, unit='purchases')}\n")
    leads = {"tfrec": 1.0} | step_leads(runs)
    whole = {name: leads.pop(name) for name in (EVERY, EVERY_FLAT)}
    ratios = [
        Ratio(f"step: {name}", against, whole[against] / lead, WANTED if against == EVERY else None)
        for name, lead in leads.items()
        for against in whole
    ]
    for ratio in ratios:
        print(f"{ratio.work}: {ratio.ratio:.2f}x of {ratio.against}")
    write_ratios(args.json, ratios)
    return ratios


def content_of(work: Work):
    """Photos of noise and texts of 8 to 32 tokens for every item."""
    from pipelines.content import ItemContent

    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (PHOTOS, work.side, work.side, 3), dtype=np.uint8)
    tokens = rng.integers(1, VOCABULARY, (PHOTOS, TOKENS), dtype=np.int32)
    tokens[np.arange(TOKENS) >= rng.integers(8, TOKENS + 1, PHOTOS)[:, None]] = 0
    arrays = {"photos": Cycled(photos), "has_photo": np.ones(work.items, bool), "tokens": Cycled(tokens)}
    return ItemContent(work.items, arrays)


def build(work: Work, batches, shares: np.ndarray):
    """The two towers, by the parts that a recipe names."""
    from tfrec.encoders.image import ViTEncoder
    from tfrec.encoders.text import BertEncoder
    from tfrec.fusion import CrossAttentionFusion
    from tfrec.models import ItemVectors, TwoTower
    from tfrec.towers import HistoryTower, ItemTower

    size = (work.side, work.side)
    photo = ViTEncoder(size=size, patch=16, dim=192, layers=work.layers or 12, heads=3, name="image_encoder")
    text = BertEncoder(
        vocabulary_size=VOCABULARY,
        dim=384,
        layers=work.layers or 6,
        heads=12,
        max_length=TOKENS,
        dropout=0.0,
        name="text_encoder",
    )
    return TwoTower(
        vectors=ItemVectors(work.items, DIM, content=True, id_embedding=True, name="vectors"),
        query_tower=HistoryTower(DIM, LENGTH, layers=1, heads=3, dropout=0.1, name="query_tower"),
        item_tower=ItemTower(
            CrossAttentionFusion(DIM, 1, 3, output_dim=DIM, ratio=2.0, dropout=0.1), image=photo, text=text, pool=2
        ),
        frequency=shares,
        mean_purchases=batches.mean_purchases,
        mask_own="none",
    )


def train(work: Work, folder: Path, *, share: int = 1, repeats: bool = False) -> Callable[[], list[float]]:
    """Steps that encode one item in `share` purchases; with `repeats` that of each purchase, however often it occurs."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    from pipelines.batches import HistoryBatches, cut_windows, make_dataset
    from tfrec.config import TrainingConfig
    from tfrec.training.environment import prepare_keras
    from tfrec.training.trainer import Trainer

    options = TrainingConfig(precision="float32" if repeats else "auto")
    prepare_keras(0, options)
    content = content_of(work)
    purchases = make_purchases(work.customers, work.items, 23 * work.customers)
    windows = len(cut_windows(purchases.offsets, LENGTH))
    whole = HistoryBatches(
        purchases,
        length=LENGTH,
        batch_size=max(1, round(work.batch * windows / len(purchases))),
        seed=0,
        items=work.items,
        user_fields=np.zeros((work.customers, 0), np.int32),
        content=content,
        encode_items=work.batch // share,
    )

    def every_example(step: int) -> dict:
        batch = whole(step)
        batch["encode_rows"] = batch["targets"][batch["targets"] >= 0]
        return batch | {"items": content.gather(batch["encode_rows"])}

    make_batch = every_example if repeats else whole
    model = build(work, whole, frequency(purchases, work.items))
    model.compute_loss(next(iter(make_dataset(make_batch, 0, 1))), training=True)  # creates every variable
    steps = WARM + work.steps
    trainer = Trainer(model, options=options, steps=steps, run_dir=folder)
    return time_steps((float(trainer.train_step(batch)) for batch in make_dataset(make_batch, 0, steps)), WARM)


def with_bank(work: Work, folder: Path) -> Callable[[], list[float]]:
    """As the recipes train."""
    return train(work, folder, share=SHARE)


def all_fresh(work: Work, folder: Path) -> Callable[[], list[float]]:
    """As many distinct items encoded as purchases are predicted."""
    return train(work, folder)


def every_example_flat(work: Work, folder: Path) -> Callable[[], list[float]]:
    """The item of every purchase encoded, those that occur twice as well, in float32."""
    return train(work, folder, repeats=True)


def every_example_encoded(work: Work, folder: Path) -> Callable[[], list[float]]:
    """The same by the libraries' blocks."""
    with libraries_blocks():
        steps = train(work, folder, repeats=True)

    def run() -> list[float]:
        with libraries_blocks():
            return steps()

    return run


@contextmanager
def libraries_blocks() -> Iterator[None]:
    """Encoders' blocks run as KerasCV and KerasNLP have them in all that is traced inside."""
    from tfrec.encoders import clip_text, image, text

    with ExitStack() as patched:
        for module in (clip_text, image, text):
            patched.enter_context(mock.patch.object(module, "runs_flat", return_value=False))
        yield


CONTENDERS: dict[str, Callable[[Work, Path], Callable[[], list[float]]]] = {
    "tfrec": with_bank,
    "tfrec, all items fresh": all_fresh,
    EVERY: every_example_encoded,
    EVERY_FLAT: every_example_flat,
}

if __name__ == "__main__":
    main()
