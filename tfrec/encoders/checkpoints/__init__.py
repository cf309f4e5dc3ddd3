"""Published encoders: real weights into the KerasCV and KerasNLP bricks, none missing, none left over."""

from collections.abc import Callable, Collection
from pathlib import Path

import tensorflow as tf

from tfrec.encoders.checkpoints.bert import load_bert
from tfrec.encoders.checkpoints.clip import load_clip_image, load_clip_text
from tfrec.encoders.checkpoints.dinov2 import load_dinov2
from tfrec.encoders.checkpoints.images import Size
from tfrec.encoders.checkpoints.presets import is_preset, load_bert_preset
from tfrec.encoders.checkpoints.resnet import KERAS, load_keras_resnet50, load_resnet
from tfrec.encoders.checkpoints.sentences import load_sentence_pooling
from tfrec.encoders.checkpoints.source import Checkpoint, CheckpointError, open_checkpoint
from tfrec.encoders.checkpoints.tokenizers import load_clip_tokenizer, load_wordpiece
from tfrec.encoders.checkpoints.vit import load_vit
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.pooling import SentencePooling
from tfrec.encoders.text import BertEncoder, ClipTextEncoder, ClipTokenizer, WordPiece

__all__ = ["CheckpointError", "kinds_of", "load_image_encoder", "load_text_encoder"]

LoadedText = tuple[BertEncoder | ClipTextEncoder, WordPiece | ClipTokenizer, SentencePooling]
IMAGE_FAMILIES: dict[str, Callable[..., tf.keras.layers.Layer]] = {
    "vit": load_vit,
    "dinov2": load_dinov2,
    "clip": load_clip_image,
    "clip_vision_model": load_clip_image,
    "resnet": load_resnet,
}
CLIP_TEXT, BERT = ("clip", "clip_text_model"), ("bert",)


def load_image_encoder(
    source: str | Path, *, size: Size = None, layers: int | None = None, dropout: float | None = None
) -> tf.keras.layers.Layer:
    """Load a published image encoder.

    Args:
        source: A folder with config.json and safetensors, `hf://ORG/NAME[@REVISION]`, or for a ResNet-50 of
            tf.keras.applications `keras://resnet50` or its `.h5` file.
        size: Photo size in pixels, one number or (height, width); position embeddings are interpolated to it.
            The published size when not given.
        layers: Keep only the first blocks, for studies layer by layer.
        dropout: Dropout for fine-tuning; the published one when not given.

    Raises:
        CheckpointError: The weights cannot be had, or do not fit: the message names the tensors.
    """
    if str(source) == KERAS or Path(source).suffix in (".h5", ".hdf5"):
        return load_keras_resnet50(source, size=size, layers=layers, dropout=dropout)
    checkpoint = open_checkpoint(source)
    family = _family(checkpoint, IMAGE_FAMILIES, "image")
    try:
        return IMAGE_FAMILIES[family](checkpoint, size=size, layers=layers, dropout=dropout)
    except EncoderError as error:
        raise CheckpointError(f"{source}: {error}") from None


def load_text_encoder(
    source: str | Path,
    *,
    sequence_length: int | None = None,
    layers: int | None = None,
    dropout: float | None = None,
) -> LoadedText:
    """Load a published text encoder with its tokenizer and its pooling.

    Args:
        source: A folder with config.json, safetensors and vocabulary, `hf://ORG/NAME[@REVISION]`, or a KerasNLP
            BERT preset (its name, or a folder that KerasNLP wrote).
        sequence_length: Ids per text; what the model was published with when not given, which is long.
        layers: Keep only the first blocks, for studies layer by layer.
        dropout: Dropout for fine-tuning; the published one when not given.

    Returns:
        The encoder (ids to tokens), the tokenizer (texts to ids) and the pooling (tokens and mask to one
        vector).

    Raises:
        CheckpointError: The weights cannot be had, or do not fit: the message names the tensors.
    """
    try:
        if is_preset(source):
            return load_bert_preset(source, sequence_length=sequence_length, layers=layers, dropout=dropout)
        return _load_text(open_checkpoint(source), sequence_length, layers=layers, dropout=dropout)
    except EncoderError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _load_text(
    checkpoint: Checkpoint, sequence_length: int | None, *, layers: int | None, dropout: float | None
) -> LoadedText:
    family = _family(checkpoint, (*BERT, *CLIP_TEXT), "text")
    length = _sequence_length(checkpoint, sequence_length)
    if family in CLIP_TEXT:
        clip_tokenizer = load_clip_tokenizer(checkpoint, length)
        encoder, pooling = load_clip_text(checkpoint, clip_tokenizer.end_id, layers=layers, dropout=dropout)
        return encoder, clip_tokenizer, pooling
    bert = load_bert(checkpoint, layers=layers, dropout=dropout)
    tokenizer = load_wordpiece(checkpoint, length)
    if tokenizer.pad_id != bert.pad_id:  # or padding would be read as words
        raise CheckpointError(
            f"{checkpoint.source}: pad_token_id is {bert.pad_id} in config.json, but [PAD] is {tokenizer.pad_id} in the "
            "vocabulary; set it to that"
        )
    return bert, tokenizer, load_sentence_pooling(checkpoint, bert.dim)


def kinds_of(source: str | Path) -> list[str]:
    """Which encoders published weights hold: `text`, `image` or both.

    Raises:
        CheckpointError: They cannot be had, or are of a family that is not known.
    """
    if str(source) == KERAS or Path(source).suffix in (".h5", ".hdf5"):
        return ["image"]
    if is_preset(source):
        return ["text"]
    checkpoint = open_checkpoint(source)
    family = _family(checkpoint, {*BERT, *CLIP_TEXT, *IMAGE_FAMILIES}, "text or image")
    return [kind for kind, known in (("text", (*BERT, *CLIP_TEXT)), ("image", IMAGE_FAMILIES)) if family in known]


def _family(checkpoint: Checkpoint, known: Collection[str], side: str) -> str:
    """Return the model family of a checkpoint."""
    family = checkpoint.config.get("model_type", "")
    if family not in known:
        raise CheckpointError(
            f"{checkpoint.source}: model_type={family!r} is not a known {side} encoder; known are {sorted(known)}."
        )
    return family


def _sequence_length(checkpoint: Checkpoint, wanted: int | None) -> int:
    """Return how many ids a text gets: what is wanted, as far as the position embeddings reach."""
    config = checkpoint.config.get("text_config", checkpoint.config)
    positions = config.get("max_position_embeddings", 77 if "text_config" in checkpoint.config else 512)
    published = checkpoint.json("sentence_bert_config.json").get("max_seq_length") or positions
    length = wanted or min(published, positions)
    if length > positions:
        raise CheckpointError(f"{checkpoint.source}: sequence_length={length}, but the model reaches {positions} ids.")
    return length
