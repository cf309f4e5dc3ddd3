"""Encoders with random weights, in the sizes that a configuration names."""

from __future__ import annotations

from typing import Any, Protocol

from tfrec.config import ConfigError
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import BertEncoder, ClipTokenizer, WordPiece


class TransformerSizes(Protocol):
    """Token width, number of blocks, attention heads."""

    dim: int
    layers: int
    heads: int


class PhotoSizes(TransformerSizes, Protocol):
    """Height and width of the photos and the side of a patch, in pixels; convolutions before the patches."""

    size: tuple[int, int]
    patch: int
    stem_convolutions: int


class TextSizes(TransformerSizes, Protocol):
    """Tokens of a text."""

    length: int


def untrained_vit(sizes: PhotoSizes, *, option: str = "model.image", **options: Any) -> ViTEncoder:
    """A ViT; `options` are further arguments of `ViTEncoder`.

    Raises:
        ConfigError: the sizes, which stand under `option` in the configuration, do not fit together.
    """
    try:
        return ViTEncoder(
            size=sizes.size,
            patch=sizes.patch,
            dim=sizes.dim,
            layers=sizes.layers,
            heads=sizes.heads,
            stem_convolutions=sizes.stem_convolutions,
            name="image_encoder",
            **options,
        )
    except EncoderError as error:
        raise ConfigError(f"{option}: {error}") from None


def untrained_bert(sizes: TextSizes, tokenizer: WordPiece | ClipTokenizer) -> BertEncoder:
    """A BERT over the ids of `tokenizer`.

    Raises:
        EncoderError: the sizes do not fit together.
    """
    return BertEncoder(
        vocabulary_size=len(tokenizer),
        dim=sizes.dim,
        layers=sizes.layers,
        heads=sizes.heads,
        max_length=sizes.length,
        pad_id=tokenizer.pad_id,
        dropout=0.0,  # dropout inside KerasNLP's bricks could not be resumed exactly
        name="text_encoder",
    )
