"""BERT and the sentence encoders of its shape: MiniLM, BGE, E5, GTE, LaBSE, multilingual BERT."""

from tfrec.encoders.blocks import named_variables
from tfrec.encoders.checkpoints.source import Checkpoint, CheckpointError, Tensors
from tfrec.encoders.checkpoints.table import (
    Row,
    activation_of,
    checked_layers,
    fill,
    first_layers,
    linear,
    with_blocks,
    without_prefix,
)
from tfrec.encoders.text import BertEncoder

EMBEDDINGS = (
    Row("embeddings.word_embeddings.weight", "token_embedding"),
    Row("embeddings.position_embeddings.weight", "position_embedding"),
    Row("embeddings.token_type_embeddings.weight", "segment_embedding"),
    Row("embeddings.LayerNorm.weight", "layer_norm.gamma"),
    Row("embeddings.LayerNorm.bias", "layer_norm.beta"),
)
BLOCK = (
    Row("encoder.layer.{n}.attention.self.query.weight", "block.{n}.query.kernel", linear),
    Row("encoder.layer.{n}.attention.self.query.bias", "block.{n}.query.bias"),
    Row("encoder.layer.{n}.attention.self.key.weight", "block.{n}.key.kernel", linear),
    Row("encoder.layer.{n}.attention.self.key.bias", "block.{n}.key.bias"),
    Row("encoder.layer.{n}.attention.self.value.weight", "block.{n}.value.kernel", linear),
    Row("encoder.layer.{n}.attention.self.value.bias", "block.{n}.value.bias"),
    Row("encoder.layer.{n}.attention.output.dense.weight", "block.{n}.output.kernel", linear),
    Row("encoder.layer.{n}.attention.output.dense.bias", "block.{n}.output.bias"),
    Row("encoder.layer.{n}.attention.output.LayerNorm.weight", "block.{n}.attention_norm.gamma"),
    Row("encoder.layer.{n}.attention.output.LayerNorm.bias", "block.{n}.attention_norm.beta"),
    Row("encoder.layer.{n}.intermediate.dense.weight", "block.{n}.feed_forward_in.kernel", linear),
    Row("encoder.layer.{n}.intermediate.dense.bias", "block.{n}.feed_forward_in.bias"),
    Row("encoder.layer.{n}.output.dense.weight", "block.{n}.feed_forward_out.kernel", linear),
    Row("encoder.layer.{n}.output.dense.bias", "block.{n}.feed_forward_out.bias"),
    Row("encoder.layer.{n}.output.LayerNorm.weight", "block.{n}.feed_forward_norm.gamma"),
    Row("encoder.layer.{n}.output.LayerNorm.bias", "block.{n}.feed_forward_norm.beta"),
)
# Heads for pre-training and classification, and a constant that old files carry.
IGNORED = ("cls.", "pooler.", "classifier.", "embeddings.position_ids")


def load_bert(checkpoint: Checkpoint, *, layers: int | None = None, dropout: float | None = None) -> BertEncoder:
    """Build a BERT from published weights; `layers` keeps only the first blocks.

    Raises:
        CheckpointError: The weights do not fit, or the model is a variant of BERT that the encoder is not.
    """
    config, source = checkpoint.config, checkpoint.source
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise CheckpointError(f"{source}: position_embedding_type={kind!r} is not supported; only 'absolute' is.")
    layers = checked_layers(layers, config["num_hidden_layers"], source)
    encoder = BertEncoder(
        vocabulary_size=config["vocab_size"],
        dim=config["hidden_size"],
        layers=layers,
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        max_length=config.get("max_position_embeddings", 512),
        dropout=config.get("hidden_dropout_prob", 0.1) if dropout is None else dropout,
        activation=activation_of(config, source),
        epsilon=config.get("layer_norm_eps", 1e-12),
        segments=config.get("type_vocab_size", 2),
        pad_id=config.get("pad_token_id") or 0,
        name="text_encoder",
    )
    encoder.build(None)
    tensors = first_layers(
        _modern_names(checkpoint.tensors()), "encoder.layer.{n}.", layers, config["num_hidden_layers"]
    )
    fill(
        named_variables(encoder),
        tensors,
        with_blocks(EMBEDDINGS, BLOCK, layers),
        source=source,
        ignored=IGNORED,
    )
    return encoder


def _modern_names(tensors: Tensors) -> Tensors:
    """Return the tensors without the prefix of models with heads, LayerNorm's named as in PyTorch."""
    renamed = {}
    for name, tensor in without_prefix(tensors, "bert.").items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        renamed[name] = tensor
    return renamed
