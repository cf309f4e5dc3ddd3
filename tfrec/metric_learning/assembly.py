"""From a metric-learning configuration and a prepared dataset to a model with its batches."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.label_batches import BatchDecoder, LabelBatches
from pipelines.photos.augment import PhotoAugmenter
from pipelines.photos.views import read_views
from pipelines.prepared import Prepared
from pipelines.progress import Progress
from pipelines.schema import SPLIT_CODES
from tfrec.config import ConfigError, plain
from tfrec.encoders.checkpoints.clip import CLIP_MEAN, CLIP_STD
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.resnet import ResNetEncoder
from tfrec.encoders.sides import load_image_side
from tfrec.encoders.tuning import tune
from tfrec.encoders.untrained import untrained_vit
from tfrec.evaluation.labels import item_labels, item_splits
from tfrec.metric_learning.config import MetricLearningConfig, MetricTask, PhotoEncoderConfig
from tfrec.metric_learning.losses import LOSSES, MetricLoss
from tfrec.metric_learning.miners import MININGS
from tfrec.metric_learning.model import MetricLearner
from tfrec.metric_learning.multi_view import MultiViewEncoder, ViewFusion
from tfrec.metric_learning.pixel_components import PixelComponents, shrunk
from tfrec.sampling import sample_rows

EMBED_BATCH = 256
ADAPT_ITEMS = 4_096  # the pixels' components are those of a sample


class MetricAssembly:
    """The pieces of one run.

    Args:
        config: the run's options.
        prepared: a dataset of labelled photos.

    Attributes:
        photos: of all items.
        labels: `[N]` strings, "" for none.
        split: int8 `[N]`, -1 for items that cannot be used (no label, or none of the photos).
        batches: of the training items.
        model: with random or published weights, built.

    Raises:
        ConfigError: the data have no such labels or too few classes, or an option does not fit.
    """

    def __init__(self, config: MetricLearningConfig, prepared: Prepared):
        self.config, self.prepared = config, prepared
        self.labels = item_labels(prepared.items, config.task.label, option="task.label")
        augment, size = plain(config.augment), config.model.encoder.size
        self.play = augment.pop("box_play")
        self.photos = read_views(prepared, config.model.views, size, play=self.play > 0)
        usable = self.photos.present.any(axis=1) & (self.labels != "")
        self.split = np.where(usable, item_splits(prepared.items), -1)
        self.batches = self._batches()
        self.augment, self.decode = PhotoAugmenter(size, **augment), BatchDecoder(self.photos)
        self.model = build_model(config, classes=int(self.batches.labels.max()) + 1, pixels=self._pixels())
        self.model.compute_loss(self._example(), training=False)  # creates the weights
        self._compiled = {
            name: tf.function(getattr(self.model, name), autograph=False, reduce_retracing=True)
            for name in ("features", "unit")
        }

    def rows(self, *splits: str) -> np.ndarray:
        """Rows of the usable items of `splits`; of all usable items where none is named."""
        wanted = [SPLIT_CODES[name] for name in splits or SPLIT_CODES]
        return np.flatnonzero(np.isin(self.split, wanted))

    def dataset(self, start: int, stop: int) -> tf.data.Dataset:
        """Batches of the training steps `start` to `stop`."""
        return self.batches.dataset(start, stop, self.augment, self.play)

    def embed(self, rows: np.ndarray, *, features: bool = False, progress: bool = True) -> np.ndarray:
        """Vectors of items as the model is now, float32 `[n, E]` of length 1.

        Args:
            rows: `[n]` item rows.
            features: the encoder's fused vectors instead, without the head.
            progress: show a bar.
        """
        run, parts = self._compiled["features" if features else "unit"], []
        with Progress("embed", len(rows), unit=" items", shown=progress) as bar:
            for start in range(0, len(rows), EMBED_BATCH):
                chosen = rows[start : start + EMBED_BATCH]
                batch = {"items": self.photos.gather(chosen), "labels": chosen}
                parts.append(run(self.decode(tensors(batch))["items"]).numpy())
                bar.update(len(chosen))
        return np.concatenate(parts)

    def _batches(self) -> LabelBatches:
        task, size = self.config.task, self.config.training.batch_size
        rows = self.rows("train")
        names, labels = np.unique(self.labels[rows], return_inverse=True)
        if size == "auto":
            raise ConfigError("training.batch_size auto: metric learning needs a number, task.per_class of each class")
        classes = size // task.per_class
        if not 1 < classes <= len(names):
            raise ConfigError(
                f"training.batch_size {size} with task.per_class {task.per_class} asks for {classes} classes in a "
                f"batch, but {len(names)} are in training; {'raise' if classes > 1 else 'lower'} task.per_class"
            )
        return LabelBatches(rows, labels.astype(np.int32), self.photos, classes, task.per_class, self.config.seed)

    def _pixels(self) -> PixelComponents | None:
        """The fixed part of embeddings, adapted to a sample of the training photos; None where it is not asked for."""
        options = self.config.model.pixels
        if options.weight <= 0.0:
            return None
        rows = sample_rows(self.batches.rows, ADAPT_ITEMS, self.config.seed)
        size = shrunk(self.config.model.encoder.size, options.side)
        views = len(self.config.model.views) or 1
        components = min(options.components, len(rows) - 1, 3 * views * size[0] * size[1])
        layer = PixelComponents(size, components=components, whiten=options.whiten, name="pixels")
        parts = (
            self.decode(tensors({"items": self.photos.gather(chosen), "labels": chosen}))["items"]
            for chosen in np.array_split(rows, -(-len(rows) // EMBED_BATCH))
        )
        layer.adapt(((part["photos"], part["present"]) for part in parts), seed=self.config.seed)
        return layer

    def _example(self) -> dict:
        """One batch of two items."""
        batch = {"items": self.photos.gather(self.batches.rows[:2]), "labels": self.batches.labels[:2]}
        return self.decode(tensors(batch))


def tensors(batch: dict) -> dict:
    """Nested arrays as tensors."""
    return tf.nest.map_structure(tf.convert_to_tensor, batch)


def build_model(config: MetricLearningConfig, *, classes: int, pixels: PixelComponents | None = None) -> MetricLearner:
    """The model of a configuration.

    Args:
        config: the run's options.
        classes: how many there are in training.
        pixels: the fixed part of embeddings; None: none.

    Raises:
        ConfigError: an option does not fit the encoder or the loss.
        CheckpointError: weights that cannot be had or do not fit.
    """
    model = config.model
    encoder = build_encoder(model.encoder)
    if model.fusion == "attention" and encoder.output_dim % model.heads:
        raise ConfigError(
            f"model.heads={model.heads} must divide the width {encoder.output_dim} of the encoder's vectors"
        )
    views = MultiViewEncoder(encoder, ViewFusion(model.fusion, heads=model.heads, name="fusion"), name="views")
    loss = build_loss(config.task, classes)
    return MetricLearner(views, model.embedding, loss, neck=model.neck, pixels=pixels, pixel_weight=model.pixels.weight)


def build_loss(task: MetricTask, classes: int) -> MetricLoss:
    """The loss layer of a task with so many classes in training.

    Raises:
        ConfigError: `task.options` names an unknown loss, or an option that its loss does not have, or a value that this
            cannot have.
    """
    for name, options in task.options.items():
        if name not in LOSSES:
            raise ConfigError(f"task.options: {name!r} is no loss; name one of {', '.join(sorted(LOSSES))}")
        known = [p.name for p in inspect.signature(LOSSES[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
        known = [option for option in known if option not in ("weights", "bias")]
        for option, value in options.items():
            if option not in known:
                raise ConfigError(f"task.options.{name}: no option {option!r}; there are {', '.join(known) or 'none'}")
            if wrong := wrong_value(option, value):
                raise ConfigError(f"task.options.{name}.{option}={value!r} must be {wrong}")
    return MetricLoss(task.loss, num_classes=classes, options=task.options.get(task.loss, {}), name="loss")


def wrong_value(option: str, value: Any) -> str:
    """What the value of a loss's option must be where it is not; "" where it is."""
    if option == "mining":
        return "" if value in MININGS else f"one of {', '.join(MININGS)}"
    if option == "epsilon" and value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number"
    divides = option in ("alpha", "beta", "scale", "temperature")
    return "above 0" if divides and value <= 0 else ""


