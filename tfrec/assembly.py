"""From a configuration and a prepared dataset to a model with its inputs: where the pieces are put together."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.batches import HistoryBatches, Purchases, make_dataset
from pipelines.content import ItemContent, photo_arrays
from pipelines.prepared import Prepared
from tfrec.config import ModelConfig, RetrievalConfig
from tfrec.encoders.attributes import AttributeEncoder, AttributeVocabulary
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import BertEncoder, WordPiece, train_vocabulary
from tfrec.fusion import CrossAttentionFusion
from tfrec.models import ItemVectors, TwoTower
from tfrec.towers import HistoryTower, ItemTower, ShallowTower, UserTower

ENCODE_BATCH = 256


@dataclass
class Assets:
    """What turns raw values into ids: saved with a run, read back by everything after it.

    Attributes:
        tokenizer: of the texts; None where they are not used.
        attributes: vocabulary of the item fields; None where they are not used.
        users: vocabulary of the customer fields.
    """

    tokenizer: WordPiece | None
    attributes: AttributeVocabulary | None
    users: AttributeVocabulary | None

    @classmethod
    def learn(cls, config: RetrievalConfig, prepared: Prepared) -> "Assets":
        """Vocabularies of the dataset."""
        model = config.model
        tokenizer = attributes = users = None
        if model.text.enabled:
            words = train_vocabulary(prepared.items["text"], model.text.vocabulary_size)
            tokenizer = WordPiece(words, sequence_length=model.text.length)
        if model.attributes.enabled:
            frame, fields = item_fields(prepared, model)
            if fields:
                attributes = AttributeVocabulary.build(frame, fields, min_count=model.attributes.min_count)
        if model.query.user_fields and prepared.user_fields:
            users = AttributeVocabulary.build(prepared.users, prepared.user_fields, min_count=2)
        return cls(tokenizer, attributes, users)

    def save(self, folder: Path) -> None:
        """Write `vocab.txt`, `attributes.json` and `users.json`, those that there are."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.tokenizer:
            self.tokenizer.save(folder / "vocab.txt")
        for name in ("attributes", "users"):
            if getattr(self, name):
                getattr(self, name).to_json(folder / f"{name}.json")

    @classmethod
    def load(cls, folder: Path, config: RetrievalConfig) -> "Assets":
        """Read what `save` wrote."""

        def vocabulary(name):
            path = folder / f"{name}.json"
            return AttributeVocabulary.from_json(path) if path.exists() else None

        path, tokenizer = folder / "vocab.txt", None
        if path.exists():
            tokenizer = WordPiece.load(path, sequence_length=config.model.text.length)
        return cls(tokenizer, vocabulary("attributes"), vocabulary("users"))


def item_fields(prepared: Prepared, model: ModelConfig):
    """The item table and its attribute fields to use; the product group joins as a field of its own."""
    fields = list(model.attributes.fields or prepared.fields)
    frame = prepared.items
    if model.attributes.group and "group" in frame:
        frame = frame.assign(**{"attr.group": frame["group"]})
        fields.append("group")
    return frame, fields


def item_content(config: RetrievalConfig, prepared: Prepared, assets: Assets) -> ItemContent | None:
    """The arrays that the item tower reads; None where items are ids alone."""
    model = config.model
    if not (model.image.enabled or assets.tokenizer or assets.attributes):
        return None
    content = ItemContent(len(prepared.items))
    if model.image.enabled:
        content.size = model.image.size
        arrays, content.photo_bytes = photo_arrays(prepared, content.size)
        content.arrays.update(arrays)
    if assets.tokenizer:
        content.arrays["tokens"] = tokenize(assets.tokenizer, prepared.items["text"])
    if assets.attributes:
        content.arrays["attributes"] = assets.attributes.encode(item_fields(prepared, model)[0])
    return content


def tokenize(tokenizer: WordPiece, texts, *, batch: int = 4096) -> np.ndarray:
    """Token ids int32 `[N, T]`; an empty text is all padding."""
    texts = [text or "" for text in texts]
    rows = np.concatenate([tokenizer(texts[i : i + batch]).numpy() for i in range(0, len(texts), batch)])
    rows[[not text for text in texts]] = tokenizer.pad_id
    return rows


