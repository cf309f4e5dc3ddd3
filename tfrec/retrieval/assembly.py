"""From a configuration and a prepared dataset to a model with its inputs: where the pieces are put together."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from pipelines.batches import HistoryBatches, Purchases, make_dataset
from pipelines.content import ItemContent, photo_arrays
from pipelines.prepared import Prepared
from pipelines.schema import TRAIN, VAL
from pipelines.time_bounds import DAY, dated
from tfrec.bank import fill_bank
from tfrec.config import ConfigError, ImageConfig, TextConfig
from tfrec.distributed.workers import Workers
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.resnet import ResNetEncoder
from tfrec.encoders.text import BertEncoder, ClipTextEncoder, ClipTokenizer, WordPiece
from tfrec.encoders.tuning import freeze_statistics, tune
from tfrec.encoders.untrained import untrained_bert, untrained_vit
from tfrec.evaluation.protocol import Protocol
from tfrec.features.store import SideFeatures
from tfrec.fusion import CrossAttentionFusion
from tfrec.models import ItemVectors, TwoTower
from tfrec.neighbours import Neighbours, companions, followers, product_neighbours, products_of
from tfrec.retrieval.assets import Assets, encoder_scope, item_fields
from tfrec.retrieval.config import ModelConfig, RetrievalConfig
from tfrec.sampling import sample_rows
from tfrec.towers import HistoryTower, ItemTower, ShallowTower, UserTower
from tfrec.training.environment import automatic_batch_size

Encoder = TypeVar("Encoder", bound=tf.keras.layers.Layer)
Features = Mapping[str, SideFeatures]  # `text`, `image`: what frozen encoders made of the catalogue
LEFT_OUT = 10  # of so many customers, one at most is left out of a training on the validation purchases


def modalities_read(model: ModelConfig, assets: Assets, features: Features) -> frozenset[str]:
    """Of `photo`, `text` and `attributes`, those that an item's vector is made from."""
    if not (model.item.deep or model.item.shallow):
        return frozenset()
    read = {
        # The shallow tower reads of a photo what a frozen encoder made of it.
        "photo": model.image.enabled and (model.item.deep or "image" in features),
        "text": assets.tokenizer is not None,
        "attributes": assets.attributes is not None,
    }
    return frozenset(name for name, is_read in read.items() if is_read)


def item_content(config: RetrievalConfig, prepared: Prepared, assets: Assets, features: Features) -> ItemContent | None:
    """The arrays that items' vectors are made from; None where items are ids alone."""
    model = config.model
    read = modalities_read(model, assets, features)
    if not read:
        return None
    content = ItemContent(len(prepared.items))
    if "image" in features:
        content.arrays |= {"photo_tokens": features["image"].tokens, "has_photo": features["image"].mask}
    elif "photo" in read:
        content.size = assets.photo_size(model)
        arrays, content.photo_bytes = photo_arrays(prepared, content.size)
        content.arrays.update(arrays)
    if assets.tokenizer:
        content.arrays["tokens"] = tokenize(assets.tokenizer, prepared.items["text"])
        content.pad_id = assets.tokenizer.pad_id
    if "text" in features:
        content.arrays |= {"text_tokens": features["text"].tokens, "text_mask": features["text"].mask}
    if assets.attributes:
        content.arrays["attributes"] = assets.attributes.encode(item_fields(prepared, model)[0])
    return content


def tokenize(tokenizer: WordPiece | ClipTokenizer, texts: Iterable[str | None], *, batch: int = 4096) -> np.ndarray:
    """Token ids int32 `[N, T]`; an empty text is all padding."""
    texts = [text or "" for text in texts]
    rows = np.concatenate([tokenizer(texts[i : i + batch]).numpy() for i in range(0, len(texts), batch)])
    rows[[not text for text in texts]] = tokenizer.pad_id
    return rows


def build_item_tower(model: ModelConfig, assets: Assets, features: Features) -> ItemTower:
    """The item tower of a configuration that reads something of items; what comes as features has no encoder in it."""
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
        image=image_encoder(model.image, assets) if model.image.enabled and "image" not in features else None,
        text=text_encoder(model.text, assets) if assets.tokenizer and "text" not in features else None,
        attributes=AttributeEncoder(assets.attributes.sizes, options.dim) if assets.attributes else None,
        pool=model.image.pool,
        pad_id=assets.tokenizer.pad_id if assets.tokenizer else 0,
        name="item_tower",
    )


