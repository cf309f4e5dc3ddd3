"""What a run keeps beside its weights: vocabularies, and the encoders that published weights brought along."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import pandas as pd
import tensorflow as tf

from pipelines.prepared import Prepared
from pipelines.publish import filled_whole
from pipelines.schema import ATTRIBUTE_PREFIX
from tfrec.attribute_vocabulary import AttributeVocabulary
from tfrec.config import ConfigError, ImageConfig, TextConfig
from tfrec.encoders.sides import ImageSide, Side, TextSide, load_image_side, load_text_side, read_side, save_side
from tfrec.encoders.text import ClipTokenizer, WordPiece, train_vocabulary
from tfrec.features.store import SIDES, SideStore, stored_sides
from tfrec.retrieval.config import ModelConfig, RetrievalConfig


@dataclass
class Assets:
    """What turns raw values into ids and features: saved with a run, read back by everything after it.

    Attributes:
        tokenizer: of the texts; None where they are not used.
        attributes: vocabulary of the item fields; None where they are not used.
        users: vocabulary of the customer fields.
        text: the published text encoder; None where it starts from random weights.
        image: the published image encoder, likewise.
    """

    tokenizer: WordPiece | ClipTokenizer | None
    attributes: AttributeVocabulary | None
    users: AttributeVocabulary | None
    text: TextSide | None = None
    image: ImageSide | None = None

    @classmethod
    def learn(cls, config: RetrievalConfig, prepared: Prepared) -> "Assets":
        """Vocabularies of the dataset; encoders from the weights or the feature store that the configuration names."""
        model = config.model
        sides = published_sides(config)
        text, image = sides.get("text"), sides.get("image")
        assert not isinstance(text, ImageSide)
        assert not isinstance(image, TextSide)
        tokenizer: WordPiece | ClipTokenizer | None = text.tokenizer if text else None
        attributes = users = None
        if model.text.enabled and tokenizer is None:
            words = train_vocabulary(prepared.items["text"], model.text.vocabulary_size)
            tokenizer = WordPiece(words, sequence_length=model.text.length)
        if model.attributes.enabled:
            frame, fields = item_fields(prepared, model)
            if fields:
                options = model.attributes
                attributes = AttributeVocabulary.build(
                    frame, fields, min_count=options.min_count, max_values=options.max_values
                )
        if model.query.user_fields and prepared.user_fields:
            users = AttributeVocabulary.build(prepared.users, prepared.user_fields, min_count=2)
        return cls(tokenizer, attributes, users, text, image)

    def save(self, folder: Path) -> None:
        """Write `vocab.txt` or `text/`, `image/`, `attributes.json`, `users.json`, those that there are; whole or not."""
        with filled_whole(folder) as work:
            if isinstance(self.tokenizer, WordPiece) and self.text is None:
                self.tokenizer.save(work / "vocab.txt")
            for name in SIDES:
                if getattr(self, name):
                    save_side(getattr(self, name), work / name)
            for name in ("attributes", "users"):
                if getattr(self, name):
                    getattr(self, name).to_json(work / f"{name}.json")

    @classmethod
    def load(cls, folder: Path, config: RetrievalConfig) -> "Assets":
        """Read what `save` wrote."""

        def vocabulary(name: str) -> AttributeVocabulary | None:
            path = folder / f"{name}.json"
            return AttributeVocabulary.from_json(path) if path.exists() else None

        @overload
        def side(name: Literal["text"]) -> TextSide | None: ...

        @overload
        def side(name: Literal["image"]) -> ImageSide | None: ...

        def side(name: str) -> Side | None:
            with encoder_scope(name):
                return read_side(folder / name) if (folder / name).exists() else None

        path, text = folder / "vocab.txt", side("text")
        tokenizer = text.tokenizer if text else None
        if path.exists():
            tokenizer = WordPiece.load(path, sequence_length=config.model.text.length)
        return cls(tokenizer, vocabulary("attributes"), vocabulary("users"), text, side("image"))

    def photo_size(self, model: ModelConfig) -> tuple[int, int]:
        """Height and width of the photos that the model reads."""
        return self.image.encoder.size if self.image else model.image.size


def published_sides(config: RetrievalConfig) -> dict[str, Side]:
    """The encoders that come with weights: those of the feature store, and those that the options name.

    Raises:
        ConfigError: options that are at odds with each other.
        CheckpointError: weights that cannot be had or do not fit.
    """
    stores = stored_sides(Path(config.features)) if config.features else {}
    found: dict[str, Side] = {}
    for name, options in (("text", config.model.text), ("image", config.model.image)):
        if not options.enabled:
            continue
        check_options(name, options, stored=name in stores, deep=config.model.item.deep)
        if name in stores:
            check_store_options(name, options, stores[name], deep=config.model.item.deep)
        with encoder_scope(name):
            if name in stores:
                found[name] = read_side(stores[name].encoder)
                check_text_length(options, found[name], stores[name])
            elif options.weights is not None:
                if isinstance(options, TextConfig):
                    found[name] = load_text_side(options.weights, length=options.length)
                else:
                    found[name] = load_image_side(options.weights, size=options.size)
    if stores and not found:
        raise ConfigError(f"features={config.features} holds {', '.join(stores)}, which the model does not use")
    return found


def encoder_scope(name: str) -> tf.name_scope:
    """Variables made under it are called as if the item tower had made them: learning rates go by name."""
    return tf.name_scope(f"item_tower/{name}_encoder")


def check_options(name: str, options: TextConfig | ImageConfig, *, stored: bool, deep: bool) -> None:
    """Refuse options of an encoder that are at odds with each other.

    Raises:
        ConfigError: the option, and what it wants.
    """
    published = stored or options.weights is not None
    if options.lora_rank and not published:
        raise ConfigError(
            f"model.{name}.lora_rank={options.lora_rank} adapts published weights: set model.{name}.weights"
        )
    if published and not deep and not is_frozen(options):
        raise ConfigError(
            f"model.{name}: train_blocks and lora_rank train the item tower's encoder, which there is none of with "
            f"model.item.deep=false; set that to true, or model.{name}.train_blocks=0 and lora_rank=0"
        )
    if options.pooled and not (published and is_frozen(options)):
        raise ConfigError(
            f"model.{name}.pooled=true is for frozen encoders: set model.{name}.weights, train_blocks=0 and lora_rank=0"
        )


def check_store_options(name: str, options: TextConfig | ImageConfig, store: SideStore, *, deep: bool) -> None:
    """Refuse options that ask for another encoder than the feature store's.

    Raises:
        ConfigError: the option, its value and the store's.
    """
    if not is_frozen(options):
        raise ConfigError(
            f"model.{name}: an encoder whose features are stored cannot train; leave out features={store.folder.parent}, "
            f"or set model.{name}.train_blocks=0 and lora_rank=0"
        )
    source = store.manifest["source"]
    if options.weights not in (None, source):
        raise ConfigError(f"model.{name}.weights={options.weights}, but {store.folder} was made with {source}")
    if deep and not options.pooled and not store.holds_tokens:
        raise ConfigError(
            f"{store.folder} holds pooled vectors only: set model.{name}.pooled=true, or encode again with "
            f"--{name}-store tokens"
        )


def check_text_length(options: TextConfig | ImageConfig, side: Side, store: SideStore) -> None:
    """Refuse a feature store of texts that were cut shorter than the options ask for; a longer one serves as it is.

    Raises:
        ConfigError: both lengths, and what would be right.
    """
    if not isinstance(options, TextConfig) or not isinstance(side, TextSide):
        return
    stored = side.tokenizer.sequence_length
    if stored < options.length:
        raise ConfigError(
            f"model.text.length={options.length}, but {store.folder} holds texts cut at {stored} ids: encode again with "
            f"--length {options.length}, or set model.text.length={stored}"
        )


def is_frozen(options: TextConfig | ImageConfig) -> bool:
    """Whether published weights stay as they are."""
    return options.train_blocks == 0 and options.lora_rank == 0


def item_fields(prepared: Prepared, model: ModelConfig) -> tuple[pd.DataFrame, list[str]]:
    """The item table and its attribute fields to use; the product group joins as a field of its own."""
    fields = list(prepared.fields if model.attributes.fields is None else model.attributes.fields)
    frame = prepared.items
    if model.attributes.group and "group" in frame:
        fields.append("group")
    return with_group(frame), fields


def with_group(items: pd.DataFrame) -> pd.DataFrame:
    """An item table with the product group, where there is one, as an attribute field."""
    return items.assign(**{f"{ATTRIBUTE_PREFIX}group": items["group"]}) if "group" in items else items