def build_item_tower(model: ModelConfig, assets: Assets) -> ItemTower | None:
    """The item tower of a configuration."""
    if not (model.image.enabled or assets.tokenizer or assets.attributes):
        return None
    options = model.fusion
    fusion = CrossAttentionFusion(
        options.dim,
        options.layers,
        options.heads,
        output_dim=model.item.dim,
        ratio=options.ratio,
        dropout=options.dropout,
    )
    return ItemTower(
        fusion,
        image=build_image_encoder(model) if model.image.enabled else None,
        text=build_text_encoder(model, assets.tokenizer) if assets.tokenizer else None,
        attributes=AttributeEncoder(assets.attributes.sizes, options.dim) if assets.attributes else None,
        pool=model.image.pool,
        name="item_tower",
    )


def build_shallow_tower(dim: int, assets: Assets) -> ShallowTower | None:
    """The shallow tower over attributes and words; None where items have neither."""
    if not (assets.tokenizer or assets.attributes):
        return None
    return ShallowTower(
        dim,
        attributes=AttributeEncoder(assets.attributes.sizes, dim) if assets.attributes else None,
        vocabulary=len(assets.tokenizer) if assets.tokenizer else 0,
        pad_id=assets.tokenizer.pad_id if assets.tokenizer else 0,
        name="shallow",
    )


def build_image_encoder(model: ModelConfig) -> ViTEncoder:
    """A ViT of the configured size, with random weights."""
    image = model.image
    return ViTEncoder(
        size=image.size,
        patch=image.patch,
        dim=image.dim,
        layers=image.layers,
        heads=image.heads,
        name="image_encoder",
    )


def build_text_encoder(model: ModelConfig, tokenizer: WordPiece) -> BertEncoder:
    """A BERT of the configured size, with random weights."""
    text = model.text
    return BertEncoder(
        vocabulary_size=len(tokenizer),
        dim=text.dim,
        layers=text.layers,
        heads=text.heads,
        max_length=text.length,
        pad_id=tokenizer.pad_id,
        dropout=0.0,  # the fusion drops; dropout inside KerasNLP's bricks could not be resumed exactly
        name="text_encoder",
    )