def build_shallow_tower(dim: int, assets: Assets, features: Features) -> ShallowTower | None:
    """The shallow tower over attributes, words and frozen encoders' vectors; None where items have none of them."""
    if not (assets.tokenizer or assets.attributes or features):
        return None
    return ShallowTower(
        dim,
        attributes=AttributeEncoder(assets.attributes.sizes, dim, dtype="float32") if assets.attributes else None,
        vocabulary=len(assets.tokenizer) if assets.tokenizer else 0,
        pad_id=assets.tokenizer.pad_id if assets.tokenizer else 0,
        vectors={VECTORS[name]: side.vectors for name, side in features.items()},
        name="shallow",
    )


VECTORS = {"text": "text_vector", "image": "photo_vector"}


def shallow_inputs(content: ItemContent, features: Features) -> dict[str, np.ndarray]:
    """What the shallow tower reads of every item, name -> `[N, ...]`."""
    inputs = {name: content.arrays[name] for name in ("tokens", "attributes") if name in content.arrays}
    return inputs | {VECTORS[name]: side.vectors for name, side in features.items()}


def image_encoder(options: ImageConfig, assets: Assets) -> ViTEncoder | ResNetEncoder:
    """The published image encoder, of which what should train does; else a ViT of the configured size."""
    if assets.image:
        return tuned(assets.image.encoder, "image", options)
    return untrained_vit(options)


def text_encoder(options: TextConfig, assets: Assets) -> BertEncoder | ClipTextEncoder:
    """The published text encoder, of which what should train does; else a BERT of the configured size."""
    if assets.text:
        return tuned(assets.text.encoder, "text", options)
    assert assets.tokenizer is not None
    return untrained_bert(options, assets.tokenizer)


def tuned(encoder: Encoder, name: str, options: ImageConfig | TextConfig) -> Encoder:
    """Let the blocks train that the options name, or low-rank updates instead.

    Raises:
        ConfigError: the encoder cannot be tuned so.
    """
    try:
        with encoder_scope(name):
            tune(encoder, train_blocks=options.train_blocks, lora_rank=options.lora_rank)
            freeze_statistics(encoder)
    except EncoderError as error:
        raise ConfigError(f"model.{name}: {error}") from None
    return encoder


def clear_untrained(tower: HistoryTower | UserTower, buyers: np.ndarray, user_fields: np.ndarray) -> None:
    """Let rows that no example may ever read say nothing, in place of the noise that they start from: unknown customers,
    those who are not among the `buyers` `[n]`, and values of the `user_fields` `[users, G]` that no buyer has. A field that
    is missing starts from nothing, too.
    """
    bought = np.bincount(buyers, minlength=len(user_fields)) > 0
    if isinstance(tower, UserTower):
        tower.table.assign(tower.table * np.append(bought, False).astype(np.float32)[:, None])
    for table, values in zip(tower.field_tables, user_fields[bought].T, strict=True):
        read = np.bincount(values, minlength=table.shape[0]) > 0
        read[0] = False
        table.assign(table * read.astype(np.float32)[:, None])


def fitting_batch_size(config: RetrievalConfig, items: int) -> int:
    """The customers of a step that this machine's memory has room for, of a catalogue of so many items."""
    # An estimate of the floats that a place of a history keeps for its gradient: some 12 vectors in each block, 8 around
    # the blocks, and logits against candidates: the catalogue, or in a batch an eighth of it.
    query = config.model.query
    width = config.model.item.dim * (12 * query.layers + 8)
    candidates = items // (1 if config.task.candidates == "catalogue" else 8)
    places = 1 + (query.length if query.kind == "history" else 0)
    return automatic_batch_size(4 * places * (width + candidates))


