"""The pooling of published sentence encoders, as sentence-transformers stores it.

`modules.json` lists the steps after the transformer: pooling, possibly a dense layer, possibly normalisation.
"""

from typing import Any

from tfrec.encoders.checkpoints.source import Checkpoint, CheckpointError
from tfrec.encoders.checkpoints.table import Row, fill, linear
from tfrec.encoders.pooling import SentencePooling

POOLING_MODES = {
    "pooling_mode_cls_token": "class",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_length",
    "pooling_mode_lasttoken": "last",
}
AFTER_POOLING: list[list[str]] = [[], ["Normalize"], ["Dense"], ["Dense", "Normalize"]]
ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": None,
    "torch.nn.modules.activation.ReLU": "relu",
}
DENSE = (Row("linear.weight", "projection.kernel", linear), Row("linear.bias", "projection.bias"))


def load_sentence_pooling(checkpoint: Checkpoint, dim: int) -> SentencePooling:
    """Return the published pooling of tokens of width `dim`; the mean of the tokens where none is published.

    Raises:
        CheckpointError: A step is not supported, or steps come in an order that is not.
    """
    modules = checkpoint.json("modules.json") or []
    steps = [(module["type"].rsplit(".", 1)[-1], module["path"]) for module in modules]
    kinds = [kind for kind, _ in steps]
    if kinds and (kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in AFTER_POOLING):
        raise CheckpointError(
            f"{checkpoint.source}: modules.json lists {kinds}; supported are Transformer and Pooling, then "
            f"nothing or one of {AFTER_POOLING[1:]}."
        )
    places = dict(steps)
    pooling = SentencePooling(
        _pooling_kind(checkpoint, places["Pooling"]) if steps else "mean",
        normalize="Normalize" in places,
        name="text_pooling",
        **(_dense(checkpoint, places["Dense"]) if "Dense" in places else {}),
    )
    pooling.build((None, None, dim))
    if pooling.projection is not None:
        variables = {"projection.kernel": pooling.projection.kernel}
        if pooling.projection_bias:
            variables["projection.bias"] = pooling.projection.bias
        fill(variables, checkpoint.tensors(places["Dense"]), DENSE[: len(variables)], source=checkpoint.source)
    return pooling


def _pooling_kind(checkpoint: Checkpoint, folder: str) -> str:
    """Return our name of the one pooling that the folder's config switches on."""
    config = checkpoint.json(f"{folder}/config.json")
    modes = [mode for mode, chosen in config.items() if mode.startswith("pooling_mode") and chosen is True]
    if len(modes) != 1 or modes[0] not in POOLING_MODES:
        raise CheckpointError(
            f"{checkpoint.source}: {folder}/config.json switches on {modes}; supported is one of "
            f"{sorted(POOLING_MODES)}."
        )
    return POOLING_MODES[modes[0]]


def _dense(checkpoint: Checkpoint, folder: str) -> dict[str, Any]:
    """Return the arguments of the projection of a dense step."""
    config = checkpoint.json(f"{folder}/config.json")
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if name not in ACTIVATIONS:
        raise CheckpointError(f"{checkpoint.source}: activation_function={name!r} of {folder} is not supported.")
    return {
        "projection_dim": config["out_features"],
        "projection_bias": config.get("bias", True),
        "projection_activation": ACTIVATIONS[name],
    }
