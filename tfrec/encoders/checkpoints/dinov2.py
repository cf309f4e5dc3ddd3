"""DINOv2 ViT-S/B/L (`facebook/dinov2-small` and its sizes).

Its layer scale multiplies the output of the attention and of the feed-forward part by a vector; both end in a
linear layer, so the vector is multiplied into that layer's weights and the bricks stay the same.
"""

from tfrec.encoders.blocks import named_variables
from tfrec.encoders.checkpoints.images import Size, grid_of, photo_statistics, side_lengths
from tfrec.encoders.checkpoints.positions import resize_positions
from tfrec.encoders.checkpoints.source import Checkpoint, CheckpointError, Tensors
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
from tfrec.encoders.image import IMAGENET_MEAN, IMAGENET_STD, ViTEncoder

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
    Row("encoder.layer.{n}.norm1.weight", "block.{n}.attention_norm.gamma"),
    Row("encoder.layer.{n}.norm1.bias", "block.{n}.attention_norm.beta"),
    Row("encoder.layer.{n}.attention.attention.query.weight", "block.{n}.query.kernel", linear),
    Row("encoder.layer.{n}.attention.attention.query.bias", "block.{n}.query.bias"),
    Row("encoder.layer.{n}.attention.attention.key.weight", "block.{n}.key.kernel", linear),
    Row("encoder.layer.{n}.attention.attention.key.bias", "block.{n}.key.bias"),
    Row("encoder.layer.{n}.attention.attention.value.weight", "block.{n}.value.kernel", linear),
    Row("encoder.layer.{n}.attention.attention.value.bias", "block.{n}.value.bias"),
    Row("encoder.layer.{n}.attention.output.dense.weight", "block.{n}.output.kernel", linear),
    Row("encoder.layer.{n}.attention.output.dense.bias", "block.{n}.output.bias"),
    Row("encoder.layer.{n}.norm2.weight", "block.{n}.feed_forward_norm.gamma"),
    Row("encoder.layer.{n}.norm2.bias", "block.{n}.feed_forward_norm.beta"),
    Row("encoder.layer.{n}.mlp.fc1.weight", "block.{n}.feed_forward_in.kernel", linear),
    Row("encoder.layer.{n}.mlp.fc1.bias", "block.{n}.feed_forward_in.bias"),
    Row("encoder.layer.{n}.mlp.fc2.weight", "block.{n}.feed_forward_out.kernel", linear),
    Row("encoder.layer.{n}.mlp.fc2.bias", "block.{n}.feed_forward_out.bias"),
)
# Vector of the layer scale, and the linear layer it is multiplied into.
LAYER_SCALES = (
    ("encoder.layer.{n}.layer_scale1.lambda1", "encoder.layer.{n}.attention.output.dense"),
    ("encoder.layer.{n}.layer_scale2.lambda1", "encoder.layer.{n}.mlp.fc2"),
)
IGNORED = ("classifier.", "embeddings.mask_token")


def load_dinov2(
    checkpoint: Checkpoint, *, size: Size = None, layers: int | None = None, dropout: float | None = None
) -> ViTEncoder:
    """Build a DINOv2 from published weights; `layers` keeps only the first blocks.

    The published size (518) is what the position embeddings were stored at; photos are usually 224 pixels,
    which the preprocessing says and which is the default here.
    """
    config, source = checkpoint.config, checkpoint.source
    if config.get("use_swiglu_ffn"):
        raise CheckpointError(
            f"{source}: the giant DINOv2 (use_swiglu_ffn) is not supported; take small, base or large."
        )
    mean, std = photo_statistics(checkpoint, IMAGENET_MEAN, IMAGENET_STD)
    layers = checked_layers(layers, config["num_hidden_layers"], source)
    encoder = ViTEncoder(
        size=side_lengths(_crop_size(checkpoint) if size is None else size),
        patch=config["patch_size"],
        dim=config["hidden_size"],
        layers=layers,
        heads=config["num_attention_heads"],
        mlp_dim=config["hidden_size"] * config.get("mlp_ratio", 4),
        dropout=config.get("hidden_dropout_prob", 0.0) if dropout is None else dropout,
        mean=mean,
        std=std,
        activation=activation_of(config, source),
        epsilon=config.get("layer_norm_eps", 1e-6),
        name="image_encoder",
    )
    encoder.build(None)
    tensors = first_layers(
        without_prefix(checkpoint.tensors(), "dinov2."), "encoder.layer.{n}.", layers, config["num_hidden_layers"]
    )
    _fold_layer_scales(tensors, layers, source)
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


def _crop_size(checkpoint: Checkpoint) -> int | list[int]:
    """Return the photo size of the preprocessing, or the config's where it says none."""
    crop = checkpoint.json("preprocessor_config.json").get("crop_size") or {}
    return [crop["height"], crop["width"]] if "height" in crop else checkpoint.config["image_size"]


def _fold_layer_scales(tensors: Tensors, layers: int, source: str) -> None:
    """Multiply each layer scale into the linear layer before it, and take it out of the tensors."""
    for number in range(layers):
        for scale_name, layer_name in LAYER_SCALES:
            scale, layer = scale_name.format(n=number), layer_name.format(n=number)
            weight, bias = f"{layer}.weight", f"{layer}.bias"
            if missing := [name for name in (scale, weight, bias) if name not in tensors]:
                raise CheckpointError(f"{source}: missing in the file: {', '.join(missing)}.")
            factors = tensors.pop(scale)
            tensors[weight] = tensors[weight] * factors[:, None]  # [out, in]
            tensors[bias] = tensors[bias] * factors
