"""An encoder with all that it needs to read raw content, as one folder: what a run, a feature store and export share.

A side's folder holds `encoder.json` (the classes and their arguments), the tokenizer's files, and `weights.*` (a
TensorFlow checkpoint). Nothing in it refers to where the weights came from.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow as tf

from pipelines.publish import put_back
from tfrec.encoders.blocks import text_mask
from tfrec.encoders.checkpoints import kinds_of, load_image_encoder, load_text_encoder
from tfrec.encoders.checkpoints.source import CheckpointError
from tfrec.encoders.flat import FlatBlock
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.pooling import SentencePooling
from tfrec.encoders.resnet import ResNetEncoder
from tfrec.encoders.text import BertEncoder, ClipTextEncoder, ClipTokenizer, WordPiece, read_vocabulary
from tfrec.weights import read_weights

DESCRIPTION = "encoder.json"
ENCODERS = {cls.__name__: cls for cls in (BertEncoder, ClipTextEncoder, ViTEncoder, ResNetEncoder)}
WORDPIECE_OPTIONS = ("sequence_length", "lowercase", "strip_accents", "split_cjk")
CLIP_OPTIONS = ("sequence_length", "pad_id")

TEXT_LENGTH = 64  # ids per text where none is asked for: what is published reads up to 512, and catalogues say less

Encoder = BertEncoder | ClipTextEncoder | ViTEncoder | ResNetEncoder


@dataclass
class TextSide:
    """A text encoder, the tokenizer that feeds it and the pooling that sums it up.

    Attributes:
        encoder: ids `[B, T]` -> tokens `[B, T, D]`.
        tokenizer: texts -> ids `[B, T]`.
        pooling: tokens and mask -> vectors `[B, P]`.
        source: where the weights came from, for messages.
    """

    encoder: BertEncoder | ClipTextEncoder
    tokenizer: WordPiece | ClipTokenizer
    pooling: SentencePooling
    source: str = ""
    kind: ClassVar[str] = "text"

    @property
    def vector_dim(self) -> int:
        """Width of the pooled vector."""
        return self.pooling.projection_dim or self.encoder.dim

    def encode(self, ids: tf.Tensor, held: list[FlatBlock] | None = None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Encode ids int32 `[B, T]`, all padding where there is no text; `held`: the encoder's `held_blocks`.

        Returns:
            Tokens `[B, T, D]`, their mask `[B, T]` (all false where there is no text), and vectors `[B, P]` float32
            (zeros there).
        """
        tokens, mask = self.encoder(ids, held=held), text_mask(self.encoder, ids, self.tokenizer.pad_id)
        present = tf.reduce_any(mask, 1, keepdims=True)
        vectors = tf.cast(self.pooling(tokens, self.encoder.mask(ids)), tf.float32)
        return tokens, mask, tf.where(present, vectors, 0.0)

    @cached_property
    def digest(self) -> str:
        """Hash of the weights and of all that decides what a text becomes."""
        return digest_of(describe_text(self), [*self.encoder.weights, *self.pooling.weights])


