"""Pretraining: a text and an image encoder taught by the catalogue, saved so that other recipes can load them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.batches import make_dataset
from pipelines.photos.pixels import decode_photos
from pipelines.publish import filled_whole
from pipelines.schema import TRAIN
from tfrec.config import load_config
from tfrec.encoders.pooling import SentencePooling
from tfrec.encoders.sides import ImageSide, TextSide, save_side
from tfrec.encoders.text import WordPiece, train_vocabulary
from tfrec.encoders.untrained import untrained_bert, untrained_vit
from tfrec.evaluation.bootstrap import exact
from tfrec.evaluation.labels import item_splits
from tfrec.evaluation.matching import chance, match_both_ways
from tfrec.evaluation.metrics import write_metrics
from tfrec.pretraining.config import PretrainConfig
from tfrec.pretraining.data import PretrainData, attribute_values, hide_words
from tfrec.pretraining.model import PretrainModel
from tfrec.reports.metrics_page import write_metrics_page
from tfrec.runs.dataset import open_own_data
from tfrec.training.environment import prepare_evaluation, prepare_keras
from tfrec.training.trainer import Trainer, restore_weights

log = logging.getLogger("tfrec")

EVALUATION_BATCH = 64
SIDES = ("photo", "text")


def train(config: PretrainConfig, run_dir: Path) -> None:
    """Train from wherever the run stands, and write the encoders into `RUN/text` and `RUN/image`."""
    prepare_keras(config.seed, config.training)
    data, model = assemble(config, run_dir)
    options = config.training
    steps = options.steps or options.epochs * data.order.steps_per_epoch
    log.info("%d items to train on, %d held out, %d steps of %d", len(data.training), len(data.held), steps, data.size)
    trainer = Trainer(model, options=options, steps=steps, run_dir=run_dir)
    trainer.fit(data.batches, (lambda: held_out_metrics(data, model)) if len(data.held) > 1 else None)
    publish_encoders(model, run_dir)
    trainer.finish()


def publish_encoders(model: PretrainModel, run_dir: Path) -> None:
    """Write `RUN/text` and `RUN/image`; each takes the place of an earlier one whole."""
    for side in model.sides:
        with filled_whole(run_dir / side.kind) as folder:
            save_side(side, folder)


def assemble(config: PretrainConfig, run_dir: Path) -> tuple[PretrainData, PretrainModel]:
    """The data and the untrained model of a run; its vocabulary is kept in `RUN/assets`."""
    path, text = run_dir / "assets" / "vocab.txt", config.model.text
    prepared = open_own_data(run_dir, config)
    if not path.exists():
        extra = [" ".join(values) for values in attribute_values(prepared)] if text.attributes else []
        part = item_splits(prepared.items)
        seen = [t for texts in (list(prepared.items["text"]), extra) for t, p in zip(texts, part) if p == TRAIN]
        path.parent.mkdir(parents=True, exist_ok=True)
        WordPiece(train_vocabulary(seen, text.vocabulary_size)).save(path)
    tokenizer = WordPiece.load(path, sequence_length=text.length)
    data = PretrainData(config, prepared, tokenizer)
    tf.keras.utils.set_random_seed(config.seed)
    return data, build_model(config, tokenizer)


def build_model(config: PretrainConfig, tokenizer: WordPiece) -> PretrainModel:
    """The model, with all its variables."""
    text, image, task = config.model.text, config.model.image, config.task
    bert = untrained_bert(text, tokenizer)
    bert.build(None)
    pooling = SentencePooling("mean", projection_dim=config.model.dim, normalize=True, name="text_pooling")
    pooling.build((None, None, text.dim))
    source = f"pretrained on {Path(config.data).name}"
    image_side = None
    if config.reads_photos:
        vit = untrained_vit(image, pooling="mean", projection_dim=config.model.dim)
        vit.build(None)
        image_side = ImageSide(vit, source)
    model = PretrainModel(
        TextSide(bert, tokenizer, pooling, source),
        image_side,
        mlm=task.mlm,
        contrastive=task.contrastive,
        temperature=task.temperature,
    )
    if model.words is not None:
        model.words(tf.zeros([1, text.dim]))
    return model


def vectors(data: PretrainData, model: PretrainModel, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the texts and of the photos of `rows`, each float32 `[R, D]`."""
    texts, photos = [], []
    for start in range(0, len(rows), EVALUATION_BATCH):
        contents = data.contents(rows[start : start + EVALUATION_BATCH])
        pixels = contents.get("photos")
        if pixels is None:
            pixels = decode_photos(tf.constant(contents["photo_bytes"]), data.config.model.image.size)[0]
        texts.append(model.text_graph(tf.constant(contents["tokens"])).numpy())
        photos.append(model.photo_graph(tf.constant(pixels)).numpy())
    return np.concatenate(texts), np.concatenate(photos)


def held_out_metrics(data: PretrainData, model: PretrainModel) -> dict[str, float]:
    """Metrics on the held-out items: words found again (`loss` is the words' alone, whatever else is trained), and texts and
    photos finding each other.
    """
    found: dict[str, float] = {}
    if model.words is not None:
        ids = data.ids(data.held)
        masked, hidden = hide_words(ids, data.tokenizer, data.config.task.mask_rate, np.random.default_rng(0))
        parts = make_dataset(
            lambda step: {
                name: array[step * EVALUATION_BATCH : (step + 1) * EVALUATION_BATCH]
                for name, array in (("tokens", ids), ("masked", masked), ("hidden", hidden))
            },
            0,
            -(-len(ids) // EVALUATION_BATCH),
        )
        losses = [(float(model.masked_loss(part)), int(tf.math.count_nonzero(part["hidden"]))) for part in parts]
        found["words_loss"] = sum(loss * n for loss, n in losses) / max(1, sum(n for _, n in losses))
        found["loss"] = found["words_loss"]
    if model.image is not None:
        texts, photos = vectors(data, model, data.held)
        found |= {name: float(values.mean()) for name, values in match_both_ways(photos, texts, SIDES).items()}
    return found


def evaluate(run_dir: Path) -> dict:
    """Evaluate a finished run on its held-out items: writes `metrics.json` and `report.html`.

    Args:
        run_dir: the run.

    Returns:
        The content of metrics.json.
    """
    config = load_config(run_dir / "config.yaml", PretrainConfig)
    prepare_evaluation(run_dir)
    data, model = assemble(config, run_dir)
    restore_weights(model, run_dir)
    values = held_out_metrics(data, model)
    metrics = {name: exact(value) for name, value in values.items()}
    by_chance = chance(len(data.held), SIDES)
    about = {
        "recipe": config.recipe,
        "dataset": data.prepared.manifest["dataset"],
        "split": data.held_split,
        "items": len(data.held),
        "training_items": len(data.training),
        "training_seed": config.seed,
    }
    baselines = {"chance": {name: by_chance[name] for name in metrics if name in by_chance}} if model.image else {}
    content = write_metrics(run_dir / "metrics.json", protocol=about, metrics=metrics, baselines=baselines, cohorts={})
    words = [
        f"{len(data.held)} items that no step was trained on, though the best of {config.training.evaluations} validations "
        "on them says which weights are kept: loss of hidden words in nats; texts find photos (photo_...) and photos texts "
        "(text_...) among them. Chance is the mean of a random order."
    ]
    write_metrics_page(run_dir, content, title="Pretrained encoders", words=words)
    log.info("held-out items: %s", "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    return content