class RetrievalAssembly:
    """A two-tower model with everything around it that comes from the dataset.

    Args:
        config: the configuration.
        prepared: the dataset.
        assets: vocabularies; learnt from the dataset where None.
    """

    def __init__(self, config: RetrievalConfig, prepared: Prepared, assets: Assets | None = None):
        self.config, self.prepared = config, prepared
        self.assets = assets or Assets.learn(config, prepared)
        self.purchases = self._training_purchases()
        self.content = item_content(config, prepared, self.assets)
        self.batches = self._batches()
        self.model = self._model()

    def _training_purchases(self) -> Purchases:
        events = self.prepared.events(columns=["user", "item", "time", "split"])
        purchases = Purchases(
            events["user"].to_numpy(),
            events["item"].to_numpy(),
            events["time"].to_numpy(),
            len(self.prepared.users),
        )
        last = 1 if self.config.training.final else 0
        return purchases.where(events["split"].to_numpy() <= last).collapse_repeats(self.config.task.collapse_repeats)

    @cached_property
    def user_fields(self) -> np.ndarray:
        """Customer fields as ids, int32 `[users, G]`."""
        if self.assets.users is None:
            return np.zeros((len(self.prepared.users), 0), np.int32)
        return self.assets.users.encode(self.prepared.users)[:, :, 0]

    @cached_property
    def frequency(self) -> np.ndarray:
        """Share of the training purchases that each item has, float64 `[N]`."""
        counts = np.bincount(self.purchases.item, minlength=len(self.prepared.items))
        return counts / max(1, counts.sum())

    def _batches(self) -> HistoryBatches:
        config = self.config
        size, length = config.training.batch_size, config.model.query.length
        length = length if config.model.query.kind == "history" else 0
        if size == "auto":
            from tfrec.training import automatic_batch_size

            width = config.model.item.dim * (12 * config.model.query.layers + 8)
            size = automatic_batch_size(4 * width * (length + 1) + 4 * (length + 1) * len(self.prepared.items) // 8)
        return HistoryBatches(
            self.purchases,
            length=length,
            batch_size=size,
            seed=config.seed,
            items=len(self.prepared.items),
            user_fields=self.user_fields,
            content=self.content,
            encode_items=config.task.encode_items,
            candidates=config.task.candidates == "in_batch",
            negatives=config.task.negatives,
            modality_dropout=config.model.fusion.modality_dropout,
            recency_days=config.task.recency_days,
            shuffle_days=config.task.shuffle_days,
        )

    def _model(self) -> TwoTower:
        config, task, item, query = (
            self.config,
            self.config.task,
            self.config.model.item,
            self.config.model.query,
        )
        shallow, inputs = None, {}
        if item.shallow and self.content is not None:
            shallow = build_shallow_tower(item.dim, self.assets)
            inputs = {
                name: self.content.arrays[name] for name in ("tokens", "attributes") if name in self.content.arrays
            }
        vectors = ItemVectors(
            len(self.prepared.items),
            item.dim,
            content=self.content is not None,
            shallow=shallow,
            inputs=inputs,
            id_embedding=item.id_embedding,
            id_dropout=item.id_dropout,
            bias=item.bias,
            normalize=item.normalize,
            tie=item.tie,
            name="vectors",
        )
        fields = tuple(self.assets.users.sizes) if self.assets.users else ()
        model = TwoTower(
            vectors=vectors,
            query_tower=build_query_tower(self.config.model, fields, len(self.prepared.users)),
            item_tower=build_item_tower(config.model, self.assets),
            frequency=self.frequency,
            temperature=task.temperature,
            mean_targets=self.batches.mean_targets,
            candidates=task.candidates,
            negatives=task.negatives,
            logq=task.logq,
            hard_negatives=task.hard_negatives,
            mask_own=task.mask_own,
            label_smoothing=task.label_smoothing,
            shortcut=query.shortcut,
            repeats=query.repeats,
        )
        batch = tf.nest.map_structure(tf.convert_to_tensor, dict(next(iter(self.dataset(0, 1)))))
        model.compute_loss(batch, training=True)  # creates every variable
        vectors.warm.assign((self.frequency > 0).astype(np.float32))
        return model

    def dataset(self, start: int, stop: int) -> tf.data.Dataset:
        """tf.data batches of the training steps `start` to `stop`."""
        return make_dataset(self.batches, start, stop, photo_size=self.content.size if self.content else None)

    def refresh(self, progress: bool = True) -> None:
        """Encode the whole catalogue and fill the bank."""
        if self.content is None:
            return
        fill_bank(self.model, self.content, progress=progress)


def build_query_tower(model: ModelConfig, user_fields: tuple[int, ...], users: int) -> HistoryTower | UserTower:
    """The query tower of a configuration."""
    query, dim = model.query, model.item.dim
    if query.kind == "user":
        return UserTower(dim, users, user_fields=user_fields, name="query_tower")
    return HistoryTower(
        dim,
        query.length,
        layers=query.layers,
        heads=query.heads,
        ratio=query.ratio,
        dropout=query.dropout,
        positions=query.positions,
        time_gaps=query.time_gaps,
        user_fields=user_fields,
        name="query_tower",
    )


def fill_bank(model: TwoTower, content: ItemContent, *, progress: bool = True) -> None:
    """Encode every item in batches, in order, into the model's bank."""
    from tqdm import tqdm

    encode = tf.function(lambda batch: model.encode(batch), reduce_retracing=True)

    def batch_of(step):
        return {"items": content.gather(np.arange(step * ENCODE_BATCH, min(content.items, (step + 1) * ENCODE_BATCH)))}

    steps = -(-content.items // ENCODE_BATCH)
    hidden = None if progress else True
    with tqdm(total=content.items, desc="encode catalogue", unit="item", disable=hidden, leave=False) as bar:
        for step, batch in enumerate(make_dataset(batch_of, 0, steps, photo_size=content.size)):
            vectors = encode(batch)
            rows = tf.range(step * ENCODE_BATCH, step * ENCODE_BATCH + tf.shape(vectors)[0])
            model.vectors.bank.scatter_nd_update(rows[:, None], vectors)
            bar.update(int(tf.shape(vectors)[0]))
