"""ViT as published by Google (`google/vit-base-patch16-224` and its sizes)."""

from tfrec.encoders.blocks import named_variables
from tfrec.encoders.checkpoints.images import Size, grid_of, photo_statistics, side_lengths
from tfrec.encoders.checkpoints.positions import resize_positions
from tfrec.encoders.checkpoints.source import Checkpoint
from tfrec.encoders.checkpoints.table import (
    Row,
    activation_of,
    checked_layers,
    convolution,
    fill,
    first_layers,
    linear,
    with_blocks,
    without_prefix,
)
from tfrec.encoders.image import HALF, ViTEncoder

POSITIONS = "embeddings.position_embeddings"
EMBEDDINGS = (
    Row("embeddings.cls_token", "class_token"),
    Row(POSITIONS, "position_embedding"),
    Row("embeddings.patch_embeddings.projection.weight", "patch.kernel", convolution),
    Row("embeddings.patch_embeddings.projection.bias", "patch.bias"),
    Row("layernorm.weight", "layer_norm.gamma"),
    Row("layernorm.bias", "layer_norm.beta"),
)
BLOCK = (
    Row("encoder.layer.{n}.layernorm_before.weight", "block.{n}.attention_norm.gamma"),
    Row("encoder.layer.{n}.layernorm_before.bias", "block.{n}.attention_norm.beta"),
    Row("encoder.layer.{n}.attention.attention.query.weight", "block.{n}.query.kernel", linear),
    Row("encoder.layer.{n}.attention.attention.query.bias", "block.{n}.query.bias"),
    Row("encoder.layer.{n}.attention.attention.key.weight", "block.{n}.key.kernel", linear),
    Row("encoder.layer.{n}.attention.attention.key.bias", "block.{n}.key.bias"),
    Row("encoder.layer.{n}.attention.attention.value.weight", "block.{n}.value.kernel", linear),
    Row("encoder.layer.{n}.attention.attention.value.bias", "block.{n}.value.bias"),
    Row("encoder.layer.{n}.attention.output.dense.weight", "block.{n}.output.kernel", linear),
    Row("encoder.layer.{n}.attention.output.dense.bias", "block.{n}.output.bias"),
    Row("encoder.layer.{n}.layernorm_after.weight", "block.{n}.feed_forward_norm.gamma"),
    Row("encoder.layer.{n}.layernorm_after.bias", "block.{n}.feed_forward_norm.beta"),
    Row("encoder.layer.{n}.intermediate.dense.weight", "block.{n}.feed_forward_in.kernel", linear),
    Row("encoder.layer.{n}.intermediate.dense.bias", "block.{n}.feed_forward_in.bias"),
    Row("encoder.layer.{n}.output.dense.weight", "block.{n}.feed_forward_out.kernel", linear),
    Row("encoder.layer.{n}.output.dense.bias", "block.{n}.feed_forward_out.bias"),
)
IGNORED = ("classifier.", "pooler.")


def load_vit(
    checkpoint: Checkpoint, *, size: Size = None, layers: int | None = None, dropout: float | None = None
) -> ViTEncoder:
    """Build a ViT from published weights, for photos of `size`; `layers` keeps only the first blocks."""
    config, source = checkpoint.config, checkpoint.source
    mean, std = photo_statistics(checkpoint, HALF, HALF)
    layers = checked_layers(layers, config["num_hidden_layers"], source)
    encoder = ViTEncoder(
        size=side_lengths(config["image_size"] if size is None else size),
        patch=config["patch_size"],
        dim=config["hidden_size"],
        layers=layers,
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        dropout=config.get("hidden_dropout_prob", 0.0) if dropout is None else dropout,
        mean=mean,
        std=std,
        activation=activation_of(config, source),
        epsilon=config.get("layer_norm_eps", 1e-12),
        name="image_encoder",
    )
    encoder.build(None)
    tensors = first_layers(
        without_prefix(checkpoint.tensors(), "vit."), "encoder.layer.{n}.", layers, config["num_hidden_layers"]
    )
    if POSITIONS in tensors:
        tensors[POSITIONS] = resize_positions(tensors[POSITIONS], grid_of(config), encoder.grid)
    fill(
        named_variables(encoder),
        tensors,
        with_blocks(EMBEDDINGS, BLOCK, layers),
        source=source,
        ignored=IGNORED,
    )
    return encoder
