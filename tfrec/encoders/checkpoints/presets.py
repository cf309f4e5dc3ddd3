"""KerasNLP's BERT presets, read from their files.

KerasNLP itself loads a preset's weights only under the Keras that wrote them: Keras 3 drops the underscore of private
layers' names in the file, Keras 2 keeps it. The names are brought to one form here and go through a table.
"""

import json
import re
from pathlib import Path

import h5py
import numpy as np

from pipelines import keras_packages
from tfrec.encoders.blocks import named_variables
from tfrec.encoders.checkpoints.source import CheckpointError, Tensors
from tfrec.encoders.checkpoints.table import Row, checked_layers, fill, first_layers, with_blocks
from tfrec.encoders.pooling import SentencePooling
from tfrec.encoders.text import BertEncoder, WordPiece, read_vocabulary

KAGGLE = "kaggle://"
EMBEDDINGS = (
    Row("token_embedding/vars/0", "token_embedding"),
    Row("position_embedding/vars/0", "position_embedding"),
    Row("segment_embedding/vars/0", "segment_embedding"),
    Row("embeddings_layer_norm/vars/0", "layer_norm.gamma"),
    Row("embeddings_layer_norm/vars/1", "layer_norm.beta"),
)
BLOCK = (
    Row("transformer_layer_{n}/self_attention_layer/query_dense/vars/0", "block.{n}.query.kernel"),
    Row("transformer_layer_{n}/self_attention_layer/query_dense/vars/1", "block.{n}.query.bias"),
    Row("transformer_layer_{n}/self_attention_layer/key_dense/vars/0", "block.{n}.key.kernel"),
    Row("transformer_layer_{n}/self_attention_layer/key_dense/vars/1", "block.{n}.key.bias"),
    Row("transformer_layer_{n}/self_attention_layer/value_dense/vars/0", "block.{n}.value.kernel"),
    Row("transformer_layer_{n}/self_attention_layer/value_dense/vars/1", "block.{n}.value.bias"),
    Row("transformer_layer_{n}/self_attention_layer/output_dense/vars/0", "block.{n}.output.kernel"),
    Row("transformer_layer_{n}/self_attention_layer/output_dense/vars/1", "block.{n}.output.bias"),
    Row("transformer_layer_{n}/self_attention_layer_norm/vars/0", "block.{n}.attention_norm.gamma"),
    Row("transformer_layer_{n}/self_attention_layer_norm/vars/1", "block.{n}.attention_norm.beta"),
    Row("transformer_layer_{n}/feedforward_intermediate_dense/vars/0", "block.{n}.feed_forward_in.kernel"),
    Row("transformer_layer_{n}/feedforward_intermediate_dense/vars/1", "block.{n}.feed_forward_in.bias"),
    Row("transformer_layer_{n}/feedforward_output_dense/vars/0", "block.{n}.feed_forward_out.kernel"),
    Row("transformer_layer_{n}/feedforward_output_dense/vars/1", "block.{n}.feed_forward_out.bias"),
    Row("transformer_layer_{n}/feedforward_layer_norm/vars/0", "block.{n}.feed_forward_norm.gamma"),
    Row("transformer_layer_{n}/feedforward_layer_norm/vars/1", "block.{n}.feed_forward_norm.beta"),
)
# BERT's pooler, a head for sentence pairs.
IGNORED = ("pooled_dense/",)
# Files name layers by their own name or by their class.
BY_CLASS = {
    "reversible_embedding": "token_embedding",
    "embedding": "segment_embedding",
    "layer_normalization": "embeddings_layer_norm",
    "dense": "pooled_dense",
}


def is_preset(source: str | Path) -> bool:
    """Whether a source is a KerasNLP preset: a known name, a Kaggle handle, or a folder that KerasNLP wrote."""
    name = str(source)
    config = Path(name) / "config.json"
    if config.is_file():
        return '"registered_name"' in config.read_text(encoding="utf-8")
    return name.startswith(KAGGLE) or name in keras_packages.keras_nlp.models.BertBackbone.presets


