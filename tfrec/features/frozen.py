"""Frozen encoders of a retrieval model: run once over the catalogue for training, and again on raw content when served."""

from pathlib import Path

import tensorflow as tf

from pipelines.prepared import Prepared
from tfrec.encoders.sides import Side
from tfrec.features.store import SIDES, FeatureError, SideFeatures, SideStore, content_keys, stored_sides
from tfrec.features.writer import FeatureWriter
from tfrec.retrieval.assets import Assets, is_frozen
from tfrec.retrieval.config import ModelConfig, RetrievalConfig


def frozen_sides(model: ModelConfig, assets: Assets) -> dict[str, Side]:
    """The published encoders that stay as they are, by `text` and `image`."""
    found: dict[str, Side] = {}
    if assets.text and is_frozen(model.text):
        found["text"] = assets.text
    if assets.image and is_frozen(model.image):
        found["image"] = assets.image
    return found


def frozen_features(
    config: RetrievalConfig, prepared: Prepared, assets: Assets, run_dir: Path
) -> dict[str, SideFeatures]:
    """The catalogue as the frozen encoders see it: from the store that the configuration names, else from the run's own,
    which is made here where it is absent.

    Raises:
        FeatureError: the store is not there, of another encoder or in another form, or lacks items.
    """
    stores = stored_sides(Path(config.features)) if config.features else {}
    found = {}
    for name, side in frozen_sides(config.model, assets).items():
        pooled = getattr(config.model, name).pooled or not config.model.item.deep  # else nothing reads their tokens
        pool = config.model.image.pool if name == "image" else 1
        if name in stores:
            store, keys = stores[name], content_keys(name, prepared)
            check_store(store, side, pool=None if pooled else pool)
        else:
            writer = FeatureWriter(side, prepared, run_dir / "features", tokens=not pooled, pool=pool)
            store, keys = writer.write(), writer.keys
        found[name] = store.features(keys, pooled=pooled, data=prepared.path)
    return found


def check_store(store: SideStore, side: Side, *, pool: int | None) -> None:
    """Refuse features of another encoder, or (unless `pool` is None) of patches pooled in another way.

    Raises:
        FeatureError: they are.
    """
    if store.manifest["digest"] != side.digest:
        raise FeatureError(
            f"{store.folder} was made by another encoder ({store.manifest['source']}) than the run's ({side.source}); "
            "encode again with the run's, or train a new run"
        )
    if pool is not None and store.manifest["pool"] != pool:
        stored = store.manifest["pool"]
        raise FeatureError(
            f"{store.folder} holds patches pooled by {stored}; set model.image.pool={stored}, not {pool}"
        )


class FrozenEncoders(tf.Module):
    """What the store holds, computed from raw content: so that new items and searches are encoded like the catalogue.

    Args:
        model: the model's configuration.
        assets: with the encoders.
    """

    def __init__(self, model: ModelConfig, assets: Assets):
        super().__init__(name="frozen_encoders")
        sides = frozen_sides(model, assets)
        self.text = assets.text if "text" in sides else None
        self.image = assets.image if "image" in sides else None
        self._modules = [layer for side in sides.values() for layer in layers_of(side)]  # tf.Module tracks these
        self._pooled = {name: getattr(model, name).pooled for name in SIDES}
        self._pool = model.image.pool

    def __call__(self, inputs: dict) -> dict:
        """Add to raw inputs (`photos`, `has_photo`, `tokens`) what the item tower and the shallow tower read instead."""
        inputs = dict(inputs)
        if self.text is not None:
            tokens, mask, vectors = self.text.encode(inputs["tokens"])
            if self._pooled["text"]:
                tokens, mask = vectors[:, None], tf.reduce_any(mask, 1, keepdims=True)
            inputs |= {"text_tokens": tokens, "text_mask": mask, "text_vector": vectors}
        if self.image is not None:
            tokens, vectors = self.image.encode(inputs["photos"], inputs["has_photo"], self._pool)
            inputs |= {"photo_tokens": vectors[:, None] if self._pooled["image"] else tokens, "photo_vector": vectors}
        return inputs


def layers_of(side: Side) -> list[tf.keras.layers.Layer]:
    """The layers of a side that hold weights."""
    return [layer for layer in (side.encoder, getattr(side, "pooling", None)) if layer is not None]