class RetrievalAssembly:
    """A two-tower model with everything around it that comes from the dataset.

    Args:
        config: the configuration.
        prepared: the dataset.
        assets: vocabularies and published encoders; learnt from the dataset and loaded where None.
        features: what frozen encoders made of the catalogue; where one is not in it, it runs in every step.
        workers: who trains the model together; a process alone where None.
    """

    def __init__(
        self,
        config: RetrievalConfig,
        prepared: Prepared,
        assets: Assets | None = None,
        features: Features | None = None,
        workers: Workers | None = None,
    ):
        self.config, self.prepared, self.features = config, prepared, features or {}
        self.workers = workers or Workers()
        self.assets = assets or Assets.learn(config, prepared)
        self.purchases, self.calibration_users = self._training_purchases()
        self.content = item_content(config, prepared, self.assets, self.features)
        self.batches = self._batches()
        self.model = self._model()

    @property
    def alone_in_float32(self) -> bool:
        """Whether a process alone has the model, and computes as evaluation does."""
        return self.workers.place.count == 1 and self.model.compute_dtype == "float32"

    event_values: tuple[str, ...] = ()  # further columns of the events that the model learns from

    def _training_purchases(self) -> tuple[Purchases, np.ndarray]:
        """What the model learns from, and the customers to whose validation purchases its repeats are fitted."""
        events = self.prepared.events(columns=["user", "item", "time", "split", *self.event_values])
        rating = events["rating"].to_numpy() if "rating" in events else None
        purchases = Purchases(
            events["user"].to_numpy(),
            events["item"].to_numpy(),
            events["time"].to_numpy(),
            len(self.prepared.users),
            rating,
        )
        split, final = events["split"].to_numpy(), self.config.training.final
        calibration_users = self._calibration_users(purchases.user, split)
        trained = split <= (VAL if final else TRAIN)
        if final:  # what repeats are fitted to must be new to the model
            trained &= (split < VAL) | ~np.isin(purchases.user, calibration_users)
        within = self.config.task.collapse_repeats
        if within == "auto":
            within = "always" if self.prepared.holds_out_new_items else "day" if dated(purchases.time) else "never"
        return purchases.where(trained).collapse_repeats(within), calibration_users

    def _calibration_users(self, user: np.ndarray, split: np.ndarray) -> np.ndarray:
        """A sample of those who have validation purchases and earlier ones, rising; empty where no repeat is recommended.

        Args:
            user: of every purchase `[E]`.
            split: likewise.
        """
        query, training = self.config.model.query, self.config.training
        repeated = query.repeats and query.kind == "history" and not self.config.evaluation.seen_filter
        if not repeated or self.prepared.holds_out_new_items:
            return np.empty(0, np.int64)
        count = len(self.prepared.users)
        asked, known = (np.bincount(user[part], minlength=count) > 0 for part in (split == VAL, split < VAL))
        users, most = np.flatnonzero(asked & known), training.calibration_users
        if training.final:
            most = min(most, len(users) // LEFT_OUT)
        return sample_rows(users, most, self.config.seed)

    @property
    def deep(self) -> bool:
        """Whether items have content that the item tower encodes."""
        return self.content is not None and self.config.model.item.deep

    @cached_property
    def user_fields(self) -> np.ndarray:
        """Customer fields as ids, int32 `[users, G]`."""
        if self.assets.users is None:
            return np.zeros((len(self.prepared.users), 0), np.int32)
        return self.assets.users.encode(self.prepared.users)[:, :, 0]

    @cached_property
    def modalities(self) -> frozenset[str]:
        """Of `photo`, `text` and `attributes`, those that items are encoded from."""
        return modalities_read(self.config.model, self.assets, self.features)

    @cached_property
    def frequency(self) -> np.ndarray:
        """Share that each item has of the purchases that batches name, float64 `[N]`."""
        counts = np.bincount(self.purchases.item[self.batches.named], minlength=len(self.prepared.items))
        return counts / max(1, counts.sum())

    def _batches(self) -> HistoryBatches:
        config = self.config
        size, length = config.training.batch_size, config.model.query.length
        length = length if config.model.query.kind == "history" else 0
        if size == "auto":  # of a training it is a number by now
            size = fitting_batch_size(config, len(self.prepared.items))
        return HistoryBatches(
            self.purchases,
            length=length,
            batch_size=size,
            seed=config.seed,
            items=len(self.prepared.items),
            user_fields=self.user_fields,
            content=self.content if self.deep else None,
            encode_items=config.task.encode_items,
            candidates=config.task.candidates == "in_batch",
            negatives=config.task.negatives,
            modality_dropout=config.model.fusion.modality_dropout,
            recency_days=config.task.recency_days,
            shuffle=config.task.shuffle,
            in_history=self.in_history,
            predicted=self.predicted,
            worker=self.workers.place.index,
            workers=self.workers.place.count,
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
            shallow = build_shallow_tower(item.dim, self.assets, self.features)
            inputs = shallow_inputs(self.content, self.features)
        vectors = ItemVectors(
            len(self.prepared.items),
            item.dim,
            content=self.deep,
            shallow=shallow,
            inputs=inputs,
            id_embedding=item.id_embedding,
            id_dropout=item.id_dropout,
            bias=item.bias,
            normalize=item.normalize,
            tie=item.tie or query.kind == "user",  # which reads no history
            name="vectors",
        )
        fields = tuple(self.assets.users.sizes) if self.assets.users else ()
        model = self._two_tower(
            vectors=vectors,
            query_tower=build_query_tower(self.config.model, fields, len(self.prepared.users)),
            item_tower=build_item_tower(config.model, self.assets, self.features) if self.deep else None,
            frequency=self.frequency,
            temperature=task.temperature,
            mean_purchases=self.batches.mean_purchases,
            candidates=task.candidates,
            negatives=task.negatives,
            logq=task.logq,
            hard_negatives=task.hard_negatives,
            mask_own=task.mask_own,
            label_smoothing=task.label_smoothing,
            shortcut=query.shortcut,
            repeats=query.repeats,
        )
        size = self.content.size if self.content else None
        first = next(iter(make_dataset(self.batches.whole, 0, 1, photo_size=size)))
        batch = tf.nest.map_structure(tf.convert_to_tensor, dict(first))
        model.compute_loss(batch, training=True)  # creates every variable
        vectors.warm.assign((self.frequency > 0).astype(np.float32))
        clear_untrained(model.query_tower, self.purchases.user[self.batches.named], self.user_fields)
        for tower in (model.item_tower, shallow):
            if self.content is not None and tower is not None and tower.attributes is not None:
                tower.attributes.clear_absent(self.content.arrays["attributes"])
        vectors.clear_unread(self.purchases.item[self.batches.read])
        return model

    @cached_property
    def product_score(self) -> float:
        """What a purchase adds to the items of its product; 0 where the items name none, as there is nothing to add to."""
        return self.config.model.query.variants if any(products_of(self.prepared.items)) else 0.0

    @cached_property
    def neighbours(self) -> list[Neighbours]:
        """The items that gain from a purchase of another one; made when first asked for: training does not read them."""
        tables = []
        if self.product_score:
            tables.append(product_neighbours(self.prepared.items["group"], self.frequency, self.product_score))
        return tables + self.counted

    @cached_property
    def counted(self) -> list[Neighbours]:
        """Of these, what is taken from the training purchases: followers and companions, where an item gains by them."""
        query, items = self.config.model.query, len(self.prepared.items)
        weights = {followers: query.followers, companions: query.companions}
        return [count(self.wanted, items, weight) for count, weight in weights.items() if weight]

    @property
    def wanted(self) -> Purchases:
        """The training purchases that say what others may be recommended."""
        return self.purchases

    @property
    def in_history(self) -> np.ndarray | None:
        """Which of the training purchases histories hold, bool `[n]`; None: all."""
        return None

    @property
    def predicted(self) -> np.ndarray | None:
        """Which of the training purchases are targets, bool `[n]`; None: all."""
        days, day = self.config.task.target_days, self.purchases.time // DAY
        return day > day.max(initial=0) - days if days else None

    def _two_tower(self, **parts: Any) -> TwoTower:
        return TwoTower(**parts)

    def further_metrics(self, split: str, queries_of: Callable[[Protocol], np.ndarray]) -> tuple[dict, dict]:
        """Metrics beside those of the lists, and those of simple rules by name; `queries_of` gives a protocol's `[U, D]`."""
        return {}, {}

    def dataset(self, start: int, stop: int) -> tf.data.Dataset:
        """tf.data batches of the training steps `start` to `stop`: this worker's share of them."""
        return make_dataset(self.batches, start, stop, photo_size=self.content.size if self.content else None)

    def refresh(self, progress: bool = True) -> None:
        """Encode the whole catalogue and fill the bank."""
        if self.content is None or not self.deep:
            return
        fill_bank(self.model, self.content, self.workers, progress=progress)


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
