"""The alignment system: stage 1 teaches an attribute encoder alone, stage 2 aligns it with a frozen image encoder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.batches import make_dataset
from pipelines.content import PhotoBytes, decode_all
from pipelines.epochs import ShuffledRows
from pipelines.prepared import Prepared
from pipelines.publish import filled_whole
from pipelines.schema import SPLIT_CODES, TRAIN
from tfrec.alignment.config import AlignmentConfig
from tfrec.alignment.contrastive import AlignmentModel
from tfrec.alignment.metrics import SIDES, alignment_metrics, linear_baseline
from tfrec.attribute_vocabulary import AttributeVocabulary
from tfrec.config import ConfigError, load_config
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.encoders.sides import ImageSide, load_image_side, read_side, save_side
from tfrec.encoders.untrained import untrained_vit
from tfrec.evaluation.bootstrap import exact
from tfrec.evaluation.labels import item_splits
from tfrec.evaluation.matching import chance, match_both_ways
from tfrec.evaluation.metrics import write_metrics
from tfrec.features.frozen import check_store
from tfrec.features.store import FeatureError, SideStore, content_keys, stored_sides
from tfrec.features.writer import FeatureWriter
from tfrec.reports.metrics_page import write_metrics_page
from tfrec.runs.dataset import open_own_data
from tfrec.sampling import sample_rows
from tfrec.towers import Standardize
from tfrec.training.environment import prepare_evaluation, prepare_keras
from tfrec.training.trainer import Trainer, restore_weights

log = logging.getLogger("tfrec")

PIXELS = (32, 32)  # of the linear baseline
LINEAR_ITEMS = 20_000  # that it is fitted on, at most
LOSS_ITEMS = 8192  # of a batch that the loss is told of, and of what is encoded at once


def train(config: AlignmentConfig, run_dir: Path) -> None:
    """Train both stages from wherever the run stands, and leave the best weights in the run."""
    prepare_keras(config.seed, config.training)
    assembly = AlignmentAssembly.make(config, run_dir)
    model, options, rows = assembly.model, config.training, assembly.rows("train")
    if not len(rows):
        raise ConfigError(
            f"--data {config.data}: no training item has both a photo and an attribute of model.attributes"
        )
    size = options.fixed_batch_size(len(rows), auto=256)
    log.info("%d items to train on, %d held out for the test", len(rows), len(assembly.rows("test")))
    alone, aligned = run_dir / "stage1", run_dir
    if config.task.stage1_epochs:
        alone.mkdir(exist_ok=True)
        steps = config.task.stage1_epochs * (len(rows) // size)
        steps = min(steps, options.steps or steps)
        trainer = Trainer(model, options=options, steps=steps, run_dir=alone)
        log.info("stage 1: the attribute encoder alone, %d steps of %d", steps, size)
        trainer.fit(lambda start, stop: assembly.batches(start, stop, size, stage=1), None)
    steps = options.steps or options.epochs * (len(rows) // size)
    trainer = Trainer(model, options=options, steps=steps, run_dir=aligned)
    log.info("stage 2: aligned with %s, %d steps of %d", assembly.side.source, steps, size)
    validate = assembly.validate if len(assembly.rows("val")) > 1 else None  # one alone is always found
    trainer.fit(lambda start, stop: assembly.batches(start, stop, size, stage=2), validate)
    trainer.finish()


def evaluate(run_dir: Path, *, split: str = "test") -> dict:
    """Evaluate a finished run: writes `metrics.json` and `report.html`.

    Args:
        run_dir: the run.
        split: `val` or `test`.

    Returns:
        The content of metrics.json.
    """
    config = load_config(run_dir / "config.yaml", AlignmentConfig)
    prepare_evaluation(run_dir)
    assembly = AlignmentAssembly.make(config, run_dir)
    restore_weights(assembly.model, run_dir)
    rows = assembly.rows(split)
    if not len(rows):
        raise ConfigError(f"--split {split}: {config.data} has no such items with photo and attributes")
    metrics = alignment_metrics(*assembly.vectors(rows), seed=config.seed)
    metrics["loss"] = assembly.loss(rows)
    fitted = sample_rows(assembly.rows("train"), LINEAR_ITEMS, config.seed)
    place = np.arange(len(fitted) + len(rows))
    raw = assembly.raw(PIXELS, np.concatenate([fitted, rows]))
    baselines = {
        "chance": chance(len(rows), SIDES),
        "linear": linear_baseline(*raw, place[: len(fitted)], place[len(fitted) :], seed=config.seed),
    }
    about = {
        "recipe": config.recipe,
        "dataset": assembly.prepared.manifest["dataset"],
        "split": split,
        "items": len(rows),
        "training_items": len(assembly.rows("train")),
        "image_encoder": assembly.side.source,
        "training_seed": config.seed,
    }
    content = write_metrics(run_dir / "metrics.json", protocol=about, metrics=metrics, baselines=baselines, cohorts={})
    words = [
        f"Attributes find photos (photo_...), and photos their attributes, among the {len(rows)} items of split {split}; "
        f"the image encoder ({assembly.side.source}) is frozen.",
        "Chance is the mean of a random order; linear is ridge regression from raw pixels to one-hot attributes. "
        "Intervals are 95 % bootstrap intervals over items.",
    ]
    write_metrics_page(run_dir, content, title="Attributes and photos", words=words)
    return content


@dataclass
class AlignmentAssembly:
    """The model with what it reads: attribute ids and the frozen encoder's vectors of every item.

    Attributes:
        config: the configuration.
        prepared: the dataset.
        vocabulary: of the attributes.
        side: the frozen image encoder.
        ids: int32 `[N, F, V]`.
        photos: float32 `[N, P]`, zeros where there is no photo.
        model: the model, built.
    """

    config: AlignmentConfig
    prepared: Prepared
    vocabulary: AttributeVocabulary
    side: ImageSide
    ids: np.ndarray
    photos: np.ndarray
    model: AlignmentModel

    @cached_property
    def sets(self) -> np.ndarray:
        """The ids with each field's in rising order, int32 `[N, F, V]`: equal where attributes are."""
        return np.sort(self.ids, axis=-1)

    @classmethod
    def make(cls, config: AlignmentConfig, run_dir: Path) -> AlignmentAssembly:
        """Put a run's model together; what it learns of the dataset is kept in `RUN/assets`."""
        prepared = open_own_data(run_dir, config)
        path = run_dir / "assets"
        if not path.exists():
            save_assets(config, prepared, path)
        vocabulary, side = AttributeVocabulary.from_json(path / "attributes.json"), load_side(path)
        photos = photo_vectors(config, prepared, side, run_dir)
        ids = vocabulary.encode(prepared.items)
        tf.keras.utils.set_random_seed(config.seed)
        model = build_model(config, vocabulary, photos[item_splits(prepared.items) == TRAIN])
        return cls(config, prepared, vocabulary, side, ids, photos, model)

    def rows(self, split: str) -> np.ndarray:
        """Items of a split that have a photo and at least one attribute."""
        chosen = item_splits(self.prepared.items) == SPLIT_CODES[split]
        return np.flatnonzero(chosen & self.photos.any(1) & (self.ids > 0).any((1, 2)))

    def batches(self, start: int, stop: int, size: int, *, stage: int) -> tf.data.Dataset:
        """tf.data of training batches; a step's batch depends on its number alone, so that a resumed run goes on exactly."""
        rows, seed, task = self.rows("train"), self.config.seed, self.config.task
        order = ShuffledRows(rows, size, seed, stage, 0)

        def make(step: int) -> dict[str, np.ndarray]:
            chosen = order(step)
            rng = np.random.default_rng([seed, stage, 1, step])
            ids, whole = self.ids[chosen], self.sets[chosen]
            if stage == 1:
                views = [drop_fields(ids, task.view_dropout, rng) for _ in range(2)]
                return {"attributes": views[0], "views": views[1], "whole": whole}
            seen = drop_fields(ids, task.field_dropout, rng)
            return {"attributes": seen, "vectors": self.photos[chosen], "whole": whole}

        return make_dataset(make, start, stop)

    def vectors(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors of attributes and of photos, each float32 `[R, D]`."""
        parts = np.array_split(rows, -(-len(rows) // LOSS_ITEMS))  # of all at once, values would be gigabytes
        attributes = [self.model.attributes(self.ids[part]).numpy() for part in parts]
        return np.concatenate(attributes), np.concatenate(
            [self.model.photos(self.photos[part]).numpy() for part in parts]
        )

    def loss(self, rows: np.ndarray) -> dict[str, float]:
        """InfoNCE of all `rows` as one batch, where equal attributes are no negatives of each other; more than `LOSS_ITEMS`
        of them in batches of about that size, drawn by the run's seed."""
        batches = -(-len(rows) // LOSS_ITEMS)
        rows = np.random.default_rng(self.config.seed).permutation(rows) if batches > 1 else rows
        total = 0.0
        for part in np.array_split(rows, batches):
            batch = {"attributes": self.ids[part], "vectors": self.photos[part], "whole": self.sets[part]}
            total += float(self.model.compute_loss(batch)) * len(part)
        return exact(total / len(rows))

    def validate(self) -> dict[str, float]:
        """Metrics on the validation items."""
        rows = self.rows("val")
        attributes, photos = self.vectors(rows)
        found = {name: float(values.mean()) for name, values in match_both_ways(photos, attributes, SIDES).items()}
        cosine = float(np.einsum("nd,nd->n", attributes, photos).mean())
        return {**found, "positive_cosine": cosine, "loss": self.loss(rows)["value"]}

    def raw(self, size: tuple[int, int], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels in 0..1 `[R, P]` and one-hot attributes `[R, A]` of items: what the linear baseline reads."""
        photos = PhotoBytes(self.prepared, [keys[0] for keys in self.prepared.items["images"].iloc[rows]])
        pixels = decode_all(photos, len(rows), size).reshape(len(rows), -1).astype(np.float32) / 255.0
        blocks = []
        for field, values in enumerate(self.vocabulary.sizes):
            block = np.zeros((len(rows), values), np.float32)
            np.put_along_axis(block, self.ids[rows, field], 1.0, axis=1)
            blocks.append(block[:, 1:])  # 0 is no value
        return pixels, np.concatenate(blocks, 1)


def save_assets(config: AlignmentConfig, prepared: Prepared, folder: Path) -> None:
    """Learn the vocabulary from the training items and write it with the image encoder; whole or not at all.

    Raises:
        ConfigError: the dataset has no split of its items, no photos or no attributes.
    """
    items, options = prepared.items, config.model.attributes
    fields = list(prepared.fields if options.fields is None else options.fields)
    if "split" not in items or prepared.images is None or not fields:
        raise ConfigError(
            f"--data {config.data}: alignment needs photos, attributes and a split of the items, as made by "
            "python -m pipelines kfashion or fashion_products"
        )
    side = image_side(config)
    vocabulary = AttributeVocabulary.build(
        items,
        fields,
        min_count=options.min_count,
        max_values=options.max_values,
        counted=item_splits(items) == TRAIN,
    )
    with filled_whole(folder) as work:
        save_side(side, work / "image")
        vocabulary.to_json(work / "attributes.json")


def image_side(config: AlignmentConfig) -> ImageSide:
    """The frozen image encoder: the feature store's, published, or of random weights in the configured size.

    Raises:
        FeatureError: the store holds no photos' features, or another encoder's than the one that is named.
        CheckpointError: weights that cannot be had or do not fit.
    """
    image = config.model.image
    if config.features:
        store = image_store(config)
        if image.weights not in (None, store.manifest["source"]):
            raise FeatureError(
                f"model.image.weights={image.weights}, but {store.folder} was made with {store.manifest['source']}; "
                "leave one of them out"
            )
        side = read_side(store.encoder)
        assert isinstance(side, ImageSide)  # `image_store` is of photos
        return side
    if image.weights is not None:
        return load_image_side(image.weights, size=image.size)
    tf.keras.utils.set_random_seed(config.seed)
    encoder = untrained_vit(image)
    encoder.build(None)
    return ImageSide(encoder, "random weights")


def load_side(assets: Path) -> ImageSide:
    """The image encoder of a run."""
    side = read_side(assets / "image")
    assert isinstance(side, ImageSide)  # `save_assets` wrote it
    return side


def image_store(config: AlignmentConfig) -> SideStore:
    """The photos' side of the feature store that the configuration names.

    Raises:
        FeatureError: there is none.
    """
    stores = stored_sides(Path(config.features))
    if "image" not in stores:
        raise FeatureError(
            f"{config.features} holds features of texts alone; alignment reads photos: run tfrec.encode with an image "
            "encoder, or leave out --features"
        )
    return stores["image"]


def photo_vectors(config: AlignmentConfig, prepared: Prepared, side: ImageSide, run_dir: Path) -> np.ndarray:
    """The frozen encoder's vector of every item's first photo, float32 `[N, P]`, from the store that is given or made.

    Raises:
        FeatureError: the store is of another encoder, or lacks items.
    """
    if config.features:
        store, keys = image_store(config), content_keys("image", prepared)
        check_store(store, side, pool=None)  # vectors do not depend on how patches are pooled
    else:
        writer = FeatureWriter(side, prepared, run_dir / "features")
        store, keys = writer.write(), writer.keys
    return store.features(keys, pooled=True, data=prepared.path).vectors


def build_model(config: AlignmentConfig, vocabulary: AttributeVocabulary, photos: np.ndarray) -> AlignmentModel:
    """The model, with all its variables; `photos` `[N, P]` are those of the training items."""
    options = config.model.attributes
    encoder = AttributeEncoder(
        vocabulary.sizes,
        options.dim,
        alone=True,
        hidden_dim=options.hidden_dim,
        output_dim=config.model.dim,
        dropout=options.dropout,
        name="attributes",
    )
    width, project = photos.shape[1], None
    wanted = config.model.project
    if wanted is False and width != config.model.dim:
        raise ConfigError(
            f"model.project=false, but the image encoder gives {width} values and model.dim is {config.model.dim}"
        )
    if wanted or (wanted is None and width != config.model.dim):
        layers = [Standardize(photos, name="standardize"), tf.keras.layers.Dense(config.model.dim, dtype="float32")]
        project = tf.keras.Sequential(layers, name="project")
    model = AlignmentModel(encoder, project, temperature=config.task.temperature)
    model.attributes(np.zeros((1, len(vocabulary.sizes), vocabulary.max_values), np.int32))
    model.photos(photos[:1])
    return model


def drop_fields(ids: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Attributes `[B, F, V]` with some fields missing (0), never all of an item's."""
    dropped = rng.random(ids.shape[:2]) < rate
    dropped &= ~(dropped | ~(ids > 0).any(2)).all(1, keepdims=True)
    return np.where(dropped[..., None], 0, ids).astype(np.int32)