def build_encoder(options: PhotoEncoderConfig) -> tf.keras.layers.Layer:
    """The photo encoder, with random, published or pretrained weights, and as much of it trainable as asked for.

    Raises:
        ConfigError: an option does not fit the encoder.
        CheckpointError: weights that cannot be had or do not fit.
    """
    encoder = loaded_encoder(options) if options.weights else random_encoder(options)
    if options.lora_rank:
        encoder.build(None)
    elif options.train_blocks != "all" and options.train_blocks > len(encoder.blocks):
        raise ConfigError(
            f"model.encoder.train_blocks {options.train_blocks}: the encoder has {len(encoder.blocks)} blocks"
        )
    try:
        tune(encoder, train_blocks=options.train_blocks, lora_rank=options.lora_rank)
    except EncoderError as error:
        raise ConfigError(f"model.encoder: {error}") from None
    return encoder


def loaded_encoder(options: PhotoEncoderConfig) -> tf.keras.layers.Layer:
    """The encoder of `options.weights`, pooled as the options say.

    Raises:
        ConfigError: the weights have a projection that was learned behind another pooling.
        CheckpointError: they cannot be had or do not fit.
    """
    assert options.weights is not None
    encoder = load_image_side(options.weights, size=options.size, layers=options.keep_layers).encoder
    if isinstance(encoder, ResNetEncoder) or encoder.pooling == options.pooling:
        return encoder
    if encoder.projection is not None:
        raise ConfigError(
            f"model.encoder.pooling {options.pooling}: {options.weights} projects its {encoder.pooling} pooling; set "
            f"model.encoder.pooling to {encoder.pooling}"
        )
    encoder.pooling = options.pooling
    return encoder


def random_encoder(options: PhotoEncoderConfig) -> tf.keras.layers.Layer:
    """An encoder with random weights."""
    if options.kind == "resnet":
        widths = [4 * options.width * 2**stage for stage in range(len(options.depths))]
        return ResNetEncoder(
            size=options.size, depths=options.depths, widths=widths, stem_width=options.width, name="image_encoder"
        )
    clip = {"pre_norm": True, "activation": "quick_gelu", "mean": CLIP_MEAN, "std": CLIP_STD, "epsilon": 1e-5}
    return untrained_vit(
        options,
        option="model.encoder",
        pooling=options.pooling,
        stem_pooling=options.stem_pooling,
        **(clip if options.kind == "clip" else {}),
    )
