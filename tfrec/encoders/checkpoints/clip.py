"""CLIP's image and text towers (`openai/clip-vit-base-patch32`, `-patch16`, FashionCLIP)."""

from collections.abc import Mapping
from typing import Any

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
)
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import ClipTextEncoder, SentencePooling

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
POSITIONS = "vision_model.embeddings.position_embedding.weight"
VISUAL_PROJECTION, TEXT_PROJECTION = "visual_projection.weight", "text_projection.weight"

IMAGE = (
    Row("vision_model.embeddings.class_embedding", "class_token"),
    Row(POSITIONS, "position_embedding"),
    Row("vision_model.embeddings.patch_embedding.weight", "patch.kernel", convolution),
    Row("vision_model.pre_layrnorm.weight", "pre_layer_norm.gamma"),
    Row("vision_model.pre_layrnorm.bias", "pre_layer_norm.beta"),
    Row("vision_model.post_layernorm.weight", "layer_norm.gamma"),
    Row("vision_model.post_layernorm.bias", "layer_norm.beta"),
)
TEXT = (
    Row("text_model.embeddings.token_embedding.weight", "token_embedding"),
    Row("text_model.embeddings.position_embedding.weight", "position_embedding"),
    Row("text_model.final_layer_norm.weight", "layer_norm.gamma"),
    Row("text_model.final_layer_norm.bias", "layer_norm.beta"),
)
# Below `vision_model.` and `text_model.` alike.
BLOCK = (
    Row("encoder.layers.{n}.layer_norm1.weight", "block.{n}.attention_norm.gamma"),
    Row("encoder.layers.{n}.layer_norm1.bias", "block.{n}.attention_norm.beta"),
    Row("encoder.layers.{n}.self_attn.q_proj.weight", "block.{n}.query.kernel", linear),
    Row("encoder.layers.{n}.self_attn.q_proj.bias", "block.{n}.query.bias"),
    Row("encoder.layers.{n}.self_attn.k_proj.weight", "block.{n}.key.kernel", linear),
    Row("encoder.layers.{n}.self_attn.k_proj.bias", "block.{n}.key.bias"),
    Row("encoder.layers.{n}.self_attn.v_proj.weight", "block.{n}.value.kernel", linear),
    Row("encoder.layers.{n}.self_attn.v_proj.bias", "block.{n}.value.bias"),
    Row("encoder.layers.{n}.self_attn.out_proj.weight", "block.{n}.output.kernel", linear),
    Row("encoder.layers.{n}.self_attn.out_proj.bias", "block.{n}.output.bias"),
    Row("encoder.layers.{n}.layer_norm2.weight", "block.{n}.feed_forward_norm.gamma"),
    Row("encoder.layers.{n}.layer_norm2.bias", "block.{n}.feed_forward_norm.beta"),
    Row("encoder.layers.{n}.mlp.fc1.weight", "block.{n}.feed_forward_in.kernel", linear),
    Row("encoder.layers.{n}.mlp.fc1.bias", "block.{n}.feed_forward_in.bias"),
    Row("encoder.layers.{n}.mlp.fc2.weight", "block.{n}.feed_forward_out.kernel", linear),
    Row("encoder.layers.{n}.mlp.fc2.bias", "block.{n}.feed_forward_out.bias"),
)
IMAGE_BLOCK = [row._replace(published=f"vision_model.{row.published}") for row in BLOCK]
TEXT_BLOCK = [row._replace(published=f"text_model.{row.published}") for row in BLOCK]
# The other tower, the temperature, and a constant that old files carry.
NOT_IMAGE = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids")
NOT_TEXT = ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.position_ids")

# What a config leaves out has the value of the first CLIP, ViT-B/32.
IMAGE_DEFAULTS = {
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
}


def load_clip_image(
    checkpoint: Checkpoint, *, size: Size = None, layers: int | None = None, dropout: float | None = None
) -> ViTEncoder:
    """Build CLIP's image tower; `pooled` gives the vector that CLIP compares with texts (not normalised)."""
    config = {**IMAGE_DEFAULTS, **checkpoint.config.get("vision_config", checkpoint.config)}
    source = checkpoint.source
    tensors = checkpoint.tensors()
    mean, std = photo_statistics(checkpoint, CLIP_MEAN, CLIP_STD)
    layers = checked_layers(layers, config["num_hidden_layers"], source)
    projected = VISUAL_PROJECTION in tensors
    encoder = ViTEncoder(
        size=side_lengths(config["image_size"] if size is None else size),
        patch=config["patch_size"],
        pre_norm=True,
        mean=mean,
        std=std,
        projection_dim=tensors[VISUAL_PROJECTION].shape[0] if projected else None,
        name="image_encoder",
        **_transformer(config, layers, dropout, source),
    )
    encoder.build(None)
    if POSITIONS in tensors:
        tensors[POSITIONS] = resize_positions(tensors[POSITIONS], grid_of(config), encoder.grid)
    rows = with_blocks(IMAGE, IMAGE_BLOCK, layers)
    if projected:
        rows.append(Row(VISUAL_PROJECTION, "projection.kernel", linear))
    tensors = first_layers(tensors, "vision_model.encoder.layers.{n}.", layers, config["num_hidden_layers"])
    fill(named_variables(encoder), tensors, rows, source=source, ignored=NOT_IMAGE, zeros=["patch.bias"])
    return encoder


def load_clip_text(
    checkpoint: Checkpoint, end_id: int, *, layers: int | None = None, dropout: float | None = None
) -> tuple[ClipTextEncoder, SentencePooling]:
    """Build CLIP's text tower, and the pooling whose vector CLIP compares with photos (not normalised).

    `end_id` is the tokenizer's `<|endoftext|>`: the configs of the first CLIPs carry a wrong one.
    """
    config = {**TEXT_DEFAULTS, **checkpoint.config.get("text_config", checkpoint.config)}
    source = checkpoint.source
    tensors = checkpoint.tensors()
    layers = checked_layers(layers, config["num_hidden_layers"], source)
    encoder = ClipTextEncoder(
        vocabulary_size=config["vocab_size"],
        max_length=config["max_position_embeddings"],
        end_id=end_id,
        name="text_encoder",
        **_transformer(config, layers, dropout, source),
    )
    encoder.build(None)
    variables, rows = named_variables(encoder), with_blocks(TEXT, TEXT_BLOCK, layers)
    pooling = SentencePooling("last", name="text_pooling")
    if TEXT_PROJECTION in tensors:
        width = tensors[TEXT_PROJECTION].shape[0]
        pooling = SentencePooling("last", projection_dim=width, name="text_pooling")
        pooling.build((None, None, config["hidden_size"]))
        (variables["projection.kernel"],) = pooling.weights
        rows.append(Row(TEXT_PROJECTION, "projection.kernel", linear))
    tensors = first_layers(tensors, "text_model.encoder.layers.{n}.", layers, config["num_hidden_layers"])
    fill(variables, tensors, rows, source=source, ignored=NOT_TEXT)
    return encoder, pooling


def _transformer(config: Mapping[str, Any], layers: int, dropout: float | None, source: str) -> dict[str, Any]:
    """Return the arguments that both towers share."""
    return {
        "dim": config["hidden_size"],
        "layers": layers,
        "heads": config["num_attention_heads"],
        "mlp_dim": config["intermediate_size"],
        "dropout": config.get("attention_dropout", 0.0) if dropout is None else dropout,
        "activation": activation_of(config, source, "quick_gelu"),
        "epsilon": config.get("layer_norm_eps", 1e-5),
    }
