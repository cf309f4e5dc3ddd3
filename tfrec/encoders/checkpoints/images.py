"""What the published image encoders say about photos: size, patches and channel statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec.encoders.checkpoints.source import Checkpoint, CheckpointError

Size = int | Sequence[int] | None
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def side_lengths(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a size given as one number or two."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def grid_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return rows and columns of patches of a published config."""
    height, width = side_lengths(config["image_size"])
    return height // config["patch_size"], width // config["patch_size"]


def photo_statistics(checkpoint: Checkpoint, mean: Sequence[float], std: Sequence[float]) -> Statistics:
    """Return the channel means and deviations of `preprocessor_config.json`, or those given where it is
    missing.

    Raises:
        CheckpointError: The preprocessing scales photos in a way the encoder does not.
    """
    settings = checkpoint.json("preprocessor_config.json")
    if abs(settings.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        factor = settings["rescale_factor"]
        raise CheckpointError(f"{checkpoint.source}: rescale_factor={factor} is not supported; only 1/255 is.")
    if settings.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(settings.get("image_mean", mean)), tuple(settings.get("image_std", std))