def load_bert_preset(
    source: str | Path, *, sequence_length: int | None, layers: int | None, dropout: float | None
) -> tuple[BertEncoder, WordPiece, SentencePooling]:
    """Build the BERT of a KerasNLP preset, its tokenizer, and mean pooling.

    Raises:
        CheckpointError: The preset cannot be downloaded, is no BERT, or does not fit.
    """
    name, folder = str(source), _folder(str(source))
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if saved["class_name"] != "BertBackbone":
        raise CheckpointError(f"{name}: a preset of {saved['class_name']}; only BertBackbone is supported.")
    config = saved["config"]
    most = config["max_sequence_length"]
    if sequence_length is not None and not 2 <= sequence_length <= most:
        raise CheckpointError(f"{name}: {sequence_length} ids per text, but the encoder reads 2 to {most}.")
    layers = checked_layers(layers, config["num_layers"], name)
    encoder = BertEncoder(
        vocabulary_size=config["vocabulary_size"],
        dim=config["hidden_dim"],
        layers=layers,
        heads=config["num_heads"],
        mlp_dim=config["intermediate_dim"],
        max_length=most,
        dropout=config["dropout"] if dropout is None else dropout,
        activation="gelu_tanh",
        segments=config["num_segments"],
        name="text_encoder",
    )
    encoder.build(None)
    tensors = first_layers(
        _read_weights(folder / "model.weights.h5"), "transformer_layer_{n}/", layers, config["num_layers"]
    )
    rows = with_blocks(EMBEDDINGS, BLOCK, layers)
    fill(named_variables(encoder), tensors, rows, source=name, ignored=IGNORED)
    return (
        encoder,
        _tokenizer(folder, sequence_length or most),
        SentencePooling("mean", name="text_pooling"),
    )


def _folder(name: str) -> Path:
    """Return the folder of a preset, downloaded from Kaggle (and cached) unless it is one.

    Raises:
        CheckpointError: The download failed.
    """
    if Path(name).is_dir():
        return Path(name)
    import kagglehub

    handle = (
        name if name.startswith(KAGGLE) else keras_packages.keras_nlp.models.BertBackbone.presets[name]["kaggle_handle"]
    )
    try:
        return Path(kagglehub.model_download(handle.removeprefix(KAGGLE)))
    # The client lets through the errors of whichever HTTP library it uses; all of them mean the same here.
    except Exception as error:
        raise CheckpointError(
            f"KerasNLP preset {name!r} could not be downloaded ({type(error).__name__}: {error}). Offline, download "
            f"{handle} elsewhere and give the folder instead."
        ) from error


def _read_weights(path: Path) -> Tensors:
    """Return the arrays of a Keras weights file by names in one form, whichever Keras wrote it."""
    tensors: Tensors = {}

    def keep(name: str, entry: h5py.Group | h5py.Dataset) -> None:
        if isinstance(entry, h5py.Dataset):
            tensors[_one_form(name)] = np.asarray(entry)

    with h5py.File(path) as file:
        file.visititems(keep)
    return tensors


def _one_form(name: str) -> str:
    """Return a file's name without private underscores, its layer called by the layer's own name."""
    parts = [part.lstrip("_") for part in name.split("/")]
    if parts[0] in ("layers", "layer_checkpoint_dependencies"):
        del parts[0]
    parts[0] = BY_CLASS.get(parts[0], parts[0])
    if block := re.fullmatch(r"transformer_encoder(?:_(\d+))?", parts[0]):
        parts[0] = f"transformer_layer_{block[1] or 0}"
    return "/".join(parts)


def _tokenizer(folder: Path, sequence_length: int) -> WordPiece:
    """Return the preset's tokenizer; KerasNLP strips accents only where its config says so."""
    config = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["config"]
    return WordPiece(
        read_vocabulary(folder / "assets" / "tokenizer" / "vocabulary.txt"),
        sequence_length=sequence_length,
        lowercase=config["lowercase"],
        strip_accents=config.get("strip_accents", False),
    )
