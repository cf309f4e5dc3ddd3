"""ResNet-50: Hugging Face's `microsoft/resnet-50` (v1.5), and tf.keras.applications' ImageNet weights (v1)."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrec.encoders.checkpoints.images import Size, photo_statistics, side_lengths
from tfrec.encoders.checkpoints.source import Checkpoint, CheckpointError, Tensors
from tfrec.encoders.checkpoints.table import Row, convolution, fill, without_prefix
from tfrec.encoders.image import IMAGENET_MEAN, IMAGENET_STD
from tfrec.encoders.resnet import ResNetEncoder

KERAS = "keras://resnet50"
# tf.keras.applications subtracts ImageNet's mean from photos in 0..255 and does not scale them.
KERAS_MEAN, KERAS_STD = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)

NORM = (("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance"))
IGNORED = ("classifier.",)


def load_resnet(
    checkpoint: Checkpoint, *, size: Size = None, layers: int | None = None, dropout: float | None = None
) -> ResNetEncoder:
    """Build a ResNet with bottleneck blocks from Hugging Face's weights, for photos of `size` (224 if not given).

    Raises:
        CheckpointError: The weights do not fit, the variant is another one, or `layers` or `dropout` is asked for.
    """
    config, source = checkpoint.config, checkpoint.source
    _refuse(layers, dropout, source)
    for name, wanted in (
        ("layer_type", "bottleneck"),
        ("hidden_act", "relu"),
        ("downsample_in_first_stage", False),
    ):
        if config.get(name, wanted) != wanted:
            raise CheckpointError(f"{source}: {name}={config[name]!r} is not supported; only {wanted!r} is.")
    mean, std = photo_statistics(checkpoint, IMAGENET_MEAN, IMAGENET_STD)
    encoder = ResNetEncoder(
        size=side_lengths(224 if size is None else size),
        depths=config["depths"],
        widths=config["hidden_sizes"],
        stem_width=config["embedding_size"],
        stride_first=config.get("downsample_in_bottleneck", False),
        mean=mean,
        std=std,
        name="image_encoder",
    )
    encoder.build(None)
    tensors = without_prefix(checkpoint.tensors(), "resnet.")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    fill(named_maps(encoder), tensors, _hugging_face_rows(encoder), source=source, ignored=IGNORED)
    return encoder


def _hugging_face_rows(encoder: ResNetEncoder) -> list[Row]:
    """Return the table of Hugging Face's names."""
    places = [("embedder.embedder", "stem")]
    for stage, depth in enumerate(encoder.depths):
        for number in range(depth):
            theirs, ours = f"encoder.stages.{stage}.layers.{number}", f"stage.{stage}.block.{number}"
            places += [(f"{theirs}.layer.{part}", f"{ours}.{part}") for part in range(3)]
            places += [(f"{theirs}.shortcut", f"{ours}.shortcut")] if number == 0 else []
    rows = [Row(f"{theirs}.convolution.weight", f"{ours}.kernel", convolution) for theirs, ours in places]
    rows += [
        Row(f"{theirs}.normalization.{published}", f"{ours}.{name}")
        for theirs, ours in places
        for published, name in NORM
    ]
    return rows


def load_keras_resnet50(
    source: str | Path, *, size: Size = None, layers: int | None = None, dropout: float | None = None
) -> ResNetEncoder:
    """Build a ResNet-50 from tf.keras.applications' weights: `keras://resnet50` (downloaded) or an `.h5` file.

    Raises:
        CheckpointError: The weights cannot be had, or `layers` or `dropout` is asked for.
    """
    _refuse(layers, dropout, str(source))
    weights = "imagenet" if str(source) == KERAS else str(source)
    try:
        model = tf.keras.applications.ResNet50(include_top=False, weights=weights)
    # Keras lets through whatever the download or the file's reader raises.
    except Exception as error:
        raise CheckpointError(
            f"{source}: no ResNet50 weights without its top could be read ({type(error).__name__}: {error}). Offline, "
            "give the path of resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5."
        ) from error
    encoder = ResNetEncoder(
        size=side_lengths(224 if size is None else size),
        stride_first=True,
        bias=True,
        epsilon=1.001e-5,
        mean=KERAS_MEAN,
        std=KERAS_STD,
        name="image_encoder",
    )
    encoder.build(None)
    rows = _keras_rows(encoder)
    tensors: Tensors = {
        f"{layer.name}/{_short(variable)}": variable.numpy() for layer in model.layers for variable in layer.weights
    }
    fill(named_maps(encoder), tensors, rows, source=str(source))
    return encoder


def _keras_rows(encoder: ResNetEncoder) -> list[Row]:
    """Return the table of tf.keras.applications' names: parts 1, 2, 3 of a block, and 0 for its shortcut."""
    places = [("conv1", "stem")]
    for stage, depth in enumerate(encoder.depths):
        for number in range(depth):
            theirs, ours = f"conv{stage + 2}_block{number + 1}", f"stage.{stage}.block.{number}"
            places += [(f"{theirs}_{part + 1}", f"{ours}.{part}") for part in range(3)]
            places += [(f"{theirs}_0", f"{ours}.shortcut")] if number == 0 else []
    rows = []
    for theirs, ours in places:
        # Photos come in as red, green, blue; these weights expect blue first.
        rows.append(Row(f"{theirs}_conv/kernel", f"{ours}.kernel", _blue_last if ours == "stem" else np.asarray))
        rows.append(Row(f"{theirs}_conv/bias", f"{ours}.bias"))
        rows += [Row(f"{theirs}_bn/{published}", f"{ours}.{name}") for published, name in KERAS_NORM]
    return rows


KERAS_NORM = (("gamma", "gamma"), ("beta", "beta"), ("moving_mean", "mean"), ("moving_variance", "variance"))


def _blue_last(kernel: np.ndarray) -> np.ndarray:
    """Reverse the input channels of a kernel `[height, width, in, out]`."""
    return kernel[:, :, ::-1]


def named_maps(encoder: ResNetEncoder) -> dict[str, tf.Variable]:
    """Return all variables of a built ResNet by names such as `stage.1.block.0.2.kernel`."""
    named = _pair("stem", encoder.stem_convolution, encoder.stem_norm)
    for block in encoder.blocks:
        _, stage, _, number = block.name.split("_")
        place = f"stage.{stage}.block.{number}"
        for part, (layer, norm) in enumerate(zip(block.convolutions, block.norms)):
            named.update(_pair(f"{place}.{part}", layer, norm))
        if block.shortcut:
            named.update(_pair(f"{place}.shortcut", block.shortcut_convolution, block.shortcut_norm))
    return named


def _pair(name: str, layer: tf.keras.layers.Layer, norm: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
    """Return the variables of a convolution and its normalisation."""
    variables = [*layer.weights, *norm.weights]
    return {f"{name}.{_short(variable).removeprefix('moving_')}": variable for variable in variables}


def _short(variable: tf.Variable) -> str:
    """Return the last part of a variable's name."""
    return variable.name.split("/")[-1].removesuffix(":0")


def _refuse(layers: int | None, dropout: float | None, source: str) -> None:
    """Refuse arguments that only transformers have."""
    if layers is not None or dropout:
        raise CheckpointError(f"{source}: layers={layers}, dropout={dropout}: a ResNet has neither; leave them out.")
