"""Where published weights come from: a local folder, or the Hugging Face Hub by name."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

HUB = "hf://"
WANTED = ["*.json", "*.txt", "*.safetensors"]
UNWANTED = ["onnx/*", "openvino/*", "*/onnx/*"]
DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
}

Tensors = dict[str, np.ndarray]


class CheckpointError(ValueError):
    """Published weights that cannot be read or do not fit; the message names the tensors and the fix."""


class Config(dict[str, Any]):
    """A published config; asking for what it has not is an error that says so."""

    def __init__(self, content: dict[str, Any], *, source: str):
        super().__init__(content)
        self.source = source

    def __missing__(self, name: str) -> Any:
        raise CheckpointError(f"{self.source}: config.json has no {name!r}; take the one the model was published with.")


class Checkpoint:
    """A folder of published weights: `config.json`, safetensors (whole or in shards), the tokenizer's files.

    Args:
        folder: The folder.
        source: How the caller named it, for messages.
    """

    def __init__(self, folder: Path, source: str):
        self.folder, self.source = folder, source
        self.config = Config(self.json("config.json"), source=source)
        if not self.config:
            raise CheckpointError(f"{source}: {folder} has no config.json; give the folder that holds the model.")

    def json(self, name: str) -> Any:
        """Return the content of a JSON file of the folder, or an empty dict if there is none."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not valid JSON ({error}); download the model again.") from None

    def tensors(self, folder: str = "") -> Tensors:
        """Return the tensors by name, in float32.

        Raises:
            CheckpointError: There are no safetensors, or a file of the index is missing or broken.
        """
        place = self.folder / folder
        index = self.json(str(Path(folder) / "model.safetensors.index.json"))
        names = sorted(set(index.get("weight_map", {}).values())) or ["model.safetensors"]
        missing = [name for name in names if not (place / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{self.source}: {place} has no {', '.join(missing)}. Weights are read from safetensors: "
                "save the model with save_pretrained(...), or take a revision that has them."
            )
        return {name: tensor for file in names for name, tensor in read_safetensors(place / file).items()}


def read_safetensors(path: Path) -> Tensors:
    """Return the tensors of one safetensors file, floats in float32 (NumPy has no bfloat16 of its own).

    Raises:
        CheckpointError: The file is damaged, or holds a type that no float encoder has.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); download the model again.") from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(f"{path}: tensor {name!r} has type {entry['dtype']}; convert the model to float32.")
        array = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = array if entry["dtype"] == "I64" else array.astype(np.float32)
    return tensors


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a local folder, or `hf://ORG/NAME[@REVISION]` (downloaded once, then taken from the Hub's cache).

    Raises:
        CheckpointError: The folder does not exist, or the Hub cannot be reached and the cache has no copy.
    """
    name = str(source)
    if name.startswith(HUB):
        return Checkpoint(_from_hub(name.removeprefix(HUB)), name)
    if not Path(name).is_dir():
        raise CheckpointError(
            f"{name!r} is not a folder; give one with config.json, or a Hub name such as hf://ORG/NAME."
        )
    return Checkpoint(Path(name), name)


def _from_hub(name: str) -> Path:
    """Return the local folder of a Hub model."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=WANTED, ignore_patterns=UNWANTED
        )
    # The Hub's client lets through the errors of whichever HTTP library it uses; all of them mean the same
    # here.
    except Exception as error:
        raise CheckpointError(
            f"{HUB}{name} could not be downloaded ({type(error).__name__}: {error}). Offline, download it "
            f"elsewhere (`hf download {repository} --local-dir DIR`) and give the folder instead."
        ) from error
    return Path(folder)