@dataclass
class ImageSide:
    """An image encoder.

    Attributes:
        encoder: photos `[B, H, W, 3]` -> tokens `[B, 1 + N, D]`.
        source: where the weights came from, for messages.
    """

    encoder: ViTEncoder | ResNetEncoder
    source: str = ""
    kind: ClassVar[str] = "image"

    @property
    def vector_dim(self) -> int:
        """Width of the pooled vector."""
        return self.encoder.output_dim

    def encode(
        self, photos: tf.Tensor, has_photo: tf.Tensor, pool: int = 1, held: list[FlatBlock] | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode photos uint8 `[B, H, W, 3]`, of which bool `[B]` are there; `held`: the encoder's `held_blocks`.

        Returns:
            Tokens `[B, 1 + N, D]`, averaged over squares of side `pool`, and vectors `[B, P]` float32 (zeros where
            there is no photo).
        """
        tokens = self.encoder(photos, held=held) if held else self.encoder(photos)
        vectors = tf.where(has_photo[:, None], tf.cast(self.encoder.pooled(tokens), tf.float32), 0.0)
        return self.encoder.pool_patches(tokens, pool) if pool > 1 else tokens, vectors

    @cached_property
    def digest(self) -> str:
        """Hash of the weights and of all that decides what a photo becomes."""
        return digest_of(describe_layer(self.encoder), self.encoder.weights)


Side = TextSide | ImageSide


def load_text_side(source: str | Path, *, length: int | None = None, layers: int | None = None) -> TextSide:
    """Load a text encoder, published or saved by `save_side`, without dropout.

    Args:
        source: what `load_text_encoder` reads, a side's folder, or a folder that holds one as `text/`.
        length: ids per text; as published where None.
        layers: keep only the first blocks.

    Raises:
        CheckpointError: the weights cannot be had or do not fit.
    """
    folder = side_folder(source, "text")
    if folder is not None:
        side = read_side(folder, length=length, layers=layers)
        if not isinstance(side, TextSide):
            raise CheckpointError(f"{source}: holds an image encoder; a text encoder is wanted here.")
        return side
    encoder, tokenizer, pooling = load_text_encoder(source, sequence_length=length, layers=layers, dropout=0.0)
    return TextSide(encoder, tokenizer, pooling, str(source))


def load_image_side(
    source: str | Path, *, size: int | tuple[int, int] | None = None, layers: int | None = None
) -> ImageSide:
    """Load an image encoder, published or saved by `save_side`, without dropout.

    Args:
        source: what `load_image_encoder` reads, a side's folder, or a folder that holds one as `image/`.
        size: height and width of the photos in pixels; as published where None.
        layers: keep only the first blocks.

    Raises:
        CheckpointError: the weights cannot be had or do not fit.
    """
    folder = side_folder(source, "image")
    if folder is not None:
        side = read_side(folder, layers=layers)
        if not isinstance(side, ImageSide):
            raise CheckpointError(f"{source}: holds a text encoder; an image encoder is wanted here.")
        wanted = side.encoder.size if size is None else (size, size) if isinstance(size, int) else tuple(size)
        if side.encoder.size != wanted:
            raise CheckpointError(
                f"{source}: was trained on photos of {side.encoder.size} pixels, asked for {wanted}; set the photos' size "
                "(model.image.size, model.encoder.size in metric learning) to it."
            )
        return side
    return ImageSide(load_image_encoder(source, size=size, layers=layers, dropout=0.0), str(source))


def text_length(source: str | Path, asked: int | None) -> int:
    """The ids per text that are asked for; else `TEXT_LENGTH`, or as many as a saved text encoder reads if that is less."""
    folder = side_folder(source, "text")
    if asked is not None or folder is None:
        return asked or TEXT_LENGTH
    return min(TEXT_LENGTH, read_description(folder)["encoder"]["config"].get("max_length", TEXT_LENGTH))


def sides_of(source: str | Path) -> list[str]:
    """Which encoders a source holds: `text`, `image` or both.

    Raises:
        CheckpointError: it holds none that is known.
    """
    if (Path(source) / DESCRIPTION).is_file():
        about = json.loads((Path(source) / DESCRIPTION).read_text(encoding="utf-8"))
        return ["text" if "tokenizer" in about else "image"]
    saved = [kind for kind in ("text", "image") if (Path(source) / kind / DESCRIPTION).is_file()]
    return saved or kinds_of(source)


def side_folder(source: str | Path, kind: str) -> Path | None:
    """The folder of a saved side of `kind` (`text` or `image`) that `source` names; None where it names none."""
    for folder in (Path(source), Path(source) / kind):
        put_back(folder)
        if (folder / DESCRIPTION).is_file():
            return folder
    return None


# -- saving ----------------------------------------------------------------------------------------------------


def save_side(side: Side, folder: Path) -> None:
    """Write a side into a new or empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _objects(side).write(str(folder / "weights"))
    about = describe_text(side) if isinstance(side, TextSide) else {"encoder": describe_layer(side.encoder)}
    if isinstance(side, TextSide):
        _save_tokenizer(side.tokenizer, folder)
    (folder / DESCRIPTION).write_text(json.dumps({"source": side.source, **about}, indent=1), encoding="utf-8")


def read_side(folder: Path, *, length: int | None = None, layers: int | None = None) -> Side:
    """Read what `save_side` wrote; `length` replaces the ids per text, `layers` keeps only the first blocks.

    Raises:
        CheckpointError: the folder is not whole, or its encoder cannot do what is asked.
    """
    about = read_description(folder)
    config = about["encoder"]["config"]
    encoder = ENCODERS[about["encoder"]["class"]](**config, name=about["encoder"]["name"])
    encoder.build(None)
    if "tokenizer" not in about:
        side: Side = ImageSide(encoder, about["source"])
    else:
        most = config["max_length"]
        if length is not None and length > most:
            raise CheckpointError(
                f"{folder}: {length} ids per text, but the encoder reads {most}; ask for at most so many (--length, or "
                "model.text.length of a recipe)."
            )
        try:
            tokenizer = _load_tokenizer(folder, about["tokenizer"], length)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: its tokenizer cannot be made ({error}).") from None
        pooling = SentencePooling(**about["pooling"], name="text_pooling")
        pooling.build((None, None, encoder.dim))
        side = TextSide(encoder, tokenizer, pooling, about["source"])
    cure = "copy the whole folder, or save the encoder again."
    read_weights(_objects(side), folder / "weights", error=CheckpointError, cure=cure)
    if layers is not None:
        keep_layers(encoder, layers, str(folder))
    return side


def read_description(folder: Path) -> dict:
    """What a saved side's `encoder.json` says.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION} cannot be read ({error}); save the encoder again.") from None


def keep_layers(encoder: Encoder, layers: int, source: str) -> None:
    """Cut an encoder down to its first blocks.

    Raises:
        CheckpointError: it has fewer, or is a ResNet, whose width changes from stage to stage.
    """
    if isinstance(encoder, ResNetEncoder):
        raise CheckpointError(f"{source}: the first {layers} blocks of a ResNet alone cannot be had; keep all.")
    if not 1 <= layers <= len(encoder.blocks):
        raise CheckpointError(f"{source}: layers={layers}, but the encoder has {len(encoder.blocks)} blocks.")
    encoder.blocks = list(encoder.blocks)[:layers]
    encoder.layers = layers


def _objects(side: Side) -> tf.train.Checkpoint:
    parts = {"encoder": side.encoder}
    if isinstance(side, TextSide):
        parts["pooling"] = side.pooling
    return tf.train.Checkpoint(**parts)


def describe_layer(layer: Encoder) -> dict:
    """Class, name and arguments of an encoder; the compute type is the process's own business."""
    config = {name: value for name, value in layer.get_config().items() if name not in ("name", "dtype", "trainable")}
    return {"class": type(layer).__name__, "name": layer.name, "config": config}


def describe_text(side: TextSide) -> dict:
    """Classes and arguments of encoder, tokenizer and pooling."""
    tokenizer, pooling = side.tokenizer, side.pooling.get_config()
    options = WORDPIECE_OPTIONS if isinstance(tokenizer, WordPiece) else CLIP_OPTIONS
    return {
        "encoder": describe_layer(side.encoder),
        "tokenizer": {
            "class": type(tokenizer).__name__,
            **{name: getattr(tokenizer, name) for name in options},
            "words": hashlib.sha256("\n".join(tokenizer.vocabulary).encode()).hexdigest(),
        },
        "pooling": {name: value for name, value in pooling.items() if name not in ("name", "dtype", "trainable")},
    }


def _save_tokenizer(tokenizer: WordPiece | ClipTokenizer, folder: Path) -> None:
    if isinstance(tokenizer, WordPiece):
        tokenizer.save(folder / "vocab.txt")
        return
    (folder / "vocab.json").write_text(json.dumps(tokenizer.vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(tokenizer.merges), encoding="utf-8")


def _load_tokenizer(folder: Path, about: dict, length: int | None) -> WordPiece | ClipTokenizer:
    names = WORDPIECE_OPTIONS if about["class"] == "WordPiece" else CLIP_OPTIONS
    options = {name: about[name] for name in names}
    options["sequence_length"] = length or options["sequence_length"]
    if about["class"] == "WordPiece":
        return WordPiece(read_vocabulary(folder / "vocab.txt"), **options)
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    return ClipTokenizer(json.loads((folder / "vocab.json").read_text(encoding="utf-8")), merges, **options)


def digest_of(about: dict, weights: Iterable[tf.Variable]) -> str:
    """SHA-256 over a description and the values of weights."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for weight in weights:
        digest.update(np.ascontiguousarray(weight.numpy()).data)
    return digest.hexdigest()
